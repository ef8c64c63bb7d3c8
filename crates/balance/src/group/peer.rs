//! One server: its settings, its state, and when it may be given work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use tidegate_types::Millis;

use super::Member;
use super::latency::Latency;

/// Names a server of a group for as long as it is known; never used twice in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub(super) u32);

/// How a server takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Share of the requests relative to the other servers; 0 counts as 1.
    pub weight: u32,
    /// After so many failures the server is skipped; 0 never skips it.
    pub max_fails: u32,
    /// How long it is skipped, and how long a failure counts, in milliseconds.
    pub fail_timeout_ms: u64,
    /// The most live connections, streams included; 0 is no limit.
    pub max_conns: u32,
    /// Only asked when no server without this can be had.
    pub backup: bool,
    /// What it does.
    pub duty: Duty,
    /// Over so many milliseconds its weight grows from a tenth to the whole after it came (back); 0 is at once. Hashes
    /// take no notice: they would move keys all the time.
    pub slow_start_ms: u64,
}

impl Default for PeerSettings {
    /// nginx's defaults: weight 1, one failure, 10 s.
    fn default() -> Self {
        Self {
            weight: 1,
            max_fails: 1,
            fail_timeout_ms: 10_000,
            max_conns: 0,
            backup: false,
            duty: Duty::Serve,
            slow_start_ms: 0,
        }
    }
}

/// What a server is to do, by its configuration or by an operator's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// Everything.
    #[default]
    Serve,
    /// Finish what it has, those clients included that stick to it; get nothing new.
    Drain,
    /// Nothing.
    Down,
}

/// What others have found out about a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Active probes fail.
    Unhealthy,
    /// Ejected as an outlier.
    Ejected,
}

impl Mark {
    fn bit(self) -> u8 {
        match self {
            Self::Unhealthy => 1,
            Self::Ejected => 2,
        }
    }
}

/// What may be asked and counted without the group's lock: shared by all who know the server, also by a group that
/// succeeded another.
#[derive(Debug, Default)]
pub struct Load {
    live: AtomicU32,
    /// [`Load::SHUT`], [`Load::FAILING`].
    flags: AtomicU8,
}

impl Load {
    /// It gets nothing new: down, draining, or marked.
    const SHUT: u8 = 1;
    /// It has failures that a success might clear.
    const FAILING: u8 = 2;

    /// Live connections: exchanges and streams that were given to the server and have not ended.
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Relaxed)
    }

    /// Counts one without the group's lock, unless the server is shut or has `max_conns` (0: no limit): for a server that
    /// has no others beside it.
    pub fn take(&self, max_conns: u32) -> bool {
        if self.flags.load(Ordering::Relaxed) & Self::SHUT != 0 {
            return false;
        }
        if max_conns == 0 {
            self.count();
            return true;
        }
        let more = |live: u32| (live < max_conns).then_some(live + 1);
        self.live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// One has ended; exactly once for each that was counted.
    pub fn release(&self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the server has failures, so that the group wants to hear of a success.
    pub fn is_failing(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & Self::FAILING != 0
    }

    fn count(&self) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    fn set(&self, flag: u8, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flag, Ordering::Relaxed);
        }
    }
}

/// What is known about a server, for those who show it.
#[derive(Clone, Copy, Debug)]
pub struct PeerView<'a> {
    /// Its name in the group.
    pub id: PeerId,
    /// As configured.
    pub server: &'a Arc<str>,
    /// One of the addresses behind it.
    pub address: &'a Arc<str>,
    /// As configured.
    pub settings: &'a PeerSettings,
    /// The weight that counts, an operator's order included; the ramp of a slow start not.
    pub weight: u32,
    /// What it is to do, an operator's order included.
    pub duty: Duty,
    /// Probes fail.
    pub unhealthy: bool,
    /// Ejected as an outlier.
    pub ejected: bool,
    /// Skipped after failures.
    pub failing: bool,
    /// Failures that count.
    pub fails: u32,
    /// Live connections.
    pub live: u32,
    /// It would be given a request now.
    pub serves: bool,
    /// The smoothed time to the first byte, in microseconds, if any was observed.
    pub latency_micros: Option<u64>,
}

impl PeerView<'_> {
    /// Whether it is there for new requests, were it not for a full house.
    pub fn is_healthy(&self) -> bool {
        self.duty == Duty::Serve && !self.unhealthy && !self.ejected && !self.failing
    }
}

/// Weights are counted in thousandths, so that a slow start has steps even for a weight of 1.
const WHOLE: i64 = 1000;

#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) server: Arc<str>,
    address: Arc<str>,
    pub(super) settings: PeerSettings,
    ordered_weight: Option<u32>,
    ordered_duty: Option<Duty>,
    marks: u8,
    /// In units of weight.
    effective: i64,
    /// In thousandths of it.
    pub(super) current: i64,
    fails: u32,
    /// When the last failure was.
    accessed: Millis,
    /// When the last failure or the last trial after `fail_timeout` was.
    checked: Millis,
    /// When the slow start began.
    came: Option<Millis>,
    pub(super) latency: Latency,
    pub(super) load: Arc<Load>,
}

impl Peer {
    pub(super) fn new(id: PeerId, member: Member, came: Option<Millis>) -> Self {
        let Member { server, address, settings } = member;
        let peer = Self {
            id,
            server,
            address,
            settings,
            ordered_weight: None,
            ordered_duty: None,
            marks: 0,
            effective: i64::from(settings.weight.max(1)),
            current: 0,
            fails: 0,
            accessed: 0,
            checked: 0,
            came: came.filter(|_| settings.slow_start_ms > 0),
            latency: Latency::default(),
            load: Arc::default(),
        };
        peer.publish();
        peer
    }

    pub(super) fn is(&self, member: &Member) -> bool {
        self.address == member.address && self.server == member.server
    }

    /// The same server, configured anew. Orders of an operator hold until then.
    pub(super) fn with(mut self, settings: PeerSettings) -> Self {
        if settings != self.settings {
            self.settings = settings;
            self.ordered_weight = None;
            self.ordered_duty = None;
            self.current = 0;
            self.effective = self.weight();
            self.publish();
        }
        self
    }

    pub(super) fn weight(&self) -> i64 {
        i64::from(self.ordered_weight.unwrap_or(self.settings.weight).max(1))
    }

    fn duty(&self) -> Duty {
        self.ordered_duty.unwrap_or(self.settings.duty)
    }

    /// The weight in thousandths, less while it starts slowly.
    pub(super) fn ramped(&self, now: Millis) -> i64 {
        self.weight() * self.ramp(now)
    }

    /// The same for the weight that failures have lowered.
    pub(super) fn share(&self, now: Millis) -> i64 {
        self.effective * self.ramp(now)
    }

    fn ramp(&self, now: Millis) -> i64 {
        let Some(came) = self.came else { return WHOLE };
        let elapsed = now.saturating_sub(came);
        if elapsed >= self.settings.slow_start_ms {
            return WHOLE;
        }
        let part = u128::from(elapsed) * 900 / u128::from(self.settings.slow_start_ms.max(1));
        WHOLE / 10 + i64::try_from(part).unwrap_or(0)
    }

    /// What failures have taken comes back with each choice that it takes part in.
    pub(super) fn recover(&mut self) {
        if self.effective < self.weight() {
            self.effective += 1;
        }
    }

    /// Whether it may be given something new.
    pub(super) fn serves(&self, single: bool, now: Millis) -> bool {
        self.duty() == Duty::Serve && self.is_up(single, now)
    }

    /// Whether it may be given something by clients that stick to it.
    pub(super) fn keeps(&self, single: bool, now: Millis) -> bool {
        self.duty() != Duty::Down && self.is_up(single, now)
    }

    fn is_up(&self, single: bool, now: Millis) -> bool {
        self.marks == 0 && (single || !self.is_skipped(now)) && !self.is_full()
    }

    fn is_skipped(&self, now: Millis) -> bool {
        self.settings.max_fails > 0
            && self.fails >= self.settings.max_fails
            && now.saturating_sub(self.checked) <= self.settings.fail_timeout_ms
    }

    fn is_full(&self) -> bool {
        self.settings.max_conns > 0 && self.load.live() >= self.settings.max_conns
    }

    /// A request goes there.
    pub(super) fn begin(&mut self, now: Millis) {
        self.load.count();
        if now.saturating_sub(self.checked) > self.settings.fail_timeout_ms {
            // This request is the one trial that the server gets; others skip it until the outcome is known.
            self.checked = now;
        }
    }

    pub(super) fn fail(&mut self, now: Millis) -> bool {
        let before = self.is_skipped(now);
        self.fails = self.fails.saturating_add(1);
        self.accessed = now;
        self.checked = now;
        if self.settings.max_fails > 0 {
            let penalty = self.weight() / i64::from(self.settings.max_fails);
            self.effective = (self.effective - penalty).max(0);
        }
        self.load.set(Load::FAILING, true);
        !before && self.is_skipped(now)
    }

    pub(super) fn succeed(&mut self, now: Millis) -> bool {
        if self.fails == 0 || self.accessed >= self.checked {
            return false;
        }
        let down = self.settings.max_fails > 0 && self.fails >= self.settings.max_fails;
        self.fails = 0;
        self.load.set(Load::FAILING, false);
        if down {
            self.come(now);
        }
        down
    }

    pub(super) fn mark(&mut self, mark: Mark, on: bool, now: Millis) -> bool {
        let before = self.marks;
        self.marks = if on { before | mark.bit() } else { before & !mark.bit() };
        if before != 0 && self.marks == 0 {
            self.come(now);
        }
        self.publish();
        before != self.marks
    }

    pub(super) fn order(&mut self, duty: Duty, now: Millis) {
        let before = self.duty();
        self.ordered_duty = Some(duty);
        if before != Duty::Serve && duty == Duty::Serve {
            self.come(now);
        }
        self.publish();
    }

    pub(super) fn weigh(&mut self, weight: u32) {
        self.ordered_weight = Some(weight);
        self.effective = self.weight();
        self.current = 0;
    }

    fn come(&mut self, now: Millis) {
        self.came = (self.settings.slow_start_ms > 0).then_some(now);
    }

    fn publish(&self) {
        self.load.set(Load::SHUT, self.duty() != Duty::Serve || self.marks != 0);
    }

    pub(super) fn view(&self, single: bool, now: Millis) -> PeerView<'_> {
        PeerView {
            id: self.id,
            server: &self.server,
            address: &self.address,
            settings: &self.settings,
            weight: self.ordered_weight.unwrap_or(self.settings.weight).max(1),
            duty: self.duty(),
            unhealthy: self.marks & Mark::Unhealthy.bit() != 0,
            ejected: self.marks & Mark::Ejected.bit() != 0,
            failing: !single && self.is_skipped(now),
            fails: self.fails,
            live: self.load.live(),
            serves: self.serves(single, now),
            latency_micros: self.latency.micros(now),
        }
    }
}
