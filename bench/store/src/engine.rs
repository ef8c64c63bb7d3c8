//! The two stores behind what the history needs of them, with the same keys, values and memory budgets.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{Durability, ReadableDatabase, TableDefinition};

/// Payload bytes of a message.
pub const MESSAGE: usize = 128;
/// Messages go to so many rooms in turn.
pub const ROOMS: u64 = 64;

pub trait Engine {
    /// Stores messages `first..first + count` as one commit.
    fn append(&mut self, first: u64, count: usize, fsync: bool);
    /// Reads up to `limit` messages of the room from its first on; says how many.
    fn replay(&self, room: u64, limit: usize) -> usize;
    /// The highest message number stored.
    fn last(&self) -> u64;
}

/// Length-prefixed tenant, namespace and room, then the offset: as in the product.
fn key(room: u64, offset: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(40);
    for part in ["default", "/", &format!("room-{room:04}")] {
        key.extend_from_slice(&(part.len() as u16).to_be_bytes());
        key.extend_from_slice(part.as_bytes());
    }
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

fn value(seq: u64) -> Vec<u8> {
    let mut value = vec![b'x'; 24 + MESSAGE];
    value[..8].copy_from_slice(&seq.to_be_bytes());
    // Payloads differ, so that no engine gains from equal ones.
    for (at, byte) in value[24..].iter_mut().enumerate() {
        *byte = (seq.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(at as u32) & 0x7f) as u8;
    }
    value
}

fn place(seq: u64) -> (u64, u64) {
    (seq % ROOMS, seq / ROOMS)
}

const STATE: [u8; 4] = *b"last";

pub struct Fjall {
    db: Database,
    messages: Keyspace,
}

impl Fjall {
    pub fn open(dir: &Path) -> Self {
        let db =
            Database::builder(dir).worker_threads(1).cache_size(8 << 20).max_journaling_size(64 << 20).open().unwrap();
        let messages = db.keyspace("messages", || KeyspaceCreateOptions::default().max_memtable_size(8 << 20)).unwrap();
        Self { db, messages }
    }
}

impl Engine for Fjall {
    fn append(&mut self, first: u64, count: usize, fsync: bool) {
        let mode = if fsync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.db.batch().durability(Some(mode));
        for seq in first..first + count as u64 {
            let (room, offset) = place(seq);
            batch.insert(&self.messages, key(room, offset), value(seq));
        }
        batch.insert(&self.messages, STATE, (first + count as u64 - 1).to_be_bytes());
        batch.commit().unwrap();
    }

    fn replay(&self, room: u64, limit: usize) -> usize {
        let mut bytes = 0;
        let read = self.messages.range(key(room, 0)..key(room, u64::MAX)).take(limit).map(|guard| {
            bytes += guard.into_inner().unwrap().1.len();
        });
        read.count()
    }

    fn last(&self) -> u64 {
        let value = self.messages.get(STATE).unwrap();
        value.map_or(0, |value| u64::from_be_bytes(value.as_ref().try_into().unwrap()))
    }
}

const MESSAGES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("messages");

pub struct Redb {
    db: redb::Database,
}

impl Redb {
    pub fn open(dir: &Path) -> Self {
        let db = redb::Builder::new().set_cache_size(16 << 20).create(dir.join("history.redb")).unwrap();
        Self { db }
    }
}

impl Engine for Redb {
    fn append(&mut self, first: u64, count: usize, fsync: bool) {
        let mut transaction = self.db.begin_write().unwrap();
        transaction.set_durability(if fsync { Durability::Immediate } else { Durability::None }).unwrap();
        {
            let mut table = transaction.open_table(MESSAGES).unwrap();
            for seq in first..first + count as u64 {
                let (room, offset) = place(seq);
                table.insert(key(room, offset).as_slice(), value(seq).as_slice()).unwrap();
            }
            table.insert(STATE.as_slice(), (first + count as u64 - 1).to_be_bytes().as_slice()).unwrap();
        }
        transaction.commit().unwrap();
    }

    fn replay(&self, room: u64, limit: usize) -> usize {
        let transaction = self.db.begin_read().unwrap();
        let table = transaction.open_table(MESSAGES).unwrap();
        let (from, to) = (key(room, 0), key(room, u64::MAX));
        let mut bytes = 0;
        let range = table.range(from.as_slice()..to.as_slice()).unwrap();
        range.take(limit).map(|entry| bytes += entry.unwrap().1.value().len()).count()
    }

    fn last(&self) -> u64 {
        let transaction = self.db.begin_read().unwrap();
        let Ok(table) = transaction.open_table(MESSAGES) else { return 0 };
        let value = table.get(STATE.as_slice()).unwrap();
        value.map_or(0, |value| u64::from_be_bytes(value.value().try_into().unwrap()))
    }
}
