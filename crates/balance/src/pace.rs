use tidegate_types::Millis;

/// Spreads many small acts (closing streams, moving them, sending clients away) over time, so that those who come back do
/// not all come back at once.
///
/// Each act has its turn at an even distance from the one before; within its turn it comes up to `jitter` percent of the
/// distance later, so that several paces that began together (one per worker, one per gateway) do not beat in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    total: u64,
    done: u64,
    start: Millis,
    /// So many acts in `per_ms`; none stands for all at once.
    count: u64,
    per_ms: u64,
    jitter_percent: u64,
    seed: u64,
}

/// Parts of one act's turn; jitter is counted in them.
const PARTS: u128 = 1 << 20;

impl Pace {
    /// `total` acts, `rate` of them per second; 0 does all at once. `jitter_percent` beyond 100 counts as 100; `seed` is any
    /// random number.
    pub fn per_second(total: u64, rate: u32, jitter_percent: u8, seed: u64, start: Millis) -> Self {
        Self::new(total, u64::from(rate), 1000, jitter_percent, seed, start)
    }

    /// `total` acts, spread over `duration_ms`; 0 does all at once.
    pub fn over(total: u64, duration_ms: u64, jitter_percent: u8, seed: u64, start: Millis) -> Self {
        let count = if duration_ms == 0 { 0 } else { total };
        Self::new(total, count, duration_ms.max(1), jitter_percent, seed, start)
    }

    fn new(total: u64, count: u64, per_ms: u64, jitter_percent: u8, seed: u64, start: Millis) -> Self {
        Self { total, done: 0, start, count, per_ms, jitter_percent: u64::from(jitter_percent.min(100)), seed }
    }

    /// How many acts are due now and have not been asked for before. The caller does them.
    pub fn due(&mut self, now: Millis) -> u64 {
        let reached = self.reached(now).min(self.total);
        let due = reached.saturating_sub(self.done);
        self.done = self.done.max(reached);
        due
    }

    /// How many acts are still to come.
    pub fn left(&self) -> u64 {
        self.total - self.done
    }

    /// Whether there is nothing left to do.
    pub fn is_done(&self) -> bool {
        self.left() == 0
    }

    /// When the next act is due at the latest; `None` when there is none. For a caller that sleeps instead of ticking.
    pub fn next(&self) -> Option<Millis> {
        if self.is_done() {
            return None;
        }
        if self.count == 0 {
            return Some(self.start);
        }
        let parts = u128::from(self.done) * PARTS + self.delay(self.done);
        let wait = (parts * u128::from(self.per_ms)).div_ceil(u128::from(self.count) * PARTS);
        Some(self.start.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// How many acts of an endless row are due by then.
    fn reached(&self, now: Millis) -> u64 {
        let Some(elapsed) = now.checked_sub(self.start) else { return 0 };
        if self.count == 0 {
            return u64::MAX;
        }
        let parts = u128::from(elapsed) * u128::from(self.count) * PARTS / u128::from(self.per_ms);
        let whole = u64::try_from(parts / PARTS).unwrap_or(u64::MAX);
        // All turns before this one are over, and no turn is delayed beyond its end: only this one is in question.
        whole.saturating_add(u64::from(parts % PARTS >= self.delay(whole)))
    }

    /// By how many parts of its turn the act is late.
    fn delay(&self, act: u64) -> u128 {
        let random = u128::from(scatter(self.seed ^ act.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 44);
        random * u128::from(self.jitter_percent) / 100
    }
}

/// SplitMix64's output function: neighbouring numbers in, unrelated ones out.
pub(crate) fn scatter(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fifty_a_second_are_fifty_a_second() {
        let mut pace = Pace::per_second(1000, 50, 0, 1, 7_000);
        let mut seconds = Vec::new();
        for second in 0..21 {
            let due: u64 = (0..1000).map(|ms| pace.due(7_000 + second * 1000 + ms)).sum();
            seconds.push(due);
        }
        assert!(seconds[..20].iter().all(|due| *due == 50), "{seconds:?}");
        assert_eq!((seconds[20], pace.left(), pace.next()), (0, 0, None));
    }

    #[test]
    fn rate_zero_is_all_at_once() {
        let mut pace = Pace::per_second(1000, 0, 20, 1, 5);
        assert_eq!((pace.due(4), pace.next(), pace.due(5), pace.due(6)), (0, Some(5), 1000, 0));
        assert_eq!(Pace::over(7, 0, 20, 1, 5).due(5), 7);
    }

    #[test]
    fn a_duration_is_kept_to_whatever_the_number() {
        for total in [1, 3, 100, 1_000_000] {
            let mut pace = Pace::over(total, 10_000, 20, 9, 0);
            assert!(pace.due(5_000).abs_diff(total.div_ceil(2)) <= 1);
            pace.due(10_000);
            assert!(pace.is_done(), "{total}");
        }
    }

    #[test]
    fn two_seeds_do_not_beat_in_step() {
        let moments = |seed| {
            let mut pace = Pace::per_second(50, 10, 100, seed, 0);
            (0..6_000).filter(|ms| pace.due(*ms) > 0).collect::<Vec<_>>()
        };
        let (one, two) = (moments(1), moments(2));
        assert_eq!((one.len(), two.len()), (50, 50));
        assert!(one.iter().filter(|ms| two.contains(ms)).count() < 10, "{one:?} {two:?}");
    }

    proptest! {
        #[test]
        fn every_act_comes_once_and_in_its_turn(
            total in 0u64..400, rate in 1u32..3000, jitter in 0u8..=120, seed: u64,
            steps in prop::collection::vec(0u64..900, 1..60),
        ) {
            let mut pace = Pace::per_second(total, rate, jitter, seed, 1_000);
            let (mut now, mut done) = (1_000, 0);
            for step in steps {
                now += step;
                done += pace.due(now);
                let turns = (now - 1_000) * u64::from(rate) / 1000;
                prop_assert!(done >= turns.min(total) && done <= (turns + 1).min(total), "{done} of {turns}");
                prop_assert_eq!(pace.left(), total - done);
            }
            prop_assert_eq!(pace.due(now), 0);
            while let Some(next) = pace.next() {
                prop_assert!(pace.due(next) > 0, "the caller would sleep for ever");
                done = total - pace.left();
            }
            prop_assert_eq!(done, total);
        }
    }
}
