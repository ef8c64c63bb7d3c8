//! Connections ended by a backend.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_auth::Scope;
use tidegate_types::{CloseReason, ErrorCode, Namespace, TenantId, UserId};

use super::action::Done;
use super::caller::Caller;
use super::connections::Whom;
use super::refused::Refused;
use super::request::{Parameters, name};
use crate::ask;
use crate::connection::Conn;
use crate::emit::quoted;
use crate::parting::{Parting, Terms};
use crate::shard::Shard;
use crate::signals::{Close, Closed};

/// The longest reason, in bytes.
const MOST_REASON: usize = 256;
/// The event that says why, before the end.
const EVENT: &str = "system:disconnect";

fn terms(reason: Option<String>, reconnect: Option<bool>, recover: Option<bool>) -> Result<Terms, Refused> {
    if reason.as_ref().is_some_and(|reason| reason.len() > MOST_REASON) {
        return Err(Refused::bad(format!("reason: it is longer than {MOST_REASON} bytes")));
    }
    let reconnect = reconnect.unwrap_or(false);
    if recover == Some(true) && !reconnect {
        return Err(Refused::bad("recover: only who comes back can recover; set reconnect to true"));
    }
    Ok(Terms { reason, reconnect, recover: recover.unwrap_or(reconnect) })
}

/// All connections of a user.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DisconnectUser {
    pub user: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reconnect: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recover: Option<bool>,
}

impl DisconnectUser {
    pub fn read(names: &[String], query: Option<&str>) -> Result<Self, Refused> {
        let mut parameters = Parameters::read(query)?;
        let read = Self {
            user: name("user", names.first().map_or("", String::as_str))?,
            tenant: parameters.take_name("tenant")?,
            reason: parameters.take("reason"),
            reconnect: parameters.take_flag("reconnect")?,
            recover: parameters.take_flag("recover")?,
        };
        parameters.end()?;
        Ok(read)
    }

    /// How it is to end.
    pub fn terms(&self) -> Result<Terms, Refused> {
        terms(self.reason.clone(), self.reconnect, self.recover)
    }

    pub async fn perform(self, shard: &Rc<Shard>, caller: &Caller) -> Result<Done, Refused> {
        caller.needs(Scope::Disconnect)?;
        let terms = self.terms()?;
        let whom = Whom::User(caller.tenant(self.tenant)?, self.user);
        let ended = end(shard, caller, whom, terms).await?;
        Ok(Done::ok(&json!({ "success": true, "disconnected": ended })))
    }
}

/// One connection.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DisconnectConnection {
    pub connection: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reconnect: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recover: Option<bool>,
}

impl DisconnectConnection {
    pub fn read(names: &[String], query: Option<&str>) -> Result<Self, Refused> {
        let mut parameters = Parameters::read(query)?;
        let read = Self {
            connection: names.first().cloned().unwrap_or_default(),
            reason: parameters.take("reason"),
            reconnect: parameters.take_flag("reconnect")?,
            recover: parameters.take_flag("recover")?,
        };
        parameters.end()?;
        Ok(read)
    }

    /// How it is to end.
    pub fn terms(&self) -> Result<Terms, Refused> {
        terms(self.reason.clone(), self.reconnect, self.recover)
    }

    pub async fn perform(self, shard: &Rc<Shard>, caller: &Caller) -> Result<Done, Refused> {
        caller.needs(Scope::Disconnect)?;
        let terms = self.terms()?;
        let ended = end(shard, caller, Whom::connection(&self.connection, shard.node.id()), terms).await?;
        if ended == 0 {
            return Err(Refused::new(ErrorCode::NotFound, "connection: there is none of that id"));
        }
        Ok(Done::ok(&json!({ "success": true, "disconnected": ended })))
    }
}

/// Ends those connections that lie within what the key opens, all of their namespaces.
async fn end(shard: &Rc<Shard>, caller: &Caller, whom: Whom, terms: Terms) -> Result<usize, Refused> {
    let caller = caller.clone();
    let ended = ask::all(shard, move |shard| {
        let (caller, whom, terms) = (caller.clone(), whom.clone(), terms.clone());
        Box::pin(async move {
            let mut found = Vec::new();
            ask::walk(&shard, |conn| {
                if whom.is(conn) && conn.sockets.borrow().iter().all(|socket| caller.sees(socket)) {
                    found.push(conn.clone());
                }
            })
            .await;
            found.retain(|conn| !conn.is_closed());
            found.iter().for_each(|conn| part(&shard, conn, &terms));
            found.len()
        })
    });
    Ok(ended.await.map_err(|late| Refused::unavailable(late.to_string()))?.into_iter().sum())
}

/// Ends the worker's own connections that another node, or the application, wants ended.
pub(crate) async fn close(shard: &Rc<Shard>, close: &Close) {
    let mut found = Vec::new();
    ask::walk(shard, |conn| {
        if is_meant(&close.whom, conn) {
            found.push(conn.clone());
        }
    })
    .await;
    for conn in found.iter().filter(|conn| !conn.is_closed()) {
        match &close.terms {
            Some(terms) => part(shard, conn, terms),
            None => shard.end(conn, CloseReason::Kicked),
        }
    }
}

fn is_meant(whom: &Closed, conn: &Conn) -> bool {
    match whom {
        Closed::Conn(id) => conn.id == *id,
        Closed::User(tenant, user) => Whom::User(tenant.clone(), user.clone()).is(conn),
        Closed::Socket(id) => Whom::Socket(id.clone()).is(conn),
        Closed::UserIn(space, user) => {
            let sockets = conn.sockets.borrow();
            sockets.iter().any(|socket| *socket.space.key == *space && socket.principal.user == *user)
        }
    }
}

fn part(shard: &Rc<Shard>, conn: &Rc<Conn>, terms: &Terms) {
    let reason = terms.reason.as_deref().map_or_else(|| "null".to_owned(), quoted);
    let data = format!(r#"{{"reason":{reason},"reconnect":{}}}"#, terms.reconnect);
    let namespaces: Vec<Namespace> =
        conn.sockets.borrow().iter().map(|socket| socket.space.key.namespace.clone()).collect();
    let parting = Parting { event: EVENT, data: &data, reason: terms.close_reason(), comes_back: terms.reconnect };
    parting.say(shard, conn, &namespaces, true);
    shard.end(conn, parting.reason);
}
