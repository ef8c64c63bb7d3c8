//! Ids and vocabulary shared by every crate of Tidegate.
//!
//! Pure: no I/O, no clock, no randomness. Names are parsed once, at the border (`TryFrom<&str>`); inside, a bad value
//! cannot exist. Isolation between tenants rests on [`SpaceKey`] and [`RoomKey`] being types, never joined strings.
//!
//! Start reading at [`Publication`]: it is what travels from a sender to everyone in a room.

mod close;
mod name;
mod node;
mod position;
mod presence;
mod publication;
mod text;

pub use close::{CloseReason, ErrorCode};
pub use name::{EventName, IdempotencyKey, InvalidName, Namespace, RoomKey, RoomName, SpaceKey, TenantId, UserId};
pub use node::{InvalidNodeId, NodeId, NodeNumber};
pub use position::{Bookmark, Epoch, InvalidPosition, Position, SessionOffset};
pub use presence::{InvalidStatus, PresenceInfo, Status};
pub use publication::{Class, Publication};
pub use text::{hex, push_hex, push_ip, push_number, push_socket_address};

/// Milliseconds since the Unix epoch. Pure crates never read a clock; the time comes in as an argument of this type.
pub type Millis = u64;

/// One worker thread of this process; a worker owns the connections that it accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// The most workers one process can have (a set of shards is one 64-bit word).
pub const MAX_SHARDS: u16 = 64;

/// A set of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet(pub u64);

impl ShardSet {
    /// The set with nothing in it.
    pub const EMPTY: Self = Self(0);

    /// Adds a shard. Shards at or above [`MAX_SHARDS`] are not representable and are ignored.
    pub fn insert(&mut self, shard: ShardId) {
        self.0 |= 1u64.checked_shl(u32::from(shard.0)).unwrap_or(0);
    }

    /// Whether the shard is in the set.
    pub fn contains(self, shard: ShardId) -> bool {
        self.0 & 1u64.checked_shl(u32::from(shard.0)).unwrap_or(0) != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The shards of the set, ascending.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let lowest = u16::try_from(rest.trailing_zeros()).ok().filter(|_| rest != 0)?;
            rest &= rest - 1;
            Some(ShardId(lowest))
        })
    }
}

/// A live connection (a Socket.IO socket in one namespace, or an SSE subscriber) of this process.
///
/// `slot` is reused after a close; `generation` tells the uses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// The worker that owns the connection.
    pub shard: ShardId,
    /// Index into the worker's table.
    pub slot: u32,
    /// How often the slot has been used before.
    pub generation: u32,
}

/// Where the process is in its life. Carried by a watch channel from the composition root to everything that lives long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepting and serving.
    Serving,
    /// Readiness fails; no new streams; live ones are told to move and are closed one by one.
    Draining,
    /// The deadline has passed: everything closes now.
    Closing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_shards_lists_what_was_put_in() {
        let mut set = ShardSet::EMPTY;
        assert_eq!(set.iter().count(), 0);
        for shard in [63, 0, 5, 64] {
            set.insert(ShardId(shard));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [ShardId(0), ShardId(5), ShardId(63)]);
        assert!(set.contains(ShardId(5)) && !set.contains(ShardId(6)) && !set.is_empty());
    }
}
