//! The power of two choices, as nginx's `random two least_conn`.

use tidegate_types::Millis;

use super::tried::MAX_MISSES;
use super::{Group, Tried};

/// SplitMix64: small, and good enough to draw servers with.
#[derive(Clone, Debug)]
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`.
    fn below(&mut self, bound: i64) -> i64 {
        let bound = u64::try_from(bound).unwrap_or(1).max(1);
        i64::try_from(self.next() % bound).unwrap_or(0)
    }
}

impl Group {
    /// Two servers are drawn by weight; the one with fewer live connections for its weight is taken.
    pub(super) fn random_two(&mut self, tried: &mut Tried, now: Millis) -> Option<usize> {
        let Some(total) = self.total_weight() else { return self.round_robin(tried, now) };
        let mut first: Option<usize> = None;
        while tried.misses <= MAX_MISSES {
            let place = self.random.below(total);
            let drawn = self.by_weight(place).filter(|index| first != Some(*index) && self.may(*index, tried, now));
            match (drawn, first) {
                (Some(second), Some(first)) => return Some(self.fewer(first, second, now)),
                (Some(drawn), None) => first = Some(drawn),
                (None, _) => tried.misses += 1,
            }
        }
        self.round_robin(tried, now)
    }

    fn fewer(&self, first: usize, second: usize, now: Millis) -> usize {
        let of = |index: usize| {
            let peer = self.peers.get(index);
            peer.map_or((0, 1), |peer| (i128::from(peer.load.live()), i128::from(peer.ramped(now))))
        };
        let ((live, weight), (other_live, other_weight)) = (of(second), of(first));
        if live * other_weight > other_live * weight { first } else { second }
    }
}
