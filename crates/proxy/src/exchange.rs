use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate_types::{CloseReason, ErrorCode};

use tidegate_metrics::{CloseBy, RouteMetrics};

use crate::{EventPolicy, WebSocketTerms};

use crate::{Patience, RequestChanges, Trace};

/// What the gateway knows about one request beside the request itself.
pub struct Exchange {
    /// Sent on as `X-Request-Id`, both ways, and part of error bodies; visible ASCII.
    pub request_id: Rc<str>,
    /// The client's (real) address, for `X-Forwarded-For` and `X-Real-IP`.
    pub client: SocketAddr,
    /// `http` or `https`, for `X-Forwarded-Proto`.
    pub scheme: &'static str,
    /// Where tunnels and event streams are counted. Requests and their duration are the caller's to count, in `on_end`.
    pub route: Arc<RouteMetrics>,
    /// The listener's name, for the register of live streams.
    pub listener: Option<Arc<str>>,
    /// What the upstream hashes, if it balances by a key.
    pub hash_key: Option<Box<[u8]>>,
    /// Where the client connected to, for upstreams that are told in a PROXY header; without it they are told
    /// their own address.
    pub local: Option<SocketAddr>,
    /// The trace that it is part of.
    pub trace: Option<Rc<Trace>>,
    /// How long the request waits before anything is done with it (a limit that delays); `None` does not wait.
    pub delay: Option<Duration>,
    /// What is asked of the request's body.
    pub body: BodyLimits,
    /// What the route wants of its WebSockets; `None` is nothing.
    pub websocket: Option<Box<WebSocketTerms>>,
    /// What the route wants of its event streams; `None` is the default.
    pub events: Option<Arc<EventPolicy>>,
    /// What is changed of the request before it is sent on.
    pub changes: Option<Box<RequestChanges>>,
    /// The route's patience, if it is not the upstream's.
    pub patience: Option<Arc<Patience>>,
    /// Whether the response shall carry [`crate::UpstreamSeen`] among its extensions.
    pub tells: bool,
    /// Called exactly once, when the response body or the tunnel has ended, however it ended.
    pub on_end: OnEnd,
}

impl Exchange {
    /// With what every exchange has; the rest is set on the result.
    pub fn new(
        request_id: Rc<str>,
        client: SocketAddr,
        scheme: &'static str,
        route: Arc<RouteMetrics>,
        on_end: OnEnd,
    ) -> Self {
        Self {
            request_id,
            client,
            scheme,
            route,
            listener: None,
            hash_key: None,
            local: None,
            trace: None,
            delay: None,
            body: BodyLimits::default(),
            websocket: None,
            events: None,
            changes: None,
            patience: None,
            tells: false,
            on_end,
        }
    }
}

/// What is asked of a request body that is forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyLimits {
    /// The most bytes; beyond, the exchange is broken off and answered with 413. 0 is no limit. A length that the head tells is
    /// better refused by the caller, before anything is forwarded.
    pub most_bytes: u64,
    /// Bytes per second that must come, counted over the time in which the client was waited for, once that is 10 s; less is
    /// answered with 408. 0 is no minimum.
    pub least_rate: u64,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("request_id", &self.request_id).field("client", &self.client).finish()
    }
}

/// Takes the summary of an exchange.
pub type OnEnd = Box<dyn FnOnce(ExchangeSummary)>;

/// What an exchange was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeKind {
    /// An ordinary request and response.
    Http,
    /// A response of type `text/event-stream`.
    Sse,
    /// A WebSocket tunnel that was established.
    WebSocket,
}

impl ExchangeKind {
    /// Stable text for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Sse => "sse",
            Self::WebSocket => "websocket",
        }
    }
}

/// How an exchange went; for the access log and the request metrics.
#[derive(Clone, Debug)]
pub struct ExchangeSummary {
    /// As given in the [`Exchange`].
    pub request_id: Rc<str>,
    /// What it was.
    pub kind: ExchangeKind,
    /// The status sent to the client; 499 if the client went away before there was one (as nginx logs it).
    pub status: u16,
    /// The address of the server that answered, or that was tried last.
    pub upstream: Option<Arc<str>>,
    /// Bytes of the body (or tunnel) from the client to the upstream.
    pub bytes_in: u64,
    /// Bytes of the body (or tunnel) from the upstream to the client.
    pub bytes_out: u64,
    /// WebSocket messages from the client to the upstream; 0 unless the route inspects.
    pub messages_in: u64,
    /// WebSocket messages from the upstream to the client; 0 unless the route inspects.
    pub messages_out: u64,
    /// SSE events passed on.
    pub sse_events: u64,
    /// From the call of `forward` until the response head; `None` if none came.
    pub ttfb: Option<Duration>,
    /// From the call of `forward` until the end.
    pub duration: Duration,
    /// The first close code of a WebSocket, and who sent it: 1005 for a Close without a code. `None` if there was no Close,
    /// or none that was seen: without inspection that is only the gateway's.
    pub close: Option<(u16, CloseBy)>,
    /// Why it ended; `ClientClosed` for a complete response.
    pub reason: CloseReason,
    /// The error that the gateway answered with by itself.
    pub error: Option<ErrorCode>,
    /// How many further tries were needed.
    pub retries: u8,
    /// Until the connection of the last try stood; `None` if one was reused, or none came about.
    pub upstream_connect: Option<Duration>,
    /// From the begin of the last try, connecting included, to the head of its response (nginx's `$upstream_header_time`).
    pub upstream_header: Option<Duration>,
    /// The status that the server answered with; not always what the client was told.
    pub upstream_status: Option<u16>,
}
