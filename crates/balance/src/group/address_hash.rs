//! By the client's address, as nginx's `ngx_http_upstream_ip_hash_module.c`, to the bit.

use std::net::IpAddr;

use tidegate_types::Millis;

use super::tried::MAX_MISSES;
use super::{Group, Tried};

impl Group {
    /// The first three bytes of an IPv4 address (so a /24 goes to one server), all sixteen of an IPv6 address.
    pub(super) fn address_hash(&mut self, client: IpAddr, tried: &mut Tried, now: Millis) -> Option<usize> {
        let (v4, v6);
        let bytes: &[u8] = match client {
            IpAddr::V4(address) => {
                v4 = address.octets();
                v4.get(..3).unwrap_or_default()
            }
            IpAddr::V6(address) => {
                v6 = address.octets();
                &v6
            }
        };
        let Some(total) = self.total_weight() else { return self.round_robin(tried, now) };
        if !tried.begun {
            (tried.begun, tried.hash) = (true, 89);
        }
        while tried.misses <= MAX_MISSES {
            tried.hash = bytes.iter().fold(tried.hash, |hash, byte| (hash * 113 + u32::from(*byte)) % 6271);
            let index = self.by_weight(i64::from(tried.hash) % total);
            if let Some(index) = index.filter(|index| self.may(*index, tried, now)) {
                return Some(index);
            }
            tried.misses += 1;
        }
        self.round_robin(tried, now)
    }

    /// The weights of all servers that are no backups, whatever their state; `None` unless there are two at least.
    pub(super) fn total_weight(&self) -> Option<i64> {
        let primaries = self.peers.iter().filter(|peer| !peer.settings.backup);
        let (count, total) = primaries.fold((0, 0), |(count, total), peer| (count + 1, total + peer.weight()));
        (count >= 2).then_some(total)
    }

    /// The server that `place` falls on when they lie side by side, each as wide as its weight.
    pub(super) fn by_weight(&self, mut place: i64) -> Option<usize> {
        self.peers.iter().position(|peer| {
            if peer.settings.backup {
                return false;
            }
            place -= peer.weight();
            place < 0
        })
    }

    pub(super) fn may(&self, index: usize, tried: &Tried, now: Millis) -> bool {
        self.peers.get(index).is_some_and(|peer| !tried.contains(peer.id) && peer.serves(false, now))
    }
}
