//! A space that is one of many: the numbers are assigned elsewhere, and this is what it hears of them.

use std::sync::Arc;

use tidegate_types::{NodeId, PresenceInfo, Publication, RoomName};

/// Where a room stands at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomHead {
    /// The last offset handed out in the room; 0 if none.
    pub offset: u64,
    /// The `seq` of that message; 0 if none.
    pub seq: u64,
    /// The highest `seq` of a message of the room that is no longer kept (or was never known to be kept): what a reader
    /// missed before that cannot be proven.
    pub trimmed_seq: u64,
    /// The offset before the room's first message, as far back as it is known.
    pub began: u64,
}

/// A member of a room by way of another node.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// The node that holds it.
    pub node: NodeId,
    /// The user, and how present they are there.
    pub info: PresenceInfo,
}

/// What a node that was out of touch finds when it looks at one of its rooms again.
#[derive(Clone, Debug, PartialEq)]
pub struct CaughtUp {
    /// The room.
    pub room: RoomName,
    /// Where it stands now (not beyond `as_of`).
    pub head: RoomHead,
    /// What was published after the last message heard, in the order of `seq`, up to the head: all of it, or, if
    /// `gap`, nothing.
    pub missed: Vec<Arc<Publication>>,
    /// What was missed is no longer kept: members are to be told.
    pub gap: bool,
    /// Who is in it by way of other nodes.
    pub leases: Vec<Lease>,
}

/// What became of something heard of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// It has been taken in.
    Taken,
    /// It was known already.
    Stale,
    /// Nobody here wants to hear of the room any more.
    NotFollowed,
    /// The room is not followed yet: [`Space::followed`](crate::Space::followed) will say where it stands, and that
    /// includes this message.
    Opening,
    /// The space is out of touch: [`Space::caught_up`](crate::Space::caught_up) will bring the message.
    OutOfTouch,
    /// Something before it has not been heard. The space is out of touch from now on: have it catch up.
    Hole,
    /// It is of another life of the counters than the space. It is out of touch from now on: have it catch up.
    OtherEpoch,
}
