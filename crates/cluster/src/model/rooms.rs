use std::collections::VecDeque;
use std::sync::Arc;

use tidegate_hub::{Lease, RoomHead};
use tidegate_types::{Millis, NodeId, Position, PresenceInfo, Publication, RoomName, SpaceKey, UserId};

use super::server::{Channel, Push, Pushes};
use super::state::{Once, Room, Space};
use super::{Life, Limits, OtherRun, Server};
use crate::{Outgoing, Placed};

/// A room at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct RoomLook {
    /// Its space.
    pub life: Life,
    /// Where it stands.
    pub head: RoomHead,
    /// How often its leases have changed.
    pub version: u64,
    /// Who is in it, by way of any node.
    pub leases: Vec<Lease>,
}

impl Server {
    /// Gives the message its place, keeps it and publishes it.
    ///
    /// # Errors
    /// The space has to be looked at first.
    pub fn publish(&mut self, message: &Outgoing, now: Millis, out: &mut Pushes) -> Result<Placed, OtherRun> {
        self.space(&message.space, now)?;
        self.about_to_write();
        let limits = self.limits;
        let space = self.space(&message.space, now)?;
        let once = message.idempotency.as_ref().map(|of| {
            ((message.room.clone(), of.sender.clone(), of.key.clone()), Arc::clone(&of.message_id), of.window_ms)
        });
        if let Some(first) = once.as_ref().and_then(|(key, ..)| space.once.get(key)) {
            return Ok(Placed { duplicate: Some(Arc::clone(&first.message_id)), ..first.placed.clone() });
        }
        let epoch = space.epoch;
        let room = space.room(&message.room, &limits, now);
        room.head.offset += 1;
        let offset = room.head.offset;
        space.seq += 1;
        let seq = space.seq;
        let position = Position { epoch, offset };
        let publication = Arc::new(Publication {
            space: Arc::clone(&message.space),
            room: message.room.clone(),
            event: message.event.clone(),
            data: message.data.clone(),
            attachments: Arc::clone(&message.attachments),
            class: message.class,
            position: Some(position),
            seq,
            timestamp_ms: now,
        });
        let room = space.room(&message.room, &limits, now);
        room.head.seq = seq;
        room.bytes += publication.payload_bytes() as u64;
        room.log.push_back(Arc::clone(&publication));
        room.trim(&limits, now);
        let placed = Placed { position, seq, timestamp_ms: now, duplicate: None };
        if let Some((key, message_id, window_ms)) = once {
            let until = now.saturating_add(window_ms);
            space.once.insert(key, Once { placed: placed.clone(), message_id, until });
        }
        let channel = Channel::Room(Arc::clone(&message.space), message.room.clone());
        self.push(&channel, &Push::Published(publication), out);
        Ok(placed)
    }

    /// Where a room stands and who is in it, for a node that begins to follow it: the room's record is made, so that the
    /// first message after this can be told from one that was missed. The mark goes to the node's own channel: what was
    /// published before it is in here, what comes after it is not.
    ///
    /// # Errors
    /// The space has to be looked at first.
    pub fn look(
        &mut self,
        key: &Arc<SpaceKey>,
        name: &RoomName,
        mark: Option<(NodeId, u64)>,
        now: Millis,
        out: &mut Pushes,
    ) -> Result<RoomLook, OtherRun> {
        self.space(key, now)?;
        self.about_to_write();
        let limits = self.limits;
        let space = self.space(key, now)?;
        let life = space.life();
        let room = space.room(name, &limits, now);
        room.trim(&limits, now);
        let (head, (version, leases)) = (room.head, self.leases_in(key, name));
        if let Some((node, mark)) = mark {
            self.push(&Channel::Marks(Arc::clone(key), node), &Push::Mark { space: Arc::clone(key), mark }, out);
        }
        Ok(RoomLook { life, head, version, leases })
    }

    /// As [`Server::look`], and changes nothing. A room that nothing is known of stands where its next message would be
    /// counted from.
    ///
    /// # Errors
    /// The space has to be looked at first.
    pub fn peek(&mut self, key: &Arc<SpaceKey>, name: &RoomName, now: Millis) -> Result<RoomLook, OtherRun> {
        let limits = self.limits;
        let space = self.space(key, now)?;
        let life = space.life();
        let head = match space.rooms.get_mut(name).map(Arc::make_mut) {
            Some(room) => {
                room.trim(&limits, now);
                room.head
            }
            None => Room::fresh(life.seq, 0).head,
        };
        let (version, leases) = self.leases_in(key, name);
        Ok(RoomLook { life, head, version, leases })
    }

    fn leases_in(&self, key: &Arc<SpaceKey>, room: &RoomName) -> (u64, Vec<Lease>) {
        let Some(of) = self.state.leases.get(&(Arc::clone(key), room.clone())) else { return (0, Vec::new()) };
        let held = of.held.iter().map(|((node, _), info)| Lease { node: *node, info: info.clone() });
        (of.version, held.collect())
    }

    /// The messages of the room after `after_seq` up to `upto_seq`, at most `limit`, oldest first; `None` if some of them
    /// may no longer be kept.
    pub fn log_by_seq(
        &self,
        space: &SpaceKey,
        room: &RoomName,
        after_seq: u64,
        upto_seq: u64,
        limit: usize,
        now: Millis,
    ) -> Option<Vec<Arc<Publication>>> {
        let Some(space) = self.state.spaces.get(space) else { return Some(Vec::new()) };
        let Some(room) = space.rooms.get(room).filter(|room| room.expires_at > now) else {
            return (after_seq >= space.seq).then(Vec::new);
        };
        let kept = room.kept(&self.limits, now);
        let trimmed = room.log.iter().take(room.log.len() - kept.len()).map(|of| of.seq).max().unwrap_or(0);
        if after_seq < trimmed.max(room.head.trimmed_seq) {
            return None;
        }
        Some(kept.filter(|of| of.seq > after_seq && of.seq <= upto_seq).take(limit).cloned().collect())
    }

    /// The room's messages that are still kept, oldest first.
    pub fn kept(&self, space: &SpaceKey, room: &RoomName, now: Millis) -> Vec<Arc<Publication>> {
        let room = self.state.spaces.get(space).and_then(|space| space.rooms.get(room));
        room.map(|room| room.kept(&self.limits, now).cloned().collect()).unwrap_or_default()
    }

    /// Says that a user is in the room by way of the node, how present, or (`None`) no more. A room's leases are kept
    /// whatever has become of its space's counters.
    pub fn lease(
        &mut self,
        key: &Arc<SpaceKey>,
        room: &RoomName,
        node: NodeId,
        user: &UserId,
        info: Option<PresenceInfo>,
        out: &mut Pushes,
    ) {
        self.about_to_write();
        let of = self.state.leases.entry((Arc::clone(key), room.clone())).or_default();
        let of = Arc::make_mut(of);
        let holder = (node, user.clone());
        match &info {
            Some(info) => drop(of.held.insert(holder, info.clone())),
            None if of.held.remove(&holder).is_none() => return,
            None => {}
        }
        of.version += 1;
        let version = of.version;
        let push = Push::Leased { space: Arc::clone(key), room: room.clone(), node, user: user.clone(), info, version };
        self.push(&Channel::Room(Arc::clone(key), room.clone()), &push, out);
    }

    /// The leases that the node holds.
    pub fn leases_of(&self, node: NodeId) -> Vec<(Arc<SpaceKey>, RoomName, UserId)> {
        let mut held = Vec::new();
        for ((space, room), of) in &self.state.leases {
            let users = of.held.keys().filter(|(by, _)| *by == node);
            held.extend(users.map(|(_, user)| (Arc::clone(space), room.clone(), user.clone())));
        }
        held
    }

    /// Takes all leases of a dead node back, and tells every node.
    pub fn end_leases(&mut self, dead: NodeId, out: &mut Pushes) {
        self.about_to_write();
        self.state.seats.values_mut().for_each(|seats| _ = seats.remove(&dead));
        let mut ended = Vec::new();
        for ((space, room), of) in &mut self.state.leases {
            if of.held.keys().any(|(node, _)| *node == dead) {
                let of = Arc::make_mut(of);
                of.held.retain(|(node, _), _| *node != dead);
                of.version += 1;
                ended.push((Arc::clone(space), room.clone(), of.version));
            }
        }
        for (space, room, version) in ended {
            let channel = Channel::Room(Arc::clone(&space), room.clone());
            self.push(&channel, &Push::LeasesEnded { space, room, node: dead, version }, out);
        }
        self.push(&Channel::Nodes, &Push::Gone(dead), out);
    }
}

impl Space {
    /// The room, made if there is none. No offset of a room whose record has expired was larger than the space's `seq`.
    fn room(&mut self, name: &RoomName, limits: &Limits, now: Millis) -> &mut Room {
        let seq = self.seq;
        let expires_at = now.saturating_add(limits.room_ttl_ms);
        let room = self.rooms.entry(name.clone()).or_insert_with(|| Arc::new(Room::fresh(seq, expires_at)));
        let room = Arc::make_mut(room);
        room.expires_at = expires_at;
        room
    }
}

impl Room {
    fn fresh(seq: u64, expires_at: Millis) -> Self {
        Self {
            head: RoomHead { offset: seq, seq: 0, trimmed_seq: seq, began: seq },
            bytes: 0,
            log: VecDeque::new(),
            expires_at,
        }
    }

    /// Forgets what is too much or too old.
    fn trim(&mut self, limits: &Limits, now: Millis) {
        let oldest = now.saturating_sub(limits.ttl_ms);
        while let Some(front) = self.log.front() {
            let bytes = front.payload_bytes() as u64;
            let too_many = self.log.len() > limits.messages_per_room;
            let too_large = self.log.len() > 1 && self.bytes.saturating_sub(bytes) >= limits.bytes_per_room;
            if !too_many && !too_large && front.timestamp_ms > oldest {
                return;
            }
            self.head.trimmed_seq = self.head.trimmed_seq.max(front.seq);
            self.bytes = self.bytes.saturating_sub(bytes);
            self.log.pop_front();
        }
    }

    /// What is not too old, oldest first.
    fn kept(&self, limits: &Limits, now: Millis) -> impl ExactSizeIterator<Item = &Arc<Publication>> {
        let oldest = now.saturating_sub(limits.ttl_ms);
        let first = self.log.iter().rposition(|of| of.timestamp_ms <= oldest).map_or(0, |at| at + 1);
        self.log.iter().skip(first)
    }
}
