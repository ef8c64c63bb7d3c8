use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tidegate_types::{Class, ConnId, Epoch, Millis, Position, RoomName, SpaceKey, UserId};

use crate::following::{Following, LINGER_MS};
use crate::once::Once;
use crate::pending::Order;
use crate::recovery::Sessions;
use crate::ring::{Ring, is_contiguous, offset_of};
use crate::room::{Base, IDLE_ROOMS, Rooms};
use crate::seeded::Seed;
use crate::session::{NewSession, Who};
use crate::users::{Attached, Detached, UserKey, Users};
use crate::{Effect, Effects, RoomId, RoomStart, SpaceConfig, SpaceStart};

/// Where a joiner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The room.
    pub room_id: RoomId,
    /// It was in the room before.
    pub already: bool,
    /// The room's released head.
    pub position: Position,
    /// The space's released head, or what the connection has been shown if that is more: the joiner gets exactly the
    /// messages of the room with a larger `seq`.
    pub seq: u64,
    /// [`Joined::seq`] when it became a member.
    pub joined_seq: u64,
    /// The room is not followed yet: the numbers above are not known, and the client is not to be told that it joined,
    /// before [`Space::followed`]; ask [`Space::joined`] then.
    pub opening: bool,
}

/// Why a connection cannot join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Never connected, or gone.
    #[error("the connection is not connected to this namespace")]
    NotConnected,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub room: RoomId,
    /// [`OPENING`] while the room is not followed.
    pub joined_seq: u64,
}

/// The `joined_seq` of whoever has joined a room that is not followed yet.
pub(crate) const OPENING: u64 = u64::MAX;

/// What becomes of a session when its connection ends.
#[derive(Clone, Copy)]
pub(crate) enum Parting {
    Dropped,
    /// It can be resumed.
    Kept,
    /// It is resumed here and now.
    Superseded,
}

pub(crate) struct Connection {
    pub user: UserKey,
    /// Where this connection stands among its user's.
    user_index: u32,
    /// Without activity for a while.
    pub idle: bool,
    pub rooms: SmallVec<[Membership; 2]>,
    /// Another node has shown the client everything up to this, which may be more than this one has heard. A message before
    /// it, of a room joined later, would take the client's cursor back.
    pub seen_seq: u64,
    pub session: NewSession,
}

/// One (tenant, namespace): its rooms, connections, presence, replay rings and recoverable sessions.
pub struct Space {
    pub(crate) key: Arc<SpaceKey>,
    pub(crate) config: SpaceConfig,
    pub(crate) epoch: Epoch,
    pub(crate) order: Order,
    pub(crate) rooms: Rooms,
    pub(crate) ring: Ring,
    pub(crate) conns: FxHashMap<ConnId, Connection>,
    pub(crate) listeners: FxHashMap<ConnId, SmallVec<[RoomId; 1]>>,
    pub(crate) users: Users,
    pub(crate) sessions: Sessions,
    /// Rooms with presence diffs to send.
    pub(crate) batched: Vec<RoomId>,
    /// What senders may send again.
    pub(crate) once: Once,
    pub(crate) following: Following,
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
        let seed = Seed(config.hash_seed);
        let mut rooms = Rooms::new(base, seed);
        for known in &start.rooms {
            let id = rooms.open(&known.room);
            let Some(room) = rooms.get_mut(id) else { continue };
            room.last_offset = known.last_offset;
            if known.last_persistent_seq < unproven {
                room.last_offset = room.last_offset.max(unproven);
            }
            (room.head_offset, room.began) = (room.last_offset, 0);
            room.last_persistent_seq = known.last_persistent_seq;
            room.stored_seq = known.last_persistent_seq;
            room.floor_seq = known.floor_seq.max(unproven);
        }
        let mut ring = Ring::new(config.ring_window_ms, config.ring_bytes, config.follows);
        let mut newest = 0;
        for publication in start.ring {
            let offset = offset_of(&publication);
            let ours =
                publication.space == key && publication.position.is_some_and(|position| position.epoch == start.epoch);
            let Some(room) = rooms.id(&publication.room).and_then(|id| rooms.get_mut(id)) else { continue };
            if !ours || publication.seq <= newest || publication.seq > last_seq || offset > room.last_offset {
                continue;
            }
            newest = publication.seq;
            let at = publication.timestamp_ms;
            ring.push(room, publication, at);
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
        let order = Order::new(last_seq, start.reserved_seq, config.reserve_block, config.durable && !config.follows);
        let once = Once::new(&config);
        Self {
            key,
            config,
            epoch: start.epoch,
            order,
            rooms,
            ring,
            conns: FxHashMap::default(),
            listeners: FxHashMap::default(),
            users: Users::new(seed),
            sessions: Sessions::default(),
            batched: Vec::new(),
            once,
            following: Following::new(last_seq),
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
            .insert(conn, Connection { user, user_index, idle: false, rooms: SmallVec::new(), seen_seq: 0, session });
        if changed {
            self.user_changed(user, now, fx);
        }
        user
    }

    /// Puts a connection into a room.
    pub fn join(&mut self, conn: ConnId, room: &RoomName, now: Millis, fx: &mut Effects) -> Result<Joined, JoinError> {
        let Some(seen_seq) = self.conns.get(&conn).map(|of| of.seen_seq) else { return Err(JoinError::NotConnected) };
        let room_id = self.open_room(room, fx);
        let opening = self.is_opening(room_id);
        let seq = self.order.head_seq().max(seen_seq);
        let from = if opening { OPENING } else { seq };
        let Some(connection) = self.conns.get_mut(&conn) else { return Err(JoinError::NotConnected) };
        let membership = connection.rooms.iter().find(|membership| membership.room == room_id);
        let (already, joined_seq) = (membership.is_some(), membership.map_or(from, |of| of.joined_seq));
        if !already {
            let user = connection.user;
            connection.rooms.push(Membership { room: room_id, joined_seq: from });
            self.rooms.enter(room_id, conn.shard);
            self.add_lease(room_id, user, Some(conn), now, fx);
            if !opening {
                self.save_session(conn, fx);
            }
        }
        Ok(Joined { room_id, already, position: self.position_of(room_id), seq, joined_seq, opening })
    }

    /// Takes a connection out of a room; `None` if it was not in it.
    pub fn leave(&mut self, conn: ConnId, room: &RoomName, now: Millis, fx: &mut Effects) -> Option<RoomId> {
        let id = self.rooms.id(room)?;
        let connection = self.conns.get_mut(&conn)?;
        let index = connection.rooms.iter().position(|membership| membership.room == id)?;
        connection.rooms.remove(index);
        let user = connection.user;
        self.rooms.exit(id, conn.shard);
        self.end_lease(id, user, None, now, fx);
        self.rooms.settle(id);
        self.save_session(conn, fx);
        Some(id)
    }

    /// Ends a connection, listener or both: presence leaves first, then the session is kept or dropped. Does nothing
    /// for one that is gone already.
    pub fn disconnect(&mut self, conn: ConnId, keep_session: bool, now: Millis, fx: &mut Effects) {
        self.end(conn, if keep_session { Parting::Kept } else { Parting::Dropped }, now, fx);
    }

    pub(crate) fn end(&mut self, conn: ConnId, parting: Parting, now: Millis, fx: &mut Effects) {
        for id in self.listeners.remove(&conn).into_iter().flatten() {
            self.stop_listening(id, conn);
        }
        let Some(connection) = self.conns.remove(&conn) else { return };
        for membership in &connection.rooms {
            self.rooms.exit(membership.room, conn.shard);
            self.end_lease(membership.room, connection.user, None, now, fx);
        }
        let user: Option<UserId> = self.users.get(connection.user).map(|user| user.id.clone());
        let index = connection.user_index as usize;
        let Detached { changed, moved } = self.users.detach(connection.user, index, connection.idle);
        if let Some(moved) = moved.and_then(|moved| self.conns.get_mut(&moved)) {
            moved.user_index = connection.user_index;
        }
        if changed {
            self.user_changed(connection.user, now, fx);
        }
        let ids: SmallVec<[RoomId; 2]> = connection.rooms.iter().map(|membership| membership.room).collect();
        self.sessions.forget_live(&connection.session.pid, conn);
        match (parting, user) {
            (Parting::Kept, Some(user)) if self.config.follows => self.give_up_session(connection, user, now, fx),
            (Parting::Kept | Parting::Superseded, Some(user)) => self.keep_session(connection, user, now, fx),
            (Parting::Dropped, _) | (Parting::Kept | Parting::Superseded, None) => {
                if self.stores_sessions() {
                    fx.push(Effect::DropSession(connection.session.pid));
                }
            }
        }
        for id in ids {
            self.rooms.settle(id);
        }
    }

    /// A listener without presence (SSE), in as many rooms as it likes.
    pub fn subscribe(&mut self, conn: ConnId, room: &RoomName, _now: Millis, fx: &mut Effects) -> Joined {
        let room_id = self.open_room(room, fx);
        let listens = self.listeners.entry(conn).or_default();
        let already = listens.contains(&room_id);
        if !already {
            listens.push(room_id);
            self.rooms.enter(room_id, conn.shard);
        }
        let seq = self.order.head_seq();
        let opening = self.is_opening(room_id);
        Joined { room_id, already, position: self.position_of(room_id), seq, joined_seq: seq, opening }
    }

    /// Ends [`Space::subscribe`]; `None` if it did not listen there.
    pub fn unsubscribe(&mut self, conn: ConnId, room: &RoomName) -> Option<RoomId> {
        let id = self.rooms.id(room)?;
        let listens = self.listeners.get_mut(&conn)?;
        let index = listens.iter().position(|of| *of == id)?;
        listens.remove(index);
        if listens.is_empty() {
            self.listeners.remove(&conn);
        }
        self.stop_listening(id, conn);
        Some(id)
    }

    fn stop_listening(&mut self, id: RoomId, conn: ConnId) {
        self.rooms.exit(id, conn.shard);
        self.rooms.settle(id);
    }

    /// To be called every 50 to 100 ms: sends presence batches, drops what has aged out of rings and sessions, forgets
    /// idle rooms.
    pub fn tick(&mut self, now: Millis, fx: &mut Effects) {
        self.rooms.clock = now;
        self.flush_batches(now, fx);
        self.flush_leases(fx);
        self.ring.trim_age(&mut self.rooms, now);
        self.expire_sessions(now, fx);
        self.forget_idle(LINGER_MS, IDLE_ROOMS, fx);
        self.once.forget_expired(now);
        self.order.ask_again(now, fx);
    }

    /// As [`Space::tick`], and forgets all rooms that nobody is in and that hold nothing, which it otherwise keeps for a
    /// while. Says how many rooms and how many recoverable sessions were forgotten.
    pub fn clean(&mut self, now: Millis, fx: &mut Effects) -> (usize, usize) {
        let before = (self.rooms.iter().count(), self.kept_sessions());
        self.tick(now, fx);
        self.forget_idle(0, 0, fx);
        (before.0 - self.rooms.iter().count(), before.1 - self.kept_sessions())
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
