//! Which streams are asked to go when a config changes or an operator drains a part of the gateway, and how fast.

use std::sync::Arc;
use std::time::Duration;

use tidegate_config::Drain;
use tidegate_proxy::{Leave, LeavePace, LiveFilter, LiveStreams};

use crate::plan::Plan;

/// More than any gateway has; a list of so many is only asked for to be counted.
const ALL: usize = usize::MAX;

/// Asks the streams that the filter means to go: `rate` per second, or by what `[drain]` says.
pub(crate) async fn ask(
    live: &LiveStreams,
    filter: &LiveFilter,
    why: Leave,
    rate: Option<u32>,
    drain: &Drain,
) -> usize {
    let per_second = match rate {
        Some(rate) => rate,
        None if drain.rate > 0 => drain.rate,
        None => {
            // Over a third of the time they have: what is slow to go still has the rest of it.
            let window = (drain.timeout / 3).max(Duration::from_secs(1)).as_secs();
            let streams = u64::try_from(live.list(filter, ALL).await.len()).unwrap_or(u64::MAX);
            u32::try_from(streams.div_ceil(window)).unwrap_or(u32::MAX)
        }
    };
    live.close(filter, why, LeavePace { per_second, jitter: drain.jitter, at_most: ALL }).await
}

/// After a change of plans: streams whose route, upstream or server is no more go. All others live on with what they began
/// with.
pub(crate) async fn after(live: &LiveStreams, before: &Plan, now: &Plan) {
    let drain = &now.config.drain;
    for route in before.config.routes.iter().filter(|route| !now.has_route(&route.name)) {
        let filter = LiveFilter { route: Some(route.name.clone()), ..LiveFilter::default() };
        let asked = ask(live, &filter, Leave::RouteGone, None, drain).await;
        tell("route", &route.name, asked);
    }
    for upstream in &before.config.upstreams {
        let still = now.config.upstreams.iter().find(|other| other.name == upstream.name);
        let rate = Some(upstream.close_rate);
        let Some(still) = still else {
            let filter = LiveFilter { upstream: Some(upstream.name.clone()), ..LiveFilter::default() };
            let asked = ask(live, &filter, Leave::ServerDrain, rate, drain).await;
            tell("upstream", &upstream.name, asked);
            continue;
        };
        for server in &upstream.servers {
            let stays =
                still.servers.iter().any(|other| other.address == server.address && (!other.drain || server.drain));
            if !stays {
                let filter = LiveFilter::server(&upstream.name, &server.address);
                let asked = ask(live, &filter, Leave::ServerDrain, rate, drain).await;
                tell("server", &server.address, asked);
            }
        }
    }
}

fn tell(what: &'static str, name: &Arc<str>, streams: usize) {
    if streams > 0 {
        tracing::info!(what, name = &**name, streams, "no longer in use: its streams are asked to go");
    }
}
