//! How much a key has open at the same time, as nginx's `limit_conn` counts it: requests until they end, so that a WebSocket or
//! an event stream counts for its life.

use crate::keyed::{KeyHash, KeyTable};

/// What a zone says to one more request of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// It is counted now; [`ConnectionZone::leave`] must be called once when it ends.
    Entered,
    /// The key has as many as it may have.
    AtLimit,
    /// No place for another key. Refused as in nginx, since it could not be counted.
    ZoneFull,
}

/// The keys of one zone that have something open. A key without is forgotten at once.
#[derive(Debug)]
pub struct ConnectionZone {
    keys: KeyTable<u32>,
}

impl ConnectionZone {
    /// An empty zone of at most `max_keys` keys at the same time. Memory is taken as they come.
    pub fn new(max_keys: usize) -> Self {
        Self { keys: KeyTable::new(max_keys) }
    }

    /// One more, if the key has fewer than `most`.
    pub fn enter(&mut self, key: KeyHash, most: u32) -> Entrance {
        if let Some(open) = self.keys.find(key).and_then(|slot| self.keys.get_mut(slot)) {
            if *open >= most {
                return Entrance::AtLimit;
            }
            *open += 1;
            return Entrance::Entered;
        }
        if most == 0 {
            return Entrance::AtLimit;
        }
        match self.keys.insert(key, 1) {
            Some(_) => Entrance::Entered,
            None => Entrance::ZoneFull,
        }
    }

    /// One that had entered has ended.
    pub fn leave(&mut self, key: KeyHash) {
        let Some(slot) = self.keys.find(key) else { return };
        let Some(open) = self.keys.get_mut(slot) else { return };
        *open -= 1;
        if *open == 0 {
            self.keys.remove(slot);
        }
    }

    /// How many the key has open.
    pub fn open(&self, key: KeyHash) -> u32 {
        self.keys.find(key).and_then(|slot| self.keys.get(slot)).copied().unwrap_or(0)
    }

    /// How many keys have something open.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    /// Bytes on the heap: at most 32 per key, and 4 to 8 for its bucket.
    pub fn heap_bytes(&self) -> usize {
        self.keys.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::KeyHasher;

    fn key(name: u32) -> KeyHash {
        KeyHasher::new(&[3; 16]).hash(&name.to_be_bytes())
    }

    #[test]
    fn the_twenty_first_of_a_client_waits_until_one_ends() {
        let mut zone = ConnectionZone::new(10);
        for _ in 0..20 {
            assert_eq!(zone.enter(key(1), 20), Entrance::Entered);
        }
        assert_eq!(zone.enter(key(1), 20), Entrance::AtLimit);
        assert_eq!(zone.enter(key(2), 20), Entrance::Entered);
        zone.leave(key(1));
        assert_eq!(zone.enter(key(1), 20), Entrance::Entered);
        assert_eq!((zone.open(key(1)), zone.open(key(2)), zone.open(key(3))), (20, 1, 0));
    }

    #[test]
    fn a_full_zone_refuses_strangers_and_knows_no_eviction() {
        let mut zone = ConnectionZone::new(2);
        assert_eq!(zone.enter(key(1), 5), Entrance::Entered);
        assert_eq!(zone.enter(key(2), 5), Entrance::Entered);
        assert_eq!(zone.enter(key(3), 5), Entrance::ZoneFull);
        assert_eq!(zone.enter(key(1), 5), Entrance::Entered);
        zone.leave(key(2));
        assert_eq!(zone.enter(key(3), 5), Entrance::Entered);
    }

    #[test]
    fn a_hundred_thousand_keys_take_at_most_40_bytes_each() {
        let mut zone = ConnectionZone::new(100_000);
        for name in 0..100_000 {
            assert_eq!(zone.enter(key(name), 1), Entrance::Entered);
        }
        assert!(zone.heap_bytes() <= 40 * 100_000, "{}", zone.heap_bytes());
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_naive_map(steps in proptest::collection::vec((any::<bool>(), 0u32..6), 0..200)) {
            let mut zone = ConnectionZone::new(4);
            let mut model = std::collections::HashMap::<u32, u32>::new();
            for (enter, name) in steps {
                let open = model.get(&name).copied().unwrap_or(0);
                if enter {
                    let expected = match (open, model.len()) {
                        (3, _) => Entrance::AtLimit,
                        (0, 4) => Entrance::ZoneFull,
                        _ => Entrance::Entered,
                    };
                    prop_assert_eq!(zone.enter(key(name), 3), expected);
                    if expected == Entrance::Entered {
                        model.insert(name, open + 1);
                    }
                } else if open > 0 {
                    zone.leave(key(name));
                    model.insert(name, open - 1);
                    model.retain(|_, open| *open > 0);
                }
                prop_assert_eq!(zone.open(key(name)), model.get(&name).copied().unwrap_or(0));
                prop_assert_eq!(zone.len(), model.len());
            }
        }
    }
}
