//! What clients ask for once they are connected, and what the hub wants done.

use std::sync::Arc;

use tidegate_cluster::Outgoing;
use tidegate_hub::{Effect, Effects, GAP_EVENT, Idempotency, PresenceChange, RoomId};
use tidegate_types::{Class, EventName, IdempotencyKey, Publication, RoomName};

use super::Sabotage;
use super::ground::{Ground, ToClient};
use super::node::{Node, Purpose, SavedAck, conn_id};
use super::redis::Request;

/// For how long a message that is sent again is known, ms.
pub const REPEAT_MS: u64 = 300_000;

impl Node {
    pub fn join(&mut self, g: &mut Ground, link: usize, ask: u64, room: &RoomName) {
        let now = self.wall(g);
        let Some(tenant) = self.conns.get(&link).filter(|conn| conn.pid.is_some()).map(|conn| conn.tenant) else {
            return;
        };
        let mut fx = Effects::new();
        let Some(hub) = self.hub(tenant) else { return };
        let Ok(joined) = hub.join(conn_id(link), room, now, &mut fx) else { return };
        if let Some(of) = self.spaces.get_mut(tenant) {
            let members = of.members.entry(joined.room_id).or_default();
            if !members.iter().any(|(of, _)| *of == link) {
                members.push((link, if joined.opening { 0 } else { joined.joined_seq }));
            }
            of.joining.push((link, ask, room.clone()));
        }
        self.carry_out(g, tenant, fx);
        self.finish_joins(g, tenant);
    }

    /// Rooms that are open now: their joiners are told once their sessions are stored.
    pub fn finish_joins(&mut self, g: &mut Ground, tenant: usize) {
        let Some(of) = self.spaces.get_mut(tenant) else { return };
        let Some(hub) = of.hub.as_ref() else { return };
        let (open, waiting) = std::mem::take(&mut of.joining).into_iter().partition(|(_, _, room)| hub.is_open(room));
        of.joining = waiting;
        let open: Vec<(usize, u64, RoomName)> = open;
        if open.is_empty() {
            return;
        }
        open.into_iter().for_each(|(link, ask, room)| self.answer_when_saved(g, link, ask, Some(room)));
    }

    fn answer_when_saved(&mut self, g: &mut Ground, link: usize, ask: u64, room: Option<RoomName>) {
        let early = g.sabotage == Sabotage::AckBeforeSave;
        let write = if early { 0 } else { self.saved + self.unsaved.len() as u64 };
        self.acks.push(SavedAck { write, link, ask, room });
        self.session_saved(g);
    }

    /// Answers those whose session's record is stored.
    pub fn session_saved(&mut self, g: &mut Ground) {
        let saved = self.saved;
        let (ready, waiting) = std::mem::take(&mut self.acks).into_iter().partition(|ack| ack.write <= saved);
        self.acks = waiting;
        let ready: Vec<SavedAck> = ready;
        for SavedAck { link, ask, room, .. } in ready {
            let Some(room) = room else {
                g.send_down(link, ToClient::Left { ask });
                continue;
            };
            let Some(tenant) = self.conns.get(&link).map(|conn| conn.tenant) else { continue };
            let Some(joined) = self.hub(tenant).and_then(|hub| hub.joined(conn_id(link), &room)) else { continue };
            let users = self.present(tenant, &room);
            g.send_down(
                link,
                ToClient::Joined { ask, room, epoch: joined.position.epoch, seq: joined.joined_seq, users },
            );
        }
    }

    pub fn leave(&mut self, g: &mut Ground, link: usize, ask: u64, room: &RoomName) {
        let now = self.wall(g);
        let Some(tenant) = self.conns.get(&link).map(|conn| conn.tenant) else { return };
        let mut fx = Effects::new();
        let Some(hub) = self.hub(tenant) else { return };
        let left = hub.leave(conn_id(link), room, now, &mut fx);
        if let Some(of) = self.spaces.get_mut(tenant) {
            of.joining.retain(|(of, _, name)| *of != link || name != room);
            if let Some(members) = left.and_then(|id| of.members.get_mut(&id)) {
                members.retain(|(of, _)| *of != link);
            }
        }
        self.acks.retain(|ack| ack.link != link || ack.room.as_ref() != Some(room));
        self.carry_out(g, tenant, fx);
        self.answer_when_saved(g, link, ask, None);
    }

    pub fn publish(&mut self, g: &mut Ground, link: usize, ask: u64, room: RoomName, number: u64, persistent: bool) {
        let Some(conn) = self.conns.get(&link) else { return };
        let (space, sender) = (conn.tenant, conn.user.clone());
        let unnamed = g.sabotage == Sabotage::RepeatsUnnamed;
        let key = if unnamed { format!("{number}-{}", g.rng.number()) } else { number.to_string() };
        let (Some(of), Ok(key), Ok(event)) =
            (g.keys.get(space), IdempotencyKey::try_from(key), EventName::try_from("room:message"))
        else {
            return;
        };
        let idempotency = Idempotency { sender, key, message_id: number.to_string().into(), window_ms: REPEAT_MS };
        let message = Outgoing {
            space: Arc::clone(of),
            room,
            event,
            data: format!("{space}:{number}").into(),
            attachments: Arc::from([]),
            class: if persistent { Class::Persistent } else { Class::Recoverable },
            idempotency: Some(Box::new(idempotency)),
        };
        let request = Request::Publish { space, number, message: Box::new(message) };
        self.ready(g, space);
        let purpose = Purpose::Publish { link, ask, again: Box::new(request.clone()), tries: 0 };
        self.call(g, request, purpose);
    }

    pub fn carry_out(&mut self, g: &mut Ground, space: usize, fx: Effects) {
        for effect in fx {
            match effect {
                Effect::Deliver { room_id, publication, .. } => self.deliver_all(g, space, room_id, &publication),
                Effect::Presence { room_id, room, change, except, .. } => {
                    let except = except.map(|conn| conn.slot as usize);
                    let members = self.members(space, room_id).into_iter().filter(|link| Some(*link) != except);
                    for link in members {
                        g.send_down(link, presence(&room, &change));
                    }
                }
                Effect::SaveSession(record) => {
                    let ttl_ms = record.expires_at.map(|at| at.saturating_sub(self.wall(g)));
                    self.save(g, Request::Save(Box::new(record), ttl_ms));
                }
                Effect::DropSession(pid) => self.save(g, Request::Drop(pid)),
                Effect::Follow { room } => self.following(g, space, |of, out| of.follow(&room, out)),
                Effect::Unfollow { room } => self.following(g, space, |of, out| of.unfollow(&room, out)),
                Effect::Lease { room, user, info } => {
                    if let Some(of) = self.spaces.get_mut(space) {
                        let key = (room.clone(), user.clone());
                        match info {
                            Some(info) => drop(of.leases.insert(key, info)),
                            None => drop(of.leases.remove(&key)),
                        }
                    }
                    self.tell_lease(g, space, room, user);
                }
                Effect::Renewed => {
                    if let Some(of) = self.spaces.get_mut(space) {
                        of.members.values_mut().flatten().for_each(|(_, seen)| *seen = 0);
                    }
                }
                Effect::Append(_) | Effect::Reserve { .. } => {
                    g.check(Err("a space that follows hands out numbers".to_owned()));
                }
            }
        }
    }

    fn members(&self, space: usize, room: RoomId) -> Vec<usize> {
        let members = self.spaces.get(space).and_then(|of| of.members.get(&room));
        members.map(|members| members.iter().map(|(link, _)| *link).collect()).unwrap_or_default()
    }

    fn save(&mut self, g: &mut Ground, write: Request) {
        self.unsaved.push_back(write.clone());
        if self.link.is_some() {
            self.call(g, write, Purpose::Save);
        }
    }

    fn deliver_all(&mut self, g: &mut Ground, space: usize, room: RoomId, publication: &Arc<Publication>) {
        let other = if g.sabotage == Sabotage::TenantsMixed { g.keys.len() - 1 - space } else { space };
        let Some(of) = self.spaces.get_mut(other) else { return };
        let hub = of.hub.as_ref();
        let head = hub.map_or(0, |hub| hub.position(&publication.room).offset);
        let Some(members) = of.members.get_mut(&room) else { return };
        for (link, seen) in members {
            let message = if publication.position.is_some() {
                if publication.seq <= *seen {
                    continue;
                }
                *seen = publication.seq;
                ToClient::Message(Arc::clone(publication))
            } else if publication.event.as_str() == GAP_EVENT {
                if g.sabotage == Sabotage::GapsUntold {
                    continue;
                }
                ToClient::Gap { room: publication.room.clone(), offset: head }
            } else {
                continue;
            };
            g.send_down(*link, message);
        }
    }
}

fn presence(room: &RoomName, change: &PresenceChange) -> ToClient {
    match change {
        PresenceChange::Join(user) => ToClient::Came { room: room.clone(), user: user.clone() },
        PresenceChange::Leave(user) => ToClient::Went { room: room.clone(), user: user.clone() },
        PresenceChange::Update { listed, .. } => {
            let users = listed.iter().map(|info| info.user_id.clone()).collect();
            ToClient::Present { room: room.clone(), users }
        }
    }
}
