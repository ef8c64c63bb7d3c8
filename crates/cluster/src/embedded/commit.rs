//! The writer's side: one group, one commit; what a failure leaves behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fjall::{OwnedWriteBatch, PersistMode};
use rustc_hash::FxHashMap;
use tidegate_hub::{SessionRecord, SpaceStart};
use tidegate_types::{Publication, SpaceKey};

use super::engine::Engine;
use super::read::MAX_PID_BYTES;
use super::sweep::Sweep;
use super::value::{self, Message, Meta, RoomHead, SpaceRecord};
use super::{Shared, key};
use crate::history::{Fsync, HistoryError, HistorySettings, Write, Written};
use crate::queue::Counters;
use crate::random_epoch;
use crate::writer::Backend;

/// Rooms whose counters are kept at hand; beyond it all are dropped and looked up again when needed.
const MAX_ROOMS_AT_HAND: usize = 65_536;
/// A saved ring is written in groups of about this size.
const RING_GROUP_BYTES: usize = 4 << 20;
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// The longest the writer sleeps.
const IDLE: Duration = Duration::from_secs(1);

/// A room's counters at hand.
pub(super) struct RoomAtHand {
    pub(super) head: RoomHead,
    /// Messages up to this one have been removed.
    pub(super) trimmed_ordinal: u64,
    /// And so many bytes.
    trimmed_bytes: u64,
    /// The `rooms` tree has an entry: a load will find the room.
    remembered: bool,
}

/// A failed store that is waiting to be opened again.
struct Failure {
    error: String,
    retry_at: Instant,
    pause: Duration,
}

pub(super) struct EmbeddedBackend {
    pub(super) shared: Arc<Shared>,
    pub(super) spaces: FxHashMap<SpaceKey, SpaceRecord>,
    /// By room prefix.
    pub(super) rooms: FxHashMap<Box<[u8]>, RoomAtHand>,
    pub(super) sweep: Sweep,
    failure: Option<Failure>,
    /// Reservations that could not be stored yet; at most one per space.
    owed: FxHashMap<Arc<SpaceKey>, u64>,
    /// Keys of messages reported as failed that may still be in the journal; removed before anything else is written.
    doubtful: Vec<Vec<u8>>,
    unsynced_since: Option<Instant>,
    scratch: Vec<u8>,
}

impl EmbeddedBackend {
    pub(super) fn new(shared: Arc<Shared>, spaces: FxHashMap<SpaceKey, SpaceRecord>) -> Self {
        Self {
            sweep: Sweep::new(shared.settings.ttl_ms),
            shared,
            spaces,
            rooms: FxHashMap::default(),
            failure: None,
            owed: FxHashMap::default(),
            doubtful: Vec::new(),
            unsynced_since: None,
            scratch: Vec::new(),
        }
    }

    fn sync_always(&self) -> bool {
        self.shared.settings.fsync == Fsync::Always
    }

    pub(super) fn engine(&self) -> Result<Arc<Engine>, HistoryError> {
        match &self.failure {
            Some(failure) => Err(HistoryError::Store(failure.error.clone())),
            None => self.shared.engine(),
        }
    }

    /// Commits a group that holds no messages of senders.
    pub(super) fn store(&mut self, batch: OwnedWriteBatch) -> Result<(), HistoryError> {
        let result = batch.commit().map_err(HistoryError::from);
        match &result {
            Ok(()) => self.unsynced_since = self.unsynced_since.or_else(|| Some(Instant::now())),
            Err(error) => self.fail(error.to_string()),
        }
        result
    }

    /// The engine takes nothing after a failed write; it is dropped and opened again until a write succeeds.
    fn fail(&mut self, error: String) {
        tracing::error!(dir = %self.shared.dir.display(), %error, "the history store failed; messages are refused until it works again");
        self.shared.queue.counters.unhealthy.store(true, Ordering::Release);
        self.shared.set_engine(None);
        self.rooms.clear();
        self.unsynced_since = None;
        self.failure = Some(Failure { error, retry_at: Instant::now() + FIRST_RETRY, pause: FIRST_RETRY });
    }

    /// Tries to get a failed store back, when it is time.
    fn revive(&mut self, written: &mut Vec<Written>) {
        let Some(failure) = self.failure.as_mut().filter(|failure| failure.retry_at <= Instant::now()) else { return };
        let revived = Engine::open(&self.shared.dir).and_then(|engine| {
            // The group whose write failed may be in the journal nevertheless. Its senders were told that it is not.
            let mut batch = engine.batch(true);
            for key in &self.doubtful {
                batch.remove(&engine.messages, key.clone());
            }
            batch.insert(&engine.state, key::PROBE, b"probe".as_slice());
            for (space, upto) in &self.owed {
                if let Some(record) = self.spaces.get_mut(space.as_ref()) {
                    record.reserved_seq = record.reserved_seq.max(*upto);
                    batch.insert(&engine.state, key::space(key::SPACES, space), record.encode());
                }
            }
            batch.commit()?;
            Ok(engine)
        });
        match revived {
            Ok(engine) => {
                self.failure = None;
                self.doubtful.clear();
                self.shared.set_engine(Some(Arc::new(engine)));
                self.shared.queue.counters.unhealthy.store(false, Ordering::Release);
                written.extend(self.owed.drain().map(|(space, upto)| Written::Reserved { space, upto }));
                tracing::info!(dir = %self.shared.dir.display(), "the history store works again");
            }
            Err(error) => {
                failure.pause = (failure.pause * 2).min(LAST_RETRY);
                failure.retry_at = Instant::now() + failure.pause;
                failure.error = error.to_string();
            }
        }
    }

    /// Puts one message into the group.
    fn append(
        &mut self,
        engine: &Engine,
        batch: &mut OwnedWriteBatch,
        publication: &Publication,
    ) -> Result<Vec<u8>, String> {
        let Some(position) = publication.position else { return Err(crate::NO_POSITION.into()) };
        if !self.spaces.contains_key(publication.space.as_ref()) {
            return Err(crate::NOT_OPENED.into());
        }
        let mut prefix = std::mem::take(&mut self.scratch);
        key::room_into(&mut prefix, &publication.space, &publication.room);
        let stored = self.append_to(engine, batch, &prefix, publication, position.offset);
        self.scratch = prefix;
        stored.map_err(|error| super::engine::describe(&error))
    }

    fn append_to(
        &mut self,
        engine: &Engine,
        batch: &mut OwnedWriteBatch,
        prefix: &[u8],
        publication: &Publication,
        offset: u64,
    ) -> fjall::Result<Vec<u8>> {
        let caps = Caps::of(&self.shared.settings);
        let room = at_hand(&mut self.rooms, engine, prefix)?;
        let ordinal = room.head.last_ordinal + 1;
        let end_bytes = room.head.last_bytes.saturating_add(publication.payload_bytes() as u64);
        let key = key::message(prefix, offset);
        batch.insert(&engine.messages, key.clone(), value::encode_message(publication, ordinal, end_bytes));
        room.head.last_ordinal = ordinal;
        room.head.last_bytes = end_bytes;
        room.head.last_offset = room.head.last_offset.max(offset);
        room.head.last_seq = room.head.last_seq.max(publication.seq);
        room.head.last_timestamp_ms = room.head.last_timestamp_ms.max(publication.timestamp_ms);
        if !room.remembered {
            room.remembered = true;
            room.head.first_offset = offset;
            // The store may have known the room before.
            room.head.removed_seq = self.spaces.get(publication.space.as_ref()).map_or(0, |space| space.forgotten_seq);
            batch.insert(&engine.rooms, prefix.to_vec(), room.head.encode());
        }
        // Not at each message beyond a cap: a scan and the room's entry are shared by an eighth of the cap.
        let over = ordinal - room.trimmed_ordinal > caps.messages + (caps.messages / 8).max(16)
            || end_bytes.saturating_sub(room.trimmed_bytes) > caps.bytes.saturating_add(caps.bytes / 8);
        if over {
            let trimmed = trim(engine, batch, prefix, &mut room.head, caps);
            room.trimmed_ordinal = room.trimmed_ordinal.max(ordinal.saturating_sub(caps.messages));
            room.trimmed_bytes = end_bytes.saturating_sub(caps.bytes);
            match trimmed {
                Ok(removed) => Counters::add(&self.shared.queue.counters.removed, removed),
                // The message itself is in the group already; what was not removed now is removed by a sweep.
                Err(error) => tracing::warn!(%error, "a room's old messages could not be removed"),
            }
        }
        Ok(key)
    }

    fn save_session(&self, engine: &Engine, batch: &mut OwnedWriteBatch, record: &SessionRecord) {
        let pid = record.pid.as_str().as_bytes();
        if !pid.is_empty() && pid.len() <= MAX_PID_BYTES {
            batch.insert(&engine.sessions, pid, value::encode_session(record, self.shared.generation));
        }
    }

    /// Nothing of the group is stored.
    fn refuse(&mut self, writes: &[Write], error: &str, written: &mut Vec<Written>) {
        for write in writes {
            match write {
                Write::Append(publication) => written.push(Written::Failed {
                    space: Arc::clone(&publication.space),
                    seq: publication.seq,
                    error: error.to_owned(),
                }),
                // Messages wait for it in the hub, and it will not ask again.
                Write::Reserve { space, upto } => self.owe(space, *upto),
                // Without its record a session cannot be resumed after a restart: its client starts afresh.
                Write::SaveSession(record) => written.push(Written::Saved { pid: record.pid.clone() }),
                Write::DropSession(_) => {}
            }
        }
    }

    fn owe(&mut self, space: &Arc<SpaceKey>, upto: u64) {
        let owed = self.owed.entry(Arc::clone(space)).or_default();
        *owed = upto.max(*owed);
    }

    fn try_commit(&mut self, engine: &Engine, writes: &[Write], written: &mut Vec<Written>) -> Result<(), String> {
        let mut batch = engine.batch(self.sync_always());
        let mut keys = Vec::new();
        for write in writes {
            match write {
                Write::Append(publication) => {
                    let (space, seq) = (Arc::clone(&publication.space), publication.seq);
                    match self.append(engine, &mut batch, publication) {
                        Ok(key) => {
                            keys.push(key);
                            written.push(Written::Appended { space: Arc::clone(&space), seq });
                            written.push(Written::Synced { space, seq });
                        }
                        Err(error) => written.push(Written::Failed { space, seq, error }),
                    }
                }
                Write::Reserve { space, upto } => {
                    let Some(record) = self.spaces.get_mut(space.as_ref()) else { continue };
                    record.reserved_seq = record.reserved_seq.max(*upto);
                    batch.insert(&engine.state, key::space(key::SPACES, space), record.encode());
                    written.push(Written::Reserved { space: Arc::clone(space), upto: *upto });
                }
                Write::SaveSession(record) => {
                    self.save_session(engine, &mut batch, record);
                    written.push(Written::Saved { pid: record.pid.clone() });
                }
                Write::DropSession(pid) => {
                    let pid = pid.as_str().as_bytes();
                    if !pid.is_empty() && pid.len() <= MAX_PID_BYTES {
                        batch.remove(&engine.sessions, pid);
                    }
                }
            }
        }
        batch.commit().map_err(|error| {
            self.doubtful = keys;
            super::engine::describe(&error)
        })
    }
}

/// What a room may keep.
#[derive(Clone, Copy)]
pub(super) struct Caps {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Caps {
    pub(super) fn of(settings: &HistorySettings) -> Self {
        Self { messages: settings.max_messages_per_room as u64, bytes: settings.max_bytes_per_room }
    }

    /// Whether a message is among those that are kept, if these are the newest one's counts.
    pub(super) fn keep(self, message: &Message, last_ordinal: u64, last_bytes: u64) -> bool {
        message.ordinal.saturating_add(self.messages) > last_ordinal
            && last_bytes.saturating_sub(message.end_bytes) < self.bytes
    }
}

/// Removes what is over the caps, given that the group under way holds the newest messages.
fn trim(
    engine: &Engine,
    batch: &mut OwnedWriteBatch,
    prefix: &[u8],
    head: &mut RoomHead,
    caps: Caps,
) -> fjall::Result<usize> {
    let mut removed = 0;
    for entry in engine.range(prefix, head.first_offset, u64::MAX) {
        let (offset, value) = entry?;
        let message = Message::head(&value);
        if message.as_ref().is_some_and(|message| caps.keep(message, head.last_ordinal, head.last_bytes)) {
            head.first_offset = offset;
            break;
        }
        head.removed_seq = head.removed_seq.max(message.map_or(0, |message| message.seq));
        // Even if all that is stored goes: a second trim in the same group must not see these again.
        head.first_offset = offset.saturating_add(1);
        batch.remove(&engine.messages, key::message(prefix, offset));
        removed += 1;
    }
    batch.insert(&engine.rooms, prefix, head.encode());
    Ok(removed)
}

/// The room's counters, looked up when they are not at hand.
pub(super) fn at_hand<'a>(
    rooms: &'a mut FxHashMap<Box<[u8]>, RoomAtHand>,
    engine: &Engine,
    prefix: &[u8],
) -> fjall::Result<&'a mut RoomAtHand> {
    if !rooms.contains_key(prefix) {
        if rooms.len() >= MAX_ROOMS_AT_HAND {
            rooms.clear();
        }
        let (head, remembered) = engine.counters(prefix)?;
        let first = engine.range(prefix, head.first_offset, u64::MAX).next().transpose()?;
        let first = first.and_then(|(_, value)| Message::head(&value));
        let trimmed_ordinal = first.as_ref().map_or(head.last_ordinal, |first| first.ordinal.saturating_sub(1));
        let trimmed_bytes = first.map_or(head.last_bytes, |first| first.end_bytes);
        rooms.insert(prefix.into(), RoomAtHand { head, trimmed_ordinal, trimmed_bytes, remembered });
    }
    // An entry would need an owned key for each message.
    rooms.get_mut(prefix).ok_or(fjall::Error::Poisoned)
}

impl Backend for EmbeddedBackend {
    fn commit(&mut self, writes: &[Write], written: &mut Vec<Written>) {
        self.revive(written);
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(error) => return self.refuse(writes, &error.to_string(), written),
        };
        let before = written.len();
        match self.try_commit(&engine, writes, written) {
            Ok(()) => self.unsynced_since = self.unsynced_since.or_else(|| Some(Instant::now())),
            Err(error) => {
                written.truncate(before);
                // The handle must be gone before the store can be opened again.
                drop(engine);
                self.refuse(writes, &error, written);
                self.fail(error);
            }
        }
    }

    fn tick(&mut self, written: &mut Vec<Written>) -> Duration {
        self.revive(written);
        let Ok(engine) = self.engine() else { return FIRST_RETRY };
        let mut pause = IDLE;
        if let (Fsync::Interval(every_ms), Some(since)) = (self.shared.settings.fsync, self.unsynced_since) {
            let every = Duration::from_millis(every_ms);
            match every.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) {
                Some(left) => pause = pause.min(left),
                None => {
                    self.unsynced_since = None;
                    if let Err(error) = engine.db.persist(PersistMode::SyncData) {
                        drop(engine);
                        self.fail(super::engine::describe(&error));
                        return FIRST_RETRY;
                    }
                }
            }
        }
        pause.min(self.sweep_slice(engine))
    }

    fn open_space(&mut self, key: &SpaceKey) -> Result<SpaceStart, HistoryError> {
        let engine = self.engine()?;
        if let Some(record) = self.spaces.get(key) {
            // Opened before, by this process or an earlier one: what was handed out since is not known here.
            let mut start = SpaceStart {
                last_seq: record.last_seq,
                reserved_seq: record.reserved_seq,
                clean: false,
                ..SpaceStart::fresh(record.epoch)
            };
            for guard in engine.rooms.prefix(key::space(&[], key)) {
                let prefix = guard.key()?;
                let Some((_, room)) = key::parse_room(&prefix) else { continue };
                let (head, _) = engine.counters(&prefix)?;
                start.last_seq = start.last_seq.max(head.last_seq);
                start.rooms.push(head.start(room));
            }
            return Ok(start);
        }
        let record = SpaceRecord { epoch: random_epoch()?, reserved_seq: 0, last_seq: 0, forgotten_seq: 0 };
        let mut batch = engine.batch(true);
        batch.insert(&engine.state, key::space(key::SPACES, key), record.encode());
        drop(engine);
        self.store(batch)?;
        self.spaces.insert(key.clone(), record);
        self.shared.set_epoch(key.clone(), record.epoch);
        Ok(SpaceStart::fresh(record.epoch))
    }

    fn sweep(&mut self) {
        self.sweep.restart();
        while let Ok(engine) = self.engine() {
            self.sweep.hurry();
            self.sweep_slice(engine);
            if self.sweep.resting() {
                break;
            }
        }
    }

    fn close(&mut self, spaces: Vec<(SpaceKey, SpaceStart)>) -> Result<(), HistoryError> {
        let engine = self.engine()?;
        remove_rings(&engine)?;
        for (key, start) in spaces {
            let Some(record) = self.spaces.get_mut(&key) else { continue };
            let mut batch = engine.batch(false);
            record.last_seq = record.last_seq.max(start.last_seq);
            // Never smaller than it was: see `SpaceStart`.
            record.reserved_seq = record.reserved_seq.max(start.reserved_seq);
            batch.insert(&engine.state, key::space(key::SPACES, &key), record.encode());
            for room in &start.rooms {
                key::room_into(&mut self.scratch, &key, &room.room);
                let (mut head, _) = engine.counters(&self.scratch)?;
                head.last_offset = head.last_offset.max(room.last_offset);
                head.last_seq = head.last_seq.max(room.last_persistent_seq);
                head.floor_seq = room.floor_seq;
                batch.insert(&engine.rooms, self.scratch.clone(), head.encode());
                if batch.len() >= 4_096 {
                    std::mem::replace(&mut batch, engine.batch(false)).commit()?;
                }
            }
            let mut bytes = 0;
            for publication in &start.ring {
                let mut entry = key::space(key::RINGS, &key);
                entry.extend_from_slice(&publication.seq.to_be_bytes());
                let value = value::encode_ring_entry(publication);
                bytes += value.len();
                batch.insert(&engine.state, entry, value);
                if bytes >= RING_GROUP_BYTES {
                    bytes = 0;
                    std::mem::replace(&mut batch, engine.batch(false)).commit()?;
                }
            }
            batch.commit()?;
        }
        // Last, and alone: whatever of the above is missing, the next start is then an unclean one.
        let Some(mut meta) = engine.state.get(key::META)?.and_then(|value| Meta::decode(&value)) else {
            return Err(HistoryError::Store("its meta record is damaged".into()));
        };
        engine.db.persist(PersistMode::SyncAll)?;
        meta.clean = true;
        let mut batch = engine.batch(true);
        batch.insert(&engine.state, key::META, meta.encode());
        batch.commit()?;
        engine.db.persist(PersistMode::SyncAll)?;
        self.shared.set_engine(None);
        Ok(())
    }
}

/// Removes what an earlier close saved.
pub(super) fn remove_rings(engine: &Engine) -> Result<(), HistoryError> {
    loop {
        let mut batch = engine.batch(false);
        for guard in engine.state.prefix(key::RINGS).take(4_096) {
            batch.remove(&engine.state, guard.key()?);
        }
        if batch.is_empty() {
            return Ok(());
        }
        batch.commit()?;
    }
}
