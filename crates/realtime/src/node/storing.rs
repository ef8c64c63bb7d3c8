//! What is written to the history, and who waits for it.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tidegate_cluster::{Write, Written};
use tidegate_hub::Pid;
use tidegate_metrics::DropReason;
use tokio::sync::oneshot;

use super::{Node, SpaceCell};

/// Session records on their way to the store, by pid, in their order, and who waits for each.
pub(super) type Saving = FxHashMap<Pid, VecDeque<SmallVec<[oneshot::Sender<()>; 1]>>>;

impl Node {
    pub(super) fn saving(&self) -> MutexGuard<'_, Saving> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest record on its way for the session has arrived, or never will.
    fn saved(&self, pid: &Pid) {
        let mut saving = self.saving();
        let Some(records) = saving.get_mut(pid) else { return };
        let waiting = records.pop_front();
        if records.is_empty() {
            saving.remove(pid);
        }
        drop(saving);
        for waiting in waiting.into_iter().flatten() {
            let _ = waiting.send(());
        }
    }

    /// Resolves when the last record that is on its way for the session has arrived, or never will; `None` if none is.
    pub(crate) fn when_saved(&self, pid: &Pid) -> Option<oneshot::Receiver<()>> {
        let mut saving = self.saving();
        let last = saving.get_mut(pid)?.back_mut()?;
        let (sender, receiver) = oneshot::channel();
        last.push(sender);
        Some(receiver)
    }

    /// The broker cannot be reached: nobody waits for what is on its way.
    pub(crate) fn wait_for_no_record(&self) {
        let waiting: Vec<_> = self.saving().values_mut().flatten().map(std::mem::take).collect();
        drop(waiting);
    }

    pub(super) fn submit(&self, cell: &SpaceCell, write: Write) {
        let seq = match &write {
            Write::Append(publication) => Some(publication.seq),
            Write::Reserve { .. } | Write::SaveSession(_) | Write::DropSession(_) => None,
        };
        let pid = match &write {
            Write::SaveSession(record) => Some(record.pid.clone()),
            Write::Append(_) | Write::Reserve { .. } | Write::DropSession(_) => None,
        };
        if self.history.submit(write).is_ok() {
            return;
        }
        self.metrics.store_errors.inc();
        if let Some(seq) = seq {
            self.append_failed(cell, seq);
        }
        if let Some(pid) = pid {
            // It was the last to go; nobody waits for it any more.
            let mut saving = self.saving();
            if let Some(records) = saving.get_mut(&pid) {
                records.pop_back();
                if records.is_empty() {
                    saving.remove(&pid);
                }
            }
        }
        // A reservation is asked for again by the space itself.
    }

    fn append_failed(&self, cell: &SpaceCell, seq: u64) {
        cell.metrics.dropped(DropReason::StoreFailed).inc();
        self.with_space(cell, |space, effects| space.append_failed(seq, effects));
        self.settle(cell, seq, false);
    }

    fn settle(&self, cell: &SpaceCell, seq: u64, durable: bool) {
        if let Some(bridge) = &cell.bridge {
            bridge.settled(seq, durable);
        }
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&(cell.index, seq));
        for waiting in waiting.into_iter().flatten() {
            // The sender may have gone; then nobody waits for its ack.
            let _ = waiting.send(durable);
        }
    }

    pub(super) fn written(&self, written: &[Written]) {
        for one in written {
            let key = match one {
                Written::Appended { space, .. }
                | Written::Synced { space, .. }
                | Written::Reserved { space, .. }
                | Written::Failed { space, .. } => space,
                Written::Saved { pid } => {
                    self.saved(pid);
                    continue;
                }
            };
            let Some(cell) = self.known(key) else { continue };
            match one {
                Written::Appended { seq, .. } => {
                    cell.metrics.messages_persisted.inc();
                    self.with_space(&cell, |space, effects| space.appended(*seq, effects));
                }
                Written::Synced { seq, .. } => self.settle(&cell, *seq, true),
                Written::Reserved { upto, .. } => {
                    self.with_space(&cell, |space, effects| space.reserved(*upto, effects));
                }
                Written::Failed { seq, error, .. } => {
                    tracing::error!(%error, "the history store refused a message");
                    self.append_failed(&cell, *seq);
                }
                Written::Saved { .. } => {}
            }
        }
    }
}
