//! The thread's work: jobs from other threads, events of the links, answers of scripts. Everything that changes a space's
//! state comes through one queue, in order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tidegate_metrics::Metrics;
use tidegate_types::{Epoch, NodeId, RoomName, SpaceKey};
use tokio::time::MissedTickBehavior;

use super::answer::{RoomAnswer, counters, is_other_run};
use super::broker::{Job, Shared};
use super::call::Call;
use super::error::LinkError;
use super::follow::{self, Channel, Do};
use super::inbox::{Inbox, Item};
use super::keys::{Keys, SpaceKeys};
use super::leases::Leases;
use super::link::{Link, LinkId};
use super::links::Links;
use super::message::{self, Foreign};
use super::resp::Value;
use super::script;
use super::sessions::Sessions;
use super::slot::Slot;
use crate::{Heard, OnHeard, OnWritten, Pause};

/// How often what was put off is tried again.
const TICK: Duration = Duration::from_millis(250);
/// How often the counters of followed spaces are looked at: a life that ended without a cut is noticed by then.
pub(super) const TOUCH_EVERY: Duration = Duration::from_secs(5);
/// Messages of one log that one read of a comeback may return.
const MOST_READ: usize = 20_000;

/// What this node has seen of a space's numbers, and under which run of the server: how it proves that something was lost.
pub(super) struct Seen {
    epoch: Option<Epoch>,
    seq: u64,
    run: Rc<str>,
}

impl Seen {
    /// Numbers that a script answered under this run, after it compared them with what was seen before (`touch.lua`).
    pub(super) fn see(&mut self, epoch: Epoch, seq: u64, run: &Rc<str>) {
        if self.epoch == Some(epoch) {
            self.seq = self.seq.max(seq);
        } else {
            (self.epoch, self.seq) = (Some(epoch), seq);
        }
        if self.run != *run {
            self.run = Rc::clone(run);
        }
    }

    /// Numbers that were heard under this run. If the scripts have not compared yet, they say nothing about what was lost
    /// before: taken for numbers of the run before, they would prove a loss that there was not.
    pub(super) fn hear(&mut self, epoch: Epoch, seq: u64, run: &Rc<str>) {
        if self.run == *run {
            self.see(epoch, seq, run);
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
    pub(super) touched: Option<LinkId>,
    pub(super) touch_at: Option<(Instant, u64)>,
    pub(super) touch_next: Instant,
    pub(super) refused: bool,
}

pub(super) struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) links: Rc<Links>,
    pub(super) inbox: Rc<Inbox>,
    pub(super) keys: Keys,
    pub(super) metrics: Arc<Metrics>,
    on_heard: OnHeard,
    pub(super) on_written: OnWritten,
    pub(super) spaces: Vec<Entry>,
    by_key: FxHashMap<Arc<SpaceKey>, usize>,
    pub(super) channels: FxHashMap<Bytes, (usize, Channel)>,
    /// The channels of all nodes and of this one.
    pub(super) all: Bytes,
    pub(super) own: Bytes,
    pub(super) leases: Leases,
    pub(super) seat_spaces: super::limits::Indexed,
    pub(super) sessions: Sessions,
    wanted: Vec<Do>,
    pause: Option<Pause>,
    outbox: VecDeque<Heard>,
    pub(super) refresh: VecDeque<(usize, RoomName)>,
    pub(super) refresh_at: Instant,
    pub(super) told_at: Option<Instant>,
    pub(super) untold: u64,
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
            leases: Leases::default(),
            seat_spaces: super::limits::Indexed::default(),
            sessions,
            wanted: Vec::new(),
            pause: None,
            outbox: VecDeque::new(),
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
            if self.inbox.take_overflow() {
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

    pub(super) fn catch_up_all(&mut self) {
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
        // Used again and again: a message heard allocates nothing here.
        let mut wanted = std::mem::take(&mut self.wanted);
        step(&mut entry.space, &mut wanted);
        let mut channels = Vec::new();
        for what in wanted.drain(..) {
            match what {
                Do::Subscribe(channel) => channels.push(channel),
                Do::Unsubscribe(_)
                | Do::Touch { .. }
                | Do::Look { .. }
                | Do::Read { .. }
                | Do::Heard(_)
                | Do::OwnLeases { .. }
                | Do::Corrupt => self.act(index, what),
            }
        }
        self.wanted = wanted;
        self.subscribe(index, channels);
    }

    fn subscribe(&mut self, index: usize, channels: Vec<Channel>) {
        let Some(entry) = self.spaces.get(index).filter(|_| !channels.is_empty()) else { return };
        let mut names = Vec::with_capacity(channels.len());
        for channel in channels {
            let name = name_of(&entry.keys, &channel, self.shared.node);
            self.channels.insert(name.clone(), (index, channel));
            names.push(name);
        }
        if let Ok(link) = self.links.link(entry.slot) {
            link.subscribe(&names);
        }
    }

    fn act(&mut self, index: usize, what: Do) {
        let Some(entry) = self.spaces.get_mut(index) else { return };
        let link = self.links.link(entry.slot);
        match what {
            Do::Heard(heard) => self.hear(heard),
            Do::Subscribe(channel) => self.subscribe(index, vec![channel]),
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
                entry.seen.borrow_mut().see(epoch, seq, &run);
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
        if let Ok(link) = self.links.link(entry.slot) {
            entry.seen.borrow_mut().hear(answer.epoch, answer.seq, link.run_id());
        }
        for kind in &answer.foreign {
            self.foreign(*kind);
        }
        Some(answer)
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
