//! A message's way through the space: its numbers, its turn, its delivery.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_types::{Class, EventName, Millis, Position, Publication, RoomName};

use crate::once::First;
use crate::ring::offset_of;
use crate::room::Room;
use crate::space::Space;
use crate::{Effect, Effects, Idempotency, RoomId};

/// The event that takes the place of a message which the store refused: `{"room", "from", "to"}` with the offsets that
/// nobody will ever get. It is recoverable, so that whoever replays the room is told too.
pub const GAP_EVENT: &str = "room:gap";

/// A message on its way in.
#[derive(Clone, Debug)]
pub struct Message {
    /// The room.
    pub room: RoomName,
    /// The event's name.
    pub event: EventName,
    /// As [`Publication::data`].
    pub data: Bytes,
    /// As [`Publication::attachments`].
    pub attachments: Arc<[Bytes]>,
    /// What is promised.
    pub class: Class,
    /// What the sender calls the message, if it may send it again.
    pub idempotency: Option<Box<Idempotency>>,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The message with its numbers. They are not to leave the process while `pending`.
    pub publication: Arc<Publication>,
    /// Whether it still waits for the store or for its turn; it is delivered by a later call.
    pub pending: bool,
    /// Set when the message has been published before: the id that it was given then. `publication` has the numbers of
    /// then, and is not delivered again. While it is pending its outcome is that of the first.
    pub duplicate: Option<Arc<str>>,
}

impl Space {
    /// Messages that wait for the store, and their payload bytes. The caller refuses or delays publishing when these
    /// grow: the space itself accepts everything.
    pub fn pending(&self) -> (usize, usize) {
        (self.order.len(), self.order.bytes())
    }

    /// Gives a message its place and sends it on its way. A volatile message has no place and leaves at once.
    ///
    /// A space that follows gives no places: to it all messages are volatile, the others are for [`Space::receive`].
    pub fn publish(&mut self, message: Message, now: Millis, fx: &mut Effects) -> Published {
        let Message { room, event, data, attachments, class, idempotency } = message;
        let space = self.key.clone();
        let mut publication =
            Publication { space, room, event, data, attachments, class, position: None, seq: 0, timestamp_ms: now };
        if let Some(again) = idempotency.as_deref().and_then(|of| self.once.find(&publication.room, of, now)) {
            return self.repeated(publication, again.clone());
        }
        match class {
            _ if self.config.follows => {
                publication.class = Class::Volatile;
                return self.publish_volatile(publication, idempotency, now, fx);
            }
            Class::Volatile => return self.publish_volatile(publication, idempotency, now, fx),
            Class::Recoverable | Class::Persistent => {}
        }
        let id = self.rooms.open(&publication.room);
        self.rooms.count_message(id, now);
        let seq = self.order.next_seq();
        publication.seq = seq;
        if let Some(room) = self.rooms.get_mut(id) {
            room.last_offset += 1;
            room.waiting += 1;
            publication.position = Some(Position { epoch: self.epoch, offset: room.last_offset });
            // The ring outlives the sender's buffer: share the room's own name.
            publication.room = room.name.clone();
            if class == Class::Persistent {
                room.last_persistent_seq = seq;
            }
        }
        let publication = Arc::new(publication);
        if let Some(of) = idempotency {
            let (room, position) = (publication.room.clone(), publication.position);
            self.once.remember(room, *of, seq, position, class == Class::Persistent, now);
        }
        match class {
            Class::Persistent => fx.push(Effect::Append(publication.clone())),
            Class::Recoverable | Class::Volatile => self.order.reserve_ahead(now, fx),
        }
        let pending = !self.order.admit(id, &publication);
        if !pending {
            self.let_go(id, &publication, fx);
        }
        Published { publication, pending, duplicate: None }
    }

    fn publish_volatile(
        &mut self,
        publication: Publication,
        idempotency: Option<Box<Idempotency>>,
        now: Millis,
        fx: &mut Effects,
    ) -> Published {
        let publication = Arc::new(publication);
        if let Some(id) = self.rooms.id(&publication.room) {
            self.rooms.count_message(id, now);
            if let Some(room) = self.rooms.get(id) {
                deliver(room, &publication, fx);
            }
        }
        if let Some(of) = idempotency {
            self.once.remember(publication.room.clone(), *of, 0, None, false, now);
        }
        Published { publication, pending: false, duplicate: None }
    }

    fn repeated(&self, again: Publication, first: First) -> Published {
        let First { message_id, seq, position, .. } = first;
        let pending = seq > self.order.head_seq();
        let publication = Arc::new(Publication { position, seq, ..again });
        Published { publication, pending, duplicate: Some(message_id) }
    }

    /// The store has the message.
    pub fn appended(&mut self, seq: u64, fx: &mut Effects) {
        self.order.set_appended(seq);
        self.once.appended(seq);
        self.release(fx);
    }

    /// The store has the reservation.
    pub fn reserved(&mut self, upto: u64, fx: &mut Effects) {
        self.order.set_reserved(upto);
        self.release(fx);
    }

    /// The store refused the message: it is withdrawn. Its numbers are not used again, and the messages behind it carry
    /// theirs already, so its place is taken by a recoverable [`GAP_EVENT`]: offsets stay contiguous, and live
    /// members as well as those who replay are told that this message never came to be.
    pub fn append_failed(&mut self, seq: u64, fx: &mut Effects) {
        let mut failed_at = 0;
        let mut failed_in = None;
        let replaced = self.order.replace(seq, |failed| {
            failed_at = failed.timestamp_ms;
            failed_in = Some(failed.room.clone());
            let offset = offset_of(failed);
            let body = serde_json::json!({ "room": failed.room.as_str(), "from": offset, "to": offset });
            Publication {
                event: EventName::try_from(GAP_EVENT).unwrap_or_else(|_| failed.event.clone()),
                data: Bytes::from(body.to_string()),
                attachments: Arc::from([]),
                class: Class::Recoverable,
                ..failed.clone()
            }
        });
        if replaced {
            self.once.failed(seq);
            if let Some(id) = failed_in.and_then(|room| self.rooms.id(&room)) {
                self.forget_last_persistent(id, seq);
            }
            self.order.reserve_ahead(failed_at, fx);
            self.release(fx);
        }
    }

    /// The room's last persistent message never came to be: the one before it is the last.
    fn forget_last_persistent(&mut self, id: RoomId, seq: u64) {
        let is_persistent = |publication: &&Arc<Publication>| publication.class == Class::Persistent;
        let waiting = self.order.waiting().filter(|(of, _)| *of == id).map(|(_, publication)| publication);
        let last_waiting = waiting.filter(is_persistent).last().map(|publication| publication.seq);
        let Some(room) = self.rooms.get_mut(id) else { return };
        if room.last_persistent_seq == seq {
            let in_ring = room.ring.iter().rev().find(is_persistent).map(|publication| publication.seq);
            // A bound is no message: taken for one, it would be missed in every answer of the store.
            let stored = if room.stored_exact { room.stored_seq } else { 0 };
            room.last_persistent_seq = last_waiting.or(in_ring).unwrap_or(stored);
        }
    }

    fn release(&mut self, fx: &mut Effects) {
        while let Some((id, publication)) = self.order.release() {
            self.let_go(id, &publication, fx);
        }
    }

    fn let_go(&mut self, id: RoomId, publication: &Arc<Publication>, fx: &mut Effects) {
        let Some(room) = self.rooms.get_mut(id) else { return };
        room.waiting = room.waiting.saturating_sub(1);
        room.head_offset = offset_of(publication);
        deliver(room, publication, fx);
        self.ring.push(room, publication.clone(), publication.timestamp_ms);
        self.ring.trim_bytes(&mut self.rooms);
    }
}

pub(crate) fn deliver(room: &Room, publication: &Arc<Publication>, fx: &mut Effects) {
    if !room.shards.is_empty() {
        fx.push(Effect::Deliver { room_id: room.id, shards: room.shards, publication: publication.clone() });
    }
}
