//! The thread that keeps a node's membership: on links of its own, so that no amount of messages delays a heartbeat.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tidegate_metrics::{LeftOut, LeftOutLabels, Metrics};
use tidegate_types::{Millis, NodeId, NodeNumber};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use super::calls::Calls;
use super::{Advice, Beat, Member, Membership, Noted, Protocol, Registered};
use crate::Unavailable;
use crate::redis::{LinkError, LinkEvent, Links, RedisSettings, SettingsError};

/// Orders that wait; few are ever given.
const ORDERS: usize = 16;
/// How long the end of a process may take to tell the others.
const LEAVING: Duration = Duration::from_secs(1);
/// How long heartbeats may fail before it is told. A server that has just been connected to, or has just failed over, may
/// refuse the first ones.
const QUIET: Duration = Duration::from_secs(3);
/// After a burial that was not possible, the next try.
const BURY_AGAIN: Duration = Duration::from_millis(500);

/// Takes back what a dead node held, and tells everybody that it is gone. Done again if it is not known to have been done.
pub type Bury = Arc<dyn Fn(NodeId) -> oneshot::Receiver<Result<(), Unavailable>> + Send + Sync>;

/// What a node knows of the cluster.
#[derive(Clone, Debug)]
pub struct View {
    /// This node.
    pub me: Member,
    /// Whether it is a member: nobody has been told of it else.
    pub is_member: bool,
    /// How often it became one. When this grows, what the node holds is to be told anew: it was taken to be dead.
    pub joins: u64,
    /// Whether Redis answers.
    pub in_touch: bool,
    /// The other members, by their ids; when Redis cannot be reached, those that were known last.
    pub others: Arc<[Member]>,
}

/// A node's place among the nodes of its cluster. Cheap to clone; see [`Members::start`].
#[derive(Clone, Debug)]
pub struct Members {
    view: watch::Receiver<View>,
    orders: mpsc::Sender<Order>,
}

/// The thread, to be waited for.
#[derive(Debug)]
pub struct MembersThread(JoinHandle<()>);

enum Order {
    Drain,
    Load(u64),
    Bury(Bury),
    Loads(oneshot::Sender<FxHashMap<NodeId, u64>>),
    Leave,
}

/// Why there can be no membership.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// The settings of Redis.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The operating system refused a thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl Members {
    /// Starts to be a member, as soon as Redis can be reached, and for as long as the thread is not told to leave.
    ///
    /// # Errors
    /// [`MembersError`]; nothing is left running.
    pub fn start(
        redis: RedisSettings,
        membership: Membership,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, MembersThread), MembersError> {
        let (orders, received) = mpsc::channel(ORDERS);
        let (view, seen) = watch::channel(view(&membership, 0, 0));
        let (started, starts) = sync_channel(1);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(MembersError::Thread)?;
        let run = move || {
            LocalSet::new().block_on(&runtime, async move {
                match Keeper::new(redis, membership, metrics, view) {
                    Ok(keeper) => {
                        let _ = started.send(Ok(()));
                        keeper.run(received).await;
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
        };
        let thread = std::thread::Builder::new().name("members".to_owned()).spawn(run).map_err(MembersError::Thread)?;
        starts.recv().unwrap_or(Ok(()))?;
        Ok((Self { view: seen, orders }, MembersThread(thread)))
    }

    /// What is known now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// For whoever wants to know of changes.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Blocks until the node is a member, and returns its number; `None` if it is not in that time.
    pub fn wait_for_number(&self, patience: Duration) -> Option<NodeNumber> {
        let end = std::time::Instant::now() + patience;
        loop {
            let view = self.view.borrow();
            if view.is_member {
                return Some(view.me.number);
            }
            drop(view);
            if std::time::Instant::now() >= end {
                return None;
            }
            // Only at the start of a process, on a thread that has nothing else to do.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// From now on the node takes up the work of the dead; before, it leaves that to others.
    pub async fn bury_with(&self, bury: Bury) {
        let _ = self.orders.send(Order::Bury(bury)).await;
    }

    /// As [`Members::bury_with`], at the start of a process.
    pub fn bury_from_start(&self, bury: Bury) {
        // There is room: nothing else has been ordered yet.
        let _ = self.orders.try_send(Order::Bury(bury));
    }

    /// Says that nobody new should be sent here.
    pub fn drain(&self) {
        let _ = self.orders.try_send(Order::Drain);
    }

    /// Says how many connections the node has.
    pub fn load(&self, connections: u64) {
        // What is told too late is told with the next.
        let _ = self.orders.try_send(Order::Load(connections));
    }

    /// How many connections the members have, as they have said last; empty if Redis cannot be asked.
    pub async fn loads(&self) -> FxHashMap<NodeId, u64> {
        let (answer, answered) = oneshot::channel();
        if self.orders.send(Order::Loads(answer)).await.is_err() {
            return FxHashMap::default();
        }
        answered.await.unwrap_or_default()
    }

    /// Ends the membership: the others need not wait until they find this node dead.
    pub fn leave(&self) {
        let _ = self.orders.try_send(Order::Leave);
    }
}

impl MembersThread {
    /// Waits for the end after [`Members::leave`].
    pub fn join(self) {
        let _ = self.0.join();
    }
}

fn view(membership: &Membership, joins: u64, now: Millis) -> View {
    View {
        me: membership.me().clone(),
        is_member: membership.is_member(),
        joins,
        in_touch: membership.in_touch(now),
        others: membership.others().cloned().collect(),
    }
}

/// Who does what the state advises.
struct Keeper {
    calls: Calls,
    state: Membership,
    metrics: Arc<Metrics>,
    view: watch::Sender<View>,
    /// Rung when the others may have changed, or Redis is there (again).
    news: Rc<Notify>,
    start: Instant,
    joins: u64,
    load: u64,
    bury: Option<Bury>,
    /// Since when no call has succeeded.
    failing_since: Option<Instant>,
    /// A trouble that has been told, so that it is told once.
    trouble: Option<LinkError>,
}

impl Keeper {
    fn new(
        redis: RedisSettings,
        state: Membership,
        metrics: Arc<Metrics>,
        view: watch::Sender<View>,
    ) -> Result<Self, SettingsError> {
        let news = Rc::new(Notify::new());
        let prefix = redis.prefix.clone();
        let (up, channel) = (news.clone(), Calls::channel(&prefix));
        let links = Links::start(redis, metrics.clone(), move |event| match event {
            LinkEvent::Up { link, slots } => {
                if slots.contains(crate::redis::Slot::of(&channel)) {
                    link.subscribe(std::slice::from_ref(&channel));
                }
                up.notify_one();
            }
            LinkEvent::Message { .. } => up.notify_one(),
            // Without the channel, changes are heard with the next heartbeat.
            LinkEvent::Down { .. } | LinkEvent::Subscribed { .. } | LinkEvent::Refused { .. } => {}
        })?;
        let calls = Calls::new(links, &prefix, state.settings());
        let start = Instant::now();
        Ok(Self {
            calls,
            state,
            metrics,
            view,
            news,
            start,
            joins: 0,
            load: 0,
            bury: None,
            failing_since: None,
            trouble: None,
        })
    }

    fn now(&self) -> Millis {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let news = self.news.clone();
        loop {
            let wait = match self.state.advice(self.now()) {
                Advice::Sleep(wait) => wait,
                advice @ (Advice::Register(_) | Advice::Beat { .. } | Advice::Withdraw) => {
                    self.follow(advice).await;
                    self.show();
                    continue;
                }
            };
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Leave) | None => break,
                    Some(order) => self.obey(order).await,
                },
                () = news.notified() => self.state.hurry(self.now()),
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            }
            self.show();
        }
        let _ = tokio::time::timeout(LEAVING, self.calls.leave(self.state.me().id)).await;
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Drain => self.state.change(|me| me.draining = true, self.now()),
            Order::Load(load) => self.load = load,
            Order::Bury(bury) => self.bury = Some(bury),
            Order::Loads(answer) => drop(answer.send(self.calls.loads().await)),
            Order::Leave => {}
        }
    }

    async fn follow(&mut self, advice: Advice) {
        let id = self.state.me().id;
        let result = match advice {
            Advice::Sleep(_) => return,
            Advice::Register(wish) => {
                let record = self.state.me().record();
                let answer = self.calls.register(id, &record, wish, &candidates()).await;
                answer.map(|answer: Registered| self.state.registered(answer, self.now()))
            }
            Advice::Beat { version, record } => {
                let text = self.state.me().record();
                let text = if record { &*text } else { "" };
                let answer = self.calls.beat(id, version, text, self.load, self.bury.is_some()).await;
                answer.map(|answer: Beat| self.state.beaten(answer, record, self.now()))
            }
            Advice::Withdraw => {
                let _ = self.calls.leave(id).await;
                self.state.withdrawn(self.now());
                tracing::error!(
                    "this node is not part of the cluster: nodes that speak another protocol are; it tries again, and comes in when they are gone"
                );
                Ok(Noted::default())
            }
        };
        match result {
            Ok(noted) => {
                (self.failing_since, self.trouble) = (None, None);
                self.take(noted);
            }
            Err(error) => {
                self.state.failed(self.now());
                // That Redis cannot be reached, and why, is told by the links.
                let is_lasting = self.failing_since.get_or_insert_with(Instant::now).elapsed() >= QUIET;
                if is_lasting && error != LinkError::Unsent && self.trouble.as_ref() != Some(&error) {
                    tracing::warn!(%error, "the cluster cannot be told that this node lives; trying again");
                    self.trouble = Some(error);
                }
            }
        }
    }

    fn take(&mut self, noted: Noted) {
        if let Some(number) = noted.joined {
            self.joins += 1;
            self.metrics.cluster_joins.inc();
            tracing::info!(id = %self.state.me().id, %number, "this node is a member of the cluster");
        }
        if noted.lost {
            tracing::warn!(
                "this node is no member any more: it was silent for longer than node_timeout, or Redis has forgotten it; becoming one again"
            );
        }
        if noted.full {
            tracing::error!("the cluster has as many nodes as there are numbers; trying again");
        }
        let own = self.state.me().protocol;
        for misfit in noted.misfits {
            self.metrics.cluster_left_out.get_or_create(&LeftOutLabels { reason: LeftOut::Protocol }).inc();
            let Protocol { speaks, since } = misfit.protocol;
            tracing::error!(
                node = &*misfit.name, id = %misfit.id, version = &*misfit.version, speaks, since, own = own.speaks, own_since = own.since,
                "a node speaks another protocol: it is not talked to. Let all nodes be of one version, or of neighbouring ones",
            );
        }
        for id in noted.unreadable {
            self.metrics.cluster_left_out.get_or_create(&LeftOutLabels { reason: LeftOut::Unreadable }).inc();
            tracing::error!(id = &*id, "what stands in Redis for a node is no record of one: it is left out");
        }
        for (id, name) in noted.claimed {
            tracing::warn!(%id, name = name.as_deref().unwrap_or_default(), "a node is dead: taking back what it held");
            self.bury(id);
        }
    }

    /// Takes back what a dead node held. Until that is known to be done, the claim stands; then another may claim.
    fn bury(&self, id: NodeId) {
        let Some(bury) = self.bury.clone() else { return };
        let (calls, metrics) = (self.calls.clone(), self.metrics.clone());
        let give_up = Instant::now() + Duration::from_millis(calls.claim_ms());
        spawn_local(async move {
            while Instant::now() < give_up {
                if let Ok(Ok(())) = bury(id).await
                    && calls.buried(id).await.is_ok()
                {
                    metrics.cluster_burials.inc();
                    tracing::info!(%id, "the dead node's presence and sessions are taken back");
                    return;
                }
                tokio::time::sleep(BURY_AGAIN).await;
            }
        });
    }

    /// Shows what is known now, if it is something else.
    fn show(&self) {
        let now = view(&self.state, self.joins, self.now());
        let members = if now.is_member { now.others.len() + 1 } else { 0 };
        self.metrics.cluster_members.set(i64::try_from(members).unwrap_or(i64::MAX));
        self.view.send_if_modified(|shown| {
            let same = shown.me == now.me
                && (shown.is_member, shown.joins, shown.in_touch) == (now.is_member, now.joins, now.in_touch)
                && shown.others == now.others;
            if !same {
                *shown = now;
            }
            !same
        });
    }
}

/// Numbers to try, at random: after a Redis without persistence has restarted, a new node is not to take the number of one
/// that is about to come back.
fn candidates() -> [u16; 8] {
    let mut bytes = [0; 16];
    // Without randomness the lowest free one is taken.
    let _ = getrandom::fill(&mut bytes);
    let mut pairs = bytes.chunks_exact(2);
    std::array::from_fn(|_| pairs.next().and_then(|pair| <[u8; 2]>::try_from(pair).ok()).map_or(0, u16::from_be_bytes))
}

/// Not an answer that can be read.
pub(super) fn garbled() -> LinkError {
    // What stands under our keys is not ours: nothing can be said of what it does.
    LinkError::Unanswered
}

/// The bytes of an answer's elements.
pub(super) fn texts(value: crate::redis::Value) -> Option<Vec<Bytes>> {
    value.into_array()?.into_iter().map(|value| value.bytes().cloned()).collect()
}
