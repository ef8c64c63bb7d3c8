//! [`RedisBroker`]: what other threads call, and the thread that speaks with Redis.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use tidegate_hub::Pid;
use tidegate_metrics::Metrics;
use tidegate_types::{Class, NodeId, PresenceInfo, RoomKey, RoomName, SpaceKey, UserId};
use tokio::sync::{Notify, oneshot};

use super::call::Call;
use super::engine::Engine;
use super::error::LinkError;
use super::history::Page;
use super::links::Links;
use super::publish::Ready;
use super::resp::Value;
use super::settings::{RedisSettings, SettingsError};
use crate::queue::lock;
use crate::{
    Audience, Broker, Claimed, Counted, Full, Kind, Look, Name, OnHeard, OnWritten, Outgoing, Placed, PublishError,
    Unavailable, Write,
};

/// What the broker keeps, and how much may wait.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    /// Persistent messages older than this are not returned any more, ms.
    pub ttl_ms: u64,
    /// The newest so many persistent messages of a room are kept.
    pub max_messages_per_room: usize,
    /// The newest persistent messages of a room are kept as long as those after each have together less than this, payload
    /// bytes.
    pub max_bytes_per_room: u64,
    /// Recoverable messages are kept so long, ms.
    pub recovery_window_ms: u64,
    /// At most so many recoverable messages of a room are kept.
    pub max_recoverable_per_room: usize,
    /// As `max_bytes_per_room`, of recoverable messages.
    pub max_recoverable_bytes_per_room: u64,
    /// A session whose node died without a word may be claimed for about so long, ms.
    pub session_grace_ms: u64,
    /// Publishes that may wait for their answers; more are refused.
    pub max_publishes: usize,
    /// Their bytes.
    pub max_publish_bytes: usize,
    /// Bytes that were heard and wait because the node cannot take more.
    pub max_backlog_bytes: usize,
    /// Writes of sessions that may wait.
    pub max_session_writes: usize,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            ttl_ms: 3_600_000,
            max_messages_per_room: 1_000,
            max_bytes_per_room: 16 << 20,
            recovery_window_ms: 120_000,
            max_recoverable_per_room: 10_000,
            max_recoverable_bytes_per_room: 4 << 20,
            session_grace_ms: 120_000,
            max_publishes: 8_192,
            max_publish_bytes: 32 << 20,
            max_backlog_bytes: 16 << 20,
            max_session_writes: 65_536,
        }
    }
}

impl BrokerSettings {
    /// How long a room's counters live after their last use, ms. Rooms that are followed are used.
    pub(super) fn room_ttl_ms(&self) -> u64 {
        self.ttl_ms.max(self.recovery_window_ms).saturating_mul(2).saturating_add(3_600_000)
    }

    /// How long a space's counters live, ms: longer than anything that is counted by them.
    pub(super) fn space_ttl_ms(&self) -> u64 {
        self.room_ttl_ms().saturating_mul(4).saturating_add(30 * 24 * 3_600_000)
    }

    /// How long the record of a connected client lives without being refreshed, ms.
    pub(super) fn live_session_ttl_ms(&self) -> u64 {
        self.session_grace_ms.saturating_mul(3)
    }
}

/// Something for the broker's thread to do.
pub(super) enum Job {
    Publish(Outgoing, oneshot::Sender<Result<Placed, PublishError>>),
    Signal(Audience, Bytes),
    Follow(Arc<SpaceKey>, RoomName),
    Unfollow(Arc<SpaceKey>, RoomName),
    CatchUp(Arc<SpaceKey>),
    Lease(Arc<SpaceKey>, RoomName, UserId, Option<Bytes>),
    Look(Arc<SpaceKey>, RoomName, oneshot::Sender<Result<Look, Unavailable>>),
    Claim(Arc<SpaceKey>, Pid, UserId, oneshot::Sender<Result<Option<Claimed>, Unavailable>>),
    Keep(Name, Bytes, u64, oneshot::Sender<Result<Option<Bytes>, Unavailable>>),
    Set(Name, Option<Bytes>, u64, oneshot::Sender<Result<(), Unavailable>>),
    Get(Name, oneshot::Sender<Result<Option<Bytes>, Unavailable>>),
    Take(Name, oneshot::Sender<Result<Option<Bytes>, Unavailable>>),
    List(Kind, usize, oneshot::Sender<Result<Vec<(String, Bytes)>, Unavailable>>),
    Count(Counted, oneshot::Sender<Result<Vec<u64>, Unavailable>>),
    Seat(Arc<SpaceKey>, Option<UserId>, u32, Option<u32>, oneshot::Sender<Result<bool, Unavailable>>),
    OpenSpace(Arc<SpaceKey>, oneshot::Sender<Result<tidegate_hub::SpaceStart, Unavailable>>),
    Page(Arc<RoomKey>, Page, oneshot::Sender<super::history::Paged>),
    Session(Pid, oneshot::Sender<Option<tidegate_hub::SessionRecord>>),
    EndLeases(NodeId, oneshot::Sender<Result<(), Unavailable>>),
    ComeBack(oneshot::Sender<Result<(), Unavailable>>),
    /// A session's record is to be written: see `sessions`.
    Write(Write),
    Call(Box<[u8]>, Call, oneshot::Sender<Result<Value, LinkError>>),
    Close(oneshot::Sender<()>),
}

/// What all threads see.
pub(super) struct Shared {
    pub(super) node: NodeId,
    pub(super) settings: BrokerSettings,
    jobs: Mutex<Vec<Job>>,
    pub(super) wake: Notify,
    pub(super) connected: AtomicBool,
    closed: AtomicBool,
    pub(super) publishes: AtomicUsize,
    pub(super) publish_bytes: AtomicUsize,
    pub(super) signal_bytes: AtomicUsize,
    pub(super) session_writes: AtomicUsize,
    pub(super) session_room: Notify,
    pub(super) published: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) corrupt: AtomicU64,
}

impl Shared {
    /// Hands the thread something to do. Dropped if the broker is closed: who waits for an answer hears that nobody will.
    pub(super) fn put(&self, job: Job) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        let mut jobs = lock(&self.jobs);
        let first = jobs.is_empty();
        jobs.push(job);
        drop(jobs);
        if first {
            self.wake.notify_one();
        }
    }

    /// Takes what waits; the buffer's capacity is used again.
    pub(super) fn take(&self, buffer: &mut Vec<Job>) {
        buffer.clear();
        std::mem::swap(&mut *lock(&self.jobs), buffer);
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        lock(&self.jobs).clear();
    }
}

/// The broker of a cluster on Redis or Valkey.
///
/// All that is spoken with Redis is spoken by one thread. What is called from elsewhere is handed to it and answered by a
/// channel; a channel whose other end is gone means that the broker was closed.
pub struct RedisBroker {
    pub(super) shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Why a broker cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings cannot work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No thread.
    #[error("the cluster's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

impl RedisBroker {
    /// Begins to connect, and goes on trying. `on_heard` and `on_written` are called from the broker's thread.
    ///
    /// # Errors
    /// [`StartError`]. That Redis cannot be reached is not one: see [`Broker::is_connected`].
    pub fn start(
        redis: RedisSettings,
        settings: BrokerSettings,
        node: NodeId,
        metrics: Arc<Metrics>,
        on_heard: OnHeard,
        on_written: OnWritten,
    ) -> Result<Self, StartError> {
        redis.validate()?;
        let shared = Arc::new(Shared {
            node,
            settings,
            jobs: Mutex::default(),
            wake: Notify::new(),
            connected: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            publishes: AtomicUsize::new(0),
            publish_bytes: AtomicUsize::new(0),
            signal_bytes: AtomicUsize::new(0),
            session_writes: AtomicUsize::new(0),
            session_room: Notify::new(),
            published: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (started, result) = std::sync::mpsc::sync_channel(1);
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("tidegate-cluster".into()).spawn(move || {
            let local = tokio::task::LocalSet::new();
            let farewell = Farewell(Arc::clone(&for_thread));
            local.block_on(&runtime, async {
                let prefix = redis.prefix.clone();
                let inbox = super::inbox::Inbox::new(Arc::clone(&for_thread));
                let sink = std::rc::Rc::clone(&inbox);
                match Links::start(redis, Arc::clone(&metrics), move |event| sink.event(event)) {
                    Ok(links) => {
                        let _ = started.send(Ok(()));
                        let engine = Engine::new(for_thread, links, inbox, &prefix, metrics, on_heard, on_written);
                        Box::pin(engine.run()).await;
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
            drop(farewell);
        })?;
        let mut broker = Self { shared, thread: Some(thread) };
        match result.recv() {
            Ok(Ok(())) => Ok(broker),
            Ok(Err(error)) => {
                broker.join();
                Err(error.into())
            }
            Err(_) => Err(std::io::Error::other("it ended at once").into()),
        }
    }

    /// Takes back all leases of a node that is dead ([`crate::Heard::LeasesEnded`]), then tells every node
    /// ([`crate::Heard::NodeGone`]). For the one node
    /// that has claimed it. May be called again if it failed half-way.
    pub fn end_leases_of(&self, node: NodeId) -> oneshot::Receiver<Result<(), Unavailable>> {
        self.ask(|answer| Job::EndLeases(node, answer))
    }

    /// Says all leases of this node again: after another has taken it to be dead and ended them.
    pub fn come_back(&self) -> oneshot::Receiver<Result<(), Unavailable>> {
        self.ask(Job::ComeBack)
    }

    /// A call of one's own, to the server that has the key's slot.
    pub fn call(&self, key: &[u8], call: Call) -> oneshot::Receiver<Result<Value, LinkError>> {
        self.ask(|answer| Job::Call(key.into(), call, answer))
    }

    pub(super) fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> oneshot::Receiver<T> {
        let (answer, result) = oneshot::channel();
        self.shared.put(job(answer));
        result
    }

    fn join(&mut self) {
        let (answer, _) = oneshot::channel();
        self.shared.put(Job::Close(answer));
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the thread has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for RedisBroker {
    fn drop(&mut self) {
        self.join();
    }
}

/// Whatever way the thread ends, nobody may wait for it in vain.
struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.connected.store(false, Ordering::Release);
        self.0.close();
    }
}

impl Broker for RedisBroker {
    fn node(&self) -> NodeId {
        self.shared.node
    }

    fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Acquire)
    }

    fn publish(&self, message: Outgoing) -> oneshot::Receiver<Result<Placed, PublishError>> {
        let (answer, result) = oneshot::channel();
        if message.class == Class::Volatile {
            let _ = answer.send(Err(PublishError::Refused));
        } else if let Err(error) = Ready::reserve(&self.shared, &message) {
            let _ = answer.send(Err(error));
        } else {
            self.shared.put(Job::Publish(message, answer));
        }
        result
    }

    fn signal(&self, to: Audience, body: Bytes) {
        let bytes = body.len() + 256;
        if !self.is_connected() {
            return;
        }
        if self.shared.signal_bytes.fetch_add(bytes, Ordering::AcqRel) > self.shared.settings.max_publish_bytes {
            self.shared.signal_bytes.fetch_sub(bytes, Ordering::AcqRel);
            return;
        }
        self.shared.put(Job::Signal(to, body));
    }

    fn follow(&self, space: &Arc<SpaceKey>, room: &RoomName) {
        self.shared.put(Job::Follow(Arc::clone(space), room.clone()));
    }

    fn catch_up(&self, space: &Arc<SpaceKey>) {
        self.shared.put(Job::CatchUp(Arc::clone(space)));
    }

    fn unfollow(&self, space: &Arc<SpaceKey>, room: &RoomName) {
        self.shared.put(Job::Unfollow(Arc::clone(space), room.clone()));
    }

    fn lease(&self, space: &Arc<SpaceKey>, room: &RoomName, user: &UserId, info: Option<PresenceInfo>) {
        let json = info.and_then(|info| serde_json::to_vec(&info).ok()).map(Bytes::from);
        self.shared.put(Job::Lease(Arc::clone(space), room.clone(), user.clone(), json));
    }

    fn look(&self, space: &Arc<SpaceKey>, room: &RoomName) -> oneshot::Receiver<Result<Look, Unavailable>> {
        self.ask(|answer| Job::Look(Arc::clone(space), room.clone(), answer))
    }

    fn claim(
        &self,
        space: &Arc<SpaceKey>,
        pid: &Pid,
        user: &UserId,
    ) -> oneshot::Receiver<Result<Option<Claimed>, Unavailable>> {
        self.ask(|answer| Job::Claim(Arc::clone(space), pid.clone(), user.clone(), answer))
    }

    fn keep(&self, name: Name, value: Bytes, ttl_ms: u64) -> oneshot::Receiver<Result<Option<Bytes>, Unavailable>> {
        self.ask(|answer| Job::Keep(name, value, ttl_ms, answer))
    }

    fn set(&self, name: Name, value: Option<Bytes>, ttl_ms: u64) -> oneshot::Receiver<Result<(), Unavailable>> {
        self.ask(|answer| Job::Set(name, value, ttl_ms, answer))
    }

    fn get(&self, name: Name) -> oneshot::Receiver<Result<Option<Bytes>, Unavailable>> {
        self.ask(|answer| Job::Get(name, answer))
    }

    fn take(&self, name: Name) -> oneshot::Receiver<Result<Option<Bytes>, Unavailable>> {
        self.ask(|answer| Job::Take(name, answer))
    }

    fn count(&self, told: Counted) -> oneshot::Receiver<Result<Vec<u64>, Unavailable>> {
        self.ask(|answer| Job::Count(told, answer))
    }

    fn seat(
        &self,
        space: &Arc<SpaceKey>,
        user: Option<&UserId>,
        held: u32,
        most: Option<u32>,
    ) -> oneshot::Receiver<Result<bool, Unavailable>> {
        self.ask(|answer| Job::Seat(Arc::clone(space), user.cloned(), held, most, answer))
    }

    fn list(&self, kind: Kind, most: usize) -> oneshot::Receiver<Result<Vec<(String, Bytes)>, Unavailable>> {
        self.ask(|answer| Job::List(kind, most, answer))
    }
}

impl RedisBroker {
    /// Takes a session's write, if there is room.
    pub(super) fn write(&self, write: Write) -> Result<(), Full> {
        let waiting = &self.shared.session_writes;
        if self.shared.closed.load(Ordering::Acquire)
            || waiting.load(Ordering::Acquire) >= self.shared.settings.max_session_writes
        {
            return Err(Full);
        }
        waiting.fetch_add(1, Ordering::AcqRel);
        self.shared.put(Job::Write(write));
        Ok(())
    }

    /// Resolves when there is room for a session's write.
    pub(super) fn has_room(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            loop {
                let notified = shared.session_room.notified();
                tokio::pin!(notified);
                // Registered before the look, so that room made in between is not missed.
                notified.as_mut().enable();
                if !shared.closed.load(Ordering::Acquire)
                    && shared.session_writes.load(Ordering::Acquire) < shared.settings.max_session_writes
                {
                    return;
                }
                notified.await;
            }
        })
    }
}
