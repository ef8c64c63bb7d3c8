use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use tidegate_cluster::membership::MembersThread;
use tidegate_config::Config;
use tidegate_metrics::Metrics;
use tidegate_proxy::LiveStreams;
use tidegate_realtime::Node;
use tidegate_realtime::app::Io;
use tidegate_types::{MAX_SHARDS, Phase, ShardId, TenantId};
use tokio::sync::{mpsc, watch};

use crate::access_log::{AccessLog, Lines};
use crate::admin::Admin;
use crate::api::{Api, Gate};
use crate::cluster::Cluster;
use crate::control::{self, Control, Order, Reload};
use crate::listen::listen;
use crate::plan::Shared;
use crate::reload::{Plans, Reloaded};
use crate::status::Status;
use crate::stream_terms::Policies;
use crate::trace::Tracing;
use crate::worker::{self, Start};
use crate::{Extras, StartError, exit, process, realtime, shared_limits};

/// The server of a process. See [`Server::start`].
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Opens everything the config names and starts the threads. When this returns, clients are served.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub fn start(config: Config, extras: Extras) -> Result<Running, StartError> {
        if let Err(error) = process::raise_fd_limit() {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
        let workers = worker_count(config.workers);
        let metrics = Metrics::new();
        let (phase_sender, phase) = watch::channel(Phase::Serving);
        let log = Arc::new(AccessLog::start(config.log.queue_lines, metrics.log_lines_dropped.clone())?);
        let (live, inboxes) = LiveStreams::for_workers(workers);
        let cluster = Cluster::new(&config, &metrics)?;
        let shared = Shared {
            metrics: metrics.clone(),
            logs: log.clone(),
            live: live.clone(),
            policies: Policies::default(),
            cluster: cluster.clone(),
        };
        let (mut plans, sockets) = Plans::first(config, workers, shared)?;
        let plan = plans.current();
        let config = &plan.config;
        let addresses = plans.addresses();
        let (admin_address, admin_socket) = match &config.admin {
            Some(at) => {
                let (address, mut sockets) = listen(at.address, 1, "admin listener", config.client.send_timeout)?;
                (Some(address), sockets.pop())
            }
            None => (None, None),
        };

        let membership = match (&cluster, plans.internal_address()) {
            (Some(cluster), Some(bound)) => cluster.join(config, bound)?,
            (Some(_) | None, _) => None,
        };
        // From here on, who fails must not be taken to live by the others.
        let membership = Membership { cluster: cluster.clone(), thread: membership };
        let node = realtime::open(config, workers, &metrics, &phase, extras.app, cluster.as_deref())?;
        let limits = shared_limits::broker(config, node.as_deref(), cluster.as_deref(), &metrics)?;
        let (tracing, exporter) = match &config.trace {
            Some(settings) => {
                let (tracing, exporter) = Tracing::new(settings, &metrics)?;
                (Some(tracing), Some(exporter))
            }
            None => (None, None),
        };
        let status = Arc::new(Status::new(metrics.clone(), workers));
        let admin = Arc::new(Admin::new(metrics.clone(), node.clone(), status.clone(), cluster.clone()));

        let (ended, endings) = sync_channel(usize::from(workers));
        let (busy, all_idle) = mpsc::channel(1);
        for ((index, sockets), inbox) in (0..workers).zip(sockets).zip(inboxes) {
            let (tell, orders) = mpsc::channel(16);
            plans.tell(tell);
            let start = Start {
                shard: ShardId(index),
                plan: plan.clone(),
                sockets,
                orders,
                metrics: metrics.clone(),
                status: status.clone(),
                tracing: tracing.clone(),
                phase: phase.clone(),
                local: extras.local.clone(),
                node: node.clone(),
                cluster: cluster.clone(),
                admin: extras.admin_everywhere.then(|| admin.clone()),
                busy: busy.clone(),
                live: inbox,
            };
            spawn_worker(start, log.lines(), ended.clone())?;
        }
        drop((ended, busy, tracing));
        let (orders, received) = mpsc::channel(4);
        let gate = Gate::new(config.admin.as_ref().and_then(|admin| admin.token.clone()), admin_address);
        let api =
            Arc::new(Api::new(gate, plans.subscribe(), orders.clone(), live.clone(), node.clone(), cluster.clone()));
        let control = control::start(Control {
            admin: admin.clone(),
            api,
            log: log.clone(),
            exporter,
            plans,
            source: extras.source,
            node: node.clone(),
            cluster: cluster.clone(),
            limits,
            socket: admin_socket,
            phase: phase_sender,
            orders: received,
            all_idle,
            signals: extras.signals,
        })?;
        admin.set_ready(true);
        Ok(Running {
            addresses,
            admin: admin_address,
            orders,
            control,
            endings,
            workers,
            phase,
            node,
            membership,
            log,
            live,
        })
    }
}

/// A server that runs on threads of its own.
pub struct Running {
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    orders: mpsc::Sender<Order>,
    control: JoinHandle<()>,
    endings: Receiver<WorkerEnd>,
    workers: u16,
    phase: watch::Receiver<Phase>,
    node: Option<Arc<Node>>,
    membership: Membership,
    log: Arc<AccessLog>,
    live: LiveStreams,
}

/// This process among the nodes of its cluster, which it leaves when this is dropped.
struct Membership {
    cluster: Option<Arc<Cluster>>,
    thread: Option<MembersThread>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        let members = self.cluster.as_ref().and_then(|cluster| cluster.members());
        if let (Some(members), Some(thread)) = (members, self.thread.take()) {
            members.leave();
            thread.join();
        }
    }
}

/// Gives orders to a server that runs.
#[derive(Clone)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
}

impl Handle {
    /// As [`Running::drain`].
    pub fn drain(&self) {
        // A full queue holds such an order already.
        let _ = self.orders.try_send(Order::Drain);
    }
}

/// How a worker thread ended.
enum WorkerEnd {
    Done,
    Failed,
}

impl Running {
    /// Where clients are served, in the order of the config's listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the admin listener is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// A namespace of the realtime server as a whole, for the default tenant: how other threads reach its clients. `None` if
    /// it is not served. For another tenant: [`Running::io_of`].
    pub fn io(&self, namespace: &str) -> Option<Io> {
        self.io_of(namespace, &TenantId::default_tenant())
    }

    /// As [`Running::io`], for a tenant.
    pub fn io_of(&self, namespace: &str, tenant: &TenantId) -> Option<Io> {
        self.node.as_ref()?.io(namespace, tenant).unwrap_or_else(|error| {
            tracing::error!(%error, namespace, "a namespace cannot be opened");
            None
        })
    }

    /// The tunnels and event streams through the gateway, those of the realtime server not included.
    pub fn live(&self) -> &LiveStreams {
        &self.live
    }

    /// The realtime server, if the config has one.
    pub fn realtime(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// Opens the files of the access log again by their names, as on SIGUSR1. Returns at once.
    pub fn reopen_logs(&self) {
        self.log.reopen();
    }

    /// Begins to drain, as on SIGTERM. Returns at once.
    pub fn drain(&self) {
        self.handle().drain();
    }

    /// For another thread than the one that waits.
    pub fn handle(&self) -> Handle {
        Handle { orders: self.orders.clone() }
    }

    /// Puts another config in force, and blocks until it is: see [`Reloaded`].
    ///
    /// # Errors
    /// Nothing has changed; the text says why.
    pub fn reload(&self, config: Config) -> Result<Reloaded, String> {
        let (answer, answered) = sync_channel(1);
        // Room for the one answer: it never blocks.
        let order = Order::Reload(Reload::Given(Box::new(config)), Box::new(move |result| drop(answer.send(result))));
        self.orders.try_send(order).map_err(|_| "the server is busy with earlier orders, or ends".to_owned())?;
        answered.recv().unwrap_or_else(|_| Err("the server ends".to_owned()))
    }

    /// Closes everything without waiting for clients. Returns at once.
    pub fn close(&self) {
        let _ = self.orders.try_send(Order::Close);
    }

    /// Waits until the server has ended, and closes what it had open. The result is the process's exit code: see
    /// [`exit`].
    pub fn wait(self) -> u8 {
        let mut code = exit::OK;
        for _ in 0..self.workers {
            match self.endings.recv() {
                Ok(WorkerEnd::Done) if *self.phase.borrow() == Phase::Closing => {}
                // A worker that is gone leaves its listening socket's share of the clients without an answer. Better
                // to end, and be started again.
                Ok(WorkerEnd::Done | WorkerEnd::Failed) | Err(_) => return exit::DEFECT,
            }
        }
        if self.control.join().is_err() {
            code = exit::DEFECT;
        }
        if let Some(node) = &self.node
            && let Err(error) = node.close()
        {
            tracing::error!(%error, "the history store was not closed cleanly; the next start takes that into account");
            code = code.max(exit::IO);
        }
        // All that it held has been given back by now.
        drop(self.membership);
        self.log.close();
        code
    }
}

fn spawn_worker(start: Start, lines: Lines, ended: SyncSender<WorkerEnd>) -> Result<(), StartError> {
    let name = format!("worker-{}", start.shard.0);
    let run = move || {
        let end = match catch_unwind(AssertUnwindSafe(|| worker::run(start, lines))) {
            Ok(Ok(())) => WorkerEnd::Done,
            Ok(Err(error)) => {
                tracing::error!(%error, "a worker cannot go on");
                WorkerEnd::Failed
            }
            // The panic itself has been reported by the panic hook.
            Err(_) => WorkerEnd::Failed,
        };
        // Nobody listens any more when another worker ended the process.
        let _ = ended.send(end);
    };
    std::thread::Builder::new().name(name).spawn(run).map(drop).map_err(StartError::Thread)
}

fn worker_count(configured: u16) -> u16 {
    let cores =
        std::thread::available_parallelism().map_or(1, |cores| u16::try_from(cores.get()).unwrap_or(MAX_SHARDS));
    let wanted = if configured == 0 { cores } else { configured };
    wanted.clamp(1, MAX_SHARDS)
}
