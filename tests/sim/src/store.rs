//! A store that commits late and in groups, reports later still, and sometimes fails.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidegate_hub::{Pid, RoomStart, SessionRecord, SpaceStart};
use tidegate_types::{Epoch, Publication, RoomName};

use crate::rng::Rng;

/// The most persistent messages kept of a room.
pub const KEPT_MESSAGES: usize = 60;

/// Something to store.
#[derive(Clone)]
pub enum Write {
    Append(Arc<Publication>),
    Reserve(u64),
    Save { record: SessionRecord, ticket: u64 },
    Drop(Pid),
}

/// What the store reports.
#[derive(Clone)]
pub enum Written {
    Appended(u64),
    Failed(u64),
    Reserved(u64),
    Saved(u64),
}

/// The store of one space. What is committed survives `kill -9`; what is queued or unreported does not.
pub struct Store {
    pub epoch: Epoch,
    queue: VecDeque<Write>,
    reports: VecDeque<Written>,
    messages: BTreeMap<RoomName, Vec<Arc<Publication>>>,
    last: BTreeMap<RoomName, RoomStart>,
    reserved: u64,
    sessions: BTreeMap<Pid, SessionRecord>,
    clean: Option<SpaceStart>,
    tickets: u64,
    last_seq: u64,
    /// Commits nothing for so many turns.
    stalled: u64,
}

impl Store {
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            queue: VecDeque::new(),
            reports: VecDeque::new(),
            messages: BTreeMap::new(),
            last: BTreeMap::new(),
            reserved: 0,
            sessions: BTreeMap::new(),
            clean: None,
            tickets: 0,
            last_seq: 0,
            stalled: 0,
        }
    }

    pub fn submit(&mut self, write: Write) {
        self.queue.push_back(write);
    }

    pub fn save_session(&mut self, record: SessionRecord) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        self.queue.push_back(Write::Save { record, ticket });
        ticket
    }

    /// The last session write handed in.
    pub fn ticket(&self) -> u64 {
        self.tickets
    }

    /// Commits the next group.
    pub fn commit(&mut self, rng: &mut Rng, may_fail: bool) {
        if may_fail && rng.chance(20) {
            self.stalled = rng.below(30);
        }
        self.stalled = self.stalled.saturating_sub(1);
        if may_fail && self.stalled > 0 {
            return;
        }
        for _ in 0..=rng.below(8) {
            let Some(write) = self.queue.pop_front() else { return };
            let failed = may_fail && rng.chance(15);
            self.apply(write, failed);
        }
    }

    fn apply(&mut self, write: Write, failed: bool) {
        match write {
            Write::Append(publication) if failed => self.reports.push_back(Written::Failed(publication.seq)),
            Write::Append(publication) => {
                let offset = publication.position.map_or(0, |position| position.offset);
                let room = publication.room.clone();
                let unknown = RoomStart { room: room.clone(), last_offset: 0, last_persistent_seq: 0, floor_seq: 0 };
                let last = self.last.entry(room.clone()).or_insert(unknown);
                last.last_offset = last.last_offset.max(offset);
                last.last_persistent_seq = publication.seq;
                self.last_seq = self.last_seq.max(publication.seq);
                self.reports.push_back(Written::Appended(publication.seq));
                let messages = self.messages.entry(room).or_default();
                messages.push(publication);
                if messages.len() > KEPT_MESSAGES {
                    let gone = messages.remove(0);
                    last.floor_seq = last.floor_seq.max(gone.seq);
                }
            }
            Write::Reserve(upto) => {
                self.reserved = self.reserved.max(upto);
                self.reports.push_back(Written::Reserved(upto));
            }
            Write::Save { record, ticket } => {
                self.sessions.insert(record.pid.clone(), record);
                self.reports.push_back(Written::Saved(ticket));
            }
            Write::Drop(pid) => {
                self.sessions.remove(&pid);
            }
        }
    }

    /// The oldest report not yet read.
    pub fn report(&mut self) -> Option<Written> {
        self.reports.pop_front()
    }

    /// Commits everything.
    pub fn drain(&mut self) {
        while let Some(write) = self.queue.pop_front() {
            self.apply(write, false);
        }
    }

    /// A clean stop.
    pub fn close(&mut self, start: SpaceStart) {
        self.drain();
        self.reports.clear();
        self.reserved = self.reserved.max(start.reserved_seq);
        for room in &start.rooms {
            let last = self.last.entry(room.room.clone()).or_insert_with(|| room.clone());
            last.last_offset = last.last_offset.max(room.last_offset);
            last.last_persistent_seq = last.last_persistent_seq.max(room.last_persistent_seq);
            last.floor_seq = last.floor_seq.max(room.floor_seq);
        }
        self.last_seq = self.last_seq.max(start.last_seq);
        self.clean = Some(start);
    }

    /// `kill -9`: what was not committed is gone.
    pub fn kill(&mut self) {
        self.queue.clear();
        self.reports.clear();
        self.clean = None;
    }

    /// What the next start finds. A clean mark counts once.
    pub fn open(&mut self) -> SpaceStart {
        if let Some(start) = self.clean.take() {
            return start;
        }
        SpaceStart {
            epoch: self.epoch,
            last_seq: self.last_seq,
            reserved_seq: self.reserved,
            clean: false,
            rooms: self.last.values().cloned().collect(),
            ring: Vec::new(),
        }
    }

    pub fn session(&self, pid: &Pid) -> Option<SessionRecord> {
        self.sessions.get(pid).cloned()
    }

    pub fn read_seq(&self, room: &RoomName, after: u64) -> Vec<Arc<Publication>> {
        let messages = self.messages.get(room).map_or(&[][..], Vec::as_slice);
        messages.iter().filter(|publication| publication.seq > after).cloned().collect()
    }

    /// Whether the message is, or before the cap removed it was, committed.
    pub fn has(&self, room: &RoomName, seq: u64) -> bool {
        let messages = self.messages.get(room).map_or(&[][..], Vec::as_slice);
        let first = messages.first().map_or(0, |publication| publication.seq);
        let capped = messages.len() >= KEPT_MESSAGES && seq < first;
        capped || messages.iter().any(|publication| publication.seq == seq)
    }
}
