use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashSet;
use tidegate_types::{Class, Millis, Publication};

use crate::RoomId;
use crate::room::{Room, Rooms};
use crate::start::elapsed;

/// Charged per message beside its payload, so that empty messages cannot grow the ring without bound.
const OVERHEAD: usize = 256;

/// The space-wide order of what lies in the rooms' rings: the oldest of the space is always the front of its own
/// room's ring, so that evicting by age and by bytes costs O(1) a message.
pub(crate) struct Ring {
    log: VecDeque<(RoomId, Millis)>,
    bytes: usize,
    window_ms: u64,
    max_bytes: usize,
    /// Whether the store has what has left the ring, whatever was promised of it.
    all_stored: bool,
}

impl Ring {
    pub fn new(window_ms: u64, max_bytes: usize, all_stored: bool) -> Self {
        Self { log: VecDeque::new(), bytes: 0, window_ms, max_bytes, all_stored }
    }

    /// Adds a released message, whose age counts from `at`; the caller calls `trim_bytes` afterwards.
    pub fn push(&mut self, room: &mut Room, publication: Arc<Publication>, at: Millis) {
        self.bytes += cost(&publication);
        self.log.push_back((room.id, at));
        room.ring.push_back(publication);
    }

    pub fn trim_bytes(&mut self, rooms: &mut Rooms) {
        while self.bytes > self.max_bytes && self.evict(rooms) {}
    }

    pub fn trim_age(&mut self, rooms: &mut Rooms, now: Millis) {
        while let Some((_, at)) = self.log.front() {
            if elapsed(now, *at) <= self.window_ms || !self.evict(rooms) {
                break;
            }
        }
        // What a burst has grown is given back once it has aged out.
        if self.log.capacity() > 4_096 && self.log.len() * 4 < self.log.capacity() {
            self.log.shrink_to(self.log.len() * 2);
        }
    }

    fn evict(&mut self, rooms: &mut Rooms) -> bool {
        let Some((id, _)) = self.log.pop_front() else { return false };
        let Some(room) = rooms.get_mut(id) else { return true };
        let Some(gone) = room.ring.pop_front() else { return true };
        self.bytes = self.bytes.saturating_sub(cost(&gone));
        match gone.class {
            Class::Recoverable | Class::Volatile if !self.all_stored => room.floor_seq = room.floor_seq.max(gone.seq),
            Class::Persistent | Class::Recoverable | Class::Volatile => {
                room.stored_exact = gone.seq >= room.stored_seq;
                room.stored_seq = room.stored_seq.max(gone.seq);
            }
        }
        if room.ring.is_empty() {
            room.ring = VecDeque::new();
            rooms.settle(id);
        }
        true
    }
}

impl Ring {
    /// Forgets what the rings of these rooms have.
    pub fn clear(&mut self, rooms: &mut Rooms, ids: &FxHashSet<RoomId>) {
        if ids.is_empty() {
            return;
        }
        self.log.retain(|(id, _)| !ids.contains(id));
        for id in ids {
            let Some(room) = rooms.get_mut(*id) else { continue };
            let ring = std::mem::take(&mut room.ring);
            self.bytes = self.bytes.saturating_sub(ring.iter().map(|publication| cost(publication)).sum());
        }
    }
}

fn cost(publication: &Publication) -> usize {
    publication.payload_bytes() + OVERHEAD
}

/// The room's messages with a larger `seq`.
pub(crate) fn after_seq(room: &Room, seq: u64) -> impl Iterator<Item = &Arc<Publication>> {
    let from = room.ring.partition_point(|publication| publication.seq <= seq);
    room.ring.iter().skip(from)
}

pub(crate) fn offset_of(publication: &Publication) -> u64 {
    publication.position.map_or(0, |position| position.offset)
}

/// Whether the room's ring has every message of its range. It has not if a clean stop saved it while messages were
/// still on their way into the store.
pub(crate) fn is_contiguous(room: &Room) -> bool {
    match (room.ring.front(), room.ring.back()) {
        (Some(front), Some(back)) => {
            let span = offset_of(back).saturating_sub(offset_of(front)).saturating_add(1);
            span == room.ring.len() as u64 && offset_of(back) == room.head_offset
        }
        _ => true,
    }
}
