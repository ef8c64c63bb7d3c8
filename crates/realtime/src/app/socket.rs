//! The handle of a client in a namespace.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tidegate_auth::Principal;
use tidegate_hub::SocketId;
use tidegate_metrics::EventLabel;
use tidegate_types::{CloseReason, RoomName};
use tidegate_wire::socket_io;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::args::Args;
use super::broadcast::Broadcast;
use super::handshake::Handshake;
use super::io::{Io, Remote};
use super::namespace::Applicant;
use crate::connection::Conn;
use crate::node::{SpaceCell, now_ms};
use crate::operations::{self, JoinRefused};
use crate::shard::Shard;

/// Questions to one client that may be open.
const MOST_ASKED: usize = 256;

/// What the embedding API keeps of a client in a namespace.
pub(crate) struct Own {
    pub id: SocketId,
    pub applicant: Rc<Applicant>,
    pub recovered: bool,
    /// Handlers under way.
    pub running: Cell<u16>,
    gone: Cell<bool>,
    data: RefCell<Option<Box<dyn Any>>>,
    asked: RefCell<Option<Box<Asked>>>,
}

#[derive(Default)]
struct Asked {
    next: u64,
    waiting: FxHashMap<u64, oneshot::Sender<Args<'static>>>,
}

impl Own {
    pub fn new(id: SocketId, applicant: Rc<Applicant>, recovered: bool) -> Self {
        Self {
            id,
            applicant,
            recovered,
            running: Cell::new(0),
            gone: Cell::new(false),
            data: RefCell::new(None),
            asked: RefCell::new(None),
        }
    }

    /// The client has left the namespace: nothing is sent to it any more, and nobody waits for its answers.
    pub fn leave(&self) {
        self.gone.set(true);
        self.asked.replace(None);
    }

    fn ask(&self) -> Option<(u64, oneshot::Receiver<Args<'static>>)> {
        let mut asked = self.asked.borrow_mut();
        let asked = asked.get_or_insert_default();
        if asked.waiting.len() >= MOST_ASKED {
            return None;
        }
        let id = asked.next;
        asked.next += 1;
        let (sender, receiver) = oneshot::channel();
        asked.waiting.insert(id, sender);
        Some((id, receiver))
    }

    fn forget(&self, id: u64) {
        let mut asked = self.asked.borrow_mut();
        let Some(open) = asked.as_mut() else { return };
        open.waiting.remove(&id);
    }

    /// The client has answered. An answer that nobody waits for is as harmless as it is in the reference server.
    pub fn answered(&self, id: u64, payload: &str, attachments: Vec<Bytes>) {
        let waiting = self.asked.borrow_mut().as_mut().and_then(|asked| asked.waiting.remove(&id));
        let Some(waiting) = waiting else { return };
        let list = payload.trim().strip_prefix('[').and_then(|list| list.strip_suffix(']')).unwrap_or_default();
        let _ = waiting.send(Args::checked(list.trim().to_owned(), attachments));
    }
}

/// Nobody waits for the answer any more.
struct Forget {
    own: Rc<Own>,
    id: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.own.forget(self.id);
    }
}

/// Why a client cannot be put into a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// No room can have that name: it is empty, longer than 256 bytes, or holds control characters.
    #[error("no room can have that name")]
    InvalidName,
    /// The client has left.
    #[error("the client is no longer connected")]
    NotConnected,
    /// The connection, or the user with all its connections, is in as many as the limits allow.
    #[error("the client is in as many rooms as it may be")]
    TooManyRooms,
}

/// Why a question to a client has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// None came in time.
    #[error("the client did not answer in time")]
    Timeout,
    /// The client has left.
    #[error("the client is no longer connected")]
    NotConnected,
    /// Too many questions to this client are open.
    #[error("too many questions to this client are open")]
    TooMany,
}

/// A client in a namespace. Cheap to clone; it stays on the worker that owns the connection, and so may be used after an
/// `await` in an async handler, but not on another thread: [`Socket::remote`] is for those.
#[derive(Clone)]
pub struct Socket {
    shard: Rc<Shard>,
    conn: Rc<Conn>,
    space: Arc<SpaceCell>,
    own: Rc<Own>,
}

impl Socket {
    pub(crate) fn new(shard: Rc<Shard>, conn: Rc<Conn>, space: Arc<SpaceCell>, own: Rc<Own>) -> Self {
        Self { shard, conn, space, own }
    }

    pub(crate) fn own(&self) -> &Rc<Own> {
        &self.own
    }

    pub(crate) fn shard(&self) -> &Rc<Shard> {
        &self.shard
    }

    pub(crate) fn conn(&self) -> &Rc<Conn> {
        &self.conn
    }

    /// The Socket.IO id, as the client knows it.
    pub fn id(&self) -> &str {
        self.own.id.as_str()
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.space.key.namespace.as_str()
    }

    /// Who it is: from its token, or a stranger of the default tenant where none is asked for.
    pub fn principal(&self) -> &Principal {
        &self.own.applicant.principal
    }

    /// What the client said when it connected.
    pub fn handshake(&self) -> &Handshake {
        &self.own.applicant.handshake
    }

    /// Whether a cut session has come back: the client is in its rooms again, and has got what it missed.
    pub fn recovered(&self) -> bool {
        self.own.recovered
    }

    /// Whether the client is still in the namespace.
    pub fn is_connected(&self) -> bool {
        !self.own.gone.get() && !self.conn.is_closed()
    }

    /// Keeps a value with the socket, in place of any other.
    pub fn set_data<T: 'static>(&self, value: T) {
        self.own.data.replace(Some(Box::new(value)));
    }

    /// Looks at the value kept with the socket; `None` if there is none of that type.
    pub fn with_data<T: 'static, R>(&self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        // Taken out meanwhile: the closure may come back to this socket.
        let mut data = self.own.data.take()?;
        let result = data.downcast_mut::<T>().map(look);
        let mut kept = self.own.data.borrow_mut();
        kept.get_or_insert(data);
        result
    }

    /// A copy of the value kept with the socket; `None` if there is none of that type.
    pub fn data<T: Clone + 'static>(&self) -> Option<T> {
        self.with_data(|value: &mut T| value.clone())
    }

    /// Sends an event to this client. A client that does not read is closed as a slow consumer once `outbox_bytes` wait for
    /// it. Names that Socket.IO keeps for itself (`connect`, `disconnect`, …) are not sent, with a line in the log.
    pub fn emit<'a>(&self, event: &str, args: impl Into<Args<'a>>) {
        self.event(event, None, args.into());
    }

    /// As [`Socket::emit`], unless the client is behind: then nothing is sent, and this is false.
    pub fn emit_volatile<'a>(&self, event: &str, args: impl Into<Args<'a>>) -> bool {
        let ready = self.conn.is_ready();
        if ready {
            self.event(event, None, args.into());
        }
        ready
    }

    /// Sends an event at once, and waits for the client's answer.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn emit_with_ack<'a>(
        &self,
        event: &str,
        args: impl Into<Args<'a>>,
        patience: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Args<'static>, NoAnswer>>>> {
        let asked = if self.is_connected() { Ok(self.own.ask()) } else { Err(NoAnswer::NotConnected) };
        let asked = asked.and_then(|asked| asked.ok_or(NoAnswer::TooMany));
        if let Ok((id, _)) = &asked {
            self.event(event, Some(*id), args.into());
        }
        // Made here: the future may be dropped before it ever runs.
        let asked = asked.map(|(id, answer)| (Forget { own: self.own.clone(), id }, answer));
        Box::pin(async move {
            let (_forget, answer) = asked?;
            match timeout(patience, answer).await {
                Ok(answer) => answer.map_err(|_| NoAnswer::NotConnected),
                Err(_) => Err(NoAnswer::Timeout),
            }
        })
    }

    fn event(&self, event: &str, ack_id: Option<u64>, args: Args<'_>) {
        if socket_io::is_reserved(event) {
            tracing::error!(event, "an event with a name that Socket.IO keeps for itself is not sent");
            return;
        }
        let (json, attachments) = args.into_parts();
        let namespace = self.namespace();
        self.packet(EventLabel::of(event), &attachments, |packet| {
            if attachments.is_empty() {
                socket_io::event(packet, namespace, ack_id, event, &json, None);
            } else {
                socket_io::binary_event(packet, attachments.len(), namespace, ack_id, event, &json, None);
            }
        });
    }

    pub(crate) fn packet(&self, label: EventLabel, attachments: &[Bytes], write: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_connected() {
            return;
        }
        self.shard.send(&self.conn, attachments, |packet| {
            packet.push(b'4');
            write(packet);
        });
        self.space.metrics.sent(label).inc();
    }

    pub(crate) fn count(&self, label: EventLabel) {
        self.space.metrics.received(label).inc();
    }

    /// Puts the client into a room. Being in it already is no error.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn join(&self, room: &str) -> Result<(), JoinError> {
        let room = RoomName::try_from(room).map_err(|_| JoinError::InvalidName)?;
        if !self.is_connected() {
            return Err(JoinError::NotConnected);
        }
        // A recoverable session's record may reach the store a moment later, and the room may be opened a moment later:
        // nobody is told of the room by this.
        let joined = operations::join(&self.shard, &self.conn, &self.space, &room, now_ms());
        joined.map(drop).map_err(|refused| match refused {
            // A room that is not open yet is no reason not to be in it.
            JoinRefused::NotConnected | JoinRefused::Unavailable => JoinError::NotConnected,
            JoinRefused::TooManyRooms | JoinRefused::TooManyRoomsOfUser { .. } => JoinError::TooManyRooms,
        })
    }

    /// Takes the client out of a room; does nothing if it is not in it.
    pub fn leave(&self, room: &str) {
        if let (Ok(room), true) = (RoomName::try_from(room), self.is_connected()) {
            drop(operations::leave(&self.shard, &self.conn, &self.space, &room, now_ms()));
        }
    }

    /// The rooms the client is in. In `on_disconnect`, those it was in.
    pub fn rooms(&self) -> Vec<RoomName> {
        self.space.lock().rooms_of(self.conn.id)
    }

    /// Whether the client is in a room.
    pub fn is_in(&self, room: &str) -> bool {
        RoomName::try_from(room).is_ok_and(|room| self.space.lock().is_member(self.conn.id, &room))
    }

    /// To everybody else in the room. More rooms can be added; whoever is in several gets an event once.
    pub fn to(&self, room: &str) -> Broadcast {
        self.others().to(room)
    }

    /// To everybody else in the namespace.
    pub fn others(&self) -> Broadcast {
        Broadcast::new(self.shard.node.clone(), self.space.clone(), Some(self.conn.id))
    }

    /// The namespace, as a whole.
    pub fn io(&self) -> Io {
        Io::of_space(self.shard.node.clone(), self.space.clone())
    }

    /// A handle of this client for other threads.
    pub fn remote(&self) -> Remote {
        Remote::new(self.shard.node.clone(), self.space.clone(), self.conn.id)
    }

    /// Takes the client out of the namespace; its connection stays for other namespaces.
    pub fn disconnect(&self) {
        if self.is_connected() {
            let namespace = &self.space.key.namespace;
            self.packet(EventLabel::Other, &[], |packet| socket_io::disconnect(packet, namespace.as_str()));
            self.conn.session.borrow_mut().remove(namespace);
            crate::input::disconnect(&self.shard, &self.conn, namespace, CloseReason::Kicked);
        }
    }

    /// Closes the client's connection, with all its namespaces.
    pub fn close(&self) {
        self.shard.end(&self.conn, CloseReason::Kicked);
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("namespace", &self.namespace()).field("id", &self.id()).finish_non_exhaustive()
    }
}
