//! Peak EWMA: a smoothed time to the first byte that rises at once and falls slowly, as in Finagle and linkerd.

use tidegate_types::Millis;

/// An observation's weight is down to 1/e after so long.
const DECAY_MS: f64 = 10_000.0;

/// What a server that was never measured and is being tried is taken for, in microseconds: others are preferred until
/// the first outcome is known.
const UNKNOWN: f64 = 1e12;

/// Kept per server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency {
    micros: f64,
    at: Millis,
    measured: bool,
}

impl Latency {
    pub(super) fn observe(&mut self, micros: u64, now: Millis) {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a request are far below 2^52")]
        let observed = micros as f64;
        let before = self.decayed(now);
        let kept = kept(self.at, now);
        self.micros = if !self.measured || observed > before {
            observed
        } else {
            // Time decides how much an observation says, so that a burst of fast answers does not hide a slow one.
            self.micros * kept + observed * (1.0 - kept)
        };
        self.at = self.at.max(now);
        self.measured = true;
    }

    /// What the next request is expected to take. A server that is not asked any more is forgiven with time, so that it is
    /// asked again.
    pub(super) fn expected(&self, live: u32, now: Millis) -> f64 {
        match (self.measured, live) {
            (true, _) => self.decayed(now),
            (false, 0) => 0.0,
            (false, _) => UNKNOWN,
        }
    }

    pub(super) fn micros(&self, now: Millis) -> Option<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "never negative, and `as` saturates"
        )]
        self.measured.then(|| self.decayed(now) as u64)
    }

    fn decayed(&self, now: Millis) -> f64 {
        self.micros * kept(self.at, now)
    }
}

fn kept(at: Millis, now: Millis) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of an uptime are far below 2^52")]
    let elapsed = now.saturating_sub(at) as f64;
    (-elapsed / DECAY_MS).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_with_time() {
        let mut latency = Latency::default();
        latency.observe(1_000, 0);
        latency.observe(100_000, 10);
        assert_eq!(latency.micros(10), Some(100_000));
        latency.observe(1_000, 20);
        assert!(latency.micros(20).unwrap() > 99_000, "one fast answer right after says little");
        latency.observe(1_000, 30_020);
        assert!(latency.micros(30_020).unwrap() < 7_000, "{:?}", latency.micros(30_020));
        assert!(latency.micros(90_000).unwrap() < 100, "who is not asked is forgiven");
    }
}
