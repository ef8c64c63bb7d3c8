//! What a webhook is configured to be.

use std::sync::Arc;
use std::time::Duration;

use tidegate_auth::Secret;
use tidegate_balance::BreakerSettings;
use tidegate_outbound::Endpoint;
use tidegate_types::{Namespace, SpaceKey, TenantId};

/// What a backend can be asked or told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookEvent {
    /// A client wants into a namespace.
    Connect,
    /// A client has left a namespace, or was cut.
    Disconnect,
    /// A client wants into a room.
    Join,
    /// A client has left a room.
    Leave,
    /// A client sends to a room.
    Publish,
}

impl WebhookEvent {
    /// The name in bodies and in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Disconnect => "disconnect",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Publish => "publish",
        }
    }

    /// Whether the backend can have a say in it.
    pub fn can_be_asked(self) -> bool {
        match self {
            Self::Connect | Self::Join | Self::Publish => true,
            Self::Disconnect | Self::Leave => false,
        }
    }
}

/// Some of [`WebhookEvent`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WebhookEvents(u8);

impl WebhookEvents {
    /// Whether it is one of them.
    pub fn contains(self, event: WebhookEvent) -> bool {
        self.0 & (1 << event as u8) != 0
    }
}

impl FromIterator<WebhookEvent> for WebhookEvents {
    fn from_iter<I: IntoIterator<Item = WebhookEvent>>(events: I) -> Self {
        Self(events.into_iter().fold(0, |all, event| all | 1 << event as u8))
    }
}

/// What happens when a backend is asked and does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// As if it had refused.
    Refuse,
    /// As if it had nothing against it.
    Allow,
}

/// A webhook: whom to call, about what, and how patiently.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// Who is called.
    pub endpoint: Arc<Endpoint>,
    /// What bodies are signed with.
    pub secret: Secret,
    /// What the backend is asked or told.
    pub events: WebhookEvents,
    /// Those of `events` that it is only told of, afterwards, though it could be asked.
    pub notify: WebhookEvents,
    /// Names of clients' own events that the backend answers; a `*` at the end stands for any text.
    pub client_events: Vec<Box<str>>,
    /// The namespaces it is for; empty is all.
    pub namespaces: Vec<Namespace>,
    /// The tenants it is for; empty is all.
    pub tenants: Vec<TenantId>,
    /// How long one question may take in all; how long one try to tell may take.
    pub timeout: Duration,
    /// How often a call that failed is made again.
    pub retries: u32,
    /// The most questions under way at a time.
    pub max_in_flight: usize,
    /// The most events that wait to be told.
    pub queue_events: usize,
    /// Their most bytes.
    pub queue_bytes: usize,
    /// What happens when a question has no answer.
    pub on_failure: OnFailure,
    /// When calls are given up without trying.
    pub breaker: BreakerSettings,
}

impl WebhookSettings {
    /// A webhook with every default that is concerned with nothing yet.
    pub fn new(name: &str, endpoint: Arc<Endpoint>, secret: Secret) -> Self {
        Self {
            name: name.into(),
            endpoint,
            secret,
            events: WebhookEvents::default(),
            notify: WebhookEvents::default(),
            client_events: Vec::new(),
            namespaces: Vec::new(),
            tenants: Vec::new(),
            timeout: Duration::from_secs(2),
            retries: 2,
            max_in_flight: 64,
            queue_events: 10_000,
            queue_bytes: 8 << 20,
            on_failure: OnFailure::Refuse,
            breaker: BreakerSettings {
                min_requests: 10,
                open_for_ms: 5_000,
                half_open_requests: 1,
                ..BreakerSettings::default()
            },
        }
    }

    pub(super) fn concerns(&self, space: &SpaceKey) -> bool {
        (self.namespaces.is_empty() || self.namespaces.contains(&space.namespace))
            && (self.tenants.is_empty() || self.tenants.contains(&space.tenant))
    }

    /// Whether the backend is asked about it before it happens.
    pub(super) fn is_asked(&self, event: WebhookEvent) -> bool {
        self.events.contains(event) && event.can_be_asked() && !self.notify.contains(event)
    }

    /// Whether the backend is told of it after it has happened.
    pub(super) fn is_told(&self, event: WebhookEvent) -> bool {
        self.events.contains(event) && !self.is_asked(event)
    }

    /// Whether the backend answers a client's event of that name.
    pub(super) fn answers(&self, name: &str) -> bool {
        self.client_events.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => **pattern == *name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> WebhookSettings {
        let endpoint = Endpoint::new("http://127.0.0.1:1/", None).unwrap();
        WebhookSettings::new("app", Arc::new(endpoint), Secret::from("0123456789abcdef"))
    }

    #[test]
    fn what_can_be_asked_is_asked_unless_it_is_only_to_be_told() {
        let mut settings = settings();
        settings.events = [WebhookEvent::Join, WebhookEvent::Publish, WebhookEvent::Leave].into_iter().collect();
        settings.notify = [WebhookEvent::Publish].into_iter().collect();
        let of = |event| (settings.is_asked(event), settings.is_told(event));
        assert_eq!(of(WebhookEvent::Join), (true, false));
        assert_eq!(of(WebhookEvent::Publish), (false, true));
        assert_eq!(of(WebhookEvent::Leave), (false, true));
        assert_eq!(of(WebhookEvent::Connect), (false, false));
    }

    #[test]
    fn a_star_at_the_end_stands_for_any_text() {
        let mut settings = settings();
        settings.client_events = vec!["order:create".into(), "case:*".into()];
        for (name, answered) in
            [("order:create", true), ("order:created", false), ("case:", true), ("case:open", true), ("cas", false)]
        {
            assert_eq!(settings.answers(name), answered, "{name}");
        }
    }

    #[test]
    fn a_webhook_is_for_the_tenants_and_namespaces_that_it_names() {
        let mut settings = settings();
        let space = |tenant: &str, namespace: &str| SpaceKey {
            tenant: TenantId::try_from(tenant).unwrap(),
            namespace: Namespace::try_from(namespace).unwrap(),
        };
        assert!(settings.concerns(&space("acme", "/")));
        settings.tenants = vec![TenantId::try_from("acme").unwrap()];
        settings.namespaces = vec![Namespace::root()];
        assert!(settings.concerns(&space("acme", "/")));
        assert!(!settings.concerns(&space("other", "/")));
        assert!(!settings.concerns(&space("acme", "/chat")));
    }
}
