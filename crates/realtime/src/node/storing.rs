//! What is written to the history, and who waits for it.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use tidegate_cluster::{Write, Written};
use tidegate_hub::Pid;
use tidegate_metrics::DropReason;
use tokio::sync::oneshot;

use super::{Node, SpaceCell};

impl Node {
    pub(super) fn saving(&self) -> MutexGuard<'_, FxHashMap<Pid, VecDeque<Option<oneshot::Sender<()>>>>> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest record on its way for the session has arrived, or never will.
    fn saved(&self, pid: &Pid) {
        let mut saving = self.saving();
        let Some(records) = saving.get_mut(pid) else { return };
        let waiting = records.pop_front().flatten();
        if records.is_empty() {
            saving.remove(pid);
        }
        drop(saving);
        if let Some(waiting) = waiting {
            let _ = waiting.send(());
        }
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
        self.settle(cell.index, seq, false);
    }

    fn settle(&self, space: u32, seq: u64, durable: bool) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&(space, seq));
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
                Written::Synced { seq, .. } => self.settle(cell.index, *seq, true),
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
