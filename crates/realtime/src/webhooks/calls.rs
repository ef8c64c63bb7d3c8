//! Calls to a receiver: signed, under a breaker, tried again with pauses.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use tidegate_balance::{Breaker, BreakerState, Permit, Verdict};
use tidegate_metrics::{WebhookDrop, WebhookMetrics, WebhookResult};
use tidegate_outbound::{Outbound, OutboundError};
use tidegate_types::SpaceKey;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::event::batch;
use super::queue::Queue;
use super::settings::WebhookSettings;
use super::signature::signature;
use crate::id::{self, Jitter};
use crate::node::now_ms;

const SIGNATURE: HeaderName = HeaderName::from_static("tidegate-signature");
const ID: HeaderName = HeaderName::from_static("tidegate-webhook-id");

/// The largest answer, bytes.
pub(super) const MOST_ANSWER: usize = 1 << 20;
/// Between a failure and the next try; twice as long each time, and between half and all of it, so that the workers of
/// many processes do not come back at once.
const FIRST_PAUSE_MS: u64 = 100;
const LONGEST_PAUSE_MS: u64 = 30_000;
/// Events told in one call.
const BATCH_EVENTS: usize = 100;
/// And their bytes.
const BATCH_BYTES: usize = 256 << 10;

/// One webhook, shared by the workers.
pub(crate) struct Webhook {
    pub(super) settings: WebhookSettings,
    breaker: Mutex<Breaker>,
    permits: Semaphore,
    queue: Queue,
    metrics: WebhookMetrics,
}

/// Why a call brought no answer, and whether another try may.
#[derive(Debug)]
struct Failure {
    result: WebhookResult,
    why: String,
    again: bool,
    /// How long the breaker refuses.
    wait_ms: u64,
}

impl Failure {
    fn new(result: WebhookResult, why: String, again: bool) -> Self {
        Self { result, why, again, wait_ms: 0 }
    }
}

/// A call that the breaker has let through; a future that is dropped says nothing about the receiver.
struct Passage<'a> {
    webhook: &'a Webhook,
    permit: Option<Permit>,
}

impl Passage<'_> {
    fn ended(mut self, verdict: Verdict) {
        self.end(verdict);
    }

    fn end(&mut self, verdict: Verdict) {
        if let Some(permit) = self.permit.take() {
            let turned = self.webhook.breaker().ended(permit, verdict, now_ms());
            self.webhook.turned(turned);
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.end(Verdict::Unknown);
    }
}

impl Webhook {
    pub fn new(settings: WebhookSettings, metrics: WebhookMetrics) -> Self {
        Self {
            breaker: Mutex::new(Breaker::new(settings.breaker)),
            permits: Semaphore::new(settings.max_in_flight.max(1)),
            queue: Queue::new(settings.queue_events.max(1), settings.queue_bytes),
            metrics,
            settings,
        }
    }

    pub fn concerns(&self, space: &SpaceKey) -> bool {
        self.settings.concerns(space)
    }

    pub fn client(&self) -> Outbound {
        Outbound::new(self.settings.endpoint.clone(), MOST_ANSWER)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turned(&self, turned: Option<BreakerState>) {
        let Some(state) = turned else { return };
        let webhook = &*self.settings.name;
        self.metrics.breaker.set(match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        });
        match state {
            BreakerState::Open => tracing::warn!(webhook, "a webhook's breaker has opened: its receiver is not called"),
            BreakerState::HalfOpen => tracing::info!(webhook, "a webhook's breaker makes its trials"),
            BreakerState::Closed => tracing::info!(webhook, "a webhook's breaker has closed"),
        }
    }

    /// Asks, and brings the answer's body. Ends within the webhook's timeout, tries and pauses and all: somebody waits.
    ///
    /// # Errors
    /// Why there is no answer, for the log.
    pub async fn ask(&self, client: &Outbound, body: Bytes) -> Result<Bytes, String> {
        let deadline = Instant::now() + self.settings.timeout;
        let asked = self.ask_until(client, body, deadline).await;
        asked.map_err(|failure| {
            let (webhook, result, error) = (&*self.settings.name, failure.result.as_str(), &*failure.why);
            // One line for each question would drown the log while a receiver is down: the breaker has told already.
            match failure.result {
                WebhookResult::BreakerOpen => tracing::debug!(webhook, result, error, "a webhook was not asked"),
                WebhookResult::Ok
                | WebhookResult::Rejected
                | WebhookResult::Failed
                | WebhookResult::Timeout
                | WebhookResult::Unreachable
                | WebhookResult::Busy => tracing::warn!(webhook, result, error, "a webhook was asked in vain"),
            }
            failure.why
        })
    }

    async fn ask_until(&self, client: &Outbound, body: Bytes, deadline: Instant) -> Result<Bytes, Failure> {
        let Ok(Ok(_permit)) = timeout_at(deadline, self.permits.acquire()).await else {
            let busy = Failure::new(WebhookResult::Busy, "too many calls are under way".to_owned(), false);
            return Err(self.count(busy));
        };
        let id = call_id();
        let mut pauses = Pauses::new();
        for left in (0..=self.settings.retries).rev() {
            let patience = deadline.saturating_duration_since(Instant::now());
            let failure = match self.call(client, &id, body.clone(), patience).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let pause = pauses.next();
            if left == 0 || !failure.again || Instant::now() + pause >= deadline {
                return Err(failure);
            }
            sleep(pause).await;
        }
        Err(Failure::new(WebhookResult::Timeout, "no answer in time".to_owned(), false))
    }

    fn count(&self, failure: Failure) -> Failure {
        self.metrics.calls(failure.result).inc();
        failure
    }

    /// One try. Each has its own time in its signature; the id is that of the call.
    async fn call(&self, client: &Outbound, id: &str, body: Bytes, patience: Duration) -> Result<Bytes, Failure> {
        let (admitted, turned) = self.breaker().admit(now_ms());
        self.turned(turned);
        let permit = admitted.map_err(|refused| {
            let open = Failure::new(WebhookResult::BreakerOpen, "the breaker is open".to_owned(), false);
            self.count(Failure { wait_ms: refused.retry_after_ms, ..open })
        })?;
        let passage = Passage { webhook: self, permit: Some(permit) };
        let signed = signature(&self.settings.secret, now_ms() / 1_000, &body);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, const { HeaderValue::from_static("application/json") });
        headers.extend(HeaderValue::from_str(&signed).ok().map(|value| (SIGNATURE, value)));
        headers.extend(HeaderValue::from_str(id).ok().map(|value| (ID, value)));
        let started = std::time::Instant::now();
        let answer = client.call(Method::POST, headers, body, patience).await;
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        let (verdict, outcome) = match answer {
            Ok(answer) if answer.status().is_success() => (Verdict::Good, Ok(answer.into_body())),
            Ok(answer) => {
                let status = answer.status();
                let later = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
                let failed = status.is_server_error() || later;
                let result = if failed { WebhookResult::Failed } else { WebhookResult::Rejected };
                let verdict = if failed { Verdict::Failed } else { Verdict::Good };
                (verdict, Err(Failure::new(result, format!("the receiver answers {status}"), failed)))
            }
            Err(error) => {
                let result = match &error {
                    OutboundError::Timeout => WebhookResult::Timeout,
                    OutboundError::TooLarge(_) => WebhookResult::Rejected,
                    OutboundError::Resolve(_)
                    | OutboundError::Connect(_)
                    | OutboundError::Tls(_)
                    | OutboundError::Broken(_) => WebhookResult::Unreachable,
                };
                let again = !matches!(error, OutboundError::TooLarge(_));
                (Verdict::Failed, Err(Failure::new(result, error.to_string(), again)))
            }
        };
        passage.ended(verdict);
        match outcome {
            Ok(body) => {
                self.metrics.calls(WebhookResult::Ok).inc();
                Ok(body)
            }
            Err(failure) => Err(self.count(failure)),
        }
    }

    /// The backend is to be told of an event, soon.
    pub fn tell(&self, event: Bytes) {
        let dropped = self.queue.push(event);
        if dropped > 0 {
            self.metrics.dropped(WebhookDrop::QueueFull).inc_by(dropped as u64);
        }
        self.show();
    }

    fn show(&self) {
        self.metrics.queue.set(i64::try_from(self.queue.len()).unwrap_or(i64::MAX));
    }

    /// No event comes any more: [`Webhook::tell_all`] ends when it has told those that wait.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Tells of one batch after the other, in the order of the events. For one task of the process.
    pub async fn tell_all(self: Arc<Self>) {
        let client = self.client();
        while let Some(events) = self.queue.batch(BATCH_EVENTS, BATCH_BYTES).await {
            self.show();
            if let Err(failure) = self.tell_batch(&client, batch(&events)).await {
                self.metrics.dropped(WebhookDrop::NotTaken).inc_by(events.len() as u64);
                let (webhook, error) = (&*self.settings.name, failure.why);
                tracing::warn!(
                    webhook,
                    error,
                    events = events.len(),
                    "events were not taken; they are lost to a webhook"
                );
            }
        }
    }

    async fn tell_batch(&self, client: &Outbound, body: Bytes) -> Result<(), Failure> {
        let id = call_id();
        let mut pauses = Pauses::new();
        let mut left = self.settings.retries;
        loop {
            let failure = match self.call(client, &id, body.clone(), self.settings.timeout).await {
                Ok(_) => return Ok(()),
                Err(failure) => failure,
            };
            if failure.wait_ms > 0 {
                // Nothing was tried; meanwhile the queue fills, and its oldest events go.
                sleep(Duration::from_millis(failure.wait_ms)).await;
                continue;
            }
            if !failure.again || left == 0 {
                return Err(failure);
            }
            left -= 1;
            sleep(pauses.next()).await;
        }
    }
}

/// The same for every try of a call, so that a receiver can tell a repetition.
fn call_id() -> String {
    id::secret_id()
}

struct Pauses {
    random: Jitter,
    next_ms: u64,
}

impl Pauses {
    fn new() -> Self {
        Self { random: Jitter::new(), next_ms: FIRST_PAUSE_MS }
    }

    fn next(&mut self) -> Duration {
        let pause = self.random.between(self.next_ms / 2, self.next_ms);
        self.next_ms = (self.next_ms * 2).min(LONGEST_PAUSE_MS);
        Duration::from_millis(pause)
    }
}
