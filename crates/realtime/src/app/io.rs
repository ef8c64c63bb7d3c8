//! Handles that any thread may hold: a namespace as a whole, and one client of it.

use std::fmt;
use std::sync::Arc;

use tidegate_cluster::HistoryError;
use tidegate_hub::Message;
use tidegate_types::{Class, CloseReason, ConnId, EventName, Millis, Position, Publication, RoomKey, RoomName, UserId};
use tidegate_wire::socket_io;

use super::args::Args;
use super::broadcast::Broadcast;
use super::socket::Socket;
use crate::ask;
use crate::node::{Node, NotPublished, SpaceCell, now_ms};
use crate::signals::{self, Close, Closed};

/// A namespace as a whole, for one tenant: `Send`, `Sync`, cheap to clone. From [`Socket::io`], or from the running server.
#[derive(Clone)]
pub struct Io {
    node: Arc<Node>,
    pub(super) space: Arc<SpaceCell>,
}

/// Why a message is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No room can have that name: it is empty, longer than 256 bytes, or holds control characters.
    #[error("no room can have that name")]
    InvalidRoom,
    /// Socket.IO keeps the event's name for itself, or no event can have it.
    #[error("no event can have that name")]
    InvalidEvent,
    /// Too much waits for the history store.
    #[error("the history store is behind; publish it again")]
    StoreBehind,
    /// The store refused it.
    #[error("the message could not be stored; publish it again")]
    NotStored,
    /// The cluster's broker cannot take it now, or did not answer in time: whether it has the message is not known.
    #[error("the cluster's broker cannot be reached; publish it again")]
    Unreachable,
}

impl From<NotPublished> for PublishError {
    fn from(refused: NotPublished) -> Self {
        match refused {
            NotPublished::StoreBehind => Self::StoreBehind,
            NotPublished::NotStored => Self::NotStored,
            NotPublished::BrokerBehind | NotPublished::Unreachable => Self::Unreachable,
        }
    }
}

/// A message of a room's history.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its place in the room.
    pub position: Option<Position>,
    /// The event's name.
    pub event: String,
    /// The event's arguments.
    pub args: Args<'static>,
    /// When it was published, ms since the Unix epoch.
    pub timestamp_ms: Millis,
}

impl Io {
    pub(crate) fn of_space(node: Arc<Node>, space: Arc<SpaceCell>) -> Self {
        Self { node, space }
    }

    /// To everybody in the room. See [`Broadcast`].
    pub fn to(&self, room: &str) -> Broadcast {
        self.everybody().to(room)
    }

    /// To everybody in the namespace.
    pub fn everybody(&self) -> Broadcast {
        Broadcast::new(self.node.clone(), self.space.clone(), None)
    }

    /// Sends an event to everybody in the namespace.
    pub fn emit<'a>(&self, event: &str, args: impl Into<Args<'a>>) {
        self.everybody().emit(event, args);
    }

    /// Resolves when the workers can take more.
    pub async fn ready(&self) {
        self.node.publishable().await;
    }

    /// Publishes an event in a room: it gets its place in the room's order, all members get it in that order, and sessions
    /// that recover get what they missed. Not kept in the history.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish<'a>(
        &self,
        room: &str,
        event: &str,
        args: impl Into<Args<'a>>,
    ) -> Result<Option<Position>, PublishError> {
        let args = args.into().into_owned();
        self.place(room, event, args, Class::Recoverable).await
    }

    /// As [`Io::publish`], and kept in the room's history. Returns once it is as durable as the store's settings say.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish_persistent<'a>(
        &self,
        room: &str,
        event: &str,
        args: impl Into<Args<'a>>,
    ) -> Result<Option<Position>, PublishError> {
        let args = args.into().into_owned();
        self.place(room, event, args, Class::Persistent).await
    }

    async fn place(
        &self,
        room: &str,
        event: &str,
        args: Args<'static>,
        class: Class,
    ) -> Result<Option<Position>, PublishError> {
        let room = RoomName::try_from(room).map_err(|_| PublishError::InvalidRoom)?;
        let event = EventName::try_from(event).ok().filter(|_| !socket_io::is_reserved(event));
        let event = event.ok_or(PublishError::InvalidEvent)?;
        self.ready().await;
        let (json, attachments) = args.into_parts();
        let message = Message {
            room,
            event,
            data: json.into_owned().into(),
            attachments: attachments.into(),
            class,
            idempotency: None,
        };
        let published = self.node.publish(&self.space, message, now_ms())?.settled().await?;
        Ok(published.publication.position)
    }

    /// Messages of the room's history, oldest first: the newest `limit`, or with `since` the first `limit` after that
    /// position. Reads the store and blocks for as long: in async code, inside `tokio::task::spawn_blocking`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn history(&self, room: &str, since: Option<Position>, limit: usize) -> Result<Vec<Past>, HistoryError> {
        let Ok(room) = RoomName::try_from(room) else { return Ok(Vec::new()) };
        let epoch = self.space.lock().epoch();
        let key = RoomKey { tenant: self.space.key.tenant.clone(), namespace: self.space.key.namespace.clone(), room };
        let messages = match since.filter(|since| since.epoch == epoch) {
            Some(since) => self.node.history.read(&key, since.offset, limit)?,
            None => self.node.history.tail(&key, None, limit)?,
        };
        Ok(messages.iter().map(|message| Past::of(message)).collect())
    }

    /// How many clients are in the namespace by way of this node. In a cluster, other nodes have others.
    pub fn connections(&self) -> usize {
        self.space.lock().stats().connections
    }

    /// Closes the connections of a user of this tenant that are in this namespace, on all nodes of a cluster. Returns at
    /// once. A node that cannot be told now keeps its own.
    pub fn disconnect_user(&self, user: &str) {
        let Ok(user) = UserId::try_from(user) else { return };
        let whom = Closed::UserIn((*self.space.key).clone(), user);
        signals::close_everywhere(&self.node, Close { whom, terms: None });
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io").field("space", &self.space.key).finish_non_exhaustive()
    }
}

impl Past {
    fn of(publication: &Publication) -> Self {
        let json = String::from_utf8_lossy(&publication.data).into_owned();
        Self {
            position: publication.position,
            event: publication.event.as_str().to_owned(),
            args: Args::checked(json, publication.attachments.to_vec()),
            timestamp_ms: publication.timestamp_ms,
        }
    }
}

/// One client, for other threads: `Send`, `Sync`, cheap to clone. What is asked of it happens on the client's worker, in
/// the order in which one thread asks; a client that has left hears nothing.
#[derive(Clone)]
pub struct Remote {
    node: Arc<Node>,
    space: Arc<SpaceCell>,
    conn: ConnId,
}

impl Remote {
    pub(crate) fn new(node: Arc<Node>, space: Arc<SpaceCell>, conn: ConnId) -> Self {
        Self { node, space, conn }
    }

    /// Does something with the socket, on its worker.
    pub fn with(&self, work: impl FnOnce(&Socket) + Send + 'static) {
        let (space, id) = (self.space.clone(), self.conn);
        ask::tell_one(&self.node, self.conn.shard, move |shard| {
            let Some(conn) = shard.conn(id) else { return };
            let own = conn.with_socket(space.key.namespace.as_str(), |socket| socket.app.clone()).flatten();
            let Some(own) = own else { return };
            let socket = Socket::new(shard.clone(), conn, space, own);
            if super::guard::calmly("Remote::with", || work(&socket)).is_none() {
                shard.end(socket.conn(), CloseReason::InternalError);
            }
        });
    }

    /// See [`Socket::emit`].
    pub fn emit<'a>(&self, event: &str, args: impl Into<Args<'a>>) {
        let (event, args) = (event.to_owned(), args.into().into_owned());
        self.with(move |socket| socket.emit(&event, args));
    }

    /// See [`Socket::disconnect`].
    pub fn disconnect(&self) {
        self.with(Socket::disconnect);
    }

    /// The namespace, as a whole.
    pub fn io(&self) -> Io {
        Io::of_space(self.node.clone(), self.space.clone())
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("conn", &self.conn).finish_non_exhaustive()
    }
}
