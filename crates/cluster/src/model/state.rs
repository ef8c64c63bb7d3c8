use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_hub::{Pid, RoomHead, SessionRecord};
use tidegate_types::{
    Epoch, IdempotencyKey, Millis, NodeId, NodeNumber, PresenceInfo, Publication, RoomName, SpaceKey, UserId,
};

use super::RunId;
use crate::{Kind, Placed};

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The newest so many messages of a room are kept.
    pub messages_per_room: usize,
    /// The newest messages of a room are kept as long as those after each have together less than this, payload bytes;
    /// so the newest one is always kept.
    pub bytes_per_room: u64,
    /// A message older than this is not returned any more, ms.
    pub ttl_ms: u64,
    /// A room's record lives this long after it was last written to or followed, ms. Longer than `ttl_ms`.
    pub room_ttl_ms: u64,
    /// How long the record of a connected client's session is kept if its node says nothing more, ms.
    pub live_session_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            messages_per_room: 1_000,
            bytes_per_room: 16 * 1024 * 1024,
            ttl_ms: 3_600_000,
            room_ttl_ms: 24 * 3_600_000,
            live_session_ms: 24 * 3_600_000,
        }
    }
}

/// Everything that the server keeps. Cheap to copy: what is large is shared until it is written to.
#[derive(Clone, Default)]
pub(super) struct State {
    pub spaces: BTreeMap<Arc<SpaceKey>, Arc<Space>>,
    pub leases: BTreeMap<(Arc<SpaceKey>, RoomName), Arc<Leases>>,
    pub sessions: BTreeMap<Pid, Arc<Session>>,
    pub values: BTreeMap<(u8, Box<str>), Value>,
    /// Connections of a user, or of all, of each node.
    pub seats: BTreeMap<(Arc<SpaceKey>, Option<UserId>), BTreeMap<NodeId, u32>>,
    /// By limit and key.
    pub buckets: BTreeMap<(Box<str>, Box<[u8]>), tidegate_balance::Bucket>,
    pub members: BTreeMap<NodeId, Member>,
}

#[derive(Clone)]
pub(super) struct Space {
    pub epoch: Epoch,
    /// The last `seq` handed out.
    pub seq: u64,
    /// The life of the server that this was last written in, the one before, and `seq` when this one began.
    pub run: RunId,
    pub prev: RunId,
    pub base: u64,
    pub rooms: BTreeMap<RoomName, Arc<Room>>,
    pub once: BTreeMap<(RoomName, UserId, IdempotencyKey), Once>,
}

#[derive(Clone)]
pub(super) struct Room {
    pub head: RoomHead,
    /// Payload bytes of `log`.
    pub bytes: u64,
    pub log: VecDeque<Arc<Publication>>,
    pub expires_at: Millis,
}

/// Who is in a room.
#[derive(Clone, Default)]
pub(super) struct Leases {
    /// How often they have changed.
    pub version: u64,
    pub held: BTreeMap<(NodeId, UserId), PresenceInfo>,
}

/// What the first send of a message was answered.
#[derive(Clone)]
pub(super) struct Once {
    pub placed: Placed,
    pub message_id: Arc<str>,
    pub until: Millis,
}

#[derive(Clone)]
pub(super) struct Session {
    pub record: SessionRecord,
    pub owner: NodeId,
    /// Claimed, and not stored again since.
    pub taken: bool,
    pub expires_at: Millis,
}

#[derive(Clone)]
pub(super) struct Value {
    pub bytes: Bytes,
    pub expires_at: Millis,
}

#[derive(Clone)]
pub(super) struct Member {
    pub number: NodeNumber,
    pub beat_at: Millis,
    /// Who ends its leases, and until when nobody else may.
    pub claimed: Option<(NodeId, Millis)>,
}

/// Kinds in an order, for the key of a map.
pub(super) fn drawer(kind: Kind) -> u8 {
    match kind {
        Kind::Ticket => 0,
        Kind::Revocation => 1,
        Kind::Replay => 2,
    }
}
