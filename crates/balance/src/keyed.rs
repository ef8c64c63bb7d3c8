//! A bounded table from hashed keys to small values, in order of use. Zones keep what they know of their clients here.
//!
//! Every entry has the same size whatever its key was: the key itself is not kept, only a keyed hash of 128 bits. Entries lie
//! in one slab, linked by their index twice: in their bucket's chain and in the order of use.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

/// What stands for a client's key in a zone: 128 bits of SipHash under a secret of this process, so that nobody can choose
/// keys that collide with somebody else's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash {
    low: u64,
    high: u64,
}

impl KeyHash {
    /// The hash as 16 bytes, to be shown to nodes with the same secret.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.high) << 64 | u128::from(self.low)).to_be_bytes()
    }

    /// A number that spreads keys over shards; independent of the bits that choose the bucket inside a table.
    pub fn spread(self) -> usize {
        // Truncation is what is wanted on 32 bits.
        #[allow(clippy::cast_possible_truncation)]
        let spread = self.high as usize;
        spread
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.high, self.low)
    }
}

/// Makes [`KeyHash`]es. The secret is random per process and given from outside.
#[derive(Clone)]
pub struct KeyHasher {
    start: SipHasher13,
}

impl KeyHasher {
    /// A hasher with that secret.
    pub fn new(secret: &[u8; 16]) -> Self {
        Self { start: SipHasher13::new_with_key(secret) }
    }

    /// The hash of a key's bytes.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let mut hasher = self.start;
        hasher.write(key);
        let hash = hasher.finish128();
        KeyHash { low: hash.h1, high: hash.h2 }
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher(***)")
    }
}

/// No entry.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Entry<T> {
    key: KeyHash,
    value: T,
    /// The next entry of the same bucket; of a free entry, the next free one.
    chain: u32,
    newer: u32,
    older: u32,
}

/// At most so many entries; see the module.
#[derive(Debug)]
pub(crate) struct KeyTable<T> {
    most: usize,
    len: usize,
    entries: Vec<Entry<T>>,
    /// The first entry of each bucket; a power of two of them.
    buckets: Vec<u32>,
    free: u32,
    newest: u32,
    oldest: u32,
}

/// Where an entry lies until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl<T> KeyTable<T> {
    /// An empty table; `most` of 0 counts as 1. Memory is taken as entries come.
    pub fn new(most: usize) -> Self {
        let most = most.clamp(1, NONE as usize - 1);
        Self { most, len: 0, entries: Vec::new(), buckets: vec![NONE; 16], free: NONE, newest: NONE, oldest: NONE }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_full(&self) -> bool {
        self.len >= self.most
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry<T>>() + self.buckets.capacity() * size_of::<u32>()
    }

    pub fn find(&self, key: KeyHash) -> Option<Slot> {
        let mut at = self.buckets.get(self.bucket(key)).copied().unwrap_or(NONE);
        while let Some(entry) = self.entry(at) {
            if entry.key == key {
                return Some(Slot(at));
            }
            at = entry.chain;
        }
        None
    }

    pub fn get(&self, slot: Slot) -> Option<&T> {
        self.entry(slot.0).map(|entry| &entry.value)
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.entry_mut(slot.0).map(|entry| &mut entry.value)
    }

    /// Adds a key that is not in the table, as the most recently used. `None`: the table is full.
    pub fn insert(&mut self, key: KeyHash, value: T) -> Option<Slot> {
        if self.is_full() {
            return None;
        }
        if self.len >= self.buckets.len() {
            self.spread_wider();
        }
        let entry = Entry { key, value, chain: NONE, newer: NONE, older: NONE };
        let at = if self.free == NONE {
            if self.entries.len() == self.entries.capacity() {
                // Doubling, as `push` does, but never beyond what can be used.
                let wanted = (self.entries.len() * 2).clamp(16, self.most.max(16));
                self.entries.reserve_exact(wanted - self.entries.len());
            }
            let at = u32::try_from(self.entries.len()).ok()?;
            self.entries.push(entry);
            at
        } else {
            let at = self.free;
            let place = self.entry_mut(at)?;
            let next = place.chain;
            *place = entry;
            self.free = next;
            at
        };
        self.chain_up(at);
        self.link_newest(at);
        self.len += 1;
        Some(Slot(at))
    }

    /// Makes the entry the most recently used one.
    pub fn touch(&mut self, slot: Slot) {
        if self.newest != slot.0 {
            self.unlink(slot.0);
            self.link_newest(slot.0);
        }
    }

    /// The least recently used entry.
    pub fn oldest(&self) -> Option<Slot> {
        (self.oldest != NONE).then_some(Slot(self.oldest))
    }

    pub fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.entry(slot.0) else { return };
        let (key, after) = (entry.key, entry.chain);
        let bucket = self.bucket(key);
        let mut at = self.buckets.get(bucket).copied().unwrap_or(NONE);
        if at == slot.0 {
            if let Some(head) = self.buckets.get_mut(bucket) {
                *head = after;
            }
        } else {
            while let Some(entry) = self.entry_mut(at) {
                if entry.chain == slot.0 {
                    entry.chain = after;
                    break;
                }
                at = entry.chain;
            }
        }
        self.unlink(slot.0);
        let free = self.free;
        if let Some(entry) = self.entry_mut(slot.0) {
            entry.chain = free;
        }
        self.free = slot.0;
        self.len -= 1;
    }

    fn entry(&self, at: u32) -> Option<&Entry<T>> {
        self.entries.get(at as usize)
    }

    fn entry_mut(&mut self, at: u32) -> Option<&mut Entry<T>> {
        self.entries.get_mut(at as usize)
    }

    fn bucket(&self, key: KeyHash) -> usize {
        // Truncation is what is wanted on 32 bits.
        #[allow(clippy::cast_possible_truncation)]
        let low = key.low as usize;
        low & (self.buckets.len() - 1)
    }

    fn chain_up(&mut self, at: u32) {
        let Some(key) = self.entry(at).map(|entry| entry.key) else { return };
        let bucket = self.bucket(key);
        let Some(head) = self.buckets.get_mut(bucket) else { return };
        let after = std::mem::replace(head, at);
        if let Some(entry) = self.entry_mut(at) {
            entry.chain = after;
        }
    }

    /// Twice the buckets. Only called while no entry is free, so that every entry belongs into a chain.
    fn spread_wider(&mut self) {
        let buckets = self.buckets.len() * 2;
        self.buckets = vec![NONE; buckets];
        for at in 0..self.entries.len() {
            if let Ok(at) = u32::try_from(at) {
                self.chain_up(at);
            }
        }
    }

    fn link_newest(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        if let Some(entry) = self.entry_mut(at) {
            entry.newer = NONE;
            entry.older = before;
        }
        match self.entry_mut(before) {
            Some(entry) => entry.newer = at,
            None => self.oldest = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(entry) = self.entry(at) else { return };
        let (newer, older) = (entry.newer, entry.older);
        match self.entry_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entry_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_depends_on_key_and_secret() {
        let (one, two) = (KeyHasher::new(&[1; 16]), KeyHasher::new(&[2; 16]));
        assert_eq!(one.hash(b"192.0.2.1"), one.hash(b"192.0.2.1"));
        assert_ne!(one.hash(b"192.0.2.1"), one.hash(b"192.0.2.2"));
        assert_ne!(one.hash(b"192.0.2.1"), two.hash(b"192.0.2.1"));
        assert_eq!(format!("{one:?}"), "KeyHasher(***)");
    }

    proptest! {
        #[test]
        fn the_table_is_a_bounded_map_in_order_of_use(steps in proptest::collection::vec((0u8..4, 0u8..60), 0..400)) {
            let hasher = KeyHasher::new(&[7; 16]);
            let mut table = KeyTable::new(40);
            // Oldest first.
            let mut model: Vec<(u8, u32)> = Vec::new();
            for (count, (step, key)) in (0u32..).zip(steps) {
                let hash = hasher.hash(&[key]);
                let at = model.iter().position(|(other, _)| *other == key);
                let slot = table.find(hash);
                prop_assert_eq!(slot.is_some(), at.is_some());
                match (step, slot, at) {
                    (0 | 1, None, None) => {
                        let inserted = table.insert(hash, count);
                        prop_assert_eq!(inserted.is_some(), model.len() < 40);
                        if inserted.is_some() {
                            model.push((key, count));
                        }
                    }
                    (2, Some(slot), Some(at)) => {
                        table.touch(slot);
                        let entry = model.remove(at);
                        model.push(entry);
                    }
                    (3, Some(slot), Some(at)) => {
                        table.remove(slot);
                        model.remove(at);
                    }
                    (_, Some(slot), Some(at)) => prop_assert_eq!(table.get(slot).copied(), Some(model[at].1)),
                    _ => {}
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.oldest().and_then(|slot| table.get(slot)).copied(), model.first().map(|entry| entry.1));
            }
            for (key, value) in &model {
                prop_assert_eq!(table.find(hasher.hash(&[*key])).and_then(|slot| table.get(slot)).copied(), Some(*value));
            }
            // The whole order, by taking the oldest off one after the other.
            for (_, value) in &model {
                let slot = table.oldest().unwrap();
                prop_assert_eq!(table.get(slot), Some(value));
                table.remove(slot);
            }
            prop_assert_eq!(table.len(), 0);
        }
    }
}
