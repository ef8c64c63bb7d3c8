//! Sending spans to a collector: OTLP over HTTP with protobuf (opentelemetry.io/docs/specs/otlp).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use tidegate_config as config;
use tidegate_metrics::{Metrics, SpanOutcome};
use tidegate_outbound::{Endpoint, Outbound};
use tokio::sync::mpsc;

use super::Finished;
use super::protobuf::Message;
use crate::StartError;

/// Exchanges of one batch at most; the default of OpenTelemetry's own.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pauses before a batch is sent again; then it is given up. Meanwhile the queue fills.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// What a collector may answer, bytes; nobody needs it.
const MOST_ANSWER: usize = 64 * 1024;
/// How long the end of the process waits for the last batches.
const LAST: Duration = Duration::from_secs(5);

/// Sends what workers trace.
pub(crate) struct Exporter {
    receiver: mpsc::Receiver<Finished>,
    metrics: Arc<Metrics>,
    collector: Arc<Endpoint>,
    /// The fields of a `ResourceSpans` before its spans.
    resource: Vec<u8>,
    failing: bool,
}

/// Why a batch was not taken.
enum Refusal {
    /// Another time, perhaps.
    Later(String),
    Never(String),
}

impl Exporter {
    pub(super) fn new(
        settings: &config::Trace,
        receiver: mpsc::Receiver<Finished>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let url = format!("{}/v1/traces", settings.endpoint.trim_end_matches('/'));
        let collector = Endpoint::new(&url, None)
            .map_err(|error| StartError::Config(format!("[trace] endpoint {:?}: {error}", settings.endpoint)))?;
        let mut resource = Message::new();
        resource.nested(1, |resource| {
            for (key, value) in
                [("service.name", &*settings.service_name), ("service.version", env!("CARGO_PKG_VERSION"))]
            {
                resource.nested(1, |attribute| {
                    attribute.text(1, key);
                    attribute.nested(2, |any| any.text(1, value));
                });
            }
        });
        Ok(Self { receiver, metrics, collector: Arc::new(collector), resource: resource.into_bytes(), failing: false })
    }

    /// Sends until every worker has ended; what is left when `closing` has resolved gets a few seconds more.
    pub async fn run(mut self, closing: impl Future<Output = ()>) {
        let deadline = async {
            closing.await;
            tokio::time::sleep(LAST).await;
        };
        tokio::select! {
            () = self.send_all() => {}
            () = deadline => tracing::warn!("the last traces were not sent: the collector does not take them"),
        }
    }

    async fn send_all(&mut self) {
        let client = Outbound::new(self.collector.clone(), MOST_ANSWER);
        let mut batch = Vec::new();
        while self.receiver.recv_many(&mut batch, BATCH).await > 0 {
            let more = async {
                loop {
                    let room = BATCH.saturating_sub(batch.len());
                    if room == 0 || self.receiver.recv_many(&mut batch, room).await == 0 {
                        return;
                    }
                }
            };
            // Neither outcome matters: the batch is full, or it waited long enough.
            let _ = tokio::time::timeout(GATHER, more).await;
            let spans = batch.iter().map(|finished| finished.spans).sum();
            let body = self.request(&batch);
            batch.clear();
            let outcome = if self.deliver(&client, body).await { SpanOutcome::Exported } else { SpanOutcome::Failed };
            self.metrics.trace_spans(outcome).inc_by(spans);
        }
    }

    /// An `ExportTraceServiceRequest`.
    fn request(&self, batch: &[Finished]) -> Bytes {
        let mut scope = Message::new();
        scope.nested(1, |scope| {
            scope.text(1, "tidegate");
            scope.text(2, env!("CARGO_PKG_VERSION"));
        });
        let mut scope = scope.into_bytes();
        for finished in batch {
            scope.extend_from_slice(&finished.bytes);
        }
        let mut spans = Message::new();
        spans.message(2, &scope);
        let mut request = Message::new();
        request.message(1, &[&*self.resource, &*spans.into_bytes()].concat());
        request.into_bytes().into()
    }

    /// Whether the collector took it.
    async fn deliver(&mut self, client: &Outbound, body: Bytes) -> bool {
        let mut pauses = PAUSES.into_iter();
        loop {
            let refusal = match post(client, body.clone()).await {
                Ok(()) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(collector = self.collector.authority(), "traces are taken again");
                    }
                    return true;
                }
                Err(refusal) => refusal,
            };
            let error = match (refusal, pauses.next()) {
                (Refusal::Later(_), Some(pause)) => {
                    tokio::time::sleep(pause).await;
                    continue;
                }
                (Refusal::Later(error) | Refusal::Never(error), _) => error,
            };
            if !std::mem::replace(&mut self.failing, true) {
                tracing::error!(
                    error,
                    collector = self.collector.authority(),
                    "traces are not taken; they are lost, and counted"
                );
            }
            return false;
        }
    }
}

async fn post(client: &Outbound, body: Bytes) -> Result<(), Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, const { HeaderValue::from_static("application/x-protobuf") });
    let answer = client.call(Method::POST, headers, body, PATIENCE).await;
    match answer.map_err(|error| Refusal::Later(error.to_string()))?.status() {
        status if status.is_success() => Ok(()),
        // Those that the specification calls retryable.
        status @ (StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT) => Err(Refusal::Later(format!("the collector answers {status}"))),
        status => Err(Refusal::Never(format!("the collector answers {status}"))),
    }
}
