use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_hub::{CaughtUp, Idempotency, Lease, Pid, RoomHead, SessionRecord};
use tidegate_types::{
    Class, Epoch, EventName, Millis, NodeId, NodeNumber, Position, PresenceInfo, Publication, RoomName, SessionOffset,
    SpaceKey, UserId,
};
use tokio::sync::oneshot;

/// What makes many nodes one server: it gives each message its place in its room's order, keeps it, and tells every node
/// that follows the room.
///
/// No call blocks; each can be made from any thread. What is answered comes by a oneshot channel; what happens comes by
/// [`OnHeard`], from one thread, in the order in which it happened. Nothing waits without bound: a call that cannot be
/// carried out now is refused with something that can be tried again ([`Unavailable`]).
///
/// The order of a space: every node hears the messages of all rooms of one space that it follows in the order of `seq`.
pub trait Broker: Send + Sync + 'static {
    /// This process.
    fn node(&self) -> NodeId;

    /// Whether the broker can be reached now.
    fn is_connected(&self) -> bool;

    /// Assigns the message's numbers, keeps it and announces it. The answer comes when it is kept; it may come before or
    /// after the message itself is heard.
    ///
    /// Not for [`Class::Volatile`].
    fn publish(&self, message: Outgoing) -> oneshot::Receiver<Result<Placed, PublishError>>;

    /// Tells other nodes something that has no place in any order and is not kept: dropped while the broker cannot be
    /// reached. The teller does not hear it itself.
    fn signal(&self, to: Audience, body: Bytes);

    /// From now on the room's messages, signals and leases are heard: first [`Heard::Followed`], then the messages after
    /// it. Following what is followed already does nothing.
    fn follow(&self, space: &Arc<SpaceKey>, room: &RoomName);

    /// Starts over with all rooms of the space that are followed, as after a cut: [`Heard::OutOfTouch`], if it was not told
    /// yet, then [`Heard::CaughtUp`]. For a node that has heard what does not fit what it heard before.
    fn catch_up(&self, space: &Arc<SpaceKey>);

    /// Ends [`Broker::follow`]. What is on its way may still be heard.
    fn unfollow(&self, space: &Arc<SpaceKey>, room: &RoomName);

    /// Says that a user is in a room by way of this node, how present they are there, or (`None`) that they are no more.
    /// Kept until this node takes it back or dies; repeated by the broker itself when it was lost with the broker's memory.
    fn lease(&self, space: &Arc<SpaceKey>, room: &RoomName, user: &UserId, info: Option<PresenceInfo>);

    /// Where a room stands and who is in it, without following it: for who asks from outside. Nothing is made or changed by
    /// it; a room that nothing is known of stands where its next message would be counted from.
    fn look(&self, space: &Arc<SpaceKey>, room: &RoomName) -> oneshot::Receiver<Result<Look, Unavailable>>;

    /// Takes a session's record, so that nobody else can: `None` if there is no such session of this user, or somebody has
    /// taken it. From then on its former node cannot store it any more.
    fn claim(
        &self,
        space: &Arc<SpaceKey>,
        pid: &Pid,
        user: &UserId,
    ) -> oneshot::Receiver<Result<Option<Claimed>, Unavailable>>;

    /// Keeps a value under a name for a while, unless there is one: then that is the answer, and nothing changes.
    fn keep(&self, name: Name, value: Bytes, ttl_ms: u64) -> oneshot::Receiver<Result<Option<Bytes>, Unavailable>>;

    /// Replaces a value, whether there is one or not. `None` removes it.
    fn set(&self, name: Name, value: Option<Bytes>, ttl_ms: u64) -> oneshot::Receiver<Result<(), Unavailable>>;

    /// A value, left where it is.
    fn get(&self, name: Name) -> oneshot::Receiver<Result<Option<Bytes>, Unavailable>>;

    /// Takes a value away, so that nobody else gets it.
    fn take(&self, name: Name) -> oneshot::Receiver<Result<Option<Bytes>, Unavailable>>;

    /// Adds requests to buckets that all nodes share, each of a limit's key, and says how far each is ahead of its rate then,
    /// in thousandths of a request, in the order of `told`. How a bucket counts: `tidegate_balance::Bucket`.
    fn count(&self, told: Counted) -> oneshot::Receiver<Result<Vec<u64>, Unavailable>>;

    /// Says how many connections of a user (or, without one, of all users) of a space this node holds, and whether that is
    /// allowed: with `most`, the number only becomes `held` if the sum over all nodes is not above it then. Numbers of a node
    /// that dies go with it.
    fn seat(
        &self,
        space: &Arc<SpaceKey>,
        user: Option<&UserId>,
        held: u32,
        most: Option<u32>,
    ) -> oneshot::Receiver<Result<bool, Unavailable>>;

    /// The names kept of one kind, in one tenant's drawer or that of all tenants, with their values: at most `most`.
    fn list(&self, kind: Kind, most: usize) -> oneshot::Receiver<Result<Vec<(String, Bytes)>, Unavailable>>;
}

/// What one node has let through of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The limit. Its buckets lie together.
    pub limit: Box<str>,
    /// Thousandths of a request per second.
    pub rate: u64,
    /// Keys of the limit, any bytes, with the requests let through since they were last told.
    pub told: Vec<(Box<[u8]>, u32)>,
}

/// What is kept beside messages, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One-time tickets.
    Ticket,
    /// Revoked tokens and users.
    Revocation,
    /// Answers to requests with an Idempotency-Key.
    Replay,
}

/// Where a value is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// What it is for.
    pub kind: Kind,
    /// Any text: the broker keeps names of one kind apart whatever they hold.
    pub text: Box<str>,
}

/// A message on its way to the broker.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Tenant and namespace.
    pub space: Arc<SpaceKey>,
    /// The room.
    pub room: RoomName,
    /// The event's name.
    pub event: EventName,
    /// As [`Publication::data`].
    pub data: Bytes,
    /// As [`Publication::attachments`].
    pub attachments: Arc<[Bytes]>,
    /// What is promised; recoverable or persistent.
    pub class: Class,
    /// What the sender calls the message, if it may send it again.
    pub idempotency: Option<Box<Idempotency>>,
}

/// A message has its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its place in its room.
    pub position: Position,
    /// Its number in its space.
    pub seq: u64,
    /// When the broker accepted it, by the broker's clock, ms since the Unix epoch.
    pub timestamp_ms: Millis,
    /// Set when the message has been published before: the id that it was given then, and the numbers are those of then.
    pub duplicate: Option<Arc<str>>,
}

/// Why a message was not published. Sending it again may succeed; with an idempotency key it is published once even if
/// the broker had taken it (the answer may have been lost).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too much waits for the broker already.
    #[error("the broker is behind; send it again")]
    Behind,
    /// The broker cannot be reached, or did not answer in time: whether it has the message is not known.
    #[error("the broker cannot be reached; send it again")]
    Unavailable,
    /// The broker refused it: out of memory, read-only, or not permitted.
    #[error("the broker refused the message; send it again")]
    Refused,
}

/// A room at one moment; see [`Broker::look`].
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// The life of the space's counters.
    pub epoch: Epoch,
    /// Where the room stands.
    pub head: RoomHead,
    /// Who is in it, by way of any living node, this one too.
    pub leases: Vec<Lease>,
}

/// The broker cannot be reached, or did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster's broker cannot be reached; try again")]
pub struct Unavailable;

/// A session's record that has been claimed, and who had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The record.
    pub record: SessionRecord,
    /// Where the space's counters stood at that moment. A client that names more than this has seen what is lost.
    pub as_of: SessionOffset,
    /// The node that its client was connected to, if that node had not noticed its end: it is to be told.
    pub was_live_on: Option<NodeId>,
}

/// Whom a signal is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every node that follows the room.
    Room(Arc<SpaceKey>, RoomName),
    /// Every node.
    Nodes,
    /// One node.
    Node(NodeId),
}

/// Something that happened in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// The room is followed from here on: every message with a larger `seq` than `as_of` will be heard.
    ///
    /// It stands in the same order as the messages: what was published up to `as_of` in the rooms followed before has been
    /// heard before this. (A client may read the new room up to `as_of` at once. If a message of another room with a smaller
    /// `seq` came after that, the client's cursor would go back, and a cut in between would lose it.)
    Followed {
        /// Tenant and namespace.
        space: Arc<SpaceKey>,
        /// The room.
        room: RoomName,
        /// The life of the space's counters.
        epoch: Epoch,
        /// The space's last `seq` at that moment.
        as_of: u64,
        /// Where the room stood.
        head: RoomHead,
        /// Who is in it by way of other nodes.
        leases: Vec<Lease>,
    },
    /// A message of a followed room.
    Published(Arc<Publication>),
    /// A member of a followed room by way of another node came, changed or (`None`) went.
    Leased {
        /// Tenant and namespace.
        space: Arc<SpaceKey>,
        /// The room.
        room: RoomName,
        /// The node.
        node: NodeId,
        /// The user.
        user: UserId,
        /// How present.
        info: Option<PresenceInfo>,
    },
    /// Another node's signal.
    Signal {
        /// Who sent it.
        from: NodeId,
        /// To whom.
        to: Audience,
        /// What.
        body: Bytes,
    },
    /// From now on messages of the space may be missed, until [`Heard::CaughtUp`].
    OutOfTouch {
        /// Tenant and namespace.
        space: Arc<SpaceKey>,
    },
    /// In touch again: everything up to `as_of` is in here, everything after it will be heard.
    CaughtUp {
        /// Tenant and namespace.
        space: Arc<SpaceKey>,
        /// The life of the space's counters. If it is another one than before, what the broker had kept is lost in part
        /// or as a whole: each room begins again at its head, and its members are to be told.
        epoch: Epoch,
        /// The space's last `seq` at that moment.
        as_of: u64,
        /// All rooms of the space that this node follows.
        rooms: Vec<CaughtUp>,
    },
    /// All leases of another node in a followed room have ended: it was taken for dead.
    LeasesEnded {
        /// Tenant and namespace.
        space: Arc<SpaceKey>,
        /// The room.
        room: RoomName,
        /// The node.
        node: NodeId,
    },
    /// A node has died or left, and all that it held has been taken back. It may come back, under the same id, and say its
    /// leases again; in a room the end of the old ones ([`Heard::LeasesEnded`]) and the new ones come in order, with this
    /// they do not.
    NodeGone(NodeId),
    /// Whether the broker can be reached has changed.
    Connected(bool),
}

/// Called from the broker's thread with what happens, in order. It must not block.
///
/// What comes back, if anything, is to be waited for before the next call: this node's workers cannot take more now.
/// Meanwhile the broker takes in no more than it can hold; what it cannot hold it finds again as after any other break
/// ([`Heard::OutOfTouch`], then [`Heard::CaughtUp`]). So memory stays bounded, and nothing recoverable is lost.
pub type OnHeard = Arc<dyn Fn(Heard) -> Option<Pause> + Send + Sync>;

/// Resolves when more can be taken.
pub type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Names a node to its peers and to operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its life.
    pub id: NodeId,
    /// Its number, part of its session ids.
    pub number: NodeNumber,
}
