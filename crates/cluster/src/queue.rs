//! The bounded way to the writer thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tidegate_hub::SpaceStart;
use tidegate_types::SpaceKey;
use tokio::sync::Notify;

use crate::history::{Full, HistoryError, HistoryStats, Write};

/// A commit that takes longer than this makes the store unhealthy: the engine blocks inside it when it cannot flush.
const HUNG_AFTER: Duration = Duration::from_secs(10);

/// A call that waits for the writer. Bounded by the number of threads that can wait.
pub(crate) enum Control {
    /// See `History::open_space`.
    OpenSpace(SpaceKey, mpsc::SyncSender<Result<SpaceStart, HistoryError>>),
    /// Sweep everything now.
    Sweep(mpsc::SyncSender<()>),
    /// See `History::close`.
    Close(Vec<(SpaceKey, SpaceStart)>, mpsc::SyncSender<Result<(), HistoryError>>),
}

/// What the writer does next.
pub(crate) enum Work {
    /// Store the writes that were put into the buffer, then answer the controls.
    Batch,
    /// Nothing came within the timeout.
    Idle,
    /// Everything was taken and no more will come.
    Stop,
}

#[derive(Default)]
struct State {
    writes: Vec<Write>,
    controls: Vec<Control>,
    /// Waiting and in the batch under way: both hold memory.
    bytes: usize,
    items: usize,
    /// The writer sleeps; a submit must wake it.
    idle: bool,
    closed: bool,
    stop: bool,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    ready: Notify,
    max_bytes: usize,
    max_items: usize,
    pub(crate) counters: Counters,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) appended: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) removed: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    pub(crate) unhealthy: AtomicBool,
    busy_since: Mutex<Option<Instant>>,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, by: usize) {
        counter.fetch_add(by as u64, Ordering::Relaxed);
    }

    pub(crate) fn busy(&self, busy: bool) {
        *lock(&self.busy_since) = busy.then(Instant::now);
    }

    pub(crate) fn healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Acquire)
            && lock(&self.busy_since).is_none_or(|since| since.elapsed() < HUNG_AFTER)
    }
}

/// A poisoned lock means that another thread panicked; the data under our locks is valid after every statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    pub(crate) fn new(max_bytes: usize, max_items: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            ready: Notify::new(),
            max_bytes: max_bytes.max(1),
            max_items: max_items.max(1),
            counters: Counters::default(),
        })
    }

    fn has_room(&self, state: &State) -> bool {
        state.bytes < self.max_bytes && state.items < self.max_items
    }

    pub(crate) fn submit(&self, write: Write) -> Result<(), Full> {
        let weight = write.weight();
        let mut state = lock(&self.state);
        if state.closed || !self.has_room(&state) {
            return Err(Full);
        }
        state.bytes = state.bytes.saturating_add(weight);
        state.items += 1;
        state.writes.push(write);
        if std::mem::take(&mut state.idle) {
            drop(state);
            self.work.notify_one();
        }
        Ok(())
    }

    pub(crate) fn control(&self, control: Control) -> Result<(), HistoryError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(HistoryError::Closed);
        }
        if matches!(control, Control::Close(..)) {
            state.closed = true;
        }
        state.controls.push(control);
        state.idle = false;
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Sends a control built around a reply channel and waits for the reply.
    pub(crate) fn ask<T>(&self, control: impl FnOnce(mpsc::SyncSender<T>) -> Control) -> Result<T, HistoryError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.control(control(sender))?;
        receiver.recv().map_err(|_| HistoryError::Closed)
    }

    pub(crate) fn ready(self: &Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let queue = Arc::clone(self);
        Box::pin(async move {
            loop {
                let notified = queue.ready.notified();
                tokio::pin!(notified);
                // Registered before the look, so that room made in between is not missed.
                notified.as_mut().enable();
                let has_room = {
                    let state = lock(&queue.state);
                    !state.closed && queue.has_room(&state)
                };
                if has_room {
                    return;
                }
                notified.await;
            }
        })
    }

    /// Takes all that waits. `writes` and `controls` come in empty; their capacity is used for the next batch.
    pub(crate) fn take(&self, writes: &mut Vec<Write>, controls: &mut Vec<Control>, timeout: Duration) -> Work {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.state);
        while state.writes.is_empty() && state.controls.is_empty() {
            if state.stop {
                return Work::Stop;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                state.idle = false;
                return Work::Idle;
            };
            state.idle = true;
            state = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.idle = false;
        std::mem::swap(&mut state.writes, writes);
        std::mem::swap(&mut state.controls, controls);
        Work::Batch
    }

    /// The batch is through: its memory is free.
    pub(crate) fn done(&self, items: usize, bytes: usize) {
        let mut state = lock(&self.state);
        let was_full = !self.has_room(&state);
        state.items = state.items.saturating_sub(items);
        state.bytes = state.bytes.saturating_sub(bytes);
        let now_ready = was_full && self.has_room(&state);
        drop(state);
        if now_ready {
            self.ready.notify_waiters();
        }
    }

    /// Lets the writer end after what has been queued. Nothing is taken from now on.
    pub(crate) fn stop(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.stop = true;
        drop(state);
        self.work.notify_one();
    }

    /// The writer is gone: callers that wait get an error, not silence.
    pub(crate) fn abandon(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.writes.clear();
        state.controls.clear();
    }

    pub(crate) fn stats(&self) -> HistoryStats {
        let (queued_items, queued_bytes) = {
            let state = lock(&self.state);
            (state.items, state.bytes)
        };
        HistoryStats {
            commits: self.counters.commits.load(Ordering::Relaxed),
            appended: self.counters.appended.load(Ordering::Relaxed),
            failed: self.counters.failed.load(Ordering::Relaxed),
            removed: self.counters.removed.load(Ordering::Relaxed),
            corrupt: self.counters.corrupt.load(Ordering::Relaxed),
            queued_items,
            queued_bytes,
        }
    }
}
