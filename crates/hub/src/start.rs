use std::sync::Arc;

use tidegate_types::{Epoch, Millis, Publication, RoomName};

/// Sizes and windows of one space.
#[derive(Clone, Debug)]
pub struct SpaceConfig {
    /// How long a message stays in memory for replay, ms.
    pub ring_window_ms: u64,
    /// How much memory the replay rings of all rooms of the space may take together, bytes.
    pub ring_bytes: usize,
    /// How long after a cut a session can be resumed, ms.
    pub session_window_ms: u64,
    /// The shortest time between two presence messages of one room, ms.
    pub presence_coalesce_ms: u64,
    /// More diffs than this in one batch become one snapshot.
    pub presence_burst: usize,
    /// The most users a snapshot lists; rooms with more only get snapshots.
    pub presence_listed: usize,
    /// Whether the store outlives the process, so that numbers handed out must be reserved in it.
    pub durable: bool,
    /// How many numbers one reservation covers.
    pub reserve_block: u64,
    /// How many messages of a room the store keeps. A read of that many proves nothing about what lay before them.
    pub store_messages: usize,
    /// The most message ids remembered against repeated sends; beyond it the one that would expire first is forgotten.
    pub idempotency_entries: usize,
    /// How much memory those may take, bytes.
    pub idempotency_bytes: usize,
    /// Whether the numbers are assigned elsewhere and the space hears its messages; see [`Space::receive`](crate::Space::receive).
    pub follows: bool,
    /// Secret seed of the hash tables whose keys clients choose: random in a server, fixed in a test.
    pub hash_seed: [u64; 2],
}

impl Default for SpaceConfig {
    fn default() -> Self {
        Self {
            ring_window_ms: 120_000,
            ring_bytes: 64 << 20,
            session_window_ms: 120_000,
            presence_coalesce_ms: 100,
            presence_burst: 32,
            presence_listed: 256,
            durable: false,
            reserve_block: 1_024,
            store_messages: 1_000,
            idempotency_entries: 262_144,
            idempotency_bytes: 32 << 20,
            follows: false,
            hash_seed: [0; 2],
        }
    }
}

/// What the store knows when a space opens.
///
/// Which numbers may be used again? Of a persistent message none is handed out before the message is in the store, so
/// `last_seq` and `last_offset` cover those. A recoverable message is never stored; it leaves only if its `seq` is at or
/// below a number reserved in the store before. After an unclean stop everything up to `reserved_seq` may therefore
/// have been seen by a client: the space goes on beyond it, and cursors below it cannot be proven complete
/// (`floor_seq`). As an offset is never larger than the `seq` of the same message, `reserved_seq` bounds the offsets too.
///
/// A store must never report a smaller `reserved_seq` than it was once given in the same epoch, not even after a clean
/// stop: it also bounds the recoverable messages whose saved ring is gone at the next, unclean, start.
#[derive(Clone, Debug)]
pub struct SpaceStart {
    /// The life of the counters.
    pub epoch: Epoch,
    /// The highest `seq` in the store (unclean) or assigned (clean).
    pub last_seq: u64,
    /// The highest number reserved; 0 if none ever was, which proves that no recoverable message was ever handed out.
    pub reserved_seq: u64,
    /// Whether the last stop stored exact heads and the ring.
    pub clean: bool,
    /// The rooms that the store knows.
    pub rooms: Vec<RoomStart>,
    /// The replay ring saved by a clean stop, in `seq` order; empty after an unclean one.
    pub ring: Vec<Arc<Publication>>,
}

impl SpaceStart {
    /// A space that never existed before.
    pub fn fresh(epoch: Epoch) -> Self {
        Self { epoch, last_seq: 0, reserved_seq: 0, clean: true, rooms: Vec::new(), ring: Vec::new() }
    }
}

/// What the store knows of a room when its space opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomStart {
    /// The room.
    pub room: RoomName,
    /// The highest offset in the store (unclean) or assigned (clean).
    pub last_offset: u64,
    /// The highest `seq` of a persistent message of the room; 0 if none.
    pub last_persistent_seq: u64,
    /// The highest `seq` of a message of the room that can no longer be replayed from anywhere; 0 if none.
    pub floor_seq: u64,
}

/// Counts for `/stats` and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceStats {
    /// Rooms with at least one member or listener.
    pub rooms: usize,
    /// Memberships of connections and listeners in rooms.
    pub subscriptions: usize,
    /// Connections with a user.
    pub connections: usize,
    /// Distinct users with a connection.
    pub users: usize,
    /// Members and listeners of the largest room.
    pub largest_room: usize,
}

pub(crate) fn elapsed(now: Millis, since: Millis) -> Millis {
    now.saturating_sub(since)
}

/// Whether a wait is over. One that began in what is now the future is: the clock was set back meanwhile.
pub(crate) fn is_over(wait_ms: u64, since: Millis, now: Millis) -> bool {
    now.checked_sub(since).is_none_or(|elapsed| elapsed >= wait_ms)
}
