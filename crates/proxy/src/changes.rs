//! What a route changes of a request on its way to the upstream, and what it wants to know of the way.

use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderName, Uri};
use tidegate_rules::{HeaderChanges, RenderedChanges};

use crate::headers::{Origin, Prepared};

/// Changes of a request. They are made after the client's own hop-by-hop fields were taken out: a client could otherwise name
/// a field of ours in its `Connection`, and have it removed.
#[derive(Debug, Default)]
pub struct RequestChanges {
    /// Path and query in place of those of the request.
    pub target: Option<PathAndQuery>,
    /// Changes of the header, rendered for this request. Those of `X-Forwarded-…`, `X-Real-IP` and `X-Request-Id` hold in
    /// place of what is written there otherwise.
    pub headers: Option<(Arc<HeaderChanges>, RenderedChanges)>,
}

impl RequestChanges {
    pub(crate) fn apply(self, request: &mut Prepared) {
        if let Some(target) = self.target {
            request.parts.uri = Uri::from(target);
        }
        let Some((changes, rendered)) = self.headers else { return };
        let headers = &mut request.parts.headers;
        let asked = headers.get(HOST).cloned();
        changes.apply_rendered(headers, rendered);
        let names = changes.set.iter().chain(&changes.add).map(|line| line.name()).chain(&changes.remove);
        for origin in names.map(HeaderName::as_str).filter_map(Origin::of) {
            request.replaced.insert(origin);
        }
        if headers.get(HOST) != asked.as_ref() {
            // The host that the client asked for is what X-Forwarded-Host is about.
            request.asked_host = asked;
            request.hostless = false;
        }
    }
}

/// A route's patience, in place of its upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The longest silence of the upstream while a response is awaited.
    pub read: Duration,
    /// The longest silence of the client.
    pub send: Duration,
    /// From sending a WebSocket handshake until its 101.
    pub handshake: Duration,
    /// The longest silence of an event stream.
    pub stream: Duration,
    /// The longest silence of a tunnel.
    pub tunnel_idle: Duration,
}

/// The upstream's part in a response, among its extensions if [`crate::Exchange::tells`] asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamSeen {
    /// The server that answered, or was tried last.
    pub address: Option<Arc<str>>,
    /// Its status; `None` if it did not answer.
    pub status: Option<u16>,
    /// How long it took to connect; `None` on a connection that was open already.
    pub connect_time: Option<Duration>,
    /// From the begin of the last try to the head of the response.
    pub header_time: Option<Duration>,
    /// How many further tries were needed.
    pub retries: u8,
}
