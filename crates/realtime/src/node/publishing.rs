//! A message's way to its place: given by this process at once, or by the cluster's broker in a moment.

use std::sync::{Arc, PoisonError};

use smallvec::smallvec;
use tidegate_cluster::{Placed, PublishError};
use tidegate_hub::{Effect, Effects, Message, Published};
use tidegate_metrics::DropReason;
use tidegate_types::{Class, Millis, Publication};
use tokio::sync::oneshot;

use super::{Node, SpaceCell};
use crate::bridge::Bridge;
use crate::mailbox::{Delivery, Except, Item};

/// Messages of one space that may wait for the store.
const MOST_PENDING: usize = 32_768;
/// Their payloads, bytes.
const MOST_PENDING_BYTES: usize = 32 << 20;

/// What has become of a message.
pub(crate) enum Publishing {
    /// It has its place, and there is nothing more to wait for.
    Now(Published),
    /// Its sender is not to be told yet.
    Later(Pending),
}

/// A message whose sender is not to be told yet.
pub(crate) enum Pending {
    /// It has its place; the store is to have it, too.
    Storing(Published, Durable),
    /// The broker gives it its place.
    Placing(Box<Placing>),
}

/// Resolves as true once a persistent message is as durable as the store's policy says.
type Durable = oneshot::Receiver<bool>;

/// A message on its way to the broker.
pub(crate) struct Placing {
    pub answer: oneshot::Receiver<Result<Placed, PublishError>>,
    /// Without its numbers.
    pub message: Publication,
    /// Who is to hear of it as well, once it has its place.
    pub bridge: Option<Arc<Bridge>>,
}

/// Why a message is not published. Its sender may send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotPublished {
    #[error("The history store is behind; send it again")]
    StoreBehind,
    #[error("The message could not be stored; send it again")]
    NotStored,
    #[error("The cluster's broker is behind; send it again")]
    BrokerBehind,
    #[error("The cluster's broker cannot be reached; send it again")]
    Unreachable,
}

impl From<PublishError> for NotPublished {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Behind => Self::BrokerBehind,
            PublishError::Unavailable => Self::Unreachable,
            PublishError::Refused => Self::NotStored,
        }
    }
}

impl Publishing {
    /// Resolves when the sender may be told.
    pub async fn settled(self) -> Result<Published, NotPublished> {
        match self {
            Self::Now(published) => Ok(published),
            Self::Later(pending) => pending.settled().await,
        }
    }
}

impl Pending {
    /// Resolves when the sender may be told.
    pub async fn settled(self) -> Result<Published, NotPublished> {
        match self {
            Self::Storing(published, durable) => {
                if durable.await == Ok(true) {
                    Ok(published)
                } else {
                    Err(NotPublished::NotStored)
                }
            }
            Self::Placing(placing) => {
                let Placing { answer, message, bridge } = *placing;
                // A broker that has gone without an answer may have taken the message all the same.
                let placed = answer.await.unwrap_or(Err(PublishError::Unavailable))?;
                let Placed { position, seq, timestamp_ms, duplicate } = placed;
                let publication = Publication { position: Some(position), seq, timestamp_ms, ..message };
                if let (Some(bridge), None) = (bridge, &duplicate) {
                    bridge.publication(&publication);
                }
                Ok(Published { publication: Arc::new(publication), pending: false, duplicate })
            }
        }
    }
}

impl Node {
    /// Whether a publisher may go on, or has to wait for [`Node::publishable`].
    pub(crate) fn can_publish(&self) -> bool {
        self.mailboxes.iter().all(|mailbox| mailbox.has_room())
    }

    /// Resolves when every mailbox has room.
    pub(crate) async fn publishable(&self) {
        for mailbox in &self.mailboxes {
            mailbox.room().await;
        }
    }

    /// Publishes.
    ///
    /// # Errors
    /// Too much waits for the store already: everything behind it waits too, and memory is not for that.
    pub(crate) fn publish(&self, cell: &SpaceCell, message: Message, now: Millis) -> Result<Publishing, NotPublished> {
        if let Some(cluster) = &self.cluster {
            return Ok(match message.class {
                Class::Volatile => Publishing::Now(self.tell(cell, message, now, None)),
                Class::Recoverable | Class::Persistent => {
                    Publishing::Later(Pending::Placing(Box::new(cluster.place(cell, message))))
                }
            });
        }
        self.with_space(cell, |space, effects| {
            let (waiting, bytes) = space.pending();
            if message.class != Class::Volatile && (waiting >= MOST_PENDING || bytes >= MOST_PENDING_BYTES) {
                return Err(NotPublished::StoreBehind);
            }
            let persistent = message.class == Class::Persistent;
            let published = space.publish(message, now, effects);
            let key = (cell.index, published.publication.seq);
            if let (Some(bridge), None) = (&cell.bridge, &published.duplicate) {
                bridge.place(&published.publication, !persistent);
            }
            let durable = if published.duplicate.is_some() {
                // What has become of the first, if that is known; else what becomes of it.
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.get_mut(&key).map(|waiting| {
                    let (sender, receiver) = oneshot::channel();
                    waiting.push(sender);
                    receiver
                })
            } else {
                persistent.then(|| {
                    let (sender, receiver) = oneshot::channel();
                    let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    waiting.insert(key, smallvec![sender]);
                    receiver
                })
            };
            Ok(match durable {
                None => Publishing::Now(published),
                Some(durable) => Publishing::Later(Pending::Storing(published, durable)),
            })
        })
    }

    /// Sends a volatile message to a room, but not to `except`. It is dropped where a worker cannot take it now.
    pub(crate) fn tell(&self, cell: &SpaceCell, message: Message, now: Millis, except: Option<&Except>) -> Published {
        let published = self.with_space(cell, |space, effects| {
            let message = Message { class: Class::Volatile, ..message };
            let published = space.publish(message, now, effects);
            self.deliver_to_some(cell, effects, except);
            published
        });
        if let (Some(bridge), None) = (&cell.bridge, &published.duplicate) {
            bridge.publication(&published.publication);
        }
        if let (Some(cluster), None) = (&self.cluster, &published.duplicate) {
            cluster.tell(&published.publication, except);
        }
        published
    }

    /// Another node's volatile message, for the members here.
    pub(crate) fn deliver_volatile(&self, publication: Publication, except: Option<&Except>) {
        let Some(cell) = self.known(&publication.space) else { return };
        let Publication { room, event, data, attachments, timestamp_ms, .. } = publication;
        let message = Message { room, event, data, attachments, class: Class::Volatile, idempotency: None };
        self.with_space(&cell, |space, effects| {
            space.publish(message, timestamp_ms, effects);
            self.deliver_to_some(&cell, effects, except);
        });
    }

    fn deliver_to_some(&self, cell: &SpaceCell, effects: &mut Effects, except: Option<&Except>) {
        for effect in effects.drain(..) {
            let Effect::Deliver { room_id, shards, publication } = effect else { continue };
            let encoded = Arc::new(cell.encode(publication));
            for shard in shards.iter() {
                match self.mailbox(shard) {
                    Some(mailbox) if mailbox.has_room() => mailbox.push(Item::Deliver(Delivery {
                        space: cell.index,
                        room: room_id,
                        encoded: encoded.clone(),
                        except: except.cloned(),
                    })),
                    _ => _ = cell.metrics.dropped(DropReason::MailboxFull).inc(),
                }
            }
        }
    }
}
