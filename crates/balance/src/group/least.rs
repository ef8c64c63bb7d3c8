//! The server with the least to do: by live connections, or by how long it would take.

use std::cmp::Ordering;

use tidegate_types::Millis;

use super::peer::Peer;
use super::weighted::smooth;
use super::{Group, Tried};

impl Group {
    /// nginx's `ngx_http_upstream_least_conn_module.c`: connections for the weight, compared without division.
    pub(super) fn least_conn(&mut self, tried: &Tried, now: Millis) -> Option<usize> {
        self.least(tried, now, |peer, other| {
            let (mine, its) = (i128::from(peer.load.live()), i128::from(other.load.live()));
            (mine * i128::from(other.ramped(now))).cmp(&(its * i128::from(peer.ramped(now))))
        })
    }

    /// The product of smoothed latency and what would be under way, for the weight (as Finagle's peak EWMA balancer).
    pub(super) fn least_time(&mut self, tried: &Tried, now: Millis) -> Option<usize> {
        self.least(tried, now, |peer, other| cost(peer, now).total_cmp(&cost(other, now)))
    }

    /// The first of the least by `compare`; if there are several, round robin among them.
    fn least(&mut self, tried: &Tried, now: Millis, compare: impl Fn(&Peer, &Peer) -> Ordering) -> Option<usize> {
        for backup in [false, true] {
            let may =
                |peer: &Peer| peer.settings.backup == backup && !tried.contains(peer.id) && peer.serves(false, now);
            let mut best: Option<(usize, &Peer)> = None;
            let mut many = false;
            for (index, peer) in self.peers.iter().enumerate().filter(|(_, peer)| may(peer)) {
                match best.map(|(_, best)| compare(peer, best)) {
                    None | Some(Ordering::Less) => (best, many) = (Some((index, peer)), false),
                    Some(Ordering::Equal) => many = true,
                    Some(Ordering::Greater) => {}
                }
            }
            let Some((index, least)) = best else { continue };
            if !many {
                return Some(index);
            }
            let least = least.clone();
            return smooth(&mut self.peers, now, |_, peer| may(peer) && compare(peer, &least) == Ordering::Equal);
        }
        None
    }
}

fn cost(peer: &Peer, now: Millis) -> f64 {
    let live = f64::from(peer.load.live());
    #[expect(clippy::cast_precision_loss, reason = "weights are far below 2^52")]
    let weight = peer.ramped(now) as f64;
    peer.latency.expected(peer.load.live(), now) * (live + 1.0) / weight
}
