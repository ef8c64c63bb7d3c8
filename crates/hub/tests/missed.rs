//! What a reader with a cursor is told it has missed, against everything that was ever published.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use tidegate_hub::{Effect, Message, Missed, Space, SpaceConfig, SpaceStart};
use tidegate_types::{
    Bookmark, Class, Epoch, EventName, Namespace, Position, Publication, RoomName, SessionOffset, SpaceKey, TenantId,
};

const EPOCH: Epoch = Epoch(7);

fn offset(publication: &Publication) -> u64 {
    publication.position.unwrap().offset
}

/// A space with everything that it ever published, and a store that keeps the newest `kept` persistent messages.
struct World {
    space: Space,
    published: Vec<Arc<Publication>>,
    kept: usize,
}

impl World {
    fn new(ring_messages: usize, kept: usize) -> Self {
        let key = SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() };
        let config = SpaceConfig { ring_bytes: ring_messages * 257, store_messages: 1_000, ..SpaceConfig::default() };
        Self { space: Space::new(Arc::new(key), config, SpaceStart::fresh(EPOCH)), published: Vec::new(), kept }
    }

    fn publish(&mut self, room: &RoomName, class: Class) {
        let event = EventName::try_from("room:message").unwrap();
        let message = Message {
            room: room.clone(),
            event,
            data: Bytes::from_static(b"1"),
            attachments: Arc::from([]),
            class,
            idempotency: None,
        };
        let mut fx = Vec::new();
        let published = self.space.publish(message, 0, &mut fx).publication;
        for effect in std::mem::take(&mut fx) {
            if let Effect::Append(stored) = effect {
                self.space.appended(stored.seq, &mut fx);
            }
        }
        self.published.push(published);
    }

    /// What the store has of the room and what it has had.
    fn stored(&self, room: &RoomName) -> (Vec<Arc<Publication>>, Vec<Arc<Publication>>) {
        let of_room = |p: &&Arc<Publication>| p.room == *room && p.class == Class::Persistent;
        let mut gone: Vec<_> = self.published.iter().filter(of_room).cloned().collect();
        let kept = gone.split_off(gone.len().saturating_sub(self.kept));
        (kept, gone)
    }

    /// The messages of the rooms after `seq`, and the rooms of which that is unknown.
    fn missed_in_rooms(&self, rooms: &[RoomName], seq: u64) -> (Vec<Arc<Publication>>, Vec<RoomName>) {
        let since = SessionOffset { epoch: EPOCH, seq };
        let first = self.space.missed_in_rooms(rooms, since, &[]);
        let (mut stored, mut lost) = (Vec::new(), Vec::new());
        for (room, after) in first.in_store {
            let (kept, gone) = self.stored(&room);
            if gone.iter().any(|p| p.seq > after) {
                lost.push(room);
            } else {
                stored.push((room, kept.into_iter().filter(|p| p.seq > after).collect()));
            }
        }
        let asked: Vec<_> = rooms.iter().filter(|room| !lost.contains(room)).cloned().collect();
        let second = self.space.missed_in_rooms(&asked, since, &stored);
        assert_eq!(second.in_store, []);
        lost.extend(second.unprovable);
        (second.messages, lost)
    }

    fn missed(&self, room: &RoomName, since: Bookmark) -> Missed {
        let missed = self.space.missed(room, since, None);
        if missed != Missed::InStore {
            return missed;
        }
        let (kept, gone) = self.stored(room);
        let after = |p: &Arc<Publication>| match since {
            Bookmark::Room(position) => offset(p) > position.offset,
            Bookmark::Session(session) => p.seq > session.seq,
        };
        // As the store's contract has it: by sequence number it says when something is gone, by offset the hole tells.
        if matches!(since, Bookmark::Session(_)) && gone.iter().any(after) {
            return Missed::Unprovable;
        }
        let found: Vec<_> = kept.into_iter().filter(after).collect();
        self.space.missed(room, since, Some(&found))
    }
}

proptest! {
    #[test]
    fn a_reader_is_given_all_that_it_missed_or_told_that_this_is_unknown(
        messages in prop::collection::vec((0..3usize, prop::bool::weighted(0.8)), 1..60),
        ring in 1..40usize,
        kept in 1..40usize,
    ) {
        let rooms = ["a", "b", "c"].map(|name| RoomName::try_from(name).unwrap());
        let mut world = World::new(ring, kept);
        for (room, persistent) in &messages {
            let class = if *persistent { Class::Persistent } else { Class::Recoverable };
            world.publish(&rooms[*room], class);
        }
        for room in &rooms {
            let all: Vec<_> = world.published.iter().filter(|p| p.room == *room).cloned().collect();
            let (_, gone) = world.stored(room);
            if all.is_empty() {
                continue;
            }
            let in_ring = world.space.ring_of(room);
            let retrievable =
                |p: &Arc<Publication>| in_ring.contains(p) || (p.class == Class::Persistent && !gone.contains(p));
            let by_offset = (0..=all.len() as u64).map(|offset| Bookmark::Room(Position { epoch: EPOCH, offset }));
            let by_seq =
                (0..=messages.len() as u64).map(|seq| Bookmark::Session(SessionOffset { epoch: EPOCH, seq }));
            for since in by_offset.chain(by_seq) {
                let truth: Vec<_> = all.iter().filter(|p| match since {
                    Bookmark::Room(position) => offset(p) > position.offset,
                    Bookmark::Session(session) => p.seq > session.seq,
                }).cloned().collect();
                let provable = truth.iter().all(retrievable);
                match world.missed(room, since) {
                    Missed::All(found) => prop_assert_eq!(found, truth, "{}", since),
                    Missed::Unprovable => prop_assert!(!provable, "{} could have been answered", since),
                    Missed::InStore => prop_assert!(false, "{}: the store was asked", since),
                }
            }
        }
    }
}

#[test]
fn a_cursor_that_was_never_handed_out_proves_nothing() {
    let room = RoomName::try_from("a").unwrap();
    let mut world = World::new(100, 100);
    (0..3).for_each(|_| world.publish(&room, Class::Persistent));
    let at = |epoch, number| {
        [
            Bookmark::Room(Position { epoch: Epoch(epoch), offset: number }),
            Bookmark::Session(SessionOffset { epoch: Epoch(epoch), seq: number }),
        ]
    };
    for since in at(7, 4).into_iter().chain(at(8, 1)) {
        assert_eq!(world.missed(&room, since), Missed::Unprovable, "{since}");
    }
    for since in at(7, 3) {
        assert_eq!(world.missed(&room, since), Missed::All(Vec::new()), "{since}");
    }
}

proptest! {
    #[test]
    fn a_reader_of_several_rooms_is_given_one_sequence_and_told_which_rooms_are_unknown(
        messages in prop::collection::vec((0..3usize, prop::bool::weighted(0.8)), 1..60),
        ring in 1..40usize,
        kept in 1..40usize,
    ) {
        let rooms = ["a", "b", "c"].map(|name| RoomName::try_from(name).unwrap());
        let mut world = World::new(ring, kept);
        for (room, persistent) in &messages {
            world.publish(&rooms[*room], if *persistent { Class::Persistent } else { Class::Recoverable });
        }
        let known: Vec<_> = rooms.into_iter().filter(|room| world.space.find(room).is_some()).collect();
        for seq in 0..=messages.len() as u64 {
            let (missed, mut lost) = world.missed_in_rooms(&known, seq);
            let since = Bookmark::Session(SessionOffset { epoch: EPOCH, seq });
            let unknown = known.iter().filter(|room| world.missed(room, since) == Missed::Unprovable);
            let unknown: Vec<_> = unknown.cloned().collect();
            lost.sort();
            prop_assert_eq!(&lost, &unknown);
            let truth = world.published.iter().filter(|p| p.seq > seq && !unknown.contains(&p.room));
            prop_assert_eq!(missed, truth.cloned().collect::<Vec<_>>());
        }
    }
}

#[test]
fn rooms_are_not_guessed_at_from_another_life_or_the_future() {
    let rooms = ["a", "b"].map(|name| RoomName::try_from(name).unwrap());
    let mut world = World::new(10, 10);
    rooms.iter().for_each(|room| world.publish(room, Class::Recoverable));
    assert_eq!(world.missed_in_rooms(&rooms, 2), (Vec::new(), Vec::new()));
    assert_eq!(world.missed_in_rooms(&rooms, 3), (Vec::new(), rooms.to_vec()));
    let other = SessionOffset { epoch: Epoch(8), seq: 0 };
    assert_eq!(world.space.missed_in_rooms(&rooms, other, &[]).unprovable, rooms);
}
