//! What routes want of their WebSockets and event streams, from the config to the proxy.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::Request;
use tidegate_config as config;
use tidegate_proxy::{
    EventPolicy, Exchange, ForwarderSettings, Inspect, WebSocketPolicy, WebSocketSettings, WebSocketTerms,
    wants_websocket,
};
use tidegate_rules::{Facts, Place, Template, TemplateError};

/// What one route wants of its streams.
#[derive(Clone, Debug)]
pub(crate) struct StreamTerms {
    /// `None` is nothing.
    websocket: Option<(Arc<WebSocketPolicy>, Option<Template>)>,
    /// `None` is the default.
    events: Option<Arc<EventPolicy>>,
}

/// The WebSocket policies in use, which hold the rates of keys: a reload that leaves a route's settings alone must not give
/// everybody a full bucket.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    known: Mutex<Vec<(Arc<str>, Weak<WebSocketPolicy>)>>,
}

impl Policies {
    /// The policy of a route, made if there is none with these settings.
    fn of(&self, route: &Arc<str>, settings: WebSocketSettings) -> Arc<WebSocketPolicy> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, policy)| policy.strong_count() > 0);
        let same = |(name, policy): &(Arc<str>, Weak<WebSocketPolicy>)| {
            (name == route).then(|| policy.upgrade())?.filter(|policy| *policy.settings() == settings)
        };
        if let Some(policy) = known.iter().find_map(same) {
            return policy;
        }
        let policy = WebSocketPolicy::new(settings);
        known.push((route.clone(), Arc::downgrade(&policy)));
        policy
    }
}

impl StreamTerms {
    /// # Errors
    /// A config built in code has a key that is no template.
    pub fn of(route: &config::Route, policies: &Policies) -> Result<Self, TemplateError> {
        let wanted = &route.websocket;
        let settings = WebSocketSettings {
            inspect: match wanted.inspect {
                config::Inspect::Off => Inspect::Off,
                config::Inspect::Meter => Inspect::Meter,
                config::Inspect::Strict => Inspect::Strict,
            },
            max_message: wanted.max_message,
            messages_per_second: wanted.messages_per_second,
            message_burst: wanted.message_burst,
            bytes_per_second: wanted.bytes_per_second,
            ping_interval: wanted.ping_interval,
            ping_timeout: wanted.ping_timeout,
            idle_timeout: wanted.idle_timeout,
        };
        let websocket = if *wanted == config::WebSocketPolicy::default() {
            None
        } else {
            let key = wanted.key.as_ref().map(|key| Template::parse(key, Place::Key)).transpose()?;
            Some((policies.of(&route.name, settings), key))
        };
        let config::EventStreamPolicy { heartbeat, max_life, retry } = route.sse;
        let events = EventPolicy { heartbeat, max_life, retry };
        let events = (events != EventPolicy::default()).then(|| Arc::new(events));
        Ok(Self { websocket, events })
    }

    /// Tells the proxy. The key is only rendered for a WebSocket handshake.
    pub fn brief<'a, B>(&self, exchange: &mut Exchange, request: &Request<B>, facts: impl FnOnce() -> Facts<'a>) {
        exchange.events.clone_from(&self.events);
        if let Some((policy, key)) = &self.websocket
            && wants_websocket(request)
        {
            let key = key.as_ref().map(|key| key.text(&facts()).into()).unwrap_or_default();
            exchange.websocket = Some(Box::new(WebSocketTerms { policy: policy.clone(), key }));
        }
    }
}

/// How a worker lets its streams go when the process drains: its share of the rate, or spread over a third of the time.
pub(crate) fn forwarder_settings(drain: &config::Drain, workers: u16) -> ForwarderSettings {
    let gap = match drain.rate {
        0 => Duration::ZERO,
        rate => Duration::from_secs(1) * u32::from(workers) / rate,
    };
    ForwarderSettings {
        drain_spread: drain.timeout / 3,
        drain_gap: gap,
        drain_jitter: drain.jitter,
        ..ForwarderSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(messages_per_second: u32) -> config::Route {
        let mut route = config::Route::new("chat", "/", config::Action::upstream("backend"));
        route.websocket.messages_per_second = messages_per_second;
        route
    }

    #[test]
    fn a_route_that_stays_the_same_keeps_its_buckets_over_a_reload() {
        let policies = Policies::default();
        let policy = |rate| StreamTerms::of(&route(rate), &policies).unwrap().websocket.unwrap().0;
        let before = policy(10);
        assert!(Arc::ptr_eq(&before, &policy(10)));
        let other = policy(20);
        assert!(!Arc::ptr_eq(&before, &other));
        drop(before);
        assert!(Arc::ptr_eq(&other, &policy(20)));
        assert_eq!(policies.known.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_plain_route_has_no_terms() {
        let plain = StreamTerms::of(&route(0), &Policies::default()).unwrap();
        assert!(plain.websocket.is_none() && plain.events.is_none());
    }

    #[test]
    fn workers_share_the_rate_of_a_drain() {
        let drain = config::Drain { timeout: Duration::from_secs(30), rate: 100, ..config::Drain::default() };
        assert_eq!(forwarder_settings(&drain, 4).drain_gap, Duration::from_millis(40));
        let spread = forwarder_settings(&config::Drain { rate: 0, ..drain }, 4);
        assert_eq!((spread.drain_gap, spread.drain_spread), (Duration::ZERO, Duration::from_secs(10)));
    }
}
