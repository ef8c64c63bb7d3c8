//! The history on disk: an LSM tree (fjall) whose journal takes each group commit with one sequential write.
//!
//! Trees: `messages` (room prefix + offset), `rooms` (what is remembered of each room), `sessions`, `state` (meta, spaces,
//! saved rings). An append writes the message alone: counters are recovered from the last message of each room, so that
//! no counter needs a write of its own, and `seq` needs no index, because it grows with the offset inside a room.
//!
//! `read` answers readers on their own threads, `commit` and `sweep` belong to the writer thread, `open` decides what an
//! earlier process's end means, `journal` looks for a damaged end.

mod commit;
mod engine;
mod journal;
mod key;
mod open;
mod read;
mod sweep;
#[cfg(test)]
mod tests;
mod value;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustc_hash::FxHashMap;
use tidegate_hub::{Pid, SessionRecord, SpaceStart};
use tidegate_types::{Epoch, Millis, Publication, RoomKey, SpaceKey};

use self::engine::Engine;
use crate::history::{Full, History, HistoryError, HistorySettings, HistoryStats, OnWritten, Write};
use crate::queue::{Control, Queue};
use crate::writer::Writer;

/// The history of `store.kind = "embedded"`.
pub struct EmbeddedHistory {
    shared: Arc<Shared>,
    _writer: Writer,
}

/// What readers and the writer share.
struct Shared {
    dir: PathBuf,
    settings: HistorySettings,
    queue: Arc<Queue>,
    /// `None` while a store that failed is being opened again.
    engine: RwLock<Option<Arc<Engine>>>,
    epochs: RwLock<FxHashMap<SpaceKey, Epoch>>,
    generation: u64,
    opened_at: Millis,
    /// The process before this one closed the store.
    was_clean: bool,
    loaded: AtomicBool,
}

impl Shared {
    fn now(&self) -> Millis {
        (self.settings.clock)()
    }

    fn engine(&self) -> Result<Arc<Engine>, HistoryError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        engine.clone().ok_or_else(|| HistoryError::Store("it is being opened again after a failure".into()))
    }

    fn set_engine(&self, engine: Option<Arc<Engine>>) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = engine;
    }

    fn epoch(&self, space: &SpaceKey) -> Option<Epoch> {
        self.epochs.read().unwrap_or_else(PoisonError::into_inner).get(space).copied()
    }

    fn set_epoch(&self, space: SpaceKey, epoch: Epoch) {
        self.epochs.write().unwrap_or_else(PoisonError::into_inner).insert(space, epoch);
    }

    /// Messages at or below this time have expired.
    fn expired_at(&self) -> Option<Millis> {
        self.now().checked_sub(self.settings.ttl_ms)
    }

    /// Counts a value that cannot be read. Logged at each power of two: a damaged table must not fill the log.
    fn corrupt(&self, what: &'static str) {
        let before = self.queue.counters.corrupt.fetch_add(1, Ordering::Relaxed);
        if (before + 1).is_power_of_two() {
            tracing::warn!(dir = %self.dir.display(), what, count = before + 1, "skipped a corrupt value in the history store");
        }
    }
}

impl EmbeddedHistory {
    /// Opens the store in `dir`, which is made (mode 0700) if missing and belongs to this process until the close.
    ///
    /// A torn end of the journal is cut off with a line in the log. After an unclean end on another boot of the machine
    /// (unless `fsync` is `Always`) or with a damaged journal, every space gets a new epoch.
    ///
    /// # Errors
    /// Another process has the directory, it was written by an unknown version, or it cannot be made or read.
    pub fn open(dir: &Path, settings: HistorySettings, on_written: OnWritten) -> Result<Self, HistoryError> {
        let (shared, backend) = open::open(dir, settings)?;
        let writer = Writer::start(Arc::clone(&shared.queue), backend, on_written)?;
        Ok(Self { shared, _writer: writer })
    }

    /// Removes everything expired or over its cap now instead of in the background, and waits for it.
    ///
    /// # Errors
    /// The store is closed.
    pub fn sweep(&self) -> Result<(), HistoryError> {
        self.shared.queue.ask(Control::Sweep)
    }
}

impl History for EmbeddedHistory {
    fn load(&self) -> Result<Vec<(SpaceKey, SpaceStart)>, HistoryError> {
        let first = !self.shared.loaded.swap(true, Ordering::AcqRel);
        open::load(&self.shared, first)
    }

    fn open_space(&self, key: &SpaceKey) -> Result<SpaceStart, HistoryError> {
        self.shared.queue.ask(|reply| Control::OpenSpace(key.clone(), reply))?
    }

    fn submit(&self, write: Write) -> Result<(), Full> {
        self.shared.queue.submit(write)
    }

    fn queue_ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.shared.queue.ready()
    }

    fn read(&self, room: &RoomKey, after_offset: u64, limit: usize) -> Result<Vec<Arc<Publication>>, HistoryError> {
        read::read(&self.shared, room, after_offset, limit)
    }

    fn tail(
        &self,
        room: &RoomKey,
        before_offset: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Arc<Publication>>, HistoryError> {
        read::tail(&self.shared, room, before_offset, limit)
    }

    fn read_seq(
        &self,
        room: &RoomKey,
        after_seq: u64,
        limit: usize,
    ) -> Result<Option<Vec<Arc<Publication>>>, HistoryError> {
        read::read_seq(&self.shared, room, after_seq, limit)
    }

    fn bounds(&self, room: &RoomKey) -> Option<(u64, u64)> {
        // A store that cannot be read has nothing to offer; the read that follows says why.
        read::bounds(&self.shared, room).unwrap_or_default()
    }

    fn session(&self, pid: &Pid) -> Result<Option<SessionRecord>, HistoryError> {
        read::session(&self.shared, pid)
    }

    fn healthy(&self) -> bool {
        self.shared.queue.counters.healthy()
    }

    fn stats(&self) -> HistoryStats {
        self.shared.queue.stats()
    }

    fn close(&self, spaces: Vec<(SpaceKey, SpaceStart)>) -> Result<(), HistoryError> {
        let result = self.shared.queue.ask(|reply| Control::Close(spaces, reply))?;
        self.shared.set_engine(None);
        result
    }
}
