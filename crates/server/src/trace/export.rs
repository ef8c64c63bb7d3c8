//! Sending spans to a collector: OTLP over HTTP with protobuf (opentelemetry.io/docs/specs/otlp).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tidegate_config as config;
use tidegate_metrics::{Metrics, SpanOutcome};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

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
/// How long the end of the process waits for the last batches.
const LAST: Duration = Duration::from_secs(5);

/// Sends what workers trace.
pub(crate) struct Exporter {
    receiver: mpsc::Receiver<Finished>,
    metrics: Arc<Metrics>,
    address: String,
    authority: String,
    path: String,
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
        let fault = |why: &str| StartError::Config(format!("[trace] endpoint {:?}: {why}", settings.endpoint));
        let uri: Uri = settings.endpoint.parse().map_err(|_| fault("this is no URL; e.g. http://127.0.0.1:4318"))?;
        if uri.scheme_str() != Some("http") {
            return Err(fault(
                "only http:// is spoken here: send to a collector on this host or network, which speaks TLS to others",
            ));
        }
        let host = uri.host().ok_or_else(|| fault("a host is missing"))?;
        let port = uri.port_u16().unwrap_or(80);
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
        Ok(Self {
            receiver,
            metrics,
            address: format!("{host}:{port}"),
            authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
            path: format!("{}/v1/traces", uri.path().trim_end_matches('/')),
            resource: resource.into_bytes(),
            failing: false,
        })
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
            let outcome = if self.deliver(body).await { SpanOutcome::Exported } else { SpanOutcome::Failed };
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
    async fn deliver(&mut self, body: Bytes) -> bool {
        let mut pauses = PAUSES.into_iter();
        loop {
            let sent = tokio::time::timeout(PATIENCE, self.post(body.clone())).await;
            let refusal = match sent.unwrap_or_else(|_| Err(Refusal::Later("no answer in time".to_owned()))) {
                Ok(()) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(collector = self.authority, "traces are taken again");
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
                tracing::error!(error, collector = self.authority, "traces are not taken; they are lost, and counted");
            }
            return false;
        }
    }

    async fn post(&self, body: Bytes) -> Result<(), Refusal> {
        let later = |error: io::Error| Refusal::Later(error.to_string());
        let broken = |error: hyper::Error| Refusal::Later(error.to_string());
        let stream = TcpStream::connect(&self.address).await.map_err(later)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let driving = spawn_local(connection);
        let request = Request::post(&self.path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(body))
            .map_err(|error| Refusal::Never(error.to_string()))?;
        let result = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            // Read to its end, for a collector that minds; nobody needs it.
            let _ = http_body_util::Limited::new(response.into_body(), 64 * 1024).collect().await;
            match status {
                status if status.is_success() => Ok(()),
                // Those that the specification calls retryable.
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => Err(Refusal::Later(format!("the collector answers {status}"))),
                status => Err(Refusal::Never(format!("the collector answers {status}"))),
            }
        };
        let result = result.await;
        driving.abort();
        result
    }
}
