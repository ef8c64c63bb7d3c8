//! How much a client may: zones, their use by routes, and the reconnect wave.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A zone: a limit for each value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The name that routes and listeners refer to.
    pub name: Arc<str>,
    /// A template; a request for which it is empty is not limited.
    pub key: Arc<str>,
    /// What is limited.
    pub kind: ZoneKind,
    /// Requests beyond the rate that are let in, where a use does not say it; 0 in a connections zone, as the next two.
    pub burst: u32,
    /// Whether none of those is delayed.
    pub nodelay: bool,
    /// How many of those are not delayed (nginx delay=N).
    pub delay: u32,
    /// The answer beyond the limit, from 400 to 599.
    pub status: u16,
    /// Whether is only counted what would be refused or delayed.
    pub dry_run: bool,
    /// The most keys; beyond, a rate zone forgets the one unused for longest, a connections zone refuses.
    pub max_keys: usize,
    /// Whether the nodes of the cluster count together; never in a connections zone.
    pub shared: bool,
}

/// What a zone limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ZoneKind {
    /// Requests per time (nginx limit_req_zone).
    Rate(Rate),
    /// Active requests and streams (nginx limit_conn); at least 1.
    Connections(u32),
}

/// Requests per time: `10r/s`, `30r/m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    per_minute: bool,
}

impl Rate {
    /// The most requests of either unit; beyond, sums of thousandths could overflow.
    const MOST: u32 = 1_000_000;

    /// So many requests per second, from 1 to a million.
    pub fn per_second(requests: u32) -> Option<Self> {
        (1..=Self::MOST).contains(&requests).then_some(Self { requests, per_minute: false })
    }

    /// Reads `10r/s` or `30r/m`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wanted = || "is no rate; write for example \"10r/s\" or \"30r/m\"".to_owned();
        let (count, unit) = text.split_once("r/").ok_or_else(wanted)?;
        let per_minute = match unit {
            "s" => false,
            "m" => true,
            _ => return Err(wanted()),
        };
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wanted());
        }
        match count.parse() {
            Ok(requests @ 1..=Self::MOST) => Ok(Self { requests, per_minute }),
            Ok(0) => Err("must be at least one request".to_owned()),
            Ok(_) | Err(_) => Err(format!("must be at most {} requests", Self::MOST)),
        }
    }

    /// In requests per 1,000 seconds, as nginx counts; at least 1.
    pub fn per_1000_seconds(self) -> u64 {
        let requests = u64::from(self.requests) * 1_000;
        if self.per_minute { requests / 60 } else { requests }
    }
}

/// As in the file.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}r/{}", self.requests, if self.per_minute { 'm' } else { 's' })
    }
}

/// A zone as a route or a listener uses it; what it does not say itself is that of the zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneUse {
    /// The zone's name.
    pub zone: Arc<str>,
    /// Requests beyond the rate that are let in, delayed or not; 0 in a connections zone.
    pub burst: u32,
    /// Whether none of those is delayed; implies that `delay` means nothing.
    pub nodelay: bool,
    /// How many of those are not delayed (nginx delay=N).
    pub delay: u32,
    /// Whether is only counted what would be refused or delayed.
    pub dry_run: bool,
    /// The answer beyond the limit, from 400 to 599.
    pub status: u16,
}

impl Zone {
    /// Its use where nothing more is said.
    pub fn plain_use(&self) -> ZoneUse {
        ZoneUse {
            zone: self.name.clone(),
            burst: self.burst,
            nodelay: self.nodelay,
            delay: self.delay,
            dry_run: self.dry_run,
            status: self.status,
        }
    }
}

/// The reconnect wave: new WebSockets, event streams and Socket.IO sessions of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// How many per second; 0 is no limit.
    pub streams_per_second: u32,
    /// How many at once; at least 1 if there is a limit.
    pub burst: u32,
    /// Each refused one is told a random time between this and twice this.
    pub retry_after: Duration,
}

impl Default for Admission {
    fn default() -> Self {
        Self { streams_per_second: 0, burst: 0, retry_after: Duration::from_secs(2) }
    }
}
