use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_hub::{RoomId, SocketId};
use tidegate_types::{ConnId, UserId};
use tokio::sync::Notify;

use crate::app::Order;
use crate::call::Call;
use crate::connection::Conn;
use crate::encoded::Encoded;

/// Publishing waits while a mailbox holds more than this many items.
const SOFT_ITEMS: usize = 4_096;
/// Publishing waits while a mailbox holds more than this many bytes of payload.
const SOFT_BYTES: usize = 32 << 20;

/// One event on its way to the members of one room on one shard.
pub(crate) struct Delivery {
    pub space: u32,
    pub room: RoomId,
    pub encoded: Arc<Encoded>,
    /// Who does not get it, members though they are.
    pub except: Option<Except>,
}

/// Members whom a delivery passes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Except {
    /// One connection.
    Conn(ConnId),
    /// The connection with that Socket.IO socket.
    Socket(SocketId),
    /// All connections of a user.
    User(UserId),
}

impl Except {
    /// Whether the connection, as a member of a room of that space, is passed over.
    pub fn is(&self, conn: &Conn, space: u32) -> bool {
        match self {
            Self::Conn(id) => *id == conn.id,
            Self::Socket(id) => conn.sockets.borrow().iter().any(|socket| socket.socket_id == *id),
            Self::User(user) => {
                let sockets = conn.sockets.borrow();
                sockets.iter().any(|socket| socket.space.index == space && socket.principal.user == *user)
            }
        }
    }
}

pub(crate) enum Item {
    Deliver(Delivery),
    /// Something for clients by namespace, or by several rooms.
    Order(Box<Order>),
    Call(Box<Call>),
}

impl Item {
    /// Bytes of payload.
    fn bytes(&self) -> usize {
        match self {
            Self::Deliver(delivery) => delivery.encoded.payload_bytes(),
            Self::Order(order) => order.bytes(),
            Self::Call(_) => 0,
        }
    }
}

/// What other threads (and the shard itself) have for a shard. Its order is the room's order.
///
/// Bounded by back-pressure, not by dropping: publishers look at [`Mailbox::has_room`] before they publish and wait for
/// [`Mailbox::room`]; what is in flight meanwhile is at most one message a worker.
#[derive(Default)]
pub(crate) struct Mailbox {
    queue: Mutex<VecDeque<Item>>,
    items: AtomicUsize,
    bytes: AtomicUsize,
    arrived: Notify,
    drained: Notify,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Item>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, item: Item) {
        self.bytes.fetch_add(item.bytes(), Ordering::Relaxed);
        self.items.fetch_add(1, Ordering::Relaxed);
        let was_empty = {
            let mut queue = self.lock();
            queue.push_back(item);
            queue.len() == 1
        };
        if was_empty {
            self.arrived.notify_one();
        }
    }

    /// Moves up to `most` items to `into`, in order.
    pub fn take(&self, into: &mut Vec<Item>, most: usize) {
        {
            let mut queue = self.lock();
            let count = queue.len().min(most);
            into.extend(queue.drain(..count));
            if queue.is_empty() && queue.capacity() > 1_024 {
                queue.shrink_to(64);
            }
            if !queue.is_empty() {
                self.arrived.notify_one();
            }
        }
        let bytes: usize = into.iter().map(Item::bytes).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let was_full = self.items.fetch_sub(into.len(), Ordering::Relaxed) >= SOFT_ITEMS / 2;
        if was_full || bytes > 0 {
            self.drained.notify_waiters();
        }
    }

    /// Resolves when something has been pushed since the last [`Mailbox::take`] that emptied the queue.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Gives the shard's mailbox task a turn, whether there is an item or not.
    pub fn nudge(&self) {
        self.arrived.notify_one();
    }

    pub fn has_room(&self) -> bool {
        self.items.load(Ordering::Relaxed) < SOFT_ITEMS && self.bytes.load(Ordering::Relaxed) < SOFT_BYTES
    }

    /// Resolves when the mailbox has room.
    pub async fn room(&self) {
        loop {
            let drained = self.drained.notified();
            if self.has_room() {
                return;
            }
            drained.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mailbox_wakes_its_shard_until_it_is_empty() {
        let mailbox = Mailbox::default();
        for _ in 0..3 {
            mailbox.push(Item::Call(Box::new(Call::Nothing)));
        }
        let mut items = Vec::new();
        mailbox.arrived().await;
        mailbox.take(&mut items, 2);
        assert_eq!(items.len(), 2);
        mailbox.arrived().await;
        items.clear();
        mailbox.take(&mut items, 2);
        assert_eq!(items.len(), 1);
    }

    #[tokio::test]
    async fn a_full_mailbox_makes_publishers_wait_until_it_is_drained() {
        let mailbox = Mailbox::default();
        for _ in 0..SOFT_ITEMS {
            mailbox.push(Item::Call(Box::new(Call::Nothing)));
        }
        assert!(!mailbox.has_room());
        let mut items = Vec::new();
        tokio::join!(mailbox.room(), async { mailbox.take(&mut items, SOFT_ITEMS) });
        assert!(mailbox.has_room());
    }
}
