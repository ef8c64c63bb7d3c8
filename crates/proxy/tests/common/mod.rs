//! A gateway of one worker around the forwarder, as the server builds it.
#![allow(dead_code, clippy::unwrap_used)]

pub mod nginx;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tidegate_metrics::{Metrics, RouteMetrics};
use tidegate_proxy::{
    EventPolicy, Exchange, ExchangeSummary, Forwarder, ForwarderSettings, Guarded, LiveStreams, ServerSettings,
    Upstream, UpstreamSettings, WebSocketPolicy, WebSocketTerms, check_framing, error_response,
};
use tidegate_testkit::{PATIENCE, RawClient};
use tidegate_transport::Transport;
use tidegate_types::{ErrorCode, Phase};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

pub struct Gateway {
    pub address: SocketAddr,
    pub phase: watch::Sender<Phase>,
    pub metrics: Arc<Metrics>,
    pub route: Arc<RouteMetrics>,
    pub live: LiveStreams,
    upstream: Rc<RefCell<Arc<Upstream>>>,
    ended: Rc<Ended>,
}

/// What a route wants of its streams.
#[derive(Clone, Default)]
pub struct Terms {
    pub websocket: Option<Arc<WebSocketPolicy>>,
    pub events: Option<EventPolicy>,
}

#[derive(Default)]
struct Ended {
    summaries: RefCell<Vec<ExchangeSummary>>,
    changed: Notify,
}

/// What must not time out in a test does so in none, and a server that failed is not tried again.
pub fn settings(servers: &[SocketAddr]) -> UpstreamSettings {
    UpstreamSettings {
        name: "backend".into(),
        servers: servers.iter().map(|address| ServerSettings::at(address.to_string())).collect(),
        connect_timeout: PATIENCE,
        fail_timeout: Duration::from_secs(3600),
        ..UpstreamSettings::default()
    }
}

impl Gateway {
    pub async fn to(servers: &[SocketAddr]) -> Self {
        Self::with(settings(servers)).await
    }

    pub async fn with(settings: UpstreamSettings) -> Self {
        Self::on(settings, Terms::default()).await
    }

    /// On a route that wants something of its streams.
    pub async fn on(settings: UpstreamSettings, terms: Terms) -> Self {
        let metrics = Metrics::new();
        let (phase, watched) = watch::channel(Phase::Serving);
        let tick = Duration::from_millis(10);
        let forwarder = Forwarder::with_settings(
            watched,
            ForwarderSettings { tick, drain_spread: 3 * tick, ..ForwarderSettings::default() },
        );
        let (live, inboxes) = LiveStreams::for_workers(1);
        inboxes.into_iter().for_each(|inbox| forwarder.attend(inbox));
        let upstream = Upstream::new(settings, &metrics);
        let route = metrics.route("test");
        let ended = Rc::new(Ended::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(Upstream::watch(Arc::downgrade(&upstream), live.clone()));
        let upstream = Rc::new(RefCell::new(upstream));
        tokio::task::spawn_local(accept(listener, forwarder, upstream.clone(), route.clone(), terms, ended.clone()));
        Self { address, phase, metrics, route, live, upstream, ended }
    }

    pub async fn client(&self) -> RawClient {
        RawClient::connect(self.address).await
    }

    pub fn upstream(&self) -> Arc<Upstream> {
        self.upstream.borrow().clone()
    }

    /// As a reload does it.
    pub fn reload(&self, settings: UpstreamSettings) {
        let next = self.upstream().succeeded_by(settings, &self.metrics);
        *self.upstream.borrow_mut() = next;
    }

    /// How many exchanges have ended.
    pub fn ended_so_far(&self) -> usize {
        self.ended.summaries.borrow().len()
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
    upstream: Rc<RefCell<Arc<Upstream>>>,
    route: Arc<RouteMetrics>,
    terms: Terms,
    ended: Rc<Ended>,
) {
    while let Ok((stream, client)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let local = stream.local_addr().unwrap();
        let (forwarder, upstream, route, ended) = (forwarder.clone(), upstream.clone(), route.clone(), ended.clone());
        let terms = terms.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let current = upstream.borrow().clone();
            let (forwarder, upstream, route, ended) = (forwarder.clone(), current, route.clone(), ended.clone());
            let terms = terms.clone();
            async move {
                if let Err(ambiguity) = check_framing(&request) {
                    return Ok(error_response(ErrorCode::BadRequest, ambiguity.message(), "request-1"));
                }
                let on_end = Box::new(move |summary| {
                    ended.summaries.borrow_mut().push(summary);
                    ended.changed.notify_waiters();
                });
                let mut exchange = Exchange::new("request-1".into(), client, "http", route, on_end);
                exchange.hash_key = request.headers().get("x-hash-key").map(|key| key.as_bytes().into());
                exchange.local = Some(local);
                exchange.events = terms.events.map(Arc::new);
                exchange.websocket = terms.websocket.map(|policy| {
                    // The path stands for what a template would give.
                    let key = request.uri().path().trim_start_matches('/').as_bytes().into();
                    Box::new(WebSocketTerms { policy, key })
                });
                Ok::<_, Infallible>(forwarder.forward(request, &upstream, exchange).await)
            }
        });
        let mut builder = http1::Builder::new();
        builder.max_buf_size(64 * 1024);
        let connection =
            builder.serve_connection(TokioIo::new(Guarded::new(Transport::from(stream))), service).with_upgrades();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
    }
}

/// For tests in which something must have happened *before* a time runs out: makes `attempt` with a short time, and with
/// a longer one if this thread was held up for a good part of it. All of a test runs on its one thread, gateway and
/// upstream included, so what comes of such an attempt, good or bad, says something about the machine only. With the
/// longest time it counts in any case.
pub async fn in_time<T>(attempt: impl AsyncFn(Duration) -> T) -> T {
    const LONGEST: Duration = Duration::from_secs(12);
    let mut time = Duration::from_millis(100);
    loop {
        let held_up = Rc::new(Cell::new(Duration::ZERO));
        let seen = held_up.clone();
        let watching = tokio::task::spawn_local(async move {
            let mut last = Instant::now();
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                seen.set(seen.get().max(last.elapsed()));
                last = Instant::now();
            }
        });
        let outcome = attempt(time).await;
        // The watcher sees what came last, too.
        tokio::time::sleep(Duration::from_millis(5)).await;
        watching.abort();
        if held_up.get() < time / 4 || time == LONGEST {
            return outcome;
        }
        println!("held up for {:?} of {time:?}", held_up.get());
        time = (8 * time).min(LONGEST);
    }
}

/// Waits until the condition holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tidegate_testkit::patiently(what, holds).await;
}

/// A GET with a Host.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: example.org\r\n\r\n")
}
