use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tidegate_types::Millis;

/// Seconds that a request's contribution lasts, and that a retry weighs on the budget.
const WINDOW_S: u64 = 10;
const SLOTS: usize = 10;
/// So many retries per second may always be, so that an upstream with few requests gets any at all.
const FLOOR_PER_SECOND: u64 = 10;
/// Low bits of a slot hold the count, high bits the second that it belongs to.
const COUNT_BITS: u32 = 32;

/// Bounds retries to a percentage of the requests of the last 10 s, plus 10 per second, as linkerd's and Finagle's retry
/// budgets do: a fixed number of tries per request multiplies the load just when every request fails.
///
/// Shared by threads: a request costs one uncontended atomic operation, and only retries take a lock.
#[derive(Debug)]
pub struct RetryBudget {
    percent: u64,
    requests: Window,
    retries: Mutex<Window>,
}

impl RetryBudget {
    /// `percent` of the requests may be retries.
    pub fn new(percent: u32) -> Self {
        Self { percent: u64::from(percent), requests: Window::default(), retries: Mutex::default() }
    }

    /// A request's first try.
    pub fn request(&self, now: Millis) {
        self.requests.add(now);
    }

    /// Whether one more retry is within the budget; counts it if so.
    pub fn retry(&self, now: Millis) -> bool {
        let retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = FLOOR_PER_SECOND * WINDOW_S + self.requests.sum(now) * self.percent / 100;
        let within = retries.sum(now) < allowed;
        if within {
            retries.add(now);
        }
        within
    }
}

/// Counts by second, for the last ten seconds.
#[derive(Debug, Default)]
struct Window([AtomicU64; SLOTS]);

impl Window {
    fn add(&self, now: Millis) {
        let second = second(now);
        let index = usize::try_from(second % SLOTS as u64).unwrap_or(0);
        let Some(slot) = self.0.get(index) else { return };
        let count = |old: u64| {
            let same = old >> COUNT_BITS == second;
            let full = old & u64::from(u32::MAX) == u64::from(u32::MAX);
            // A slot that holds a later second is left alone: a thread that was stopped for long comes too late to count.
            let later = old >> COUNT_BITS > second;
            if later || (same && full) { None } else { Some(if same { old + 1 } else { second << COUNT_BITS | 1 }) }
        };
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
    }

    fn sum(&self, now: Millis) -> u64 {
        let second = second(now);
        let counted = |slot: &AtomicU64| {
            let slot = slot.load(Ordering::Relaxed);
            let age = second.checked_sub(slot >> COUNT_BITS);
            if age.is_some_and(|age| age < WINDOW_S) { slot & u64::from(u32::MAX) } else { 0 }
        };
        self.0.iter().map(counted).sum()
    }
}

fn second(now: Millis) -> u64 {
    (now / 1000) & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where the times of these tests begin: any moment of a process's life.
    const START: Millis = 86_400_000;

    #[test]
    fn an_upstream_without_requests_has_the_floor() {
        let budget = RetryBudget::new(20);
        assert_eq!((0..1000).filter(|_| budget.retry(START)).count(), 100);
        assert_eq!((0..1000).filter(|_| budget.retry(START + 9_999)).count(), 0);
        assert_eq!((0..1000).filter(|_| budget.retry(START + 10_000)).count(), 100);
    }

    #[test]
    fn a_storm_in_which_every_request_fails_is_not_amplified() {
        let budget = RetryBudget::new(20);
        let mut retries = 0;
        for request in 0..100_000u64 {
            let now = START + request / 10;
            budget.request(now);
            retries += (0..2).filter(|_| budget.retry(now)).count();
        }
        assert_eq!(retries, 100 + 20_000);
    }

    #[test]
    fn old_requests_give_nothing() {
        let budget = RetryBudget::new(100);
        for _ in 0..10_000 {
            budget.request(START);
        }
        assert_eq!((0..20_000).filter(|_| budget.retry(START + 10_000)).count(), 100);
    }

    proptest! {
        /// Beside a plain list of everything that happened.
        #[test]
        fn retries_stay_within_the_floor_and_the_percentage_of_any_ten_seconds(
            percent in 0u32..=100,
            steps in prop::collection::vec((0u64..1500, 0usize..200, 0usize..60), 1..80),
        ) {
            let budget = RetryBudget::new(percent);
            let (mut now, mut requests, mut retries) = (START, Vec::new(), Vec::new());
            for (step, first, wanted) in steps {
                now += step;
                for _ in 0..first {
                    budget.request(now);
                    requests.push(now / 1000);
                }
                let since = |list: &[u64]| list.iter().filter(|second| **second + 10 > now / 1000).count();
                for _ in 0..wanted {
                    let allowed = 100 + since(&requests) * percent as usize / 100;
                    let expected = since(&retries) < allowed;
                    prop_assert_eq!(budget.retry(now), expected);
                    if expected {
                        retries.push(now / 1000);
                    }
                }
            }
        }
    }
}
