//! What can be asked of a space.

use std::sync::Arc;

use tidegate_types::{ConnId, Position, Publication, RoomName, ShardSet};

use crate::ring::{is_contiguous, offset_of};
use crate::space::Space;
use crate::{RoomId, SpaceStats};

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

impl Space {
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

    /// The room's id, and the shards with members or listeners of it; `None` for a room that nobody is in.
    pub fn find(&self, room: &RoomName) -> Option<(RoomId, ShardSet)> {
        self.rooms.find(room).map(|room| (room.id, room.shards))
    }

    /// The room's released head.
    pub fn position(&self, room: &RoomName) -> Position {
        let offset = self.rooms.find(room).map_or(self.rooms.base.offset, |room| room.head_offset);
        Position { epoch: self.epoch, offset }
    }

    pub(crate) fn position_of(&self, id: RoomId) -> Position {
        Position { epoch: self.epoch, offset: self.rooms.get(id).map_or(0, |room| room.head_offset) }
    }

    /// What a reader with a cursor missed.
    pub fn since(&self, room: &RoomName, since: Position) -> Since {
        let head = self.position(room);
        if !self.is_open(room) {
            return Since::Unknown;
        }
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

    /// Connections with a user.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Counts, for a scrape. Walks no more than the largest rooms.
    pub fn stats(&self) -> SpaceStats {
        let sizes = &self.rooms.sizes;
        let largest = sizes.largest(1).filter_map(|id| Some(self.rooms.get(id)?.subscribers as usize)).max();
        SpaceStats {
            rooms: sizes.rooms,
            subscriptions: sizes.subscriptions,
            connections: self.conns.len(),
            users: self.users.len(),
            largest_room: largest.unwrap_or(0),
        }
    }
}
