//! What makes this node one of many: the broker, which gives messages their places and tells all nodes of them.

use std::sync::Arc;

use tidegate_cluster::{Audience, Broker, History, Outgoing};
use tidegate_hub::{Message, SpaceStart};
use tidegate_types::{Publication, SpaceKey, UserId};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::limits::Crowded;
use crate::mailbox::Except;
use crate::node::{Placing, SpaceCell};
use crate::opening::PATIENCE;
use crate::restoring::Restoring;
use crate::seats::{Seated, Seats};
use crate::signals::{self, Signal};

/// A node's way to its cluster.
pub(crate) struct ClusterLink {
    pub broker: Arc<dyn Broker>,
    pub restoring: Restoring,
    pub seats: Arc<Seats>,
    /// Told when the broker is connected (again).
    pub is_back: Notify,
}

impl ClusterLink {
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, restoring: Restoring::default(), seats: Arc::default(), is_back: Notify::new() }
    }

    /// Where the counters of a space stand, if the broker says it in time.
    pub async fn start_of(&self, history: &Arc<dyn History>, key: &SpaceKey) -> Option<SpaceStart> {
        let (history, key) = (history.clone(), key.clone());
        let asked = spawn_blocking(move || history.open_space(&key));
        match timeout(PATIENCE, asked).await {
            Ok(Ok(Ok(start))) => Some(start),
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "the cluster's broker does not say where a namespace stands");
                None
            }
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Whether connections to the space are counted over all nodes.
    pub fn counts_connections(&self, space: &SpaceCell) -> bool {
        let limits = &space.settings.limits;
        limits.connections_per_user > 0 || limits.connections_per_tenant > 0
    }

    /// The places of a connection of the user, over all nodes; `None` where they are not counted.
    pub fn seat(
        &self,
        space: &SpaceCell,
        user: &UserId,
        has_one: bool,
    ) -> Option<impl Future<Output = Result<Seated, Crowded>> + use<>> {
        let limits = space.settings.limits;
        if !self.counts_connections(space) {
            return None;
        }
        let (seats, broker, space, user) = (self.seats.clone(), self.broker.clone(), space.key.clone(), user.clone());
        Some(async move { seats.take(&broker, &space, &user, &limits, has_one).await })
    }

    /// Gives the broker a message, in the order of the calls.
    pub fn place(&self, cell: &SpaceCell, message: Message) -> Placing {
        let Message { room, event, data, attachments, class, idempotency } = message;
        let outgoing = Outgoing {
            space: cell.key.clone(),
            room: room.clone(),
            event: event.clone(),
            data: data.clone(),
            attachments: attachments.clone(),
            class,
            idempotency,
        };
        let answer = self.broker.publish(outgoing);
        let space = cell.key.clone();
        let message =
            Publication { space, room, event, data, attachments, class, position: None, seq: 0, timestamp_ms: 0 };
        Placing { answer, message, bridge: cell.bridge.clone() }
    }

    /// Tells the other nodes' members of a room what this node's have been told.
    pub fn tell(&self, publication: &Publication, except: Option<&Except>) {
        let to = Audience::Room(publication.space.clone(), publication.room.clone());
        if let Some(body) = signals::volatile(publication, except) {
            self.broker.signal(to, body);
        }
    }

    /// Tells other nodes something that wants no answer.
    pub fn signal(&self, to: Audience, signal: &Signal) {
        match signal.encode() {
            Some(body) => self.broker.signal(to, body),
            None => {
                tracing::error!("what names too many rooms or users, or is too large, reaches this node's clients only")
            }
        }
    }
}
