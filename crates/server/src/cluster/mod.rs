//! This process as one of many: who the others are, how they are reached, and which of them has a session.
//!
//! Invariants:
//! - what comes in at the internal listener has shown a certificate of the cluster, and goes no further than this process:
//!   a request makes one hop at most;
//! - what a client sent is passed on with a mark that it cannot take off, so that it is never taken for a node's own question.

mod identity;
mod pass;
mod settings;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rustc_hash::FxHashMap;
use tidegate_cluster::Unavailable;
use tidegate_cluster::membership::{Member, Members, MembersError, MembersThread, Membership, View};
use tidegate_cluster::redis::RedisSettings;
use tidegate_config as config;
use tidegate_metrics::Metrics;
use tidegate_outbound::Endpoint;
use tidegate_proxy::{RetryReasons, RetrySettings, ServerSettings, Upstream, UpstreamSettings};
use tidegate_realtime::{Node, PeerAddress};
use tidegate_session::SidKey;
use tidegate_transport::rustls::ServerConfig;
use tidegate_types::{NodeId, NodeNumber};
use tokio::sync::{oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::StartError;
use crate::plan::Plan;
use identity::Identity;
pub(crate) use pass::{Aim, Owner, inside, is_forwarded, pass_on, session_unknown, upgrades};
pub(crate) use settings::redis;

/// The name of the internal listener in logs and metrics.
pub(crate) const LISTENER: &str = "cluster";
/// On every request that a node passes on for a client.
pub(crate) const HOP: HeaderName = HeaderName::from_static("tidegate-hop");
const FORWARDED: HeaderValue = HeaderValue::from_static("1");
/// What discovered servers are called in metrics: their addresses come and go.
const SERVER: &str = "node";
/// A node in the same network answers in milliseconds, or not at all.
const CONNECT: Duration = Duration::from_secs(2);
/// The longest silence of a polling request's answer: a ping comes before, whatever [realtime] says of it in usual measures.
const POLL: Duration = Duration::from_secs(120);
/// A WebSocket is pinged by its node, and ended if nothing comes: what is silent for longer has been forgotten by both ends.
const TUNNEL: Duration = Duration::from_secs(24 * 3600);
/// How long a start waits for Redis.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the others are told how many connections there are.
const LOAD: Duration = Duration::from_secs(2);

/// One for each process that has a `[cluster]`.
pub(crate) struct Cluster {
    /// This process.
    pub id: NodeId,
    pub redis: RedisSettings,
    identity: Identity,
    sid_key: SidKey,
    zone: Box<str>,
    realtime: bool,
    members: OnceLock<Members>,
    roster: RwLock<Arc<Roster>>,
    metrics: Arc<Metrics>,
    /// Says all that this node holds again, if it holds anything.
    come_back: OnceLock<ComeBack>,
    /// How often this process became a member, as far as what it holds has been told.
    joins: AtomicU64,
}

/// Says all that a node holds again, after it was taken to be dead.
pub(crate) type ComeBack = Box<dyn Fn() -> oneshot::Receiver<Result<(), Unavailable>> + Send + Sync>;

/// The others, as requests need them.
#[derive(Default)]
struct Roster {
    me: u16,
    by_number: FxHashMap<u16, (Member, Arc<Upstream>)>,
    /// Where new sessions may begin.
    open: Vec<SocketAddr>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Cluster {
    /// What the config says, with its files read. Nothing is connected yet.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn new(config: &config::Config, metrics: &Arc<Metrics>) -> Result<Option<Arc<Self>>, StartError> {
        let Some(cluster) = &config.cluster else { return Ok(None) };
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(|error| StartError::Store(error.to_string()))?;
        let identity = Identity::new(cluster)?;
        Ok(Some(Arc::new(Self {
            id: NodeId(u64::from_ne_bytes(id)),
            redis: settings::redis(&cluster.redis, "[cluster]")?,
            sid_key: SidKey::new(&identity.sid_secret),
            identity,
            zone: cluster.zone.as_deref().unwrap_or_default().into(),
            realtime: config.realtime.as_ref().is_some_and(|it| it.broker == config::BrokerKind::Redis),
            members: OnceLock::new(),
            roster: RwLock::default(),
            metrics: metrics.clone(),
            come_back: OnceLock::new(),
            joins: AtomicU64::new(0),
        })))
    }

    /// Becomes a member. A realtime node cannot do without: its session ids have its number.
    ///
    /// # Errors
    /// Redis cannot be reached in time, or does not take this node.
    pub fn join(&self, config: &config::Config, bound: SocketAddr) -> Result<Option<MembersThread>, StartError> {
        let Some(cluster) = &config.cluster else { return Ok(None) };
        let me = settings::member(config, cluster, self.id, bound);
        let membership = Membership::new(me, settings::membership(cluster));
        let started = Members::start(self.redis.clone(), membership, self.metrics.clone());
        let (members, thread) = started.map_err(|error| match error {
            MembersError::Settings(error) => StartError::Config(format!("[cluster]: {error}")),
            MembersError::Thread(error) => StartError::Thread(error),
        })?;
        if self.realtime && members.wait_for_number(PATIENCE).is_none() {
            members.leave();
            return Err(StartError::Store(format!(
                "this node did not become a member of the cluster within {} s; the log says why (Redis cannot be reached, or its nodes speak another protocol)",
                PATIENCE.as_secs()
            )));
        }
        self.take(&members.view());
        let _ = self.members.set(members);
        Ok(Some(thread))
    }

    /// This node's number at present.
    pub fn number(&self) -> NodeNumber {
        NodeNumber(self.roster().me)
    }

    /// What session ids are made with: the same on all nodes.
    pub fn sid_secret(&self) -> &[u8; 32] {
        &self.identity.sid_secret
    }

    /// The TLS of the internal listener.
    pub fn server_tls(&self) -> &Arc<ServerConfig> {
        &self.identity.server
    }

    /// What is to be done when this node was taken to be dead, and is a member again.
    pub fn when_back(&self, come_back: ComeBack) {
        let _ = self.come_back.set(come_back);
    }

    /// Says again what this node holds, if that is necessary; tried again if it cannot be said now.
    async fn come_back(&self, view: &View) {
        let told = self.joins.load(Ordering::Relaxed);
        if view.joins <= told || !view.is_member {
            return;
        }
        if view.joins > 1
            && let Some(come_back) = self.come_back.get()
            && !matches!(come_back().await, Ok(Ok(())))
        {
            return;
        }
        self.joins.store(view.joins, Ordering::Relaxed);
    }

    /// Whether Redis answers.
    pub fn in_touch(&self) -> bool {
        self.members.get().is_some_and(|members| members.view().in_touch)
    }

    /// The membership; `None` while the process starts.
    pub fn members(&self) -> Option<&Members> {
        self.members.get()
    }

    fn roster(&self) -> Arc<Roster> {
        self.roster.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes up who the members are.
    fn take(&self, view: &View) {
        let before = self.roster();
        let mut roster = Roster { me: view.me.number.0, ..Roster::default() };
        let me = Some(&view.me).filter(|me| view.is_member && me.roles.realtime);
        let all: Vec<&Member> = view.others.iter().chain(me).filter(|member| member.roles.realtime).collect();
        for member in &all {
            let known = before.by_number.get(&member.number.0).filter(|(known, _)| known.address == member.address);
            let upstream = known.map_or_else(|| self.upstream_to(member), |(_, upstream)| upstream.clone());
            roster.by_number.insert(member.number.0, ((*member).clone(), upstream));
        }
        let open: Vec<&Member> = all.into_iter().filter(|member| !member.draining).collect();
        let near = open.iter().any(|member| !self.zone.is_empty() && member.zone == self.zone);
        let chosen = open.iter().filter(|member| !near || member.zone == self.zone);
        roster.open = chosen.map(|member| member.address).collect();
        *self.roster.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(roster);
    }

    /// Requests of one node's sessions go nowhere else.
    fn upstream_to(&self, member: &Member) -> Arc<Upstream> {
        let settings = UpstreamSettings {
            name: LISTENER.to_owned(),
            connect_timeout: CONNECT,
            read_timeout: POLL,
            tunnel_idle_timeout: TUNNEL,
            max_fails: 0,
            retry: RetrySettings { tries: 1, ..RetrySettings::default() },
            ..self.reached(UpstreamSettings::default())
        };
        let upstream = Upstream::new(settings, &self.metrics);
        upstream.discovered(&[member.address]);
        upstream
    }

    /// As nodes are reached.
    fn reached(&self, settings: UpstreamSettings) -> UpstreamSettings {
        UpstreamSettings {
            servers: vec![ServerSettings::at(SERVER)],
            discovered: true,
            stamp: Some((HOP, FORWARDED)),
            tls: Some(self.identity.upstream.clone()),
            http2: false,
            sticky: None,
            proxy_protocol: None,
            ..settings
        }
    }

    /// The settings of an upstream that discovers its servers.
    pub fn discovering(&self, settings: UpstreamSettings) -> UpstreamSettings {
        let mut settings = self.reached(settings);
        // A node that drains, and of which this one has not heard yet that it does, says so.
        settings.retry.on = settings.retry.on.and(RetryReasons::STATUS_503);
        settings
    }

    /// Tells an upstream that discovers its servers where they are.
    pub fn show(&self, upstream: &Upstream) {
        if upstream.settings().discovered {
            upstream.discovered(&self.roster().open);
        }
    }
}

/// Keeps everybody informed of who the members are. Ends with the plans.
pub(crate) async fn follow(cluster: Arc<Cluster>, mut plans: watch::Receiver<Arc<Plan>>, node: Option<Arc<Node>>) {
    let Some(members) = cluster.members.get().cloned() else { return };
    let mut views = members.watch();
    let mut tick = tokio::time::interval(LOAD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let view = views.borrow_and_update().clone();
        cluster.take(&view);
        for (_, upstream) in &plans.borrow_and_update().upstreams {
            cluster.show(upstream);
        }
        if let Some(node) = &node {
            cluster.tell(node, &view);
        }
        cluster.come_back(&view).await;
        loop {
            tokio::select! {
                changed = views.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                changed = plans.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                _ = tick.tick() => {
                    if let Some(node) = &node {
                        members.load(u64::try_from(node.health().connections).unwrap_or(u64::MAX));
                    }
                    cluster.come_back(&view).await;
                }
            }
        }
    }
}

impl Cluster {
    /// Tells the realtime server who its peers are, and that it has another number.
    fn tell(&self, node: &Node, view: &View) {
        let peer = |member: &Member| PeerAddress {
            id: member.id,
            number: member.number,
            name: (&*member.name).into(),
            endpoint: Arc::new(Endpoint::at(member.address, Some(self.identity.client.clone()))),
        };
        node.peers().set(view.others.iter().filter(|member| member.roles.realtime).map(peer).collect());
        if view.is_member {
            node.set_number(view.me.number);
        }
    }
}
