//! What a route wants of its streams: how WebSockets are looked at and limited, how event streams are kept alive.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tidegate_balance::{BucketSettings, KeyedBuckets};
use tidegate_metrics::StreamLimit;
use tidegate_types::Millis;

/// How closely the frames of a WebSocket are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inspect {
    /// Not at all, beyond where frames end.
    #[default]
    Off,
    /// Messages, sizes and close codes are counted.
    Meter,
    /// Also held to RFC 6455: a peer that breaks it is closed with 1002 or 1007.
    Strict,
}

/// What a route wants of its WebSockets. Limits and pings look into the frames as [`Inspect::Meter`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSocketSettings {
    /// How closely to look.
    pub inspect: Inspect,
    /// The largest message from the client, bytes as sent, else 1009; 0 is no limit.
    pub max_message: u64,
    /// Messages per second from the client, else 1008; 0 is no limit.
    pub messages_per_second: u32,
    /// Messages at once; 0 is as many as per second.
    pub message_burst: u32,
    /// Bytes per second from the client, else 1008; 0 is no limit. A second's worth may come at once, but never less than
    /// one read of the gateway (64 KiB).
    pub bytes_per_second: u64,
    /// How often the gateway pings both ends; zero is never.
    pub ping_interval: Duration,
    /// How long a pong may take.
    pub ping_timeout: Duration,
    /// The longest silence of both directions; `None` is the upstream's.
    pub idle_timeout: Option<Duration>,
}

impl Default for WebSocketSettings {
    fn default() -> Self {
        Self {
            inspect: Inspect::Off,
            max_message: 0,
            messages_per_second: 0,
            message_burst: 0,
            bytes_per_second: 0,
            ping_interval: Duration::ZERO,
            ping_timeout: Duration::from_secs(20),
            idle_timeout: None,
        }
    }
}

/// The smallest burst of a limit in bytes: what one read can bring.
const READ: u32 = 64 * 1024;

/// Parts of the keyed buckets, so that workers seldom wait for each other.
const PARTS: usize = 16;

/// Keys that are remembered in each part. Beyond, the one that was used least recently is forgotten.
const KEYS_PER_PART: usize = 4096;

/// [`WebSocketSettings`] and the buckets of its keys, shared by all connections of a route in all workers.
#[derive(Debug)]
pub struct WebSocketPolicy {
    pub(crate) settings: WebSocketSettings,
    pub(crate) messages: Option<BucketSettings>,
    pub(crate) bytes: Option<BucketSettings>,
    hasher: RandomState,
    /// Made for the first key.
    keyed: OnceLock<Box<[Mutex<Keyed>]>>,
}

#[derive(Debug)]
struct Keyed {
    messages: Option<KeyedBuckets<u64>>,
    bytes: Option<KeyedBuckets<u64>>,
}

/// Whose connections share a limit. The key itself is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitKey(u64);

impl WebSocketPolicy {
    /// With full buckets.
    pub fn new(settings: WebSocketSettings) -> Arc<Self> {
        let rate = |rate: u64, burst: u64| {
            let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
            (rate > 0).then(|| BucketSettings { rate: narrow(rate), burst: narrow(burst) })
        };
        let per_second = u64::from(settings.messages_per_second);
        let burst = if settings.message_burst == 0 { per_second } else { u64::from(settings.message_burst) };
        Arc::new(Self {
            settings,
            messages: rate(per_second, burst),
            bytes: rate(settings.bytes_per_second, settings.bytes_per_second.max(u64::from(READ))),
            hasher: RandomState::new(),
            keyed: OnceLock::new(),
        })
    }

    /// As it was made.
    pub fn settings(&self) -> &WebSocketSettings {
        &self.settings
    }

    /// Whether frames must be looked into.
    pub(crate) fn looks_inside(&self) -> bool {
        let settings = &self.settings;
        settings.inspect != Inspect::Off
            || settings.max_message > 0
            || self.messages.is_some()
            || self.bytes.is_some()
            || !settings.ping_interval.is_zero()
    }

    /// An empty key is not limited.
    pub(crate) fn key(&self, key: &[u8]) -> Option<LimitKey> {
        let limited = !key.is_empty() && (self.messages.is_some() || self.bytes.is_some());
        limited.then(|| LimitKey(self.hasher.hash_one(key)))
    }

    /// Takes from the buckets of a key; what was gone beyond. `now` is the process's time.
    pub(crate) fn take(&self, key: LimitKey, messages: u32, bytes: u32, now: Millis) -> Result<(), StreamLimit> {
        let parts = self.keyed.get_or_init(|| {
            let buckets = |settings: Option<BucketSettings>| settings.map(|it| KeyedBuckets::new(it, KEYS_PER_PART));
            (0..PARTS)
                .map(|_| Mutex::new(Keyed { messages: buckets(self.messages), bytes: buckets(self.bytes) }))
                .collect()
        });
        let part = usize::try_from(key.0 % PARTS as u64).unwrap_or(0);
        let Some(part) = parts.get(part) else { return Ok(()) };
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = |buckets: Option<&mut KeyedBuckets<u64>>, tokens: u32| {
            tokens == 0 || buckets.is_none_or(|buckets| buckets.take(&key.0, tokens, now))
        };
        if !takes(part.messages.as_mut(), messages) {
            return Err(StreamLimit::KeyMessages);
        }
        if !takes(part.bytes.as_mut(), bytes) {
            return Err(StreamLimit::KeyBytes);
        }
        Ok(())
    }
}

/// The part of an exchange's terms that is for WebSockets.
#[derive(Clone, Debug)]
pub struct WebSocketTerms {
    /// The route's.
    pub policy: Arc<WebSocketPolicy>,
    /// Whose connections share the rates: the rendered key of the route; empty for each connection alone.
    pub key: Box<[u8]>,
}

/// What a route wants of its event streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPolicy {
    /// A comment is put in when the upstream was silent for so long; zero is never.
    pub heartbeat: Duration,
    /// After so long the stream ends between two events; zero is never.
    pub max_life: Duration,
    /// When clients are told to come back if the gateway ends the stream: each after a random time between this and twice
    /// this.
    pub retry: Duration,
}

impl Default for EventPolicy {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(30), max_life: Duration::ZERO, retry: Duration::from_secs(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_own_buckets_and_an_empty_one_has_none() {
        let policy = WebSocketPolicy::new(WebSocketSettings {
            messages_per_second: 2,
            bytes_per_second: 100_000,
            ..WebSocketSettings::default()
        });
        assert_eq!(policy.key(b""), None);
        let (one, other) = (policy.key(b"one").unwrap(), policy.key(b"other").unwrap());
        assert_eq!(policy.take(one, 2, 0, 0), Ok(()));
        assert_eq!(policy.take(one, 1, 0, 0), Err(StreamLimit::KeyMessages));
        assert_eq!(policy.take(other, 1, 100_000, 0), Ok(()));
        assert_eq!(policy.take(other, 0, 1, 0), Err(StreamLimit::KeyBytes));
        assert_eq!(policy.take(one, 2, 0, 1000), Ok(()), "a second later");
    }

    #[test]
    fn a_policy_that_asks_for_nothing_does_not_look_inside() {
        assert!(!WebSocketPolicy::new(WebSocketSettings::default()).looks_inside());
        let pings = WebSocketSettings { ping_interval: Duration::from_secs(1), ..WebSocketSettings::default() };
        assert!(WebSocketPolicy::new(pings).looks_inside());
    }
}
