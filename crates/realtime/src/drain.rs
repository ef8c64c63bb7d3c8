//! Leaving without losing anybody: everyone is told, then closed one by one, and reconnects elsewhere at a time of its own.

use std::rc::Rc;
use std::time::Duration;

use tidegate_types::{CloseReason, Phase};
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::connection::Io;
use crate::id::Jitter;
use crate::rooms_api;
use crate::shard::Shard;

/// Connections are closed in steps of this length.
const STEP: Duration = Duration::from_millis(20);

pub(crate) fn start(shard: &Rc<Shard>) {
    spawn_local(watch(shard.clone()));
}

async fn watch(shard: Rc<Shard>) {
    let mut phase = shard.node.phase.clone();
    if phase.wait_for(|phase| *phase >= Phase::Draining).await.is_err() {
        return;
    }
    let mut closing = shard.node.phase.clone();
    tokio::select! {
        () = drain(&shard) => {}
        _ = closing.wait_for(|phase| *phase == Phase::Closing) => {}
    }
    // What came in while it drained, or is left at the deadline.
    end_all(&shard);
    let _ = closing.wait_for(|phase| *phase == Phase::Closing).await;
    end_all(&shard);
}

fn end_all(shard: &Rc<Shard>) {
    for conn in shard.conn_ids().into_iter().filter_map(|id| shard.conn(id)) {
        shard.end(&conn, CloseReason::ServerShutdown);
    }
}

async fn drain(shard: &Rc<Shard>) {
    let mut random = Jitter::new();
    let ids = shard.conn_ids();
    let least = shard.node.settings.reconnect_in_ms.max(1);
    for conn in ids.iter().filter_map(|id| shard.conn(*id)) {
        let wait = random.between(least, 5 * least);
        if let Io::Events(events) = &*conn.io.borrow() {
            events.retry(wait);
            continue;
        }
        rooms_api::announce_restart(shard, &conn, wait);
    }
    let steps = u128::from(shard.node.settings.drain_spread_ms).div_ceil(STEP.as_millis()).max(1);
    let share = ids.len().div_ceil(usize::try_from(steps).unwrap_or(1)).max(1);
    for some in ids.chunks(share) {
        sleep(STEP).await;
        for conn in some.iter().filter_map(|id| shard.conn(*id)) {
            shard.end(&conn, CloseReason::ServerShutdown);
        }
    }
}
