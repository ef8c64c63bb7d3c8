//! By a key: nginx's `ngx_http_upstream_hash_module.c`, to the bit, plain (Cache::Memcached) and consistent
//! (Cache::Memcached::Fast).

use tidegate_types::Millis;

use super::crc32::Crc32;
use super::tried::MAX_MISSES;
use super::weighted::smooth;
use super::{Group, Tried};

impl Group {
    /// Adds up `(crc32([step] key) >> 16) & 0x7fff`, the step left out the first time, modulo the weights.
    pub(super) fn key_hash(&mut self, key: &[u8], tried: &mut Tried, now: Millis) -> Option<usize> {
        let Some(total) = self.total_weight().filter(|_| !key.is_empty()) else { return self.round_robin(tried, now) };
        while tried.misses <= MAX_MISSES {
            let mut crc = Crc32::new();
            if tried.rehash > 0 {
                crc.update(tried.rehash.to_string().as_bytes());
            }
            crc.update(key);
            tried.hash = tried.hash.wrapping_add((crc.value() >> 16) & 0x7fff);
            tried.rehash += 1;
            let index = self.by_weight(i64::from(tried.hash) % total);
            if let Some(index) = index.filter(|index| self.may(*index, tried, now)) {
                return Some(index);
            }
            tried.misses += 1;
        }
        self.round_robin(tried, now)
    }

    /// The first server on the ring from the key's place on. With a `load_factor` above 100 those with more than their
    /// part are passed over.
    pub(super) fn consistent_hash(
        &mut self,
        key: &[u8],
        load_factor: u32,
        tried: &mut Tried,
        now: Millis,
    ) -> Option<usize> {
        if key.is_empty() || self.ring.is_empty() || self.total_weight().is_none() {
            return self.round_robin(tried, now);
        }
        if !tried.begun {
            let place = self.ring.place_of(Crc32::of(key));
            (tried.begun, tried.hash) = (true, place);
        }
        if load_factor > 100 {
            return self.bounded(load_factor, tried, now).or_else(|| self.round_robin(tried, now));
        }
        while tried.misses <= MAX_MISSES {
            let server = self.ring.server(tried.hash);
            // Several addresses of one name share its places and take turns.
            let found = smooth(&mut self.peers, now, |index, peer| {
                Some(self.ring.server_of(index)) == Some(server) && !tried.contains(peer.id) && peer.serves(false, now)
            });
            if found.is_some() {
                return found;
            }
            tried.hash = tried.hash.wrapping_add(1);
            tried.misses += 1;
        }
        self.round_robin(tried, now)
    }

    /// Consistent hashing with bounded loads: a server takes part while it has fewer live connections than `load_factor`
    /// percent of its part of all of them, this one included, rounded up.
    fn bounded(&mut self, load_factor: u32, tried: &mut Tried, now: Millis) -> Option<usize> {
        let candidates = || {
            self.peers
                .iter()
                .filter(|peer| !peer.settings.backup && !tried.contains(peer.id) && peer.serves(false, now))
        };
        let total: i128 = candidates().map(|peer| i128::from(peer.weight())).sum();
        let live: i128 = candidates().map(|peer| i128::from(peer.load.live())).sum();
        let has_room = |peer: &super::Peer| {
            let bound = i128::from(load_factor) * (live + 1) * i128::from(peer.weight());
            // live < bound / (100 × total), rounded up, without division.
            i128::from(peer.load.live()) * 100 * total < bound
        };
        if !candidates().any(has_room) {
            return None;
        }
        for _ in 0..self.ring.len() {
            let server = self.ring.server(tried.hash);
            let found = smooth(&mut self.peers, now, |index, peer| {
                self.ring.server_of(index) == server
                    && !tried.contains(peer.id)
                    && peer.serves(false, now)
                    && has_room(peer)
            });
            if found.is_some() {
                return found;
            }
            tried.hash = tried.hash.wrapping_add(1);
        }
        None
    }
}
