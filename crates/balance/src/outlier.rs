use tidegate_types::Millis;

/// When a server is taken out for what its requests say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierSettings {
    /// How often servers are compared, in milliseconds.
    pub interval_ms: u64,
    /// Fewer requests than that in an interval say nothing about a server.
    pub min_requests: u32,
    /// Percent of failed requests from which on a server is ejected.
    pub error_rate: u8,
    /// Percent of the servers' median latency beyond which a server is ejected; 0 does not look at latency.
    pub latency_factor: u32,
    /// How long the first ejection lasts, in milliseconds; the n-th lasts n times as long, up to ten times.
    pub ejection_ms: u64,
    /// Percent of the servers that may be out at a time. One may always be, if another is left.
    pub max_ejected: u8,
}

impl Default for OutlierSettings {
    /// Every 10 s; half of at least 20 requests; for 30 s and more; half of the servers.
    fn default() -> Self {
        Self {
            interval_ms: 10_000,
            min_requests: 20,
            error_rate: 50,
            latency_factor: 0,
            ejection_ms: 30_000,
            max_ejected: 50,
        }
    }
}

/// What one server did in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests with a known outcome.
    pub requests: u64,
    /// Those answered with 5xx, or not at all.
    pub failures: u64,
    /// Those answered.
    pub answers: u64,
    /// Time until the head of the response, of all answers together, in microseconds.
    pub latency_us: u64,
}

/// Why a server was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ejection {
    /// So many percent of its requests failed.
    Errors {
        /// Percent.
        rate: u8,
    },
    /// It was so many percent as slow as the median server.
    Latency {
        /// Percent of the median.
        factor: u64,
    },
}

/// What outlier detection remembers of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutlierRecord {
    ejected_until: Option<Millis>,
    /// How often it was ejected, less the intervals that it got through since.
    times: u32,
}

/// The longest ejection is so many times the first.
const MOST_TIMES: u32 = 10;

impl OutlierRecord {
    /// Whether the server is out.
    pub fn is_ejected(&self) -> bool {
        self.ejected_until.is_some()
    }

    /// Until when the server is out.
    pub fn ejected_until(&self) -> Option<Millis> {
        self.ejected_until
    }

    /// Lets the server back in if its time is over; says whether that changed anything.
    pub fn readmit(&mut self, now: Millis) -> bool {
        let over = self.ejected_until.is_some_and(|until| until <= now);
        if over {
            self.ejected_until = None;
        }
        over
    }
}

/// Compares the servers of an upstream at the end of an interval, as Envoy's outlier detection, and says which of them are
/// ejected now, by their place, and why. The worst go first; never so many that less than `100 - max_ejected` percent would
/// be left, and never the last one: a server that answers some requests is better than none.
///
/// A server that got through an interval counts one ejection less.
pub fn eject_outliers(
    settings: &OutlierSettings,
    servers: &mut [(OutlierRecord, Tally)],
    now: Millis,
) -> Vec<(usize, Ejection)> {
    let cap = most_ejected(settings, servers.len());
    let out = servers.iter().filter(|(record, _)| record.is_ejected()).count();
    let mut suspects = suspects(settings, servers);
    suspects.truncate(cap.saturating_sub(out));
    for (place, (record, _)) in servers.iter_mut().enumerate() {
        if record.is_ejected() {
            continue;
        }
        if suspects.iter().any(|(suspect, _)| *suspect == place) {
            record.times = (record.times + 1).min(MOST_TIMES);
            let lasts = settings.ejection_ms.saturating_mul(u64::from(record.times));
            record.ejected_until = Some(now.saturating_add(lasts.max(1)));
        } else {
            record.times = record.times.saturating_sub(1);
        }
    }
    suspects
}

/// How many of `servers` may be out at a time.
fn most_ejected(settings: &OutlierSettings, servers: usize) -> usize {
    let share = servers * usize::from(settings.max_ejected.min(100)) / 100;
    share.max(1).min(servers.saturating_sub(1))
}

/// Those that deserve to be ejected, the worst first: errors before slowness.
fn suspects(settings: &OutlierSettings, servers: &[(OutlierRecord, Tally)]) -> Vec<(usize, Ejection)> {
    let counted = |(place, (record, tally)): (usize, &(OutlierRecord, Tally))| {
        let counts = !record.is_ejected() && tally.requests >= u64::from(settings.min_requests.max(1));
        counts.then_some((place, *tally))
    };
    let counted: Vec<(usize, Tally)> = servers.iter().enumerate().filter_map(counted).collect();
    let median = median_latency(settings, &counted);
    let mut suspects: Vec<(usize, Ejection)> = counted
        .iter()
        .filter_map(|(place, tally)| {
            let rate = u8::try_from(tally.failures.min(tally.requests) * 100 / tally.requests.max(1)).unwrap_or(100);
            if tally.failures > 0 && rate >= settings.error_rate {
                return Some((*place, Ejection::Errors { rate }));
            }
            let (median, mean) = (median?, mean_latency(tally)?);
            let factor = mean.saturating_mul(100) / median.max(1);
            (factor > u64::from(settings.latency_factor)).then_some((*place, Ejection::Latency { factor }))
        })
        .collect();
    suspects.sort_by_key(|(place, why)| {
        let (kind, size) = match why {
            Ejection::Errors { rate } => (0u8, u64::from(*rate)),
            Ejection::Latency { factor } => (1, *factor),
        };
        (kind, std::cmp::Reverse(size), *place)
    });
    suspects
}

/// The median of the servers' mean latencies; of an even number the lower of the two in the middle, for otherwise the
/// slower one of two servers could never be told. `None` if there is nothing to compare.
fn median_latency(settings: &OutlierSettings, counted: &[(usize, Tally)]) -> Option<u64> {
    if settings.latency_factor == 0 {
        return None;
    }
    let mut means: Vec<u64> = counted.iter().filter_map(|(_, tally)| mean_latency(tally)).collect();
    means.sort_unstable();
    if means.len() < 2 { None } else { means.get((means.len() - 1) / 2).copied() }
}

fn mean_latency(tally: &Tally) -> Option<u64> {
    tally.latency_us.checked_div(tally.answers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: OutlierSettings = OutlierSettings {
        interval_ms: 10_000,
        min_requests: 20,
        error_rate: 50,
        latency_factor: 300,
        ejection_ms: 30_000,
        max_ejected: 50,
    };

    /// A server that answered 100 requests, some with failures, within `ms` on average.
    fn tally(failures: u64, ms: u64) -> Tally {
        Tally { requests: 100, failures, answers: 100, latency_us: ms * 1000 * 100 }
    }

    fn group(tallies: &[Tally]) -> Vec<(OutlierRecord, Tally)> {
        tallies.iter().map(|tally| (OutlierRecord::default(), *tally)).collect()
    }

    fn places(ejected: &[(usize, Ejection)]) -> Vec<usize> {
        ejected.iter().map(|(place, _)| *place).collect()
    }

    #[test]
    fn a_server_that_fails_half_of_its_requests_is_ejected() {
        let mut servers = group(&[tally(49, 5), tally(50, 5), tally(0, 5)]);
        assert_eq!(eject_outliers(&SETTINGS, &mut servers, 1_000), [(1, Ejection::Errors { rate: 50 })]);
        assert_eq!(servers[1].0.ejected_until(), Some(31_000));
    }

    #[test]
    fn few_requests_say_nothing() {
        let few = Tally { requests: 19, failures: 19, answers: 0, latency_us: 0 };
        assert_eq!(eject_outliers(&SETTINGS, &mut group(&[few, tally(0, 5)]), 0), []);
    }

    #[test]
    fn a_slow_server_is_ejected_beside_the_median_even_of_two() {
        let mut servers = group(&[tally(0, 5), tally(0, 6), tally(0, 19), tally(0, 5)]);
        assert_eq!(eject_outliers(&SETTINGS, &mut servers, 0), [(2, Ejection::Latency { factor: 380 })]);
        assert_eq!(places(&eject_outliers(&SETTINGS, &mut group(&[tally(0, 40), tally(0, 10)]), 0)), [0]);
        let blind = OutlierSettings { latency_factor: 0, ..SETTINGS };
        assert_eq!(eject_outliers(&blind, &mut group(&[tally(0, 400), tally(0, 10)]), 0), []);
    }

    #[test]
    fn a_group_of_one_is_never_ejected_and_the_last_server_stays() {
        assert_eq!(eject_outliers(&SETTINGS, &mut group(&[tally(100, 5)]), 0), []);
        let all = OutlierSettings { max_ejected: 100, ..SETTINGS };
        assert_eq!(eject_outliers(&all, &mut group(&[tally(100, 5); 3]), 0).len(), 2);
    }

    #[test]
    fn the_worst_go_first_and_only_as_many_as_may() {
        let mut servers = group(&[tally(60, 5), tally(90, 5), tally(0, 50), tally(70, 5), tally(0, 5)]);
        assert_eq!(places(&eject_outliers(&SETTINGS, &mut servers, 0)), [1, 3]);
        assert_eq!(eject_outliers(&SETTINGS, &mut servers, 10_000), [], "two of five are out");
        let one = OutlierSettings { max_ejected: 0, ..SETTINGS };
        assert_eq!(places(&eject_outliers(&one, &mut group(&[tally(60, 5), tally(90, 5)]), 0)), [1]);
    }

    #[test]
    fn each_ejection_lasts_longer_and_good_intervals_are_remembered() {
        let bad = group(&[tally(100, 5), tally(0, 5)]);
        let mut record = OutlierRecord::default();
        let mut now = 0;
        let mut lasted = Vec::new();
        for _ in 0..12 {
            let mut servers = [(record, bad[0].1), bad[1]];
            assert_eq!(places(&eject_outliers(&SETTINGS, &mut servers, now)), [0]);
            record = servers[0].0;
            let until = record.ejected_until().unwrap();
            lasted.push((until - now) / 30_000);
            assert!(!record.readmit(until - 1) && record.readmit(until) && !record.is_ejected());
            now = until;
        }
        assert_eq!(lasted, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10]);
        for _ in 0..8 {
            let mut servers = [(record, tally(0, 5)), bad[1]];
            eject_outliers(&SETTINGS, &mut servers, now);
            record = servers[0].0;
        }
        let mut servers = [(record, bad[0].1), bad[1]];
        eject_outliers(&SETTINGS, &mut servers, now);
        assert_eq!(servers[0].0.ejected_until(), Some(now + 3 * 30_000), "ten less eight plus one");
    }

    proptest! {
        #[test]
        fn never_more_are_out_than_may_be(
            max_ejected in 0u8..=120, count in 0usize..12,
            rounds in prop::collection::vec(prop::collection::vec((0u64..100, 0u64..100, 0u64..50), 12), 1..12),
        ) {
            let settings = OutlierSettings { max_ejected, ejection_ms: 15_000, ..SETTINGS };
            let mut records = vec![OutlierRecord::default(); count];
            for (round, tallies) in rounds.iter().enumerate() {
                let now = round as u64 * 10_000;
                for record in &mut records {
                    record.readmit(now);
                }
                let tally = |(requests, failures, ms): &(u64, u64, u64)| Tally {
                    requests: *requests, failures: *failures, answers: *requests, latency_us: ms * requests * 1000,
                };
                let mut servers: Vec<_> = records.iter().zip(tallies).map(|(record, t)| (*record, tally(t))).collect();
                let before: Vec<bool> = records.iter().map(OutlierRecord::is_ejected).collect();
                let ejected = eject_outliers(&settings, &mut servers, now);
                records = servers.iter().map(|(record, _)| *record).collect();
                let out = records.iter().filter(|record| record.is_ejected()).count();
                let cap = (count * usize::from(max_ejected.min(100)) / 100).max(1).min(count.saturating_sub(1));
                prop_assert!(out <= cap, "{} of {}", out, count);
                for (place, _) in ejected {
                    prop_assert!(!before[place] && records[place].is_ejected());
                }
            }
        }
    }
}
