//! Where persistent messages are kept.

use std::path::PathBuf;
use std::time::Duration;

/// Where persistent messages are kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Where.
    pub kind: StoreKind,
    /// How long a message is kept.
    pub ttl: Duration,
    /// How many messages of one room are kept.
    pub max_messages_per_room: usize,
    /// How many payload bytes of one room are kept.
    pub max_bytes_per_room: usize,
    /// The most bytes that wait for the writer.
    pub queue_bytes: usize,
}

/// In memory, an hour, 1,000 messages or 16 MiB a room.
impl Default for Store {
    fn default() -> Self {
        Self {
            kind: StoreKind::Memory,
            ttl: Duration::from_secs(3600),
            max_messages_per_room: 1_000,
            max_bytes_per_room: 16 << 20,
            queue_bytes: 64 << 20,
        }
    }
}

/// Where persistent messages are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Until the process ends.
    Memory,
    /// On this machine's disk.
    Embedded {
        /// The directory, relative to the working directory.
        path: PathBuf,
        /// When it is flushed to the disk.
        fsync: Fsync,
    },
}

/// When the store is flushed to the disk. A killed process loses nothing in any case; this is about the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before a message is acknowledged.
    Always,
    /// Every so often.
    Interval(Duration),
    /// When the operating system likes.
    Never,
}
