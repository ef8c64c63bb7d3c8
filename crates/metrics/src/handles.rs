use std::sync::{Arc, OnceLock};

use tidegate_types::CloseReason;

use crate::labels::*;
use crate::streams::{WebSocketFamilies, WebSocketMetrics};
use crate::{Counter, Family, Gauge, Histogram, LifetimeBuckets, Metrics, MillisBuckets, SecondsBuckets};

/// The counters of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    /// The route's name, as in the config.
    pub name: Arc<str>,
    requests: [Counter; StatusClass::COUNT],
    /// Made when first asked for: most routes answer with two or three classes of status.
    duration_seconds: [OnceLock<Histogram<SecondsBuckets>>; StatusClass::COUNT],
    ttfb_seconds: [OnceLock<Histogram<SecondsBuckets>>; StatusClass::COUNT],
    http_request_duration_seconds: Family<LatencyLabels, Histogram<SecondsBuckets>>,
    http_ttfb_seconds: Family<LatencyLabels, Histogram<SecondsBuckets>>,
    /// The route's and the upstream's.
    names: (Name, Name),
    /// Tunnels open.
    pub tunnels_open: Gauge,
    /// Tunnels opened.
    pub tunnels: Counter,
    /// Bytes from clients through tunnels.
    pub tunnel_bytes_to_upstream: Counter,
    /// Bytes to clients through tunnels.
    pub tunnel_bytes_to_client: Counter,
    /// Event streams open.
    pub sse_streams_open: Gauge,
    /// Event streams opened.
    pub sse_streams: Counter,
    /// Events to clients.
    pub sse_events: Counter,
    /// Bytes of event streams to clients.
    pub sse_bytes: Counter,
    /// Heartbeats put into event streams.
    pub sse_heartbeats: Counter,
    stream_seconds: [OnceLock<Histogram<LifetimeBuckets>>; StreamKind::COUNT],
    stream_duration_seconds: Family<StreamKindLabels, Histogram<LifetimeBuckets>>,
    websocket: OnceLock<Arc<WebSocketMetrics>>,
    websocket_families: WebSocketFamilies,
}

impl RouteMetrics {
    pub(crate) fn new(metrics: &Metrics, name: &str, upstream: Name) -> Self {
        let route = Name::new(name);
        let labels = RouteLabels { route: route.clone() };
        let bytes = |direction| {
            metrics.tunnel_bytes.get_or_create_owned(&RouteDirectionLabels { route: route.clone(), direction })
        };
        Self {
            name: name.into(),
            requests: each(StatusClass::ALL, |status_class| {
                metrics.http_requests.get_or_create_owned(&RequestLabels { route: route.clone(), status_class })
            }),
            duration_seconds: std::array::from_fn(|_| OnceLock::new()),
            ttfb_seconds: std::array::from_fn(|_| OnceLock::new()),
            http_request_duration_seconds: metrics.http_request_duration_seconds.clone(),
            http_ttfb_seconds: metrics.http_ttfb_seconds.clone(),
            names: (route.clone(), upstream),
            tunnels_open: metrics.tunnels_open.get_or_create_owned(&labels),
            tunnels: metrics.tunnels.get_or_create_owned(&labels),
            tunnel_bytes_to_upstream: bytes(Direction::ToUpstream),
            tunnel_bytes_to_client: bytes(Direction::ToClient),
            sse_streams_open: metrics.sse_streams_open.get_or_create_owned(&labels),
            sse_streams: metrics.sse_streams.get_or_create_owned(&labels),
            sse_events: metrics.sse_events.get_or_create_owned(&labels),
            sse_bytes: metrics.sse_bytes.get_or_create_owned(&labels),
            sse_heartbeats: metrics.sse_heartbeats.get_or_create_owned(&labels),
            stream_seconds: std::array::from_fn(|_| OnceLock::new()),
            stream_duration_seconds: metrics.stream_duration_seconds.clone(),
            websocket: OnceLock::new(),
            websocket_families: WebSocketFamilies::of(metrics),
        }
    }

    /// Seconds that streams of that kind lived, from the response's head to the end.
    pub fn stream_seconds(&self, kind: StreamKind) -> &Histogram<LifetimeBuckets> {
        at(&self.stream_seconds, kind as usize).get_or_init(|| {
            let labels = StreamKindLabels { route: self.names.0.clone(), kind };
            self.stream_duration_seconds.get_or_create_owned(&labels)
        })
    }

    /// What happens inside the route's WebSockets.
    pub fn websocket(&self) -> &Arc<WebSocketMetrics> {
        self.websocket.get_or_init(|| WebSocketMetrics::new(&self.websocket_families, self.names.0.clone()))
    }

    /// The requests answered with a status of that class.
    pub fn requests(&self, class: StatusClass) -> &Counter {
        at(&self.requests, class as usize)
    }

    /// Counts a request that was answered with the status.
    pub fn answered(&self, status: u16) {
        self.requests(StatusClass::of(status)).inc();
    }

    /// Seconds from a request's head to the end of its response; not for tunnels and event streams.
    pub fn duration_seconds(&self, class: StatusClass) -> &Histogram<SecondsBuckets> {
        at(&self.duration_seconds, class as usize)
            .get_or_init(|| self.http_request_duration_seconds.get_or_create_owned(&self.latency(class)))
    }

    /// Seconds from a request's head to that of its response; of a tunnel (`1xx`), its handshake.
    pub fn ttfb_seconds(&self, class: StatusClass) -> &Histogram<SecondsBuckets> {
        at(&self.ttfb_seconds, class as usize)
            .get_or_init(|| self.http_ttfb_seconds.get_or_create_owned(&self.latency(class)))
    }

    fn latency(&self, status_class: StatusClass) -> LatencyLabels {
        let (route, upstream) = self.names.clone();
        LatencyLabels { route, upstream, status_class }
    }
}

/// The counters of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    /// Requests sent again.
    pub retries: Counter,
    /// Requests not sent again, for the budget.
    pub retries_denied: Counter,
    /// Requests refused by the breaker.
    pub refused: Counter,
    /// Connections open, idle ones included.
    pub connections_open: Gauge,
    /// Connections idle.
    pub connections_idle: Gauge,
    /// Seconds until a new connection stood.
    pub connect_seconds: Histogram<SecondsBuckets>,
    /// Seconds from the begin of an attempt to the head of its response.
    pub header_seconds: Histogram<SecondsBuckets>,
}

impl UpstreamMetrics {
    pub(crate) fn new(metrics: &Metrics, upstream: Name) -> Self {
        let labels = UpstreamLabels { upstream };
        Self {
            retries: metrics.upstream_retries.get_or_create_owned(&labels),
            retries_denied: metrics.upstream_retries_denied.get_or_create_owned(&labels),
            refused: metrics.upstream_refused.get_or_create_owned(&labels),
            connections_open: metrics.upstream_connections_open.get_or_create_owned(&labels),
            connections_idle: metrics.upstream_connections_idle.get_or_create_owned(&labels),
            connect_seconds: metrics.upstream_connect_seconds.get_or_create_owned(&labels),
            header_seconds: metrics.upstream_header_seconds.get_or_create_owned(&labels),
        }
    }
}

/// The counters of one server of an upstream.
#[derive(Debug)]
pub struct ServerMetrics {
    requests: [Counter; Outcome::COUNT],
    connect_errors: [Counter; ConnectError::COUNT],
    /// 1 while the server is used.
    pub up: Gauge,
    /// Active probes that failed.
    pub probe_failures: Counter,
}

impl ServerMetrics {
    pub(crate) fn new(metrics: &Metrics, upstream: Name, server: Name) -> Self {
        let labels = ServerLabels { upstream: upstream.clone(), server: server.clone() };
        Self {
            up: metrics.upstream_server_up.get_or_create_owned(&labels),
            probe_failures: metrics.upstream_probe_failures.get_or_create_owned(&labels),
            requests: each(Outcome::ALL, |outcome| {
                metrics.upstream_requests.get_or_create_owned(&UpstreamRequestLabels {
                    upstream: upstream.clone(),
                    server: server.clone(),
                    outcome,
                })
            }),
            connect_errors: each(ConnectError::ALL, |kind| {
                metrics.upstream_connect_errors.get_or_create_owned(&ConnectErrorLabels {
                    upstream: upstream.clone(),
                    server: server.clone(),
                    kind,
                })
            }),
        }
    }

    /// The attempts that ended so.
    pub fn requests(&self, outcome: Outcome) -> &Counter {
        at(&self.requests, outcome as usize)
    }

    /// The connections that failed so.
    pub fn connect_errors(&self, kind: ConnectError) -> &Counter {
        at(&self.connect_errors, kind as usize)
    }
}

/// Where the changes of an upstream and its servers are counted. Rare: nothing is held per server.
#[derive(Clone, Debug)]
pub struct StateChanges {
    family: Family<StateChangeLabels, Counter>,
    upstream: Name,
}

impl StateChanges {
    pub(crate) fn new(metrics: &Metrics, upstream: Name) -> Self {
        Self { family: metrics.upstream_state_changes.clone(), upstream }
    }

    /// Counts a change of a server that the config names, or of the whole upstream.
    pub fn count(&self, server: Option<&str>, change: StateChange) {
        let server = Name::new(server.unwrap_or("all"));
        self.family.get_or_create(&StateChangeLabels { upstream: self.upstream.clone(), server, change }).inc();
    }
}

/// The counters of one tenant. Shared by all tenants beyond the limit: change gauges by `inc` and `dec` only.
#[derive(Debug)]
pub struct TenantMetrics {
    /// The tenant's label, for the families that are not held here.
    pub label: TenantLabel,
    /// Socket.IO sockets open.
    pub connected: Gauge,
    /// Subscribers of event streams open.
    pub listening: Gauge,
    /// Connections accepted.
    pub connections: Counter,
    /// Rooms in use.
    pub active_rooms: Gauge,
    /// Memberships.
    pub room_subscriptions: Gauge,
    /// Messages appended to the store.
    pub messages_persisted: Counter,
    dropped: [Counter; DropReason::COUNT],
    limited: [Counter; RateLimit::COUNT],
    sent: [OnceLock<Counter>; EventLabel::COUNT],
    received: [OnceLock<Counter>; EventLabel::COUNT],
    latency_ms: [OnceLock<Histogram<MillisBuckets>>; EventLabel::COUNT],
    messages_sent: Family<TenantEventLabels, Counter>,
    messages_received: Family<TenantEventLabels, Counter>,
    message_latency_ms: Family<TenantEventLabels, Histogram<MillisBuckets>>,
    disconnections: Family<DisconnectLabels, Counter>,
    recoveries: Family<RecoveryLabels, Counter>,
}

impl TenantMetrics {
    pub(crate) fn new(metrics: &Metrics, label: TenantLabel) -> Self {
        let labels = TenantLabels { tenant: label.clone() };
        let active = |status| {
            metrics.active_connections.get_or_create_owned(&TenantStatusLabels { tenant: label.clone(), status })
        };
        Self {
            connected: active(ConnectionStatus::Connected),
            listening: active(ConnectionStatus::Listening),
            connections: metrics.connections.get_or_create_owned(&labels),
            active_rooms: metrics.active_rooms.get_or_create_owned(&labels),
            room_subscriptions: metrics.room_subscriptions.get_or_create_owned(&labels),
            messages_persisted: metrics.messages_persisted.get_or_create_owned(&labels),
            dropped: each(DropReason::ALL, |reason| {
                metrics.messages_dropped.get_or_create_owned(&DropLabels { tenant: label.clone(), reason })
            }),
            limited: each(RateLimit::ALL, |limit| {
                metrics.rate_limit_hits.get_or_create_owned(&RateLimitLabels { tenant: label.clone(), r#type: limit })
            }),
            sent: std::array::from_fn(|_| OnceLock::new()),
            received: std::array::from_fn(|_| OnceLock::new()),
            latency_ms: std::array::from_fn(|_| OnceLock::new()),
            messages_sent: metrics.messages_sent.clone(),
            messages_received: metrics.messages_received.clone(),
            message_latency_ms: metrics.message_latency_ms.clone(),
            disconnections: metrics.disconnections.clone(),
            recoveries: metrics.recoveries.clone(),
            label,
        }
    }

    /// Messages of that event sent, one per receiver. Made when first asked for, then without a lock.
    pub fn sent(&self, event: EventLabel) -> &Counter {
        at(&self.sent, event as usize).get_or_init(|| self.messages_sent.get_or_create_owned(&self.event(event)))
    }

    /// Messages of that event received.
    pub fn received(&self, event: EventLabel) -> &Counter {
        at(&self.received, event as usize)
            .get_or_init(|| self.messages_received.get_or_create_owned(&self.event(event)))
    }

    /// Milliseconds from reading a message of that event to its acknowledgement.
    pub fn latency_ms(&self, event: EventLabel) -> &Histogram<MillisBuckets> {
        at(&self.latency_ms, event as usize)
            .get_or_init(|| self.message_latency_ms.get_or_create_owned(&self.event(event)))
    }

    fn event(&self, event: EventLabel) -> TenantEventLabels {
        TenantEventLabels { tenant: self.label.clone(), event }
    }

    /// The messages dropped for that reason.
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        at(&self.dropped, reason as usize)
    }

    /// The attempts refused by that limit.
    pub fn limited(&self, limit: RateLimit) -> &Counter {
        at(&self.limited, limit as usize)
    }

    /// Counts a connection that ended. Looks the series up: once per connection.
    pub fn disconnected(&self, reason: CloseReason) {
        let labels = DisconnectLabels { tenant: self.label.clone(), reason: reason.as_str() };
        self.disconnections.get_or_create(&labels).inc();
    }

    /// Counts an attempt to recover. Looks the series up: once per connection.
    pub fn recovery(&self, outcome: Recovery) {
        self.recoveries.get_or_create(&RecoveryLabels { tenant: self.label.clone(), outcome }).inc();
    }
}

/// One handle for each value of a label.
pub(crate) fn each<E: Copy, T, const N: usize>(all: &[E], make: impl Fn(E) -> T) -> [T; N] {
    #[expect(clippy::indexing_slicing, reason = "N is the length of `all`: both come from the same enum")]
    std::array::from_fn(|index| make(all[index]))
}

/// The handle of a label's value, by its place in the enum.
pub(crate) fn at<T, const N: usize>(handles: &[T; N], index: usize) -> &T {
    #[expect(clippy::indexing_slicing, reason = "N is the enum's number of values, and index one of them")]
    &handles[index]
}
