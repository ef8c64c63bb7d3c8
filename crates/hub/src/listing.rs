//! What backends and operators ask: who is where, and which rooms are large or busy. Every answer is bounded, and so is
//! the time under the space's lock.

use tidegate_types::{ConnId, Millis, PresenceInfo, RoomName, Status, UserId};

use crate::SocketId;
use crate::room::Room;
use crate::space::{Connection, Space};
use crate::users::UserKey;

/// Places looked at for one page; a page of a table with many holes may therefore be short.
const MOST_LOOKED_AT: usize = 10_000;
/// Connections listed of one member of a room.
const CONNECTIONS_LISTED: usize = 100;

/// Where the next page begins.
pub type Cursor = u64;

/// A part of a listing. What comes or goes between two pages may be missed; what stays is listed once.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The entries, in no particular order; there may be none although more follow.
    pub items: Vec<T>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// A room at a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct RoomSummary {
    /// The room.
    pub room: RoomName,
    /// Distinct users in it.
    pub users: usize,
    /// Connections and listeners in it.
    pub connections: usize,
    /// Messages per second over the last 10 s.
    pub rate: f64,
}

/// A connection with a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The connection.
    pub conn: ConnId,
    /// Its Socket.IO socket id.
    pub socket_id: SocketId,
    /// Its user.
    pub user: UserId,
    /// `Online`, or `Away` after a time without activity.
    pub status: Status,
    /// The rooms that it is in.
    pub rooms: usize,
}

/// A user in a room.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The user.
    pub presence: PresenceInfo,
    /// Those of the user's connections that are in the room, at most 100.
    pub connections: Vec<ConnId>,
}

impl Space {
    /// Rooms with somebody in them.
    pub fn rooms_page(&self, from: Option<Cursor>, limit: usize, now: Millis) -> Page<RoomSummary> {
        let end = self.rooms.end();
        page(from, end, limit, |place, items| {
            let room = self.rooms.at(place).filter(|room| room.subscribers > 0);
            items.extend(room.map(|room| summary(room, now)));
        })
    }

    /// One room; `None` if nobody is in it.
    pub fn room_summary(&self, room: &RoomName, now: Millis) -> Option<RoomSummary> {
        self.rooms.find(room).filter(|room| room.subscribers > 0).map(|room| summary(room, now))
    }

    /// The largest rooms, largest first.
    pub fn top_rooms_by_members(&self, most: usize, now: Millis) -> Vec<RoomSummary> {
        let rooms = self.rooms.sizes.largest(most).filter_map(|id| self.rooms.get(id));
        let mut rooms: Vec<&Room> = rooms.collect();
        rooms.sort_by(|a, b| b.subscribers.cmp(&a.subscribers).then_with(|| a.name.cmp(&b.name)));
        rooms.into_iter().take(most).map(|room| summary(room, now)).collect()
    }

    /// The rooms with the most messages per second, busiest first, at most 256; those without any are left out.
    pub fn top_rooms_by_rate(&self, most: usize, now: Millis) -> Vec<RoomSummary> {
        let rooms = self.rooms.busy.rooms.iter().filter_map(|id| self.rooms.get(*id));
        let mut rooms: Vec<RoomSummary> = rooms.map(|room| summary(room, now)).filter(|room| room.rate > 0.0).collect();
        rooms.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.room.cmp(&b.room)));
        rooms.truncate(most);
        rooms
    }

    /// The users of a room with their connections. Costs a walk over the room's users.
    pub fn members_page(&self, room: &RoomName, from: Option<Cursor>, limit: usize) -> Page<Member> {
        let Some(room) = self.rooms.find(room) else { return Page { items: Vec::new(), next: None } };
        let from = from.unwrap_or(0);
        let mut keys: Vec<UserKey> = room.presence.users().filter(|key| u64::from(*key) >= from).collect();
        let limit = limit.max(1);
        let next = (keys.len() > limit).then(|| *keys.select_nth_unstable(limit).1);
        keys.truncate(limit);
        keys.sort_unstable();
        let is_in = |conn: &&ConnId| {
            self.conns.get(conn).is_some_and(|connection| connection.rooms.iter().any(|of| of.room == room.id))
        };
        let member = |key: UserKey| {
            let user = self.users.get(key)?;
            let connections = user.conns.iter().filter(is_in).take(CONNECTIONS_LISTED).copied().collect();
            Some(Member { presence: self.info_in(room.id, key)?, connections })
        };
        Page { items: keys.into_iter().filter_map(member).collect(), next: next.map(u64::from) }
    }

    /// The connections of a user.
    pub fn connections_of(&self, user: &UserId) -> &[ConnId] {
        self.users.find(user).map_or(&[], |user| &user.conns)
    }

    /// One connection.
    pub fn connection(&self, conn: ConnId) -> Option<ConnectionInfo> {
        self.conns.get(&conn).and_then(|connection| self.connection_info(conn, connection))
    }

    /// All connections, user by user. The connections of one user stand together, and a page ends with a whole user: it
    /// may be longer than `limit` by the connections of one.
    pub fn connections_page(&self, from: Option<Cursor>, limit: usize) -> Page<ConnectionInfo> {
        page(from, self.users.end(), limit, |place, items| {
            let user = UserKey::try_from(place).ok().and_then(|key| self.users.get(key));
            let conns = user.map_or(&[][..], |user| &user.conns);
            items.extend(conns.iter().filter_map(|conn| self.connection(*conn)));
        })
    }

    fn connection_info(&self, conn: ConnId, connection: &Connection) -> Option<ConnectionInfo> {
        Some(ConnectionInfo {
            conn,
            socket_id: connection.session.socket_id.clone(),
            user: self.users.get(connection.user)?.id.clone(),
            status: if connection.idle { Status::Away } else { Status::Online },
            rooms: connection.rooms.len(),
        })
    }

    /// How many rooms a user is in, over all connections: a room counts once.
    pub fn rooms_of_user(&self, user: &UserId) -> usize {
        self.users.find(user).map_or(0, |user| user.rooms as usize)
    }

    /// The rooms of a user over all connections, by name, at most `limit`.
    pub fn room_names_of_user(&self, user: &UserId, limit: usize) -> Vec<RoomName> {
        let conns = self.connections_of(user).iter().filter_map(|conn| self.conns.get(conn));
        let mut ids: Vec<_> = conns.flat_map(|conn| conn.rooms.iter().map(|membership| membership.room)).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut names: Vec<RoomName> =
            ids.into_iter().filter_map(|id| Some(self.rooms.get(id)?.name.clone())).collect();
        names.sort();
        names.truncate(limit);
        names
    }

    /// The rooms that a listener listens to.
    pub fn rooms_of_listener(&self, conn: ConnId) -> Vec<RoomName> {
        let rooms = self.listeners.get(&conn).map_or(&[][..], |rooms| rooms);
        rooms.iter().filter_map(|id| Some(self.rooms.get(*id)?.name.clone())).collect()
    }
}

fn summary(room: &Room, now: Millis) -> RoomSummary {
    RoomSummary {
        room: room.name.clone(),
        users: room.presence.len(),
        connections: room.subscribers as usize,
        rate: room.rate.per_second(now),
    }
}

/// Walks places of a table from `from` on until `limit` entries are found.
fn page<T>(from: Option<Cursor>, end: usize, limit: usize, mut look: impl FnMut(usize, &mut Vec<T>)) -> Page<T> {
    let mut place = usize::try_from(from.unwrap_or(0)).unwrap_or(end);
    let stop = end.min(place.saturating_add(MOST_LOOKED_AT));
    let mut items = Vec::new();
    while place < stop && items.len() < limit.max(1) {
        look(place, &mut items);
        place += 1;
    }
    Page { items, next: (place < end).then_some(place as Cursor) }
}
