//! Rates per key, exactly as nginx's `limit_req` counts them (`ngx_http_limit_req_module.c`): a leaky bucket in thousandths
//! of a request.
//!
//! Of each key a zone knows its excess: how far it is ahead of the rate. It leaks away with time, each request adds 1000 to
//! it, and a request that would lift it above the burst is rejected and not accounted.

use rustc_hash::FxHashMap;
use tidegate_types::Millis;

use crate::keyed::{KeyHash, KeyTable, Slot};

/// How many requests a zone lets through per second on average, in thousandths of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate(u32);

impl Rate {
    /// `requests` in a second (nginx `r/s`). `None` for 0, and beyond four million.
    pub fn per_second(requests: u32) -> Option<Self> {
        requests.checked_mul(1000).and_then(Self::thousandths)
    }

    /// `requests` in a minute (nginx `r/m`), rounded down to a thousandth per second as nginx does.
    pub fn per_minute(requests: u32) -> Option<Self> {
        u32::try_from(u64::from(requests) * 1000 / 60).ok().and_then(Self::thousandths)
    }

    /// Thousandths of a request per second. `None` for 0.
    pub fn thousandths(thousandths: u32) -> Option<Self> {
        (thousandths > 0).then_some(Self(thousandths))
    }

    /// What leaks in `ms` milliseconds, in thousandths.
    pub(crate) fn leaked(self, ms: u64) -> u64 {
        u64::from(self.0).saturating_mul(ms) / 1000
    }

    /// The first millisecond by which `excess` thousandths have leaked.
    fn time_for(self, excess: u64) -> u64 {
        excess.saturating_mul(1000).div_ceil(u64::from(self.0))
    }
}

/// How a place uses a zone: the parameters of nginx's `limit_req`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateUse {
    /// How many requests a key may be ahead of the rate.
    pub burst: u32,
    /// How many of those are not delayed (nginx `delay=N`, 0 by default); `None` delays none (`nodelay`).
    pub undelayed: Option<u32>,
}

/// What a client may be told of its quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Requests that a client at rest may send at once: burst + 1.
    pub limit: u64,
    /// Requests that it may still send now.
    pub remaining: u64,
    /// Milliseconds until it could send `limit` at once again.
    pub reset_ms: u64,
}

/// A zone's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateVerdict {
    /// The request may go on after `delay_ms` milliseconds (mostly 0).
    Pass {
        /// How long it is to wait.
        delay_ms: u64,
        /// What is left after it.
        quota: Quota,
    },
    /// The request is refused; nothing was accounted.
    Reject {
        /// The first moment at which it would pass, if the key sends nothing else until then.
        retry_after_ms: u64,
        /// What is left: nothing.
        quota: Quota,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Leak {
    /// Thousandths of a request ahead of the rate at `last`.
    pub excess: u64,
    pub last: Millis,
}

/// After so long without a request a key that is not ahead of the rate is forgotten when another one comes (nginx: 60 s).
const IDLE_MS: u64 = 60_000;
/// How many keys are looked at for that (nginx: two).
const FORGOTTEN_AT_ONCE: usize = 2;

/// The keys of one zone. When it is full, the least recently used key is forgotten, as in nginx.
///
/// With several zones on one request, nginx accounts only when all let it pass: [`ask`](Self::ask) the earlier ones,
/// [`take`](Self::take) from the last, then [`account`](Self::account) the earlier ones; the longest delay applies.
#[derive(Debug)]
pub struct RateZone {
    pub(crate) rate: Rate,
    pub(crate) keys: KeyTable<Leak>,
    /// In a zone shared with other nodes, see `shared.rs`: requests accounted that the others have not been told of.
    pub(crate) untold: Option<FxHashMap<KeyHash, u32>>,
}

impl RateZone {
    /// An empty zone of at most `max_keys` keys. Memory is taken as they come: see [`heap_bytes`](Self::heap_bytes).
    pub fn new(rate: Rate, max_keys: usize) -> Self {
        Self { rate, keys: KeyTable::new(max_keys), untold: None }
    }

    /// What would be answered to a request now; accounts nothing.
    pub fn ask(&mut self, key: KeyHash, usage: RateUse, now: Millis) -> RateVerdict {
        let (_, _, verdict) = self.look(key, usage, now);
        verdict
    }

    /// Answers a request, and accounts it if it passes.
    pub fn take(&mut self, key: KeyHash, usage: RateUse, now: Millis) -> RateVerdict {
        let (slot, excess, verdict) = self.look(key, usage, now);
        match verdict {
            RateVerdict::Pass { .. } => self.add(slot, key, excess, now),
            RateVerdict::Reject { .. } => {}
        }
        verdict
    }

    /// Accounts a request that was asked for before and passed the other zones; others of the same key may have come between,
    /// so that the delay is told again. Never rejects, as in nginx.
    pub fn account(&mut self, key: KeyHash, usage: RateUse, now: Millis) -> RateVerdict {
        let (slot, excess) = self.excess(key, now);
        self.add(slot, key, excess, now);
        self.pass(usage, excess)
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    /// Bytes on the heap: at most 48 per key, and 4 to 8 for its bucket.
    pub fn heap_bytes(&self) -> usize {
        self.keys.heap_bytes()
    }

    /// The key's excess if one more request came now.
    fn excess(&self, key: KeyHash, now: Millis) -> (Option<Slot>, u64) {
        let Some(slot) = self.keys.find(key) else { return (None, 0) };
        let Some(leak) = self.keys.get(slot) else { return (None, 0) };
        // Workers read their clocks apart: a little back in time is no time at all.
        let passed = now.saturating_sub(leak.last);
        (Some(slot), leak.excess.saturating_add(1000).saturating_sub(self.rate.leaked(passed)))
    }

    fn look(&mut self, key: KeyHash, usage: RateUse, now: Millis) -> (Option<Slot>, u64, RateVerdict) {
        let (slot, excess) = self.excess(key, now);
        if let Some(slot) = slot {
            self.keys.touch(slot);
        }
        let burst = u64::from(usage.burst) * 1000;
        if excess <= burst {
            return (slot, excess, self.pass(usage, excess));
        }
        // Counted from the last accounted request, where rounding began.
        let leak = slot.and_then(|slot| self.keys.get(slot)).copied().unwrap_or(Leak { excess, last: now });
        let due = leak.last.saturating_add(self.rate.time_for(leak.excess.saturating_add(1000).saturating_sub(burst)));
        let reset_ms = self.rate.time_for(excess);
        let quota = Quota { limit: u64::from(usage.burst) + 1, remaining: 0, reset_ms };
        (slot, excess, RateVerdict::Reject { retry_after_ms: due.saturating_sub(now), quota })
    }

    fn pass(&self, usage: RateUse, excess: u64) -> RateVerdict {
        let burst = u64::from(usage.burst) * 1000;
        let delayed = usage.undelayed.map_or(0, |undelayed| excess.saturating_sub(u64::from(undelayed) * 1000));
        // nginx rounds the delay down.
        let delay_ms = delayed.saturating_mul(1000) / u64::from(self.rate.0);
        let quota = Quota {
            limit: u64::from(usage.burst) + 1,
            remaining: burst.saturating_sub(excess) / 1000,
            reset_ms: self.rate.time_for(excess.saturating_add(1000)),
        };
        RateVerdict::Pass { delay_ms, quota }
    }

    fn add(&mut self, slot: Option<Slot>, key: KeyHash, excess: u64, now: Millis) {
        if let Some(leak) = slot.and_then(|slot| self.keys.get_mut(slot)) {
            *leak = Leak { excess, last: leak.last.max(now) };
            self.note(key);
            return;
        }
        self.forget_idle(now);
        if self.keys.is_full()
            && let Some(oldest) = self.keys.oldest()
        {
            self.keys.remove(oldest);
        }
        self.keys.insert(key, Leak { excess, last: now });
        self.note(key);
    }

    fn forget_idle(&mut self, now: Millis) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            let Some(slot) = self.keys.oldest() else { return };
            let Some(leak) = self.keys.get(slot) else { return };
            let passed = now.saturating_sub(leak.last);
            if passed < IDLE_MS || self.rate.leaked(passed) < leak.excess {
                return;
            }
            self.keys.remove(slot);
        }
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

    fn zone(per_second: u32) -> RateZone {
        RateZone::new(Rate::per_second(per_second).unwrap(), 1000)
    }

    const fn at_once(burst: u32) -> RateUse {
        RateUse { burst, undelayed: None }
    }

    const fn delayed_above(burst: u32, undelayed: u32) -> RateUse {
        RateUse { burst, undelayed: Some(undelayed) }
    }

    fn passes(verdict: RateVerdict) -> bool {
        matches!(verdict, RateVerdict::Pass { .. })
    }

    fn delay(verdict: RateVerdict) -> Option<u64> {
        match verdict {
            RateVerdict::Pass { delay_ms, .. } => Some(delay_ms),
            RateVerdict::Reject { .. } => None,
        }
    }

    #[test]
    fn five_per_second_with_a_burst_of_two_are_three_at_once_and_then_one_per_200_ms() {
        let mut zone = zone(5);
        let passed: Vec<u64> = (10_000..11_000).filter(|now| passes(zone.take(key(1), at_once(2), *now))).collect();
        assert_eq!(passed, [10_000, 10_001, 10_002, 10_200, 10_400, 10_600, 10_800]);
    }

    #[test]
    fn without_a_burst_requests_come_at_the_rate_or_not_at_all() {
        let mut zone = zone(1);
        let passed: Vec<u64> = (0..5_000).filter(|now| passes(zone.take(key(1), at_once(0), *now))).collect();
        assert_eq!(passed, [0, 1000, 2000, 3000, 4000]);
    }

    #[test]
    fn without_nodelay_each_of_the_burst_waits_its_turn() {
        let mut zone = zone(10);
        let delays: Vec<_> = (0..8).map(|_| delay(zone.take(key(1), delayed_above(5, 0), 500))).collect();
        assert_eq!(delays, [Some(0), Some(100), Some(200), Some(300), Some(400), Some(500), None, None]);
    }

    #[test]
    fn a_two_stage_limit_delays_what_is_above_its_first_stage() {
        // The example of nginx's guide: rate=5r/s, burst=12 delay=8.
        let mut zone = zone(5);
        let delays: Vec<_> = (0..14).map(|_| delay(zone.take(key(1), delayed_above(12, 8), 0))).collect();
        assert_eq!(delays[..9], [Some(0); 9]);
        assert_eq!(delays[9..], [Some(200), Some(400), Some(600), Some(800), None]);
    }

    #[test]
    fn a_rejected_request_is_not_accounted() {
        let mut zone = zone(1);
        assert!(passes(zone.take(key(1), at_once(0), 0)));
        for now in 1..1000 {
            assert!(!passes(zone.take(key(1), at_once(0), now)));
        }
        assert!(passes(zone.take(key(1), at_once(0), 1000)));
    }

    #[test]
    fn thirty_per_minute_is_one_in_two_seconds() {
        let mut zone = RateZone::new(Rate::per_minute(30).unwrap(), 10);
        let passed: Vec<u64> = (0..7_000).filter(|now| passes(zone.take(key(1), at_once(0), *now))).collect();
        assert_eq!(passed, [0, 2000, 4000, 6000]);
        assert_eq!(Rate::per_minute(1), Rate::thousandths(16), "rounded down as in nginx");
        assert_eq!((Rate::per_second(0), Rate::per_minute(0), Rate::per_second(u32::MAX)), (None, None, None));
    }

    #[test]
    fn the_quota_counts_down_and_tells_when_it_is_whole_again() {
        let mut zone = zone(10);
        let mut quota = |now| match zone.take(key(1), at_once(2), now) {
            RateVerdict::Pass { quota, .. } | RateVerdict::Reject { quota, .. } => {
                (quota.limit, quota.remaining, quota.reset_ms)
            }
        };
        assert_eq!(quota(0), (3, 2, 100));
        assert_eq!(quota(0), (3, 1, 200));
        assert_eq!(quota(0), (3, 0, 300));
        assert_eq!(quota(0), (3, 0, 300));
        assert_eq!(quota(300), (3, 2, 100));
    }

    #[test]
    fn the_clocks_of_two_workers_may_be_a_little_apart() {
        let mut zone = zone(1);
        assert!(passes(zone.take(key(1), at_once(1), 5_000)));
        assert!(passes(zone.take(key(1), at_once(1), 4_990)));
        assert!(!passes(zone.take(key(1), at_once(1), 5_999)));
        assert!(passes(zone.take(key(1), at_once(1), 6_000)));
    }

    #[test]
    fn a_full_zone_forgets_the_least_recently_used_key() {
        let mut zone = RateZone::new(Rate::per_second(1).unwrap(), 2);
        assert!(passes(zone.take(key(1), at_once(0), 0)));
        assert!(passes(zone.take(key(2), at_once(0), 0)));
        assert!(!passes(zone.take(key(1), at_once(0), 1)), "makes 1 the more recent one");
        assert!(passes(zone.take(key(3), at_once(0), 2)));
        assert!(!passes(zone.take(key(1), at_once(0), 3)));
        assert!(passes(zone.take(key(2), at_once(0), 4)), "2 was forgotten");
        assert_eq!(zone.len(), 2);
    }

    #[test]
    fn keys_that_have_been_quiet_for_a_minute_make_way() {
        let mut zone = zone(1);
        for name in 0..10 {
            zone.take(key(name), at_once(0), 0);
        }
        zone.take(key(100), at_once(0), 59_999);
        assert_eq!(zone.len(), 11);
        zone.take(key(101), at_once(0), 60_000);
        assert_eq!(zone.len(), 10);
    }

    #[test]
    fn a_hundred_thousand_keys_take_at_most_56_bytes_each() {
        let mut zone = RateZone::new(Rate::per_second(10).unwrap(), 100_000);
        assert!(zone.heap_bytes() < 100, "an unused zone costs nothing");
        for name in 0..150_000 {
            assert!(passes(zone.take(key(name), at_once(20), 0)));
        }
        assert_eq!(zone.len(), 100_000);
        assert!(zone.heap_bytes() <= 56 * 100_000, "{}", zone.heap_bytes());
    }

    /// nginx's arithmetic, as its source has it: one node per key, no eviction.
    #[derive(Default)]
    struct Nginx {
        nodes: std::collections::HashMap<u32, (i64, i64)>,
    }

    impl Nginx {
        fn excess(&self, name: u32, rate: i64, now: i64) -> Option<i64> {
            let (excess, last) = self.nodes.get(&name)?;
            let ms = (now - last).max(0);
            Some((excess - rate * ms / 1000 + 1000).max(0))
        }

        /// `ngx_http_limit_req_lookup` with `account`, and the delay of `ngx_http_limit_req_account`.
        fn request(&mut self, name: u32, rate: i64, burst: i64, delay: i64, now: i64) -> Option<u64> {
            let excess = self.excess(name, rate, now).unwrap_or(0);
            if excess > burst {
                return None;
            }
            let last = self.nodes.get(&name).map_or(now, |(_, last)| now.max(*last));
            self.nodes.insert(name, (excess, last));
            let wait = if excess <= delay { 0 } else { (excess - delay) * 1000 / rate };
            u64::try_from(wait).ok()
        }
    }

    proptest! {
        #[test]
        fn every_answer_is_that_of_nginx(
            rate in 1u32..5_000_000,
            burst in 0u32..30,
            undelayed in proptest::option::of(0u32..40),
            requests in proptest::collection::vec((0u32..4, 0u64..700), 0..200),
        ) {
            let mut zone = RateZone::new(Rate::thousandths(rate).unwrap(), 1000);
            let mut nginx = Nginx::default();
            let mut now = 1_000_000u64;
            for (name, pause) in requests {
                now += pause;
                let ours = delay(zone.take(key(name), RateUse { burst, undelayed }, now));
                let delayed = undelayed.map_or(i64::MAX / 2, |undelayed| i64::from(undelayed) * 1000);
                let theirs = nginx.request(name, i64::from(rate), i64::from(burst) * 1000, delayed, now.cast_signed());
                prop_assert_eq!(ours, theirs);
            }
        }

        #[test]
        fn a_rejected_request_passes_at_the_moment_it_was_told_and_not_before(
            rate in 1u32..100_000,
            burst in 0u32..5,
            pauses in proptest::collection::vec(0u64..300, 1..40),
        ) {
            let mut zone = RateZone::new(Rate::thousandths(rate).unwrap(), 10);
            let mut now = 1_000_000u64;
            for pause in pauses {
                now += pause;
                if let RateVerdict::Reject { retry_after_ms, .. } = zone.take(key(1), at_once(burst), now) {
                    prop_assert!(retry_after_ms > 0);
                    prop_assert!(!passes(zone.ask(key(1), at_once(burst), now + retry_after_ms - 1)));
                    prop_assert!(passes(zone.ask(key(1), at_once(burst), now + retry_after_ms)));
                }
            }
        }
    }
}
