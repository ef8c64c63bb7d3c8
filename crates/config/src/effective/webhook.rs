use super::File;
use crate::{Webhook, WebhookEvent};

impl File {
    pub(super) fn webhook(&mut self, webhook: &Webhook) {
        let words = |events: &[WebhookEvent]| events.iter().map(|event| event.as_str()).collect::<Vec<_>>();
        self.section("[[realtime.webhook]]");
        self.text("name", &webhook.name);
        self.text("url", &webhook.url);
        self.text("secret", "***");
        if let Some(ca) = &webhook.ca {
            self.text("ca", ca.display());
        }
        self.texts("events", &words(&webhook.events));
        self.texts("notify", &words(&webhook.notify));
        self.texts("client_events", &webhook.client_events);
        self.texts("namespaces", &webhook.namespaces);
        self.texts("tenants", &webhook.tenants);
        self.time("timeout", webhook.timeout);
        self.key("retries", webhook.retries);
        self.text("on_failure", webhook.on_failure.as_str());
        self.key("max_in_flight", webhook.max_in_flight);
        self.key("queue", webhook.queue);
        self.key("queue_bytes", webhook.queue_bytes);
        self.key("breaker_calls", webhook.breaker_calls);
        self.time("breaker_pause", webhook.breaker_pause);
    }
}
