//! The way in: connects the bridges to their Redis, and takes what comes one by one, so that a join comes before the
//! broadcast that was sent after it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tidegate_cluster::redis::interop::{self, Arrival, Arrivals, Counts};
use tidegate_metrics::Interop;
use tidegate_types::RoomName;
use tokio::time::{MissedTickBehavior, interval};

use super::adapter::Reading;
use super::{Bridge, InteropSettings, hear};
use crate::node::{Node, OpenError, SpaceCell};

/// How often is swept.
const TICK: Duration = Duration::from_secs(1);

/// Connects the node's bridges, if it has some.
pub(crate) fn start(node: &Arc<Node>, settings: &InteropSettings, bridges: &[Arc<Bridge>]) -> Result<(), OpenError> {
    let mut served = Vec::with_capacity(bridges.len());
    for bridge in bridges {
        served.push((node.space(&bridge.key)?, bridge.clone()));
    }
    let mut streams: Vec<String> =
        bridges.iter().filter_map(|bridge| bridge.adapter.stream().map(str::to_owned)).collect();
    streams.sort_unstable();
    streams.dedup();
    let counts = Arc::new(Counts::default());
    let (weak, watched) = (Arc::downgrade(node), counts.clone());
    let wire = interop::start(settings.redis.clone(), streams, counts, move |arrivals| {
        attend(weak, served, arrivals, watched)
    })
    .map_err(OpenError::Interop)?;
    for bridge in bridges {
        bridge.adapter.sources().into_iter().for_each(|source| wire.listen(source));
        // The first and only wire: a node starts once.
        let _ = bridge.wire.set(wire.clone());
    }
    Ok(())
}

type Served = Vec<(Arc<SpaceCell>, Arc<Bridge>)>;

async fn attend(node: Weak<Node>, served: Served, mut arrivals: Arrivals, counts: Arc<Counts>) {
    // The bridges hold the wire whose end ends this: only as long as the node is there may they be held.
    let served: Vec<_> =
        served.into_iter().map(|(cell, bridge)| (Arc::downgrade(&cell), Arc::downgrade(&bridge))).collect();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let arrival = tokio::select! {
            arrival = arrivals.next() => arrival,
            _ = ticks.tick() => {
                if node.strong_count() == 0 {
                    return;
                }
                served.iter().filter_map(|(cell, _)| cell.upgrade()).for_each(|cell| cell.asked.sweep());
                if let Some(bridge) = served.iter().find_map(|(_, bridge)| bridge.upgrade()) {
                    bridge.count_dropped(&counts.dropped_in, Interop::DroppedIn);
                    bridge.count_dropped(&counts.dropped_out, Interop::DroppedOut);
                }
                continue;
            }
        };
        let Some(arrival) = arrival else { return };
        match &arrival {
            Arrival::Connected => tracing::info!("connected to the Redis of the Node servers"),
            Arrival::Lost | Arrival::Message { .. } | Arrival::Entry { .. } => {}
        }
        let Some(node) = node.upgrade() else { return };
        for (cell, bridge) in &served {
            let (Some(cell), Some(bridge)) = (cell.upgrade(), bridge.upgrade()) else { return };
            match bridge.adapter.read(&arrival, |room| bridge.knows(&cell, room)) {
                Reading::NotOurs => {}
                Reading::Nobody => break,
                Reading::Heard(Ok(heard)) => {
                    // A stream is shared by all namespaces: each bridge looks for its own.
                    let shared = matches!(arrival, Arrival::Entry { .. });
                    hear::hear(&node, &cell, &bridge, heard).await;
                    if !shared {
                        break;
                    }
                }
                Reading::Heard(Err(error)) => {
                    bridge.count(Interop::Invalid);
                    tracing::debug!(%error, "something on the channels of the Node servers is not of theirs");
                    break;
                }
            }
        }
    }
}

impl Bridge {
    fn count_dropped(&self, counted: &AtomicU64, outcome: Interop) {
        let count = counted.swap(0, Ordering::Relaxed);
        if count > 0 {
            let labels = tidegate_metrics::InteropLabels { outcome };
            self.metrics.interop_messages.get_or_create(&labels).inc_by(count);
        }
    }

    /// Whether somebody here is in the room, or is it.
    fn knows(&self, cell: &SpaceCell, room: &str) -> bool {
        self.sockets_here().contains_key(room)
            || RoomName::try_from(room).is_ok_and(|room| cell.lock().find(&room).is_some())
    }
}
