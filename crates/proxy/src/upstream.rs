//! An upstream: its servers, and which of them gets a request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tidegate_balance::{Algorithm, Asked, Group, Mark, Member, PeerId, PeerSettings, RetryBudget, Tried};
use tidegate_metrics::{ConnectError, Metrics, ServerMetrics, StateChange, UpstreamMetrics};
use tidegate_transport::Transport;
use tokio::sync::Notify;

use crate::choice::Choice;
use crate::chronicle::Chronicle;
use crate::circuit::Circuit;
use crate::flow::Flow;
use crate::server::{Busy, Server, Target};
use crate::tally::Tallies;
use crate::{ServerSettings, UpstreamSettings};

/// An upstream of the process: shared by all workers, which keep only their own connections.
#[derive(Debug)]
pub struct Upstream {
    /// Unlike a name or an address in memory, never used twice.
    pub(crate) id: u64,
    pub(crate) settings: UpstreamSettings,
    pub(crate) metrics: Arc<UpstreamMetrics>,
    /// For each configured server.
    server_metrics: Box<[Arc<ServerMetrics>]>,
    pub(crate) chronicle: Arc<Chronicle>,
    pub(crate) circuit: Option<Arc<Circuit>>,
    pub(crate) budget: Option<RetryBudget>,
    state: Mutex<State>,
    /// The server of an upstream that will never have another one: found without the lock.
    only: Option<Arc<Server>>,
    /// An address that came from a name cannot be reached: the name may have moved.
    pub(crate) doubted: Arc<Notify>,
}

/// What changes, under a short lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) group: Group,
    /// In the order of the group.
    pub(crate) servers: Vec<Arc<Server>>,
    /// What the names among the configured servers mean.
    addresses: FxHashMap<Arc<str>, Arc<[SocketAddr]>>,
}

impl Upstream {
    /// A new upstream, all servers taken to be good.
    pub fn new(settings: UpstreamSettings, metrics: &Metrics) -> Arc<Self> {
        let group = Group::new(settings.balance, settings.sticks_by_value(), seed());
        Self::build(settings, metrics, group, FxHashMap::default(), None)
    }

    /// An upstream with other settings that knows what this one knows of the servers that both have: failures, marks, times,
    /// what names mean. Live connections are counted for both.
    pub fn succeeded_by(&self, settings: UpstreamSettings, metrics: &Metrics) -> Arc<Self> {
        let state = self.state();
        let group = state.group.succeeded_by(settings.balance, settings.sticks_by_value());
        let addresses = state.addresses.clone();
        drop(state);
        Self::build(settings, metrics, group, addresses, Some(self))
    }

    fn build(
        settings: UpstreamSettings,
        metrics: &Metrics,
        group: Group,
        addresses: FxHashMap<Arc<str>, Arc<[SocketAddr]>>,
        before: Option<&Self>,
    ) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let of_server = |server: &ServerSettings| metrics.server(&settings.name, &server.address);
        let upstream_metrics = metrics.upstream(&settings.name);
        let chronicle = match before {
            Some(before) => before.chronicle.clone(),
            None => Arc::new(Chronicle::new(&settings.name, metrics)),
        };
        let circuit_before = before.and_then(|before| before.circuit.as_ref());
        let mut upstream = Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            circuit: Circuit::new(settings.circuit, circuit_before, &chronicle, &upstream_metrics),
            chronicle,
            budget: (settings.retry.budget > 0).then(|| RetryBudget::new(settings.retry.budget)),
            metrics: upstream_metrics,
            server_metrics: settings.servers.iter().map(of_server).collect(),
            state: Mutex::new(State { group, servers: Vec::new(), addresses }),
            only: None,
            doubted: Arc::default(),
            settings,
        };
        upstream.arrange(&mut upstream.state());
        let only = match &upstream.settings.servers[..] {
            // A client may stick to a server that drains, which takes the lock to tell.
            [server] if !Target::is_name(&server.address) && upstream.settings.sticky.is_none() => {
                upstream.state().servers.first().cloned()
            }
            _ => None,
        };
        upstream.only = only;
        upstream.forget_unwatched();
        let servers = upstream.state().servers.clone();
        for server in &servers {
            upstream.show(server);
        }
        Arc::new(upstream)
    }

    /// As configured.
    pub fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    /// Whether a request would find a server that is not known to be down.
    pub fn is_available(&self) -> bool {
        self.state().group.is_available(now())
    }

    /// What one of the names among the servers means from now on. Its servers that stay keep what is known about them.
    /// Without any address nothing changes. Returns whether something did.
    pub fn resolved(&self, name: &str, addresses: &[SocketAddr]) -> bool {
        let mut addresses = addresses.to_vec();
        // Resolvers turn their answers round: hashes are not to depend on that, nor on who asked.
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() {
            return false;
        }
        self.mean(name, addresses)
    }

    /// Where the servers of an upstream are whose servers are discovered, from now on; none is possible. Those that stay
    /// keep what is known about them. Returns whether something changed.
    pub fn discovered(&self, addresses: &[SocketAddr]) -> bool {
        let Some(server) = self.settings.servers.first().filter(|_| self.settings.discovered) else { return false };
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        addresses.dedup();
        self.mean(&server.address, addresses)
    }

    fn mean(&self, name: &str, addresses: Vec<SocketAddr>) -> bool {
        let mut state = self.state();
        if state.addresses.get(name).is_some_and(|known| **known == *addresses) {
            return false;
        }
        state.addresses.insert(name.into(), addresses.into());
        self.arrange(&mut state);
        true
    }

    /// What one of the names among the servers means at present; nothing before it was resolved.
    pub fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        self.state().addresses.get(name).map(|addresses| addresses.to_vec()).unwrap_or_default()
    }

    /// Puts the configured servers, each as often as it has addresses, into the group.
    fn arrange(&self, state: &mut State) {
        let mut members = Vec::new();
        let mut targets = Vec::new();
        for (server, metrics) in self.settings.servers.iter().zip(&self.server_metrics) {
            let name: Arc<str> = server.address.as_str().into();
            let settings = self.peer_settings(server);
            let resolved = state.addresses.get(&name).filter(|_| Target::is_name(&name));
            match resolved {
                None if self.settings.discovered => {}
                None => {
                    members.push(Member { server: name.clone(), address: name.clone(), settings });
                    targets.push((name.clone(), name.clone(), Target::of(&name), metrics));
                }
                Some(resolved) => {
                    for address in resolved.iter() {
                        let text: Arc<str> = address.to_string().into();
                        members.push(Member { server: name.clone(), address: text.clone(), settings });
                        targets.push((name.clone(), text, Target::Tcp(*address), metrics));
                    }
                }
            }
        }
        let known: Vec<PeerId> = state.group.peers(now()).map(|peer| peer.id).collect();
        state.group.update(members, now());
        if self.settings.probe.as_ref().is_some_and(|probe| !probe.schedule.initially_up) {
            let all: Vec<PeerId> = state.group.peers(now()).map(|peer| peer.id).collect();
            for id in all.into_iter().filter(|id| !known.contains(id)) {
                state.group.mark(id, Mark::Unhealthy, true, now());
            }
        }
        let mut servers = Vec::new();
        for (index, (name, address, target, metrics)) in targets.into_iter().enumerate() {
            let (Some(id), Some(load)) = (state.group.id(index), state.group.load(index)) else { continue };
            let known = state.servers.iter().find(|known| known.id == id).cloned();
            let cookie = || self.settings.sticky.as_ref()?.cookie(&self.settings.name, &name, &address);
            let cookie = if known.is_some() { None } else { cookie() };
            servers.push(known.unwrap_or_else(|| {
                let (metrics, load) = (metrics.clone(), load.clone());
                Arc::new(Server { id, name, address, target, metrics, load, cookie, tallies: Tallies::default() })
            }));
        }
        state.servers = servers;
    }

    fn peer_settings(&self, server: &ServerSettings) -> PeerSettings {
        PeerSettings {
            weight: server.weight,
            max_fails: server.max_fails.unwrap_or(self.settings.max_fails),
            fail_timeout_ms: millis(server.fail_timeout.unwrap_or(self.settings.fail_timeout)),
            max_conns: server.max_conns,
            backup: server.backup,
            duty: server.duty,
            slow_start_ms: millis(server.slow_start),
        }
    }

    /// A server for the request; counted there until what is returned is dropped. `None`: none can be had.
    pub(crate) fn pick(&self, flow: &Flow, choice: Option<&Choice>, tried: &mut Tried) -> Option<Busy> {
        if let Some(only) = &self.only {
            let max_conns = self.settings.servers.first().map_or(0, |server| server.max_conns);
            // Never skipped for failures, and always the same: no lock.
            if tried.is_empty() && only.load.take(max_conns) {
                tried.insert(only.id);
                return Some(Busy::new(only.clone()));
            }
            return None;
        }
        let asked = Asked {
            client: flow.client,
            key: choice.map_or(b"", Choice::key),
            stick: choice.map_or(b"", Choice::value),
        };
        let now = now();
        let mut state = self.state();
        let State { group, servers, .. } = &mut *state;
        if let Some(wanted) = choice.and_then(Choice::cookie) {
            let named = |server: &&Arc<Server>| {
                server.cookie.as_ref().is_some_and(|cookie| *cookie.value.as_bytes() == *wanted)
            };
            let id = servers.iter().find(named).map(|server| server.id);
            if let Some(index) = id.and_then(|id| group.pick_this(id, tried, now)) {
                flow.new_cookie.set(false);
                return servers.get(index).cloned().map(Busy::new);
            }
        }
        flow.new_cookie.set(self.settings.sticky.is_some());
        let index = group.pick(&asked, tried, now)?;
        servers.get(index).cloned().map(Busy::new)
    }

    /// The server could not be reached or broke off.
    pub(crate) fn failed(&self, server: &Server) {
        if self.settings.outlier.is_some() {
            server.tallies.failed();
        }
        self.count_failure(server);
    }

    fn count_failure(&self, server: &Server) {
        if self.only.is_some() {
            return;
        }
        let skipped = self.state().group.failed(server.id, now());
        if skipped {
            self.changed(server, StateChange::Failing, "");
        }
    }

    /// The server answered with that status, so long after the request was begun: for those who compare servers.
    pub(crate) fn answered(&self, server: &Server, status: u16, time: Duration) {
        if self.settings.outlier.is_some() {
            server.tallies.answered(status, time);
        }
        if self.settings.retry.on.has_status(status) {
            // As in nginx, what is tried again is a failure.
            self.count_failure(server);
        } else {
            self.succeeded(server, time);
        }
    }

    /// The server answered, so long after the request was begun.
    fn succeeded(&self, server: &Server, time: Duration) {
        if self.only.is_some() {
            return;
        }
        let timed = self.settings.balance == Algorithm::LeastTime;
        if timed || server.load.is_failing() {
            let now = now();
            let mut state = self.state();
            let recovered = state.group.succeeded(server.id, now);
            if timed {
                state.group.observed(server.id, u64::try_from(time.as_micros()).unwrap_or(u64::MAX), now);
            }
            drop(state);
            if recovered {
                self.changed(server, StateChange::Recovered, "");
            }
        }
    }

    /// A new connection.
    pub(crate) async fn connect(&self, server: &Server, flow: &Flow) -> Result<Transport, ConnectError> {
        let mut first = Vec::new();
        if let Some(version) = self.settings.proxy_protocol {
            let address = if let Target::Tcp(address) = server.target { Some(address) } else { None };
            flow.proxied(address).encode(version, &mut first);
        }
        let result = server.connect(self.settings.connect_timeout, &first, self.settings.tls.as_ref()).await;
        if result.is_err() && server.name != server.address {
            self.doubted.notify_one();
        }
        result
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a name is taken to mean at most.
const MAX_ADDRESSES: usize = 256;

/// Milliseconds on a scale of the process; begins at the age of a day so that "long ago" can be told from "at the start".
pub(crate) fn now() -> u64 {
    moment(Instant::now())
}

/// The same for a moment that was looked at already.
pub(crate) fn moment(instant: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    86_400_000 + millis(instant.saturating_duration_since(*START.get_or_init(Instant::now)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

/// Gateways that start together are not to draw the same servers.
fn seed() -> u64 {
    use std::hash::BuildHasher as _;
    std::hash::RandomState::new().hash_one(0)
}
