//! Expired messages, forgotten rooms, dead sessions: looked for in laps over the trees, a small slice at a time, so that a
//! group commit never waits long. Reads do not depend on it.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tidegate_types::SpaceKey;

use super::commit::{Caps, EmbeddedBackend, at_hand, remove_rings};
use super::engine::Engine;
use super::key;
use super::read::session_expired;
use super::value::{Message, decode_session_expiry};
use crate::history::HistoryError;
use crate::queue::Counters;

const ROOMS_PER_SLICE: usize = 64;
const MESSAGES_PER_SLICE: usize = 1_024;
const SESSIONS_PER_SLICE: usize = 512;
/// Between two slices of a lap, so that a lap over very many rooms leaves the processor to others.
const BETWEEN_SLICES: Duration = Duration::from_millis(10);

enum Stage {
    Rings,
    Rooms(Vec<u8>),
    Sessions(Vec<u8>),
    Rest,
}

/// Where the lap is.
pub(super) struct Sweep {
    stage: Stage,
    next: Instant,
    lap: Duration,
    /// Rooms seen in this lap.
    rooms: FxHashMap<SpaceKey, usize>,
    rings_removed: bool,
}

impl Sweep {
    pub(super) fn new(ttl_ms: u64) -> Self {
        let lap = Duration::from_millis((ttl_ms / 60).clamp(1_000, 60_000));
        Self { stage: Stage::Rest, next: Instant::now() + lap, lap, rooms: FxHashMap::default(), rings_removed: false }
    }

    pub(super) fn restart(&mut self) {
        self.stage = Stage::Rings;
        self.next = Instant::now();
        self.rooms.clear();
    }

    /// The next slice is due.
    pub(super) fn hurry(&mut self) {
        self.next = Instant::now();
    }

    pub(super) fn resting(&self) -> bool {
        matches!(self.stage, Stage::Rest)
    }
}

impl EmbeddedBackend {
    /// One slice, if it is time; how long until the next.
    pub(super) fn sweep_slice(&mut self, engine: Arc<Engine>) -> Duration {
        let now = Instant::now();
        if self.sweep.next > now {
            return self.sweep.next - now;
        }
        if self.sweep.resting() {
            self.sweep.restart();
        }
        let result = match std::mem::replace(&mut self.sweep.stage, Stage::Rest) {
            Stage::Rings | Stage::Rest => self.sweep_rings(&engine),
            Stage::Rooms(after) => self.sweep_rooms(&engine, &after),
            Stage::Sessions(after) => self.sweep_sessions(&engine, &after),
        };
        match result {
            Ok(stage) => self.sweep.stage = stage,
            // A failed commit has been reported; the next lap tries again.
            Err(error) => {
                tracing::warn!(dir = %self.shared.dir.display(), %error, "a sweep of the history store ended early")
            }
        }
        let pause = if self.sweep.resting() { self.sweep.lap } else { BETWEEN_SLICES };
        self.sweep.next = now + pause;
        pause
    }

    /// A saved ring has been given to the hub by now, or is of no use after an unclean end.
    fn sweep_rings(&mut self, engine: &Engine) -> Result<Stage, HistoryError> {
        let loaded = self.shared.loaded.load(std::sync::atomic::Ordering::Acquire);
        if !self.sweep.rings_removed && (loaded || !self.shared.was_clean) {
            remove_rings(engine)?;
            self.sweep.rings_removed = true;
        }
        Ok(Stage::Rooms(Vec::new()))
    }

    fn sweep_rooms(&mut self, engine: &Engine, after: &[u8]) -> Result<Stage, HistoryError> {
        let mut batch = engine.batch(false);
        let mut left = MESSAGES_PER_SLICE;
        let mut cursor = None;
        let mut removed = 0;
        let mut forgotten = Vec::new();
        let rooms = engine.rooms.range::<&[u8], _>((Bound::Excluded(after), Bound::Unbounded));
        for (seen, guard) in rooms.enumerate() {
            let prefix = guard.key()?;
            if seen == ROOMS_PER_SLICE || left == 0 {
                break;
            }
            let Some((space, _)) = key::parse_room(&prefix) else {
                cursor = Some(prefix.to_vec());
                continue;
            };
            let here = self.sweep_room(engine, &mut batch, &prefix, left)?;
            removed += here.removed;
            left = left.saturating_sub(here.removed.max(1));
            if !here.more {
                let rooms = self.sweep.rooms.entry(space.clone()).or_default();
                *rooms += 1;
                if here.empty && *rooms > self.shared.settings.max_rooms_per_space {
                    *rooms -= 1;
                    forgotten.push((space, prefix.to_vec()));
                }
                cursor = Some(prefix.to_vec());
            }
        }
        for (space, prefix) in forgotten {
            let last_seq = engine.counters(&prefix)?.0.last_seq;
            if let Some(record) = self.spaces.get_mut(&space) {
                record.last_seq = record.last_seq.max(last_seq);
                record.forgotten_seq = record.forgotten_seq.max(last_seq);
                batch.insert(&engine.state, key::space(key::SPACES, &space), record.encode());
            }
            self.rooms.remove(prefix.as_slice());
            batch.remove(&engine.rooms, prefix);
        }
        if !batch.is_empty() {
            self.store(batch)?;
            Counters::add(&self.shared.queue.counters.removed, removed);
        }
        Ok(match cursor {
            Some(cursor) => Stage::Rooms(cursor),
            None if removed > 0 => Stage::Rooms(after.to_vec()),
            None => Stage::Sessions(Vec::new()),
        })
    }

    /// Removes the beginning of the room's messages as far as it has expired or is over the cap.
    fn sweep_room(
        &mut self,
        engine: &Engine,
        batch: &mut fjall::OwnedWriteBatch,
        prefix: &[u8],
        limit: usize,
    ) -> Result<SweptRoom, HistoryError> {
        let mut swept = SweptRoom { removed: 0, more: false, empty: true };
        let Some(head) = engine.head(prefix)? else { return Ok(swept) };
        let mut entries = engine.range(prefix, head.first_offset, u64::MAX).peekable();
        if entries.peek().is_none() {
            return Ok(swept);
        }
        let expired_at = self.shared.expired_at();
        let caps = Caps::of(&self.shared.settings);
        let room = at_hand(&mut self.rooms, engine, prefix)?;
        let mut kept = None;
        for entry in entries {
            let (offset, value) = entry?;
            if swept.removed == limit {
                swept.more = true;
                kept = Some(offset);
                break;
            }
            if let Some(message) = Message::head(&value) {
                let expired = expired_at.is_some_and(|at| message.timestamp_ms <= at);
                if !expired && caps.keep(&message, room.head.last_ordinal, room.head.last_bytes) {
                    kept = Some(offset);
                    break;
                }
                room.head.removed_seq = room.head.removed_seq.max(message.seq);
                room.trimmed_ordinal = room.trimmed_ordinal.max(message.ordinal);
            }
            batch.remove(&engine.messages, key::message(prefix, offset));
            swept.removed += 1;
        }
        swept.empty = kept.is_none();
        if swept.removed > 0 {
            room.head.first_offset = kept.unwrap_or(room.head.last_offset.saturating_add(1));
            // With the messages goes the memory of their counters: it moves to the room's entry, in the same group.
            batch.insert(&engine.rooms, prefix, room.head.encode());
        }
        Ok(swept)
    }

    fn sweep_sessions(&mut self, engine: &Engine, after: &[u8]) -> Result<Stage, HistoryError> {
        let mut batch = engine.batch(false);
        let mut cursor = None;
        let sessions = engine.sessions.range::<&[u8], _>((Bound::Excluded(after), Bound::Unbounded));
        for guard in sessions.take(SESSIONS_PER_SLICE) {
            let (pid, value) = guard.into_inner()?;
            let dead = decode_session_expiry(&value)
                .is_none_or(|(generation, expires_at)| session_expired(&self.shared, generation, expires_at));
            if dead {
                batch.remove(&engine.sessions, pid.clone());
            }
            cursor = Some(pid.to_vec());
        }
        if !batch.is_empty() {
            self.store(batch)?;
        }
        Ok(cursor.map_or(Stage::Rest, Stage::Sessions))
    }
}

struct SweptRoom {
    removed: usize,
    /// The limit was reached before the end of what must go.
    more: bool,
    /// Nothing is left.
    empty: bool,
}
