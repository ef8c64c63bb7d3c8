use std::fmt;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::labels::*;
use crate::{
    Buckets, ByteBuckets, Counter, Family, FloatCounter, FloatGauge, Gauge, Histogram, LifetimeBuckets, MillisBuckets,
    SecondsBuckets, Tenants,
};

/// One metric, as the documentation shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name as it stands in the exposition and in queries: counters end in `_total`.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// The label keys.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

/// What the catalogue must know about a metric's type.
trait Kind {
    const KIND: &'static str;
    const LABELS: &'static [&'static str] = &[];
}

impl<N, A> Kind for Counter<N, A> {
    const KIND: &'static str = "counter";
}

impl<N, A> Kind for Gauge<N, A> {
    const KIND: &'static str = "gauge";
}

impl<B: Buckets> Kind for Histogram<B> {
    const KIND: &'static str = "histogram";
}

impl<L: LabelKeys, M: Kind> Kind for Family<L, M> {
    const KIND: &'static str = M::KIND;
    const LABELS: &'static [&'static str] = L::KEYS;
}

/// Shows a metric's name and help even while it has no series yet, so that a dashboard finds every name from the start.
#[derive(Debug)]
struct Declared<T>(T);

impl<T: EncodeMetric> EncodeMetric for Declared<T> {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }
}

macro_rules! catalogue {
    ($($field:ident: $type:ty = $name:literal, $unit:literal, $help:literal;)+) => {
        /// Every metric there is. Fields are named like the metric without its `websocket_` or `tidegate_`, and
        /// without `_total`.
        pub struct Metrics {
            $(#[doc = concat!("`", $name, "` (", $unit, "): ", $help, ".")] pub $field: $type,)+
            pub(crate) registry: Registry,
            pub(crate) tenants: Tenants,
        }

        /// The whole catalogue, in the order of the exposition.
        pub const CATALOGUE: &[Entry] = &[$(Entry {
            name: $name,
            kind: <$type as Kind>::KIND,
            unit: $unit,
            labels: <$type as Kind>::LABELS,
            help: $help,
        },)+];

        impl Metrics {
            pub(crate) fn build(tenants: Tenants) -> Self {
                let mut registry = Registry::default();
                $(
                    let $field = <$type>::default();
                    // The encoder appends `_total` to counters by itself, and a full stop to every help.
                    let name = $name.strip_suffix("_total").unwrap_or($name);
                    registry.register(name, $help, Declared($field.clone()));
                )+
                Self { $($field,)+ registry, tenants }
            }
        }
    };
}

catalogue! {
    // Realtime: names and labels of the rooms API.
    active_connections: Family<TenantStatusLabels, Gauge> = "websocket_active_connections", "connections",
        "Open connections of the realtime server";
    connections: Family<TenantLabels, Counter> = "websocket_connections_total", "connections",
        "Connections accepted by the realtime server";
    active_rooms: Family<TenantLabels, Gauge> = "websocket_active_rooms", "rooms",
        "Rooms with at least one member or listener";
    room_subscriptions: Family<TenantLabels, Gauge> = "websocket_room_subscriptions", "subscriptions",
        "Memberships of connections in rooms";
    messages_sent: Family<TenantEventLabels, Counter> = "websocket_messages_sent_total", "messages",
        "Messages sent to connections, one per receiver";
    messages_received: Family<TenantEventLabels, Counter> = "websocket_messages_received_total", "messages",
        "Messages received from clients and from the publish API";
    message_latency_ms: Family<TenantEventLabels, Histogram<MillisBuckets>> = "websocket_message_latency_ms", "milliseconds",
        "Time from reading a client's message to its acknowledgement";
    errors: Family<ErrorLabels, Counter> = "websocket_errors_total", "errors",
        "Errors told to clients, by type and code";
    disconnections: Family<DisconnectLabels, Counter> = "websocket_disconnections_total", "connections",
        "Connections that ended, by reason";
    messages_dropped: Family<DropLabels, Counter> = "websocket_messages_dropped_total", "messages",
        "Messages that a connection did not get, by reason";
    messages_persisted: Family<TenantLabels, Counter> = "websocket_messages_persisted_total", "messages",
        "Messages appended to the history store";
    auth_failures: Family<AuthFailureLabels, Counter> = "websocket_auth_failures_total", "attempts",
        "Credentials refused";
    rate_limit_hits: Family<RateLimitLabels, Counter> = "websocket_rate_limit_hits_total", "attempts",
        "Attempts refused by a limit";
    redis_latency_ms: Family<RedisLabels, Histogram<MillisBuckets>> = "websocket_redis_latency_ms", "milliseconds",
        "Time of a Redis operation (without series unless Redis is used)";
    redis_connected: Gauge = "tidegate_redis_connected", "servers",
        "Servers of Redis to which all connections stand";
    redis_disconnects: Counter = "tidegate_redis_disconnects_total", "connections",
        "Connections to a server of Redis that ended";
    redis_errors: Family<RedisErrorLabels, Counter> = "tidegate_redis_errors_total", "errors",
        "Calls of Redis that failed, by what became of them";
    cluster_foreign: Family<ForeignLabels, Counter> = "tidegate_cluster_foreign_total", "values",
        "Values and messages found in Redis that were not taken, by reason";
    event_loop_lag_ms: FloatGauge = "websocket_event_loop_lag_ms", "milliseconds",
        "How late the slowest worker's last tick came";

    // Realtime: beyond the rooms API.
    turned_away: Family<TurnedAwayLabels, Counter> = "tidegate_realtime_turned_away_total", "connections",
        "Connections that the realtime server did not take";
    compression_saved_bytes: Counter = "tidegate_compression_saved_bytes_total", "bytes",
        "Bytes of WebSocket messages that were not sent because they were compressed";
    recoveries: Family<RecoveryLabels, Counter> = "tidegate_recoveries_total", "attempts",
        "Attempts of clients to recover their state after a cut, by outcome";
    interop_messages: Family<InteropLabels, Counter> = "tidegate_interop_messages_total", "messages",
        "Messages between this server and Node servers on the same Redis, by what became of them";
    key_fetches: Family<KeyFetchLabels, Counter> = "tidegate_jwks_fetches_total", "fetches",
        "Fetches of an issuer's keys (jwks_url), by outcome";
    store_latency_ms: Family<StoreLabels, Histogram<MillisBuckets>> = "tidegate_store_latency_ms", "milliseconds",
        "Time of a history store operation";
    store_queue_bytes: Gauge = "tidegate_store_queue_bytes", "bytes",
        "Bytes of messages that wait for the history writer";
    signals_refused: Counter = "tidegate_cluster_signals_refused_total", "signals",
        "Signals of other nodes that were damaged, of another version, or not of a node at all";
    store_errors: Counter = "tidegate_store_errors_total", "errors",
        "History store operations that failed";

    // Gateway.
    http_connections: Counter = "tidegate_http_connections_total", "connections",
        "Client connections accepted";
    http_connections_open: Gauge = "tidegate_http_connections_open", "connections",
        "Client connections open, tunnels included";
    http_requests: Family<RequestLabels, Counter> = "tidegate_http_requests_total", "requests",
        "Requests answered, counted when the response has ended";
    http_request_duration_seconds: Family<LatencyLabels, Histogram<SecondsBuckets>> =
        "tidegate_http_request_duration_seconds", "seconds",
        "Time from a request's head to the end of its response, without tunnels and event streams";
    http_ttfb_seconds: Family<LatencyLabels, Histogram<SecondsBuckets>> = "tidegate_http_ttfb_seconds", "seconds",
        "Time from a request's head to that of its response; of a tunnel (1xx), its handshake";
    bad_requests: Family<BadRequestLabels, Counter> = "tidegate_bad_requests_total", "requests",
        "Requests refused as malformed or ambiguous";
    limited: Family<LimitedLabels, Counter> = "tidegate_limited_total", "requests",
        "Requests that a zone refused or delayed, or would have in a dry run";
    limit_keys: Family<ZoneLabels, Gauge> = "tidegate_limit_keys", "keys",
        "Keys that a zone remembers";
    connections_refused: Family<RefusedConnectionLabels, Counter> = "tidegate_connections_refused_total", "connections",
        "Connections closed before their first request";
    admission_refused: Counter = "tidegate_admission_refused_total", "streams",
        "Openings of streams that were put off by the admission limit";
    log_lines_dropped: Counter = "tidegate_log_lines_dropped_total", "lines",
        "Lines of the access log that were lost because a target could not keep up or could not be written";
    trace_spans: Family<SpanLabels, Counter> = "tidegate_trace_spans_total", "spans",
        "Spans of sampled requests, by what became of them";
    tunnels_open: Family<RouteLabels, Gauge> = "tidegate_tunnels_open", "tunnels",
        "WebSocket tunnels open";
    tunnels: Family<RouteLabels, Counter> = "tidegate_tunnels_total", "tunnels",
        "WebSocket tunnels opened";
    tunnel_bytes: Family<RouteDirectionLabels, Counter> = "tidegate_tunnel_bytes_total", "bytes",
        "Bytes carried by WebSocket tunnels";
    sse_streams_open: Family<RouteLabels, Gauge> = "tidegate_sse_streams_open", "streams",
        "Event streams open";
    sse_streams: Family<RouteLabels, Counter> = "tidegate_sse_streams_total", "streams",
        "Event streams opened";
    sse_events: Family<RouteLabels, Counter> = "tidegate_sse_events_total", "events",
        "Events carried by event streams";
    sse_bytes: Family<RouteLabels, Counter> = "tidegate_sse_bytes_total", "bytes",
        "Bytes carried by event streams";
    sse_heartbeats: Family<RouteLabels, Counter> = "tidegate_sse_heartbeats_total", "comments",
        "Heartbeats put into event streams whose upstream was silent";
    stream_duration_seconds: Family<StreamKindLabels, Histogram<LifetimeBuckets>> =
        "tidegate_stream_duration_seconds", "seconds",
        "How long WebSocket tunnels and event streams lived, from the response's head to the end";
    websocket_messages: Family<RouteDirectionLabels, Counter> = "tidegate_websocket_messages_total", "messages",
        "Messages through tunnels of routes that inspect";
    websocket_message_bytes: Family<RouteDirectionLabels, Histogram<ByteBuckets>> =
        "tidegate_websocket_message_bytes", "bytes",
        "Sizes of messages through tunnels of routes that inspect, as sent";
    websocket_close_codes: Family<CloseCodeLabels, Counter> = "tidegate_websocket_close_codes_total", "tunnels",
        "Tunnels closed, by the first close code; of routes that do not inspect, only those that the gateway closed";
    websocket_ping_rtt_seconds: Family<RoutePeerLabels, Histogram<SecondsBuckets>> =
        "tidegate_websocket_ping_rtt_seconds", "seconds",
        "Time from a ping of the gateway to its pong";
    websocket_limited: Family<StreamLimitLabels, Counter> = "tidegate_websocket_limited_total", "tunnels",
        "Tunnels closed because the client went beyond a limit";

    // Cluster.
    cluster_members: Gauge = "tidegate_cluster_members", "nodes",
        "Nodes of the cluster that are taken to live, this one included; 0 while it is none itself";
    cluster_joins: Counter = "tidegate_cluster_joins_total", "joins",
        "Times that this node became a member: after the first one it had been taken to be dead, or Redis had forgotten it";
    cluster_burials: Counter = "tidegate_cluster_burials_total", "nodes",
        "Dead nodes whose presence and sessions this node took back";
    cluster_left_out: Family<LeftOutLabels, Counter> = "tidegate_cluster_left_out_total", "nodes",
        "Members that are not talked to: they speak another protocol, or what they say of themselves cannot be read";
    cluster_forwarded: Family<ForwardedLabels, Counter> = "tidegate_cluster_forwarded_total", "requests",
        "Requests of sessions that another node has";

    // TLS.
    tls_handshakes: Family<HandshakeLabels, Counter> = "tidegate_tls_handshakes_total", "handshakes",
        "TLS handshakes with clients";
    tls_certificate_expiry_seconds: Family<CertificateLabels, Gauge> =
        "tidegate_tls_certificate_expiry_seconds", "seconds",
        "When a certificate in use expires, since the Unix epoch";
    tls_certificates_refused: Family<CertificateLabels, Counter> =
        "tidegate_tls_certificates_refused_total", "certificates",
        "Changed certificates that could not be used, so that the ones before stay in use";

    // Upstreams.
    upstream_requests: Family<UpstreamRequestLabels, Counter> = "tidegate_upstream_requests_total", "attempts",
        "Attempts to pass a request to a server";
    upstream_connect_errors: Family<ConnectErrorLabels, Counter> = "tidegate_upstream_connect_errors_total", "errors",
        "Connections to a server that failed";
    upstream_retries: Family<UpstreamLabels, Counter> = "tidegate_upstream_retries_total", "retries",
        "Requests sent again after a dead connection or to another server";
    upstream_retries_denied: Family<UpstreamLabels, Counter> = "tidegate_upstream_retries_denied_total", "retries",
        "Retries that the retry budget did not allow";
    upstream_refused: Family<UpstreamLabels, Counter> = "tidegate_upstream_refused_total", "requests",
        "Requests that the breaker of an upstream refused: it was open, or max_requests were under way";
    upstream_server_up: Family<ServerLabels, Gauge> = "tidegate_upstream_server_up", "none",
        "1 while a server is used; 0 while probes, failures, an ejection or an operator keep requests from it";
    upstream_state_changes: Family<StateChangeLabels, Counter> = "tidegate_upstream_state_changes_total", "changes",
        "Changes of a server's state, or of its upstream's breaker";
    upstream_probe_failures: Family<ServerLabels, Counter> = "tidegate_upstream_probe_failures_total", "probes",
        "Active probes of a server that failed";
    upstream_connections_open: Family<UpstreamLabels, Gauge> = "tidegate_upstream_connections_open", "connections",
        "Connections to an upstream's servers, idle ones included";
    upstream_connections_idle: Family<UpstreamLabels, Gauge> = "tidegate_upstream_connections_idle", "connections",
        "Idle connections kept for reuse";
    upstream_connect_seconds: Family<UpstreamLabels, Histogram<SecondsBuckets>> =
        "tidegate_upstream_connect_seconds", "seconds",
        "Time until a new connection to a server stood, name resolution included";
    upstream_header_seconds: Family<UpstreamLabels, Histogram<SecondsBuckets>> =
        "tidegate_upstream_header_seconds", "seconds",
        "Time from the begin of an attempt, connecting included, to the head of the server's response";

    // Webhooks.
    webhook_calls: Family<WebhookCallLabels, Counter> = "tidegate_webhook_calls_total", "calls",
        "Calls of a webhook, each try counted; those that were not made for its sake too";
    webhook_call_seconds: Family<WebhookLabels, Histogram<SecondsBuckets>> =
        "tidegate_webhook_call_seconds", "seconds",
        "Time from the begin of a call to the end of its answer, or until it was given up";
    webhook_queue: Family<WebhookLabels, Gauge> = "tidegate_webhook_queue_events", "events",
        "Events that wait to be told to a webhook";
    webhook_dropped: Family<WebhookDropLabels, Counter> = "tidegate_webhook_dropped_total", "events",
        "Events that a webhook was to be told of and was not";
    webhook_breaker: Family<WebhookLabels, Gauge> = "tidegate_webhook_breaker_state", "none",
        "The breaker of a webhook: 0 closed, 1 making its trials, 2 open";

    // Process.
    build_info: Family<BuildLabels, Gauge> = "tidegate_build_info", "none",
        "Always 1, with the version as a label";
    process_cpu_seconds: FloatCounter = "tidegate_process_cpu_seconds_total", "seconds",
        "User and system CPU time used";
    process_resident_bytes: Gauge = "tidegate_process_resident_bytes", "bytes",
        "Resident memory";
    process_open_fds: Gauge = "tidegate_process_open_fds", "descriptors",
        "Open file descriptors";
    process_max_fds: Gauge = "tidegate_process_max_fds", "descriptors",
        "Limit of open file descriptors";
    process_threads: Gauge = "tidegate_process_threads", "threads",
        "Threads of the process";
    process_start_time_seconds: FloatGauge = "tidegate_process_start_time_seconds", "seconds",
        "Start of the process since the Unix epoch";
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
