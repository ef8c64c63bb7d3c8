//! Traces for OpenTelemetry: one span for each exchange, one within it for each try with a server, sent to a collector by
//! OTLP over HTTP.
//!
//! A worker writes a finished exchange's spans as protobuf and gives them to the control thread, which sends them in
//! batches. The queue between them is bounded; what does not fit, or is not taken by the collector, is counted, and never
//! holds anybody up. Without `[trace]` all of it is one branch per request.

mod export;
mod protobuf;
mod span;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use tidegate_config as config;
use tidegate_metrics::{Metrics, SpanOutcome};
use tidegate_proxy::{SpanContext, Trace, splitmix};
use tokio::sync::mpsc;

pub(crate) use export::Exporter;

use crate::StartError;
use crate::access_log::Entry;

/// Exchanges that may wait to be sent; the default of OpenTelemetry's own.
const WAITING: usize = 2048;

/// The spans of one exchange, as `spans` fields of a `ScopeSpans`.
pub(crate) struct Finished {
    bytes: Vec<u8>,
    spans: u64,
}

/// What workers need to trace.
#[derive(Clone)]
pub(crate) struct Tracing {
    sender: mpsc::Sender<Finished>,
    /// Of a million requests.
    sample: u32,
    metrics: Arc<Metrics>,
}

impl Tracing {
    /// As the config says; the exporter is to be run until it ends.
    ///
    /// # Errors
    /// The collector's address cannot be one.
    pub fn new(settings: &config::Trace, metrics: &Arc<Metrics>) -> Result<(Self, Exporter), StartError> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let exporter = Exporter::new(settings, receiver, metrics.clone())?;
        Ok((Self { sender, sample: settings.sample, metrics: metrics.clone() }, exporter))
    }

    /// A worker's own.
    pub fn tracer(&self) -> Tracer {
        let mut seed = [0; 8];
        // Without randomness ids only stop being unique between processes.
        let _ = getrandom::fill(&mut seed);
        Tracer { tracing: self.clone(), next: Cell::new(u64::from_le_bytes(seed)) }
    }
}

/// A worker's end.
pub(crate) struct Tracer {
    tracing: Tracing,
    next: Cell<u64>,
}

impl Tracer {
    /// The trace of a request: the client's, if it sent one. A sampled one is followed; of all others our own share is taken.
    pub fn begin(&self, headers: &HeaderMap) -> Rc<Trace> {
        let parent = SpanContext::of(headers);
        let next = || splitmix(&self.next);
        let trace =
            parent.map_or_else(|| (u128::from(next()) << 64 | u128::from(next())).max(1), |parent| parent.trace);
        let sampled =
            parent.is_some_and(|parent| parent.sampled) || next() % 1_000_000 < u64::from(self.tracing.sample);
        let context = SpanContext { trace, span: next().max(1), sampled };
        Rc::new(Trace::new(context, parent.map(|parent| parent.span), next()))
    }

    /// The exchange has ended.
    pub fn end(&self, trace: &Trace, entry: &Entry<'_>) {
        if !trace.context.sampled {
            return;
        }
        let finished = span::finished(trace, entry, now_nanos());
        let spans = finished.spans;
        if self.tracing.sender.try_send(finished).is_err() {
            self.tracing.metrics.trace_spans(SpanOutcome::Dropped).inc_by(spans);
        }
    }
}

/// Since the Unix epoch.
fn now_nanos() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
