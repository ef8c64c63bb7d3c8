//! What clients ask for, and what they are answered.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_hub::{Effects, Idempotency, Message, Published};
use tidegate_types::{Class, EventName, IdempotencyKey, RoomName, UserId};
use tidegate_wire::socket_io;

use super::{SavedAck, Server, class_name, class_of};
use crate::ground::{Ground, Sabotage};
use crate::truth::Entry;

/// For how long a repeated send is known as one, ms.
pub const REPEAT_MS: u64 = 120_000;

/// What became of a message.
pub enum Sent {
    /// Nothing is to be waited for.
    Done,
    /// The store must have the message with this number first.
    Waits(u64),
    /// As `Waits`, but it was sent before: the store may have it already.
    Again(u64),
}

impl Server {
    pub(super) fn event(&mut self, g: &mut Ground, link: usize, name: &str, args: &Value, ack: u64) {
        let Some((id, tenant)) = self.conns.get(&link).map(|conn| (conn.id, conn.tenant)) else { return };
        let Ok(room) = RoomName::try_from(args.get("room").and_then(Value::as_str).unwrap_or_default()) else { return };
        let mut fx = Effects::new();
        let Some(space) = self.spaces.get_mut(tenant) else { return };
        match name {
            "join" => {
                let Ok(joined) = space.join(id, &room, g.wall(), &mut fx) else { return };
                if !joined.already {
                    self.members.entry((tenant, joined.room_id)).or_default().push((link, joined.seq));
                }
                let reply = json!({ "ok": true, "already": joined.already, "seq": joined.seq });
                self.carry_out(g, tenant, fx);
                self.reply_when_saved(g, tenant, link, ack, &reply, Some(room));
            }
            "leave" => {
                if let Some(room_id) = space.leave(id, &room, g.wall(), &mut fx)
                    && let Some(members) = self.members.get_mut(&(tenant, room_id))
                {
                    members.retain(|(of, _)| *of != link);
                }
                self.carry_out(g, tenant, fx);
                self.reply_when_saved(g, tenant, link, ack, &json!({ "ok": true }), None);
            }
            "send" => {
                if !space.is_member(id, &room) {
                    return self.reply(g, link, ack, &json!({ "ok": false }));
                }
                let class = class_of(args.get("class").and_then(Value::as_str).unwrap_or_default());
                let number = args.get("number").and_then(Value::as_u64).unwrap_or(0);
                let sender = self.conns.get(&link).and_then(|conn| conn.user.clone());
                let sender = sender.filter(|_| g.sabotage != Sabotage::RepeatsForgotten);
                match self.publish(g, tenant, room, class, number, sender) {
                    Sent::Done => self.reply(g, link, ack, &json!({ "ok": true })),
                    // Another answer may be on its way, to a link that is no more.
                    Sent::Again(seq) if !self.durable_acks.contains_key(&(tenant, seq)) => {
                        self.durable_acks.insert((tenant, seq), (link, ack));
                        self.durable(g, tenant, seq, true);
                    }
                    Sent::Waits(seq) | Sent::Again(seq) => {
                        self.durable_acks.insert((tenant, seq), (link, ack));
                        if g.sabotage == Sabotage::AckBeforeAppend {
                            self.durable(g, tenant, seq, true);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// Publishes. A message of a `sender` may be sent again: what it calls the message is its number.
    pub fn publish(
        &mut self,
        g: &mut Ground,
        tenant: usize,
        room: RoomName,
        class: Class,
        number: u64,
        sender: Option<UserId>,
    ) -> Sent {
        let Some(space) = self.spaces.get_mut(tenant) else { return Sent::Done };
        let data = json!({
            "number": number,
            "tenant": space.key().tenant.as_str(),
            "room": room.as_str(),
            "class": class_name(class),
        });
        let Ok(event) = EventName::try_from("room:message") else { return Sent::Done };
        let data = Bytes::from(data.to_string());
        let idempotency = sender.and_then(|sender| {
            let key = IdempotencyKey::try_from(number.to_string()).ok()?;
            Some(Box::new(Idempotency { sender, key, message_id: number.to_string().into(), window_ms: REPEAT_MS }))
        });
        let message = Message { room: room.clone(), event, data, attachments: Arc::from([]), class, idempotency };
        let mut fx = Effects::new();
        let Published { publication: published, duplicate, .. } = space.publish(message, g.wall(), &mut fx);
        if let Some(first) = duplicate {
            g.report.repeats += 1;
            if first.parse() != Ok(number) {
                g.check(Err(format!("message {number} was taken for message {first}")));
            }
            return if class == Class::Persistent { Sent::Again(published.seq) } else { Sent::Done };
        }
        let head = space.head_seq();
        if let Some(position) = published.position {
            let entry = Entry { room, offset: position.offset, class, number, released: false, withdrawn: false };
            if let Some(truth) = g.truths.get_mut(tenant) {
                let outcome = truth.published(published.seq, entry);
                truth.released_up_to(head);
                g.check(outcome);
            }
        }
        self.carry_out(g, tenant, fx);
        if class == Class::Persistent { Sent::Waits(published.seq) } else { Sent::Done }
    }

    pub(super) fn durable(&mut self, g: &mut Ground, tenant: usize, seq: u64, ok: bool) {
        let Some((link, ack)) = self.durable_acks.remove(&(tenant, seq)) else { return };
        if ok {
            g.report.acks += 1;
            if let Some(truth) = g.truths.get_mut(tenant) {
                truth.acked(seq);
            }
        }
        self.reply(g, link, ack, &json!({ "ok": ok }));
    }

    fn reply(&mut self, g: &mut Ground, link: usize, ack: u64, reply: &Value) {
        let mut text = Vec::new();
        socket_io::ack(&mut text, "/", ack, &reply.to_string());
        self.send(g, link, text);
    }

    /// A client that is told of its join must still be in the room after `kill -9` and recovery: the record comes first.
    fn reply_when_saved(
        &mut self,
        g: &mut Ground,
        tenant: usize,
        link: usize,
        ack: u64,
        reply: &Value,
        show: Option<RoomName>,
    ) {
        let ticket = g.stores.get(tenant).map_or(0, |store| store.ticket());
        let is_saved = self.saved.get(tenant).is_some_and(|saved| *saved >= ticket);
        if is_saved || g.sabotage == Sabotage::JoinAckBeforeSave {
            self.reply(g, link, ack, reply);
            show.iter().for_each(|room| self.show(g, tenant, link, room));
            return;
        }
        let mut text = Vec::new();
        socket_io::ack(&mut text, "/", ack, &reply.to_string());
        let text = String::from_utf8(text).unwrap_or_default();
        self.saved_acks.push(SavedAck { tenant, ticket, link, text, show });
    }
}
