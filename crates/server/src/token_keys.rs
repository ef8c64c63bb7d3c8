//! The keys that tokens are checked with, kept up to date: a JWKS file is looked at, a JWKS URL is fetched. All of that
//! happens on the control thread; who checks a token takes the keys that are there and never waits.
//!
//! Whatever goes wrong, the keys of before stay: an issuer that is down for an hour must not lock everybody out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tidegate_auth::{Jwks, Key, LiveKeys, MAX_JWKS_BYTES, Secrets};
use tidegate_config::Tokens;
use tidegate_metrics::{KeyFetch, KeyFetchLabels, Metrics};
use tidegate_outbound::{Endpoint, Outbound};
use tidegate_realtime::Node;
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, MissedTickBehavior};

use crate::plan::Plan;
use crate::reload::{Stamp, stamp};

/// How often a file is looked at, and whether somebody wished for newer keys is asked.
const LOOK: Duration = Duration::from_secs(1);
/// How long a fetch may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// An unknown key has the URL fetched again, but no more often than this: anybody can make tokens up.
const WISH_PACE: Duration = Duration::from_secs(10);
/// The pause after a first failure, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The keys that are there without a network. A file that cannot be read now is looked at again later.
pub(crate) fn open(tokens: &Tokens) -> LiveKeys {
    let file = tokens.jwks_file.as_deref().map(|path| read(path, tokens));
    let keys = match file {
        Some(Ok(found)) => found.keys,
        Some(Err(error)) => {
            tracing::warn!(error, "the keys in jwks_file cannot be used");
            Vec::new()
        }
        None => Vec::new(),
    };
    LiveKeys::new(tokens.key_set(keys))
}

/// Keeps the keys of every plan up to date, for as long as there are plans.
pub(crate) async fn keep(mut plans: watch::Receiver<Arc<Plan>>, node: Option<Arc<Node>>, metrics: Arc<Metrics>) {
    let mut kept: Vec<(Tokens, LiveKeys, AbortHandle)> = Vec::new();
    let mut is_first = true;
    loop {
        let plan = plans.borrow_and_update().clone();
        let edge = plan.config.jwt.as_ref().zip(plan.tokens.as_ref());
        let edge = edge.map(|(jwt, tokens)| (&jwt.tokens, tokens.keys()));
        let realtime = plan.config.realtime.as_ref().zip(node.as_ref());
        let realtime = realtime.map(|(realtime, node)| (&realtime.auth.tokens, node.keys()));
        let wanted: Vec<_> = edge.into_iter().chain(realtime).collect();
        kept.retain(|(tokens, keys, task)| {
            let stays = wanted.iter().any(|(wanted, live)| *wanted == tokens && live.is(keys));
            if !stays {
                task.abort();
            }
            stays
        });
        for (tokens, keys) in wanted {
            if kept.iter().any(|(known, live, _)| known == tokens && live.is(keys)) {
                continue;
            }
            let keeper = Keeper::new(tokens.clone(), keys.clone(), metrics.clone(), is_first);
            let task = spawn_local(keeper.run());
            kept.push((tokens.clone(), keys.clone(), task.abort_handle()));
        }
        is_first = false;
        drop(plan);
        if plans.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps one set of keys.
struct Keeper {
    tokens: Tokens,
    keys: LiveKeys,
    metrics: Arc<Metrics>,
    /// The keys were made from these settings already.
    fresh: bool,
    seen: Option<Stamp>,
    in_file: Vec<Key>,
    published: Option<Published>,
}

/// What a URL brought.
struct Published {
    url: Arc<str>,
    /// Made at the first fetch: it reads the system's roots.
    outbound: Option<Outbound>,
    document: Bytes,
    keys: Vec<Key>,
    tried: Option<Instant>,
    next: Instant,
    failures: u32,
}

impl Keeper {
    fn new(tokens: Tokens, keys: LiveKeys, metrics: Arc<Metrics>, fresh: bool) -> Self {
        let published = tokens.jwks_url.clone().map(|url| Published {
            url,
            outbound: None,
            document: Bytes::new(),
            keys: Vec::new(),
            tried: None,
            next: Instant::now(),
            failures: 0,
        });
        Self { tokens, keys, metrics, fresh, seen: None, in_file: Vec::new(), published }
    }

    async fn run(mut self) {
        if self.fresh && self.tokens.jwks_file.is_none() && self.tokens.jwks_url.is_none() {
            return;
        }
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Other settings than before take effect with what they bring, lest there be a moment without keys.
        let mut changed = !self.fresh;
        loop {
            looks.tick().await;
            changed |= self.look();
            changed |= self.fetch().await;
            if changed {
                let published = self.published.iter().flat_map(|published| &published.keys);
                let all: Vec<Key> = self.in_file.iter().chain(published).cloned().collect();
                self.keys.replace(self.tokens.key_set(all));
                changed = false;
            }
            if self.tokens.jwks_file.is_none() && self.published.is_none() {
                return;
            }
        }
    }

    /// Whether the file brought other keys.
    fn look(&mut self) -> bool {
        let Some(path) = self.tokens.jwks_file.as_deref() else { return false };
        // A file that is being replaced is not there for a moment.
        let Some(now) = stamp(path).filter(|now| self.seen != Some(*now)) else { return false };
        self.seen = Some(now);
        match read(path, &self.tokens) {
            Ok(found) => {
                tell(&found, "the keys of jwks_file are in use");
                self.in_file = found.keys;
                true
            }
            Err(error) => {
                tracing::warn!(error, "jwks_file cannot be used; the keys of before stay");
                false
            }
        }
    }

    /// Whether the URL brought other keys.
    async fn fetch(&mut self) -> bool {
        let Some(published) = &mut self.published else { return false };
        let now = Instant::now();
        let may_wish = published.tried.is_none_or(|tried| now >= tried + WISH_PACE);
        if now < published.next && !(may_wish && self.keys.take_wish()) {
            return false;
        }
        published.tried = Some(now);
        let fetched = published.get(&self.tokens).await;
        let result = if fetched.is_ok() { KeyFetch::Ok } else { KeyFetch::Failed };
        self.metrics.key_fetches.get_or_create(&KeyFetchLabels { result }).inc();
        match fetched {
            Ok(found) => {
                published.failures = 0;
                published.next = Instant::now() + self.tokens.jwks_refresh;
                let Some(found) = found else { return false };
                tell(&found, "the keys of jwks_url are in use");
                published.keys = found.keys;
                true
            }
            Err(error) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << published.failures.min(6)).min(LONGEST_PAUSE);
                published.failures += 1;
                published.next = Instant::now() + pause.min(self.tokens.jwks_refresh);
                let keys = published.keys.len();
                tracing::warn!(
                    error,
                    keys,
                    retry_s = pause.as_secs(),
                    "jwks_url cannot be used; the keys of before stay"
                );
                false
            }
        }
    }
}

impl Published {
    /// The document; `None` if it is the one of before.
    async fn get(&mut self, tokens: &Tokens) -> Result<Option<Jwks>, String> {
        let outbound = match self.outbound.take() {
            Some(outbound) => outbound,
            None => {
                let endpoint = Endpoint::new(&self.url, None).map_err(|error| error.to_string())?;
                Outbound::new(Arc::new(endpoint), MAX_JWKS_BYTES)
            }
        };
        let outbound = self.outbound.insert(outbound);
        // The host alone: a query may hold a key of its own.
        let host = outbound.endpoint().authority().to_owned();
        let called = outbound.call(Method::GET, HeaderMap::new(), Bytes::new(), PATIENCE).await;
        let response = called.map_err(|error| format!("{host}: {error}"))?;
        if response.status() != StatusCode::OK {
            return Err(format!("{host} answered with status {}", response.status().as_u16()));
        }
        let document = response.into_body();
        if document == self.document {
            return Ok(None);
        }
        let found = Jwks::parse(&document, &tokens.algorithms, Secrets::Refused);
        let found = found.map_err(|fault| format!("what {host} sends cannot be used: {fault}"))?;
        self.document = document;
        Ok(Some(found))
    }
}

fn read(path: &Path, tokens: &Tokens) -> Result<Jwks, String> {
    let shown = path.display();
    let length = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?.len();
    if usize::try_from(length).is_ok_and(|length| length > MAX_JWKS_BYTES) {
        return Err(format!("{shown} is longer than {MAX_JWKS_BYTES} bytes"));
    }
    let text = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    Jwks::parse(&text, &tokens.algorithms, Secrets::Accepted).map_err(|fault| format!("{shown}: {fault}"))
}

fn tell(found: &Jwks, what: &'static str) {
    for skipped in &found.skipped {
        tracing::warn!(key = skipped.id, reason = %skipped.fault, "a published key is not used");
    }
    tracing::info!(keys = found.keys.len(), "{what}");
}
