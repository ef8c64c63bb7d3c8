//! What can be done for a connected socket: join a room, leave it, send to it, read what it keeps. The rooms API and
//! every other way in are these, with names for events and answers of their own.

use std::rc::Rc;
use std::sync::Arc;

use tidegate_cluster::{History, HistoryError};
use tidegate_hub::{JoinError, Message, Published};
use tidegate_metrics::RateLimit;
use tidegate_types::{ConnId, Millis, Position, Publication, RoomKey, RoomName};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::connection::Conn;
use crate::emit::quoted;
use crate::encoded::json_data;
use crate::input::{Handled, Later};
use crate::mailbox::Except;
use crate::node::{Durable, SpaceCell};
use crate::shard::Shard;

/// Persistent messages of one connection whose ack may be outstanding before its next packet waits.
const MOST_IN_FLIGHT: u16 = 256;

/// Resolves when a session's changed record is stored.
pub(crate) type Saved = Option<oneshot::Receiver<()>>;

/// A socket is in a room.
pub(crate) struct Entered {
    /// The client is not to be told before this.
    pub saved: Saved,
}

/// Why a socket cannot join a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JoinRefused {
    #[error("Not connected")]
    NotConnected,
    #[error("Too many rooms")]
    TooManyRooms,
    #[error("Too many rooms of this user")]
    TooManyRoomsOfUser {
        /// How many there are.
        current: usize,
    },
}

/// Puts the socket of the connection in this space into a room. Grants are the caller's to check.
pub(crate) fn join(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    room: &RoomName,
    now: Millis,
) -> Result<Entered, JoinRefused> {
    room_limit(shard, conn, space, room)?;
    let (joined, saved) = shard.node.with_session(space, |hub, effects| hub.join(conn.id, room, now, effects));
    let joined = joined.map_err(|JoinError::NotConnected| JoinRefused::NotConnected)?;
    if !joined.already {
        let mut sockets = conn.sockets.borrow_mut();
        let socket = sockets.iter_mut().find(|socket| socket.space.index == space.index);
        if let Some(socket) = socket {
            shard.add_member(conn, socket, joined.room_id, joined.seq);
        }
    }
    Ok(Entered { saved })
}

/// Whether the socket may be in one more room.
pub(crate) fn room_limit(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    room: &RoomName,
) -> Result<(), JoinRefused> {
    let rooms = conn.with_socket(space.key.namespace.as_str(), |socket| socket.rooms.len()).unwrap_or(0);
    if rooms >= shard.node.settings.max_rooms_per_connection && !space.lock().is_member(conn.id, room) {
        space.metrics.limited(RateLimit::Room).inc();
        return Err(JoinRefused::TooManyRooms);
    }
    if let Some(current) = too_many_rooms_of_user(conn, space, room) {
        space.metrics.limited(RateLimit::Room).inc();
        return Err(JoinRefused::TooManyRoomsOfUser { current });
    }
    Ok(())
}

/// How many rooms the user of the socket is in, if this one would be too many.
fn too_many_rooms_of_user(conn: &Conn, space: &SpaceCell, room: &RoomName) -> Option<usize> {
    let most = space.settings.limits.rooms_per_user as usize;
    if most == 0 {
        return None;
    }
    let user = conn.with_socket(space.key.namespace.as_str(), |socket| socket.principal.user.clone())?;
    let hub = space.lock();
    let current = hub.rooms_of_user(&user);
    let in_it = |other: &ConnId| hub.is_member(*other, room);
    (current >= most && !hub.connections_of(&user).iter().any(in_it)).then_some(current)
}

/// Takes the socket out of a room; does nothing if it is not in it.
pub(crate) fn leave(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &Arc<SpaceCell>, room: &RoomName, now: Millis) -> Saved {
    let (left, saved) = shard.node.with_session(space, |hub, effects| hub.leave(conn.id, room, now, effects));
    if let Some(room_id) = left {
        let membership = {
            let mut sockets = conn.sockets.borrow_mut();
            sockets.iter_mut().find(|socket| socket.space.index == space.index).and_then(|socket| {
                let index = socket.rooms.iter().position(|membership| membership.room == room_id)?;
                Some(socket.rooms.remove(index))
            })
        };
        if let Some(membership) = membership {
            shard.remove_member(space.index, membership);
            space.metrics.room_subscriptions.dec();
        }
    }
    saved
}

/// Goes on at once, or as soon as the session's record is stored.
pub(crate) fn when_saved(saved: Saved, rest: impl FnOnce() + 'static) -> Handled {
    match saved {
        None => {
            rest();
            Handled::Done
        }
        Some(saved) => Handled::Later(Box::pin(async move {
            // A record that is lost is not waited for: its client starts afresh after a kill.
            let _ = saved.await;
            rest();
        })),
    }
}

/// Why a message is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendRefused {
    #[error("Not in room")]
    NotInRoom,
    #[error("The history store is behind; send it again")]
    StoreBehind,
    #[error("The message could not be stored; send it again")]
    NotStored,
}

/// Who may send to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Senders {
    /// Its members.
    Members,
    /// Whoever is connected to the namespace.
    Anybody,
}

/// Whether the connection may send to the room.
fn may_send(conn: &Conn, space: &SpaceCell, room: &RoomName, senders: Senders) -> Result<(), SendRefused> {
    match senders {
        Senders::Members if !space.lock().is_member(conn.id, room) => Err(SendRefused::NotInRoom),
        Senders::Members | Senders::Anybody => Ok(()),
    }
}

/// Sends a message for a socket; `done` hears what became of it, for a persistent one when it is durable. Waits while the
/// workers cannot take more, or too many of the connection's messages are on their way to the store.
pub(crate) fn send(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    message: Message,
    senders: Senders,
    now: Millis,
    done: impl FnOnce(Result<Published, SendRefused>) + 'static,
) -> Handled {
    if shard.node.can_publish() {
        return publish(shard, conn, space, message, senders, now, done).map_or(Handled::Done, Handled::Later);
    }
    let (shard, conn, space) = (shard.clone(), conn.clone(), space.clone());
    Handled::Later(Box::pin(async move {
        shard.node.publishable().await;
        if let Some(rest) = publish(&shard, &conn, &space, message, senders, now, done) {
            rest.await;
        }
    }))
}

fn publish(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    message: Message,
    senders: Senders,
    now: Millis,
    done: impl FnOnce(Result<Published, SendRefused>) + 'static,
) -> Option<Later> {
    let (published, durable) = match publish_now(shard, conn, space, message, senders, now) {
        Ok(placed) => placed,
        Err(refused) => {
            done(Err(refused));
            return None;
        }
    };
    let Some(durable) = durable else {
        done(Ok(published));
        return None;
    };
    when_stored(conn, durable, move |stored| {
        done(if stored { Ok(published) } else { Err(SendRefused::NotStored) });
    })
}

/// Gives a message its place at once; a persistent one is to be told of when it is durable. For a caller who has seen
/// that the workers can take it.
pub(crate) fn publish_now(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    message: Message,
    senders: Senders,
    now: Millis,
) -> Result<(Published, Option<Durable>), SendRefused> {
    may_send(conn, space, &message.room, senders)?;
    shard.node.publish(space, message, now).ok_or(SendRefused::StoreBehind)
}

/// Sends a volatile message to all in the room but the socket itself.
pub(crate) fn tell_others(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    message: Message,
    senders: Senders,
    now: Millis,
) -> Result<(), SendRefused> {
    may_send(conn, space, &message.room, senders)?;
    shard.node.tell(space, message, now, Some(&Except::Conn(conn.id)));
    Ok(())
}

/// Goes on when a persistent message is durable or lost; what is returned is what the connection's next packet waits for.
pub(crate) fn when_stored(conn: &Rc<Conn>, durable: Durable, settle: impl FnOnce(bool) + 'static) -> Option<Later> {
    let in_flight = conn.in_flight.get() + 1;
    conn.in_flight.set(in_flight);
    let settled = when_durable(conn.clone(), durable, settle);
    if in_flight < MOST_IN_FLIGHT {
        spawn_local(settled);
        return None;
    }
    Some(Box::pin(settled))
}

async fn when_durable(conn: Rc<Conn>, durable: Durable, settle: impl FnOnce(bool)) {
    let stored = durable.await == Ok(true);
    conn.in_flight.set(conn.in_flight.get().saturating_sub(1));
    settle(stored);
}

/// A page of a room's history as JSON: `messages` oldest first, each as `push` writes it, `position` to go on from, and
/// `truncated` when messages that the page should have begun with are no longer kept.
pub(crate) fn page(
    history: &dyn History,
    room: &RoomKey,
    head: Position,
    since: Option<Position>,
    limit: usize,
    push: fn(&mut String, &Publication),
) -> Result<String, HistoryError> {
    let known = since.filter(|since| since.epoch == head.epoch && since.offset <= head.offset);
    let first_kept = history.bounds(room).map(|(first, _)| first);
    let (messages, truncated) = match known {
        Some(since) => {
            let messages = history.read(room, since.offset, limit)?;
            let lost = since.offset < head.offset && first_kept.is_none_or(|first| first > since.offset + 1);
            (messages, lost)
        }
        None => {
            let messages = history.tail(room, None, limit)?;
            let first = messages.first().and_then(|message| message.position).map(|position| position.offset);
            (messages, since.is_some() || first.is_some_and(|first| first > 1))
        }
    };
    let last = messages.last().and_then(|message| message.position);
    let position = match (known, last) {
        (Some(_), Some(last)) if messages.len() == limit => last,
        (_, last) => last.filter(|last| last.offset > head.offset).unwrap_or(head),
    };
    let mut page = String::from(r#"{"messages":["#);
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            page.push(',');
        }
        push(&mut page, message);
    }
    page.push_str(&format!(r#"],"position":"{position}","truncated":{truncated}}}"#));
    Ok(page)
}

/// A message of the past as Socket.IO clients get it: what its event had.
pub(crate) fn push_data(page: &mut String, message: &Publication) {
    page.push_str(&json_data(message));
}

/// A message of the past as backends get it: with its place and its event's name.
pub(crate) fn push_entry(page: &mut String, message: &Publication) {
    let position = message.position.map_or_else(|| "null".to_owned(), |position| quoted(&position.to_string()));
    let event = quoted(message.event.as_str());
    let args = json_data(message);
    let timestamp = message.timestamp_ms;
    page.push_str(&format!(r#"{{"position":{position},"event":{event},"timestamp":{timestamp},"args":[{args}]}}"#));
}
