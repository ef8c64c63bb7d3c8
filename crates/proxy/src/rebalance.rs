//! Streams do not move by themselves when a server comes (back): some of those on the other servers are asked to go, slowly,
//! so that the newcomer gets its part of them when they connect again.

use std::sync::Weak;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tidegate_balance::PeerId;

use crate::upstream::now;
use crate::{Leave, LeavePace, LiveFilter, LiveStreams, Upstream};

/// Whether each server was well at the last look.
type Healthy = FxHashMap<PeerId, bool>;

/// How many streams should go from which address.
type Moves = Vec<(Box<str>, u32)>;

/// Between two looks at who is there.
const LOOK: Duration = Duration::from_secs(1);

impl Upstream {
    /// Whenever a server comes (back), asks the streams that others have above their fair part to go, at
    /// [`crate::UpstreamSettings::rebalance_rate`]. Until the upstream is gone; ends at once if the rate is 0. For one task of
    /// the process; `live` are its streams.
    pub async fn rebalance(upstream: Weak<Self>, live: LiveStreams) {
        let mut before: Option<Healthy> = None;
        loop {
            let Some(alive) = upstream.upgrade() else { return };
            let (name, rate) = (alive.settings.name.clone(), alive.settings.rebalance_rate);
            if rate == 0 {
                return;
            }
            let (healthy, moves) = alive.moves(before.as_ref());
            // Who waits does not keep the upstream alive.
            drop(alive);
            before = Some(healthy);
            let total: u64 = moves.iter().map(|(_, count)| u64::from(*count)).sum();
            for (address, count) in moves {
                let part = u64::from(rate) * u64::from(count) / total.max(1);
                let pace = LeavePace {
                    per_second: u32::try_from(part).unwrap_or(rate).max(1),
                    at_most: usize::try_from(count).unwrap_or(usize::MAX),
                    ..LeavePace::default()
                };
                live.close(&LiveFilter::server(&name, &address), Leave::Rebalance, pace).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Who is well now, and how many should go from which address if somebody came since.
    fn moves(&self, before: Option<&Healthy>) -> (Healthy, Moves) {
        let now = now();
        let state = self.state();
        let healthy: Healthy = state.group.peers(now).map(|peer| (peer.id, peer.is_healthy())).collect();
        let came = |id: &PeerId| before.is_some_and(|before| before.get(id) != Some(&true));
        let moves = if healthy.iter().any(|(id, healthy)| *healthy && came(id)) {
            let excess = state.group.excess(now);
            excess
                .into_iter()
                .filter_map(|(index, count)| Some(((&*state.servers.get(index)?.address).into(), count)))
                .collect()
        } else {
            Vec::new()
        };
        (healthy, moves)
    }
}
