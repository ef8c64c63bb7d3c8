use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tidegate_metrics::{BadRequestLabels, Metrics};
use tidegate_proxy::{Forwarder, Guarded, RouteMetrics};
use tidegate_realtime::{Node, Shard};
use tidegate_types::{Phase, ShardId};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use crate::access_log::Lines;
use crate::admin::Admin;
use crate::extras::Local;
use crate::plan::Site;
use crate::request_id::RequestIds;
use crate::slots::{ClientTimeouts, Held, Slots, TICK};

/// How long to wait before the next try when file descriptors have run out.
const OUT_OF_FDS: Duration = Duration::from_millis(50);
/// How long connections have to notice that everything closes.
const CLOSING: Duration = Duration::from_millis(500);
/// Larger heads are refused with 431.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// What a worker thread is given.
pub(crate) struct Start {
    pub shard: ShardId,
    pub listeners: Vec<(StdListener, Arc<Site>)>,
    pub metrics: Arc<Metrics>,
    pub phase: watch::Receiver<Phase>,
    pub timeouts: ClientTimeouts,
    pub local: Option<Local>,
    pub node: Option<Arc<Node>>,
    /// Set if the admin paths are served on the public listeners too.
    pub admin: Option<Arc<Admin>>,
    /// Dropped when, while draining, no connection is left.
    pub busy: mpsc::Sender<Infallible>,
}

/// One worker: the thread that owns what it accepted.
pub(crate) struct Worker {
    pub forwarder: Rc<Forwarder>,
    pub metrics: Arc<Metrics>,
    pub lines: Lines,
    pub ids: RequestIds,
    pub shard: Option<Rc<Shard>>,
    pub local: Option<Local>,
    pub admin: Option<Arc<Admin>>,
    pub draining: Cell<bool>,
    /// Where requests without a route are counted.
    pub unrouted: Arc<RouteMetrics>,
    /// Where requests to the realtime server are counted.
    pub realtime: Arc<RouteMetrics>,
    slots: Rc<Slots>,
    http: http1::Builder,
}

/// Runs a worker until everything is closed; returns when the worker's connections have ended.
///
/// # Errors
/// No runtime, or the listening sockets cannot be used.
pub(crate) fn run(start: Start, lines: Lines) -> io::Result<()> {
    // Not a `LocalSet`: on every wake-up it would stand between the event loop and the task.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(serve(start, lines))
}

async fn serve(start: Start, lines: Lines) -> io::Result<()> {
    let Start { shard, listeners, metrics, mut phase, timeouts, local, node, admin, busy } = start;
    let mut http = http1::Builder::new();
    // As in nginx, a client that closes its side has gone away: otherwise nobody would notice that an event stream has
    // lost its reader until the next write.
    http.half_close(false).max_buf_size(MAX_HEAD_BYTES);
    let worker = Rc::new(Worker {
        forwarder: Forwarder::new(phase.clone()),
        shard: crate::realtime::shard(node, shard),
        slots: Slots::new(timeouts, metrics.http_connections_open.clone()),
        unrouted: metrics.route("none"),
        realtime: metrics.route("realtime"),
        metrics,
        lines,
        ids: RequestIds::new(),
        local,
        admin,
        draining: Cell::new(false),
        http,
    });
    let mut accepting = Vec::new();
    for (listener, site) in listeners {
        let listener = Rc::new(TcpListener::from_std(listener)?);
        let task = spawn_local(accept(worker.clone(), listener.clone(), site.clone()));
        accepting.push((task, listener, site));
    }
    let ticker = worker.clone();
    let ticking = spawn_local(async move {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            ticker.slots.tick();
            ticker.lines.flush();
        }
    });
    // The sender lives as long as the process; its loss means the same as closing.
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    worker.draining.set(true);
    for (task, listener, site) in accepting {
        task.abort();
        let _ = task.await;
        if let Err(error) = take_queued(&worker, listener, &site) {
            tracing::warn!(%error, "connections that waited to be accepted were lost");
        }
    }
    worker.slots.wake_all();
    tokio::select! {
        () = worker.ended() => drop(busy),
        _ = phase.wait_for(|phase| *phase == Phase::Closing) => {}
    }
    let _ = phase.wait_for(|phase| *phase == Phase::Closing).await;
    worker.slots.cut_all();
    let _ = tokio::time::timeout(CLOSING, worker.ended()).await;
    ticking.abort();
    worker.lines.flush();
    Ok(())
}

impl Worker {
    /// Resolves when no connection is left.
    async fn ended(&self) {
        while !self.slots.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Counts a request that was refused.
    pub fn refused(&self, reason: &'static str) {
        self.metrics.bad_requests.get_or_create(&BadRequestLabels { reason }).inc();
    }
}

/// Accepts for ever; the worker ends it from outside, which costs the loop nothing.
async fn accept(worker: Rc<Worker>, listener: Rc<TcpListener>, site: Arc<Site>) {
    let mut complained = false;
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                complained = false;
                spawn_local(connection(worker.clone(), stream, client, site.clone()));
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                // Out of file descriptors or memory: the connection stays in the queue, so that trying again at once
                // would only burn the processor that could be closing connections.
                if !std::mem::replace(&mut complained, true) {
                    tracing::error!(%error, "cannot accept connections; trying again");
                }
                tokio::time::sleep(OUT_OF_FDS).await;
            }
        }
    }
}

/// Accepts what is already waiting: a closing listener would drop it.
fn take_queued(worker: &Rc<Worker>, listener: Rc<TcpListener>, site: &Arc<Site>) -> io::Result<()> {
    let Some(listener) = Rc::into_inner(listener) else { return Ok(()) };
    // Asked directly, since the runtime may not have heard yet of what came last.
    let listener = listener.into_std()?;
    while let Ok((stream, client)) = listener.accept() {
        stream.set_nonblocking(true)?;
        spawn_local(connection(worker.clone(), TcpStream::from_std(stream)?, client, site.clone()));
    }
    Ok(())
}

/// Errors of a connection that broke while it waited (accept(2)); the next one may be fine.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut
    )
}

async fn connection(worker: Rc<Worker>, stream: TcpStream, client: std::net::SocketAddr, site: Arc<Site>) {
    worker.metrics.http_connections.inc();
    let held = Rc::new(worker.slots.open(client));
    let slot = held.slot.clone();
    let serving = held.clone();
    let service_worker = worker.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        crate::dispatch::handle(service_worker.clone(), serving.clone(), site.clone(), request)
    });
    // The guard sees the bytes themselves, which hyper's parser would quietly repair.
    let io = TokioIo::new(Guarded::new(stream));
    let mut conn = pin!(worker.http.serve_connection(io, service).with_upgrades());
    let mut leaving = false;
    let result = std::future::poll_fn(|cx| {
        if slot.is_cut() {
            return Poll::Ready(Ok(()));
        }
        slot.watch(cx);
        // A connection that has not sent anything yet may be about to: its first request is still served.
        if worker.draining.get() && slot.was_used() && !std::mem::replace(&mut leaving, true) {
            conn.as_mut().graceful_shutdown();
        }
        conn.as_mut().poll(cx)
    })
    .await;
    slot.unwatch();
    if let Err(error) = result {
        ended_badly(&worker, &held, &error);
    }
}

/// hyper answers a head that it cannot parse by itself (400, 414 or 431) and ends the connection.
fn ended_badly(worker: &Worker, held: &Held, error: &hyper::Error) {
    if !error.is_parse() {
        return;
    }
    let (reason, status) = if error.is_parse_too_large() { ("too_large", 431) } else { ("malformed", 400) };
    worker.refused(reason);
    crate::dispatch::log_malformed(worker, held.slot.client, status);
}
