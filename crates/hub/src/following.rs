//! A space that follows: its numbers are assigned elsewhere, and each message comes from there.
//!
//! What the promises rest on: all messages of the rooms followed come in the order of `seq`, and
//! [`head_seq`](Space::head_seq) says up to which `seq` all of them have been delivered. A room that is followed later
//! begins at the `as_of` of that moment, and brings the head there, because everything before it has been heard. While the
//! space is out of touch it delivers nothing that has a place: a message delivered after a hole would carry a number that
//! says that nothing is missing before it.

use rustc_hash::FxHashSet;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_types::{Class, ConnId, Epoch, EventName, Millis, Publication, RoomName, SessionOffset, UserId};

use crate::publish::deliver;
use crate::ring::offset_of;
use crate::space::{OPENING, Space};
use crate::{CaughtUp, Effect, Effects, GAP_EVENT, Joined, Lease, Received, RoomHead, RoomId};

/// A room that nobody uses is followed for so much longer, ms: who was cut comes back, and finds it open.
pub(crate) const LINGER_MS: u64 = 10_000;

/// What a space that follows has beside the others.
pub(crate) struct Following {
    pub out_of_touch: bool,
    /// The highest number known to have been handed out in this epoch, here or elsewhere.
    pub known_seq: u64,
    /// Whose presence here the other nodes are to be told of, where.
    pub leases: Vec<(RoomName, UserId)>,
}

impl Following {
    pub fn new(last_seq: u64) -> Self {
        Self { out_of_touch: false, known_seq: last_seq, leases: Vec::new() }
    }
}

impl Space {
    /// The room, which is followed from now on if the space follows.
    pub(crate) fn open_room(&mut self, name: &RoomName, fx: &mut Effects) -> RoomId {
        if let (true, Some(id)) = (self.config.follows, self.rooms.id(name)) {
            return id;
        }
        let id = self.rooms.open(name);
        if self.config.follows {
            if let Some(room) = self.rooms.get_mut(id) {
                room.opening = true;
                // Nothing of it can be proven yet.
                room.floor_seq = u64::MAX;
            }
            fx.push(Effect::Follow { room: name.clone() });
        }
        id
    }

    pub(crate) fn is_opening(&self, id: RoomId) -> bool {
        self.rooms.get(id).is_some_and(|room| room.opening)
    }

    /// Whether everything of the room is heard. Always, in a space that does not follow.
    pub fn is_open(&self, room: &RoomName) -> bool {
        !self.config.follows || self.rooms.find(room).is_some_and(|room| !room.opening)
    }

    /// Whether what has happened in the space's rooms is known. Always, in a space that does not follow.
    pub fn is_in_touch(&self) -> bool {
        !self.following.out_of_touch
    }

    /// Where a member stands; `None` if it is none. For who joined when the room was [`Joined::opening`].
    pub fn joined(&self, conn: ConnId, room: &RoomName) -> Option<Joined> {
        let id = self.rooms.id(room)?;
        let connection = self.conns.get(&conn)?;
        let membership = connection.rooms.iter().find(|membership| membership.room == id)?;
        Some(Joined {
            room_id: id,
            already: true,
            position: self.position_of(id),
            seq: self.order.head_seq().max(connection.seen_seq),
            joined_seq: membership.joined_seq,
            opening: self.is_opening(id),
        })
    }

    /// Follows a room that somebody wants to read without being in it, until [`Space::release_room`]. What is read of it
    /// counts once [`Space::is_open`].
    pub fn hold_room(&mut self, room: &RoomName, fx: &mut Effects) {
        let id = self.open_room(room, fx);
        if let Some(room) = self.rooms.get_mut(id) {
            room.held += 1;
        }
    }

    /// Ends one [`Space::hold_room`].
    pub fn release_room(&mut self, room: &RoomName) {
        if let Some(id) = self.rooms.id(room) {
            self.let_go_of(id);
        }
    }

    pub(crate) fn let_go_of(&mut self, id: RoomId) {
        if let Some(room) = self.rooms.get_mut(id) {
            room.held = room.held.saturating_sub(1);
        }
        self.rooms.settle(id);
    }

    /// The room is followed: everything with a larger `seq` than `as_of` will be received, everything up to it in rooms
    /// followed before has been. Those who have joined it meanwhile are members from `as_of` on, and their sessions are
    /// stored with the room in them: once they are, tell them.
    #[allow(clippy::too_many_arguments)]
    pub fn followed(
        &mut self,
        room: &RoomName,
        epoch: Epoch,
        as_of: u64,
        head: RoomHead,
        leases: Vec<Lease>,
        now: Millis,
        fx: &mut Effects,
    ) -> Received {
        let Some(id) = self.rooms.id(room).filter(|_| self.config.follows) else { return Received::NotFollowed };
        if epoch != self.epoch {
            self.out_of_touch();
            return Received::OtherEpoch;
        }
        let Some(room) = self.rooms.get(id) else { return Received::NotFollowed };
        let received = match (room.opening, head.offset > room.head_offset) {
            (true, _) => {
                self.heard(as_of);
                self.open(id, head, as_of, fx);
                Received::Taken
            }
            (false, false) => Received::Stale,
            (false, true) => {
                self.out_of_touch();
                Received::Hole
            }
        };
        self.lease_all(id, leases, now, fx);
        received
    }

    /// All messages up to `as_of` have been delivered, unless some are missing.
    fn heard(&mut self, as_of: u64) {
        self.following.known_seq = self.following.known_seq.max(as_of);
        if !self.following.out_of_touch {
            self.order.heard(as_of);
        }
    }

    fn open(&mut self, id: RoomId, head: RoomHead, as_of: u64, fx: &mut Effects) {
        let Some(room) = self.rooms.get_mut(id) else { return };
        let (lost, before) = (room.lost, room.head_offset);
        room.begin_at(head);
        if lost {
            self.tell_gap(id, before, head.offset, fx);
        }
        for conn in self.members(id) {
            let Some(connection) = self.conns.get_mut(&conn) else { continue };
            let waits = |of: &&mut crate::space::Membership| of.room == id && of.joined_seq == OPENING;
            if let Some(membership) = connection.rooms.iter_mut().find(waits) {
                membership.joined_seq = as_of.max(connection.seen_seq);
                self.save_session(conn, fx);
            }
        }
    }

    /// The connections that are in the room. Costs a walk over those of its users.
    fn members(&self, id: RoomId) -> Vec<ConnId> {
        let Some(room) = self.rooms.get(id) else { return Vec::new() };
        let conns = room.presence.users().filter_map(|key| self.users.get(key)).flat_map(|user| &user.conns);
        let is_in = |conn: &&ConnId| self.conns.get(conn).is_some_and(|of| of.rooms.iter().any(|of| of.room == id));
        conns.filter(is_in).copied().collect()
    }

    /// A message of a room that is followed. One without a place is delivered as it is.
    pub fn receive(&mut self, publication: Arc<Publication>, now: Millis, fx: &mut Effects) -> Received {
        let ours = self.config.follows && *publication.space == *self.key;
        let Some(id) = self.rooms.id(&publication.room).filter(|_| ours) else { return Received::NotFollowed };
        let Some(room) = self.rooms.get(id) else { return Received::NotFollowed };
        let Some(position) = publication.position else {
            deliver(room, &publication, fx);
            self.rooms.count_message(id, now);
            return Received::Taken;
        };
        if room.opening {
            return Received::Opening;
        }
        if self.following.out_of_touch {
            return Received::OutOfTouch;
        }
        if position.epoch != self.epoch {
            self.out_of_touch();
            return Received::OtherEpoch;
        }
        if position.offset <= room.head_offset {
            return Received::Stale;
        }
        if position.offset > room.head_offset.saturating_add(1) {
            self.out_of_touch();
            return Received::Hole;
        }
        self.take_in(id, publication, now, fx);
        self.ring.trim_bytes(&mut self.rooms);
        Received::Taken
    }

    fn take_in(&mut self, id: RoomId, publication: Arc<Publication>, now: Millis, fx: &mut Effects) {
        self.rooms.count_message(id, now);
        let Some(room) = self.rooms.get_mut(id) else { return };
        room.head_offset = offset_of(&publication);
        room.last_offset = room.head_offset;
        room.last_persistent_seq = publication.seq;
        self.order.heard(publication.seq);
        deliver(room, &publication, fx);
        // Its own time is that of another clock.
        self.ring.push(room, publication, now);
    }

    /// Messages may be missed from now on. Nothing that has a place is delivered before [`Space::caught_up`].
    pub fn out_of_touch(&mut self) {
        self.following.out_of_touch = self.config.follows;
    }

    /// In touch again: these are all rooms that are followed, and what was missed in them up to `as_of`. Where that is no
    /// longer known, members are told ([`GAP_EVENT`]) before anything else is delivered.
    pub fn caught_up(&mut self, epoch: Epoch, as_of: u64, rooms: Vec<CaughtUp>, now: Millis, fx: &mut Effects) {
        if !self.config.follows {
            return;
        }
        let is_new_life = epoch != self.epoch;
        if is_new_life {
            self.begin_new_life(epoch, as_of, fx);
        }
        let mut unheard: FxHashSet<RoomId> = self.rooms.iter().map(|room| room.id).collect();
        let (mut cleared, mut missed) = (FxHashSet::default(), Vec::new());
        let (mut opened, mut lost, mut leases) = (Vec::new(), Vec::new(), Vec::new());
        for CaughtUp { room, head, missed: of_room, gap, leases: of_leases } in rooms {
            let Some(room) = self.rooms.find(&room) else { continue };
            unheard.remove(&room.id);
            leases.push((room.id, of_leases));
            let new: Vec<_> = of_room.into_iter().filter(|of| offset_of(of) > room.head_offset).collect();
            if room.opening {
                opened.push((room.id, head));
            } else if gap || is_new_life || !reaches(&new, room.head_offset, head.offset) {
                cleared.insert(room.id);
                lost.push((room.id, room.head_offset, head));
            } else {
                missed.extend(new.into_iter().map(|of| (room.id, of)));
            }
        }
        // Nothing is known of these, which are to be followed again.
        unheard.retain(|id| self.rooms.get(*id).is_some_and(|room| !room.opening));
        cleared.extend(&unheard);
        self.ring.clear(&mut self.rooms, &cleared);
        for id in unheard {
            let Some(room) = self.rooms.get_mut(id) else { continue };
            (room.opening, room.lost, room.floor_seq) = (true, true, u64::MAX);
            fx.push(Effect::Follow { room: room.name.clone() });
        }
        for (id, before, head) in lost {
            if let Some(room) = self.rooms.get_mut(id) {
                room.begin_at(head);
            }
            self.tell_gap(id, before, head.offset, fx);
            self.rooms.settle(id);
        }
        for (id, head) in opened {
            self.open(id, head, as_of, fx);
        }
        missed.sort_by_key(|(_, publication)| publication.seq);
        for (id, publication) in missed {
            self.take_in(id, publication, now, fx);
        }
        self.ring.trim_bytes(&mut self.rooms);
        self.following.out_of_touch = false;
        self.heard(as_of);
        for (id, leases) in leases {
            self.lease_all(id, leases, now, fx);
        }
    }

    /// What the counters' former life has said of who has seen what means nothing in this one.
    fn begin_new_life(&mut self, epoch: Epoch, as_of: u64, fx: &mut Effects) {
        self.epoch = epoch;
        self.order.begin_again(as_of);
        self.following.known_seq = as_of;
        fx.push(Effect::Renewed);
        let mut beyond = Vec::new();
        for (conn, connection) in &mut self.conns {
            let mut changed = false;
            connection.seen_seq = connection.seen_seq.min(as_of);
            for membership in &mut connection.rooms {
                // A number of this life, else who comes back with it would be told that it missed nothing.
                if membership.joined_seq != OPENING && membership.joined_seq > as_of {
                    membership.joined_seq = as_of;
                    changed = true;
                }
            }
            beyond.extend(changed.then_some(*conn));
        }
        beyond.into_iter().for_each(|conn| self.save_session(conn, fx));
        self.sessions.begin_new_life(SessionOffset { epoch, seq: as_of });
    }

    /// Tells who is in the room that it stands at `head`, and that they have seen nothing after `before`. It has no place
    /// itself, and is not dropped for who is slow: whoever sees a later message has been told.
    fn tell_gap(&mut self, id: RoomId, before: u64, head: u64, fx: &mut Effects) {
        let Some(room) = self.rooms.get(id) else { return };
        let Ok(event) = EventName::try_from(GAP_EVENT) else { return };
        // In another life of the counters the room may stand before where it stood.
        let (from, to) = (before.min(head).saturating_add(1), before.max(head));
        let body = serde_json::json!({ "room": room.name.as_str(), "from": from, "to": to });
        let publication = Publication {
            space: self.key.clone(),
            room: room.name.clone(),
            event,
            data: Bytes::from(body.to_string()),
            attachments: Arc::from([]),
            class: Class::Recoverable,
            position: None,
            seq: 0,
            timestamp_ms: 0,
        };
        deliver(room, &Arc::new(publication), fx);
    }

    /// Forgets rooms that nobody has used for a while, and the longest idle beyond `keep`.
    pub(crate) fn forget_idle(&mut self, linger_ms: u64, keep: usize, fx: &mut Effects) {
        if !self.config.follows {
            return self.rooms.forget_idle(keep);
        }
        while let Some(room) = self.rooms.take_idle(linger_ms, keep) {
            self.forget_elsewhere(room.id, room.presence.users());
            fx.push(Effect::Unfollow { room: room.name });
        }
    }
}

/// Whether the messages are all from the one after `from` up to `to`.
fn reaches(messages: &[Arc<Publication>], from: u64, to: u64) -> bool {
    let mut at = from;
    let contiguous = messages.iter().all(|message| {
        at = at.saturating_add(1);
        offset_of(message) == at
    });
    contiguous && at == to
}
