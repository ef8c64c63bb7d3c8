//! Backends that are asked or told.

use crate::reader::{Hidden, List, Size, Span, Url};
use crate::{OnFailure, WebhookEvent};

sections! {
    /// A backend that is asked before something happens, or told after it has, by HTTP: docs/webhooks.md.
    Webhook {
        /// Its name in logs and metrics.
        name: String,
        /// Where it listens.
        url: Url,
        /// What calls are signed with, at least 16 bytes.
        secret: Hidden,
        /// A file with that secret.
        secret_file: String,
        /// A file with the roots that vouch for an https backend, PEM; by default those of the system.
        ca: String,
        /// What it is asked ("connect", "join", "publish") or told ("disconnect", "leave").
        events: List<WebhookEvent> = [],
        /// Those of events that it is only told of, after they have happened.
        notify: List<WebhookEvent> = [],
        /// Clients' own events that it answers, such as "order:create"; "case:*" is all that begin so.
        client_events: List<String> = [],
        /// The namespaces it is for; by default all.
        namespaces: List<String> = [],
        /// The tenants it is for; by default all.
        tenants: List<String> = [],
        /// How long a client waits for an answer, retries included; how long one try to tell may take.
        timeout: Span = "2s",
        /// How often a call that failed is made again, with growing pauses.
        retries: u64 = 2,
        /// What happens when it was asked and does not answer: "refuse" or "allow".
        on_failure: OnFailure = "refuse",
        /// The most questions under way at a time.
        max_in_flight: u64 = 64,
        /// The most events that wait to be told; beyond, the oldest are dropped.
        queue: u64 = 10000,
        /// The most bytes of them.
        queue_bytes: Size = "8MiB",
        /// At least so many calls in 10 s, half of them failed, and it is not called for a while.
        breaker_calls: u64 = 10,
        /// For how long it is not called then.
        breaker_pause: Span = "5s",
    }
}
