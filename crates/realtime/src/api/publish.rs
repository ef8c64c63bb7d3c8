//! Messages to rooms.

use std::rc::Rc;
use std::sync::Arc;

use ::http::{Request, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_hub::Message;
use tidegate_types::{Class, ErrorCode, RoomName, TenantId, UserId};

use super::caller::api_key;
use super::refused::{Outcome, Refused};
use super::request;
use crate::http::{BodyFailure, json, read_body};
use crate::node::{event_name, now_ms};
use crate::rooms_api::message_data;
use crate::shard::Shard;

#[derive(Deserialize)]
struct NewMessage<'a> {
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default)]
    persistent: bool,
    #[serde(default)]
    volatile: bool,
    from: Option<String>,
    tenant: Option<String>,
    namespace: Option<String>,
}

/// Sends a message to a room.
pub(super) async fn publish(shard: &Rc<Shard>, http: Request<Incoming>, room: RoomName) -> Outcome {
    let key = api_key(shard, http.headers())?.clone();
    let most = shard.node.settings.session.max_payload_bytes;
    let body = read_body(http.into_body(), most).await.map_err(|failure| match failure {
        BodyFailure::TooLarge => {
            Refused::new(ErrorCode::PayloadTooLarge, format!("The message is larger than {most} bytes"))
        }
        BodyFailure::Broken => Refused::bad("The body broke off"),
    })?;
    let body: NewMessage<'_> =
        serde_json::from_slice(&body).map_err(|error| Refused::bad(format!("The body is not as expected: {error}")))?;
    let named = body.tenant.as_deref().map(TenantId::try_from).transpose();
    let named = named.map_err(|error| Refused::bad(format!("Invalid tenant: it {error}")))?;
    let tenant = match (key.tenant(), named) {
        (Some(bound), Some(named)) if *bound != named => {
            return Err(Refused::new(ErrorCode::Forbidden, "This API key belongs to another tenant"));
        }
        (Some(bound), _) => bound.clone(),
        (None, named) => named.unwrap_or_else(TenantId::default_tenant),
    };
    let namespace = request::namespace(shard, body.namespace.as_deref())?;
    let from = body.from.unwrap_or_else(|| key.id().to_owned());
    let from = UserId::try_from(from).map_err(|error| Refused::bad(format!("Invalid sender: it {error}")))?;
    let space = request::space(shard, tenant, namespace)?;
    shard.node.publishable().await;
    let now = now_ms();
    let id = shard.node.message_ids.next(now);
    let class = match (body.persistent, body.volatile) {
        (true, _) => Class::Persistent,
        (false, true) => Class::Volatile,
        (false, false) => Class::Recoverable,
    };
    let data = message_data(&id, &room, from.as_str(), body.payload.get(), now);
    let (event, attachments) = (event_name("room:message"), Arc::from([]));
    let message = Message { room, event, data, attachments, class, idempotency: None };
    let published = shard.node.publish(&space, message, now);
    let (published, durable) =
        published.ok_or_else(|| Refused::unavailable("The history store is behind; send it again"))?;
    if let Some(durable) = durable
        && durable.await != Ok(true)
    {
        return Err(Refused::unavailable("The message could not be stored; send it again"));
    }
    let position = published.publication.position.map(|position| position.to_string());
    let answer = serde_json::json!({ "success": true, "messageId": id, "position": position });
    Ok(json(StatusCode::OK, answer.to_string()))
}
