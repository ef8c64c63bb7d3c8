//! What is heard from the cluster, on the broker's thread.

use std::sync::Arc;

use tidegate_cluster::{Heard, Pause};

use crate::node::Node;
use crate::signals;

/// Takes in what has happened. What comes back is to be waited for before the next: a worker whose mailbox is full has
/// the whole node wait, as it has the senders of a node that is alone.
pub(crate) fn heard(node: &Arc<Node>, heard: Heard) -> Option<Pause> {
    match heard {
        Heard::Signal { from, to, body } => signals::heard(node, from, to, &body),
        Heard::Followed { .. }
        | Heard::Published(_)
        | Heard::Leased { .. }
        | Heard::OutOfTouch { .. }
        | Heard::CaughtUp { .. }
        | Heard::NodeGone(_)
        | Heard::Connected(_) => {}
    }
    if node.can_publish() {
        return None;
    }
    let node = node.clone();
    Some(Box::pin(async move { node.publishable().await }))
}
