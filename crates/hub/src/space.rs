use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tidegate_types::{
    Class, ConnId, Epoch, EventName, Millis, Position, Publication, RoomName, SpaceKey, Status, UserId,
};

use crate::pending::Order;
use crate::presence::{Attached, Detached, UserKey, Users};
use crate::recovery::Sessions;
use crate::ring::{Ring, is_contiguous, offset_of};
use crate::room::{Base, IDLE_ROOMS, Room, Rooms};
use crate::session::{NewSession, Who};
use crate::{Effect, Effects, RoomId, RoomStart, SpaceConfig, SpaceStart, SpaceStats};

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
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The message with its numbers. They are not to leave the process while `pending`.
    pub publication: Arc<Publication>,
    /// Whether it still waits for the store or for its turn; it is delivered by a later call.
    pub pending: bool,
}

/// Where a joiner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The room.
    pub room_id: RoomId,
    /// It was in the room before.
    pub already: bool,
    /// The room's released head.
    pub position: Position,
    /// The space's released head: the joiner gets exactly the messages of the room with a larger `seq`.
    pub seq: u64,
}

/// Why a connection cannot join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Never connected, or gone.
    #[error("the connection is not connected to this namespace")]
    NotConnected,
}

/// What a reader with a cursor missed.
#[derive(Clone, Debug, PartialEq)]
pub enum Since {
    /// Nothing.
    UpToDate,
    /// All of this, oldest first.
    Ring(Vec<Arc<Publication>>),
    /// The ring does not reach back, the store may: read it after this offset, then merge with
    /// [`Space::ring_of`] by offset. A hole that remains is a loss to be told.
    Store {
        /// The last offset that the reader has.
        after_offset: u64,
    },
    /// A cursor of another epoch, or one that was never handed out.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub room: RoomId,
    pub joined_seq: u64,
}

pub(crate) struct Connection {
    pub user: UserKey,
    /// Where this connection stands among its user's.
    user_index: u32,
    pub status: Status,
    pub rooms: SmallVec<[Membership; 2]>,
    pub session: NewSession,
}

/// One (tenant, namespace): its rooms, connections, presence, replay rings and recoverable sessions.
pub struct Space {
    pub(crate) key: Arc<SpaceKey>,
    pub(crate) config: SpaceConfig,
    pub(crate) epoch: Epoch,
    pub(crate) order: Order,
    pub(crate) rooms: Rooms,
    ring: Ring,
    pub(crate) conns: FxHashMap<ConnId, Connection>,
    listeners: FxHashMap<ConnId, SmallVec<[RoomId; 1]>>,
    pub(crate) users: Users,
    pub(crate) sessions: Sessions,
    /// Rooms with presence diffs to send.
    pub(crate) batched: Vec<RoomId>,
}

impl Space {
    /// Opens the space where the store left it; see [`SpaceStart`].
    pub fn new(key: Arc<SpaceKey>, config: SpaceConfig, start: SpaceStart) -> Self {
        let unproven = if start.clean { 0 } else { start.reserved_seq };
        let last_seq = start.last_seq.max(unproven);
        // A room that the store does not name may have been forgotten: nothing of it can be proven, except that no
        // offset of it was ever larger than the numbers handed out.
        let floor_seq = if start.clean { start.last_seq } else { start.reserved_seq };
        let base = Base { offset: last_seq, floor_seq, stored_seq: last_seq };
        let mut rooms = Rooms::new(base);
        for known in &start.rooms {
            let id = rooms.open(&known.room);
            let Some(room) = rooms.get_mut(id) else { continue };
            room.last_offset = known.last_offset;
            if known.last_persistent_seq < unproven {
                room.last_offset = room.last_offset.max(unproven);
            }
            room.head_offset = room.last_offset;
            room.last_persistent_seq = known.last_persistent_seq;
            room.stored_seq = known.last_persistent_seq;
            room.floor_seq = known.floor_seq.max(unproven);
        }
        let mut ring = Ring::new(config.ring_window_ms, config.ring_bytes);
        let mut newest = 0;
        for publication in start.ring {
            let offset = offset_of(&publication);
            let ours = publication.position.is_some_and(|position| position.epoch == start.epoch);
            let Some(room) = rooms.id(&publication.room).and_then(|id| rooms.get_mut(id)) else { continue };
            if !ours || publication.seq <= newest || publication.seq > last_seq || offset > room.last_offset {
                continue;
            }
            newest = publication.seq;
            ring.push(room, publication);
        }
        let ids: Vec<RoomId> = rooms.iter().map(|room| room.id).collect();
        for id in ids {
            if let Some(room) = rooms.get_mut(id) {
                // If the ring reaches up to the head, only what lies before its front can be missing from it.
                if let (true, Some(front)) = (is_contiguous(room), room.ring.front()) {
                    room.stored_seq = room.stored_seq.min(front.seq.saturating_sub(1));
                }
                // Then a read that lacks it shows that the store has dropped what was missed.
                room.stored_exact = room.stored_seq > 0 && room.stored_seq == room.last_persistent_seq;
            }
            rooms.settle(id);
        }
        ring.trim_bytes(&mut rooms);
        let order = Order::new(last_seq, start.reserved_seq, config.reserve_block, config.durable);
        Self {
            key,
            config,
            epoch: start.epoch,
            order,
            rooms,
            ring,
            conns: FxHashMap::default(),
            listeners: FxHashMap::default(),
            users: Users::default(),
            sessions: Sessions::default(),
            batched: Vec::new(),
        }
    }

    /// The life of the counters.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The `seq` of the last message released.
    pub fn head_seq(&self) -> u64 {
        self.order.head_seq()
    }

    /// Tenant and namespace.
    pub fn key(&self) -> &Arc<SpaceKey> {
        &self.key
    }

    /// Messages that wait for the store, and their payload bytes. The caller refuses or delays publishing when these
    /// grow: the space itself accepts everything.
    pub fn pending(&self) -> (usize, usize) {
        (self.order.len(), self.order.bytes())
    }

    /// A connection with a user. An older use of the same id ends without a session.
    pub fn connect(&mut self, conn: ConnId, who: Who, session: NewSession, now: Millis, fx: &mut Effects) {
        self.disconnect(conn, false, now, fx);
        self.drop_kept(&session.pid, fx);
        self.attach(conn, who, session, now, fx);
        self.save_session(conn, fx);
    }

    pub(crate) fn attach(
        &mut self,
        conn: ConnId,
        who: Who,
        session: NewSession,
        now: Millis,
        fx: &mut Effects,
    ) -> UserKey {
        let Attached { user, index, changed } = self.users.attach(who, conn, now);
        let user_index = u32::try_from(index).unwrap_or(u32::MAX);
        self.sessions.set_live(session.pid.clone(), conn);
        self.conns
            .insert(conn, Connection { user, user_index, status: Status::Online, rooms: SmallVec::new(), session });
        if changed {
            self.user_changed(user, now, fx);
        }
        user
    }

    /// Puts a connection into a room.
    pub fn join(&mut self, conn: ConnId, room: &RoomName, now: Millis, fx: &mut Effects) -> Result<Joined, JoinError> {
        let Some(connection) = self.conns.get_mut(&conn) else { return Err(JoinError::NotConnected) };
        let room_id = self.rooms.open(room);
        let seq = self.order.head_seq();
        let already = connection.rooms.iter().any(|membership| membership.room == room_id);
        if !already {
            let user = connection.user;
            connection.rooms.push(Membership { room: room_id, joined_seq: seq });
            if let Some(room) = self.rooms.get_mut(room_id) {
                room.enter(conn.shard);
            }
            self.add_lease(room_id, user, conn, now, fx);
            self.save_session(conn, fx);
        }
        Ok(Joined { room_id, already, position: self.position_of(room_id), seq })
    }

    /// Takes a connection out of a room; `None` if it was not in it.
    pub fn leave(&mut self, conn: ConnId, room: &RoomName, now: Millis, fx: &mut Effects) -> Option<RoomId> {
        let id = self.rooms.id(room)?;
        let connection = self.conns.get_mut(&conn)?;
        let index = connection.rooms.iter().position(|membership| membership.room == id)?;
        connection.rooms.remove(index);
        let user = connection.user;
        if let Some(room) = self.rooms.get_mut(id) {
            room.exit(conn.shard);
        }
        self.end_lease(id, user, now, fx);
        self.rooms.settle(id);
        self.save_session(conn, fx);
        Some(id)
    }

    /// Ends a connection, listener or both: presence leaves first, then the session is kept or dropped. Does nothing
    /// for one that is gone already.
    pub fn disconnect(&mut self, conn: ConnId, keep_session: bool, now: Millis, fx: &mut Effects) {
        for id in self.listeners.remove(&conn).into_iter().flatten() {
            self.stop_listening(id, conn);
        }
        let Some(connection) = self.conns.remove(&conn) else { return };
        for membership in &connection.rooms {
            if let Some(room) = self.rooms.get_mut(membership.room) {
                room.exit(conn.shard);
            }
            self.end_lease(membership.room, connection.user, now, fx);
        }
        let user: Option<UserId> = self.users.get(connection.user).map(|user| user.id.clone());
        let index = connection.user_index as usize;
        let Detached { changed, moved } = self.users.detach(connection.user, index, connection.status);
        if let Some(moved) = moved.and_then(|moved| self.conns.get_mut(&moved)) {
            moved.user_index = connection.user_index;
        }
        if changed {
            self.user_changed(connection.user, now, fx);
        }
        let ids: SmallVec<[RoomId; 2]> = connection.rooms.iter().map(|membership| membership.room).collect();
        self.sessions.forget_live(&connection.session.pid, conn);
        match (keep_session, user) {
            (true, Some(user)) => self.keep_session(connection, user, now, fx),
            (false, _) | (true, None) => {
                if self.config.durable {
                    fx.push(Effect::DropSession(connection.session.pid));
                }
            }
        }
        for id in ids {
            self.rooms.settle(id);
        }
    }

    /// Whether the connection is in the room.
    pub fn is_member(&self, conn: ConnId, room: &RoomName) -> bool {
        let Some(id) = self.rooms.id(room) else { return false };
        self.conns.get(&conn).is_some_and(|connection| connection.rooms.iter().any(|of| of.room == id))
    }

    /// The rooms that the connection has joined, in that order.
    pub fn rooms_of(&self, conn: ConnId) -> Vec<RoomName> {
        let rooms = self.conns.get(&conn).map_or(&[][..], |connection| &connection.rooms);
        rooms.iter().filter_map(|membership| Some(self.rooms.get(membership.room)?.name.clone())).collect()
    }

    /// A listener without presence (SSE).
    pub fn subscribe(&mut self, conn: ConnId, room: &RoomName, _now: Millis) -> Joined {
        let room_id = self.rooms.open(room);
        let listens = self.listeners.entry(conn).or_default();
        let already = listens.contains(&room_id);
        if !already {
            listens.push(room_id);
            if let Some(room) = self.rooms.get_mut(room_id) {
                room.enter(conn.shard);
            }
        }
        Joined { room_id, already, position: self.position_of(room_id), seq: self.order.head_seq() }
    }

    /// Ends [`Space::subscribe`].
    pub fn unsubscribe(&mut self, conn: ConnId, room: &RoomName) {
        let Some(id) = self.rooms.id(room) else { return };
        let Some(listens) = self.listeners.get_mut(&conn) else { return };
        let Some(index) = listens.iter().position(|of| *of == id) else { return };
        listens.remove(index);
        if listens.is_empty() {
            self.listeners.remove(&conn);
        }
        self.stop_listening(id, conn);
    }

    fn stop_listening(&mut self, id: RoomId, conn: ConnId) {
        if let Some(room) = self.rooms.get_mut(id) {
            room.exit(conn.shard);
        }
        self.rooms.settle(id);
    }

    /// The room's released head.
    pub fn position(&self, room: &RoomName) -> Position {
        let offset = self.rooms.find(room).map_or(self.rooms.base.offset, |room| room.head_offset);
        Position { epoch: self.epoch, offset }
    }

    fn position_of(&self, id: RoomId) -> Position {
        Position { epoch: self.epoch, offset: self.rooms.get(id).map_or(0, |room| room.head_offset) }
    }

    /// What a reader with a cursor missed.
    pub fn since(&self, room: &RoomName, since: Position) -> Since {
        let head = self.position(room);
        if since.epoch != head.epoch || since.offset > head.offset {
            return Since::Unknown;
        }
        if since.offset == head.offset {
            return Since::UpToDate;
        }
        let Some(room) = self.rooms.find(room) else { return Since::Store { after_offset: since.offset } };
        match room.ring.front() {
            Some(front) if offset_of(front) <= since.offset + 1 && is_contiguous(room) => {
                let from = room.ring.partition_point(|publication| offset_of(publication) <= since.offset);
                Since::Ring(room.ring.iter().skip(from).cloned().collect())
            }
            Some(_) | None => Since::Store { after_offset: since.offset },
        }
    }

    /// Everything of the room that memory holds, oldest first.
    pub fn ring_of(&self, room: &RoomName) -> Vec<Arc<Publication>> {
        self.rooms.find(room).map_or_else(Vec::new, |room| room.ring.iter().cloned().collect())
    }

    /// Gives a message its place and sends it on its way. A volatile message has no place and leaves at once.
    pub fn publish(&mut self, message: Message, now: Millis, fx: &mut Effects) -> Published {
        let Message { room, event, data, attachments, class } = message;
        let space = self.key.clone();
        let mut publication =
            Publication { space, room, event, data, attachments, class, position: None, seq: 0, timestamp_ms: now };
        match class {
            Class::Volatile => {
                let publication = Arc::new(publication);
                if let Some(room) = self.rooms.find(&publication.room) {
                    deliver(room, &publication, fx);
                }
                return Published { publication, pending: false };
            }
            Class::Recoverable | Class::Persistent => {}
        }
        let id = self.rooms.open(&publication.room);
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
        match class {
            Class::Persistent => fx.push(Effect::Append(publication.clone())),
            Class::Recoverable | Class::Volatile => self.order.reserve_ahead(now, fx),
        }
        let pending = !self.order.admit(id, &publication);
        if !pending {
            self.let_go(id, &publication, fx);
        }
        Published { publication, pending }
    }

    /// The store has the message.
    pub fn appended(&mut self, seq: u64, fx: &mut Effects) {
        self.order.set_appended(seq);
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
        self.ring.push(room, publication.clone());
        self.ring.trim_bytes(&mut self.rooms);
    }

    /// To be called every 50 to 100 ms: sends presence batches, drops what has aged out of rings and sessions, forgets
    /// idle rooms.
    pub fn tick(&mut self, now: Millis, fx: &mut Effects) {
        self.flush_batches(now, fx);
        self.ring.trim_age(&mut self.rooms, now);
        self.expire_sessions(now, fx);
        self.rooms.forget_idle(IDLE_ROOMS);
        self.order.ask_again(now, fx);
    }

    /// Counts. Walks all rooms: for a scrape, not for each message.
    pub fn stats(&self) -> SpaceStats {
        let mut stats = SpaceStats { connections: self.conns.len(), users: self.users.len(), ..SpaceStats::default() };
        for room in self.rooms.iter().filter(|room| room.subscribers > 0) {
            let subscribers = room.subscribers as usize;
            stats.rooms += 1;
            stats.subscriptions += subscribers;
            stats.largest_room = stats.largest_room.max(subscribers);
        }
        stats
    }

    /// For a clean stop: exact heads, floors and the ring. Best called when nothing is pending; recoverable messages
    /// that still wait are then lost to everyone, and the floors say so, persistent ones are left to the store.
    pub fn save(&self) -> SpaceStart {
        let mut rooms: FxHashMap<RoomId, RoomStart> = FxHashMap::default();
        let mut ring = Vec::new();
        for room in self.rooms.iter() {
            ring.extend(room.ring.iter().cloned());
            let start = RoomStart {
                room: room.name.clone(),
                last_offset: room.last_offset,
                last_persistent_seq: room.last_persistent_seq,
                floor_seq: room.floor_seq,
            };
            rooms.insert(room.id, start);
        }
        for (id, waiting) in self.order.waiting() {
            match (waiting.class, rooms.get_mut(&id)) {
                (Class::Recoverable | Class::Volatile, Some(room)) => room.floor_seq = room.floor_seq.max(waiting.seq),
                (Class::Persistent, _) | (_, None) => {}
            }
        }
        let mut rooms: Vec<RoomStart> = rooms.into_values().collect();
        rooms.sort_by(|a, b| a.room.cmp(&b.room));
        ring.sort_by_key(|publication| publication.seq);
        SpaceStart {
            epoch: self.epoch,
            last_seq: self.order.last_seq(),
            reserved_seq: self.order.reserved(),
            clean: true,
            rooms,
            ring,
        }
    }
}

fn deliver(room: &Room, publication: &Arc<Publication>, fx: &mut Effects) {
    if !room.shards.is_empty() {
        fx.push(Effect::Deliver { room_id: room.id, shards: room.shards, publication: publication.clone() });
    }
}
