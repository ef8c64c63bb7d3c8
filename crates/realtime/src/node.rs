mod publishing;
mod storing;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tidegate_auth::LiveKeys;
use tidegate_cluster::{Broker, History, HistoryError, OnHeard, Write, Written};
use tidegate_hub::{Effect, Effects, PresenceChange, Space, SpaceConfig, SpaceStart};
use tidegate_metrics::{DropReason, Metrics, TenantMetrics};
use tidegate_session::SidKey;
use tidegate_types::{
    Class, Epoch, EventName, Millis, Namespace, NodeId, NodeNumber, Phase, Publication, RoomName, ShardId, SpaceKey,
    TenantId,
};
use tokio::sync::{Notify, oneshot, watch};

use crate::app::Io;
use crate::bridge::{self, Asked, Bridge};
use crate::call::Call;
use crate::cluster::ClusterLink;
use crate::credentials::ShutOut;
use crate::dialect_api;
use crate::door::Door;
use crate::encoded::Encoded;
use crate::heard;
use crate::key_limits::KeyLimits;
use crate::limits::UserLimits;
use crate::mailbox::{Delivery, Except, Item, Mailbox};
use crate::namespaces::{Behaviour, NamespaceSettings};
use crate::opening::Opening;
use crate::peers::Peers;
use crate::replays::Replays;
use crate::rooms_api;
use crate::settings::Settings;
use crate::shard::Shard;
use crate::tickets::Tickets;
use crate::webhooks::{SpaceWebhooks, Webhooks};

use storing::Saving;

pub(crate) use publishing::{NotPublished, Pending, Placing, Publishing};

/// Called by the history's writer after each group commit.
pub type OnWritten = Arc<dyn Fn(&[Written]) + Send + Sync>;

/// Why the realtime server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The history store cannot be opened or read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// Node servers cannot be talked to.
    #[error("[realtime.interop]: {0}")]
    Interop(#[from] tidegate_cluster::redis::interop::StartError),
}

/// One (tenant, namespace) with its lock.
pub(crate) struct SpaceCell {
    pub index: u32,
    pub key: Arc<SpaceKey>,
    /// How its namespace behaves.
    pub settings: Arc<NamespaceSettings>,
    pub metrics: Arc<TenantMetrics>,
    /// The backends that are asked or told of what happens here.
    pub webhooks: SpaceWebhooks,
    /// Who waits for rooms of it to be followed.
    pub opening: Opening,
    /// Told when it is in touch with the cluster again.
    pub in_touch: Notify,
    /// The Node servers that serve the namespace as well.
    pub bridge: Option<Arc<Bridge>>,
    /// Questions to many clients at once.
    pub asked: Asked,
    /// What this space last added to its tenant's gauge of rooms.
    rooms_shown: AtomicI64,
    space: Mutex<Space>,
}

impl SpaceCell {
    /// A publication on its way to sockets of this space.
    pub fn encode(&self, publication: Arc<Publication>) -> Encoded {
        Encoded::message(publication, self.settings.recovery)
    }

    /// A change of who is in a room, in the words of the namespace; `None` where it does not tell of it.
    pub fn encode_presence(&self, room: RoomName, change: &PresenceChange) -> Option<Encoded> {
        let (event, data) = match &self.settings.behaviour {
            Behaviour::Rooms => rooms_api::presence_event(&room, change),
            Behaviour::Dialect(dialect) => dialect_api::presence_event(dialect, &room, change)?,
            // An application tells of its clients itself.
            Behaviour::Handlers(_) => return None,
        };
        let publication = Publication {
            space: self.key.clone(),
            room,
            event,
            data: data.into(),
            attachments: Arc::from([]),
            class: Class::Volatile,
            position: None,
            seq: 0,
            timestamp_ms: 0,
        };
        Some(Encoded::presence(Arc::new(publication)))
    }

    /// Looks at the space. Changes go through [`Node::with_space`], so that their effects happen.
    pub fn lock(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who wants to know what becomes of a message: several, if one has been sent again meanwhile.
type Waiters = SmallVec<[oneshot::Sender<bool>; 1]>;

/// The realtime server of one process: what its shards share.
pub struct Node {
    pub(crate) settings: Settings,
    pub(crate) keys: LiveKeys,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) sid_key: SidKey,
    pub(crate) limits: UserLimits,
    pub(crate) key_limits: KeyLimits,
    pub(crate) tickets: Tickets,
    pub(crate) revocations: ShutOut,
    pub(crate) replays: Replays,
    pub(crate) webhooks: Webhooks,
    pub(crate) peers: Peers,
    /// This node's number in its cluster, part of its session ids. It changes if the node was taken to be dead for so long
    /// that its number has been given away.
    number: AtomicU16,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) message_ids: crate::id::MessageIds,
    spaces: RwLock<FxHashMap<SpaceKey, Arc<SpaceCell>>>,
    mailboxes: Box<[Arc<Mailbox>]>,
    /// By space and `seq`.
    waiting: Mutex<FxHashMap<(u32, u64), Waiters>>,
    hash_seed: [u64; 2],
    saving: Mutex<Saving>,
    pub(crate) door: Door,
    /// How late each worker's last tick came, µs.
    pub(crate) lags: Box<[AtomicU64]>,
    durable: bool,
    /// Other nodes, if this is one of many.
    pub(crate) cluster: Option<Box<ClusterLink>>,
    bridges: Box<[Arc<Bridge>]>,
}

/// No space's counters have this life: what names it is recovered nowhere.
const UNKNOWN: Epoch = Epoch(0);

thread_local! {
    /// Effects of one change; kept so that a publish allocates no list.
    static EFFECTS: Cell<Effects> = const { Cell::new(Effects::new()) };
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// Milliseconds since the process began to count. For timeouts: a clock that is set must neither end all connections nor
/// keep the dead ones.
pub(crate) fn steady_ms() -> Millis {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Node {
    /// Opens the history and everything it remembers.
    ///
    /// # Errors
    /// [`OpenError`] when the store cannot be opened or read.
    pub fn open(
        settings: Settings,
        history: impl FnOnce(OnWritten) -> Result<Arc<dyn History>, HistoryError>,
        durable: bool,
        keys: LiveKeys,
        metrics: Arc<Metrics>,
        phase: watch::Receiver<Phase>,
    ) -> Result<Arc<Self>, OpenError> {
        let stored = |on_written: OnWritten, _: OnHeard| Ok((history(on_written)?, None));
        Self::start(settings, stored, durable, keys, metrics, phase)
    }

    /// Opens a node that is one of many: sessions, and all that has a place in an order, are the broker's.
    ///
    /// # Errors
    /// [`OpenError`] when the broker cannot be opened.
    pub fn open_in_cluster(
        settings: Settings,
        broker: impl FnOnce(OnWritten, OnHeard) -> Result<(Arc<dyn History>, Arc<dyn Broker>), HistoryError>,
        keys: LiveKeys,
        metrics: Arc<Metrics>,
        phase: watch::Receiver<Phase>,
    ) -> Result<Arc<Self>, OpenError> {
        let opened = |on_written: OnWritten, on_heard: OnHeard| {
            let (history, broker) = broker(on_written, on_heard)?;
            Ok((history, Some(broker)))
        };
        Self::start(settings, opened, true, keys, metrics, phase)
    }

    fn start(
        mut settings: Settings,
        open: impl FnOnce(OnWritten, OnHeard) -> Result<(Arc<dyn History>, Option<Arc<dyn Broker>>), HistoryError>,
        durable: bool,
        keys: LiveKeys,
        metrics: Arc<Metrics>,
        phase: watch::Receiver<Phase>,
    ) -> Result<Arc<Self>, OpenError> {
        // The writer calls back only for what this node submits, so the node is there by then.
        let late: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let node = late.clone();
        let on_written: OnWritten = Arc::new(move |written| {
            if let Some(node) = node.get().and_then(Weak::upgrade) {
                node.written(written);
            }
        });
        let node = late.clone();
        let on_heard: OnHeard = Arc::new(move |heard| {
            let node = node.get().and_then(Weak::upgrade)?;
            heard::heard(&node, heard)
        });
        let interop = settings.interop.take();
        let bridges: Box<[Arc<Bridge>]> = interop.iter().flat_map(|interop| interop.bridges(&metrics)).collect();
        bridges.iter().for_each(|bridge| settings.namespaces.forgo_recovery(&bridge.key.namespace));
        let (history, broker) = open(on_written, on_heard)?;
        let loaded = history.load()?;
        let webhooks = Webhooks::new(&settings.webhooks, &metrics);
        let mailboxes = (0..settings.shards).map(|_| Arc::default()).collect();
        let (shards, number) = (settings.shards, settings.node);
        let door = Door::new(settings.door, &crate::id::random());
        let node = Arc::new(Self {
            sid_key: SidKey::new(&settings.node_secret),
            message_ids: crate::id::MessageIds::new(),
            key_limits: KeyLimits::new(&settings.api_keys, now_ms()),
            settings,
            keys,
            metrics,
            history,
            limits: UserLimits::default(),
            tickets: Tickets::default(),
            revocations: ShutOut::default(),
            replays: Replays::default(),
            webhooks,
            peers: Peers::default(),
            number: AtomicU16::new(number),
            phase,
            spaces: RwLock::default(),
            mailboxes,
            waiting: Mutex::default(),
            hash_seed: [u64::from_ne_bytes(crate::id::random()), u64::from_ne_bytes(crate::id::random())],
            saving: Mutex::default(),
            door,
            lags: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            durable,
            cluster: broker.map(|broker| Box::new(ClusterLink::new(broker))),
            bridges,
        });
        for (key, start) in loaded {
            let mut spaces = node.spaces.write().unwrap_or_else(PoisonError::into_inner);
            let cell = node.cell(spaces.len(), key.clone(), start);
            spaces.insert(key, cell);
        }
        let _ = late.set(Arc::downgrade(&node));
        if node.cluster.is_some() {
            node.exchange_revocations();
        }
        if let Some(interop) = interop {
            bridge::start(&node, &interop, &node.bridges)?;
        }
        Ok(node)
    }

    fn cell(&self, index: usize, key: SpaceKey, start: SpaceStart) -> Arc<SpaceCell> {
        let config = SpaceConfig {
            ring_window_ms: self.settings.recovery_window_ms,
            ring_bytes: self.settings.ring_bytes,
            follows: self.cluster.is_some(),
            store_messages: self.settings.history_messages,
            session_window_ms: self.settings.recovery_window_ms,
            durable: self.durable,
            hash_seed: self.hash_seed,
            ..SpaceConfig::default()
        };
        let metrics = self.metrics.tenant(&key.tenant);
        let webhooks = self.webhooks.of(&key);
        let bridge = self.bridges.iter().find(|bridge| bridge.key == key).cloned();
        // A namespace that is no longer served keeps its messages; nobody can connect to it.
        let served = self.settings.namespaces.get(&key.namespace).cloned();
        let settings = served.unwrap_or_else(|| Arc::new(NamespaceSettings::new(Behaviour::Rooms)));
        let key = Arc::new(key);
        let space = Mutex::new(Space::new(key.clone(), config, start));
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Arc::new(SpaceCell {
            index,
            key,
            settings,
            metrics,
            webhooks,
            bridge,
            asked: Asked::new(),
            opening: Opening::default(),
            in_touch: Notify::new(),
            rooms_shown: AtomicI64::new(0),
            space,
        })
    }

    /// The part of the node that one worker owns. To be called on the worker's thread, inside its local runtime.
    pub fn shard(self: &Arc<Self>, id: ShardId) -> Rc<Shard> {
        Shard::start(self.clone(), id)
    }

    /// The keys that tokens are checked with. Replaced while the server runs, they count from the next token on.
    pub fn keys(&self) -> &LiveKeys {
        &self.keys
    }

    /// This node's id in its cluster; `None` if it is alone.
    pub(crate) fn id(&self) -> Option<NodeId> {
        self.cluster.as_ref().map(|cluster| cluster.broker.node())
    }

    /// Whether it is one of many.
    pub fn is_in_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// What makes this node one of many; `None` if it is alone.
    pub fn broker(&self) -> Option<Arc<dyn Broker>> {
        self.cluster.as_ref().map(|cluster| cluster.broker.clone())
    }

    /// The other nodes of the cluster that are asked where an answer is about all of them.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// This node's number in its cluster; 0 if there is none.
    pub(crate) fn number(&self) -> u16 {
        self.number.load(Ordering::Relaxed)
    }

    /// The node has another number from now on. Sessions that poll end with that: nobody finds them by their ids any more.
    pub fn set_number(&self, number: NodeNumber) {
        self.number.store(number.0, Ordering::Relaxed);
    }

    pub(crate) fn mailboxes(&self) -> impl Iterator<Item = &Arc<Mailbox>> {
        self.mailboxes.iter()
    }

    /// A namespace as a whole, for one tenant: how other threads reach its clients. `None` if it is not served.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn io(self: &Arc<Self>, namespace: &str, tenant: &TenantId) -> Result<Option<Io>, HistoryError> {
        let Ok(namespace) = Namespace::try_from(namespace) else { return Ok(None) };
        if self.settings.namespaces.get(&namespace).is_none() {
            return Ok(None);
        }
        let space = self.space(&SpaceKey { tenant: tenant.clone(), namespace })?;
        Ok(Some(Io::of_space(self.clone(), space)))
    }

    pub(crate) fn mailbox(&self, shard: ShardId) -> Option<&Arc<Mailbox>> {
        self.mailboxes.get(usize::from(shard.0))
    }

    /// The space, opened if this tenant has never been here.
    pub(crate) fn space(&self, key: &SpaceKey) -> Result<Arc<SpaceCell>, HistoryError> {
        if let Some(cell) = self.spaces.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Ok(cell.clone());
        }
        // Outside the lock: opening waits for the writer thread, whose callback takes the lock. The broker of a cluster is
        // far away, and no worker waits for it: see `Node::learn`.
        let start = match &self.cluster {
            None => self.history.open_space(key)?,
            Some(_) => SpaceStart::fresh(UNKNOWN),
        };
        Ok(self.insert(key, start))
    }

    fn insert(&self, key: &SpaceKey, start: SpaceStart) -> Arc<SpaceCell> {
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = spaces.get(key) {
            return cell.clone();
        }
        let cell = self.cell(spaces.len(), key.clone(), start);
        spaces.insert(key.clone(), cell.clone());
        cell
    }

    /// Whether [`Node::learn`] has something to do.
    pub(crate) fn has_to_learn(&self, key: &SpaceKey) -> bool {
        self.cluster.is_some() && self.known(key).is_none_or(|cell| cell.lock().epoch() == UNKNOWN)
    }

    /// Opens a space of a cluster where its counters stand, if the broker says it in time: so the first client that this
    /// node lets in can be recovered by the number that it is greeted with. Else that is found out later.
    pub(crate) async fn learn(&self, key: &SpaceKey) {
        let Some(cluster) = self.cluster.as_ref().filter(|cluster| cluster.broker.is_connected()) else { return };
        let Some(start) = cluster.start_of(&self.history, key).await else { return };
        let (epoch, seq) = (start.epoch, start.last_seq);
        let cell = self.insert(key, start);
        self.with_space(&cell, |space, effects| {
            // It was opened when the broker did not say it. With a room that is being opened it is said with that.
            if space.epoch() == UNKNOWN && space.stats().rooms == 0 {
                space.caught_up(epoch, seq, Vec::new(), now_ms(), effects);
            }
        });
    }

    /// The space, if this tenant has been here.
    pub(crate) fn known(&self, key: &SpaceKey) -> Option<Arc<SpaceCell>> {
        self.spaces.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(crate) fn cells(&self) -> Vec<Arc<SpaceCell>> {
        self.spaces.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Changes a space and lets the effects happen: deliveries under the space's lock, because the lock makes the order;
    /// writes to the store after it, because the store's callback takes the lock.
    pub(crate) fn with_space<T>(&self, cell: &SpaceCell, change: impl FnOnce(&mut Space, &mut Effects) -> T) -> T {
        self.change(cell, change, None)
    }

    /// As [`Node::with_space`]; what comes with the result resolves when the session's changed record is stored. Before,
    /// the client must not be told of the change: a kill would take it back, and the recovery would not know.
    pub(crate) fn with_session<T>(
        &self,
        cell: &SpaceCell,
        change: impl FnOnce(&mut Space, &mut Effects) -> T,
    ) -> (T, Option<oneshot::Receiver<()>>) {
        let mut saved = None;
        let is_kept = self.durable && self.cluster.as_ref().is_none_or(|cluster| cluster.broker.is_connected());
        let result = self.change(cell, change, is_kept.then_some(&mut saved));
        (result, saved)
    }

    fn change<T>(
        &self,
        cell: &SpaceCell,
        change: impl FnOnce(&mut Space, &mut Effects) -> T,
        mut saved: Option<&mut Option<oneshot::Receiver<()>>>,
    ) -> T {
        let mut effects = EFFECTS.take();
        let mut writes = Vec::new();
        let mut write_all = |writes: &mut Vec<Write>| {
            for write in writes.drain(..) {
                if let Write::SaveSession(record) = &write {
                    let waiting = saved.take().map(|saved| {
                        let (sender, receiver) = oneshot::channel();
                        *saved = Some(receiver);
                        sender
                    });
                    self.saving().entry(record.pid.clone()).or_default().push_back(waiting.into_iter().collect());
                }
                self.submit(cell, write);
            }
        };
        let result = {
            let mut space = cell.lock();
            let result = change(&mut space, &mut effects);
            for effect in effects.drain(..) {
                self.happen(cell, effect, &mut writes);
            }
            if self.cluster.is_some() {
                // The broker's thread and a worker may change one session. (A broker takes a record without calling back.)
                write_all(&mut writes);
            }
            result
        };
        EFFECTS.set(effects);
        write_all(&mut writes);
        result
    }

    fn happen(&self, cell: &SpaceCell, effect: Effect, writes: &mut Vec<Write>) {
        match effect {
            Effect::Deliver { room_id, shards, publication } => {
                let encoded = Arc::new(cell.encode(publication));
                for shard in shards.iter() {
                    if let Some(mailbox) = self.mailbox(shard) {
                        let encoded = encoded.clone();
                        mailbox.push(Item::Deliver(Delivery {
                            space: cell.index,
                            room: room_id,
                            encoded,
                            except: None,
                        }));
                    }
                }
            }
            Effect::Presence { room_id, room, shards, change, except } => {
                let Some(encoded) = cell.encode_presence(room, &change) else { return };
                let encoded = Arc::new(encoded);
                for shard in shards.iter() {
                    match self.mailbox(shard) {
                        Some(mailbox) if mailbox.has_room() => mailbox.push(Item::Deliver(Delivery {
                            space: cell.index,
                            room: room_id,
                            encoded: encoded.clone(),
                            except: except.filter(|except| except.shard == shard).map(Except::Conn),
                        })),
                        _ => _ = cell.metrics.dropped(DropReason::MailboxFull).inc(),
                    }
                }
            }
            Effect::Append(publication) => writes.push(Write::Append(publication)),
            Effect::Reserve { upto } => writes.push(Write::Reserve { space: cell.key.clone(), upto }),
            Effect::SaveSession(record) => writes.push(Write::SaveSession(record)),
            Effect::DropSession(pid) => writes.push(Write::DropSession(pid)),
            // Under the lock: two workers may have to do with one room, and the last to know is to be the last to say.
            Effect::Follow { room } => self.in_cluster(|cluster| cluster.broker.follow(&cell.key, &room)),
            Effect::Unfollow { room } => self.in_cluster(|cluster| cluster.broker.unfollow(&cell.key, &room)),
            Effect::Lease { room, user, info } => {
                self.in_cluster(|cluster| cluster.broker.lease(&cell.key, &room, &user, info));
            }
            Effect::Renewed => {
                for mailbox in &self.mailboxes {
                    mailbox.push(Item::Call(Box::new(Call::Renewed { space: cell.index })));
                }
            }
        }
    }

    fn in_cluster(&self, act: impl FnOnce(&ClusterLink)) {
        if let Some(cluster) = &self.cluster {
            act(cluster);
        }
    }

    /// What has to happen ten times a second: presence diffs, ring and session expiry.
    pub(crate) fn tick(&self, now: Millis) {
        for cell in self.cells() {
            self.with_space(&cell, |space, effects| space.tick(now, effects));
        }
        if let Some(cluster) = self.cluster.as_ref().filter(|cluster| cluster.broker.is_connected()) {
            cluster.restoring.tick(self);
        }
    }

    /// Brings the gauges of rooms and of lag up to date: counting them on each join and leave would cost more than a look a second.
    pub(crate) fn show(&self) {
        for cell in self.cells() {
            let rooms = i64::try_from(cell.lock().stats().rooms).unwrap_or(i64::MAX);
            cell.metrics.active_rooms.inc_by(rooms - cell.rooms_shown.swap(rooms, Ordering::Relaxed));
        }
        let slowest = self.lags.iter().map(|lag| lag.load(Ordering::Relaxed)).max().unwrap_or(0);
        self.metrics.event_loop_lag_ms.set(slowest as f64 / 1_000.0);
    }

    /// What has to happen every few seconds: forgetting what nobody holds.
    pub(crate) fn sweep(&self, now: Millis) {
        self.limits.sweep(now);
        self.tickets.sweep(now);
        self.revocations.sweep(now);
        self.replays.sweep(now);
        if self.cluster.is_some() {
            self.cells().iter().for_each(|cell| cell.opening.sweep());
        }
    }

    /// How many connections there may be.
    pub fn most_connections(&self) -> usize {
        self.settings.door.connections
    }

    /// Resolves when no connection is left.
    pub async fn drained(&self) {
        self.door.emptied().await;
    }

    /// Tells backends what webhooks have to tell, until the process ends: what waits when `closing` has resolved gets a few
    /// seconds more. For one task of the process, inside a local runtime.
    pub async fn tell_backends(self: Arc<Self>, closing: impl Future<Output = ()>) {
        self.webhooks.tell(closing, self.drained()).await;
    }

    /// A clean stop of the store: heads, floors and the messages in memory are kept, so that sessions recover after a
    /// restart. Call it once all connections have ended.
    ///
    /// # Errors
    /// What the store says.
    pub fn close(&self) -> Result<(), HistoryError> {
        if self.cluster.is_some() {
            // Who has left is not to be shown to the other nodes until they find this one gone.
            self.tick(now_ms());
        }
        let spaces = self.cells().iter().map(|cell| ((*cell.key).clone(), cell.lock().save())).collect();
        self.history.close(spaces)
    }
}

/// Names of the events the server sends of itself, parsed once.
pub(crate) fn event_name(name: &'static str) -> EventName {
    thread_local! {
        static NAMES: std::cell::RefCell<FxHashMap<&'static str, EventName>> = std::cell::RefCell::default();
    }
    NAMES.with_borrow_mut(|names| {
        if let Some(known) = names.get(name) {
            return known.clone();
        }
        #[allow(clippy::expect_used, reason = "the names are literals of this crate")]
        let parsed = EventName::try_from(name).expect("event names are valid literals");
        names.insert(name, parsed.clone());
        parsed
    })
}
