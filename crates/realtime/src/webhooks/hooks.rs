//! What is asked before it happens, and what is told after it has.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tidegate_auth::Principal;
use tidegate_hub::{Message, SocketId};
use tidegate_types::{Class, CloseReason, EventName, Publication, RoomName};
use tidegate_wire::socket_io;

use super::answer::{self, ConnectAnswer, JoinAnswer, PublishAnswer};
use super::calls::Webhook;
use super::event::{Event, What};
use super::settings::{OnFailure, WebhookEvent};
use crate::connection::{Conn, NamespaceSocket};
use crate::node::{SpaceCell, now_ms};
use crate::shard::Shard;

/// What a client is told when a backend that has to be asked does not answer.
pub(super) const UNANSWERED: &str = "The backend does not answer";
/// What a client is told when a backend refuses without a word of its own.
const FORBIDDEN: &str = "Forbidden";

/// A client that no backend refuses, with what they give to it.
pub(crate) struct Admitted {
    pub principal: Arc<Principal>,
    /// Rooms to be in from the start.
    pub rooms: Vec<RoomName>,
    /// Metadata of the user's presence.
    pub presence: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Why a client is not let in.
pub(crate) struct NotAdmitted {
    pub message: Box<str>,
    /// For the client's program.
    pub code: Option<Box<str>>,
}

/// Nobody answers, and the webhook refuses then.
pub(super) struct Unanswered;

impl From<Unanswered> for NotAdmitted {
    fn from(_: Unanswered) -> Self {
        Self { message: UNANSWERED.into(), code: None }
    }
}

impl From<Unanswered> for Box<str> {
    fn from(_: Unanswered) -> Self {
        UNANSWERED.into()
    }
}

/// Whether a backend has a say in events of that kind.
pub(crate) fn is_asked(space: &SpaceCell, event: WebhookEvent) -> bool {
    asked(space, event).next().is_some()
}

fn asked(space: &SpaceCell, event: WebhookEvent) -> impl Iterator<Item = &(usize, Arc<Webhook>)> {
    space.webhooks.iter().flatten().filter(move |(_, webhook)| webhook.settings.is_asked(event))
}

fn told(space: &SpaceCell, event: WebhookEvent) -> impl Iterator<Item = &Arc<Webhook>> {
    let all = space.webhooks.iter().flatten().map(|(_, webhook)| webhook);
    all.filter(move |webhook| webhook.settings.is_told(event))
}

/// Asks one backend. `Ok(None)` if it does not answer and that is nothing against it.
pub(super) async fn ask<T: DeserializeOwned>(
    shard: &Shard,
    (index, webhook): &(usize, Arc<Webhook>),
    event: &Event<'_>,
) -> Result<Option<T>, Unanswered> {
    let answer = match shard.webhook_clients.get(*index) {
        Some(client) => webhook.ask(client, event.json()).await,
        None => Err("this worker has no client for it".to_owned()),
    };
    let answer = answer.and_then(|body| {
        answer::read(&body).inspect_err(|error| tracing::warn!(webhook = &*webhook.settings.name, error, "bad answer"))
    });
    match (answer, webhook.settings.on_failure) {
        (Ok(answer), _) => Ok(Some(answer)),
        (Err(_), OnFailure::Allow) => Ok(None),
        (Err(_), OnFailure::Refuse) => Err(Unanswered),
    }
}

/// Asks whether a client that showed a valid credential may come in. All backends that want to be asked are, one after the
/// other; what they grant adds up.
pub(crate) async fn may_connect(
    shard: &Shard,
    address: IpAddr,
    transport: &'static str,
    space: &SpaceCell,
    principal: Arc<Principal>,
) -> Result<Admitted, NotAdmitted> {
    let mut admitted = Admitted { principal, rooms: Vec::new(), presence: None };
    for webhook in asked(space, WebhookEvent::Connect) {
        let principal = admitted.principal.clone();
        let what = connect(address, transport, &principal, None);
        let event = Event::new(WebhookEvent::Connect.as_str(), now_ms(), &space.key, &principal, None, what);
        let Some(answer) = ask::<ConnectAnswer>(shard, webhook, &event).await? else { continue };
        if !answer.allow {
            return Err(NotAdmitted { message: answer.message.unwrap_or(FORBIDDEN.into()), code: answer.code });
        }
        if !answer.permissions.is_empty() {
            let grants: Vec<_> = principal.grants.iter().cloned().chain(answer.permissions).collect();
            admitted.principal = Arc::new(Principal::clone(&principal).with_grants(grants));
        }
        admitted.rooms.extend(answer.rooms);
        if let Some(presence) = answer.presence {
            admitted.presence.get_or_insert_default().extend(presence);
        }
    }
    Ok(admitted)
}

fn connect<'a>(
    address: IpAddr,
    transport: &'static str,
    principal: &'a Principal,
    recovered: Option<bool>,
) -> What<'a> {
    What::Connect {
        address: address.to_string(),
        transport,
        roles: &principal.roles,
        permissions: &principal.permissions,
        recovered,
    }
}

/// A client is in. `recovered`: with the session that it had before.
pub(crate) fn connected(conn: &Conn, socket: &NamespaceSocket, recovered: bool) {
    for webhook in told(&socket.space, WebhookEvent::Connect) {
        let what = connect(conn.address, conn.transport(), &socket.principal, Some(recovered));
        tell(webhook, WebhookEvent::Connect, socket, what);
    }
}

/// A client is about to leave the namespace, with all its rooms.
pub(crate) fn disconnected(conn: &Conn, socket: &NamespaceSocket, reason: CloseReason) {
    for webhook in told(&socket.space, WebhookEvent::Disconnect) {
        let rooms = socket.space.lock().rooms_of(conn.id);
        let rooms: Vec<String> = rooms.into_iter().map(String::from).collect();
        let recoverable = reason.recoverable() && socket.space.settings.recovery;
        let what = What::Disconnect { reason: reason.as_str(), recoverable, rooms: &rooms };
        tell(webhook, WebhookEvent::Disconnect, socket, what);
    }
}

/// Asks whether a client may join a room.
///
/// # Errors
/// What the client is told.
pub(crate) async fn may_join(
    shard: &Shard,
    space: &SpaceCell,
    principal: &Principal,
    socket: Option<&SocketId>,
    room: &RoomName,
) -> Result<(), Box<str>> {
    for webhook in asked(space, WebhookEvent::Join) {
        let what = What::Room { room: room.as_str() };
        let socket = socket.map(SocketId::as_str);
        let event = Event::new(WebhookEvent::Join.as_str(), now_ms(), &space.key, principal, socket, what);
        let Some(answer) = ask::<JoinAnswer>(shard, webhook, &event).await? else { continue };
        if !answer.allow {
            return Err(answer.message.unwrap_or(FORBIDDEN.into()));
        }
    }
    Ok(())
}

/// A client has joined a room, or left it by itself.
pub(crate) fn room_changed(socket: &NamespaceSocket, event: WebhookEvent, room: &RoomName) {
    for webhook in told(&socket.space, event) {
        tell(webhook, event, socket, What::Room { room: room.as_str() });
    }
}

/// Asks whether a message may be sent, and how it shall be.
///
/// # Errors
/// What the client is told.
pub(crate) async fn may_publish(
    shard: &Shard,
    space: &SpaceCell,
    principal: &Principal,
    socket: &SocketId,
    mut message: Message,
) -> Result<Message, Box<str>> {
    for webhook in asked(space, WebhookEvent::Publish) {
        let data = json_of(&message.data, &message.attachments);
        let what = publish(&message.room, &message.event, &data, message.class);
        let socket = Some(socket.as_str());
        let event = Event::new(WebhookEvent::Publish.as_str(), now_ms(), &space.key, principal, socket, what);
        let Some(answer) = ask::<PublishAnswer>(shard, webhook, &event).await? else { continue };
        if !answer.allow {
            return Err(answer.message.unwrap_or(FORBIDDEN.into()));
        }
        let rewritten = match (answer.data, answer.payload) {
            (Some(data), _) => data.get().to_owned(),
            (None, Some(payload)) => match with_payload(&data, &payload) {
                Some(data) => data,
                None => {
                    let webhook = &*webhook.1.settings.name;
                    tracing::warn!(webhook, "the data has no payload to be replaced; answer with \"data\"");
                    return Err(Unanswered.into());
                }
            },
            (None, None) => continue,
        };
        message.data = rewritten.into();
        message.attachments = Arc::from([]);
    }
    Ok(message)
}

/// A client has sent a message.
pub(crate) fn published(space: &SpaceCell, principal: &Principal, socket: &SocketId, sent: &Publication) {
    for webhook in told(space, WebhookEvent::Publish) {
        let data = json_of(&sent.data, &sent.attachments);
        let what = publish(&sent.room, &sent.event, &data, sent.class);
        tell_of(webhook, WebhookEvent::Publish, space, principal, socket, what);
    }
}

fn publish<'a>(room: &'a RoomName, event: &'a EventName, data: &'a RawValue, class: Class) -> What<'a> {
    What::Publish {
        room: room.as_str(),
        name: event.as_str(),
        data,
        persistent: class == Class::Persistent,
        volatile: class == Class::Volatile,
    }
}

fn tell(webhook: &Webhook, event: WebhookEvent, socket: &NamespaceSocket, what: What<'_>) {
    tell_of(webhook, event, &socket.space, &socket.principal, &socket.socket_id, what);
}

fn tell_of(
    webhook: &Webhook,
    event: WebhookEvent,
    space: &SpaceCell,
    principal: &Principal,
    socket: &SocketId,
    what: What<'_>,
) {
    let id = Some(socket.as_str()).filter(|id| !id.is_empty());
    webhook.tell(Event::new(event.as_str(), now_ms(), &space.key, principal, id, what).json());
}

/// The data of a message as one JSON value; binary values stand in it as `{"base64":"…"}`.
fn json_of(data: &[u8], attachments: &[Bytes]) -> Box<RawValue> {
    let text = std::str::from_utf8(data).unwrap_or_default();
    let text = if attachments.is_empty() { text.to_owned() } else { socket_io::inline_attachments(text, attachments) };
    as_value(text)
}

/// One argument as itself; none, or several, as a list.
fn as_value(arguments: String) -> Box<RawValue> {
    let list = format!("[{arguments}]");
    RawValue::from_string(arguments).or_else(|_| RawValue::from_string(list)).unwrap_or_default()
}

/// The data with another payload.
fn with_payload(data: &RawValue, payload: &RawValue) -> Option<String> {
    let mut fields: std::collections::BTreeMap<&str, &RawValue> = serde_json::from_str(data.get()).ok()?;
    *fields.get_mut("payload")? = payload;
    serde_json::to_string(&fields).ok()
}
