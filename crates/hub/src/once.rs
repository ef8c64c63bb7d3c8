//! Sending twice, publishing once: what senders call their messages, remembered for a while.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tidegate_types::{IdempotencyKey, Millis, Position, RoomName, UserId};

use crate::SpaceConfig;
use crate::seeded::{Seed, SeededMap};

/// Charged per entry beside its texts: two table entries and the allocations.
const OVERHEAD: usize = 320;

/// Makes a repeated send harmless: within `window_ms` the same sender's same key in the same room is the same message,
/// whatever it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Who sends: a user, or a backend by the id of its API key.
    pub sender: UserId,
    /// What the sender calls the message.
    pub key: IdempotencyKey,
    /// The id that the message gets if it is new.
    pub message_id: Arc<str>,
    /// For how long the key is remembered, ms.
    pub window_ms: u64,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    room: RoomName,
    sender: UserId,
    key: IdempotencyKey,
}

/// What the first send of a message was answered.
#[derive(Clone, Debug)]
pub(crate) struct First {
    pub message_id: Arc<str>,
    pub seq: u64,
    pub position: Option<Position>,
    until: Millis,
    /// Tells entries apart that expire at the same time.
    born: u64,
}

/// Messages that their senders may send again.
pub(crate) struct Once {
    first: SeededMap<Arc<Key>, First>,
    by_expiry: BTreeMap<(Millis, u64), Arc<Key>>,
    /// Those whose outcome the store has not told yet, by `seq`.
    undecided: FxHashMap<u64, Arc<Key>>,
    bytes: usize,
    born: u64,
    most: usize,
    most_bytes: usize,
}

impl Once {
    pub fn new(config: &SpaceConfig) -> Self {
        Self {
            first: SeededMap::with_hasher(Seed(config.hash_seed)),
            by_expiry: BTreeMap::new(),
            undecided: FxHashMap::default(),
            bytes: 0,
            born: 0,
            most: config.idempotency_entries,
            most_bytes: config.idempotency_bytes,
        }
    }

    pub fn find(&self, room: &RoomName, of: &Idempotency, now: Millis) -> Option<&First> {
        let key = Key { room: room.clone(), sender: of.sender.clone(), key: of.key.clone() };
        self.first.get(&key).filter(|first| first.until > now)
    }

    /// Remembers a message that has just been published.
    pub fn remember(
        &mut self,
        room: RoomName,
        of: Idempotency,
        seq: u64,
        position: Option<Position>,
        is_undecided: bool,
        now: Millis,
    ) {
        let Idempotency { sender, key, message_id, window_ms } = of;
        let key = Arc::new(Key { room, sender, key });
        // An expired one may still be there.
        self.forget(&key);
        self.born += 1;
        let first = First { message_id, seq, position, until: now.saturating_add(window_ms), born: self.born };
        self.bytes += cost(&key, &first);
        self.by_expiry.insert((first.until, first.born), key.clone());
        if is_undecided {
            self.undecided.insert(seq, key.clone());
        }
        self.first.insert(key, first);
        while self.first.len() > self.most || self.bytes > self.most_bytes {
            let Some((_, soonest)) = self.by_expiry.pop_first() else { break };
            self.forget(&soonest);
        }
    }

    /// The message is stored.
    pub fn appended(&mut self, seq: u64) {
        if !self.undecided.is_empty() {
            self.undecided.remove(&seq);
        }
    }

    /// The message never came to be: sending it again is a new try.
    pub fn failed(&mut self, seq: u64) {
        if let Some(key) = self.undecided.remove(&seq)
            && self.first.get(&key).is_some_and(|first| first.seq == seq)
        {
            self.forget(&key);
        }
    }

    pub fn forget_expired(&mut self, now: Millis) {
        while let Some(entry) = self.by_expiry.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.forget(&key);
        }
        if self.first.capacity() > 4_096 && self.first.len() * 4 < self.first.capacity() {
            self.first.shrink_to(self.first.len() * 2);
        }
    }

    fn forget(&mut self, key: &Arc<Key>) {
        let Some(first) = self.first.remove(key) else { return };
        self.bytes = self.bytes.saturating_sub(cost(key, &first));
        self.by_expiry.remove(&(first.until, first.born));
    }
}

fn cost(key: &Key, first: &First) -> usize {
    OVERHEAD + key.key.as_str().len() + key.sender.as_str().len() + key.room.as_str().len() + first.message_id.len()
}
