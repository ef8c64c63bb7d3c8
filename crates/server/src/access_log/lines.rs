//! A worker's end of the access log.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_metrics::Counter;

use super::output::{Batch, Output, Work};
use super::{Entry, Log};
use crate::timestamp::Timestamp;

/// A buffer of this size is given to the writer, bytes.
const FLUSH_BYTES: usize = 32 * 1024;

/// A worker's lines that have not been given to the writer yet.
pub(crate) struct Lines {
    /// One for each output that the worker has written to lately.
    pending: RefCell<Vec<Pending>>,
    timestamp: RefCell<Timestamp>,
    sender: Option<SyncSender<Work>>,
    dropped: Counter,
    queue_lines: u64,
}

struct Pending {
    output: Arc<Output>,
    text: Vec<u8>,
    lines: u64,
}

impl Lines {
    pub(super) fn new(sender: Option<SyncSender<Work>>, dropped: Counter, queue_lines: u64) -> Self {
        Self { pending: RefCell::default(), timestamp: RefCell::default(), sender, dropped, queue_lines }
    }

    /// Adds a line to a log, if there is one.
    pub fn write(&self, log: Option<&Log>, entry: &Entry<'_>) {
        let (Some(log), Some(sender)) = (log, &self.sender) else { return };
        let mut all = self.pending.borrow_mut();
        let index = all.iter().position(|pending| Arc::ptr_eq(&pending.output, &log.output)).unwrap_or_else(|| {
            all.push(Pending { output: log.output.clone(), text: Vec::new(), lines: 0 });
            all.len() - 1
        });
        let Some(pending) = all.get_mut(index) else { return };
        if pending.text.capacity() == 0 {
            pending.text.reserve_exact(FLUSH_BYTES + 4 * 1024);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        log.format.write(&mut pending.text, entry, &log.upstream, now, &mut self.timestamp.borrow_mut());
        pending.lines += 1;
        if pending.text.len() >= FLUSH_BYTES {
            self.give(pending, sender);
        }
    }

    /// Gives everything to the writer. Called often; forgets the outputs that nothing was written to meanwhile, so that a
    /// file which a reload left behind is closed.
    pub fn flush(&self) {
        let Some(sender) = &self.sender else { return };
        self.pending.borrow_mut().retain_mut(|pending| {
            let used = pending.lines > 0;
            if used {
                self.give(pending, sender);
            }
            used
        });
    }

    fn give(&self, pending: &mut Pending, sender: &SyncSender<Work>) {
        let lines = std::mem::take(&mut pending.lines);
        let output = &pending.output;
        let waiting = output.waiting.load(Ordering::Relaxed);
        // One buffer is always taken, however short the queue may be.
        if waiting > 0 && waiting.saturating_add(lines) > self.queue_lines {
            self.dropped.inc_by(lines);
            pending.text.clear();
            return;
        }
        output.waiting.fetch_add(lines, Ordering::Relaxed);
        let batch = Batch { output: output.clone(), text: std::mem::take(&mut pending.text), lines };
        match sender.try_send(Work::Write(batch)) {
            Ok(()) => {}
            Err(TrySendError::Full(work) | TrySendError::Disconnected(work)) => {
                output.waiting.fetch_sub(lines, Ordering::Relaxed);
                self.dropped.inc_by(lines);
                if let Work::Write(mut batch) = work {
                    batch.text.clear();
                    pending.text = batch.text;
                }
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}
