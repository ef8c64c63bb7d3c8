//! Rooms that this node does not follow, looked at for somebody who asks from outside of them.

use std::sync::Arc;

use tidegate_cluster::{Look, Unavailable};
use tidegate_hub::merge_leases;
use tidegate_types::{PresenceInfo, RoomName};

use crate::node::{Node, SpaceCell};

/// Who is in a room.
#[derive(Debug, Default)]
pub(crate) struct Present {
    /// As many as were asked for.
    pub listed: Vec<PresenceInfo>,
    /// How many there are.
    pub count: usize,
    /// It cannot be known now who is there by way of other nodes.
    pub is_partial: bool,
}

/// Who is in the room as far as this node hears of it; `None` if it does not.
pub(crate) fn present_here(space: &SpaceCell, room: &RoomName, limit: usize) -> Option<Present> {
    let mut hub = space.lock();
    if !hub.is_open(room) || !hub.is_in_touch() {
        return None;
    }
    let (listed, count) = hub.presence(room, limit);
    Some(Present { listed, count, is_partial: false })
}

/// Who is in the room by way of any node.
pub(crate) async fn present(node: &Node, space: &Arc<SpaceCell>, room: &RoomName, limit: usize) -> Present {
    if let Some(present) = present_here(space, room, limit) {
        return present;
    }
    match look(node, space, room).await {
        Ok(look) => {
            let mut listed = merge_leases(look.leases);
            let count = listed.len();
            listed.truncate(limit);
            Present { listed, count, is_partial: false }
        }
        Err(Unavailable) => {
            let (listed, count) = space.lock().presence(room, limit);
            Present { listed, count, is_partial: true }
        }
    }
}

/// Looks at a room at the cluster's broker.
pub(crate) async fn look(node: &Node, space: &Arc<SpaceCell>, room: &RoomName) -> Result<Look, Unavailable> {
    let cluster = node.cluster.as_ref().ok_or(Unavailable)?;
    let answer = cluster.broker.look(&space.key, room);
    answer.await.unwrap_or(Err(Unavailable))
}
