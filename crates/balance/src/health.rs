use tidegate_types::Millis;

/// When a server is probed, and how many results in a row are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveSettings {
    /// From the end of one probe to the next, in milliseconds.
    pub interval_ms: u64,
    /// By how many percent of the interval a probe may come earlier or later.
    pub jitter_percent: u8,
    /// So many good probes in a row bring a server up; 0 counts as 1.
    pub rise: u32,
    /// So many bad probes in a row take it down; 0 counts as 1.
    pub fall: u32,
    /// What is assumed before the first probes.
    pub initially_up: bool,
}

impl Default for ActiveSettings {
    /// Every 5 s give or take a tenth; down after three bad probes, up after two good ones.
    fn default() -> Self {
        Self { interval_ms: 5_000, jitter_percent: 10, rise: 2, fall: 3, initially_up: true }
    }
}

/// What a probe's result changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The server may be used (again).
    Up,
    /// The server must not be used.
    Down,
}

/// What active probes say about one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveHealth {
    up: bool,
    /// Results in a row that speak against `up`.
    against: u32,
}

impl ActiveHealth {
    /// Before the first probe.
    pub fn new(settings: &ActiveSettings) -> Self {
        Self { up: settings.initially_up, against: 0 }
    }

    /// For a server of which this is known already.
    pub fn known(up: bool) -> Self {
        Self { up, against: 0 }
    }

    /// Whether the server may be used.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// A probe has ended; says what that changed.
    pub fn probed(&mut self, settings: &ActiveSettings, good: bool) -> Option<Turn> {
        if good == self.up {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = if self.up { settings.fall } else { settings.rise };
        if self.against < needed.max(1) {
            return None;
        }
        self.up = good;
        self.against = 0;
        Some(if good { Turn::Up } else { Turn::Down })
    }

    /// When the first probe of a server is due: at once, within the jitter, so that many servers (and many gateways that
    /// were started together) are not probed in the same moment.
    pub fn first(settings: &ActiveSettings, now: Millis, random: u64) -> Millis {
        now.saturating_add(scatter(random) % (settings.spread() + 1))
    }

    /// When the next probe is due, if one has ended `now`.
    pub fn next(settings: &ActiveSettings, now: Millis, random: u64) -> Millis {
        let spread = settings.spread();
        let earliest = settings.interval_ms.saturating_sub(spread).max(1);
        now.saturating_add(earliest).saturating_add(scatter(random) % (2 * spread + 1))
    }
}

impl ActiveSettings {
    fn spread(&self) -> u64 {
        self.interval_ms.min(u64::MAX / 200) * u64::from(self.jitter_percent.min(100)) / 100
    }
}

/// SplitMix64's output function: neighbouring numbers in, unrelated ones out.
fn scatter(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: ActiveSettings =
        ActiveSettings { interval_ms: 5_000, jitter_percent: 10, rise: 2, fall: 3, initially_up: true };

    fn turns(health: &mut ActiveHealth, results: &[bool]) -> Vec<Option<Turn>> {
        results.iter().map(|good| health.probed(&SETTINGS, *good)).collect()
    }

    #[test]
    fn three_bad_probes_in_a_row_take_a_server_down_and_two_good_ones_bring_it_back() {
        let mut health = ActiveHealth::new(&SETTINGS);
        assert_eq!(turns(&mut health, &[false, false, false]), [None, None, Some(Turn::Down)]);
        assert_eq!(turns(&mut health, &[true, true]), [None, Some(Turn::Up)]);
        assert!(health.is_up());
    }

    #[test]
    fn a_good_probe_between_bad_ones_begins_the_row_anew() {
        let mut health = ActiveHealth::new(&SETTINGS);
        assert_eq!(turns(&mut health, &[false, false, true, false, false]), [None; 5]);
        assert_eq!(turns(&mut health, &[false]), [Some(Turn::Down)]);
        assert_eq!(turns(&mut health, &[true, false, true]), [None; 3]);
        assert!(!health.is_up());
    }

    #[test]
    fn a_server_that_begins_down_needs_its_good_probes_first() {
        let mut health = ActiveHealth::new(&ActiveSettings { initially_up: false, ..SETTINGS });
        assert!(!health.is_up());
        assert_eq!(turns(&mut health, &[false, true, true]), [None, None, Some(Turn::Up)]);
    }

    proptest! {
        #[test]
        fn probes_come_within_their_jitter(interval_ms in 1u64..100_000, jitter_percent in 0u8..=100, random: u64) {
            let settings = ActiveSettings { interval_ms, jitter_percent, ..SETTINGS };
            let spread = interval_ms * u64::from(jitter_percent) / 100;
            let next = ActiveHealth::next(&settings, 1_000, random) - 1_000;
            prop_assert!(next > 0 && next >= interval_ms - spread && next <= (interval_ms + spread).max(1 + 2 * spread));
            prop_assert!(ActiveHealth::first(&settings, 1_000, random) <= 1_000 + spread);
        }

        #[test]
        fn a_turn_is_always_a_change(results in prop::collection::vec(any::<bool>(), 0..60), rise in 0u32..4, fall in 0u32..4) {
            let settings = ActiveSettings { rise, fall, ..SETTINGS };
            let mut health = ActiveHealth::new(&settings);
            for good in results {
                let before = health.is_up();
                match health.probed(&settings, good) {
                    Some(turn) => prop_assert!(before == (turn == Turn::Down) && health.is_up() == (turn == Turn::Up)),
                    None => prop_assert_eq!(before, health.is_up()),
                }
            }
        }
    }
}
