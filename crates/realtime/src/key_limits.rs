use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;
use tidegate_auth::{ApiKey, ApiKeys, KeyRate};
use tidegate_balance::{BucketSettings, TokenBucket};
use tidegate_types::Millis;

/// The budgets of API keys that have one.
pub(crate) struct KeyLimits(FxHashMap<Box<str>, Mutex<TokenBucket>>);

impl KeyLimits {
    pub fn new(keys: &ApiKeys, now: Millis) -> Self {
        let of = |key: &ApiKey| {
            key.rate().map(|rate| (Box::from(key.id()), Mutex::new(TokenBucket::new(settings(rate), now))))
        };
        Self(keys.iter().filter_map(of).collect())
    }

    /// Takes so many requests' worth, at most a full budget; else the milliseconds until that would be let through.
    pub fn take(&self, key: &ApiKey, requests: u32, now: Millis) -> Result<(), Millis> {
        let (Some(rate), Some(bucket)) = (key.rate(), self.0.get(key.id())) else { return Ok(()) };
        let requests = requests.min(rate.burst);
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket.take(settings(rate), requests, now) {
            return Ok(());
        }
        Err(bucket.wait(settings(rate), requests, now).unwrap_or(1_000))
    }
}

fn settings(rate: KeyRate) -> BucketSettings {
    BucketSettings { rate: rate.per_second, burst: rate.burst }
}
