//! A gateway of one worker around the forwarder, as the server builds it.
#![allow(dead_code, clippy::unwrap_used)]

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tidegate_metrics::{Metrics, RouteMetrics};
use tidegate_proxy::{
    Exchange, ExchangeSummary, Forwarder, ForwarderSettings, Guarded, ServerSettings, Upstream, UpstreamSettings,
    check_framing, error_response,
};
use tidegate_testkit::{PATIENCE, RawClient};
use tidegate_types::{ErrorCode, Phase};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

pub struct Gateway {
    pub address: SocketAddr,
    pub phase: watch::Sender<Phase>,
    pub metrics: Arc<Metrics>,
    pub route: Arc<RouteMetrics>,
    ended: Rc<Ended>,
}

#[derive(Default)]
struct Ended {
    summaries: RefCell<Vec<ExchangeSummary>>,
    changed: Notify,
}

/// Short patience all over, so that tests of timeouts are quick. What must not time out in a test does so in none.
pub fn settings(servers: &[SocketAddr]) -> UpstreamSettings {
    UpstreamSettings {
        name: "backend".into(),
        servers: servers.iter().map(|address| ServerSettings { address: address.to_string(), weight: 1 }).collect(),
        connect_timeout: Duration::from_secs(2),
        ..UpstreamSettings::default()
    }
}

impl Gateway {
    pub async fn to(servers: &[SocketAddr]) -> Self {
        Self::with(settings(servers)).await
    }

    pub async fn with(settings: UpstreamSettings) -> Self {
        let metrics = Metrics::new();
        let (phase, watched) = watch::channel(Phase::Serving);
        let tick = Duration::from_millis(10);
        let forwarder = Forwarder::with_settings(watched, ForwarderSettings { tick, drain_spread: 3 * tick });
        let upstream = Upstream::new(settings, &metrics);
        let route = metrics.route("test");
        let ended = Rc::new(Ended::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(accept(listener, forwarder, upstream, route.clone(), ended.clone()));
        Self { address, phase, metrics, route, ended }
    }

    pub async fn client(&self) -> RawClient {
        RawClient::connect(self.address).await
    }

    /// Waits until so many exchanges have ended.
    pub async fn ended(&self, count: usize) -> Vec<ExchangeSummary> {
        let waiting = async {
            loop {
                let changed = self.ended.changed.notified();
                if self.ended.summaries.borrow().len() >= count {
                    return self.ended.summaries.borrow().clone();
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the end of an exchange")
    }
}

async fn accept(
    listener: TcpListener,
    forwarder: Rc<Forwarder>,
    upstream: Arc<Upstream>,
    route: Arc<RouteMetrics>,
    ended: Rc<Ended>,
) {
    while let Ok((stream, client)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let (forwarder, upstream, route, ended) = (forwarder.clone(), upstream.clone(), route.clone(), ended.clone());
        let service = service_fn(move |request| {
            let (forwarder, upstream, route, ended) =
                (forwarder.clone(), upstream.clone(), route.clone(), ended.clone());
            async move {
                if let Err(ambiguity) = check_framing(&request) {
                    return Ok(error_response(ErrorCode::BadRequest, ambiguity.message(), "request-1"));
                }
                let exchange = Exchange {
                    request_id: "request-1".into(),
                    client,
                    scheme: "http",
                    route,
                    on_end: Box::new(move |summary| {
                        ended.summaries.borrow_mut().push(summary);
                        ended.changed.notify_waiters();
                    }),
                };
                Ok::<_, Infallible>(forwarder.forward(request, &upstream, exchange).await)
            }
        });
        let mut builder = http1::Builder::new();
        builder.max_buf_size(64 * 1024);
        let connection = builder.serve_connection(TokioIo::new(Guarded::new(stream)), service).with_upgrades();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
    }
}

/// A GET with a Host.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: example.org\r\n\r\n")
}
