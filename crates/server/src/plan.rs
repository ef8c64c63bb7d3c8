use std::sync::Arc;

use tidegate_balance::RouteTable;
use tidegate_config::{Config, Listener};
use tidegate_metrics::Metrics;
use tidegate_proxy::{RouteMetrics, ServerSettings, Upstream, UpstreamSettings};

use crate::StartError;

/// Where a request of a route goes, and where it is counted.
#[derive(Debug)]
pub(crate) struct Route {
    pub name: Arc<str>,
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<RouteMetrics>,
}

/// What one listener serves. Shared by all workers.
#[derive(Debug)]
pub(crate) struct Site {
    pub routes: RouteTable<Route>,
    pub realtime: bool,
}

/// The upstreams of the config, by their place in it.
pub(crate) fn upstreams(config: &Config, metrics: &Metrics) -> Vec<(Arc<str>, Arc<Upstream>)> {
    let upstream = |upstream: &tidegate_config::Upstream| {
        let settings = UpstreamSettings {
            name: upstream.name.to_string(),
            servers: upstream
                .servers
                .iter()
                .map(|server| ServerSettings { address: server.address.to_string(), weight: server.weight })
                .collect(),
            connect_timeout: upstream.connect_timeout,
            read_timeout: upstream.read_timeout,
            send_timeout: upstream.send_timeout,
            handshake_timeout: upstream.handshake_timeout,
            stream_timeout: upstream.stream_timeout,
            tunnel_idle_timeout: upstream.tunnel_idle_timeout,
            keepalive_idle: upstream.keepalive,
            keepalive_timeout: upstream.keepalive_timeout,
            keepalive_requests: upstream.keepalive_requests,
            max_fails: upstream.max_fails,
            fail_timeout: upstream.fail_timeout,
        };
        (upstream.name.clone(), Upstream::new(settings, metrics))
    };
    config.upstreams.iter().map(upstream).collect()
}

/// What a listener serves, according to the config.
pub(crate) fn site(
    config: &Config,
    listener: &Listener,
    upstreams: &[(Arc<str>, Arc<Upstream>)],
    metrics: &Metrics,
) -> Result<Site, StartError> {
    let mut routes = RouteTable::new();
    for route in &config.routes {
        if route.listener.as_ref().is_some_and(|name| *name != listener.name) {
            continue;
        }
        let found = upstreams.iter().find(|(name, _)| *name == route.upstream);
        // A Config read from a file has no dangling names; one built in code may.
        let (_, upstream) = found.ok_or_else(|| {
            StartError::Config(format!(
                "route {:?} names the upstream {:?}, which does not exist",
                route.name, route.upstream
            ))
        })?;
        let metrics = metrics.route_to(&route.name, &route.upstream);
        let target = Route { name: route.name.clone(), upstream: upstream.clone(), metrics };
        routes
            .insert(route.host.as_deref(), &route.path, target)
            .map_err(|error| StartError::Config(format!("route {:?}: {error}", route.name)))?;
    }
    let realtime = config.realtime.as_ref().is_some_and(|realtime| realtime.listeners.contains(&listener.name));
    Ok(Site { routes, realtime })
}
