//! Who asks: a backend with its API key, and what the key opens.

use std::rc::Rc;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;
use tidegate_auth::{ApiKey, Scope};
use tidegate_types::{ErrorCode, Namespace, RoomName, TenantId};

use super::refused::Refused;
use super::request;
use crate::across::{FOR_KEY, Question};
use crate::connection::NamespaceSocket;
use crate::http::{bearer, header};
use crate::node::{SpaceCell, now_ms};
use crate::shard::Shard;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A backend that has shown its key.
#[derive(Clone)]
pub(super) struct Caller {
    pub key: ApiKey,
    /// Another node of the cluster asks in its place, for this node's own part of the answer.
    is_peer: bool,
}

impl Caller {
    /// `is_peer`: as [`crate::Client::is_peer`].
    pub fn of(shard: &Shard, headers: &HeaderMap, is_peer: bool) -> Result<Self, Refused> {
        if let (true, Some(id)) = (is_peer, headers.get(&FOR_KEY)) {
            // The asking node has seen the secret.
            let key = std::str::from_utf8(id.as_bytes()).ok().and_then(|id| shard.node.settings.api_keys.named(id));
            let unknown = || Refused::new(ErrorCode::Unauthorized, "This node has no API key of that id");
            return Ok(Self { key: key.ok_or_else(unknown)?.clone(), is_peer });
        }
        let secret = header(headers, &API_KEY).or_else(|| bearer(headers));
        let secret = secret.ok_or_else(|| {
            Refused::new(
                ErrorCode::Unauthorized,
                "An API key is required: Authorization: Bearer KEY, or X-Api-Key: KEY",
            )
        })?;
        match shard.node.settings.api_keys.find(secret) {
            Some(key) => Ok(Self { key: key.clone(), is_peer: false }),
            None => Err(Refused::new(ErrorCode::Unauthorized, "Invalid API key")),
        }
    }

    /// Counts requests against the key's rate.
    pub fn pay(&self, shard: &Shard, requests: u32) -> Result<(), Refused> {
        // Paid for where it was asked.
        if self.is_peer {
            return Ok(());
        }
        let paid = shard.node.key_limits.take(&self.key, requests, now_ms());
        paid.map_err(|wait| Refused::new(ErrorCode::RateLimited, "This API key is used too often").later(wait))
    }

    /// Whether the answer is to be that of all nodes of a cluster.
    pub fn asks_all(&self, shard: &Shard) -> bool {
        !self.is_peer && shard.node.cluster.is_some()
    }

    /// What the other nodes are asked in the caller's name.
    pub fn question(&self, method: Method, path: impl Into<String>, body: impl Into<Bytes>) -> Question {
        // A key whose id no header can carry is known to no peer.
        let key = HeaderValue::from_bytes(self.key.id().as_bytes()).unwrap_or(HeaderValue::from_static(""));
        Question { method, path: path.into(), body: body.into(), key }
    }

    pub fn needs(&self, scope: Scope) -> Result<(), Refused> {
        if self.key.scopes().contains(scope) {
            return Ok(());
        }
        Err(forbidden(format!("This API key lacks the scope {:?}", scope.as_str())))
    }

    /// The tenant that a request is about.
    pub fn tenant(&self, named: Option<TenantId>) -> Result<TenantId, Refused> {
        Ok(self.tenants(named)?.unwrap_or_else(TenantId::default_tenant))
    }

    /// The tenant that a listing is about; `None` if it is about all.
    pub fn tenants(&self, named: Option<TenantId>) -> Result<Option<TenantId>, Refused> {
        match (self.key.tenant(), named) {
            (Some(bound), Some(named)) if *bound != named => Err(forbidden("This API key belongs to another tenant")),
            (Some(bound), _) => Ok(Some(bound.clone())),
            (None, named) => Ok(named),
        }
    }

    pub fn namespace(&self, shard: &Shard, named: Option<&str>) -> Result<Namespace, Refused> {
        let namespace = request::namespace(shard, named)?;
        if self.key.opens_namespace(&namespace) {
            return Ok(namespace);
        }
        Err(forbidden(format!("This API key does not open the namespace {:?}", namespace.as_str())))
    }

    pub fn space(
        &self,
        shard: &Rc<Shard>,
        tenant: Option<TenantId>,
        namespace: Option<&str>,
    ) -> Result<Arc<SpaceCell>, Refused> {
        request::space(shard, self.tenant(tenant)?, self.namespace(shard, namespace)?)
    }

    pub fn room(&self, room: &RoomName) -> Result<(), Refused> {
        if self.key.opens_room(room) {
            return Ok(());
        }
        Err(forbidden(format!("This API key does not open the room {:?}", room.as_str())))
    }

    /// What concerns more than single rooms is not for a key that is confined to some.
    pub fn every_room(&self) -> Result<(), Refused> {
        if self.key.rooms().is_none() {
            return Ok(());
        }
        Err(forbidden("This API key opens some rooms only, and this concerns all"))
    }

    /// Whether a socket lies in what the key opens.
    pub fn sees(&self, socket: &NamespaceSocket) -> bool {
        let space = &socket.space.key;
        self.key.tenant().is_none_or(|tenant| *tenant == space.tenant) && self.key.opens_namespace(&space.namespace)
    }
}

fn forbidden(message: impl Into<String>) -> Refused {
    Refused::new(ErrorCode::Forbidden, message)
}
