//! nginx's status page (ngx_http_stub_status_module), for the scrapers and scripts that read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_metrics::Metrics;

use crate::worker::Worker;

/// What one worker's client connections are doing. Only the worker writes, so that counting is a load and a store; on a
/// cache line of its own, so that workers do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Counts {
    handled: AtomicU64,
    requests: AtomicU64,
    open: AtomicU64,
    /// The head of the first request is awaited.
    reading: AtomicU64,
    /// In an exchange, streams and tunnels included.
    writing: AtomicU64,
    /// Which worker's they are, and of how many.
    worker: u16,
    workers: u16,
}

fn add(count: &AtomicU64, change: i64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add_signed(change), Ordering::Relaxed);
}

impl Counts {
    /// Gives the connection's number, from 1: unlike any other of the process, though the workers count on their own.
    pub fn opened(&self) -> u64 {
        let before = self.handled.load(Ordering::Relaxed);
        add(&self.handled, 1);
        add(&self.open, 1);
        before * u64::from(self.workers) + u64::from(self.worker) + 1
    }

    pub fn closed(&self) {
        add(&self.open, -1);
    }

    pub fn request(&self) {
        add(&self.requests, 1);
    }

    pub fn reading(&self, change: i64) {
        add(&self.reading, change);
    }

    pub fn writing(&self, change: i64) {
        add(&self.writing, change);
    }
}

/// What all workers' connections are doing.
pub(crate) struct Status {
    metrics: Arc<Metrics>,
    workers: Vec<Arc<Counts>>,
}

impl Status {
    pub fn new(metrics: Arc<Metrics>, workers: u16) -> Self {
        let counts = |worker| Arc::new(Counts { worker, workers, ..Counts::default() });
        Self { metrics, workers: (0..workers).map(counts).collect() }
    }

    /// How many workers there are.
    pub fn workers(&self) -> u16 {
        u16::try_from(self.workers.len()).unwrap_or(u16::MAX)
    }

    /// Those of one worker.
    pub fn counts(&self, worker: u16) -> Arc<Counts> {
        self.workers.get(usize::from(worker)).cloned().unwrap_or_default()
    }

    /// The page. As in nginx, a connection that has not sent its first request yet is open; unlike there it is said to be
    /// read from, not to wait, so that a crowd of silent connections is seen.
    pub fn page(&self) -> String {
        let sum = |count: fn(&Counts) -> &AtomicU64| {
            self.workers.iter().map(|worker| count(worker).load(Ordering::Relaxed)).sum::<u64>()
        };
        let (open, reading, writing) =
            (sum(|counts| &counts.open), sum(|counts| &counts.reading), sum(|counts| &counts.writing));
        let (handled, requests) = (sum(|counts| &counts.handled), sum(|counts| &counts.requests));
        // Read apart from each other while they change: none may be seen to be less than nothing.
        let waiting = open.saturating_sub(reading.saturating_add(writing));
        let accepted = self.metrics.http_connections.get().max(handled);
        format!(
            "Active connections: {open} \nserver accepts handled requests\n {accepted} {handled} {requests} \n\
             Reading: {reading} Writing: {writing} Waiting: {waiting} \n"
        )
    }
}

/// The page, for a route that shows it.
pub(crate) fn stub_status(worker: &Worker) -> String {
    worker.status.page()
}
