//! How long to wait before the next try.

use std::cell::Cell;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(2);

/// Random numbers that need not be secret: many processes must not try at the same moments.
pub(super) struct Dice(Cell<u64>);

impl Dice {
    pub(super) fn new() -> Self {
        // Without randomness the process is told apart by nothing; then it waits like its neighbours.
        Self(Cell::new(getrandom::u64().unwrap_or(0) | 1))
    }

    /// xorshift64*.
    fn roll(&self) -> u64 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Between a half of it and the whole.
    pub(super) fn jitter(&self, most: Duration) -> Duration {
        let half = most / 2;
        let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(self.roll() % (micros + 1))
    }
}

/// Tries that failed in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    /// How long to wait now: twice as long as before at most, up to two seconds.
    pub(super) fn next(&mut self, dice: &Dice) -> Duration {
        let most = FIRST.saturating_mul(1 << self.0.min(10)).min(LAST);
        self.0 = self.0.saturating_add(1);
        dice.jitter(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_two_seconds_and_differ() {
        let (dice, mut backoff) = (Dice::new(), Backoff::default());
        let waits: Vec<_> = (0..20).map(|_| backoff.next(&dice)).collect();
        for (index, wait) in waits.iter().enumerate() {
            let most = FIRST.saturating_mul(1 << index.min(10)).min(LAST);
            assert!(*wait >= most / 2 && *wait <= most, "{index}: {wait:?}");
        }
        assert!(waits.windows(2).skip(8).any(|pair| pair[0] != pair[1]));
    }
}
