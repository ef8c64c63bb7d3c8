use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tidegate_hub::{Pid, SessionRecord, SpaceStart};
use tidegate_types::{Millis, Publication, RoomKey, SpaceKey};

/// Where the persistent messages, the counters and the session records of this node live.
///
/// Writes are queued ([`History::submit`]) and stored by one writer thread in groups; what became of them is told to the
/// [`OnWritten`] given at open. Reads and the calls that wait for the writer block for the time of a disk access: async
/// callers use `spawn_blocking`. None of the blocking calls may be made from inside [`OnWritten`]: it runs on the writer
/// thread, which would wait for itself.
///
/// No read returns a message that is past its TTL or beyond its room's cap, whether it has been swept yet or not.
pub trait History: Send + Sync + 'static {
    /// Every space known to the store, in the state in which the hub must continue. Called once, at start.
    ///
    /// # Errors
    /// The store cannot be read.
    fn load(&self) -> Result<Vec<(SpaceKey, SpaceStart)>, HistoryError>;

    /// The space's start; a space not seen before gets a new epoch, stored before this returns.
    ///
    /// # Errors
    /// The epoch could not be stored, or the store is closed.
    fn open_space(&self, key: &SpaceKey) -> Result<SpaceStart, HistoryError>;

    /// Queues a write; never blocks. Writes of one space are stored in the order of their submission.
    ///
    /// # Errors
    /// The queue is full (wait for [`History::queue_ready`], then submit again), or the store is closed.
    fn submit(&self, write: Write) -> Result<(), Full>;

    /// Resolves when the queue has room again. After a close it never resolves: nothing can be written any more.
    fn queue_ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Up to `limit` messages of the room with an offset above `after_offset`, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    fn read(&self, room: &RoomKey, after_offset: u64, limit: usize) -> Result<Vec<Arc<Publication>>, HistoryError>;

    /// The newest `limit` messages of the room (below `before_offset`, if given), oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    fn tail(
        &self,
        room: &RoomKey,
        before_offset: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Arc<Publication>>, HistoryError>;

    /// Up to `limit` messages of the room with a sequence number above `after_seq`, oldest first; `None` if some of them
    /// may be gone (too old, or over one of the room's caps): what is left would look complete and is not.
    ///
    /// # Errors
    /// The store cannot be read.
    fn read_seq(
        &self,
        room: &RoomKey,
        after_seq: u64,
        limit: usize,
    ) -> Result<Option<Vec<Arc<Publication>>>, HistoryError>;

    /// The first and the last offset that a read of the room could return now; `None` when there is none.
    fn bounds(&self, room: &RoomKey) -> Option<(u64, u64)>;

    /// The session's record, unless it has expired.
    ///
    /// # Errors
    /// The store cannot be read.
    fn session(&self, pid: &Pid) -> Result<Option<SessionRecord>, HistoryError>;

    /// False from a failed write (or a writer that hangs) until a write succeeds again.
    fn healthy(&self) -> bool;

    /// Counters since the start, for metrics.
    fn stats(&self) -> HistoryStats;

    /// Clean stop: everything queued is stored, then the spaces' exact heads, floors and rings, then the mark that the
    /// store was closed. Later submits are refused.
    ///
    /// # Errors
    /// Something could not be stored; the next start is then an unclean one.
    fn close(&self, spaces: Vec<(SpaceKey, SpaceStart)>) -> Result<(), HistoryError>;
}

/// Something to store.
#[derive(Clone, Debug)]
pub enum Write {
    /// A persistent message. It must have a position.
    Append(Arc<Publication>),
    /// No sequence number (and hence no offset) above `upto` is handed out before this is stored.
    Reserve {
        /// The space.
        space: Arc<SpaceKey>,
        /// The highest sequence number that may be handed out.
        upto: u64,
    },
    /// A session's record, replacing the one with the same pid.
    SaveSession(SessionRecord),
    /// The session is over.
    DropSession(Pid),
}

impl Write {
    /// Bytes that the write holds while it waits, for the bound of the queue. An estimate; never below the payload.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Append(publication) => publication.payload_bytes().saturating_add(256),
            Self::Reserve { .. } | Self::DropSession(_) => 128,
            Self::SaveSession(record) => record.rooms.len().saturating_mul(64).saturating_add(512),
        }
    }
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// The message is in the operating system's hands: it survives kill -9 of this process.
    Appended {
        /// The space.
        space: Arc<SpaceKey>,
        /// The message's sequence number.
        seq: u64,
    },
    /// The message is as durable as the fsync policy promises; its sender may be told. Never before `Appended`.
    Synced {
        /// The space.
        space: Arc<SpaceKey>,
        /// The message's sequence number.
        seq: u64,
    },
    /// The reservation is stored. A reservation that fails is tried again until it is stored.
    Reserved {
        /// The space.
        space: Arc<SpaceKey>,
        /// As asked.
        upto: u64,
    },
    /// What became of a session's record is decided: it is stored, or (with a log line) it never will be. Exactly one
    /// for each [`Write::SaveSession`], in their order.
    Saved {
        /// The session.
        pid: Pid,
    },
    /// The message was not stored and will not be found by any read.
    Failed {
        /// The space.
        space: Arc<SpaceKey>,
        /// The message's sequence number.
        seq: u64,
        /// Why, for the log.
        error: String,
    },
}

/// Called on the writer thread after each group commit, with everything that the group decided, in order.
pub type OnWritten = Arc<dyn Fn(&[Written]) + Send + Sync>;

/// Milliseconds since the Unix epoch, now.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// The queue has no room, or the store is closed. The write was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the history's queue is full or closed")]
pub struct Full;

/// When data is forced from the operating system to the disk. Kill -9 of the process loses nothing under any of these;
/// a power cut or a kernel crash may lose what was not forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// In each group commit, before anything is reported.
    Always,
    /// Every so many milliseconds, if anything was written.
    Interval(u64),
    /// When the operating system likes.
    Never,
}

/// How a history keeps its messages.
#[derive(Clone)]
pub struct HistorySettings {
    /// A message older than this is not returned any more, ms.
    pub ttl_ms: u64,
    /// The newest so many persistent messages of a room are kept.
    pub max_messages_per_room: usize,
    /// The newest messages of a room are kept as long as those after each have together less than this, payload bytes;
    /// so the newest one is always kept.
    pub max_bytes_per_room: u64,
    /// When data is forced to disk.
    pub fsync: Fsync,
    /// Bytes that may wait for the writer; one write more than this is accepted, so that a large one is not stuck.
    pub queue_bytes: usize,
    /// Writes that may wait for the writer.
    pub queue_items: usize,
    /// `MemoryHistory` only: bytes of messages kept over all rooms; the oldest go first.
    pub memory_bytes: usize,
    /// Rooms whose counters are remembered per space; above it, rooms without messages are forgotten. The hub starts a
    /// room that the store does not name at the space's `last_seq`, which covers every offset of the forgotten one.
    pub max_rooms_per_space: usize,
    /// A session that was connected when the process died may be claimed this long after the next start, ms.
    pub session_grace_ms: u64,
    /// The time. Messages' ages are judged by it.
    pub clock: Clock,
}

impl Default for HistorySettings {
    fn default() -> Self {
        Self {
            ttl_ms: 3_600_000,
            max_messages_per_room: 1_000,
            max_bytes_per_room: 16 * 1024 * 1024,
            fsync: Fsync::Interval(1_000),
            queue_bytes: 8 * 1024 * 1024,
            queue_items: 16_384,
            memory_bytes: 64 * 1024 * 1024,
            max_rooms_per_space: 100_000,
            session_grace_ms: 120_000,
            clock: system_clock(),
        }
    }
}

impl std::fmt::Debug for HistorySettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistorySettings")
            .field("ttl_ms", &self.ttl_ms)
            .field("max_messages_per_room", &self.max_messages_per_room)
            .field("max_bytes_per_room", &self.max_bytes_per_room)
            .field("fsync", &self.fsync)
            .field("queue_bytes", &self.queue_bytes)
            .finish_non_exhaustive()
    }
}

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryStats {
    /// Group commits.
    pub commits: u64,
    /// Messages stored.
    pub appended: u64,
    /// Messages that could not be stored.
    pub failed: u64,
    /// Messages removed because of their age or their room's cap.
    pub removed: u64,
    /// Values that could not be read and were skipped.
    pub corrupt: u64,
    /// Writes that wait now.
    pub queued_items: usize,
    /// Bytes that wait now.
    pub queued_bytes: usize,
}

/// Why a history cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Another process has the directory.
    #[error("the history store {} is in use by another process", .dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The directory was written by a version that this one does not understand.
    #[error("the history store {} has format {found}; this version reads format {known}", .dir.display())]
    Version {
        /// The store's directory.
        dir: PathBuf,
        /// The format found.
        found: u64,
        /// The format that this version reads and writes.
        known: u64,
    },
    /// The directory cannot be made or opened.
    #[error("the history store {} cannot be opened: {reason}", .dir.display())]
    Open {
        /// The store's directory.
        dir: PathBuf,
        /// What the store said.
        reason: String,
    },
    /// A read or a write failed.
    #[error("the history store failed: {0}")]
    Store(String),
    /// The store was closed.
    #[error("the history store is closed")]
    Closed,
}
