//! What became of an upstream's servers: one log line, one count and one entry in a short list for each change.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustc_hash::FxHashMap;
use tidegate_balance::{BreakerState, Duty, OutlierRecord, PeerId, PeerView};
use tidegate_metrics::{Metrics, StateChange, StateChanges};

use crate::Upstream;
use crate::server::Server;
use crate::upstream::now;

/// So many changes of an upstream are kept.
const EVENTS: usize = 64;

/// A change of a server, or of the whole upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEvent {
    /// When.
    pub at: SystemTime,
    /// The server's address; `None` is the breaker of the upstream.
    pub server: Option<Arc<str>>,
    /// What changed.
    pub change: StateChange,
    /// Why, for people.
    pub detail: Box<str>,
}

/// Why a server gets no new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// By its configuration or by an operator's order.
    Down,
    /// It finishes what it has.
    Draining,
    /// Probes fail.
    Unhealthy,
    /// Ejected as an outlier.
    Ejected,
    /// Skipped after failures.
    Failing,
    /// It has `max_conns` connections.
    Full,
}

impl Unavailable {
    /// Stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Failing => "failing",
            Self::Full => "full",
        }
    }
}

/// A server as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// As configured.
    pub server: Arc<str>,
    /// The address; differs from `server` if that is a name.
    pub address: Arc<str>,
    /// The weight that counts.
    pub weight: u32,
    /// Only asked when no other can be had.
    pub backup: bool,
    /// Why it gets no new requests; `None` while it does.
    pub unavailable: Option<Unavailable>,
    /// Live connections: exchanges and streams.
    pub live: u32,
    /// Failures that count.
    pub fails: u32,
    /// Until when it is ejected.
    pub ejected_until: Option<SystemTime>,
    /// The last change, if there was one.
    pub last: Option<StateEvent>,
}

/// The changes of one upstream; goes on when a new configuration replaces it.
#[derive(Debug)]
pub(crate) struct Chronicle {
    upstream: Box<str>,
    counts: StateChanges,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    events: VecDeque<StateEvent>,
    /// The last change of each server there is.
    last: FxHashMap<PeerId, StateEvent>,
    /// What outlier detection remembers of each server.
    outliers: FxHashMap<PeerId, OutlierRecord>,
}

impl Chronicle {
    pub(crate) fn new(upstream: &str, metrics: &Metrics) -> Self {
        Self { upstream: upstream.into(), counts: metrics.state_changes(upstream), told: Mutex::default() }
    }

    /// Tells of a server.
    pub(crate) fn server(&self, server: &Server, change: StateChange, detail: &str) {
        let (upstream, name, address) = (&*self.upstream, &*server.name, &*server.address);
        if is_bad(change) {
            tracing::warn!(upstream, server = name, address, change = change.as_str(), detail, "server state changed");
        } else {
            tracing::info!(upstream, server = name, address, change = change.as_str(), detail, "server state changed");
        }
        self.counts.count(Some(name), change);
        let event =
            StateEvent { at: SystemTime::now(), server: Some(server.address.clone()), change, detail: detail.into() };
        let mut told = self.told();
        told.last.insert(server.id, event.clone());
        told.push(event);
    }

    /// Tells of the breaker.
    pub(crate) fn breaker(&self, state: BreakerState) {
        let change = match state {
            BreakerState::Open => StateChange::BreakerOpened,
            BreakerState::HalfOpen => StateChange::BreakerHalfOpen,
            BreakerState::Closed => StateChange::BreakerClosed,
        };
        let upstream = &*self.upstream;
        if is_bad(change) {
            tracing::warn!(upstream, change = change.as_str(), "breaker state changed");
        } else {
            tracing::info!(upstream, change = change.as_str(), "breaker state changed");
        }
        self.counts.count(None, change);
        self.told().push(StateEvent { at: SystemTime::now(), server: None, change, detail: "".into() });
    }

    /// Forgets the servers that are no more.
    pub(crate) fn keep(&self, servers: &[Arc<Server>]) {
        let mut told = self.told();
        told.last.retain(|id, _| servers.iter().any(|server| server.id == *id));
        told.outliers.retain(|id, _| servers.iter().any(|server| server.id == *id));
    }

    pub(crate) fn outlier(&self, id: PeerId) -> OutlierRecord {
        self.told().outliers.get(&id).copied().unwrap_or_default()
    }

    pub(crate) fn set_outlier(&self, id: PeerId, record: OutlierRecord) {
        self.told().outliers.insert(id, record);
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn push(&mut self, event: StateEvent) {
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

fn is_bad(change: StateChange) -> bool {
    match change {
        StateChange::ProbeDown | StateChange::Failing | StateChange::Ejected | StateChange::BreakerOpened => true,
        StateChange::ProbeUp
        | StateChange::Recovered
        | StateChange::Returned
        | StateChange::BreakerHalfOpen
        | StateChange::BreakerClosed
        | StateChange::SetUp
        | StateChange::SetDown
        | StateChange::SetDrain
        | StateChange::SetWeight => false,
    }
}

impl Upstream {
    /// Every server as it is now, in the order of the configuration.
    pub fn states(&self) -> Vec<ServerState> {
        let now = now();
        let wall = SystemTime::now();
        let state = self.state();
        let told = self.chronicle.told();
        let show = |peer: PeerView<'_>| ServerState {
            server: peer.server.clone(),
            address: peer.address.clone(),
            weight: peer.weight,
            backup: peer.settings.backup,
            unavailable: unavailable(&peer),
            live: peer.live,
            fails: peer.fails,
            ejected_until: told
                .outliers
                .get(&peer.id)
                .and_then(OutlierRecord::ejected_until)
                .map(|until| wall + Duration::from_millis(until.saturating_sub(now))),
            last: told.last.get(&peer.id).cloned(),
        };
        state.group.peers(now).map(show).collect()
    }

    /// What changed lately, the oldest first; bounded.
    pub fn events(&self) -> Vec<StateEvent> {
        self.chronicle.told().events.iter().cloned().collect()
    }

    /// Whether the breaker is closed, open or making its trials; `None` if there is none.
    pub fn breaker(&self) -> Option<BreakerState> {
        self.circuit.as_ref().and_then(|circuit| circuit.state())
    }

    /// A server changed: tells it, and shows it in the gauge.
    pub(crate) fn changed(&self, server: &Server, change: StateChange, detail: &str) {
        self.chronicle.server(server, change, detail);
        self.show(server);
    }

    /// A configured name is up while one of the servers behind it is used.
    pub(crate) fn show(&self, server: &Server) {
        let used = |peer: PeerView<'_>| {
            *peer.server == server.name && matches!(unavailable(&peer), None | Some(Unavailable::Full))
        };
        let up = self.state().group.peers(now()).any(used);
        server.metrics.up.set(i64::from(up));
    }
}

fn unavailable(peer: &PeerView<'_>) -> Option<Unavailable> {
    match peer.duty {
        Duty::Down => return Some(Unavailable::Down),
        Duty::Drain => return Some(Unavailable::Draining),
        Duty::Serve => {}
    }
    if peer.unhealthy {
        Some(Unavailable::Unhealthy)
    } else if peer.ejected {
        Some(Unavailable::Ejected)
    } else if peer.failing {
        Some(Unavailable::Failing)
    } else if peer.serves {
        None
    } else {
        Some(Unavailable::Full)
    }
}
