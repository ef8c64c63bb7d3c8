//! Backends that are asked or told: webhooks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_auth::Secret;
use tidegate_types::{Namespace, TenantId};

use crate::words::words;

/// A backend that is asked or told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// Where it listens.
    pub url: Arc<str>,
    /// What calls are signed with.
    pub secret: Secret,
    /// The file with the roots that vouch for it; `None` is those of the system.
    pub ca: Option<PathBuf>,
    /// What it is asked or told.
    pub events: Vec<WebhookEvent>,
    /// Those that it is only told of though it could be asked.
    pub notify: Vec<WebhookEvent>,
    /// Names of clients' events that it answers; `*` at the end is any text.
    pub client_events: Vec<Box<str>>,
    /// The namespaces it is for; empty is all.
    pub namespaces: Vec<Namespace>,
    /// The tenants it is for; empty is all.
    pub tenants: Vec<TenantId>,
    /// How long a client waits for it.
    pub timeout: Duration,
    /// How often a call that failed is made again.
    pub retries: u32,
    /// What happens when it does not answer.
    pub on_failure: OnFailure,
    /// The most questions under way.
    pub max_in_flight: usize,
    /// The most events that wait.
    pub queue: usize,
    /// Their most bytes.
    pub queue_bytes: usize,
    /// The fewest calls that open its breaker.
    pub breaker_calls: u32,
    /// How long its breaker stays open.
    pub breaker_pause: Duration,
}

impl Webhook {
    /// A webhook with every default.
    pub fn new(name: &str, url: &str, secret: Secret) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            secret,
            ca: None,
            events: Vec::new(),
            notify: Vec::new(),
            client_events: Vec::new(),
            namespaces: Vec::new(),
            tenants: Vec::new(),
            timeout: Duration::from_secs(2),
            retries: 2,
            on_failure: OnFailure::Refuse,
            max_in_flight: 64,
            queue: 10_000,
            queue_bytes: 8 << 20,
            breaker_calls: 10,
            breaker_pause: Duration::from_secs(5),
        }
    }
}

words! {
    /// What a backend can be asked or told.
    pub WebhookEvent {
        /// A client wants into a namespace.
        Connect = "connect",
        /// A client has left a namespace.
        Disconnect = "disconnect",
        /// A client wants into a room.
        Join = "join",
        /// A client has left a room.
        Leave = "leave",
        /// A client sends to a room.
        Publish = "publish",
    }
    /// What happens when a backend was asked and does not answer.
    pub OnFailure {
        /// As if it had refused.
        Refuse = "refuse",
        /// As if it had nothing against it.
        Allow = "allow",
    }
}
