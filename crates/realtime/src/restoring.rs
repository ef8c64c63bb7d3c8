//! Sessions of connected clients, and how many there are, stored once more when the broker is back: it may have lost them, or
//! missed their last change.

use std::sync::{Arc, Mutex, PoisonError};

use tidegate_types::{ConnId, Millis};

use crate::node::{Node, SpaceCell, steady_ms};
use crate::seats::Whose;

/// Records stored at each tick of the node (ten a second): all nodes do so at once when the broker is back.
const AT_ONCE: usize = 256;
/// The nodes begin at times that differ by so much, ms.
const SPREAD_MS: u64 = 2_000;

/// What is still to be stored.
#[derive(Default)]
pub(crate) struct Restoring(Mutex<Walk>);

#[derive(Default)]
struct Walk {
    /// When to begin.
    due_at: Option<Millis>,
    left: Vec<(Arc<SpaceCell>, Vec<ConnId>)>,
    /// Numbers of connections, told with the records.
    seats: Vec<Whose>,
}

impl Restoring {
    /// The broker is back.
    pub fn begin_soon(&self) {
        let spread = u64::from_ne_bytes(crate::id::random()) % SPREAD_MS;
        self.walk(|walk| *walk = Walk { due_at: Some(steady_ms().saturating_add(spread)), ..Walk::default() });
    }

    fn walk<T>(&self, go: impl FnOnce(&mut Walk) -> T) -> T {
        go(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stores the next few.
    pub fn tick(&self, node: &Node) {
        let now = steady_ms();
        if self.walk(|walk| walk.due_at.take_if(|at| *at <= now)).is_some() {
            let all = node.cells().into_iter().map(|cell| (cell.clone(), cell.lock().conn_ids())).collect();
            let of_all = node.cluster.as_ref().map(|cluster| cluster.seats.all()).unwrap_or_default();
            self.walk(|walk| (walk.left, walk.seats) = (all, of_all));
        }
        if let Some(cluster) = &node.cluster {
            let seats = self.walk(|walk| walk.seats.split_off(walk.seats.len().saturating_sub(AT_ONCE)));
            seats.iter().for_each(|whose| cluster.seats.tell_again(&*cluster.broker, whose));
        }
        let mut most = AT_ONCE.saturating_sub(node.history.stats().queued_items);
        while most > 0
            && let Some((cell, conns)) = self.walk(|walk| walk.take(most))
        {
            most = most.saturating_sub(conns.len().max(1));
            node.with_space(&cell, |space, effects| {
                conns.into_iter().for_each(|conn| space.store_session(conn, effects));
            });
        }
    }
}

impl Walk {
    fn take(&mut self, most: usize) -> Option<(Arc<SpaceCell>, Vec<ConnId>)> {
        let (cell, conns) = self.left.last_mut()?;
        let next = conns.split_off(conns.len().saturating_sub(most));
        let cell = cell.clone();
        if conns.is_empty() {
            self.left.pop();
        }
        Some((cell, next))
    }
}
