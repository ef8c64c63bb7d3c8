use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch that never step back, comparable between processes of one machine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Instant,
    base_us: u64,
}

impl Clock {
    /// Reads the wall clock once; from here on only the monotonic clock is asked.
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { base: Instant::now(), base_us: u64::try_from(since_epoch.as_micros()).unwrap_or(0) }
    }

    /// Now, in microseconds.
    pub fn now_us(&self) -> u64 {
        self.base_us + u64::try_from(self.base.elapsed().as_micros()).unwrap_or(0)
    }
}
