//! What operators ask, answered from the lists.

use std::collections::BTreeSet;

use tidegate_hub::{Cursor, Page};
use tidegate_types::{ConnId, RoomName, UserId};

use super::{Conn, World, listener, room_name, user_id};

impl World {
    pub(super) fn check_listings(&self) {
        let users: BTreeSet<usize> = self.conns.values().map(|conn| conn.user).collect();
        for user in 0..3 {
            assert_eq!(self.space.presence_of(&user_id(user)), users.contains(&user).then(|| self.info(user)));
            let conns = || self.conns.values().filter(move |conn| conn.user == user);
            let ids: BTreeSet<ConnId> = conns().map(|conn| conn.id).collect();
            assert_eq!(self.space.connections_of(&user_id(user)).iter().copied().collect::<BTreeSet<_>>(), ids);
            let rooms: BTreeSet<usize> = conns().flat_map(|conn| conn.rooms.iter().map(|(room, _)| *room)).collect();
            assert_eq!(self.space.rooms_of_user(&user_id(user)), rooms.len());
            let names: Vec<RoomName> = rooms.into_iter().map(room_name).collect();
            assert_eq!(self.space.room_names_of_user(&user_id(user), 10), names);
        }
        let listed: BTreeSet<ConnId> = pages(|from| self.space.connections_page(from, 1), |info| info.conn);
        assert_eq!(listed, self.conns.values().map(|conn| conn.id).collect());
        let mut sizes = Vec::new();
        for room in 0..3 {
            let present = self.present(room);
            let connections =
                self.members(room).count() + self.listening.iter().filter(|(_, listens)| *listens == room).count();
            let summary = self.space.room_summary(&room_name(room), self.now);
            let counts = summary.map(|summary| (summary.users, summary.connections));
            assert_eq!(counts, (connections > 0).then_some((present.len(), connections)));
            sizes.extend(counts.map(|(_, connections)| connections));
            let members: BTreeSet<UserId> = pages(
                |from| self.space.members_page(&room_name(room), from, 1),
                |member| {
                    let mine = |conn: &&Conn| user_id(conn.user) == member.presence.user_id;
                    let ids: BTreeSet<ConnId> = self.members(room).filter(mine).map(|conn| conn.id).collect();
                    assert_eq!(member.connections.iter().copied().collect::<BTreeSet<_>>(), ids);
                    assert_eq!(present.get(&member.presence.user_id), Some(&member.presence));
                    member.presence.user_id
                },
            );
            assert_eq!(members, present.into_keys().collect());
        }
        let rooms: BTreeSet<RoomName> = pages(|from| self.space.rooms_page(from, 1, self.now), |room| room.room);
        assert_eq!(rooms.len(), sizes.len());
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let top = |most| self.space.top_rooms_by_members(most, self.now);
        assert_eq!(top(3).iter().map(|room| room.connections).collect::<Vec<_>>(), sizes);
        assert_eq!(top(1).first().map(|room| room.connections), sizes.first().copied());
        for slot in 0..5 {
            let listens = self.listening.iter().filter(|(of, _)| *of == slot).map(|(_, room)| room_name(*room));
            let mut rooms = self.space.rooms_of_listener(listener(slot));
            rooms.sort();
            assert_eq!(rooms, listens.collect::<Vec<_>>());
        }
    }
}

/// All of a listing, page by page; nothing stands in it twice.
fn pages<T, K: Ord + std::fmt::Debug>(
    page: impl Fn(Option<Cursor>) -> Page<T>,
    mut key: impl FnMut(T) -> K,
) -> BTreeSet<K> {
    let mut all = BTreeSet::new();
    let mut from = None;
    loop {
        let Page { items, next } = page(from);
        for item in items {
            assert!(all.insert(key(item)), "listed twice");
        }
        from = next;
        if from.is_none() {
            return all;
        }
    }
}
