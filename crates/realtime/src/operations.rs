//! What can be done for a connected socket: join a room, leave it, send to it, read what it keeps. The rooms API and
//! every other way in are these, with names for events and answers of their own.

use std::rc::Rc;
use std::sync::Arc;

use tidegate_auth::Principal;
use tidegate_hub::{JoinError, Message, Published, SocketId};
use tidegate_metrics::RateLimit;
use tidegate_types::{ConnId, Millis, RoomName};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::connection::Conn;
use crate::input::{Handled, Later};
use crate::mailbox::Except;
use crate::node::{NotPublished, Pending, Publishing, SpaceCell, now_ms};
use crate::opening::{Joining, Settling};
use crate::shard::Shard;
use crate::webhooks::{self, WebhookEvent};

/// Messages of one connection whose ack may be outstanding before its next packet waits.
const MOST_IN_FLIGHT: u16 = 256;

/// Resolves when a session's changed record is stored.
pub(crate) type Saved = Option<oneshot::Receiver<()>>;

/// A socket is in a room. Where there is something to wait for, the client is not to be told before.
#[must_use]
pub(crate) struct Entered(pub Option<Settling>);

impl Entered {
    /// Resolves when the client may be told.
    ///
    /// # Errors
    /// The room cannot be opened now; the socket is not in it any more.
    pub async fn settled(self) -> Result<(), JoinRefused> {
        match self.0 {
            None => Ok(()),
            Some(settling) => settling.settled().await,
        }
    }
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
    /// Its messages cannot be heard now.
    #[error("The room cannot be opened now; join it again")]
    Unavailable,
}

/// Goes on when no backend that wants to be asked has anything against a client's join, or with what the client is told. The client's next
/// packet waits meanwhile. Not for a join that the server, or a backend, decides by itself.
pub(crate) fn ask_to_join(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    room: RoomName,
    then: impl FnOnce(Result<(), Box<str>>) -> Handled + 'static,
) -> Handled {
    if !webhooks::is_asked(space, WebhookEvent::Join) {
        return then(Ok(()));
    }
    let (shard, conn, space) = (shard.clone(), conn.clone(), space.clone());
    Handled::Later(Box::pin(async move {
        let allowed = match who(&conn, &space) {
            Some((principal, socket)) => webhooks::may_join(&shard, &space, &principal, Some(&socket), &room).await,
            None => Err(JoinRefused::NotConnected.to_string().into()),
        };
        if !conn.is_closed() {
            follow(&shard, &conn, then(allowed)).await;
        }
    }))
}

/// Who the client is in the space, if it is there.
fn who(conn: &Conn, space: &SpaceCell) -> Option<(Arc<Principal>, SocketId)> {
    let namespace = space.key.namespace.as_str();
    conn.with_socket(namespace, |socket| (socket.principal.clone(), socket.socket_id.clone()))
}

/// Does what a handler has left to do.
pub(crate) async fn follow(shard: &Rc<Shard>, conn: &Rc<Conn>, handled: Handled) {
    match handled {
        Handled::Done => {}
        Handled::Later(rest) => rest.await,
        Handled::Close(reason) => shard.end(conn, reason),
    }
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
    let (joined, saved) = shard.node.with_session(space, |hub, effects| {
        let joined = hub.join(conn.id, room, now, effects)?;
        Ok((joined, joined.opening.then(|| space.opening.wait(room))))
    });
    let (joined, opened) = joined.map_err(|JoinError::NotConnected| JoinRefused::NotConnected)?;
    if !joined.already {
        let mut sockets = conn.sockets.borrow_mut();
        let socket = sockets.iter_mut().find(|socket| socket.space.index == space.index);
        if let Some(socket) = socket {
            shard.add_member(conn, socket, joined.room_id, joined.seq);
            webhooks::room_changed(socket, WebhookEvent::Join, room);
            if let Some(bridge) = &space.bridge {
                bridge.joined(room);
            }
        }
    }
    Ok(Entered(match opened {
        None => saved.map(Settling::Saving),
        Some(opened) => {
            let (shard, conn, space, room) = (shard.clone(), conn.clone(), space.clone(), room.clone());
            Some(Settling::Opening(Box::new(Joining { shard, conn, space, room, opened })))
        }
    }))
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
                webhooks::room_changed(socket, WebhookEvent::Leave, room);
                if let Some(bridge) = &space.bridge {
                    bridge.parted(room);
                }
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

/// Goes on at once, or as soon as the client may be told whether it is in the room.
pub(crate) fn when_in(entered: Entered, rest: impl FnOnce(Result<(), JoinRefused>) + 'static) -> Handled {
    match entered.0 {
        None => {
            rest(Ok(()));
            Handled::Done
        }
        Some(settling) => Handled::Later(Box::pin(async move { rest(settling.settled().await) })),
    }
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendRefused {
    #[error("Not in room")]
    NotInRoom,
    #[error(transparent)]
    NotPublished(#[from] NotPublished),
    /// A backend does not want it.
    #[error("{0}")]
    Refused(Box<str>),
}

/// Who may send to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Senders {
    /// Its members.
    Members,
    /// Whoever is connected to the namespace.
    Anybody,
}

/// Whether it may send to the room at all.
pub(crate) fn may_send(conn: &Conn, space: &SpaceCell, room: &RoomName, senders: Senders) -> Result<(), SendRefused> {
    match senders {
        Senders::Members if !space.lock().is_member(conn.id, room) => Err(SendRefused::NotInRoom),
        Senders::Members | Senders::Anybody => Ok(()),
    }
}

/// Sends a message for a socket; `done` hears what became of it, for a persistent one when it is durable. Waits while the
/// workers cannot take more, or too many of the connection's messages are on their way to the store or to the broker.
pub(crate) fn send(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    message: Message,
    senders: Senders,
    now: Millis,
    done: impl FnOnce(Result<Published, SendRefused>) + 'static,
) -> Handled {
    if webhooks::is_asked(space, WebhookEvent::Publish) {
        return ask_to_send(shard, conn, space, message, senders, done);
    }
    send_unasked(shard, conn, space, message, senders, now, done)
}

/// As [`send`], once every backend that wants to be asked has nothing against it.
fn ask_to_send(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    message: Message,
    senders: Senders,
    done: impl FnOnce(Result<Published, SendRefused>) + 'static,
) -> Handled {
    if let Err(refused) = may_send(conn, space, &message.room, senders) {
        done(Err(refused));
        return Handled::Done;
    }
    let Some((principal, socket)) = who(conn, space) else { return Handled::Done };
    let (shard, conn, space) = (shard.clone(), conn.clone(), space.clone());
    Handled::Later(Box::pin(async move {
        let asked = webhooks::may_publish(&shard, &space, &principal, &socket, message).await;
        if conn.is_closed() {
            return;
        }
        match asked {
            Ok(message) => {
                let sent = send_unasked(&shard, &conn, &space, message, senders, now_ms(), done);
                follow(&shard, &conn, sent).await;
            }
            Err(refused) => done(Err(SendRefused::Refused(refused))),
        }
    }))
}

fn send_unasked(
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
    match begin(shard, conn, space, message, senders, now) {
        Ok(Publishing::Now(published)) => done(Ok(published)),
        Ok(Publishing::Later(pending)) => {
            return when_settled(shard, conn, space, pending, |settled| done(settled.map_err(SendRefused::from)));
        }
        Err(refused) => done(Err(refused)),
    }
    None
}

/// Begins to publish a message: what is to be waited for, if anything, is for [`when_settled`]. For a caller who has seen
/// that the workers can take it.
pub(crate) fn begin(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    message: Message,
    senders: Senders,
    now: Millis,
) -> Result<Publishing, SendRefused> {
    may_send(conn, space, &message.room, senders)?;
    let publishing = shard.node.publish(space, message, now)?;
    match &publishing {
        Publishing::Now(published) | Publishing::Later(Pending::Storing(published, _)) => {
            if let Some((principal, socket)) = sender(conn, space) {
                tell_backends(space, &principal, &socket, published);
            }
        }
        // Whether it is a message at all, or one sent again, the broker says.
        Publishing::Later(Pending::Placing(_)) => {}
    }
    Ok(publishing)
}

/// Who sends, where backends are told of what is sent.
fn sender(conn: &Conn, space: &SpaceCell) -> Option<(Arc<Principal>, SocketId)> {
    space.webhooks.as_ref()?;
    who(conn, space)
}

fn tell_backends(space: &SpaceCell, principal: &Principal, socket: &SocketId, published: &Published) {
    if published.duplicate.is_none() {
        webhooks::published(space, principal, socket, &published.publication);
    }
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

/// Goes on when it is known what has become of a message; what is returned is what the connection's next packet waits for.
pub(crate) fn when_settled(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    pending: Pending,
    settle: impl FnOnce(Result<Published, NotPublished>) + 'static,
) -> Option<Later> {
    let in_flight = conn.in_flight.get() + 1;
    conn.in_flight.set(in_flight);
    // Its sender may have gone when the broker answers.
    let sender = match &pending {
        Pending::Storing(..) => None,
        Pending::Placing(_) => sender(conn, space).map(|sender| (space.clone(), sender)),
    };
    let (shard, conn) = (shard.clone(), conn.clone());
    let settled = async move {
        let settled = pending.settled().await;
        conn.in_flight.set(conn.in_flight.get().saturating_sub(1));
        if let (Ok(published), Some((space, (principal, socket)))) = (&settled, &sender) {
            tell_backends(space, principal, socket, published);
        }
        // One group commit decides many messages: their acks leave in one write, with the deliveries that it has released.
        shard.cork(&conn);
        settle(settled);
    };
    if in_flight < MOST_IN_FLIGHT {
        spawn_local(settled);
        return None;
    }
    Some(Box::pin(settled))
}
