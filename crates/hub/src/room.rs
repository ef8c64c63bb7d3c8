use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;
use tidegate_types::{Millis, Publication, RoomName, ShardId, ShardSet};

use crate::presence::RoomPresence;
use crate::rate::{Busy, Rate};
use crate::seeded::{Seed, SeededMap};
use crate::sizes::{Moved, Sizes};
use crate::start::is_over;
use crate::{RoomHead, RoomId};

/// Idle rooms are kept up to this number, so that a room that empties and fills again keeps its offsets; beyond it the
/// longest idle is forgotten.
pub(crate) const IDLE_ROOMS: usize = 65_536;

/// Where rooms that this space has no record of begin. Raised by every room forgotten.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Base {
    /// The last offset that such a room may have handed out.
    pub offset: u64,
    /// The highest unreplayable `seq` that such a room may have had.
    pub floor_seq: u64,
    /// The highest `seq` of a message of such a room that only the store may have.
    pub stored_seq: u64,
}

pub(crate) struct Room {
    pub id: RoomId,
    pub name: RoomName,
    /// The last offset assigned; may still wait for release.
    pub last_offset: u64,
    /// The last offset released.
    pub head_offset: u64,
    /// The offset before its first message; 0 if that is not known.
    pub began: u64,
    /// Messages released and still in memory, by `seq`.
    pub ring: VecDeque<Arc<Publication>>,
    /// The highest `seq` that can be replayed from nowhere: a cursor below it may have a gap.
    pub floor_seq: u64,
    /// The highest `seq` of a persistent message that has left the ring: a cursor below it needs the store.
    pub stored_seq: u64,
    /// Whether a message with exactly `stored_seq` is known to have been stored.
    pub stored_exact: bool,
    /// The highest `seq` of a persistent message.
    pub last_persistent_seq: u64,
    /// Members and listeners by shard.
    by_shard: SmallVec<[(ShardId, u32); 2]>,
    pub shards: ShardSet,
    /// Members and listeners.
    pub subscribers: u32,
    /// Messages assigned and not yet released.
    pub waiting: u32,
    /// Sessions without a connection that may come back to this room.
    pub held: u32,
    /// Of a space that follows: what has happened in the room is not known yet, or no more.
    pub opening: bool,
    /// As `opening`, and its members had been told of its messages up to `head_offset`.
    pub lost: bool,
    /// Whether the room stands in the queue of idle rooms.
    queued_idle: bool,
    /// When it came there.
    idle_since: Millis,
    /// Whether it is among those that may be the busiest.
    is_candidate: bool,
    /// Where it stands among the rooms of about its size.
    size_place: u32,
    pub rate: Rate,
    pub presence: RoomPresence,
}

impl Room {
    fn enter(&mut self, shard: ShardId) {
        self.subscribers += 1;
        self.shards.insert(shard);
        match self.by_shard.iter_mut().find(|(of, _)| *of == shard) {
            Some((_, count)) => *count += 1,
            None => self.by_shard.push((shard, 1)),
        }
    }

    fn exit(&mut self, shard: ShardId) {
        self.subscribers = self.subscribers.saturating_sub(1);
        let Some(index) = self.by_shard.iter().position(|(of, _)| *of == shard) else { return };
        let Some((_, count)) = self.by_shard.get_mut(index) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.by_shard.swap_remove(index);
            self.shards = ShardSet::EMPTY;
            for (of, _) in &self.by_shard {
                self.shards.insert(*of);
            }
        }
    }

    /// The room stands here, with nothing of it in memory.
    pub fn begin_at(&mut self, head: RoomHead) {
        (self.opening, self.lost) = (false, false);
        (self.last_offset, self.head_offset, self.began) = (head.offset, head.offset, head.began);
        (self.last_persistent_seq, self.stored_seq, self.floor_seq) = (head.seq, head.seq, head.trimmed_seq);
        self.stored_exact = head.seq > head.trimmed_seq;
    }

    fn is_idle(&self) -> bool {
        self.subscribers == 0 && self.waiting == 0 && self.held == 0 && self.ring.is_empty()
    }
}

/// The rooms of a space by name and by id.
pub(crate) struct Rooms {
    slots: Slab<Room>,
    by_name: SeededMap<RoomName, RoomId>,
    born: u64,
    pub base: Base,
    idle: VecDeque<RoomId>,
    /// The time of the last tick.
    pub clock: Millis,
    pub sizes: Sizes,
    pub busy: Busy,
}

impl Rooms {
    pub fn new(base: Base, seed: Seed) -> Self {
        Self {
            slots: Slab::new(),
            by_name: SeededMap::with_hasher(seed),
            born: 0,
            base,
            idle: VecDeque::new(),
            clock: 0,
            sizes: Sizes::default(),
            busy: Busy::default(),
        }
    }

    pub fn find(&self, name: &RoomName) -> Option<&Room> {
        self.by_name.get(name).and_then(|id| self.get(*id))
    }

    pub fn id(&self, name: &RoomName) -> Option<RoomId> {
        self.by_name.get(name).copied()
    }

    pub fn get(&self, id: RoomId) -> Option<&Room> {
        self.slots.get(slot(id)).filter(|room| room.id == id)
    }

    pub fn get_mut(&mut self, id: RoomId) -> Option<&mut Room> {
        self.slots.get_mut(slot(id)).filter(|room| room.id == id)
    }

    /// The room of that name, made if there is none.
    pub fn open(&mut self, name: &RoomName) -> RoomId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        self.born += 1;
        let entry = self.slots.vacant_entry();
        let id = RoomId((self.born << 32) | (entry.key() as u64 & 0xffff_ffff));
        entry.insert(Room {
            id,
            name: name.clone(),
            last_offset: self.base.offset,
            head_offset: self.base.offset,
            began: self.base.offset,
            ring: VecDeque::new(),
            floor_seq: self.base.floor_seq,
            stored_seq: self.base.stored_seq,
            stored_exact: false,
            last_persistent_seq: 0,
            by_shard: SmallVec::new(),
            shards: ShardSet::EMPTY,
            subscribers: 0,
            waiting: 0,
            held: 0,
            opening: false,
            lost: false,
            queued_idle: false,
            idle_since: 0,
            is_candidate: false,
            size_place: 0,
            rate: Rate::default(),
            presence: RoomPresence::default(),
        });
        self.by_name.insert(name.clone(), id);
        id
    }

    /// One more member or listener.
    pub fn enter(&mut self, id: RoomId, shard: ShardId) {
        if let Some(room) = self.get_mut(id) {
            let before = room.subscribers;
            room.enter(shard);
            self.resized(id, before);
        }
    }

    /// One member or listener less.
    pub fn exit(&mut self, id: RoomId, shard: ShardId) {
        if let Some(room) = self.get_mut(id) {
            let before = room.subscribers;
            room.exit(shard);
            self.resized(id, before);
        }
    }

    fn resized(&mut self, id: RoomId, before: u32) {
        let Some(room) = self.slots.get_mut(slot(id)) else { return };
        let Some(Moved { place, filled_by }) = self.sizes.moved(id, room.size_place, before, room.subscribers) else {
            return;
        };
        let old = std::mem::replace(&mut room.size_place, place);
        if let Some(room) = filled_by.and_then(|id| self.get_mut(id)) {
            room.size_place = old;
        }
    }

    /// Counts a message of the room.
    pub fn count_message(&mut self, id: RoomId, now: Millis) {
        let Some(room) = self.get_mut(id) else { return };
        let count = room.rate.count(now);
        if room.is_candidate || !Busy::asks(count) {
            return;
        }
        let rate = room.rate.per_second(now);
        if let Some(other) = self.busy.challenged().and_then(|other| self.get_mut(other)) {
            if other.rate.per_second(now) >= rate {
                return;
            }
            other.is_candidate = false;
        }
        self.busy.take_place(id);
        if let Some(room) = self.get_mut(id) {
            room.is_candidate = true;
        }
    }

    /// To be called when something that keeps a room alive has ended.
    pub fn settle(&mut self, id: RoomId) {
        let clock = self.clock;
        let Some(room) = self.get_mut(id) else { return };
        if room.is_idle() && !room.queued_idle {
            room.queued_idle = true;
            room.idle_since = clock;
            room.presence.forget_batch();
            self.idle.push_back(id);
        }
    }

    /// Forgets the longest idle rooms beyond `keep`. What comes after them starts beyond what they had handed out.
    pub fn forget_idle(&mut self, keep: usize) {
        while self.idle.len() > keep {
            let Some(id) = self.idle.pop_front() else { return };
            let Some(room) = self.get_mut(id) else { continue };
            room.queued_idle = false;
            if !room.is_idle() {
                continue;
            }
            let Some(room) = self.slots.try_remove(slot(id)) else { continue };
            self.by_name.remove(&room.name);
            self.base.offset = self.base.offset.max(room.last_offset);
            self.base.floor_seq = self.base.floor_seq.max(room.floor_seq);
            self.base.stored_seq = self.base.stored_seq.max(room.stored_seq);
        }
    }

    /// Takes out the room that has been idle longest, if it has been for `linger_ms` or more than `keep` are.
    pub fn take_idle(&mut self, linger_ms: u64, keep: usize) -> Option<Room> {
        loop {
            let id = *self.idle.front()?;
            let clock = self.clock;
            let crowded = self.idle.len() > keep;
            let waits = |room: &Room| room.is_idle() && !crowded && !is_over(linger_ms, room.idle_since, clock);
            if self.get(id).is_some_and(waits) {
                return None;
            }
            self.idle.pop_front();
            let Some(room) = self.get_mut(id) else { continue };
            room.queued_idle = false;
            if room.is_idle() {
                let room = self.slots.try_remove(slot(id))?;
                self.by_name.remove(&room.name);
                return Some(room);
            }
        }
    }

    /// The room at the place, and one more than the last place.
    pub fn at(&self, place: usize) -> Option<&Room> {
        self.slots.get(place)
    }

    pub fn end(&self) -> usize {
        self.slots.capacity()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Room> {
        self.slots.iter().map(|(_, room)| room)
    }
}

fn slot(id: RoomId) -> usize {
    (id.0 & 0xffff_ffff) as usize
}
