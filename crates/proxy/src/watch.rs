//! The task that watches an upstream's servers: probes them, compares them, and marks what it finds.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tidegate_balance::{
    ActiveHealth, Duty, Ejection, Mark, OutlierRecord, OutlierSettings, PeerId, Tally, Turn, eject_outliers,
};
use tidegate_metrics::{ConnectError, StateChange};
use tokio::task::JoinSet;

use crate::UpstreamSettings;
use crate::probe::{ProbeFailure, ProbeSettings, probe, random};
use crate::server::{Server, Target};
use crate::upstream::now;
use crate::{Leave, LeavePace, LiveFilter, LiveStreams, Upstream};

/// The longest sleep: servers that came by a name are found after it at the latest.
const LOOK: u64 = 1_000;

impl Upstream {
    /// Whether there is anything to [`Upstream::watch`].
    pub fn wants_watching(&self) -> bool {
        self.settings.probe.is_some() || self.settings.outlier.is_some()
    }

    /// Probes the servers ([`crate::UpstreamSettings::probe`]) and ejects outliers ([`crate::UpstreamSettings::outlier`])
    /// until the upstream is gone; ends at once if neither is wanted. For one task of the process, on a local runtime; when
    /// the upstream leaves the configuration, the task is to be aborted, for its streams keep the upstream alive.
    pub async fn watch(upstream: Weak<Self>, live: LiveStreams) {
        let mut watch = Watch::default();
        loop {
            let Some(alive) = upstream.upgrade() else { return };
            if !alive.wants_watching() {
                return;
            }
            let wait = watch.look(&alive);
            // Who waits does not keep the upstream alive.
            drop(alive);
            tokio::select! {
                Some(done) = watch.probes.join_next() => {
                    let (Ok((id, result)), Some(alive)) = (done, upstream.upgrade()) else { continue };
                    match watch.probed(&alive, id, result) {
                        Some((server, Turn::Down)) => alive.close_streams(&server, Leave::ServerDown, &live).await,
                        Some((server, Turn::Up)) => alive.keep_streams(&server, &live).await,
                        None => {}
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            }
        }
    }
}

type Probed = (PeerId, Result<(), ProbeFailure>);

#[derive(Default)]
struct Watch {
    servers: FxHashMap<PeerId, Watched>,
    /// At most one for each server.
    probes: JoinSet<Probed>,
    /// When servers are compared next.
    compare: Option<u64>,
}

struct Watched {
    server: Arc<Server>,
    active: ActiveHealth,
    /// When it is probed next; `None` while it is.
    probe: Option<u64>,
}

impl Watch {
    /// Does what is due; returns for how many milliseconds nothing else will be.
    fn look(&mut self, upstream: &Arc<Upstream>) -> u64 {
        let now = now();
        self.meet(upstream, now);
        let mut next = now + LOOK;
        if let Some(settings) = &upstream.settings.probe {
            self.begin_probes(upstream, settings, now, &mut next);
        }
        if let Some(settings) = &upstream.settings.outlier {
            self.readmit(upstream, now, &mut next);
            let interval = settings.interval_ms.max(1);
            let due = *self.compare.get_or_insert(now + interval);
            if due <= now {
                self.compare = Some(now + interval);
                self.compare(upstream, settings, now);
            }
            next = next.min(self.compare.unwrap_or(next));
        }
        next.saturating_sub(now).max(1)
    }

    /// Servers come and go with the addresses of their names.
    fn meet(&mut self, upstream: &Upstream, now: u64) {
        let (servers, unhealthy) = {
            let state = upstream.state();
            let unhealthy: Vec<PeerId> =
                state.group.peers(now).filter(|peer| peer.unhealthy).map(|peer| peer.id).collect();
            (state.servers.clone(), unhealthy)
        };
        if servers.len() == self.servers.len() && servers.iter().all(|server| self.servers.contains_key(&server.id)) {
            return;
        }
        self.servers.retain(|id, _| servers.iter().any(|server| server.id == *id));
        upstream.chronicle.keep(&servers);
        for server in servers {
            let active = ActiveHealth::known(!unhealthy.contains(&server.id));
            let probe =
                upstream.settings.probe.as_ref().map(|probe| ActiveHealth::first(&probe.schedule, now, random()));
            self.servers.entry(server.id).or_insert(Watched { server, active, probe });
        }
    }

    fn begin_probes(&mut self, upstream: &Arc<Upstream>, settings: &ProbeSettings, now: u64, next: &mut u64) {
        for watched in self.servers.values_mut() {
            let Some(due) = watched.probe else { continue };
            if due > now {
                *next = due.min(*next);
                continue;
            }
            watched.probe = None;
            let (upstream, settings, server) = (upstream.clone(), settings.clone(), watched.server.clone());
            self.probes.spawn_local(async move {
                let result = if server.target == Target::Name {
                    // Once it is resolved, other servers stand for it.
                    let found = upstream.resolve_now(&server.name).await;
                    if found { Ok(()) } else { Err(ProbeFailure::Connect(ConnectError::Resolve)) }
                } else {
                    let UpstreamSettings { proxy_protocol, tls, http2, .. } = &upstream.settings;
                    probe(&settings, *proxy_protocol, tls.as_ref(), *http2, &server).await
                };
                (server.id, result)
            });
        }
    }

    /// A probe has ended; gives the server whose state that changed.
    fn probed(
        &mut self,
        upstream: &Upstream,
        id: PeerId,
        result: Result<(), ProbeFailure>,
    ) -> Option<(Arc<Server>, Turn)> {
        let settings = upstream.settings.probe.as_ref()?;
        let watched = self.servers.get_mut(&id)?;
        watched.probe = Some(ActiveHealth::next(&settings.schedule, now(), random()));
        let server = watched.server.clone();
        if result.is_err() {
            server.metrics.probe_failures.inc();
        }
        let turn = watched.active.probed(&settings.schedule, result.is_ok())?;
        upstream.state().group.mark(id, Mark::Unhealthy, turn == Turn::Down, now());
        match (turn, result) {
            (Turn::Up, _) => upstream.changed(&server, StateChange::ProbeUp, ""),
            (Turn::Down, Err(failure)) => upstream.changed(&server, StateChange::ProbeDown, &failure.to_string()),
            (Turn::Down, Ok(())) => upstream.changed(&server, StateChange::ProbeDown, ""),
        }
        Some((server, turn))
    }

    /// Ejections end.
    fn readmit(&self, upstream: &Upstream, now: u64, next: &mut u64) {
        for watched in self.servers.values() {
            let server = &watched.server;
            let mut record = upstream.chronicle.outlier(server.id);
            if record.readmit(now) {
                upstream.chronicle.set_outlier(server.id, record);
                upstream.state().group.mark(server.id, Mark::Ejected, false, now);
                upstream.changed(server, StateChange::Returned, "");
            } else if let Some(until) = record.ejected_until() {
                *next = until.min(*next);
            }
        }
    }

    fn compare(&self, upstream: &Upstream, settings: &OutlierSettings, now: u64) {
        let servers: Vec<&Arc<Server>> = self.servers.values().map(|watched| &watched.server).collect();
        let mut group: Vec<(OutlierRecord, Tally)> =
            servers.iter().map(|server| (upstream.chronicle.outlier(server.id), server.tallies.take())).collect();
        let ejected = eject_outliers(settings, &mut group, now);
        for (server, (record, _)) in servers.iter().zip(&group) {
            upstream.chronicle.set_outlier(server.id, *record);
        }
        for (place, why) in ejected {
            let Some(server) = servers.get(place) else { continue };
            let detail = match why {
                Ejection::Errors { rate } => format!("{rate} % of its requests failed"),
                Ejection::Latency { factor } => format!("{factor} % of the median latency"),
            };
            upstream.state().group.mark(server.id, Mark::Ejected, true, now);
            upstream.changed(server, StateChange::Ejected, &detail);
        }
    }
}

/// What an operator wants of a server, beside its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerOrder {
    /// It serves.
    Up,
    /// It gets nothing, and its streams are asked to go.
    Down,
    /// It gets nothing new, and its streams are asked to go.
    Drain,
    /// Another weight; 0 counts as 1.
    Weight(u32),
}

impl Upstream {
    /// Changes a server, named by its address or by its name in the configuration, until the configuration of it changes.
    /// Its streams are asked to go at [`crate::UpstreamSettings::close_rate`] when it is no longer to have any; `live` are
    /// those of the process. Returns whether there is such a server.
    pub async fn set_server(&self, server: &str, order: ServerOrder, live: Option<&LiveStreams>) -> bool {
        let servers = self.state().servers.clone();
        let meant = |known: &&Arc<Server>| *known.address == *server || *known.name == *server;
        let mut any = false;
        for server in servers.iter().filter(meant) {
            any = true;
            let now = now();
            let change = match order {
                ServerOrder::Up => {
                    self.state().group.order(server.id, Duty::Serve, now);
                    StateChange::SetUp
                }
                ServerOrder::Down => {
                    self.state().group.order(server.id, Duty::Down, now);
                    StateChange::SetDown
                }
                ServerOrder::Drain => {
                    self.state().group.order(server.id, Duty::Drain, now);
                    StateChange::SetDrain
                }
                ServerOrder::Weight(weight) => {
                    self.state().group.weigh(server.id, weight);
                    StateChange::SetWeight
                }
            };
            let detail = if let ServerOrder::Weight(weight) = order { weight.to_string() } else { String::new() };
            self.changed(server, change, &detail);
            let Some(live) = live else { continue };
            match order {
                ServerOrder::Up => self.keep_streams(server, live).await,
                ServerOrder::Down => self.close_streams(server, Leave::ServerDown, live).await,
                ServerOrder::Drain => self.close_streams(server, Leave::ServerDrain, live).await,
                ServerOrder::Weight(_) => {}
            }
        }
        any
    }

    async fn close_streams(&self, server: &Server, why: Leave, live: &LiveStreams) {
        let filter = LiveFilter::server(&self.settings.name, &server.address);
        let pace = LeavePace { per_second: self.settings.close_rate, ..LeavePace::default() };
        live.close(&filter, why, pace).await;
    }

    /// What was asked to go and has not gone yet may stay.
    async fn keep_streams(&self, server: &Server, live: &LiveStreams) {
        let filter = LiveFilter::server(&self.settings.name, &server.address);
        live.keep(&filter, Leave::ServerDown).await;
        live.keep(&filter, Leave::ServerDrain).await;
    }

    /// What probes or comparisons once found says nothing when nobody looks any more.
    pub(crate) fn forget_unwatched(&self) {
        let mut state = self.state();
        let ids: Vec<PeerId> = state.servers.iter().map(|server| server.id).collect();
        for id in ids {
            if self.settings.probe.is_none() {
                state.group.mark(id, Mark::Unhealthy, false, now());
            }
            if self.settings.outlier.is_none() {
                state.group.mark(id, Mark::Ejected, false, now());
                self.chronicle.set_outlier(id, OutlierRecord::default());
            }
        }
    }
}
