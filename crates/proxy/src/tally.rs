//! What a server did since its tally was last taken: counted by the workers, compared by [`crate::Upstream::watch`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate_balance::Tally;

#[derive(Debug, Default)]
pub(crate) struct Tallies {
    requests: AtomicU64,
    failures: AtomicU64,
    answers: AtomicU64,
    latency_us: AtomicU64,
}

impl Tallies {
    /// The server answered with that status, so long after the try was begun.
    pub(crate) fn answered(&self, status: u16, time: Duration) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.latency_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(0), Ordering::Relaxed);
        if status >= 500 {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The server did not answer.
    pub(crate) fn failed(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The body of an answer that was counted broke off.
    pub(crate) fn broke_off(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted; begins anew.
    pub(crate) fn take(&self) -> Tally {
        Tally {
            requests: self.requests.swap(0, Ordering::Relaxed),
            failures: self.failures.swap(0, Ordering::Relaxed),
            answers: self.answers.swap(0, Ordering::Relaxed),
            latency_us: self.latency_us.swap(0, Ordering::Relaxed),
        }
    }
}
