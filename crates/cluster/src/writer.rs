//! The group-commit thread: takes all that waits, stores it at once, reports it with one call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tidegate_hub::SpaceStart;
use tidegate_types::SpaceKey;

use crate::history::{HistoryError, OnWritten, Write, Written};
use crate::queue::{Control, Counters, Queue, Work};

/// What differs between the stores. All calls come from the writer thread.
pub(crate) trait Backend: Send + 'static {
    /// Stores the writes as one group and says what became of each, in order.
    fn commit(&mut self, writes: &[Write], written: &mut Vec<Written>);
    /// Housekeeping in a small slice, after each group and whenever the returned time has passed without one.
    fn tick(&mut self, written: &mut Vec<Written>) -> Duration;
    /// See `History::open_space`.
    fn open_space(&mut self, key: &SpaceKey) -> Result<SpaceStart, HistoryError>;
    /// Removes everything expired or over its cap now.
    fn sweep(&mut self);
    /// See `History::close`; the queue has been drained.
    fn close(&mut self, spaces: Vec<(SpaceKey, SpaceStart)>) -> Result<(), HistoryError>;
}

/// Whatever way the thread ends, nobody may wait for it in vain.
struct Farewell(Arc<Queue>);

impl Drop for Farewell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.counters.unhealthy.store(true, Ordering::Release);
        }
        self.0.abandon();
    }
}

pub(crate) struct Writer {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(queue: Arc<Queue>, backend: impl Backend, on_written: OnWritten) -> Result<Self, HistoryError> {
        let for_thread = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("history-writer".into())
            .spawn(move || {
                let farewell = Farewell(for_thread);
                run(&farewell.0, backend, &on_written);
            })
            .map_err(|error| HistoryError::Store(format!("no thread for the writer: {error}")))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Ends the thread after what is queued, and waits for it.
    pub(crate) fn join(&mut self) {
        self.queue.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by the panic hook, and `healthy` is false.
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(queue: &Queue, mut backend: impl Backend, on_written: &OnWritten) {
    let mut writes = Vec::new();
    let mut controls = Vec::new();
    let mut written = Vec::new();
    let mut pause = Duration::ZERO;
    loop {
        match queue.take(&mut writes, &mut controls, pause) {
            Work::Stop => return,
            Work::Idle => {}
            Work::Batch => {
                if !writes.is_empty() {
                    let bytes = writes.iter().map(Write::weight).sum();
                    queue.counters.busy(true);
                    backend.commit(&writes, &mut written);
                    queue.counters.busy(false);
                    count(&queue.counters, &written);
                    let items = writes.len();
                    writes.clear();
                    queue.done(items, bytes);
                }
                report(&mut written, on_written);
                for control in controls.drain(..) {
                    match control {
                        // A caller that has gone does not need its reply.
                        Control::OpenSpace(key, reply) => {
                            let _ = reply.send(backend.open_space(&key));
                        }
                        Control::Sweep(reply) => {
                            backend.sweep();
                            let _ = reply.send(());
                        }
                        Control::Close(spaces, reply) => {
                            let result = backend.close(spaces);
                            // The store's files are released before the caller goes on: it may open them again.
                            drop(backend);
                            let _ = reply.send(result);
                            return;
                        }
                    }
                }
            }
        }
        // One huge group must not hold its buffers for ever.
        writes.shrink_to(4_096);
        written.shrink_to(4_096);
        queue.counters.busy(true);
        pause = backend.tick(&mut written);
        queue.counters.busy(false);
        report(&mut written, on_written);
    }
}

fn count(counters: &Counters, written: &[Written]) {
    let (mut appended, mut failed) = (0, 0);
    for outcome in written {
        match outcome {
            Written::Appended { .. } => appended += 1,
            Written::Failed { .. } => failed += 1,
            Written::Synced { .. } | Written::Reserved { .. } | Written::Saved { .. } => {}
        }
    }
    Counters::add(&counters.appended, appended);
    Counters::add(&counters.failed, failed);
    Counters::add(&counters.commits, 1);
}

fn report(written: &mut Vec<Written>, on_written: &OnWritten) {
    if !written.is_empty() {
        on_written(written);
        written.clear();
    }
}
