//! Clients' own events that a backend answers: with an acknowledgement, events for others, rooms to join and to leave.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tidegate_auth::Principal;
use tidegate_hub::Message;
use tidegate_types::{Class, RoomName, ShardId, UserId};
use tidegate_wire::socket_io;

use super::answer::{Emit, EventAnswer};
use super::calls::Webhook;
use super::event::{Event, What};
use super::hooks::UNANSWERED;
use crate::call::Call;
use crate::connection::Conn;
use crate::emit::{ack, emit};
use crate::mailbox::Item;
use crate::node::{Node, SpaceCell, now_ms};
use crate::operations;
use crate::shard::Shard;

/// An event that a backend is to answer.
pub(crate) struct Question {
    webhook: (usize, Arc<Webhook>),
    body: Bytes,
    ack_id: Option<u64>,
}

/// The question for the first backend that answers events of that name, if there is one. `args` is the list of the event's
/// arguments without its brackets.
pub(crate) fn question(
    conn: &Conn,
    space: &SpaceCell,
    name: &str,
    args: &str,
    attachments: &[Bytes],
    ack_id: Option<u64>,
) -> Option<Question> {
    let webhook = space.webhooks.iter().flatten().find(|(_, webhook)| webhook.settings.answers(name))?.clone();
    let args = if attachments.is_empty() {
        format!("[{args}]")
    } else {
        format!("[{}]", socket_io::inline_attachments(args, attachments))
    };
    let args = RawValue::from_string(args).ok()?;
    let (principal, socket) = who(conn, space)?;
    let what = What::Client { name, args: &args, ack: ack_id.is_some() };
    let body = Event::new("client_event", now_ms(), &space.key, &principal, Some(&socket), what).json();
    Some(Question { webhook, body, ack_id })
}

fn who(conn: &Conn, space: &SpaceCell) -> Option<(Arc<Principal>, String)> {
    let namespace = space.key.namespace.as_str();
    conn.with_socket(namespace, |socket| (socket.principal.clone(), socket.socket_id.as_str().to_owned()))
}

/// Asks, and does what the answer says: joins, leaves, events, and last the acknowledgement.
///
/// # Errors
/// What the client is told: without an answer there is none to give.
pub(crate) async fn settle(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    question: Question,
) -> Result<(), &'static str> {
    let (index, webhook) = &question.webhook;
    let client = shard.webhook_clients.get(*index).ok_or(UNANSWERED)?;
    let answer = webhook.ask(client, question.body).await.map_err(|_| UNANSWERED)?;
    let answer = EventAnswer::read(&answer).map_err(|error| {
        tracing::warn!(webhook = &*webhook.settings.name, error, "a webhook's answer is of no use");
        UNANSWERED
    })?;
    if conn.is_closed() {
        return Ok(());
    }
    let (mut entered, mut left) = (Vec::new(), Vec::new());
    for room in &answer.join {
        entered.push(operations::join(shard, conn, space, room, now_ms()));
    }
    for room in &answer.leave {
        left.extend(operations::leave(shard, conn, space, room, now_ms()));
    }
    // As for a join of the client's own: it is not told before this is kept.
    for entered in entered {
        let settled = match entered {
            Ok(entered) => entered.settled().await,
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            tracing::debug!(webhook = &*webhook.settings.name, %error, "a client cannot join a room");
        }
    }
    for saved in left {
        let _ = saved.await;
    }
    for one in answer.emit {
        send(shard, conn, space, one).await;
    }
    let acknowledged = answer.ack.as_deref().map_or("", RawValue::get);
    ack(shard, conn, &space.key.namespace, question.ack_id, acknowledged);
    Ok(())
}

async fn send(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &Arc<SpaceCell>, one: Emit) {
    let data = one.data.as_deref().map(RawValue::get);
    let namespace = &space.key.namespace;
    match (&one.room, one.socket.as_deref(), &one.user) {
        (Some(room), ..) => publish(shard, space, room, &one, data.unwrap_or("null")).await,
        (None, Some(socket), _) if !is(conn, space, socket) => to_socket(&shard.node, space, socket, &one),
        (None, None, Some(user)) => to_user(&shard.node, space, user, &one),
        (None, _, _) => emit(shard, conn, namespace, one.event.as_str(), data.unwrap_or(""), None),
    }
}

fn is(conn: &Conn, space: &SpaceCell, socket: &str) -> bool {
    conn.with_socket(space.key.namespace.as_str(), |known| {
        known.space.index == space.index && known.socket_id.as_str() == socket
    }) == Some(true)
}

/// Everybody of this name, on all workers.
fn to_user(node: &Node, space: &Arc<SpaceCell>, user: &UserId, one: &Emit) {
    let conns = space.lock().connections_of(user).to_vec();
    let data: Arc<str> = one.data.as_deref().map_or("", RawValue::get).into();
    for id in conns {
        let (space, event, data) = (space.clone(), one.event.clone(), data.clone());
        run(node, id.shard, move |shard| {
            if let Some(conn) = shard.conn(id) {
                emit(shard, &conn, &space.key.namespace, event.as_str(), &data, None);
            }
        });
    }
}

/// Whose socket it is, only its worker knows.
fn to_socket(node: &Node, space: &Arc<SpaceCell>, socket: &str, one: &Emit) {
    let socket: Arc<str> = socket.into();
    let data: Arc<str> = one.data.as_deref().map_or("", RawValue::get).into();
    for worker in 0..node.settings.shards {
        let (space, event, socket, data) = (space.clone(), one.event.clone(), socket.clone(), data.clone());
        run(node, ShardId(worker), move |shard| {
            let conns = shard.conn_ids().into_iter().filter_map(|id| shard.conn(id));
            for conn in conns.filter(|conn| is(conn, &space, &socket)) {
                emit(shard, &conn, &space.key.namespace, event.as_str(), &data, None);
            }
        });
    }
}

fn run(node: &Node, shard: ShardId, work: impl FnOnce(&Rc<Shard>) + Send + 'static) {
    if let Some(mailbox) = node.mailbox(shard) {
        mailbox.push(Item::Call(Box::new(Call::Run(Box::new(work)))));
    }
}

async fn publish(shard: &Rc<Shard>, space: &Arc<SpaceCell>, room: &RoomName, one: &Emit, data: &str) {
    let class = match (one.persistent, one.volatile) {
        (true, _) => Class::Persistent,
        (false, true) => Class::Volatile,
        (false, false) => Class::Recoverable,
    };
    let data = Bytes::copy_from_slice(data.as_bytes());
    let message = Message {
        room: room.clone(),
        event: one.event.clone(),
        data,
        attachments: Arc::from([]),
        class,
        idempotency: None,
    };
    shard.node.publishable().await;
    let sent = match shard.node.publish(space, message, now_ms()) {
        Ok(publishing) => publishing.settled().await,
        Err(refused) => Err(refused),
    };
    if let Err(error) = sent {
        tracing::warn!(room = room.as_str(), %error, "an event of a webhook's answer is lost");
    }
}
