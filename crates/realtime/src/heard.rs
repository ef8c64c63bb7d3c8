//! What is heard from the cluster, on the broker's thread.
//!
//! Each space's lock is taken for as long as one thing takes to be heard, as by a worker that publishes: under it the
//! deliveries enter the mailboxes, so that their order is the one in which they are heard.

use std::sync::Arc;

use tidegate_cluster::{Heard, Pause};
use tidegate_hub::Received;
use tidegate_types::SpaceKey;

use crate::node::{Node, SpaceCell, now_ms};
use crate::signals;

/// Takes in what has happened.
///
/// What comes back is to be waited for before the next: a worker whose mailbox is full has the broker wait, as it has the
/// senders of a node that is alone. The broker reads no further then, and what it cannot hold meanwhile it finds again
/// when it catches up; so nothing is dropped that could be recovered, and memory stays bounded by the mailboxes.
pub(crate) fn heard(node: &Arc<Node>, heard: Heard) -> Option<Pause> {
    take_in(node, heard);
    if node.can_publish() {
        return None;
    }
    let node = node.clone();
    Some(Box::pin(async move { node.publishable().await }))
}

fn take_in(node: &Arc<Node>, heard: Heard) {
    let now = now_ms();
    match heard {
        Heard::Published(publication) => {
            // Rooms are followed for somebody in an open space only.
            let Some(cell) = node.known(&publication.space) else { return };
            let received = node.with_space(&cell, |space, effects| space.receive(publication, now, effects));
            settle(node, &cell, received);
        }
        Heard::Followed { space, room, epoch, as_of, head, leases } => {
            let Some(cell) = node.known(&space) else { return };
            let received = node
                .with_space(&cell, |space, effects| space.followed(&room, epoch, as_of, head, leases, now, effects));
            settle(node, &cell, received);
            if cell.lock().is_open(&room) {
                cell.opening.opened(&room);
            }
        }
        Heard::Leased { space, room, node: of, user, info } => {
            let Some(cell) = node.known(&space) else { return };
            node.with_space(&cell, |space, effects| space.leased(&room, of, &user, info, now, effects));
        }
        Heard::Signal { from, to, body } => signals::heard(node, from, to, &body),
        Heard::OutOfTouch { space } => {
            tracing::debug!(namespace = space.namespace.as_str(), "out of touch with the cluster");
            if let Some(cell) = node.known(&space) {
                cell.lock().out_of_touch();
            }
        }
        Heard::CaughtUp { space, epoch, as_of, rooms } => caught_up(node, &space, |cell| {
            node.with_space(cell, |space, effects| space.caught_up(epoch, as_of, rooms, now, effects));
        }),
        Heard::LeasesEnded { space, room, node: of } => {
            let Some(cell) = node.known(&space) else { return };
            node.with_space(&cell, |space, effects| space.leases_ended(&room, of, now, effects));
        }
        Heard::NodeGone(gone) => tracing::info!(node = %gone, "a node of the cluster is gone"),
        Heard::Connected(connected) => {
            let Some(cluster) = &node.cluster else { return };
            if connected {
                tracing::info!("the cluster's broker is connected");
                cluster.is_back.notify_waiters();
                cluster.restoring.begin_soon();
                node.exchange_revocations();
            } else {
                tracing::warn!("the cluster's broker cannot be reached; what needs it is refused until it is back");
                node.wait_for_no_record();
            }
        }
    }
}

fn caught_up(node: &Node, space: &SpaceKey, take_in: impl FnOnce(&SpaceCell)) {
    let Some(cell) = node.known(space) else { return };
    take_in(&cell);
    let open = {
        let space = cell.lock();
        cell.opening.rooms().into_iter().filter(|room| space.is_open(room)).collect::<Vec<_>>()
    };
    open.iter().for_each(|room| cell.opening.opened(room));
    cell.in_touch.notify_waiters();
}

/// What does not fit what was heard before has the broker begin again with the space.
fn settle(node: &Node, cell: &SpaceCell, received: Received) {
    match received {
        Received::Hole | Received::OtherEpoch => {
            if let Some(cluster) = &node.cluster {
                cluster.broker.catch_up(&cell.key);
            }
        }
        Received::Taken | Received::Stale | Received::NotFollowed | Received::Opening | Received::OutOfTouch => {}
    }
}

#[cfg(test)]
mod tests {
    use tidegate_auth::{KeySet, LiveKeys};
    use tidegate_cluster::model::Limits;
    use tidegate_cluster::{Broker, History, MemoryCluster, system_clock};
    use tidegate_metrics::Metrics;
    use tidegate_types::{NodeId, Phase, ShardId};
    use tokio::sync::watch;

    use super::*;
    use crate::call::Call;
    use crate::mailbox::Item;
    use crate::settings::Settings;

    #[tokio::test]
    async fn a_worker_that_is_behind_has_the_broker_wait_until_it_is_not() {
        let cluster = MemoryCluster::start(Limits::default(), system_clock()).unwrap();
        let (_phase, phase) = watch::channel(Phase::Serving);
        let broker = |on_written, on_heard| {
            let broker = cluster.node(NodeId(1), on_heard, on_written);
            Ok((broker.clone() as Arc<dyn History>, broker as Arc<dyn Broker>))
        };
        let keys = LiveKeys::new(KeySet::hs256([7; 32]));
        let node = Node::open_in_cluster(Settings::default(), broker, keys, Metrics::new(), phase).unwrap();
        let mailbox = node.mailbox(ShardId(0)).unwrap();
        assert!(heard(&node, Heard::Connected(true)).is_none());
        let mut pushed = 0;
        while mailbox.has_room() {
            mailbox.push(Item::Call(Box::new(Call::Nothing)));
            pushed += 1;
        }
        let pause = heard(&node, Heard::Connected(true)).expect("a pause");
        let drained = async { mailbox.take(&mut Vec::new(), pushed) };
        tokio::join!(pause, drained);
        assert!(heard(&node, Heard::Connected(true)).is_none());
    }
}
