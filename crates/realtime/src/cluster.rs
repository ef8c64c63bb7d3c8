//! What makes this node one of many: the broker, which gives messages their places and tells all nodes of them.

use std::sync::Arc;

use tidegate_cluster::{Audience, Broker, Outgoing};
use tidegate_hub::Message;
use tidegate_types::Publication;

use crate::mailbox::Except;
use crate::node::{Placing, SpaceCell};
use crate::signals::{self, Signal};

/// A node's way to its cluster.
pub(crate) struct ClusterLink {
    pub broker: Arc<dyn Broker>,
}

impl ClusterLink {
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker }
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
        Placing { answer, message }
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
