//! The thread's work: jobs from other threads, events of the links, answers of scripts. Everything that changes a space's
//! state comes through one queue, in order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use tidegate_metrics::Metrics;
use tidegate_types::{Epoch, NodeId, RoomName, SpaceKey};
use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::answer::{RoomAnswer, counters, is_other_run};
use super::broker::{Job, Shared};
use super::call::Call;
use super::error::LinkError;
use super::follow::{self, Channel, Do};
use super::keys::{Keys, SpaceKeys};
use super::leases::Leases;
use super::link::{Link, LinkId};
use super::links::{LinkEvent, Links};
use super::message::{self, Foreign, Frame};
use super::resp::Value;
use super::script;
use super::sessions::{self, Sessions};
use super::slot::Slot;
use crate::{Audience, Heard, OnHeard, OnWritten, Pause};

/// How often what was put off is tried again.
const TICK: Duration = Duration::from_millis(250);
/// How often the counters of followed spaces are looked at: a life that ended without a cut is noticed by then.
const TOUCH_EVERY: Duration = Duration::from_secs(5);
/// Messages of one log that one read of a comeback may return.
const MOST_READ: usize = 20_000;
/// Records and rooms refreshed in one tick.
const REFRESHED: usize = 500;
/// Dead nodes that are remembered: what is still heard of them is not believed.
const MOST_GONE: usize = 1_024;

/// What waits for the engine.
pub(super) enum Item {
    Event(LinkEvent),
    Touched {
        space: usize,
        link: LinkId,
        run: Rc<str>,
        attempt: Option<u64>,
        result: Result<Value, LinkError>,
    },
    Looked {
        space: usize,
        room: RoomName,
        mark: u64,
        result: Result<Value, LinkError>,
    },
    Read {
        space: usize,
        room: RoomName,
        attempt: u64,
        result: Result<Value, LinkError>,
    },
    /// A publish or a claim was told that the space must be looked at first.
    OtherRun {
        space: usize,
        link: LinkId,
    },
    Written(sessions::Sent),
    Leased {
        space: usize,
        key: super::leases::Key,
        result: Result<Value, LinkError>,
    },
    Indexed {
        space: usize,
        result: Result<Value, LinkError>,
    },
    Foreign(Foreign),
    Refused(LinkError),
}

/// What has come and is not taken yet. Messages are bounded in bytes; the rest by what was asked for.
pub(super) struct Inbox {
    items: RefCell<VecDeque<Item>>,
    bytes: Cell<usize>,
    /// Messages were dropped: everything has to be read again.
    overflown: Cell<bool>,
    shared: Arc<Shared>,
}

impl Inbox {
    pub(super) fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self { items: RefCell::default(), bytes: Cell::new(0), overflown: Cell::new(false), shared })
    }

    pub(super) fn event(&self, event: LinkEvent) {
        if let LinkEvent::Message { payload, .. } = &event {
            let bytes = self.bytes.get() + payload.len() + 128;
            if self.overflown.get() {
                return;
            }
            if bytes > self.shared.settings.max_backlog_bytes {
                self.overflown.set(true);
                self.bytes.set(0);
                let is_message = |item: &Item| matches!(item, Item::Event(LinkEvent::Message { .. }));
                self.items.borrow_mut().retain(|item| !is_message(item));
                self.shared.wake.notify_one();
                return;
            }
            self.bytes.set(bytes);
        }
        self.put(Item::Event(event));
    }

    pub(super) fn put(&self, item: Item) {
        let mut items = self.items.borrow_mut();
        items.push_back(item);
        if items.len() == 1 {
            self.shared.wake.notify_one();
        }
    }

    fn pop(&self) -> Option<Item> {
        let item = self.items.borrow_mut().pop_front()?;
        if let Item::Event(LinkEvent::Message { payload, .. }) = &item {
            self.bytes.set(self.bytes.get().saturating_sub(payload.len() + 128));
        }
        Some(item)
    }
}

/// What this node has seen of a space's numbers, and under which run of the server: how it proves that something was lost.
pub(super) struct Seen {
    epoch: Option<Epoch>,
    seq: u64,
    run: Rc<str>,
}

impl Seen {
    pub(super) fn see(&mut self, epoch: Epoch, seq: u64) {
        if self.epoch == Some(epoch) {
            self.seq = self.seq.max(seq);
        } else {
            (self.epoch, self.seq) = (Some(epoch), seq);
        }
    }
}

/// A space that this node has to do with.
pub(super) struct Entry {
    pub(super) key: Arc<SpaceKey>,
    pub(super) keys: SpaceKeys,
    pub(super) slot: Slot,
    pub(super) space: follow::Space,
    pub(super) seen: Rc<RefCell<Seen>>,
    /// The link over which the counters were looked at before anything else was written.
    touched: Option<LinkId>,
    touch_at: Option<(Instant, u64)>,
    touch_next: Instant,
    refused: bool,
}

pub(super) struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) links: Rc<Links>,
    pub(super) inbox: Rc<Inbox>,
    pub(super) keys: Keys,
    metrics: Arc<Metrics>,
    on_heard: OnHeard,
    pub(super) on_written: OnWritten,
    pub(super) spaces: Vec<Entry>,
    by_key: FxHashMap<Arc<SpaceKey>, usize>,
    channels: FxHashMap<Bytes, (usize, Channel)>,
    /// The channels of all nodes and of this one.
    all: Bytes,
    own: Bytes,
    heard_all_before: bool,
    pub(super) leases: Leases,
    pub(super) sessions: Sessions,
    pause: Option<Pause>,
    outbox: VecDeque<Heard>,
    gone: VecDeque<NodeId>,
    /// The links whose servers know the scripts.
    loaded: FxHashSet<LinkId>,
    refresh: VecDeque<(usize, RoomName)>,
    refresh_at: Instant,
    told_at: Option<Instant>,
    untold: u64,
}

impl Engine {
    pub(super) fn new(
        shared: Arc<Shared>,
        links: Links,
        inbox: Rc<Inbox>,
        prefix: &str,
        metrics: Arc<Metrics>,
        on_heard: OnHeard,
        on_written: OnWritten,
    ) -> Self {
        let keys = Keys::new(prefix);
        let (all, own) = (keys.all().into(), keys.node(shared.node).into());
        let sessions = Sessions::new(shared.settings.live_session_ttl_ms());
        let refresh_at = Instant::now() + Duration::from_millis(shared.settings.room_ttl_ms() / 3);
        Self {
            shared,
            links: Rc::new(links),
            inbox,
            keys,
            metrics,
            on_heard,
            on_written,
            spaces: Vec::new(),
            by_key: FxHashMap::default(),
            channels: FxHashMap::default(),
            all,
            own,
            heard_all_before: false,
            leases: Leases::default(),
            sessions,
            pause: None,
            outbox: VecDeque::new(),
            gone: VecDeque::new(),
            loaded: FxHashSet::default(),
            refresh: VecDeque::new(),
            refresh_at,
            told_at: None,
            untold: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let mut jobs = Vec::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = Arc::clone(&self.shared);
        let mut closing = None;
        loop {
            let mut pause = self.pause.take();
            let paused = pause.is_some();
            tokio::select! {
                () = shared.wake.notified() => self.pause = pause,
                _ = tick.tick() => {
                    self.pause = pause;
                    self.tick();
                }
                () = async { if let Some(pause) = &mut pause { pause.await } }, if paused => {}
            }
            shared.take(&mut jobs);
            for job in jobs.drain(..) {
                if let Job::Close(answer) = job {
                    closing = Some((answer, Instant::now() + Duration::from_secs(2)));
                } else {
                    self.job(job);
                }
            }
            self.drain();
            if let Some((_, until)) = &closing
                && (self.sessions.is_idle() && shared.publishes.load(Ordering::Acquire) == 0
                    || Instant::now() >= *until)
            {
                return;
            }
            // The links' tasks have their turn: what was just asked leaves as one write.
            tokio::task::yield_now().await;
        }
    }

    /// Takes what has come, as long as the node can take what it is told.
    fn drain(&mut self) {
        while self.pause.is_none() {
            if let Some(heard) = self.outbox.pop_front() {
                self.pause = (self.on_heard)(heard);
                continue;
            }
            if self.inbox.overflown.get() && self.inbox.items.borrow().is_empty() {
                self.inbox.overflown.set(false);
                self.catch_up_all();
                continue;
            }
            let Some(item) = self.inbox.pop() else { return };
            self.item(item);
        }
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        if self.pause.is_some() || !self.outbox.is_empty() {
            self.outbox.push_back(heard);
        } else {
            self.pause = (self.on_heard)(heard);
        }
    }

    fn catch_up_all(&mut self) {
        for index in 0..self.spaces.len() {
            self.with_space(index, |space, out| space.catch_up(out));
        }
    }

    /// The space's number; it is made if it was not known.
    pub(super) fn space(&mut self, key: &Arc<SpaceKey>) -> usize {
        if let Some(index) = self.by_key.get(key) {
            return *index;
        }
        let keys = self.keys.space(key);
        let slot = Slot::of(keys.space().as_bytes());
        let mut space = follow::Space::new(Arc::clone(key), self.shared.node);
        if self.links.link(slot).is_ok() {
            space.found(&mut Vec::new());
        }
        let seen = Rc::new(RefCell::new(Seen { epoch: None, seq: 0, run: "".into() }));
        self.spaces.push(Entry {
            key: Arc::clone(key),
            keys,
            slot,
            space,
            seen,
            touched: None,
            touch_at: None,
            touch_next: Instant::now() + TOUCH_EVERY,
            refused: false,
        });
        let index = self.spaces.len() - 1;
        self.by_key.insert(Arc::clone(key), index);
        index
    }

    /// Lets the space take a step, and carries out what it wants.
    pub(super) fn with_space(&mut self, index: usize, step: impl FnOnce(&mut follow::Space, &mut Vec<Do>)) {
        let Some(entry) = self.spaces.get_mut(index) else { return };
        let mut wanted = Vec::new();
        step(&mut entry.space, &mut wanted);
        for what in wanted {
            self.act(index, what);
        }
    }

    fn act(&mut self, index: usize, what: Do) {
        let Some(entry) = self.spaces.get_mut(index) else { return };
        let link = self.links.link(entry.slot);
        match what {
            Do::Heard(heard) => {
                let heard = self.believed(heard);
                if let Some(heard) = heard {
                    self.hear(heard);
                }
            }
            Do::Subscribe(channel) => {
                let name = name_of(&entry.keys, &channel, self.shared.node);
                self.channels.insert(name.clone(), (index, channel));
                if let Ok(link) = link {
                    link.subscribe(&[name]);
                }
            }
            Do::Unsubscribe(channel) => {
                let name = name_of(&entry.keys, &channel, self.shared.node);
                self.channels.remove(&name);
                if let Ok(link) = link {
                    link.unsubscribe(&[name]);
                }
            }
            Do::Touch { attempt, later: true } => {
                entry.touch_at = Some((Instant::now() + TICK, attempt));
            }
            Do::Touch { attempt, later: false } => self.touch(index, Some(attempt)),
            Do::Look { room, mark } => {
                let Some(link) = self.ready(index) else { return };
                let Some(entry) = self.spaces.get(index) else { return };
                let call = self.room_call(entry, &room, link.run_id(), None, Some(mark));
                let (inbox, answer) = (Rc::clone(&self.inbox), link.call(call));
                tokio::task::spawn_local(async move {
                    let result = answer.await;
                    inbox.put(Item::Looked { space: index, room, mark, result });
                });
            }
            Do::Read { room, after, attempt } => {
                let Some(link) = self.ready(index) else { return };
                let Some(entry) = self.spaces.get(index) else { return };
                let call = self.room_call(entry, &room, link.run_id(), Some((after, MOST_READ)), Some(0));
                let (inbox, answer) = (Rc::clone(&self.inbox), link.call(call));
                tokio::task::spawn_local(async move {
                    let result = answer.await;
                    inbox.put(Item::Read { space: index, room, attempt, result });
                });
            }
            Do::OwnLeases { room, kept } => self.own_leases(index, &room, &kept),
            Do::Corrupt => self.foreign(Foreign::Corrupt),
        }
    }

    /// What is still heard of a node that is gone is not believed.
    fn believed(&self, heard: Heard) -> Option<Heard> {
        if self.gone.is_empty() {
            return Some(heard);
        }
        let is_gone = |node: &NodeId| self.gone.contains(node);
        if let Heard::Leased { node, .. } = &heard
            && is_gone(node)
        {
            return None;
        }
        let mut heard = heard;
        if let Heard::Followed { leases, .. } = &mut heard {
            leases.retain(|lease| !is_gone(&lease.node));
        } else if let Heard::CaughtUp { rooms, .. } = &mut heard {
            for room in rooms {
                room.leases.retain(|lease| !is_gone(&lease.node));
            }
        }
        Some(heard)
    }

    pub(super) fn gone(&self) -> impl Iterator<Item = NodeId> {
        self.gone.iter().copied()
    }

    /// A look at a room. With a mark the room's record is made or lives on; a mark of 0 is not told.
    pub(super) fn room_call(
        &self,
        entry: &Entry,
        room: &RoomName,
        run: &str,
        after: Option<(u64, usize)>,
        mark: Option<u64>,
    ) -> Call {
        let keys = &entry.keys;
        let mut names = vec![keys.space(), keys.room(room), keys.log(room), keys.ring(room), keys.who(room)];
        if mark.is_some() {
            names.push(keys.marks(self.shared.node));
        }
        let call = Call::script(&script::ROOM, &names).arg(run);
        let call = match after {
            Some((after, most)) => call.int(after).arg("+").int(most),
            None => call.arg("").arg("").int(0),
        };
        let call = call.int(self.shared.settings.room_ttl_ms());
        match mark {
            Some(mark) if mark != 0 => call.arg(message::encode_mark(mark)),
            _ => call.arg(""),
        }
    }

    /// The link for the space's scripts; the counters are looked at first if they were not over this link.
    pub(super) fn ready(&mut self, index: usize) -> Option<Rc<Link>> {
        let entry = self.spaces.get(index)?;
        let link = self.links.link(entry.slot).ok()?;
        if entry.touched != Some(link.id()) {
            self.touch(index, None);
        }
        Some(link)
    }

    /// Asks for the counters. What is asked after it over the same link is carried out after it.
    pub(super) fn touch(&mut self, index: usize, attempt: Option<u64>) {
        let Some(entry) = self.spaces.get_mut(index) else { return };
        let (Ok(link), Ok(fresh)) = (self.links.link(entry.slot), crate::random_epoch()) else {
            if attempt.is_some() {
                let attempt = attempt.unwrap_or(0);
                entry.touch_at = Some((Instant::now() + TICK, attempt));
            }
            return;
        };
        entry.touched = Some(link.id());
        if self.loaded.insert(link.id()) {
            // A script that the server does not know is sent again behind what was asked after it: then nothing could rely
            // on the counters having been looked at before.
            for script in script::all() {
                drop(link.call(script.load()));
            }
        }
        let call = touch_call(entry, &link, fresh, self.shared.settings.space_ttl_ms());
        let (inbox, answer) = (Rc::clone(&self.inbox), link.call(call));
        tokio::task::spawn_local(async move {
            let result = answer.await;
            let run = Rc::clone(link.run_id());
            inbox.put(Item::Touched { space: index, link: link.id(), run, attempt, result });
        });
    }

    fn item(&mut self, item: Item) {
        match item {
            Item::Event(event) => self.event(event),
            Item::Touched { space, link, run, attempt, result } => self.touched(space, link, run, attempt, result),
            Item::Looked { space, room, mark, result } => {
                let answer = self.room_answer(space, &room, result, usize::MAX);
                self.with_space(space, |space, out| space.looked(&room, mark, answer, out));
            }
            Item::Read { space, room, attempt, result } => {
                let answer = self.room_answer(space, &room, result, MOST_READ);
                self.with_space(space, |space, out| space.read(&room, attempt, answer, out));
            }
            Item::OtherRun { space, link } => {
                if let Some(entry) = self.spaces.get_mut(space)
                    && entry.touched == Some(link)
                {
                    entry.touched = None;
                }
                self.ready(space);
            }
            Item::Written(sent) => self.written(sent),
            Item::Leased { space, key, result } => self.leased(space, key, result),
            Item::Indexed { space, result } => self.indexed(space, result),
            Item::Foreign(kind) => self.foreign(kind),
            Item::Refused(error) => self.refused(&error),
        }
    }

    fn touched(
        &mut self,
        index: usize,
        link: LinkId,
        run: Rc<str>,
        attempt: Option<u64>,
        result: Result<Value, LinkError>,
    ) {
        let counters = match result {
            Ok(value) => {
                let counters = counters(&value);
                if counters.is_none() {
                    self.foreign(Foreign::Corrupt);
                }
                counters
            }
            Err(error) => {
                self.refused(&error);
                None
            }
        };
        let Some(entry) = self.spaces.get_mut(index) else { return };
        match counters {
            Some((epoch, seq)) => {
                let mut seen = entry.seen.borrow_mut();
                seen.see(epoch, seq);
                seen.run = run;
            }
            None if entry.touched == Some(link) => entry.touched = None,
            None => {}
        }
        self.with_space(index, |space, out| space.touched(attempt, counters, out));
    }

    fn room_answer(
        &mut self,
        index: usize,
        room: &RoomName,
        result: Result<Value, LinkError>,
        most: usize,
    ) -> Option<RoomAnswer> {
        let value = match result {
            Ok(value) => value,
            Err(error) => {
                self.refused(&error);
                return None;
            }
        };
        let entry = self.spaces.get_mut(index)?;
        if is_other_run(&value) {
            entry.touched = None;
            return None;
        }
        let answer = RoomAnswer::read(value, &entry.key, room, most);
        let Some(answer) = answer else {
            self.foreign(Foreign::Corrupt);
            return None;
        };
        entry.seen.borrow_mut().see(answer.epoch, answer.seq);
        for kind in &answer.foreign {
            self.foreign(*kind);
        }
        Some(answer)
    }

    fn event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { link, slots } => {
                for name in [&self.all, &self.own] {
                    if slots.contains(Slot::of(name)) {
                        link.subscribe(std::slice::from_ref(name));
                    }
                }
                for index in 0..self.spaces.len() {
                    let Some(entry) = self.spaces.get(index) else { continue };
                    if !slots.contains(entry.slot) {
                        continue;
                    }
                    // What this node has seen is compared before anybody can hide a loss by going on.
                    self.ready(index);
                    self.with_space(index, follow::Space::found);
                }
                self.connected();
                self.pump_sessions();
                self.pump_leases();
            }
            LinkEvent::Down { slots, link } => {
                // It may keep other slots: then the scripts are sent once more.
                self.loaded.remove(&link);
                for index in 0..self.spaces.len() {
                    let Some(entry) = self.spaces.get_mut(index) else { continue };
                    if slots.contains(entry.slot) {
                        entry.touched = None;
                        self.with_space(index, follow::Space::lost);
                    }
                }
                self.connected();
            }
            LinkEvent::Subscribed { channel, .. } => {
                if channel == self.all {
                    if std::mem::replace(&mut self.heard_all_before, true) {
                        // Which nodes have died meanwhile was not heard: who is in the rooms is looked at again.
                        self.catch_up_all();
                    }
                } else if let Some((index, channel)) = self.channels.get(&channel).cloned() {
                    self.with_space(index, |space, out| space.confirmed(channel, out));
                }
            }
            LinkEvent::Refused { channels, .. } => {
                for channel in channels {
                    if let Some((index, _)) = self.channels.get(&channel)
                        && let Some(entry) = self.spaces.get_mut(*index)
                    {
                        entry.refused = true;
                    }
                }
            }
            LinkEvent::Message { channel, payload, .. } => self.message(&channel, &payload),
        }
    }

    fn connected(&mut self) {
        let connected = self.links.is_connected();
        if self.shared.connected.swap(connected, Ordering::AcqRel) != connected {
            self.hear(Heard::Connected(connected));
        }
    }

    fn message(&mut self, name: &Bytes, payload: &Bytes) {
        let frame = match message::decode_frame(payload) {
            Ok(frame) => frame,
            Err(kind) => {
                self.foreign(kind);
                return;
            }
        };
        if let Some((index, channel)) = self.channels.get(name) {
            let (index, channel) = (*index, channel.clone());
            match (frame, &channel) {
                (Frame::Signal { from, .. }, _) if from == self.shared.node => {}
                (Frame::Signal { from, body }, Channel::Room(room)) => {
                    let Some(entry) = self.spaces.get(index) else { return };
                    let to = Audience::Room(Arc::clone(&entry.key), room.clone());
                    self.hear(Heard::Signal { from, to, body });
                }
                (frame, _) => {
                    self.with_space(index, |space, out| space.frame(channel, frame, payload.len(), out));
                    if let Some(entry) = self.spaces.get(index)
                        && let Some(epoch) = entry.space.epoch()
                    {
                        entry.seen.borrow_mut().see(epoch, entry.space.heard());
                    }
                }
            }
            return;
        }
        let to = if *name == self.all {
            Audience::Nodes
        } else if *name == self.own {
            Audience::Node(self.shared.node)
        } else {
            // A room that was left: what was on its way.
            return;
        };
        match frame {
            Frame::Signal { from, .. } if from == self.shared.node => {}
            Frame::Signal { from, body } => self.hear(Heard::Signal { from, to, body }),
            Frame::NodeGone(node) if to == Audience::Nodes => {
                if !self.gone.contains(&node) {
                    self.gone.push_back(node);
                    if self.gone.len() > MOST_GONE {
                        self.gone.pop_front();
                    }
                }
                self.hear(Heard::NodeGone(node));
            }
            Frame::NodeGone(_) | Frame::Message(..) | Frame::Lease(_) | Frame::Mark(_) => {
                self.foreign(Foreign::Corrupt)
            }
        }
    }

    /// Something that is not ours, or of another version: counted, and told now and then.
    pub(super) fn foreign(&mut self, kind: Foreign) {
        self.shared.corrupt.fetch_add(1, Ordering::Relaxed);
        self.metrics.cluster_foreign(match kind {
            Foreign::Version => tidegate_metrics::ForeignKind::Version,
            Foreign::Corrupt => tidegate_metrics::ForeignKind::Corrupt,
        });
        self.tell(match kind {
            Foreign::Version => "written by another program, or by another version of this one",
            Foreign::Corrupt => "damaged, or not ours",
        });
    }

    /// A script failed because of what it found under our keys.
    pub(super) fn refused(&mut self, error: &LinkError) {
        use super::resp::ErrorCode;
        if matches!(error.code(), Some(ErrorCode::WrongType | ErrorCode::Other)) {
            self.shared.corrupt.fetch_add(1, Ordering::Relaxed);
            self.metrics.cluster_foreign(tidegate_metrics::ForeignKind::WrongType);
            self.tell(&error.to_string());
        }
    }

    fn tell(&mut self, what: &str) {
        self.untold += 1;
        let now = Instant::now();
        if self.told_at.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(10)) {
            warn!(
                count = self.untold,
                "something in Redis under this cluster's keys or channels was not taken: {what}"
            );
            (self.told_at, self.untold) = (Some(now), 0);
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for index in 0..self.spaces.len() {
            let Some(entry) = self.spaces.get_mut(index) else { continue };
            if let Some((_, attempt)) = entry.touch_at.filter(|(at, _)| *at <= now) {
                entry.touch_at = None;
                self.touch(index, Some(attempt));
            } else if entry.touch_next <= now {
                entry.touch_next = now + TOUCH_EVERY;
                if std::mem::take(&mut entry.refused) {
                    self.with_space(index, follow::Space::found);
                } else if entry.space.follows() {
                    self.touch(index, None);
                }
            }
            self.with_space(index, follow::Space::again);
        }
        self.pump_sessions();
        self.pump_leases();
        self.refresh(now);
    }

    /// What is in use lives on.
    fn refresh(&mut self, now: Instant) {
        let settings = &self.shared.settings;
        for (pid, space) in self.sessions.due(now, REFRESHED) {
            let ttl = settings.live_session_ttl_ms();
            let keys = self.keys.space(&space);
            if let Ok(link) = self.links.link(Slot::of(keys.space().as_bytes())) {
                drop(link.call(Call::new("PEXPIRE").arg(keys.session(&pid)).int(ttl)));
            }
        }
        let ttl = settings.room_ttl_ms();
        if now >= self.refresh_at {
            self.refresh_at = now + Duration::from_millis(ttl / 3);
            for (index, entry) in self.spaces.iter().enumerate() {
                self.refresh.extend(entry.space.rooms().map(|room| (index, room.clone())));
                if let Ok(link) = self.links.link(entry.slot) {
                    drop(link.call(Call::new("PEXPIRE").arg(entry.keys.held(self.shared.node)).int(ttl)));
                }
            }
            let index = self.keys.spaces_of(self.shared.node);
            if let Ok(link) = self.links.link(Slot::of(index.as_bytes())) {
                drop(link.call(Call::new("PEXPIRE").arg(index).int(ttl)));
            }
        }
        let count = self.refresh.len().min(REFRESHED);
        for (index, room) in self.refresh.drain(..count) {
            let Some(entry) = self.spaces.get(index) else { continue };
            let Ok(link) = self.links.link(entry.slot) else { continue };
            for key in [entry.keys.room(&room), entry.keys.who(&room)] {
                drop(link.call(Call::new("PEXPIRE").arg(key).int(ttl)));
            }
        }
    }
}

fn name_of(keys: &SpaceKeys, channel: &Channel, node: NodeId) -> Bytes {
    match channel {
        Channel::Marks => keys.marks(node).into(),
        Channel::Room(room) => keys.channel(room).into(),
    }
}

fn touch_call(entry: &Entry, link: &Link, fresh: Epoch, ttl_ms: u64) -> Call {
    let seen = entry.seen.borrow();
    let call = Call::script(&script::TOUCH, &[entry.keys.space()]).arg(&**link.run_id());
    let call = match seen.epoch {
        Some(epoch) => call.int(epoch.0),
        None => call.arg(""),
    };
    call.int(seen.seq).arg(&*seen.run).int(fresh.0).int(ttl_ms)
}
