//! Zones that the nodes of a cluster share: each tells what it has let through, and hears what all have. See
//! `crates/balance/src/shared.rs` for what that means.

use std::sync::Arc;
use std::time::Duration;

use tidegate_cluster::redis::{BrokerSettings, RedisBroker};
use tidegate_cluster::{Broker, Counted};
use tidegate_config::Config;
use tidegate_metrics::Metrics;
use tidegate_realtime::Node;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::StartError;
use crate::cluster::Cluster;
use crate::plan::Plan;
use crate::zones::Zone;

/// How often nodes tell each other. The bound of docs/limits.md depends on it.
const INTERVAL: Duration = Duration::from_millis(50);
/// Keys of one call: the broker serves nobody else meanwhile.
const MOST_AT_ONCE: usize = 1_000;

/// What the zones are told through: the realtime server's broker, or, on a node without one, a connection of their own.
/// `None` where nothing is shared.
///
/// # Errors
/// What the config says of Redis cannot work.
pub(crate) fn broker(
    config: &Config,
    node: Option<&Node>,
    cluster: Option<&Cluster>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<dyn Broker>>, StartError> {
    let of_node = node.and_then(Node::broker);
    let Some(cluster) = cluster.filter(|_| of_node.is_none() && config.zones.iter().any(|zone| zone.shared)) else {
        return Ok(of_node);
    };
    let (redis, settings, metrics) = (cluster.redis.clone(), BrokerSettings::default(), metrics.clone());
    let broker = RedisBroker::start(redis, settings, cluster.id, metrics, Arc::new(|_| None), Arc::new(|_| {}));
    let broker = broker.map_err(|error| StartError::Store(error.to_string()))?;
    Ok(Some(Arc::new(broker)))
}

/// Keeps the shared zones of every plan in step with the other nodes, for as long as there are plans.
pub(crate) async fn keep(plans: watch::Receiver<Arc<Plan>>, broker: Arc<dyn Broker>) {
    let mut turn = interval(INTERVAL);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while plans.has_changed().is_ok() {
        turn.tick().await;
        if !broker.is_connected() {
            continue;
        }
        let zones: Vec<Arc<Zone>> = plans.borrow().limits.zones.clone();
        for zone in zones {
            tell(&zone, &*broker).await;
        }
    }
}

async fn tell(zone: &Zone, broker: &dyn Broker) {
    let Some(rate) = zone.shared_rate() else { return };
    let told = zone.tell();
    for told in told.chunks(MOST_AT_ONCE) {
        let keys = told.iter().map(|(_, told)| (Box::from(told.key.to_bytes()), told.requests)).collect();
        let counted = Counted { limit: (&**zone.name()).into(), rate, told: keys };
        let heard = broker.count(counted).await.ok().and_then(Result::ok);
        zone.hear(told, heard.as_deref().filter(|heard| heard.len() == told.len()));
    }
}
