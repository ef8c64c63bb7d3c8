//! The storage engine, opened: its trees, and the few questions that both the readers and the writer ask.

use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Slice};

use super::key;
use super::value::{Message, RoomHead};
use crate::history::HistoryError;

/// What a tree keeps in memory before it goes to a table on disk. Up to four of them may wait for the disk.
const MESSAGES_MEMTABLE_BYTES: u64 = 8 << 20;
const SMALL_MEMTABLE_BYTES: u64 = 2 << 20;
const CACHE_BYTES: u64 = 8 << 20;
/// The least that the engine allows.
const JOURNAL_BYTES: u64 = 64 << 20;

/// Handles to the open store. While one of these lives, the directory stays locked.
pub(super) struct Engine {
    pub(super) db: Database,
    /// room prefix + offset → message
    pub(super) messages: Keyspace,
    /// room prefix → [`RoomHead`]
    pub(super) rooms: Keyspace,
    /// pid → session record
    pub(super) sessions: Keyspace,
    /// meta, spaces, saved rings
    pub(super) state: Keyspace,
}

impl From<fjall::Error> for HistoryError {
    fn from(error: fjall::Error) -> Self {
        Self::Store(describe(&error))
    }
}

/// The engine's own text wraps the cause in names of its types; people need the cause.
pub(super) fn describe(error: &fjall::Error) -> String {
    if let fjall::Error::Io(error) = error { error.to_string() } else { error.to_string() }
}

impl Engine {
    pub(super) fn open(dir: &Path) -> Result<Self, HistoryError> {
        let failed = |error: fjall::Error| {
            let dir = dir.to_owned();
            if matches!(error, fjall::Error::Locked) {
                HistoryError::Locked { dir }
            } else {
                HistoryError::Open { dir, reason: describe(&error) }
            }
        };
        // One background thread: flushing and compaction of what a chat server writes is little work, and the workers
        // need the cores.
        let db = Database::builder(dir)
            .worker_threads(1)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .open()
            .map_err(failed)?;
        let tree = |name: &str, bytes: u64| {
            db.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(bytes)).map_err(failed)
        };
        let messages = tree("messages", MESSAGES_MEMTABLE_BYTES)?;
        let rooms = tree("rooms", SMALL_MEMTABLE_BYTES)?;
        let sessions = tree("sessions", SMALL_MEMTABLE_BYTES)?;
        let state = tree("state", SMALL_MEMTABLE_BYTES)?;
        Ok(Self { messages, rooms, sessions, state, db })
    }

    /// An empty group whose commit ends when the operating system (or, with `sync`, the disk) has it.
    pub(super) fn batch(&self, sync: bool) -> fjall::OwnedWriteBatch {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        self.db.batch().durability(Some(mode))
    }

    pub(super) fn head(&self, prefix: &[u8]) -> fjall::Result<Option<RoomHead>> {
        Ok(self.rooms.get(prefix)?.and_then(|value| RoomHead::decode(&value)))
    }

    /// The room's messages with offsets in `from..=to`.
    pub(super) fn range(&self, prefix: &[u8], from: u64, to: u64) -> Entries {
        if from > to {
            return Entries { inner: None };
        }
        Entries { inner: Some(self.messages.range(key::message(prefix, from)..=key::message(prefix, to))) }
    }

    /// The room's newest stored message: its offset and its value's beginning.
    pub(super) fn last(&self, prefix: &[u8], from: u64) -> fjall::Result<Option<(u64, Message)>> {
        for entry in self.range(prefix, from, u64::MAX).rev() {
            let (offset, value) = entry?;
            if let Some(message) = Message::head(&value) {
                return Ok(Some((offset, message)));
            }
        }
        Ok(None)
    }

    /// The room's counters: what is remembered of it, overtaken by what is stored. And whether it is remembered.
    pub(super) fn counters(&self, prefix: &[u8]) -> fjall::Result<(RoomHead, bool)> {
        let remembered = self.head(prefix)?;
        let mut head = remembered.unwrap_or_default();
        if let Some((offset, last)) = self.last(prefix, head.first_offset)? {
            head.last_offset = head.last_offset.max(offset);
            head.last_seq = head.last_seq.max(last.seq);
            head.last_ordinal = head.last_ordinal.max(last.ordinal);
            head.last_timestamp_ms = head.last_timestamp_ms.max(last.timestamp_ms);
            head.last_bytes = head.last_bytes.max(last.end_bytes);
        }
        Ok((head, remembered.is_some()))
    }
}

/// (offset, value) of stored messages. Keys that hold no offset cannot be: they have the room's prefix and its length.
pub(super) struct Entries {
    inner: Option<fjall::Iter>,
}

fn entry(guard: fjall::Guard) -> fjall::Result<(u64, Bytes)> {
    let (key, value): (Slice, Slice) = guard.into_inner()?;
    Ok((key::offset(&key).unwrap_or(0), value.into()))
}

impl Iterator for Entries {
    type Item = fjall::Result<(u64, Bytes)>;
    fn next(&mut self) -> Option<Self::Item> {
        self.inner.as_mut()?.next().map(entry)
    }
}

impl DoubleEndedIterator for Entries {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.inner.as_mut()?.next_back().map(entry)
    }
}
