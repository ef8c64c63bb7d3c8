//! The one catalogue of metrics: every metric of Tidegate is declared in [`catalogue`](mod@catalogue) with its name,
//! unit, labels and help; `docs/metrics.md` is generated from the same table.
//!
//! Pure: nothing here reads a clock or the system. Invariants:
//! - No label grows without bound. Routes, upstreams and servers come from the config; everything that a client could
//!   choose is an enum, a `&'static str`, or a [`TenantLabel`], of which there are at most [`MAX_TENANTS`] and `other`.
//! - Label values are escaped once, when the label is made (the encoder below does not escape).
//! - Hot paths hold handles ([`RouteMetrics`], [`ServerMetrics`], [`TenantMetrics`]); nothing looks
//!   up a family per message.
//!
//! Start reading at [`Metrics`].

mod catalogue;
mod handles;
mod histogram;
mod labels;
mod limits;
mod streams;
mod text;
mod webhooks;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

pub use catalogue::{CATALOGUE, Entry, Metrics};
pub use handles::{RouteMetrics, ServerMetrics, StateChanges, TenantMetrics, UpstreamMetrics};
pub use histogram::{Buckets, ByteBuckets, Histogram, LifetimeBuckets, MillisBuckets, SecondsBuckets};
pub use labels::*;
pub use limits::LimitMetrics;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use streams::WebSocketMetrics;
pub use text::markdown;
pub use webhooks::WebhookMetrics;

use tidegate_types::TenantId;

/// A counter of seconds or another fraction.
pub type FloatCounter = Counter<f64, std::sync::atomic::AtomicU64>;
/// A gauge of a fraction.
pub type FloatGauge = Gauge<f64, std::sync::atomic::AtomicU64>;

/// The media type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many tenants get a label of their own; later ones share `other`.
pub const MAX_TENANTS: usize = 1_000;

/// What the process uses, read by the server before a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    /// User and system CPU time since the start, seconds.
    pub cpu_seconds: f64,
    /// Resident set, bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// The limit of open file descriptors.
    pub max_fds: u64,
    /// Threads.
    pub threads: u64,
    /// Start of the process, seconds since the Unix epoch.
    pub start_time_seconds: f64,
}

/// The tenants seen, and their handles.
#[derive(Default)]
pub(crate) struct Tenants {
    limit: usize,
    known: Mutex<HashMap<TenantId, Arc<TenantMetrics>>>,
    other: std::sync::OnceLock<Arc<TenantMetrics>>,
}

impl Tenants {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Arc<Self> {
        Self::with_tenant_limit(MAX_TENANTS)
    }

    /// As [`Metrics::new`], with another bound on the number of tenants that get a label of their own.
    pub fn with_tenant_limit(limit: usize) -> Arc<Self> {
        let metrics = Self::build(Tenants::new(limit));
        metrics.build_info.get_or_create_owned(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        Arc::new(metrics)
    }

    /// The handles of a tenant. The first [`MAX_TENANTS`] tenants have their own, all others share those of `other`:
    /// change gauges by `inc` and `dec`, never by `set`.
    pub fn tenant(&self, tenant: &TenantId) -> Arc<TenantMetrics> {
        let mut known = self.tenants.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = known.get(tenant) {
            return metrics.clone();
        }
        if known.len() >= self.tenants.limit {
            drop(known);
            return self.tenants.other.get_or_init(|| Arc::new(TenantMetrics::new(self, TenantLabel::other()))).clone();
        }
        let metrics = Arc::new(TenantMetrics::new(self, TenantLabel::of(tenant)));
        known.insert(tenant.clone(), metrics.clone());
        metrics
    }

    /// The handles of a route that is answered here. `name` comes from the config.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        self.route_to(name, "none")
    }

    /// The handles of a route to an upstream. Both names come from the config.
    pub fn route_to(&self, name: &str, upstream: &str) -> Arc<RouteMetrics> {
        Arc::new(RouteMetrics::new(self, name, Name::new(upstream)))
    }

    /// The handles of an upstream. `name` comes from the config.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        Arc::new(UpstreamMetrics::new(self, Name::new(name)))
    }

    /// Where changes of an upstream's state are counted. `name` comes from the config.
    pub fn state_changes(&self, name: &str) -> StateChanges {
        StateChanges::new(self, Name::new(name))
    }

    /// The handles of one server of an upstream. Both names come from the config.
    pub fn server(&self, upstream: &str, server: &str) -> Arc<ServerMetrics> {
        Arc::new(ServerMetrics::new(self, Name::new(upstream), Name::new(server)))
    }

    /// Counts an error shown to a client, or met by the server, under its type and stable code.
    pub fn error(&self, tenant: &TenantMetrics, kind: &'static str, code: &'static str) {
        let labels = ErrorLabels { tenant: tenant.label.clone(), r#type: kind, code };
        self.errors.get_or_create(&labels).inc();
    }

    /// The spans of traces that ended so. Looks the series up: once per batch, or when one is lost.
    pub fn trace_spans(&self, outcome: SpanOutcome) -> Counter {
        self.trace_spans.get_or_create_owned(&SpanLabels { outcome })
    }

    /// Counts a call of Redis that failed. Not for the way of each message: failing is rare.
    pub fn redis_error(&self, kind: RedisTrouble) {
        self.redis_errors.get_or_create_owned(&RedisErrorLabels { kind }).inc();
    }

    /// Counts something found in Redis that was not taken.
    pub fn cluster_foreign(&self, kind: ForeignKind) {
        self.cluster_foreign.get_or_create_owned(&ForeignLabels { kind }).inc();
    }

    /// Where the times of an operation of Redis go.
    pub fn redis_latency(&self, operation: &'static str) -> Histogram<MillisBuckets> {
        self.redis_latency_ms.get_or_create_owned(&RedisLabels { operation })
    }

    /// Stores what the process uses.
    pub fn set_process(&self, stats: ProcessStats) {
        // A counter has no setter; the kernel's figure is monotonic, so storing it keeps the counter's promise.
        let cpu = stats.cpu_seconds.to_bits();
        self.process_cpu_seconds.inner().store(cpu, std::sync::atomic::Ordering::Relaxed);
        self.process_resident_bytes.set(clamp(stats.resident_bytes));
        self.process_open_fds.set(clamp(stats.open_fds));
        self.process_max_fds.set(clamp(stats.max_fds));
        self.process_threads.set(clamp(stats.threads));
        self.process_start_time_seconds.set(stats.start_time_seconds);
    }
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
