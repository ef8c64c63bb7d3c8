//! The counters of webhooks. All names come from the config.

use crate::handles::{at, each};
use crate::labels::*;
use crate::{Counter, Gauge, Histogram, Metrics, SecondsBuckets};

/// What happens to the calls of one webhook.
#[derive(Clone, Debug)]
pub struct WebhookMetrics {
    calls: [Counter; WebhookResult::COUNT],
    dropped: [Counter; WebhookDrop::COUNT],
    /// How long calls take.
    pub seconds: Histogram<SecondsBuckets>,
    /// Events that wait.
    pub queue: Gauge,
    /// 0 closed, 1 half open, 2 open.
    pub breaker: Gauge,
}

impl WebhookMetrics {
    /// Calls that ended so.
    pub fn calls(&self, result: WebhookResult) -> &Counter {
        at(&self.calls, result as usize)
    }

    /// Events lost for that reason.
    pub fn dropped(&self, reason: WebhookDrop) -> &Counter {
        at(&self.dropped, reason as usize)
    }
}

impl Metrics {
    /// The handles of a webhook. `name` comes from the config.
    pub fn webhook(&self, name: &str) -> WebhookMetrics {
        let labels = WebhookLabels { webhook: Name::new(name) };
        WebhookMetrics {
            calls: each(WebhookResult::ALL, |result| {
                self.webhook_calls.get_or_create_owned(&WebhookCallLabels { webhook: labels.webhook.clone(), result })
            }),
            dropped: each(WebhookDrop::ALL, |reason| {
                self.webhook_dropped.get_or_create_owned(&WebhookDropLabels { webhook: labels.webhook.clone(), reason })
            }),
            seconds: self.webhook_call_seconds.get_or_create_owned(&labels),
            queue: self.webhook_queue.get_or_create_owned(&labels),
            breaker: self.webhook_breaker.get_or_create_owned(&labels),
        }
    }
}
