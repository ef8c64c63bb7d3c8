//! Large and busy rooms.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use tidegate_hub::{Message, Space, SpaceConfig, SpaceStart};
use tidegate_types::{Class, ConnId, Epoch, EventName, Namespace, RoomName, ShardId, SpaceKey, TenantId};

fn space(config: SpaceConfig) -> Space {
    let key = SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() };
    Space::new(Arc::new(key), config, SpaceStart::fresh(Epoch(1)))
}

fn room(n: usize) -> RoomName {
    RoomName::try_from(format!("room-{n:04}")).unwrap()
}

fn publish(space: &mut Space, room: RoomName, class: Class, now: u64) {
    let event = EventName::try_from("room:message").unwrap();
    let data = Bytes::from_static(b"1");
    let message = Message { room, event, data, attachments: Arc::from([]), class, idempotency: None };
    space.publish(message, now, &mut Vec::new());
}

#[test]
fn the_busiest_rooms_are_found_among_thousands_of_quiet_ones() {
    let mut space = space(SpaceConfig::default());
    // 3,000 rooms with one message a second each; ten with 20 to 29, whose first messages come last.
    for tick in 0..300u64 {
        let now = 1_000_000 + tick * 100;
        for n in (0..3_000).filter(|n| n % 10 == tick as usize % 10) {
            publish(&mut space, room(n), Class::Recoverable, now);
        }
        for n in 0..10 {
            for _ in 0..2 + usize::from(tick % 10 < n as u64) {
                publish(&mut space, room(5_000 + n), Class::Recoverable, now);
            }
        }
    }
    let top = space.top_rooms_by_rate(9, 1_030_000);
    assert!(top.iter().all(|room| room.room.as_str() >= "room-5000" && room.rate >= 19.0), "{top:?}");
    assert!(top.windows(2).all(|pair| pair[0].rate >= pair[1].rate));
    assert_eq!(space.top_rooms_by_rate(1_000, 1_030_000).len(), 256);
    // Twenty seconds of silence later nobody is busy, and whoever speaks takes a place at once.
    assert_eq!(space.top_rooms_by_rate(9, 1_050_000), Vec::new());
    publish(&mut space, room(9_999), Class::Recoverable, 1_050_000);
    assert_eq!(space.top_rooms_by_rate(9, 1_050_000)[0].room, room(9_999));
}

#[test]
fn the_rate_is_that_of_the_last_ten_seconds() {
    let mut space = space(SpaceConfig::default());
    let conn = ConnId { shard: ShardId(0), slot: 0, generation: 0 };
    space.subscribe(conn, &room(1), 0, &mut Vec::new());
    for tick in 0..400 {
        publish(&mut space, room(1), if tick % 2 == 0 { Class::Volatile } else { Class::Recoverable }, tick * 50);
        let rate = space.room_summary(&room(1), tick * 50).unwrap().rate;
        assert!(tick < 200 || (rate - 20.0).abs() < 0.2, "{rate} at {tick}");
    }
    let rate = |now| space.room_summary(&room(1), now).unwrap().rate;
    assert!((rate(20_000) - 20.0).abs() < 0.2, "{}", rate(20_000));
    assert!((rate(25_000) - 10.0).abs() < 0.2, "{}", rate(25_000));
    assert!(rate(30_000) < 0.2, "{}", rate(30_000));
    // A clock that is set back counts afresh.
    assert!(rate(5_000) < 0.2);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_largest_rooms_and_the_counts_are_those_of_a_list(moves in prop::collection::vec((0..6usize, 0..40u32, any::<bool>()), 1..300)) {
        let mut space = space(SpaceConfig::default());
        let mut list = [const { std::collections::BTreeSet::new() }; 6];
        for (n, slot, enters) in moves {
            let conn = ConnId { shard: ShardId(0), slot, generation: 0 };
            if enters {
                space.subscribe(conn, &room(n), 0, &mut Vec::new());
                list[n].insert(slot);
            } else {
                space.unsubscribe(conn, &room(n));
                list[n].remove(&slot);
            }
            let mut sizes: Vec<usize> = list.iter().map(|members| members.len()).filter(|size| *size > 0).collect();
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            let stats = space.stats();
            prop_assert_eq!(stats.rooms, sizes.len());
            prop_assert_eq!(stats.subscriptions, sizes.iter().sum::<usize>());
            prop_assert_eq!(stats.largest_room, sizes.first().copied().unwrap_or(0));
            for most in [1, 3, 10] {
                let top: Vec<usize> = space.top_rooms_by_members(most, 0).iter().map(|room| room.connections).collect();
                prop_assert_eq!(&top[..], &sizes[..most.min(sizes.len())]);
            }
        }
    }
}
