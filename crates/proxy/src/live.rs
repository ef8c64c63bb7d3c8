//! What lives long: every worker's register of tunnels and event streams, and orders that ask them to go.
//!
//! A worker's register is only touched by its own thread. Others (the admin API, a prober that finds a server down, a
//! reload) speak to all workers through [`LiveStreams`]: bounded channels, with an answer from each.
//!
//! A stream that is asked to go ends politely: a tunnel with Close frames both ways, an event stream between two events.

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustc_hash::FxHashMap;
use slab::Slab;
use tidegate_types::CloseReason;
use tokio::sync::{mpsc, oneshot};

use crate::clock::{Alarm, Clock};
use crate::flow::Flow;
use crate::{ExchangeKind, Upstream};

/// Questions and orders that may wait for a worker.
const WAITING: usize = 64;

/// Why a stream is asked to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The process drains.
    Drain,
    /// Its server is down.
    ServerDown,
    /// Its server is to become empty, or has left the config.
    ServerDrain,
    /// Its route is no more, or leads elsewhere.
    RouteGone,
    /// Another server is to have it.
    Rebalance,
    /// The operator wants it gone.
    Kick,
}

impl Leave {
    /// As the log and the summary of the exchange say it.
    pub fn reason(self) -> CloseReason {
        match self {
            Self::Drain => CloseReason::ServerShutdown,
            Self::ServerDown => CloseReason::UpstreamFailed,
            Self::ServerDrain | Self::RouteGone | Self::Rebalance => CloseReason::Moved,
            Self::Kick => CloseReason::Kicked,
        }
    }

    /// Stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::ServerDown => "server_down",
            Self::ServerDrain => "server_drain",
            Self::RouteGone => "route_gone",
            Self::Rebalance => "rebalance",
            Self::Kick => "kick",
        }
    }
}

/// Which streams are meant: those for which everything that is said holds. The default means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveFilter {
    /// Only these ids, unless empty.
    pub ids: Vec<u64>,
    /// Tunnels or event streams.
    pub kind: Option<ExchangeKind>,
    /// The route's name.
    pub route: Option<Arc<str>>,
    /// The listener's name.
    pub listener: Option<Arc<str>>,
    /// The upstream's name.
    pub upstream: Option<Arc<str>>,
    /// The server: its address, or its name in the config.
    pub server: Option<Arc<str>>,
    /// The client's (real) address.
    pub client: Option<IpAddr>,
}

impl LiveFilter {
    /// The streams of one server.
    pub fn server(upstream: &str, server: &str) -> Self {
        Self { upstream: Some(upstream.into()), server: Some(server.into()), ..Self::default() }
    }

    fn fits(&self, entry: &Entry) -> bool {
        let flow = &*entry.flow;
        let name = |wanted: &Option<Arc<str>>, found: Option<&str>| match wanted {
            Some(wanted) => found == Some(&**wanted),
            None => true,
        };
        (self.ids.is_empty() || self.ids.contains(&entry.id))
            && self.kind.is_none_or(|kind| kind == flow.kind.get())
            && self.client.is_none_or(|client| client == flow.client)
            && name(&self.route, Some(&flow.route.name))
            && name(&self.listener, flow.listener.as_deref())
            && name(&self.upstream, Some(&entry.upstream.settings.name))
            && self.server.as_deref().is_none_or(|server| flow.is_at(server))
    }
}

/// How fast streams are asked to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeavePace {
    /// Streams per second in the whole process; 0 asks all at once.
    pub per_second: u32,
    /// How far each may be from its even place, percent of the distance between two.
    pub jitter: u8,
    /// The most that are asked, in the whole process.
    pub at_most: usize,
}

impl Default for LeavePace {
    fn default() -> Self {
        Self { per_second: 0, jitter: 20, at_most: usize::MAX }
    }
}

/// A stream, as the register shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveStream {
    /// Unlike any other in this process.
    pub id: u64,
    /// Tunnel or event stream.
    pub kind: ExchangeKind,
    /// The client's (real) address.
    pub client: IpAddr,
    /// The route's name.
    pub route: Arc<str>,
    /// The listener's name, if the caller of the forwarder said it.
    pub listener: Option<Arc<str>>,
    /// The upstream's name.
    pub upstream: Box<str>,
    /// The server's address, as configured.
    pub server: Option<Arc<str>>,
    /// As in the access log.
    pub request_id: Box<str>,
    /// Since the request.
    pub age: Duration,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// WebSocket messages from the client; 0 unless the route inspects.
    pub messages_in: u64,
    /// WebSocket messages to the client; 0 unless the route inspects.
    pub messages_out: u64,
    /// SSE events to the client.
    pub events: u64,
    /// It was asked to go.
    pub leaving: Option<Leave>,
}

/// How many streams a server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveCount {
    /// The upstream's name.
    pub upstream: Box<str>,
    /// The server's address, as configured.
    pub server: Arc<str>,
    /// Tunnels.
    pub tunnels: usize,
    /// Event streams.
    pub event_streams: usize,
}

/// The streams of all workers, for any thread.
#[derive(Clone)]
pub struct LiveStreams {
    workers: Arc<[mpsc::Sender<Request>]>,
}

impl fmt::Debug for LiveStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveStreams").field("workers", &self.workers.len()).finish()
    }
}

/// A worker's end: goes to [`crate::Forwarder::attend`].
pub struct LiveInbox {
    requests: mpsc::Receiver<Request>,
    workers: u32,
}

impl fmt::Debug for LiveInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveInbox").finish_non_exhaustive()
    }
}

enum Request {
    List { filter: LiveFilter, limit: usize, answer: oneshot::Sender<Vec<LiveStream>> },
    Count { answer: oneshot::Sender<Vec<LiveCount>> },
    Close { filter: LiveFilter, why: Leave, pace: LeavePace, answer: oneshot::Sender<usize> },
    Keep { filter: LiveFilter, why: Leave, answer: oneshot::Sender<usize> },
}

impl LiveStreams {
    /// For so many workers, with the end of each.
    pub fn for_workers(workers: u16) -> (Self, Vec<LiveInbox>) {
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (sender, requests) = mpsc::channel(WAITING);
                (sender, LiveInbox { requests, workers: u32::from(workers).max(1) })
            })
            .unzip();
        (Self { workers: senders.into() }, inboxes)
    }

    /// The streams that the filter means, at most `limit`, in no order.
    pub async fn list(&self, filter: &LiveFilter, limit: usize) -> Vec<LiveStream> {
        let mut found = Vec::new();
        for worker in &*self.workers {
            let limit = limit.saturating_sub(found.len());
            if limit == 0 {
                break;
            }
            found.extend(ask(worker, |answer| Request::List { filter: filter.clone(), limit, answer }).await);
        }
        found
    }

    /// How many streams each server has. Servers without any are left out.
    pub async fn count(&self) -> Vec<LiveCount> {
        let mut counts: Vec<LiveCount> = Vec::new();
        for worker in &*self.workers {
            for count in ask(worker, |answer| Request::Count { answer }).await {
                let same = |known: &&mut LiveCount| known.upstream == count.upstream && known.server == count.server;
                match counts.iter_mut().find(same) {
                    Some(known) => {
                        known.tunnels += count.tunnels;
                        known.event_streams += count.event_streams;
                    }
                    None => counts.push(count),
                }
            }
        }
        counts
    }

    /// Asks the streams that the filter means to go, and tells how many it asked. Those that were asked before keep their
    /// time.
    pub async fn close(&self, filter: &LiveFilter, why: Leave, pace: LeavePace) -> usize {
        let mut asked = 0;
        for worker in &*self.workers {
            let pace = LeavePace { at_most: pace.at_most.saturating_sub(asked), ..pace };
            if pace.at_most == 0 {
                break;
            }
            asked += ask(worker, |answer| Request::Close { filter: filter.clone(), why, pace, answer }).await;
        }
        asked
    }

    /// Takes back what [`LiveStreams::close`] asked for that reason, as far as it has not happened yet: a server that is
    /// up again keeps what it still has. Tells how many may stay.
    pub async fn keep(&self, filter: &LiveFilter, why: Leave) -> usize {
        let mut kept = 0;
        for worker in &*self.workers {
            kept += ask(worker, |answer| Request::Keep { filter: filter.clone(), why, answer }).await;
        }
        kept
    }
}

/// A worker that has ended has no streams.
async fn ask<T: Default>(worker: &mpsc::Sender<Request>, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> T {
    let (answer, answered) = oneshot::channel();
    if worker.send(request(answer)).await.is_err() {
        return T::default();
    }
    answered.await.unwrap_or_default()
}

/// A worker's register.
#[derive(Debug)]
pub(crate) struct Live {
    clock: Rc<Clock>,
    entries: RefCell<Slab<Entry>>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    flow: Rc<Flow>,
    upstream: Arc<Upstream>,
    /// Its place in the clock.
    alarm: usize,
}

impl Live {
    pub(crate) fn new(clock: Rc<Clock>) -> Rc<Self> {
        Rc::new(Self { clock, entries: RefCell::default() })
    }

    /// Enters a stream for as long as the result lives, which must be no longer than the alarm.
    pub(crate) fn enter(self: &Rc<Self>, flow: &Rc<Flow>, upstream: &Arc<Upstream>, alarm: &Alarm) -> Listed {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { id, flow: flow.clone(), upstream: upstream.clone(), alarm: alarm.key() };
        Listed { live: self.clone(), key: self.entries.borrow_mut().insert(entry) }
    }

    /// Answers what other threads ask, until they are gone or the worker is.
    pub(crate) async fn attend(live: Weak<Self>, mut inbox: LiveInbox) {
        while let Some(request) = inbox.requests.recv().await {
            let Some(live) = live.upgrade() else { return };
            // Whoever asked may have gone away meanwhile.
            match request {
                Request::List { filter, limit, answer } => _ = answer.send(live.list(&filter, limit)),
                Request::Count { answer } => _ = answer.send(live.count()),
                Request::Close { filter, why, pace, answer } => {
                    _ = answer.send(live.close(&filter, why, pace, inbox.workers));
                }
                Request::Keep { filter, why, answer } => _ = answer.send(live.keep(&filter, why)),
            }
        }
    }

    fn list(&self, filter: &LiveFilter, limit: usize) -> Vec<LiveStream> {
        let entries = self.entries.borrow();
        let fitting = entries.iter().map(|(_, entry)| entry).filter(|entry| filter.fits(entry));
        fitting.take(limit).map(|entry| self.show(entry)).collect()
    }

    fn show(&self, entry: &Entry) -> LiveStream {
        let flow = &*entry.flow;
        LiveStream {
            id: entry.id,
            kind: flow.kind.get(),
            client: flow.client,
            route: flow.route.name.clone(),
            listener: flow.listener.clone(),
            upstream: entry.upstream.settings.name.as_str().into(),
            server: flow.server(),
            request_id: (*flow.request_id).into(),
            age: flow.age(),
            bytes_in: flow.bytes_in.get(),
            bytes_out: flow.bytes_out.get(),
            messages_in: flow.messages_in.get(),
            messages_out: flow.messages_out.get(),
            events: flow.events.get(),
            leaving: self.clock.leaving(entry.alarm),
        }
    }

    fn count(&self) -> Vec<LiveCount> {
        let mut counts: FxHashMap<(u64, Arc<str>), LiveCount> = FxHashMap::default();
        for (_, entry) in self.entries.borrow().iter() {
            let Some(server) = entry.flow.server() else { continue };
            let count = counts.entry((entry.upstream.id, server.clone())).or_insert_with(|| LiveCount {
                upstream: entry.upstream.settings.name.as_str().into(),
                server,
                tunnels: 0,
                event_streams: 0,
            });
            match entry.flow.kind.get() {
                ExchangeKind::WebSocket => count.tunnels += 1,
                ExchangeKind::Sse | ExchangeKind::Http => count.event_streams += 1,
            }
        }
        counts.into_values().collect()
    }

    fn close(&self, filter: &LiveFilter, why: Leave, pace: LeavePace, workers: u32) -> usize {
        let entries = self.entries.borrow();
        let alarms: Vec<usize> = entries
            .iter()
            .map(|(_, entry)| entry)
            .filter(|entry| self.clock.leaving(entry.alarm).is_none() && filter.fits(entry))
            .take(pace.at_most)
            .map(|entry| entry.alarm)
            .collect();
        // Each worker takes its share of the rate, whatever its share of the streams.
        let gap = (u64::from(workers) * 1000 * 1000).checked_div(u64::from(pace.per_second)).unwrap_or(0);
        self.clock.ask_to_leave(&alarms, why, Duration::from_micros(gap), pace.jitter);
        alarms.len()
    }

    fn keep(&self, filter: &LiveFilter, why: Leave) -> usize {
        let entries = self.entries.borrow();
        let fitting = entries.iter().map(|(_, entry)| entry).filter(|entry| filter.fits(entry));
        fitting.filter(|entry| self.clock.let_stay(entry.alarm, why)).count()
    }
}

/// A place in the register.
#[derive(Debug)]
pub(crate) struct Listed {
    live: Rc<Live>,
    key: usize,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut entries = self.live.entries.borrow_mut();
        entries.try_remove(self.key);
        if entries.is_empty() && entries.capacity() > 1024 {
            entries.shrink_to_fit();
        }
    }
}
