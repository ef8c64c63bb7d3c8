//! Another config for a server that runs: checked whole, then taken by all workers at once. A bad one changes nothing.
//!
//! What a listener serves, the listeners themselves, the upstreams, the keys of tokens and the logs change without a restart. What the process
//! was built around (workers, the realtime server and its store, the admin listener) does not, and is reported.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidegate_config::{Config, Realtime, RealtimeAuth, Tokens};
use tidegate_proxy::LiveStreams;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};

use crate::StartError;
use crate::extras::Source;
use crate::leave;
use crate::listen::listen;
use crate::plan::{Part, Place, Plan, Shared};
use crate::worker::{Opened, Order};

/// A listener's address, as the config has it and as it is.
#[derive(Clone, Debug)]
struct Bound {
    place: Place,
    address: SocketAddr,
    /// Clients are let in.
    open: bool,
}

/// The plan in force, and how to put another one in its place.
pub(crate) struct Plans {
    shared: Shared,
    workers: u16,
    current: watch::Sender<Arc<Plan>>,
    bound: Vec<Bound>,
    tell: Vec<mpsc::Sender<Order>>,
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Counts the configs of this process; the one it started with is 1.
    pub generation: u64,
    /// The sections whose changes wait for a restart.
    pub waiting: Vec<&'static str>,
}

/// The sockets of new listeners, for each worker its own.
type Sockets = Vec<Vec<Opened>>;

impl Plans {
    /// The first plan, with its listeners open; also each worker's sockets.
    pub fn first(config: Config, workers: u16, shared: Shared) -> Result<(Self, Sockets), StartError> {
        let current = Arc::new(Plan::new(Arc::new(config), None, Vec::new(), &shared)?);
        let sender = watch::Sender::new(current.clone());
        let mut plans = Self { shared, workers, current: sender, bound: Vec::new(), tell: Vec::new() };
        let (bound, sockets) = plans.open(&current)?;
        plans.bound = bound;
        Ok((plans, sockets))
    }

    pub fn current(&self) -> Arc<Plan> {
        self.current.borrow().clone()
    }

    /// The streams of all workers.
    pub fn live(&self) -> &LiveStreams {
        &self.shared.live
    }

    /// For whoever wants to know the plan in force.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Plan>> {
        self.current.subscribe()
    }

    /// Where clients are served, in the order of the config's listeners.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let clients = self.current().config.listeners.len();
        self.bound.iter().take(clients).map(|bound| bound.address).collect()
    }

    /// Where the other nodes of the cluster come in.
    pub fn internal_address(&self) -> Option<SocketAddr> {
        let place = Place::of(&self.current().internal.as_ref()?.0);
        self.bound.iter().find(|bound| bound.place == place).map(|bound| bound.address)
    }

    /// One more worker that is to hear of new plans.
    pub fn tell(&mut self, worker: mpsc::Sender<Order>) {
        self.tell.push(worker);
    }

    /// Puts a config in force. When this returns, every worker serves by it.
    ///
    /// # Errors
    /// Nothing has changed: a listener cannot be opened, or a name leads nowhere.
    pub async fn reload(&mut self, config: Config) -> Result<Reloaded, StartError> {
        let before = self.current();
        let waiting = waiting(&before.config, &config);
        let plan = Arc::new(Plan::new(Arc::new(config), Some(&before), before.drained.clone(), &self.shared)?);
        let generation = plan.generation;
        self.put(plan.clone()).await?;
        leave::after(&self.shared.live, &before, &plan).await;
        Ok(Reloaded { generation, waiting })
    }

    /// Takes a part of the gateway out of use, or into it again.
    ///
    /// # Errors
    /// There is no such part, or its listener cannot be opened again. Nothing has changed.
    pub async fn use_part(&mut self, part: Part, in_use: bool) -> Result<Reloaded, StartError> {
        let before = self.current();
        if !before.has(&part) {
            let (Part::Listener(name) | Part::Route(name)) = part;
            return Err(StartError::Config(format!("there is no {name:?}")));
        }
        let mut drained: Vec<Part> = before.drained.iter().filter(|known| **known != part).cloned().collect();
        if !in_use {
            drained.push(part);
        }
        let plan = Arc::new(Plan::new(before.config.clone(), Some(&before), drained, &self.shared)?);
        let generation = plan.generation;
        self.put(plan).await?;
        Ok(Reloaded { generation, waiting: Vec::new() })
    }

    /// Opens what is new and tells every worker. When this returns, they serve by the plan.
    async fn put(&mut self, plan: Arc<Plan>) -> Result<(), StartError> {
        let (bound, sockets) = self.open(&plan)?;
        let (taken, mut all_taken) = mpsc::channel(1);
        for (worker, sockets) in self.tell.iter().zip(sockets) {
            // A worker that does not take it has ended, and the process with it.
            let _ = worker.send(Order::Plan { plan: plan.clone(), sockets, taken: taken.clone() }).await;
        }
        drop(taken);
        // Ends when every worker has dropped its sender.
        let _ = all_taken.recv().await;
        self.bound = bound;
        self.current.send_replace(plan);
        Ok(())
    }

    /// Opens the listeners of a plan that are not open yet.
    fn open(&self, plan: &Plan) -> Result<(Vec<Bound>, Sockets), StartError> {
        let mut sockets: Sockets = (0..self.workers).map(|_| Vec::new()).collect();
        let mut bound = Vec::new();
        let internal = plan.internal.as_ref().map(|(listener, _)| (listener, true));
        let listeners = plan.config.listeners.iter().map(|listener| (listener, plan.uses(listener)));
        for (listener, open) in listeners.chain(internal) {
            let place = Place::of(listener);
            let known = self.bound.iter().find(|known| known.place == place);
            if let Some(known) = known.filter(|known| known.open || !open) {
                bound.push(Bound { open, ..known.clone() });
                continue;
            }
            // One that is taken into use again is where it was, though the kernel chose the port.
            let address = known.map_or(listener.address, |known| known.address);
            let role = format!("listener {:?}", listener.name);
            let patience = plan.config.client.send_timeout;
            let (address, opened): (_, Vec<TcpListener>) = listen(address, usize::from(self.workers), &role, patience)?;
            bound.push(Bound { place: place.clone(), address, open });
            for (mine, socket) in sockets.iter_mut().zip(opened) {
                mine.push(Opened { place: place.clone(), socket });
            }
        }
        Ok((bound, sockets))
    }
}

/// The sections that differ and that a running process does not take.
fn waiting(before: &Config, after: &Config) -> Vec<&'static str> {
    let differs = [
        ("workers", before.workers != after.workers),
        ("[admin]", before.admin != after.admin),
        ("[realtime]", before.realtime.as_ref().map(beside_keys) != after.realtime.as_ref().map(beside_keys)),
        ("[cluster]", before.cluster != after.cluster),
        ("[store]", before.store != after.store),
        ("[log] level, format", (before.log.level, before.log.format) != (after.log.level, after.log.format)),
        ("[log] queue_lines", before.log.queue_lines != after.log.queue_lines),
        ("[trace]", before.trace != after.trace),
        ("[drain] reconnect_in", before.drain.reconnect_in != after.drain.reconnect_in),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section).collect()
}

/// The realtime server's settings but its keys, which change while it runs.
fn beside_keys(realtime: &Realtime) -> Realtime {
    let auth = RealtimeAuth { tokens: Tokens::default(), ..realtime.auth.clone() };
    Realtime { auth, ..realtime.clone() }
}

/// How often a watched file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Looks at the config file for changes. By polling: editors and config maps replace files in ways that a watch on an inode
/// does not see.
pub(crate) struct Watched {
    file: Option<PathBuf>,
    seen: Option<Stamp>,
    interval: Interval,
}

/// What is different after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Watched {
    pub fn new(source: Option<&Source>) -> Self {
        let file = source.filter(|source| source.watch).map(|source| source.file.clone());
        let seen = file.as_deref().and_then(stamp);
        let mut interval = tokio::time::interval(LOOK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { file, seen, interval }
    }

    /// Resolves when the file has changed, and looks the same for two looks: a half-written file is not read.
    pub async fn changed(&mut self) {
        let Some(file) = &self.file else { return std::future::pending().await };
        let mut last = self.seen;
        loop {
            self.interval.tick().await;
            // A file that is being replaced is not there for a moment.
            let Some(now) = stamp(file) else { continue };
            if Some(now) != self.seen && Some(now) == last {
                self.seen = last;
                return;
            }
            last = Some(now);
        }
    }
}

pub(crate) fn stamp(file: &Path) -> Option<Stamp> {
    // Follows links: a config map is one to another place after each change.
    let found = std::fs::metadata(file).ok()?;
    Some(Stamp { modified: found.modified().ok(), bytes: found.len(), inode: found.ino() })
}
