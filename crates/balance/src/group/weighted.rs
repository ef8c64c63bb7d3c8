//! Smooth weighted round robin, as nginx's `ngx_http_upstream_round_robin.c`.

use tidegate_types::Millis;

use super::peer::Peer;
use super::{Group, Tried};

/// Each peer's current weight grows by its share; the largest is taken and pays the sum. 5, 1, 1 gives a a b a c a a.
pub(super) fn smooth(peers: &mut [Peer], now: Millis, may: impl Fn(usize, &Peer) -> bool) -> Option<usize> {
    let mut total = 0i64;
    let mut best: Option<(usize, i64)> = None;
    for (index, peer) in peers.iter_mut().enumerate() {
        if !may(index, peer) {
            continue;
        }
        let share = peer.share(now);
        peer.current += share;
        total += share;
        peer.recover();
        if best.is_none_or(|(_, current)| peer.current > current) {
            best = Some((index, peer.current));
        }
    }
    let (index, _) = best?;
    if let Some(peer) = peers.get_mut(index) {
        peer.current -= total;
    }
    Some(index)
}

impl Group {
    pub(super) fn round_robin(&mut self, tried: &Tried, now: Millis) -> Option<usize> {
        let single = self.peers.len() == 1;
        [false, true].into_iter().find_map(|backup| {
            smooth(&mut self.peers, now, |_, peer| {
                peer.settings.backup == backup && !tried.contains(peer.id) && peer.serves(single, now)
            })
        })
    }
}
