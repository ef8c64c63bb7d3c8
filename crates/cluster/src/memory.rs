//! A history that lives as long as the process.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tidegate_hub::{Pid, RoomStart, SessionRecord, SpaceStart};
use tidegate_types::{Epoch, Millis, Publication, RoomKey, RoomName, SpaceKey};

use crate::history::{Full, History, HistoryError, HistorySettings, HistoryStats, OnWritten, Write, Written};
use crate::queue::{Control, Counters, Queue, lock};
use crate::random_epoch;
use crate::writer::{Backend, Writer};

/// How often expired messages and sessions are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Beyond this many a store without a disk would only be a leak: the session is not kept, its client starts afresh.
const MAX_SESSIONS: usize = 1_000_000;

/// The history of `store.kind = "memory"`: nothing survives the process, so every start has new epochs. Bounded by the
/// rooms' caps, the TTL and [`HistorySettings::memory_bytes`].
pub struct MemoryHistory {
    settings: HistorySettings,
    data: Arc<Mutex<Data>>,
    queue: Arc<Queue>,
    _writer: Writer,
}

impl MemoryHistory {
    /// Starts an empty history.
    ///
    /// # Errors
    /// The writer thread cannot be started.
    pub fn open(settings: HistorySettings, on_written: OnWritten) -> Result<Self, HistoryError> {
        let data = Arc::new(Mutex::new(Data::default()));
        let queue = Queue::new(settings.queue_bytes, settings.queue_items);
        let backend = MemoryBackend {
            settings: settings.clone(),
            data: Arc::clone(&data),
            queue: Arc::clone(&queue),
            swept: std::time::Instant::now(),
        };
        let writer = Writer::start(Arc::clone(&queue), backend, on_written)?;
        Ok(Self { settings, data, queue, _writer: writer })
    }

    /// Removes what has expired now instead of within the next second, and waits for it.
    ///
    /// # Errors
    /// The store is closed.
    pub fn sweep(&self) -> Result<(), HistoryError> {
        self.queue.ask(Control::Sweep)
    }

    /// Runs `look` on the room's messages that have not expired, oldest first.
    fn live<T>(
        &self,
        room: &RoomKey,
        look: impl FnOnce(&mut dyn DoubleEndedIterator<Item = &Arc<Publication>>) -> T,
    ) -> T {
        let now = (self.settings.clock)();
        let oldest = now.saturating_sub(self.settings.ttl_ms);
        let data = lock(&self.data);
        let space = SpaceKey { tenant: room.tenant.clone(), namespace: room.namespace.clone() };
        let messages = data.spaces.get(&space).and_then(|space| space.rooms.get(&room.room));
        look(&mut messages.into_iter().flat_map(|room| room.messages.iter()).filter(|p| p.timestamp_ms > oldest))
    }
}

fn offset_of(publication: &Publication) -> u64 {
    publication.position.map_or(0, |position| position.offset)
}

fn newest_first_reversed(mut newest_first: Vec<Arc<Publication>>) -> Vec<Arc<Publication>> {
    newest_first.reverse();
    newest_first
}

impl History for MemoryHistory {
    fn load(&self) -> Result<Vec<(SpaceKey, SpaceStart)>, HistoryError> {
        Ok(Vec::new())
    }

    fn open_space(&self, key: &SpaceKey) -> Result<SpaceStart, HistoryError> {
        self.queue.ask(|reply| Control::OpenSpace(key.clone(), reply))?
    }

    fn submit(&self, write: Write) -> Result<(), Full> {
        self.queue.submit(write)
    }

    fn queue_ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.queue.ready()
    }

    fn read(&self, room: &RoomKey, after_offset: u64, limit: usize) -> Result<Vec<Arc<Publication>>, HistoryError> {
        Ok(self.live(room, |messages| messages.filter(|p| offset_of(p) > after_offset).take(limit).cloned().collect()))
    }

    fn tail(
        &self,
        room: &RoomKey,
        before_offset: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Arc<Publication>>, HistoryError> {
        let before = before_offset.unwrap_or(u64::MAX);
        Ok(newest_first_reversed(
            self.live(room, |messages| messages.rev().filter(|p| offset_of(p) < before).take(limit).cloned().collect()),
        ))
    }

    fn read_seq(
        &self,
        room: &RoomKey,
        after_seq: u64,
        limit: usize,
    ) -> Result<Option<Vec<Arc<Publication>>>, HistoryError> {
        let oldest = (self.settings.clock)().saturating_sub(self.settings.ttl_ms);
        let space = SpaceKey { tenant: room.tenant.clone(), namespace: room.namespace.clone() };
        let data = lock(&self.data);
        let Some(space) = data.spaces.get(&space) else { return Ok(Some(Vec::new())) };
        let Some(room) = space.rooms.get(&room.room) else {
            return Ok((space.forgotten_seq <= after_seq).then(Vec::new));
        };
        let wanted = || room.messages.iter().filter(|p| p.seq > after_seq);
        if room.removed_seq > after_seq || wanted().any(|p| p.timestamp_ms <= oldest) {
            return Ok(None);
        }
        Ok(Some(wanted().take(limit).cloned().collect()))
    }

    fn bounds(&self, room: &RoomKey) -> Option<(u64, u64)> {
        self.live(room, |messages| {
            let first = messages.next()?;
            let last = messages.next_back().unwrap_or(first);
            Some((offset_of(first), offset_of(last)))
        })
    }

    fn session(&self, pid: &Pid) -> Result<Option<SessionRecord>, HistoryError> {
        let now = (self.settings.clock)();
        let data = lock(&self.data);
        let record = data.sessions.get(pid).filter(|record| record.expires_at.is_none_or(|at| at > now));
        Ok(record.cloned())
    }

    fn healthy(&self) -> bool {
        self.queue.counters.healthy()
    }

    fn stats(&self) -> HistoryStats {
        self.queue.stats()
    }

    fn close(&self, spaces: Vec<(SpaceKey, SpaceStart)>) -> Result<(), HistoryError> {
        self.queue.ask(|reply| Control::Close(spaces, reply))?
    }
}

#[derive(Default)]
struct Data {
    spaces: FxHashMap<SpaceKey, Space>,
    /// The arrival number of each room's oldest message: whose turn it is when memory is short or time has passed.
    oldest: BTreeMap<u64, (Arc<SpaceKey>, RoomName)>,
    sessions: FxHashMap<Pid, SessionRecord>,
    arrivals: u64,
    bytes: usize,
}

struct Space {
    epoch: Epoch,
    last_seq: u64,
    /// The highest `seq` of a message of a room that has none left.
    forgotten_seq: u64,
    rooms: FxHashMap<RoomName, Room>,
}

#[derive(Default)]
struct Room {
    messages: VecDeque<Arc<Publication>>,
    /// Arrival numbers of `messages`.
    arrivals: VecDeque<u64>,
    /// Payload bytes of `messages`.
    bytes: u64,
    /// The highest `seq` of a message that has been removed.
    removed_seq: u64,
}

/// What one stored message costs, roughly.
fn weight(publication: &Publication) -> usize {
    publication.payload_bytes().saturating_add(200)
}

impl Data {
    /// What was removed to make place for the message; `None`: its space was never opened.
    fn append(&mut self, publication: &Arc<Publication>, settings: &HistorySettings) -> Option<usize> {
        let arrival = self.arrivals;
        let space = self.spaces.get_mut(publication.space.as_ref())?;
        self.arrivals += 1;
        self.bytes = self.bytes.saturating_add(weight(publication));
        space.last_seq = space.last_seq.max(publication.seq);
        let forgotten_seq = space.forgotten_seq;
        let room = space
            .rooms
            .entry(publication.room.clone())
            .or_insert_with(|| Room { removed_seq: forgotten_seq, ..Room::default() });
        room.messages.push_back(Arc::clone(publication));
        room.arrivals.push_back(arrival);
        room.bytes += publication.payload_bytes() as u64;
        if room.arrivals.len() == 1 {
            self.oldest.insert(arrival, (Arc::clone(&publication.space), publication.room.clone()));
        }
        let mut removed = 0;
        while self.is_over(publication, settings) {
            removed += self.drop_front(&publication.space, &publication.room);
        }
        while self.bytes > settings.memory_bytes {
            let Some((_, (space, room))) = self.oldest.first_key_value() else { break };
            let (space, room) = (Arc::clone(space), room.clone());
            removed += self.drop_front(&space, &room);
        }
        Some(removed)
    }

    /// Whether the message's room has more than it may.
    fn is_over(&self, publication: &Publication, settings: &HistorySettings) -> bool {
        let space = self.spaces.get(publication.space.as_ref());
        let Some(room) = space.and_then(|space| space.rooms.get(&publication.room)) else { return false };
        let oldest = room.messages.front().map_or(0, |oldest| oldest.payload_bytes() as u64);
        room.messages.len() > settings.max_messages_per_room
            || (room.messages.len() > 1 && room.bytes - oldest >= settings.max_bytes_per_room)
    }

    /// Forgets the room's oldest message.
    fn drop_front(&mut self, key: &Arc<SpaceKey>, name: &RoomName) -> usize {
        let Some(space) = self.spaces.get_mut(key.as_ref()) else { return 0 };
        let Some(room) = space.rooms.get_mut(name) else { return 0 };
        let Some(publication) = room.messages.pop_front() else { return 0 };
        self.bytes = self.bytes.saturating_sub(weight(&publication));
        room.bytes = room.bytes.saturating_sub(publication.payload_bytes() as u64);
        room.removed_seq = room.removed_seq.max(publication.seq);
        if let Some(arrival) = room.arrivals.pop_front() {
            self.oldest.remove(&arrival);
        }
        match room.arrivals.front() {
            Some(next) => {
                self.oldest.insert(*next, (Arc::clone(key), name.clone()));
            }
            None => {
                space.forgotten_seq = space.forgotten_seq.max(room.removed_seq);
                space.rooms.remove(name);
            }
        }
        1
    }

    fn sweep(&mut self, now: Millis, ttl_ms: u64) -> usize {
        let limit = now.saturating_sub(ttl_ms);
        let mut removed = 0;
        // Arrival order is nearly age order: the first room whose oldest message is young ends the walk.
        while let Some((_, (space, name))) = self.oldest.first_key_value() {
            let front = self.spaces.get(space.as_ref()).and_then(|space| space.rooms.get(name));
            if front.and_then(|room| room.messages.front()).is_some_and(|p| p.timestamp_ms > limit) {
                break;
            }
            let (space, name) = (Arc::clone(space), name.clone());
            removed += self.drop_front(&space, &name);
        }
        self.sessions.retain(|_, record| record.expires_at.is_none_or(|at| at > now));
        removed
    }
}

struct MemoryBackend {
    settings: HistorySettings,
    data: Arc<Mutex<Data>>,
    queue: Arc<Queue>,
    swept: std::time::Instant,
}

impl Backend for MemoryBackend {
    fn commit(&mut self, writes: &[Write], written: &mut Vec<Written>) {
        let mut removed = 0;
        let mut data = lock(&self.data);
        for write in writes {
            match write {
                Write::Append(publication) => {
                    let (space, seq) = (Arc::clone(&publication.space), publication.seq);
                    if publication.position.is_none() {
                        written.push(Written::Failed { space, seq, error: crate::NO_POSITION.into() });
                        continue;
                    }
                    match data.append(publication, &self.settings) {
                        Some(count) => {
                            removed += count;
                            written.push(Written::Appended { space: Arc::clone(&space), seq });
                            written.push(Written::Synced { space, seq });
                        }
                        None => written.push(Written::Failed { space, seq, error: crate::NOT_OPENED.into() }),
                    }
                }
                Write::Reserve { space, upto } => {
                    written.push(Written::Reserved { space: Arc::clone(space), upto: *upto });
                }
                Write::SaveSession(record) => {
                    if data.sessions.len() < MAX_SESSIONS || data.sessions.contains_key(&record.pid) {
                        data.sessions.insert(record.pid.clone(), record.clone());
                    }
                    written.push(Written::Saved { pid: record.pid.clone() });
                }
                Write::DropSession(pid) => {
                    data.sessions.remove(pid);
                }
            }
        }
        drop(data);
        Counters::add(&self.queue.counters.removed, removed);
    }

    fn tick(&mut self, _written: &mut Vec<Written>) -> Duration {
        if self.swept.elapsed() >= SWEEP_EVERY {
            self.sweep();
        }
        SWEEP_EVERY
    }

    fn open_space(&mut self, key: &SpaceKey) -> Result<SpaceStart, HistoryError> {
        let mut data = lock(&self.data);
        let space = match data.spaces.entry(key.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Space {
                epoch: random_epoch()?,
                last_seq: 0,
                forgotten_seq: 0,
                rooms: FxHashMap::default(),
            }),
        };
        let rooms = space.rooms.iter().filter_map(|(name, room)| {
            let last = room.messages.back()?;
            Some(RoomStart {
                room: name.clone(),
                last_offset: offset_of(last),
                last_persistent_seq: last.seq,
                floor_seq: 0,
            })
        });
        let rooms = rooms.collect();
        Ok(SpaceStart {
            epoch: space.epoch,
            last_seq: space.last_seq,
            reserved_seq: 0,
            clean: true,
            rooms,
            ring: Vec::new(),
        })
    }

    fn sweep(&mut self) {
        self.swept = std::time::Instant::now();
        let now = (self.settings.clock)();
        let removed = lock(&self.data).sweep(now, self.settings.ttl_ms);
        Counters::add(&self.queue.counters.removed, removed);
    }

    fn close(&mut self, _spaces: Vec<(SpaceKey, SpaceStart)>) -> Result<(), HistoryError> {
        Ok(())
    }
}
