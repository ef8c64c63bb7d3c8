//! From a config to what workers look things up in. A plan never changes: a reload makes a new one, and who still needs
//! something of the old one (a stream its route, say) keeps that part alive.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use tidegate_balance::RouteTable;
use tidegate_config::{Config, Listener, RealIp};
use tidegate_metrics::Metrics;
use tidegate_proxy::{LiveStreams, Upstream};

use crate::StartError;
use crate::access_log::{AccessLog, Log};
use crate::admission::{self, Gate, Limits};
use crate::client::Threshold;
use crate::cluster::{self, Cluster};
use crate::edge_tokens::EdgeTokens;
use crate::route::{Context, Redirect, Route, pattern};
use crate::stream_terms::Policies;
use crate::tls::Termination;
use crate::upstreams;

/// What one listener serves. Shared by all workers.
#[derive(Debug)]
pub(crate) struct Site {
    /// The listener's name.
    pub name: Arc<str>,
    /// As configured.
    pub address: SocketAddr,
    /// Where lines of requests without a route go.
    pub log: Option<Arc<Log>>,
    pub routes: RouteTable<Arc<Route>>,
    pub realtime: bool,
    /// What is asked of clients of the realtime server; `None` is nothing.
    pub realtime_gate: Option<Arc<Gate>>,
    pub threshold: Threshold,
    /// Everything is sent there, nothing is served.
    pub redirect: Option<Redirect>,
    /// For routes that want one.
    pub tokens: Option<Arc<EdgeTokens>>,
    /// Its TLS, if it speaks any.
    pub tls: Option<Arc<Termination>>,
    /// It is the one at which the other nodes of the cluster come in, and nobody else.
    pub internal: bool,
}

/// What makes a listener the same one after a reload: its address, and its name if the kernel chose the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    address: SocketAddr,
    name: Option<Arc<str>>,
}

impl Place {
    pub fn of(listener: &Listener) -> Self {
        let name = (listener.address.port() == 0).then(|| listener.name.clone());
        Self { address: listener.address, name }
    }
}

/// A part of the gateway that can be taken out of use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Listener(Arc<str>),
    Route(Arc<str>),
}

/// What plans are made with and what outlives them: one for each process.
pub(crate) struct Shared {
    pub metrics: Arc<Metrics>,
    pub logs: Arc<AccessLog>,
    pub live: LiveStreams,
    pub policies: Policies,
    /// Set if the process is one of many.
    pub cluster: Option<Arc<Cluster>>,
}

/// All that workers need of one config.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Counts reloads; the first plan is 1.
    pub generation: u64,
    pub config: Arc<Config>,
    /// One for each listener of the config, in its order.
    pub sites: Vec<Arc<Site>>,
    /// Where the other nodes of the cluster come in.
    pub internal: Option<(Listener, Arc<Site>)>,
    pub upstreams: Vec<(Arc<str>, Arc<Upstream>)>,
    /// Whose tokens count at the edge.
    pub tokens: Option<Arc<EdgeTokens>>,
    /// What is out of use, whatever the config says. Survives reloads.
    pub drained: Vec<Part>,
    pub limits: Limits,
}

impl Plan {
    /// The plan for a config, after another one: an upstream whose settings are the same stays what it is, with all that it
    /// knows of its servers.
    ///
    /// # Errors
    /// A config built in code names something that does not exist, or a log's file cannot be opened.
    pub fn new(
        config: Arc<Config>,
        before: Option<&Self>,
        drained: Vec<Part>,
        shared: &Shared,
    ) -> Result<Self, StartError> {
        let upstreams = config.upstreams.iter().map(|upstream| {
            let mut settings = upstreams::settings(upstream);
            settings.tls = upstreams::tls(upstream)?;
            if let (Some(_), Some(cluster)) = (upstream.discover, &shared.cluster) {
                settings = cluster.discovering(settings);
            }
            let known = before.and_then(|before| before.upstream(&upstream.name));
            let upstream_now = match known {
                Some(known) if *known.settings() == settings => known.clone(),
                Some(known) => known.succeeded_by(settings, &shared.metrics),
                None => Upstream::new(settings, &shared.metrics),
            };
            if let Some(cluster) = &shared.cluster {
                cluster.show(&upstream_now);
            }
            Ok((upstream.name.clone(), upstream_now))
        });
        let upstreams = upstreams.collect::<Result<Vec<_>, StartError>>()?;
        let limits = Limits::new(&config, before.map(|before| &before.limits), &shared.metrics)?;
        let tokens = config.jwt.as_ref().map(|jwt| {
            // Keys that were fetched stay; there would be a moment without them else.
            let known = before.and_then(|before| Some((before.config.jwt.as_ref()?, before.tokens.as_ref()?)));
            let known = known.filter(|(known, _)| known.tokens == jwt.tokens).map(|(_, tokens)| tokens.keys().clone());
            EdgeTokens::new(jwt, known).map(Arc::new)
        });
        let tokens = tokens.transpose().map_err(|error| StartError::Config(error.to_string()))?;
        let context = Context { config: &config, upstreams: &upstreams, limits: &limits, drained: &drained, shared };
        let site = |listener: &Listener| {
            let known = before.and_then(|before| before.site(&listener.name)).and_then(|site| site.tls.as_ref());
            let tls = Termination::of(listener, known, &shared.metrics)?;
            let threshold = Threshold::new(&config, listener, earlier(before, listener), &limits, &shared.metrics)?;
            site(context, listener, threshold, tokens.clone()).map(|site| Arc::new(Site { tls, ..site }))
        };
        let sites = config.listeners.iter().map(site).collect::<Result<_, _>>()?;
        let internal = internal(&config, before, &limits, shared)?;
        let generation = before.map_or(1, |before| before.generation + 1);
        Ok(Self { generation, config, sites, internal, upstreams, tokens, drained, limits })
    }

    /// The listeners that are in use, with what they serve.
    pub fn listeners(&self) -> impl Iterator<Item = (&Listener, &Arc<Site>)> {
        let internal = self.internal.iter().map(|(listener, site)| (listener, site));
        let used = self.config.listeners.iter().zip(&self.sites).filter(|(listener, _)| self.uses(listener));
        used.chain(internal)
    }

    /// Whether a listener is in use.
    pub fn uses(&self, listener: &Listener) -> bool {
        !self.drained.contains(&Part::Listener(listener.name.clone()))
    }

    /// Whether there is a route of that name.
    pub fn has_route(&self, name: &str) -> bool {
        self.config.routes.iter().any(|route| *route.name == *name)
    }

    /// Whether the config has that part.
    pub fn has(&self, part: &Part) -> bool {
        match part {
            Part::Listener(name) => self.config.listeners.iter().any(|listener| listener.name == *name),
            Part::Route(name) => self.has_route(name),
        }
    }

    /// What the listener of that name serves.
    fn site(&self, listener: &str) -> Option<&Arc<Site>> {
        self.sites.iter().find(|site| *site.name == *listener)
    }

    /// An upstream by its name.
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|(known, _)| **known == *name).map(|(_, upstream)| upstream)
    }
}

/// What a listener grants by the plan before.
fn earlier<'a>(before: Option<&'a Plan>, listener: &Listener) -> Option<&'a Threshold> {
    let before = before?;
    let index = before.config.listeners.iter().position(|known| Place::of(known) == Place::of(listener))?;
    before.sites.get(index).map(|site| &site.threshold)
}

/// What a listener serves, according to the config.
fn site(
    context: Context<'_>,
    listener: &Listener,
    threshold: Threshold,
    tokens: Option<Arc<EdgeTokens>>,
) -> Result<Site, StartError> {
    let Context { config, limits, shared, .. } = context;
    let served = config.routes.iter().filter(|route| route.serves(&listener.name));
    let compiled = served.map(|route| Ok((route, Arc::new(Route::new(context, route, listener)?))));
    let compiled: Vec<_> = compiled.collect::<Result<_, StartError>>()?;
    let entries = compiled.iter().flat_map(|(route, compiled)| {
        let any = route.hosts.is_empty().then_some(None);
        let hosts = any.into_iter().chain(route.hosts.iter().map(|host| Some(&**host)));
        hosts.map(|host| (host, pattern(&route.path), compiled.specificity(), compiled.clone()))
    });
    let fault = |error: &dyn std::fmt::Display| {
        StartError::Config(format!("the routes of the listener {:?}: {error}", listener.name))
    };
    let redirect = listener.redirect_https.map(|port| {
        let port = if port == 443 { String::new() } else { format!(":{port}") };
        Redirect::new(&format!("https://{{host}}{port}{{uri}}"), StatusCode::PERMANENT_REDIRECT)
    });
    Ok(Site {
        address: listener.address,
        name: listener.name.clone(),
        log: shared.logs.of(&config.log, None)?,
        routes: RouteTable::new(entries).map_err(|error| fault(&error))?,
        realtime: config.realtime.as_ref().is_some_and(|realtime| realtime.listeners.contains(&listener.name)),
        realtime_gate: admission::gate(None, listener, limits, &shared.metrics)?,
        threshold,
        redirect: redirect.transpose().map_err(|error| fault(&error))?,
        tokens,
        tls: None,
        internal: false,
    })
}

/// Where the other nodes come in, if there are any. It stays what it was at the start: `[cluster]` waits for a restart.
fn internal(
    config: &Config,
    before: Option<&Plan>,
    limits: &Limits,
    shared: &Shared,
) -> Result<Option<(Listener, Arc<Site>)>, StartError> {
    let Some(cluster) = &shared.cluster else { return Ok(None) };
    let known = before.and_then(|before| before.internal.as_ref());
    let listener = match (known, &config.cluster) {
        (Some((listener, _)), _) => listener.clone(),
        (None, Some(cluster)) => Listener {
            trusted_proxies: vec!["0.0.0.0/0".into(), "::/0".into()],
            real_ip: RealIp::XRealIp,
            http2: false,
            ..Listener::new(cluster::LISTENER, cluster.internal_listen)
        },
        (None, None) => return Ok(None),
    };
    let threshold = known.map(|(_, site)| &site.threshold);
    let tls = known.and_then(|(_, site)| site.tls.clone());
    let tls =
        tls.unwrap_or_else(|| Termination::of_nodes(&listener.name, cluster.server_tls().clone(), &shared.metrics));
    let site = Site {
        name: listener.name.clone(),
        address: listener.address,
        log: shared.logs.of(&config.log, None)?,
        routes: RouteTable::new([]).map_err(|error| StartError::Config(error.to_string()))?,
        realtime: true,
        realtime_gate: None,
        threshold: Threshold::of_nodes(config, &listener, threshold, limits, &shared.metrics)?,
        redirect: None,
        tokens: None,
        tls: Some(tls),
        internal: true,
    };
    Ok(Some((listener, Arc::new(site))))
}
