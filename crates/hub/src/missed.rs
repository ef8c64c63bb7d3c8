//! What a reader of a room has missed: from memory, from what the store returned, or from nowhere that could be proven.

use std::sync::Arc;

use tidegate_types::{Bookmark, Position, Publication, RoomName, SessionOffset};

use crate::Space;
use crate::ring::{after_seq, offset_of};
use crate::room::Room;

/// What a reader has missed.
#[derive(Clone, Debug, PartialEq)]
pub enum Missed {
    /// All of this, oldest first; nothing if it is empty.
    All(Vec<Arc<Publication>>),
    /// Memory does not reach back, the store may: ask again with what it returns.
    InStore,
    /// It cannot be proven what was missed.
    Unprovable,
}

/// What a reader of several rooms has missed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MissedInRooms {
    /// All of these, in the order of `seq`, whatever their room.
    pub messages: Vec<Arc<Publication>>,
    /// Rooms that memory does not reach back in, and the `seq` after which to read the store: ask again with what it
    /// returns.
    pub in_store: Vec<(RoomName, u64)>,
    /// Rooms of which it cannot be proven what was missed. Nothing of them is among the messages.
    pub unprovable: Vec<RoomName>,
}

impl Space {
    /// What a reader of these rooms has missed since `since`, up to the released head. `stored` is what the store returned
    /// for rooms that were [`MissedInRooms::in_store`]; a room that it did not answer for must not be asked about again,
    /// because nothing in it and no answer look the same.
    pub fn missed_in_rooms(
        &self,
        rooms: &[RoomName],
        since: SessionOffset,
        stored: &[(RoomName, Vec<Arc<Publication>>)],
    ) -> MissedInRooms {
        // A number above the head was never handed out in this epoch.
        if since.epoch != self.epoch || since.seq > self.order.head_seq() {
            return MissedInRooms { unprovable: rooms.to_vec(), ..MissedInRooms::default() };
        }
        let mut missed = MissedInRooms::default();
        for name in rooms {
            let Some(room) = self.rooms.find(name) else {
                missed.unprovable.push(name.clone());
                continue;
            };
            let of_room = stored.iter().find(|(of, _)| of == name);
            let of_room: Option<Vec<_>> = of_room.map(|(_, messages)| messages.iter().collect());
            missed.add(room, since.seq, self.missed_after_seq(room, since.seq, of_room.as_deref()));
        }
        missed.sort();
        missed
    }

    /// What a reader of the room has missed since `since`, up to the released head. `stored` is what the store returned
    /// for a [`Missed::InStore`], in any order; what has come since then is in memory, so that a reader that becomes a
    /// member under the same lock sees neither a gap nor a repetition.
    pub fn missed(&self, room: &RoomName, since: Bookmark, stored: Option<&[Arc<Publication>]>) -> Missed {
        // What a room that is opening has is not known yet.
        let Some(room) = self.rooms.find(room).filter(|room| !room.opening) else { return Missed::Unprovable };
        let stored: Option<Vec<&Arc<Publication>>> = stored.map(|stored| stored.iter().collect());
        match since {
            Bookmark::Session(offset) if offset.epoch != self.epoch || offset.seq > self.order.head_seq() => {
                Missed::Unprovable
            }
            Bookmark::Session(offset) => self.missed_after_seq(room, offset.seq, stored.as_deref()),
            Bookmark::Room(position) if position.epoch != self.epoch || position.offset > room.head_offset => {
                Missed::Unprovable
            }
            Bookmark::Room(position) => self.missed_after_offset(room, position.offset, stored.as_deref()),
        }
    }

    /// What memory has of the room, oldest first, and the released head: the first `limit` after the offset, or the
    /// newest `limit`.
    pub fn recent(&self, room: &RoomName, after: Option<u64>, limit: usize) -> (Vec<Arc<Publication>>, Position) {
        let head = self.position(room);
        let Some(room) = self.rooms.find(room) else { return (Vec::new(), head) };
        let skip = match after {
            Some(after) => room.ring.partition_point(|publication| offset_of(publication) <= after),
            None => room.ring.len().saturating_sub(limit),
        };
        (room.ring.iter().skip(skip).take(limit).cloned().collect(), head)
    }

    /// Whether the room has or had messages before this offset. Not those that nobody knows of any more: a room that was
    /// forgotten as a whole begins again.
    pub fn has_older(&self, room: &RoomName, offset: u64) -> bool {
        let began = self.rooms.find(room).map_or(self.rooms.base.offset, |room| room.began);
        offset > 1 && offset != began.saturating_add(1)
    }

    /// Offsets are contiguous: what reaches from the one after `from` to the head without a hole is all.
    fn missed_after_offset(&self, room: &Room, from: u64, stored: Option<&[&Arc<Publication>]>) -> Missed {
        if from == room.head_offset {
            return Missed::All(Vec::new());
        }
        let first = room.ring.partition_point(|publication| offset_of(publication) <= from);
        let ring = room.ring.iter().skip(first);
        let is_all = |found: &[Arc<Publication>]| {
            let next = |before: &Arc<Publication>| offset_of(before).checked_add(1);
            let no_hole = found.windows(2).all(|pair| match pair {
                [before, after] => next(before) == Some(offset_of(after)),
                _ => true,
            });
            no_hole
                && found.first().is_some_and(|first| from.checked_add(1) == Some(offset_of(first)))
                && found.last().is_some_and(|last| offset_of(last) == room.head_offset)
        };
        let in_memory: Vec<_> = ring.cloned().collect();
        if is_all(&in_memory) {
            return Missed::All(in_memory);
        }
        let Some(stored) = stored else { return Missed::InStore };
        let wanted = |publication: &&Arc<Publication>| {
            let offset = offset_of(publication);
            self.is_ours(publication) && offset > from && offset <= room.head_offset
        };
        let mut all: Vec<_> = stored.iter().copied().filter(wanted).cloned().chain(in_memory).collect();
        all.sort_by_key(|publication| offset_of(publication));
        all.dedup_by_key(|publication| offset_of(publication));
        if is_all(&all) { Missed::All(all) } else { Missed::Unprovable }
    }

    /// Room, epoch and numbers of another tenant's message may well be those of one of ours.
    fn is_ours(&self, publication: &Publication) -> bool {
        publication.space == self.key && publication.position.is_some_and(|position| position.epoch == self.epoch)
    }

    /// What a member missed in a room after `from`.
    pub(crate) fn missed_after_seq(&self, room: &Room, from: u64, stored: Option<&[&Arc<Publication>]>) -> Missed {
        if from < room.floor_seq {
            return Missed::Unprovable;
        }
        let ring = after_seq(room, from).cloned();
        if from >= room.stored_seq {
            return Missed::All(ring.collect());
        }
        let Some(stored) = stored else { return Missed::InStore };
        // The store keeps only so many: a full answer does not prove that nothing before it is gone.
        if stored.len() >= self.config.store_messages {
            return Missed::Unprovable;
        }
        let in_range = |publication: &&Arc<Publication>| {
            let seq = publication.seq;
            self.is_ours(publication) && seq > from && seq <= self.order.head_seq()
        };
        let mut all: Vec<_> = stored.iter().copied().filter(in_range).cloned().chain(ring).collect();
        all.sort_by_key(|publication| publication.seq);
        all.dedup_by_key(|publication| publication.seq);
        let reaches_back = !room.stored_exact || all.iter().any(|publication| publication.seq == room.stored_seq);
        // Everything up to the head has to be there, one offset after the other.
        let no_hole = all.windows(2).all(|pair| match pair {
            [before, after] => offset_of(before).checked_add(1) == Some(offset_of(after)),
            _ => true,
        });
        let to_the_head = all.last().is_none_or(|last| offset_of(last) == room.head_offset);
        if reaches_back && no_hole && to_the_head { Missed::All(all) } else { Missed::Unprovable }
    }
}

impl MissedInRooms {
    /// Adds what was missed in one room after `from`.
    pub(crate) fn add(&mut self, room: &Room, from: u64, missed: Missed) {
        match missed {
            Missed::All(mut messages) => self.messages.append(&mut messages),
            Missed::InStore => self.in_store.push((room.name.clone(), from)),
            Missed::Unprovable => self.unprovable.push(room.name.clone()),
        }
    }

    /// To be called when all rooms have been added.
    pub(crate) fn sort(&mut self) {
        self.messages.sort_by_key(|publication| publication.seq);
    }
}
