use tidegate_types::Millis;

/// One server of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Share of the requests relative to the other servers; 0 counts as 1.
    pub weight: u32,
    /// After so many failures the server is skipped; 0 never skips it.
    pub max_fails: u32,
    /// How long it is skipped, and how long a failure counts, in milliseconds.
    pub fail_timeout_ms: u64,
}

impl Default for PeerSettings {
    /// nginx's defaults: weight 1, one failure, 10 s.
    fn default() -> Self {
        Self { weight: 1, max_fails: 1, fail_timeout_ms: 10_000 }
    }
}

#[derive(Debug)]
struct Peer {
    settings: PeerSettings,
    weight: i64,
    effective: i64,
    current: i64,
    fails: u32,
    /// When the last failure was.
    accessed: Millis,
    /// When the last failure or the last trial after `fail_timeout` was.
    checked: Millis,
}

/// The servers that one request has tried already. Groups larger than 64 remember only their first 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    /// Whether the server was tried.
    pub fn contains(self, index: usize) -> bool {
        u32::try_from(index).ok().and_then(|shift| 1u64.checked_shl(shift)).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Remembers a try.
    pub fn insert(&mut self, index: usize) {
        if let Some(bit) = u32::try_from(index).ok().and_then(|shift| 1u64.checked_shl(shift)) {
            self.0 |= bit;
        }
    }
}

/// Smooth weighted round robin with passive failure detection, as nginx's `ngx_http_upstream_round_robin.c`.
///
/// A group of one server never goes down: there is nowhere else to go, so its failures are not counted.
#[derive(Debug)]
pub struct RoundRobin {
    peers: Vec<Peer>,
}

impl RoundRobin {
    /// A group; the servers are named by their index afterwards.
    pub fn new(peers: impl IntoIterator<Item = PeerSettings>) -> Self {
        let peers = peers
            .into_iter()
            .map(|settings| {
                let weight = i64::from(settings.weight.max(1));
                Peer { settings, weight, effective: weight, current: 0, fails: 0, accessed: 0, checked: 0 }
            })
            .collect();
        Self { peers }
    }

    /// How many servers the group has.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether the group has no server at all.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The next server for a request that has tried `tried` before; `None` when every other one is down.
    pub fn pick(&mut self, tried: Tried, now: Millis) -> Option<usize> {
        if self.peers.len() == 1 {
            return (!tried.contains(0)).then_some(0);
        }
        let mut total = 0i64;
        let mut best: Option<(usize, i64)> = None;
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if tried.contains(index) || peer.is_down(now) {
                continue;
            }
            peer.current += peer.effective;
            total += peer.effective;
            if peer.effective < peer.weight {
                peer.effective += 1;
            }
            if best.is_none_or(|(_, current)| peer.current > current) {
                best = Some((index, peer.current));
            }
        }
        let (index, _) = best?;
        if let Some(peer) = self.peers.get_mut(index) {
            peer.current -= total;
            if now.saturating_sub(peer.checked) > peer.settings.fail_timeout_ms {
                // This request is the one trial that the server gets; others skip it until the outcome is known.
                peer.checked = now;
            }
        }
        Some(index)
    }

    /// The server could not be reached or broke off.
    pub fn failed(&mut self, index: usize, now: Millis) {
        if self.peers.len() == 1 {
            return;
        }
        if let Some(peer) = self.peers.get_mut(index) {
            peer.fails = peer.fails.saturating_add(1);
            peer.accessed = now;
            peer.checked = now;
            if peer.settings.max_fails > 0 {
                let penalty = peer.weight / i64::from(peer.settings.max_fails);
                peer.effective = (peer.effective - penalty).max(0);
            }
        }
    }

    /// The server answered. Clears its failures if this was the trial after `fail_timeout`.
    pub fn succeeded(&mut self, index: usize) {
        if let Some(peer) = self.peers.get_mut(index)
            && peer.accessed < peer.checked
        {
            peer.fails = 0;
        }
    }

    /// Whether requests skip the server now.
    pub fn is_down(&self, index: usize, now: Millis) -> bool {
        self.peers.len() > 1 && self.peers.get(index).is_some_and(|peer| peer.is_down(now))
    }
}

impl Peer {
    fn is_down(&self, now: Millis) -> bool {
        self.settings.max_fails > 0
            && self.fails >= self.settings.max_fails
            && now.saturating_sub(self.checked) <= self.settings.fail_timeout_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(weights: &[u32]) -> RoundRobin {
        RoundRobin::new(weights.iter().map(|weight| PeerSettings { weight: *weight, ..PeerSettings::default() }))
    }

    fn picks(group: &mut RoundRobin, count: usize, now: Millis) -> Vec<usize> {
        (0..count).map(|_| group.pick(Tried::default(), now).unwrap()).collect()
    }

    #[test]
    fn weights_five_one_one_interleave_as_in_nginx() {
        let mut group = group(&[5, 1, 1]);
        assert_eq!(picks(&mut group, 7, 20_000), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(picks(&mut group, 7, 20_000), [0, 0, 1, 0, 2, 0, 0], "the cycle repeats");
    }

    #[test]
    fn every_cycle_gives_each_server_its_weight() {
        let mut group = group(&[3, 2, 7]);
        let picks = picks(&mut group, 24, 20_000);
        for (index, share) in [(0, 6), (1, 4), (2, 14)] {
            assert_eq!(picks.iter().filter(|pick| **pick == index).count(), share);
        }
    }

    #[test]
    fn one_failure_takes_a_server_out_until_fail_timeout_and_then_gives_it_one_trial() {
        let mut group = group(&[1, 1]);
        group.failed(0, 100_000);
        assert!(group.is_down(0, 110_000));
        assert_eq!(picks(&mut group, 3, 110_000), [1, 1, 1]);
        let trial = picks(&mut group, 4, 110_001);
        assert_eq!(trial.iter().filter(|pick| **pick == 0).count(), 1, "{trial:?}");
        group.succeeded(0);
        assert!(!group.is_down(0, 110_002));
        assert_eq!(picks(&mut group, 4, 110_002).iter().filter(|pick| **pick == 0).count(), 2);
    }

    #[test]
    fn a_failed_trial_takes_the_server_out_again() {
        let mut group = group(&[1, 1]);
        group.failed(0, 100_000);
        while group.pick(Tried::default(), 110_001) != Some(0) {}
        group.failed(0, 110_005);
        assert_eq!(picks(&mut group, 3, 120_005), [1, 1, 1]);
    }

    #[test]
    fn a_late_success_of_an_older_request_does_not_clear_the_failure() {
        let mut group = group(&[1, 1]);
        group.failed(0, 100_000);
        group.succeeded(0);
        assert!(group.is_down(0, 100_001));
    }

    #[test]
    fn a_group_of_one_never_goes_down() {
        let mut group = group(&[1]);
        for now in 0..10 {
            group.failed(0, now);
            assert_eq!(group.pick(Tried::default(), now), Some(0));
        }
    }

    #[test]
    fn a_request_never_gets_a_server_twice() {
        let mut group = group(&[1, 1, 1]);
        let mut tried = Tried::default();
        let mut seen = Vec::new();
        while let Some(index) = group.pick(tried, 20_000) {
            tried.insert(index);
            seen.push(index);
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
    }

    #[test]
    fn when_all_are_down_there_is_no_server() {
        let mut group = group(&[1, 1]);
        group.failed(0, 50_000);
        group.failed(1, 50_000);
        assert_eq!(group.pick(Tried::default(), 50_001), None);
    }

    #[test]
    fn max_fails_zero_never_skips() {
        let mut group = RoundRobin::new([PeerSettings { max_fails: 0, ..PeerSettings::default() }; 2]);
        group.failed(0, 50_000);
        assert!(!group.is_down(0, 50_000));
    }
}
