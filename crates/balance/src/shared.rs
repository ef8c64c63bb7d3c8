//! One limit over many nodes: each decides by what it knows, and tells the others afterwards.
//!
//! A request is answered from the node's own [`RateZone`], without asking anybody. Now and then (every 50 ms) the node
//! tells one bucket for all, kept in the cluster's broker, how many requests of each key it has let through since; the
//! answer is how far the key is ahead of the rate in all nodes together ([`Bucket`] says how that is counted), and from then
//! on the node counts from there.
//!
//! What that costs in exactness: until it has told and heard, a node may let a key through as if it were alone. In any time
//! `t`, N nodes let at most `burst + 1 + rate × t` requests of a key through, and beyond that at most
//! `(N - 1) × (burst + 1 + rate × interval)`. Those are not forgiven: they are in the bucket, and nobody lets the key through
//! until they have leaked away, so that over a long time the rate is exact. A key that uses one node is counted exactly.

use tidegate_types::Millis;

use crate::keyed::KeyHash;
use crate::zone::{Leak, Rate, RateZone};

/// What a node has to tell of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The key. Nodes that share a zone hash their keys with the same secret.
    pub key: KeyHash,
    /// Requests let through since the last time, at least 1.
    pub requests: u32,
}

impl RateZone {
    /// From now on the zone keeps what is to be told to the other nodes.
    pub fn share(&mut self) {
        self.untold.get_or_insert_default();
    }

    pub(crate) fn note(&mut self, key: KeyHash) {
        let Some(untold) = &mut self.untold else { return };
        *untold.entry(key).or_default() += 1;
        // While nobody can be told, clients must not make this grow: what the zone has forgotten is not told either.
        if untold.len() > 2 * self.keys.len().max(64) {
            untold.retain(|key, _| self.keys.find(*key).is_some());
        }
    }

    /// Takes what is to be told now.
    pub fn tell(&mut self) -> Vec<Told> {
        let untold = self.untold.as_mut().map(std::mem::take).unwrap_or_default();
        untold.into_iter().map(|(key, requests)| Told { key, requests }).collect()
    }

    /// Telling came to nothing: to be told again. Of a key that the zone has forgotten meanwhile nothing is left to tell.
    pub fn untell(&mut self, told: &[Told]) {
        let Some(untold) = &mut self.untold else { return };
        for Told { key, requests } in told {
            if self.keys.find(*key).is_some() {
                let waiting = untold.entry(*key).or_default();
                *waiting = waiting.saturating_add(*requests);
            }
        }
    }

    /// Counts from what all nodes together have let through: `excess` thousandths of a request ahead of the rate now, in
    /// which everything told is counted.
    pub fn hear(&mut self, key: KeyHash, excess: u64, now: Millis) {
        let since = self.untold.as_ref().and_then(|untold| untold.get(&key)).copied().unwrap_or(0);
        let Some(leak) = self.keys.find(key).and_then(|slot| self.keys.get_mut(slot)) else { return };
        *leak = Leak { excess: excess.saturating_add(u64::from(since) * 1000), last: leak.last.max(now) };
    }
}

/// The bucket of one key for all nodes, as the broker counts it: as nginx's, but several requests at a time, and never
/// refusing. In thousandths of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket(Option<(u64, Millis)>);

impl Bucket {
    /// Adds requests let through; how far ahead of the rate the key is then. `now` is the broker's clock.
    pub fn add(&mut self, rate: Rate, requests: u32, now: Millis) -> u64 {
        let added = u64::from(requests) * 1000;
        let (excess, last) = match self.0 {
            // The first request of a key at rest is not ahead of anything.
            None => (added.saturating_sub(1000), now),
            Some((excess, last)) => {
                let passed = now.saturating_sub(last);
                (excess.saturating_add(added).saturating_sub(rate.leaked(passed)), last.max(now))
            }
        };
        self.0 = Some((excess, last));
        excess
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{KeyHasher, RateUse, RateVerdict};

    const INTERVAL: u64 = 50;

    fn key() -> KeyHash {
        KeyHasher::new(&[7; 16]).hash(b"somebody")
    }

    struct Cluster {
        rate: Rate,
        usage: RateUse,
        nodes: Vec<RateZone>,
        bucket: Bucket,
    }

    impl Cluster {
        fn new(nodes: usize, per_second: u32, burst: u32) -> Self {
            let rate = Rate::per_second(per_second).unwrap();
            let mut zones: Vec<_> = (0..nodes).map(|_| RateZone::new(rate, 100)).collect();
            zones.iter_mut().for_each(RateZone::share);
            Self { rate, usage: RateUse { burst, undelayed: None }, nodes: zones, bucket: Bucket::default() }
        }

        fn request(&mut self, node: usize, now: u64) -> bool {
            matches!(self.nodes[node].take(key(), self.usage, now), RateVerdict::Pass { .. })
        }

        fn sync(&mut self, node: usize, now: u64) {
            for Told { key, requests } in self.nodes[node].tell() {
                let excess = self.bucket.add(self.rate, requests, now);
                self.nodes[node].hear(key, excess, now);
            }
        }
    }

    #[test]
    fn a_key_that_uses_one_node_is_counted_as_if_there_were_no_others() {
        let mut cluster = Cluster::new(3, 5, 2);
        let mut alone = RateZone::new(Rate::per_second(5).unwrap(), 100);
        for now in 0..5_000 {
            let wanted = matches!(alone.take(key(), cluster.usage, now), RateVerdict::Pass { .. });
            assert_eq!(cluster.request(0, now), wanted, "at {now}");
            if now % INTERVAL == 0 {
                cluster.sync(0, now);
            }
        }
    }

    #[test]
    fn over_a_long_time_all_nodes_together_let_the_rate_through() {
        let mut cluster = Cluster::new(4, 10, 20);
        let mut passed = 0;
        for now in 0..60_000 {
            for node in 0..4 {
                passed += u64::from(cluster.request(node, now));
                if (now + node as u64 * 13).is_multiple_of(INTERVAL) {
                    cluster.sync(node, now);
                }
            }
        }
        // Alone they would let 4 × (21 + 600) through.
        assert!((590..=600 + 21 + 3 * 22).contains(&passed), "{passed}");
    }

    #[test]
    fn what_could_not_be_told_is_told_later() {
        let mut cluster = Cluster::new(2, 1, 4);
        assert!((0..5).all(|now| cluster.request(0, now)));
        let told = cluster.nodes[0].tell();
        assert_eq!(told, [Told { key: key(), requests: 5 }]);
        assert_eq!(cluster.nodes[0].tell(), []);
        cluster.nodes[0].untell(&told);
        cluster.sync(0, 10);
        assert!(cluster.request(1, 11));
        cluster.sync(1, 12);
        assert!(!cluster.request(1, 13), "all of it was used on the other node");
    }

    #[test]
    fn nobody_to_tell_costs_no_more_than_the_zone_itself() {
        let mut zone = RateZone::new(Rate::per_second(1).unwrap(), 100);
        zone.share();
        for name in 0..10_000u32 {
            let key = KeyHasher::new(&[7; 16]).hash(&name.to_be_bytes());
            zone.take(key, RateUse { burst: 1, undelayed: None }, 0);
        }
        assert!(zone.tell().len() <= 200);
    }

    #[test]
    fn a_zone_that_is_not_shared_keeps_nothing_to_tell() {
        let mut zone = RateZone::new(Rate::per_second(1).unwrap(), 10);
        zone.take(key(), RateUse { burst: 1, undelayed: None }, 0);
        assert_eq!(zone.tell(), []);
    }

    proptest! {
        #[test]
        fn no_window_lets_more_through_than_the_bound(
            nodes in 1usize..6,
            per_second in 1u32..50,
            burst in 0u32..20,
            requests in proptest::collection::vec((0usize..6, 0u64..40, 1u32..12), 1..120),
        ) {
            let mut cluster = Cluster::new(nodes, per_second, burst);
            let mut now = 0;
            let mut synced = 0;
            let mut passed: Vec<u64> = Vec::new();
            for (node, pause, count) in requests {
                for _ in 0..pause {
                    now += 1;
                    if now - synced >= INTERVAL {
                        synced = now;
                        (0..nodes).for_each(|node| cluster.sync(node, now));
                    }
                }
                for _ in 0..count {
                    if cluster.request(node % nodes, now) {
                        passed.push(now);
                    }
                }
            }
            let alone = |ms: u64| u64::from(burst) + 1 + (u64::from(per_second) * ms).div_ceil(1000);
            let beyond = (nodes as u64 - 1) * alone(INTERVAL);
            for (first, start) in passed.iter().enumerate() {
                for (last, end) in passed.iter().enumerate().skip(first) {
                    let most = alone(end - start) + beyond;
                    prop_assert!((last - first + 1) as u64 <= most, "{} in {} ms", last - first + 1, end - start);
                }
            }
        }
    }
}
