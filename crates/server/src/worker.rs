use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tidegate_metrics::{BadRequestLabels, Handshake, Metrics};
use tidegate_proxy::{Forwarder, Guarded, LiveInbox, RouteMetrics};
use tidegate_realtime::{Node, Shard};
use tidegate_transport::Transport;
use tidegate_types::{Phase, ShardId};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};

use crate::access_log::Lines;
use crate::admin::Admin;
use crate::client::Occupied;
use crate::cluster::Cluster;
use crate::extras::Local;
use crate::http2::OnWorker;
use crate::plan::{Place, Plan, Site};
use crate::request_id::RequestIds;
use crate::slots::{ClientTimeouts, Held, Slots, TICK};
use crate::status::Status;
use crate::stream_terms;
use crate::tls::Termination;
use crate::trace::{Tracer, Tracing};

/// How long to wait before the next try when file descriptors have run out.
const OUT_OF_FDS: Duration = Duration::from_millis(50);
/// How long connections have to notice that everything closes.
const CLOSING: Duration = Duration::from_millis(500);
/// hyper's least for the buffer of a head.
const LEAST_HEAD_BYTES: usize = 8 * 1024;
/// hyper's own bound on header lines, which it counts without allocating.
const USUAL_HEADERS: usize = 100;

/// A worker's socket of one listener.
pub(crate) struct Opened {
    pub place: Place,
    pub socket: StdListener,
}

/// What a worker is told while it runs.
pub(crate) enum Order {
    /// Serve by this plan from now on. The sockets are those of listeners that are new in it. The sender is dropped when
    /// that is so.
    Plan { plan: Arc<Plan>, sockets: Vec<Opened>, taken: mpsc::Sender<Infallible> },
}

/// One listener, as this worker sees it. Its connections look here what the listener serves now.
pub(crate) struct Door {
    place: Place,
    site: RefCell<Arc<Site>>,
    /// Nobody is let in any more, and whoever is in goes when his exchange has ended: the listener left the config.
    closed: Cell<bool>,
}

impl Door {
    /// Whether whoever is in is to go.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// What the listener serves now.
    pub fn site(&self) -> Arc<Site> {
        self.site.borrow().clone()
    }
}

struct Accepting {
    task: JoinHandle<()>,
    listener: Rc<TcpListener>,
    door: Rc<Door>,
}

/// What a worker thread is given.
pub(crate) struct Start {
    pub shard: ShardId,
    pub plan: Arc<Plan>,
    pub sockets: Vec<Opened>,
    pub orders: mpsc::Receiver<Order>,
    pub metrics: Arc<Metrics>,
    pub status: Arc<Status>,
    /// Set if requests are traced.
    pub tracing: Option<Tracing>,
    pub phase: watch::Receiver<Phase>,
    pub local: Option<Local>,
    pub node: Option<Arc<Node>>,
    /// Set if the process is one of many.
    pub cluster: Option<Arc<Cluster>>,
    /// Set if the admin paths are served on the public listeners too.
    pub admin: Option<Arc<Admin>>,
    /// Dropped when, while draining, no connection is left.
    pub busy: mpsc::Sender<Infallible>,
    /// Where others ask about the worker's streams.
    pub live: LiveInbox,
}

/// One worker: the thread that owns what it accepted.
pub(crate) struct Worker {
    pub forwarder: Rc<Forwarder>,
    pub metrics: Arc<Metrics>,
    pub status: Arc<Status>,
    pub lines: Lines,
    pub tracer: Option<Tracer>,
    pub ids: RequestIds,
    pub shard: Option<Rc<Shard>>,
    pub cluster: Option<Arc<Cluster>>,
    pub local: Option<Local>,
    pub admin: Option<Arc<Admin>>,
    pub draining: Cell<bool>,
    /// Where requests without a route are counted.
    pub unrouted: Arc<RouteMetrics>,
    /// Where requests to the realtime server are counted.
    pub realtime: Arc<RouteMetrics>,
    slots: Rc<Slots>,
    http: RefCell<http1::Builder>,
    pub http2: http2::Builder<OnWorker>,
    accepting: RefCell<Vec<Accepting>>,
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
    let Start {
        shard,
        plan,
        sockets,
        orders,
        metrics,
        status,
        tracing,
        mut phase,
        local,
        node,
        cluster,
        admin,
        busy,
        live,
    } = start;
    let worker = Rc::new(Worker {
        forwarder: Forwarder::new(phase.clone()),
        shard: crate::realtime::shard(node, shard),
        slots: Slots::new(metrics.http_connections_open.clone(), status.counts(shard.0)),
        unrouted: metrics.route("none"),
        realtime: metrics.route("realtime"),
        metrics,
        status,
        lines,
        tracer: tracing.map(|tracing| tracing.tracer()),
        ids: RequestIds::new(),
        cluster,
        local,
        admin,
        draining: Cell::new(false),
        http: RefCell::new(http1::Builder::new()),
        http2: crate::http2::settings(),
        accepting: RefCell::default(),
    });
    worker.forwarder.attend(live);
    worker.take(&plan, sockets)?;
    drop(plan);
    let following = spawn_local(follow(worker.clone(), orders));
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
    following.abort();
    // Sessions that poll by way of other nodes need theirs until the end.
    let (internal, public): (Vec<_>, Vec<_>) =
        worker.accepting.take().into_iter().partition(|accepting| accepting.door.site().internal);
    for accepting in public {
        worker.close(accepting).await;
    }
    worker.slots.wake_all();
    tokio::select! {
        () = worker.ended() => drop(busy),
        _ = phase.wait_for(|phase| *phase == Phase::Closing) => {}
    }
    let _ = phase.wait_for(|phase| *phase == Phase::Closing).await;
    for accepting in internal {
        worker.close(accepting).await;
    }
    worker.slots.cut_all();
    let _ = tokio::time::timeout(CLOSING, worker.ended()).await;
    ticking.abort();
    worker.lines.flush();
    Ok(())
}

/// Does what it is told, until there is nobody to tell it.
async fn follow(worker: Rc<Worker>, mut orders: mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Plan { plan, sockets, taken } => {
                for gone in worker.leave(&plan) {
                    worker.close(gone).await;
                }
                if let Err(error) = worker.take(&plan, sockets) {
                    tracing::error!(%error, "a listener does not work on one of the workers");
                }
                drop(taken);
            }
        }
    }
}

impl Worker {
    /// Serves by the plan: known listeners get its sites, new sockets are accepted from.
    fn take(self: &Rc<Self>, plan: &Plan, sockets: Vec<Opened>) -> io::Result<()> {
        let client = &plan.config.client;
        self.slots.set_timeouts(ClientTimeouts { header: client.header_timeout, keepalive: client.keepalive_timeout });
        self.http.replace(http(client));
        self.forwarder.set_drain(&stream_terms::forwarder_settings(&plan.config.drain, self.status.workers()));
        let mut sockets = sockets.into_iter();
        for (listener, site) in plan.listeners() {
            let known = self
                .accepting
                .borrow()
                .iter()
                .find(|known| known.door.place == Place::of(listener))
                .map(|known| known.door.clone());
            if let Some(door) = known {
                door.site.replace(site.clone());
                continue;
            }
            let Some(opened) = sockets.next() else { continue };
            let listener = Rc::new(TcpListener::from_std(opened.socket)?);
            let door =
                Rc::new(Door { place: opened.place, site: RefCell::new(site.clone()), closed: Cell::new(false) });
            let task = spawn_local(accept(self.clone(), listener.clone(), door.clone()));
            self.accepting.borrow_mut().push(Accepting { task, listener, door });
        }
        Ok(())
    }

    /// The listeners that are not in the plan any more.
    fn leave(&self, plan: &Plan) -> Vec<Accepting> {
        let stays = |door: &Door| plan.listeners().any(|(listener, _)| door.place == Place::of(listener));
        self.accepting.borrow_mut().extract_if(.., |accepting| !stays(&accepting.door)).collect()
    }

    /// Accepts nobody new at a listener; whoever already waits there is served.
    async fn close(self: &Rc<Self>, accepting: Accepting) {
        let Accepting { task, listener, door } = accepting;
        task.abort();
        let _ = task.await;
        if let Err(error) = take_queued(self, listener, &door) {
            tracing::warn!(%error, "connections that waited to be accepted were lost");
        }
        door.closed.set(true);
        self.slots.wake_all();
    }

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

fn http(client: &tidegate_config::Client) -> http1::Builder {
    let mut http = http1::Builder::new();
    // As in nginx, a client that closes its side has gone away: otherwise nobody would notice that an event stream has
    // lost its reader until the next write.
    http.half_close(false).max_buf_size(client.max_header_bytes.max(LEAST_HEAD_BYTES));
    if client.max_headers != USUAL_HEADERS {
        http.max_headers(client.max_headers);
    }
    http
}

/// Accepts for ever; the worker ends it from outside, which costs the loop nothing.
async fn accept(worker: Rc<Worker>, listener: Rc<TcpListener>, door: Rc<Door>) {
    let mut complained = false;
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                complained = false;
                spawn_local(connection(worker.clone(), stream, client, door.clone()));
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
fn take_queued(worker: &Rc<Worker>, listener: Rc<TcpListener>, door: &Rc<Door>) -> io::Result<()> {
    let Some(listener) = Rc::into_inner(listener) else { return Ok(()) };
    // Asked directly, since the runtime may not have heard yet of what came last.
    let listener = listener.into_std()?;
    while let Ok((stream, client)) = listener.accept() {
        stream.set_nonblocking(true)?;
        spawn_local(connection(worker.clone(), TcpStream::from_std(stream)?, client, door.clone()));
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

/// Whether a connection is served, and for whom.
async fn enter(stream: TcpStream, peer: SocketAddr, door: &Door) -> Option<(TcpStream, SocketAddr, Occupied)> {
    let threshold = &door.site().threshold;
    let occupied = match threshold.occupy() {
        Ok(occupied) => occupied,
        Err(reason) => {
            threshold.count_refused(reason);
            Box::pin(threshold.turn_away(stream)).await;
            return None;
        }
    };
    if !threshold.proxy_protocol {
        return Some((stream, peer, occupied));
    }
    match Box::pin(threshold.proxied(&stream, peer)).await {
        Ok(client) => Some((stream, client, occupied)),
        Err(reason) => {
            reason.into_iter().for_each(|reason| threshold.count_refused(reason));
            None
        }
    }
}

async fn connection(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, door: Rc<Door>) {
    worker.metrics.http_connections.inc();
    let Some((stream, client, occupied)) = enter(stream, peer, &door).await else { return };
    let held = Rc::new(worker.slots.open(client, occupied));
    // Not in the `match`, which would keep the site, and with it the plan's parts, for as long as the connection.
    let tls = door.site().tls.clone();
    match tls {
        None => speak(worker, Guarded::new(Transport::from(stream)), held, door).await,
        // A task of its own: that of a plain connection holds no place for a handshake.
        Some(tls) => drop(spawn_local(secure(worker, tls, stream, held, door))),
    }
}

/// Shakes hands and goes on in a task of its own, as small as what was agreed on.
async fn secure(worker: Rc<Worker>, tls: Arc<Termination>, stream: TcpStream, held: Rc<Held>, door: Rc<Door>) {
    let Some(stream) = Box::pin(tls.shake(stream)).await else { return };
    let client = stream.client();
    tls.count(if client.resumed { Handshake::Resumed } else { Handshake::Full });
    let http2 = client.http2;
    held.slot.secured(client);
    let stream = Transport::from(stream);
    if http2 {
        spawn_local(crate::http2::serve(worker, stream, held, door));
    } else {
        spawn_local(speak(worker, Guarded::with_shutdown(stream), held, door));
    }
}

/// HTTP/1.1.
async fn speak(worker: Rc<Worker>, stream: Guarded<Transport>, held: Rc<Held>, door: Rc<Door>) {
    let slot = held.slot.clone();
    let serving = held.clone();
    let (service_worker, service_door) = (worker.clone(), door.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        crate::dispatch::handle(service_worker.clone(), serving.clone(), service_door.site(), request)
    });
    // The guard sees the bytes themselves, which hyper's parser would quietly repair.
    let io = TokioIo::new(stream);
    let mut conn = pin!(worker.http.borrow().serve_connection(io, service).with_upgrades());
    let mut leaving = false;
    let result = std::future::poll_fn(|cx| {
        if slot.is_cut() {
            return Poll::Ready(Ok(()));
        }
        slot.watch(cx);
        // A connection that has not sent anything yet may be about to: its first request is still served.
        if (worker.draining.get() || door.closed.get()) && slot.was_used() && !std::mem::replace(&mut leaving, true) {
            conn.as_mut().graceful_shutdown();
        }
        conn.as_mut().poll(cx)
    })
    .await;
    slot.unwatch();
    if let Err(error) = result {
        ended_badly(&worker, &held, &door.site(), &error);
    }
}

/// hyper answers a head that it cannot parse by itself (400, 414 or 431) and ends the connection.
fn ended_badly(worker: &Worker, held: &Held, site: &Site, error: &hyper::Error) {
    if !error.is_parse() {
        return;
    }
    let (reason, status) = if error.is_parse_too_large() { ("too_large", 431) } else { ("malformed", 400) };
    worker.refused(reason);
    crate::line::log_malformed(worker, &held.slot, site, status);
}
