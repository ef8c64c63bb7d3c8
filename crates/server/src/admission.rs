//! Whether a request is let in: access lists, zones, and the pace at which streams may be opened.
//!
//! What a route asks of its clients is put together once, when the plan is made ([`Gate`]); a route that asks nothing has no gate,
//! and costs one test per request.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{ACCEPT, RETRY_AFTER, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use tidegate_balance::{BucketSettings, Quota, RateUse, RateVerdict, TokenBucket};
use tidegate_config::{Config, Listener, Route, ZoneUse};
use tidegate_metrics::{Counter, LimitMetrics, Metrics};
use tidegate_rules::{AccessList, Facts};
use tidegate_types::ErrorCode;

use crate::StartError;
use crate::zones::{self, Place, Zone};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATE_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RATE_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// What all listeners have in common. A reload makes new ones, which keep what has not changed.
#[derive(Debug)]
pub(crate) struct Limits {
    pub zones: Vec<Arc<Zone>>,
    pub wave: Option<Arc<Wave>>,
    /// Connections open in the process.
    pub connections: Arc<AtomicU32>,
}

impl Limits {
    /// Those of a config, after those of another one.
    ///
    /// # Errors
    /// A config built in code has a key that is no template.
    pub fn new(config: &Config, before: Option<&Self>, metrics: &Metrics) -> Result<Self, StartError> {
        Ok(Self {
            zones: zones::zones(&config.zones, secret(config), before.map_or(&[], |before| &before.zones), metrics)?,
            wave: Wave::of(config, before.and_then(|before| before.wave.as_ref()), metrics),
            connections: before.map(|before| before.connections.clone()).unwrap_or_default(),
        })
    }
}

fn secret(config: &Config) -> Option<&[u8]> {
    config.cluster.as_ref().map(|cluster| cluster.secret.expose().as_bytes())
}

/// What is asked of a client before a request of a route is served.
#[derive(Debug)]
pub(crate) struct Gate {
    access: AccessList,
    /// Zones that count rates and are meant.
    rates: Box<[Limit]>,
    /// Zones that count what is open, and are meant.
    connections: Box<[Limit]>,
    /// Zones of both kinds that only count what they would do.
    trials: Box<[Limit]>,
}

/// A zone as a route uses it.
#[derive(Debug)]
struct Limit {
    zone: Arc<Zone>,
    usage: RateUse,
    status: StatusCode,
    counted: LimitMetrics,
}

/// A request that is let in.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    /// It is served only after this.
    pub delay: Option<Duration>,
    /// Held until the exchange or the stream ends.
    pub places: Places,
}

/// What a request holds in zones of connections.
pub(crate) type Places = Box<[Place]>;

/// A request that is not let in.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub code: ErrorCode,
    pub message: &'static str,
    retry_after_s: Option<u64>,
    quota: Option<Quota>,
}

impl Refusal {
    fn of(status: StatusCode, code: ErrorCode, message: &'static str) -> Self {
        Self { status, code, message, retry_after_s: None, quota: None }
    }

    /// With the status that goes with the code.
    pub fn with(code: ErrorCode, message: &'static str) -> Self {
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::of(status, code, message)
    }

    /// `Retry-After` (RFC 9110 §10.2.3), and the three fields of draft-ietf-httpapi-ratelimit-headers up to its version 06:
    /// clients know those, and not the structured pair that followed.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(quota) = self.quota {
            headers.insert(RATE_LIMIT, quota.limit.into());
            headers.insert(RATE_REMAINING, quota.remaining.into());
            headers.insert(RATE_RESET, quota.reset_ms.div_ceil(1000).into());
        }
    }
}

/// The gate of a route behind a listener; `None` if nothing is asked. `route` of `None` is the realtime server, for which the
/// limits of the listener hold.
///
/// # Errors
/// A config built in code names a zone that does not exist, or has an access rule that is none.
pub(crate) fn gate(
    route: Option<&Route>,
    listener: &Listener,
    limits: &Limits,
    metrics: &Metrics,
) -> Result<Option<Arc<Gate>>, StartError> {
    let name: Arc<str> = route.map_or_else(|| "realtime".into(), |route| route.name.clone());
    let fault = |text: String| StartError::Config(format!("route {name:?}: {text}"));
    let rule = |text: &Arc<str>| text.parse().map_err(|error| fault(format!("access: {error}")));
    let rules = route.map_or(&[][..], |route| &route.access).iter().map(rule).collect::<Result<Vec<_>, _>>()?;
    let uses = route.and_then(|route| route.limits.as_ref()).unwrap_or(&listener.limits);
    if rules.is_empty() && uses.is_empty() {
        return Ok(None);
    }
    let (mut rates, mut connections, mut trials) = (Vec::new(), Vec::new(), Vec::new());
    for usage in uses {
        let zone = limits.zones.iter().find(|zone| *zone.name() == usage.zone);
        let zone = zone.ok_or_else(|| fault(format!("there is no limit {:?}", usage.zone)))?;
        let limit = Limit {
            zone: zone.clone(),
            usage: rate_use(usage),
            status: StatusCode::from_u16(usage.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS),
            counted: metrics.limit(&name, &usage.zone),
        };
        match (usage.dry_run, zone.counts_connections()) {
            (true, _) => trials.push(limit),
            (false, true) => connections.push(limit),
            (false, false) => rates.push(limit),
        }
    }
    Ok(Some(Arc::new(Gate {
        access: AccessList::new(rules),
        rates: rates.into(),
        connections: connections.into(),
        trials: trials.into(),
    })))
}

fn rate_use(usage: &ZoneUse) -> RateUse {
    RateUse { burst: usage.burst, undelayed: (!usage.nodelay).then_some(usage.delay) }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    /// The client, behind trusted proxies.
    pub client: SocketAddr,
    /// The peer of the connection.
    pub peer: SocketAddr,
}

impl Gate {
    /// Whether a request may be served, and when. Rates come before connections, as in nginx.
    ///
    /// # Errors
    /// It may not; the access list or a zone says so. `facts` are asked for keys, if there are any.
    pub fn admit<'a>(&self, asking: Asking, facts: &dyn Fn() -> Facts<'a>) -> Result<Admitted, Refusal> {
        if !self.access.allows(asking.client.ip()) {
            return Err(Refusal::with(ErrorCode::Forbidden, "Access denied"));
        }
        for trial in &self.trials {
            trial.would(asking.client, facts);
        }
        let delay_ms = self.take_rates(asking.client, facts)?;
        let mut places = Vec::new();
        for limit in &self.connections {
            let Some(key) = limit.zone.key(asking.client, facts) else { continue };
            match limit.zone.enter(key) {
                Some(place) => places.push(place),
                None => {
                    limit.counted.rejected.inc();
                    let message = "Too many requests and streams at the same time";
                    return Err(Refusal::of(limit.status, ErrorCode::RateLimited, message));
                }
            }
        }
        let delay = (delay_ms > 0).then(|| Duration::from_millis(delay_ms));
        Ok(Admitted { delay, places: places.into() })
    }

    /// As nginx: the first zone that rejects wins, requests are accounted only when all let them pass, and the longest delay applies.
    fn take_rates<'a>(&self, client: SocketAddr, facts: &dyn Fn() -> Facts<'a>) -> Result<u64, Refusal> {
        let Some((last, earlier)) = self.rates.split_last() else { return Ok(0) };
        for limit in earlier {
            if let Some(key) = limit.zone.key(client, facts) {
                limit.judge(limit.zone.ask(key, limit.usage))?;
            }
        }
        let mut longest: Option<(&Limit, u64)> = None;
        let mut delayed = |limit, delay_ms| {
            if delay_ms > longest.map_or(0, |(_, longest)| longest) {
                longest = Some((limit, delay_ms));
            }
        };
        if let Some(key) = last.zone.key(client, facts) {
            delayed(last, last.judge(last.zone.take(key, last.usage))?);
        }
        for limit in earlier {
            if let Some(key) = limit.zone.key(client, facts)
                && let Some(RateVerdict::Pass { delay_ms, .. }) = limit.zone.account(key, limit.usage)
            {
                delayed(limit, delay_ms);
            }
        }
        let Some((limit, delay_ms)) = longest else { return Ok(0) };
        limit.counted.delayed.inc();
        Ok(delay_ms)
    }
}

impl Limit {
    /// Milliseconds to wait, or the refusal.
    fn judge(&self, verdict: Option<RateVerdict>) -> Result<u64, Refusal> {
        match verdict {
            None => Ok(0),
            Some(RateVerdict::Pass { delay_ms, .. }) => Ok(delay_ms),
            Some(RateVerdict::Reject { retry_after_ms, quota }) => {
                self.counted.rejected.inc();
                let mut refusal = Refusal::of(self.status, ErrorCode::RateLimited, "Too many requests");
                refusal.retry_after_s = Some(retry_after_ms.div_ceil(1000).max(1));
                refusal.quota = Some(quota);
                Err(refusal)
            }
        }
    }

    /// Counts what the zone would do.
    fn would<'a>(&self, client: SocketAddr, facts: &dyn Fn() -> Facts<'a>) {
        let Some(key) = self.zone.key(client, facts) else { return };
        let held_back = match self.zone.take(key, self.usage) {
            Some(RateVerdict::Pass { delay_ms, .. }) => delay_ms > 0,
            Some(RateVerdict::Reject { .. }) => true,
            None => !self.zone.has_room(key),
        };
        if held_back {
            self.counted.dry_run.inc();
        }
    }
}

/// The pace at which WebSockets, event streams and Socket.IO sessions may be opened, in the whole process.
#[derive(Debug)]
pub(crate) struct Wave {
    settings: tidegate_config::Admission,
    bucket: Mutex<TokenBucket>,
    began: Instant,
    random: RandomState,
    refused: Counter,
}

impl Wave {
    /// That of a config, after another one; `None` if there is no limit.
    pub fn of(config: &Config, before: Option<&Arc<Self>>, metrics: &Metrics) -> Option<Arc<Self>> {
        let settings = config.admission.clone();
        if settings.streams_per_second == 0 {
            return None;
        }
        if let Some(known) = before.filter(|known| known.settings == settings) {
            return Some(known.clone());
        }
        let bucket = Mutex::new(TokenBucket::new(bucket_settings(&settings), 0));
        let refused = metrics.admission_refused.clone();
        Some(Arc::new(Self { settings, bucket, began: Instant::now(), random: RandomState::new(), refused }))
    }

    /// Whether the request may go on, if it opens a stream.
    ///
    /// # Errors
    /// There were too many of late.
    pub fn admit<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        if !opens_stream(request) {
            return Ok(());
        }
        let since = self.began.elapsed();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let taken = {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(bucket_settings(&self.settings), 1, now)
        };
        if taken {
            return Ok(());
        }
        self.refused.inc();
        let message = "Too many streams are being opened; try again later";
        let mut refusal = Refusal::with(ErrorCode::Unavailable, message);
        // Spread, so that those who were refused together do not come back together.
        let least = u64::try_from(self.settings.retry_after.as_millis()).unwrap_or(u64::MAX).max(1);
        let later = self.random.hash_one(since.as_nanos()) % least;
        refusal.retry_after_s = Some(least.saturating_add(later).div_ceil(1000));
        Err(refusal)
    }
}

fn bucket_settings(admission: &tidegate_config::Admission) -> BucketSettings {
    let rate = admission.streams_per_second;
    BucketSettings { rate, burst: if admission.burst == 0 { rate } else { admission.burst } }
}

/// Whether a request opens a WebSocket, an event stream or a Socket.IO session. One that names a session (`sid`) belongs to a
/// session that was let in before.
fn opens_stream<B>(request: &Request<B>) -> bool {
    let parameters = || request.uri().query().unwrap_or_default().split('&');
    let has = |name: &str| parameters().any(|pair| pair.split('=').next() == Some(name));
    if has("EIO") {
        return !has("sid") && request.method() == Method::GET;
    }
    let headers = request.headers();
    let upgrades = headers.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    upgrades || headers.get_all(ACCEPT).iter().any(accepts_events)
}

fn accepts_events(accept: &HeaderValue) -> bool {
    accept.as_bytes().split(|byte| *byte == b',').any(|range| {
        let media = range.split(|byte| *byte == b';').next().unwrap_or_default();
        media.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn what_opens_a_stream_is_told_from_what_goes_on_with_one() {
        for (target, headers) in [
            ("/ws", &[("upgrade", "WebSocket")][..]),
            ("/events", &[("accept", "text/html, text/event-stream;q=0.9")]),
            ("/socket.io/?EIO=4&transport=polling", &[]),
            ("/socket.io/?EIO=4&transport=websocket", &[("upgrade", "websocket")]),
        ] {
            assert!(opens_stream(&request(target, headers)), "{target}");
        }
        for (target, headers) in [
            ("/", &[("accept", "text/html")][..]),
            ("/socket.io/?EIO=4&transport=polling&sid=x", &[]),
            ("/socket.io/?EIO=4&transport=websocket&sid=x", &[("upgrade", "websocket")]),
            ("/?xEIO=4", &[]),
        ] {
            assert!(!opens_stream(&request(target, headers)), "{target}");
        }
    }

    #[test]
    fn those_who_are_refused_are_told_different_times() {
        let admission =
            tidegate_config::Admission { streams_per_second: 1, burst: 1, retry_after: Duration::from_secs(100) };
        let config = Config { admission, ..Config::default() };
        let wave = Wave::of(&config, None, &Metrics::new()).unwrap();
        let opening = request("/ws", &[("upgrade", "websocket")]);
        assert!(wave.admit(&opening).is_ok());
        let told: std::collections::BTreeSet<_> =
            (0..50).map(|_| wave.admit(&opening).unwrap_err().retry_after_s.unwrap()).collect();
        assert!(told.len() > 20 && told.iter().all(|seconds| (100..=200).contains(seconds)), "{told:?}");
        assert!(wave.admit(&request("/", &[])).is_ok());
        assert!(Arc::ptr_eq(&wave, &Wave::of(&config, Some(&wave), &Metrics::new()).unwrap()));
    }
}
