//! The process's life: serving, draining, closing. Also the admin listener, which must answer while all of that goes on.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tidegate_cluster::Broker;
use tidegate_config::Config;
use tidegate_proxy::{LiveStreams, Upstream};
use tidegate_realtime::Node;
use tidegate_types::{ErrorCode, Phase};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::access_log::AccessLog;
use crate::admin::{self, Admin};
use crate::api::Api;
use crate::cluster::Cluster;
use crate::extras::Source;
use crate::plan::{Part, Plan};
use crate::reload::{Plans, Reloaded, Watched};
use crate::trace::Exporter;
use crate::{StartError, exit};

/// Admin connections at a time; scrapers and probes need few.
const ADMIN_CONNECTIONS: usize = 64;
/// How long an admin client may take for a request's head, or keep a connection idle.
const ADMIN_PATIENCE: Duration = Duration::from_secs(30);

/// What the embedding process, or a signal, wants.
pub(crate) enum Order {
    Drain,
    Close,
    Reload(Reload, Answer),
    /// Takes a part of the gateway out of use, or into it again.
    Use(Part, bool, Answer),
}

/// Which config to put in force.
pub(crate) enum Reload {
    Given(Box<Config>),
    /// The one in the file.
    Reread,
}

/// Takes what became of a reload. Must not block.
pub(crate) type Answer = Box<dyn FnOnce(Result<Reloaded, String>) + Send>;

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Drain,
    Close,
}

pub(crate) struct Control {
    pub admin: Arc<Admin>,
    pub api: Arc<Api>,
    pub log: Arc<AccessLog>,
    /// Set if requests are traced.
    pub exporter: Option<Exporter>,
    pub plans: Plans,
    pub source: Option<Source>,
    pub node: Option<Arc<Node>>,
    pub cluster: Option<Arc<Cluster>>,
    /// What the limits are told through that nodes share.
    pub limits: Option<Arc<dyn Broker>>,
    pub socket: Option<StdListener>,
    pub phase: watch::Sender<Phase>,
    pub orders: mpsc::Receiver<Order>,
    /// Ends when every worker has dropped its sender: nobody has a connection any more.
    pub all_idle: mpsc::Receiver<Infallible>,
    pub signals: bool,
}

/// Starts the thread.
pub(crate) fn start(control: Control) -> Result<JoinHandle<()>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
    let signals = {
        // Handlers are installed before the server is said to run, so that an early signal is not lost.
        let _inside = runtime.enter();
        if control.signals { Some(Signals::install().map_err(StartError::Thread)?) } else { None }
    };
    let run = move || LocalSet::new().block_on(&runtime, control.run(signals));
    std::thread::Builder::new().name("control".to_owned()).spawn(run).map_err(StartError::Thread)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user1: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The end; the exit code if it is asked for twice.
    End(u8),
    Reload,
    /// As of nginx: what was moved away is written to no longer.
    ReopenLogs,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(signals: &mut Option<Self>) -> Asked {
        let Some(signals) = signals else { return std::future::pending().await };
        tokio::select! {
            Some(()) = signals.terminate.recv() => Asked::End(exit::TERMINATED),
            Some(()) = signals.interrupt.recv() => Asked::End(exit::INTERRUPTED),
            Some(()) = signals.hang_up.recv() => Asked::Reload,
            Some(()) = signals.user1.recv() => Asked::ReopenLogs,
            else => std::future::pending().await,
        }
    }

    /// The exit code that the next signal stands for; while the process ends, nothing is reloaded.
    async fn end(signals: &mut Option<Self>, log: &AccessLog) -> u8 {
        loop {
            match Self::next(signals).await {
                Asked::End(code) => return code,
                Asked::ReopenLogs => log.reopen(),
                Asked::Reload => {}
            }
        }
    }
}

impl Control {
    async fn run(mut self, mut signals: Option<Signals>) {
        if let Some(socket) = self.socket.take() {
            match TcpListener::from_std(socket) {
                Ok(listener) => _ = spawn_local(serve(listener, self.admin.clone(), self.api.clone())),
                Err(error) => tracing::error!(%error, "the admin listener does not work"),
            }
        }
        spawn_local(tend(self.plans.subscribe(), self.plans.live().clone()));
        if let Some(cluster) = &self.cluster {
            spawn_local(crate::cluster::follow(cluster.clone(), self.plans.subscribe(), self.node.clone()));
        }
        spawn_local(crate::health::follow(self.plans.subscribe(), self.plans.live().clone()));
        let exporting = self.exporter.take().map(|exporter| {
            let mut phase = self.phase.subscribe();
            // The sender's loss means the same as closing.
            spawn_local(exporter.run(async move { _ = phase.wait_for(|phase| *phase == Phase::Closing).await }))
        });
        if let Some(broker) = self.limits.take() {
            spawn_local(crate::shared_limits::keep(self.plans.subscribe(), broker));
        }
        spawn_local(crate::token_keys::keep(self.plans.subscribe(), self.node.clone(), self.admin.metrics()));
        let telling = self.node.clone().map(|node| {
            let mut phase = self.phase.subscribe();
            let closing = async move { _ = phase.wait_for(|phase| *phase == Phase::Closing).await };
            spawn_local(node.tell_backends(closing))
        });
        spawn_local(crate::tls::watch(self.plans.subscribe(), self.admin.metrics()));
        if self.serve(&mut signals).await == End::Drain {
            let log = self.log.clone();
            let second = tokio::select! {
                () = self.drain() => None,
                code = Signals::end(&mut signals, &log) => Some(code),
            };
            if let Some(code) = second {
                tracing::warn!("a second signal: ending at once");
                std::process::exit(i32::from(code));
            }
        }
        self.admin.set_ready(false);
        self.phase.send_replace(Phase::Closing);
        if let Some(telling) = telling {
            let _ = telling.await;
        }
        if let Some(exporting) = exporting {
            // Ends when the last worker has, and everything has been sent.
            let _ = exporting.await;
        }
    }

    /// Until the end is wanted.
    async fn serve(&mut self, signals: &mut Option<Signals>) -> End {
        let mut watched = Watched::new(self.source.as_ref());
        loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Reload(Reload::Reread, answer)) => answer(self.reload().await),
                    Some(Order::Reload(Reload::Given(config), answer)) => {
                        answer(self.plans.reload(*config).await.map_err(|error| error.to_string()));
                    }
                    Some(Order::Use(part, in_use, answer)) => {
                        answer(self.plans.use_part(part, in_use).await.map_err(|error| error.to_string()));
                    }
                    Some(Order::Close) => return End::Close,
                    Some(Order::Drain) | None => return End::Drain,
                },
                asked = Signals::next(signals) => match asked {
                    Asked::End(_) => return End::Drain,
                    Asked::Reload => drop(self.reload().await),
                    Asked::ReopenLogs => self.log.reopen(),
                },
                () = watched.changed() => drop(self.reload().await),
            }
        }
    }

    /// Reads the config again and puts it in force.
    async fn reload(&mut self) -> Result<Reloaded, String> {
        let Some(source) = &self.source else { return Err("this process has no config file".to_owned()) };
        // Reading blocks, for as long as a file system does: nothing else waits for this thread but admin clients.
        let result = match (source.read)() {
            Ok(config) => self.plans.reload(config).await.map_err(|error| error.to_string()),
            Err(problems) => Err(problems),
        };
        match &result {
            Ok(Reloaded { generation, waiting }) if waiting.is_empty() => tracing::info!(generation, "config reloaded"),
            Ok(Reloaded { generation, waiting }) => {
                let sections = waiting.join(", ");
                tracing::warn!(generation, sections, "config reloaded; changes in these sections wait for a restart");
            }
            Err(problems) => tracing::error!("the config was not reloaded, the old one stays in force\n{problems}"),
        }
        result
    }

    /// Readiness fails first, so that balancers send nobody new; then the listeners close and clients are told to move;
    /// then whoever is left has until the deadline.
    async fn drain(&mut self) {
        self.admin.set_ready(false);
        if let Some(members) = self.cluster.as_ref().and_then(|cluster| cluster.members()) {
            members.drain();
        }
        let drain = self.plans.current().config.drain.clone();
        tracing::info!(deadline_s = drain.timeout.as_secs(), "draining");
        tokio::select! {
            () = tokio::time::sleep(drain.delay) => {}
            () = close_ordered(&mut self.orders) => return,
        }
        self.phase.send_replace(Phase::Draining);
        let node = self.node.clone();
        let all_gone = async {
            // Ends when every worker has dropped its sender.
            let _ = self.all_idle.recv().await;
            // A session between two polls has no connection, and is one all the same.
            if let Some(node) = &node {
                node.drained().await;
            }
        };
        tokio::select! {
            () = all_gone => tracing::info!("every connection has ended"),
            () = tokio::time::sleep(drain.timeout) => tracing::warn!("the drain deadline has passed: closing what is left"),
            () = close_ordered(&mut self.orders) => {}
        }
    }
}

/// Keeps the names of upstreams resolved and their streams balanced, each plan's new ones too.
async fn tend(mut plans: watch::Receiver<Arc<Plan>>, live: LiveStreams) {
    let mut followed: Vec<Weak<Upstream>> = Vec::new();
    loop {
        followed.retain(|upstream| upstream.strong_count() > 0);
        let plan = plans.borrow_and_update().clone();
        for (_, upstream) in &plan.upstreams {
            let upstream = Arc::downgrade(upstream);
            if !followed.iter().any(|known| known.ptr_eq(&upstream)) {
                spawn_local(Upstream::follow_names(upstream.clone()));
                spawn_local(Upstream::rebalance(upstream.clone(), live.clone()));
                followed.push(upstream);
            }
        }
        drop(plan);
        if plans.changed().await.is_err() {
            return;
        }
    }
}

/// Resolves when the embedding process wants everything closed.
async fn close_ordered(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if matches!(order, Order::Close) {
            return;
        }
    }
    std::future::pending().await
}

async fn serve(listener: TcpListener, admin: Arc<Admin>, api: Arc<Api>) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (admin, api) = (admin.clone(), api.clone());
        spawn_local(async move {
            let service = service_fn(move |request| answer(admin.clone(), api.clone(), request));
            // An error means that the client went away or sent garbage; hyper has answered what can be answered.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(ADMIN_PATIENCE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

async fn answer(
    admin: Arc<Admin>,
    api: Arc<Api>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    if let Some(response) = admin.answer_for_cluster(request.method(), request.uri()).await {
        return Ok(response.map(Full::new));
    }
    let response = match admin.answer(request.method(), request.uri().path()) {
        Some(response) => response,
        None => api.answer(request).await.unwrap_or_else(|| {
            let there = "Here are /health, /health/ready, /health/live, /stats, /metrics, /nginx_status and /api/v1/";
            admin::error(ErrorCode::NotFound, there)
        }),
    };
    Ok(response.map(Full::new))
}
