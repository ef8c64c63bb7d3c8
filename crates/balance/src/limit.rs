use std::collections::VecDeque;
use std::hash::Hash;

use rustc_hash::FxHashMap;
use tidegate_types::Millis;

/// How much a [`TokenBucket`] lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketSettings {
    /// Tokens that come back per second.
    pub rate: u32,
    /// The most tokens that a bucket holds; a fresh bucket is full.
    pub burst: u32,
}

/// Lets `burst` through at once and `rate` a second on average. Counts in thousandths, so that no rate is rounded away.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    /// Thousandths of a token.
    level: u64,
    at: Millis,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(settings: BucketSettings, now: Millis) -> Self {
        Self { level: capacity(settings), at: now }
    }

    /// Takes `tokens` if there are so many; otherwise takes nothing and returns false.
    pub fn take(&mut self, settings: BucketSettings, tokens: u32, now: Millis) -> bool {
        self.refill(settings, now);
        let wanted = u64::from(tokens) * 1000;
        if self.level >= wanted {
            self.level -= wanted;
            true
        } else {
            false
        }
    }

    /// Milliseconds until `tokens` could be taken; `None` if the bucket can never hold so many.
    pub fn wait(&mut self, settings: BucketSettings, tokens: u32, now: Millis) -> Option<u64> {
        self.refill(settings, now);
        let wanted = u64::from(tokens) * 1000;
        if wanted > capacity(settings) {
            return None;
        }
        let missing = wanted.saturating_sub(self.level);
        if missing == 0 {
            return Some(0);
        }
        (settings.rate > 0).then(|| missing.div_ceil(u64::from(settings.rate)))
    }

    /// Whether nothing is known about the owner any more, so that a fresh bucket would be the same.
    pub fn is_full(&mut self, settings: BucketSettings, now: Millis) -> bool {
        self.refill(settings, now);
        self.level >= capacity(settings)
    }

    fn refill(&mut self, settings: BucketSettings, now: Millis) {
        // A clock that steps back gives no tokens and takes none.
        let elapsed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let gained = elapsed.saturating_mul(u64::from(settings.rate));
        self.level = self.level.saturating_add(gained).min(capacity(settings));
    }
}

fn capacity(settings: BucketSettings) -> u64 {
    u64::from(settings.burst) * 1000
}

/// One bucket per key, at most `max_keys` of them.
///
/// A bucket that has refilled is forgotten on the way; if all are in use, the least recently used one is forgotten, so
/// that memory is bounded whatever keys a client invents. Each call costs O(1) on average.
#[derive(Debug)]
pub struct KeyedBuckets<K> {
    settings: BucketSettings,
    max_keys: usize,
    buckets: FxHashMap<K, Slot>,
    /// Keys in order of use; an entry is stale when its stamp is not the slot's.
    order: VecDeque<(K, u64)>,
    stamp: u64,
}

#[derive(Debug)]
struct Slot {
    bucket: TokenBucket,
    stamp: u64,
}

/// How many entries of the order are looked at per call, so that idle keys go without a sweep.
const EVICTIONS_PER_CALL: usize = 2;

impl<K: Clone + Eq + Hash> KeyedBuckets<K> {
    /// An empty set; `max_keys` of 0 counts as 1.
    pub fn new(settings: BucketSettings, max_keys: usize) -> Self {
        let max_keys = max_keys.max(1);
        Self { settings, max_keys, buckets: FxHashMap::default(), order: VecDeque::new(), stamp: 0 }
    }

    /// Takes tokens from the key's bucket; see [`TokenBucket::take`].
    pub fn take(&mut self, key: &K, tokens: u32, now: Millis) -> bool {
        self.forget_idle(now);
        self.stamp += 1;
        let stamp = self.stamp;
        let settings = self.settings;
        if let Some(slot) = self.buckets.get_mut(key) {
            slot.stamp = stamp;
            let taken = slot.bucket.take(settings, tokens, now);
            self.touch(key, stamp);
            return taken;
        }
        while self.buckets.len() >= self.max_keys {
            self.forget_oldest();
        }
        let mut bucket = TokenBucket::new(settings, now);
        let taken = bucket.take(settings, tokens, now);
        self.buckets.insert(key.clone(), Slot { bucket, stamp });
        self.touch(key, stamp);
        taken
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    fn touch(&mut self, key: &K, stamp: u64) {
        self.order.push_back((key.clone(), stamp));
        // A key that is used again leaves a stale entry behind; compacting at twice the size keeps it O(1) on average.
        if self.order.len() > 2 * self.buckets.len() + 16 {
            let buckets = &self.buckets;
            self.order.retain(|(key, stamp)| buckets.get(key).is_some_and(|slot| slot.stamp == *stamp));
        }
    }

    fn forget_idle(&mut self, now: Millis) {
        for _ in 0..EVICTIONS_PER_CALL {
            let Some((key, stamp)) = self.order.front() else { return };
            match self.buckets.get_mut(key) {
                Some(slot) if slot.stamp == *stamp => {
                    if !slot.bucket.is_full(self.settings, now) {
                        return;
                    }
                    self.buckets.remove(key);
                }
                Some(_) | None => {}
            }
            self.order.pop_front();
        }
    }

    fn forget_oldest(&mut self) {
        match self.order.pop_front() {
            Some((key, stamp)) => {
                if self.buckets.get(&key).is_some_and(|slot| slot.stamp == stamp) {
                    self.buckets.remove(&key);
                }
            }
            None => self.buckets.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: BucketSettings = BucketSettings { rate: 100, burst: 200 };

    #[test]
    fn a_fresh_bucket_lets_the_burst_through_and_then_the_rate() {
        let mut bucket = TokenBucket::new(CHAT, 1_000);
        assert_eq!((0..300).filter(|_| bucket.take(CHAT, 1, 1_000)).count(), 200);
        assert!(!bucket.take(CHAT, 1, 1_009));
        assert!(bucket.take(CHAT, 1, 1_010));
        assert_eq!((0..300).filter(|_| bucket.take(CHAT, 1, 2_010)).count(), 100);
    }

    #[test]
    fn a_bucket_never_holds_more_than_its_burst() {
        let mut bucket = TokenBucket::new(CHAT, 0);
        assert_eq!((0..900).filter(|_| bucket.take(CHAT, 1, u64::MAX)).count(), 200);
    }

    #[test]
    fn a_clock_that_steps_back_neither_gives_nor_takes() {
        let mut bucket = TokenBucket::new(BucketSettings { rate: 1, burst: 1 }, 10_000);
        assert!(bucket.take(BucketSettings { rate: 1, burst: 1 }, 1, 10_000));
        assert!(!bucket.take(BucketSettings { rate: 1, burst: 1 }, 1, 0));
        assert!(!bucket.take(BucketSettings { rate: 1, burst: 1 }, 1, 10_999));
        assert!(bucket.take(BucketSettings { rate: 1, burst: 1 }, 1, 11_000));
    }

    #[test]
    fn the_wait_is_exact_and_a_want_beyond_the_burst_is_hopeless() {
        let mut bucket = TokenBucket::new(CHAT, 0);
        assert!(bucket.take(CHAT, 200, 0));
        assert_eq!(bucket.wait(CHAT, 1, 0), Some(10));
        assert_eq!(bucket.wait(CHAT, 1, 10), Some(0));
        assert_eq!(bucket.wait(CHAT, 201, 10), None);
        assert_eq!(TokenBucket { level: 0, at: 0 }.wait(BucketSettings { rate: 0, burst: 1 }, 1, 5), None);
    }

    #[test]
    fn keys_have_buckets_of_their_own() {
        let mut buckets = KeyedBuckets::new(BucketSettings { rate: 1, burst: 1 }, 10);
        assert!(buckets.take(&"a", 1, 0));
        assert!(!buckets.take(&"a", 1, 0));
        assert!(buckets.take(&"b", 1, 0));
    }

    #[test]
    fn invented_keys_do_not_grow_memory() {
        let mut buckets = KeyedBuckets::new(CHAT, 100);
        for key in 0..100_000u32 {
            assert!(buckets.take(&key, 1, 0));
            assert!(buckets.take(&(key / 2), 1, 0) || key > 0);
            assert!(buckets.len() <= 100 && buckets.order.len() <= 300, "{} {}", buckets.len(), buckets.order.len());
        }
    }

    #[test]
    fn the_least_recently_used_key_goes_first() {
        let mut buckets = KeyedBuckets::new(BucketSettings { rate: 1, burst: 1 }, 2);
        assert!(buckets.take(&"a", 1, 0));
        assert!(buckets.take(&"b", 1, 0));
        assert!(!buckets.take(&"a", 1, 0));
        assert!(buckets.take(&"c", 1, 0));
        assert!(!buckets.take(&"a", 1, 0), "a was used after b");
        assert!(buckets.take(&"b", 1, 0), "b was forgotten");
    }

    #[test]
    fn refilled_buckets_are_forgotten() {
        let mut buckets = KeyedBuckets::new(CHAT, 1000);
        for key in 0..100u32 {
            buckets.take(&key, 1, 0);
        }
        for _ in 0..100 {
            buckets.take(&1000, 1, 60_000);
        }
        assert_eq!(buckets.len(), 1);
    }
}
