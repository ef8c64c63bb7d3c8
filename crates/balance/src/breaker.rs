use tidegate_types::Millis;

/// When a breaker opens, and how it closes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Percent of failures within the interval that open it.
    pub error_rate: u8,
    /// Fewer requests than that within the interval say nothing.
    pub min_requests: u32,
    /// How far back is counted, in milliseconds; it slides in tenths.
    pub interval_ms: u64,
    /// How long everything is refused before trials are made, in milliseconds.
    pub open_for_ms: u64,
    /// How many trials decide whether it closes; 0 counts as 1.
    pub half_open_requests: u32,
}

impl Default for BreakerSettings {
    /// Opens at half of at least 50 requests in 10 s, for 10 s, then makes 5 trials.
    fn default() -> Self {
        Self { error_rate: 50, min_requests: 50, interval_ms: 10_000, open_for_ms: 10_000, half_open_requests: 5 }
    }
}

/// What a breaker does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Lets all through and counts.
    Closed,
    /// Refuses all.
    Open,
    /// Lets a few through, and decides by what becomes of them.
    HalfOpen,
}

impl BreakerState {
    /// Stable text for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A request that was let through. Give it back to [`Breaker::ended`] exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// In which of the breaker's states it was given: what ends later says nothing about a later state.
    epoch: u64,
    trial: bool,
}

impl Permit {
    /// Whether the breaker decides by this request. A trial should not be retried elsewhere: the number of trials is what
    /// an upstream that just came back is asked to bear.
    pub fn is_trial(self) -> bool {
        self.trial
    }
}

/// How a request that was let through has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The upstream answered well.
    Good,
    /// It answered with a server error, or not at all.
    Failed,
    /// The client gave up before that was known.
    Unknown,
}

/// The breaker is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How long to wait before it is worth another try, in milliseconds.
    pub retry_after_ms: u64,
}

const BUCKETS: usize = 10;

/// A circuit breaker: while an upstream mostly fails, requests are refused at once instead of waiting for it, and it gets
/// peace to recover.
///
/// Closed → open when the failures within the sliding interval reach `error_rate`; open → half-open with the first request
/// after `open_for_ms`; half-open → closed or open as soon as the trials have decided, by the same error rate.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: BreakerState,
    epoch: u64,
    /// Which tenth of the interval each bucket belongs to, requests, failures.
    buckets: [(u64, u32, u32); BUCKETS],
    opened: Millis,
    /// Trials under way, gone well, failed. Together never more than `half_open_requests`.
    trials: (u32, u32, u32),
}

impl Breaker {
    /// Closed.
    pub fn new(settings: BreakerSettings) -> Self {
        let settings = BreakerSettings { half_open_requests: settings.half_open_requests.max(1), ..settings };
        Self {
            settings,
            state: BreakerState::Closed,
            epoch: 0,
            buckets: [(0, 0, 0); BUCKETS],
            opened: 0,
            trials: (0, 0, 0),
        }
    }

    /// The state. An open breaker stays open until a request asks after `open_for_ms`.
    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether a request may pass, and the new state if asking changed it.
    ///
    /// # Errors
    /// The breaker is open, or all its trials are under way.
    pub fn admit(&mut self, now: Millis) -> (Result<Permit, Refused>, Option<BreakerState>) {
        let mut turned = None;
        match self.state {
            BreakerState::Closed => return (Ok(Permit { epoch: self.epoch, trial: false }), None),
            BreakerState::Open => {
                let wait = (self.opened.saturating_add(self.settings.open_for_ms)).saturating_sub(now);
                if wait > 0 {
                    return (Err(Refused { retry_after_ms: wait }), None);
                }
                turned = Some(self.turn(BreakerState::HalfOpen, now));
            }
            BreakerState::HalfOpen => {}
        }
        let (running, good, failed) = self.trials;
        if running + good + failed >= self.settings.half_open_requests {
            // Nobody knows how long the trials take.
            return (Err(Refused { retry_after_ms: 1000 }), turned);
        }
        self.trials.0 += 1;
        (Ok(Permit { epoch: self.epoch, trial: true }), turned)
    }

    /// A request that was let through has ended; the new state, if that changed it.
    pub fn ended(&mut self, permit: Permit, verdict: Verdict, now: Millis) -> Option<BreakerState> {
        if permit.epoch != self.epoch {
            return None;
        }
        match self.state {
            BreakerState::Closed => self.count(verdict, now),
            BreakerState::Open => None,
            BreakerState::HalfOpen => self.judge(verdict, now),
        }
    }

    fn count(&mut self, verdict: Verdict, now: Millis) -> Option<BreakerState> {
        let failed = match verdict {
            Verdict::Good => false,
            Verdict::Failed => true,
            Verdict::Unknown => return None,
        };
        let tenth = now / (self.settings.interval_ms / BUCKETS as u64).max(1);
        let index = usize::try_from(tenth % BUCKETS as u64).unwrap_or(0);
        if let Some(bucket) = self.buckets.get_mut(index) {
            if bucket.0 != tenth {
                *bucket = (tenth, 0, 0);
            }
            bucket.1 = bucket.1.saturating_add(1);
            bucket.2 = bucket.2.saturating_add(u32::from(failed));
        }
        // Only a failure can be what tips the scales.
        if !failed {
            return None;
        }
        let recent = |bucket: &&(u64, u32, u32)| tenth.checked_sub(bucket.0).is_some_and(|age| age < BUCKETS as u64);
        let (requests, failures) = self
            .buckets
            .iter()
            .filter(recent)
            .fold((0u64, 0u64), |sum, bucket| (sum.0 + u64::from(bucket.1), sum.1 + u64::from(bucket.2)));
        let enough = requests >= u64::from(self.settings.min_requests);
        let opens = enough && failures * 100 >= requests * u64::from(self.settings.error_rate);
        opens.then(|| self.turn(BreakerState::Open, now))
    }

    fn judge(&mut self, verdict: Verdict, now: Millis) -> Option<BreakerState> {
        self.trials.0 = self.trials.0.saturating_sub(1);
        match verdict {
            Verdict::Good => self.trials.1 += 1,
            Verdict::Failed => self.trials.2 += 1,
            // Its place is free again.
            Verdict::Unknown => return None,
        }
        let (_, good, failed) = self.trials;
        let all = u64::from(self.settings.half_open_requests) * 100;
        let limit = u64::from(self.settings.half_open_requests) * u64::from(self.settings.error_rate);
        if u64::from(failed) * 100 >= limit.max(1) {
            Some(self.turn(BreakerState::Open, now))
        } else if all - u64::from(good) * 100 < limit.max(1) {
            // Not even if all others failed.
            Some(self.turn(BreakerState::Closed, now))
        } else {
            None
        }
    }

    fn turn(&mut self, state: BreakerState, now: Millis) -> BreakerState {
        self.state = state;
        self.epoch += 1;
        self.trials = (0, 0, 0);
        self.buckets = [(0, 0, 0); BUCKETS];
        if state == BreakerState::Open {
            self.opened = now;
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: BreakerSettings = BreakerSettings {
        error_rate: 50,
        min_requests: 10,
        interval_ms: 10_000,
        open_for_ms: 5_000,
        half_open_requests: 4,
    };
    /// Where the times of these tests begin.
    const START: Millis = 86_400_000;

    fn run(breaker: &mut Breaker, verdict: Verdict, now: Millis) -> Option<BreakerState> {
        let (permit, _) = breaker.admit(now);
        breaker.ended(permit.unwrap(), verdict, now)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(SETTINGS);
        for _ in 0..9 {
            assert_eq!(run(&mut breaker, Verdict::Failed, START), None);
        }
        assert_eq!(run(&mut breaker, Verdict::Failed, START), Some(BreakerState::Open));
        breaker
    }

    #[test]
    fn it_opens_at_the_error_rate_of_enough_requests() {
        let mut breaker = Breaker::new(SETTINGS);
        for n in 0..40 {
            let verdict = if n % 5 >= 3 { Verdict::Failed } else { Verdict::Good };
            assert_eq!(run(&mut breaker, verdict, START), None, "two of five are fewer than half");
        }
        for n in 0..8 {
            let turned = run(&mut breaker, Verdict::Failed, START);
            assert_eq!(turned, (n == 7).then_some(BreakerState::Open), "{n}");
        }
    }

    #[test]
    fn failures_that_are_longer_ago_than_the_interval_are_forgotten() {
        let mut breaker = Breaker::new(SETTINGS);
        for _ in 0..9 {
            run(&mut breaker, Verdict::Failed, START);
        }
        assert_eq!(run(&mut breaker, Verdict::Failed, START + 10_000), None);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn an_open_breaker_says_how_long_to_wait_and_then_makes_its_trials() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(START + 1_000), (Err(Refused { retry_after_ms: 4_000 }), None));
        let (permit, turned) = breaker.admit(START + 5_000);
        assert!(permit.unwrap().is_trial() && turned == Some(BreakerState::HalfOpen));
        for _ in 0..3 {
            assert!(breaker.admit(START + 5_000).0.is_ok());
        }
        assert!(breaker.admit(START + 5_000).0.is_err(), "four trials at a time");
    }

    #[test]
    fn good_trials_close_it_and_failed_ones_open_it_again() {
        let mut breaker = opened();
        let later = START + 5_000;
        assert_eq!(run(&mut breaker, Verdict::Good, later), None);
        assert_eq!(run(&mut breaker, Verdict::Good, later), None);
        assert_eq!(run(&mut breaker, Verdict::Good, later), Some(BreakerState::Closed));
        let mut breaker = opened();
        assert_eq!(run(&mut breaker, Verdict::Failed, later), None);
        assert_eq!(run(&mut breaker, Verdict::Good, later), None);
        assert_eq!(run(&mut breaker, Verdict::Failed, later), Some(BreakerState::Open));
        assert_eq!(breaker.admit(later + 4_999).0, Err(Refused { retry_after_ms: 1 }));
    }

    #[test]
    fn a_trial_whose_client_gave_up_gives_its_place_back() {
        let mut breaker = opened();
        let later = START + 5_000;
        for _ in 0..100 {
            assert_eq!(run(&mut breaker, Verdict::Unknown, later), None);
        }
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    #[test]
    fn what_was_let_through_before_it_opened_does_not_decide_the_trials() {
        let mut breaker = Breaker::new(SETTINGS);
        let old: Vec<Permit> = (0..10).map(|_| breaker.admit(START).0.unwrap()).collect();
        for _ in 0..10 {
            run(&mut breaker, Verdict::Failed, START);
        }
        assert!(breaker.admit(START + 5_000).0.is_ok());
        for permit in old {
            assert_eq!(breaker.ended(permit, Verdict::Failed, START + 5_000), None);
        }
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    proptest! {
        #[test]
        fn half_open_never_has_more_trials_than_it_may(
            half_open_requests in 0u32..6, error_rate in 1u8..=100,
            steps in prop::collection::vec((0u64..3_000, 0u8..10, 0usize..8), 1..300),
        ) {
            let settings = BreakerSettings { half_open_requests, error_rate, min_requests: 3, ..SETTINGS };
            let mut breaker = Breaker::new(settings);
            let (mut now, mut out, mut judged, mut epoch) = (START, Vec::new(), 0usize, 0);
            for (step, act, which) in steps {
                now += step;
                if act < 6 {
                    if let Ok(permit) = breaker.admit(now).0 {
                        prop_assert_ne!(breaker.state(), BreakerState::Open);
                        out.push(permit);
                    }
                } else if !out.is_empty() {
                    let permit = out.swap_remove(which % out.len());
                    let verdict = [Verdict::Good, Verdict::Failed, Verdict::Failed, Verdict::Unknown][usize::from(act - 6)];
                    let current = permit.epoch == breaker.epoch;
                    breaker.ended(permit, verdict, now);
                    judged += usize::from(current && permit.trial && verdict != Verdict::Unknown);
                }
                if breaker.epoch != epoch {
                    (epoch, judged) = (breaker.epoch, 0);
                }
                let trials = out.iter().filter(|permit| permit.trial && permit.epoch == epoch).count();
                prop_assert!(trials + judged <= half_open_requests.max(1) as usize, "{} {}", trials, judged);
                prop_assert!(breaker.state() == BreakerState::HalfOpen || trials == 0);
            }
        }
    }
}
