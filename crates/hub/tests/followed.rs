//! A space that follows, one promise at a time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::sync::Arc;

use bytes::Bytes;
use tidegate_hub::{
    CaughtUp, Effect, Effects, GAP_EVENT, NewSession, PresenceUpdate, Received, RoomHead, Space, SpaceConfig,
    SpaceStart, Who,
};
use tidegate_types::{
    Class, ConnId, Epoch, EventName, Namespace, NodeId, Position, PresenceInfo, Publication, RoomName, ShardId,
    SpaceKey, Status, TenantId, UserId,
};

const EPOCH: Epoch = Epoch(1);

fn room() -> RoomName {
    RoomName::try_from("quay").unwrap()
}

fn user(name: &str) -> UserId {
    UserId::try_from(name).unwrap()
}

fn conn(slot: u32) -> ConnId {
    ConnId { shard: ShardId(0), slot, generation: 0 }
}

fn message(seq: u64, offset: u64) -> Arc<Publication> {
    Arc::new(Publication {
        space: Arc::new(SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() }),
        room: room(),
        event: EventName::try_from("m").unwrap(),
        data: Bytes::from_static(b"1"),
        attachments: Arc::from([]),
        class: Class::Recoverable,
        position: Some(Position { epoch: EPOCH, offset }),
        seq,
        timestamp_ms: 0,
    })
}

/// A space with one member of the room, which stands at seq 5, offset 3.
fn followed() -> Space {
    let key = SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() };
    let config = SpaceConfig { follows: true, ..SpaceConfig::default() };
    let mut space = Space::new(Arc::new(key), config, SpaceStart::fresh(EPOCH));
    let mut fx = Effects::new();
    let session = NewSession { pid: "pid".into(), socket_id: "socket".into(), token_expires_at: None };
    space.connect(conn(1), Who { user: user("ada"), username: None }, session, 0, &mut fx);
    fx.clear();
    assert!(space.join(conn(1), &room(), 0, &mut fx).unwrap().opening);
    assert_eq!(fx, [Effect::Follow { room: room() }], "nothing is stored of a room that is not heard yet");
    fx.clear();
    let head = RoomHead { offset: 3, seq: 5, trimmed_seq: 2, began: 0 };
    assert_eq!(space.followed(&room(), EPOCH, 6, head, Vec::new(), 0, &mut fx), Received::Taken);
    let joined = space.joined(conn(1), &room()).unwrap();
    assert_eq!((joined.opening, joined.position.offset, joined.joined_seq), (false, 3, 6));
    assert!(matches!(&fx[..], [Effect::SaveSession(record)] if record.rooms == [(room(), 6)]));
    space.tick(0, &mut fx);
    space
}

fn delivered(fx: &Effects) -> Vec<(String, u64, String)> {
    let publication = |effect: &Effect| match effect {
        Effect::Deliver { publication, .. } => {
            let data = String::from_utf8_lossy(&publication.data).into_owned();
            Some((publication.event.to_string(), publication.seq, data))
        }
        _ => None,
    };
    fx.iter().filter_map(publication).collect()
}

#[test]
fn what_is_no_longer_kept_is_told_before_anything_else() {
    let mut space = followed();
    let mut fx = Effects::new();
    space.out_of_touch();
    assert_eq!(space.receive(message(7, 4), 0, &mut fx), Received::OutOfTouch);
    let head = RoomHead { offset: 9, seq: 14, trimmed_seq: 12, began: 0 };
    let rooms = vec![CaughtUp { room: room(), head, missed: Vec::new(), gap: true, leases: Vec::new() }];
    space.caught_up(EPOCH, 20, rooms, 0, &mut fx);
    assert_eq!(space.receive(message(21, 10), 0, &mut fx), Received::Taken);
    let gap = (GAP_EVENT.to_owned(), 0, r#"{"from":4,"room":"quay","to":9}"#.to_owned());
    let told = delivered(&fx);
    assert_eq!((told[0].0.clone(), told[0].1), (gap.0, gap.1));
    let body: serde_json::Value = serde_json::from_str(&told[0].2).unwrap();
    assert_eq!(body, serde_json::from_str::<serde_json::Value>(&gap.2).unwrap());
    assert_eq!(told[1..], [("m".to_owned(), 21, "1".to_owned())]);
}

#[test]
fn a_hole_and_another_life_are_caught_up_with_and_not_delivered() {
    for (heard, becomes) in [(message(9, 5), Received::Hole), (message(4, 3), Received::Stale)] {
        let mut space = followed();
        let mut fx = Effects::new();
        assert_eq!(space.receive(heard, 0, &mut fx), becomes);
        assert_eq!(delivered(&fx), []);
        assert_eq!(space.is_in_touch(), becomes == Received::Stale);
    }
    let mut space = followed();
    let of_another =
        Publication { position: Some(Position { epoch: Epoch(2), offset: 4 }), ..Publication::clone(&message(7, 4)) };
    assert_eq!(space.receive(Arc::new(of_another), 0, &mut Effects::new()), Received::OtherEpoch);
    assert!(!space.is_in_touch());
}

#[test]
fn a_room_opened_out_of_touch_does_not_take_the_head_beyond_a_hole() {
    let mut space = followed();
    let mut fx = Effects::new();
    space.out_of_touch();
    let other = RoomName::try_from("pier").unwrap();
    space.join(conn(1), &other, 0, &mut fx).unwrap();
    let head = RoomHead { offset: 1, seq: 9, trimmed_seq: 0, began: 0 };
    assert_eq!(space.followed(&other, EPOCH, 9, head, Vec::new(), 0, &mut fx), Received::Taken);
    assert_eq!(space.head_seq(), 6, "7 and 8 may be of the other room");
    assert_eq!(space.joined(conn(1), &other).unwrap().joined_seq, 9);
}

#[test]
fn the_other_nodes_are_told_once_a_tick_how_present_a_user_is() {
    let mut space = followed();
    let mut fx = Effects::new();
    for status in [Status::Busy, Status::Online, Status::Away] {
        let update = PresenceUpdate { status: Some(status), ..PresenceUpdate::default() };
        space.update_presence(conn(1), update, 1, &mut fx);
    }
    space.leave(conn(1), &room(), 1, &mut fx);
    space.join(conn(1), &room(), 1, &mut fx).unwrap();
    fx.clear();
    space.tick(100, &mut fx);
    let leases: Vec<_> = fx.iter().filter(|effect| matches!(effect, Effect::Lease { .. })).collect();
    let [Effect::Lease { info: Some(info), .. }] = &leases[..] else { panic!("{leases:?}") };
    assert_eq!((info.status, info.active_connections), (Status::Away, 1));
    fx.clear();
    space.disconnect(conn(1), true, 101, &mut fx);
    space.tick(200, &mut fx);
    assert!(fx.iter().any(|effect| matches!(effect, Effect::Lease { info: None, .. })));
}

#[test]
fn a_user_on_several_nodes_is_one_and_as_present_as_the_most_present() {
    let mut space = followed();
    let mut fx = Effects::new();
    let elsewhere = |status, last_seen, custom: Option<&str>| PresenceInfo {
        user_id: user("ada"),
        username: Some("Ada".into()),
        status,
        last_seen,
        metadata: None,
        active_connections: 2,
        current_activity: None,
        custom_status: custom.map(Into::into),
    };
    space.idle(conn(1), 0, 0, &mut fx);
    space.leased(&room(), NodeId(2), &user("ada"), Some(elsewhere(Status::Busy, 5, Some("old"))), 0, &mut fx);
    space.leased(&room(), NodeId(3), &user("ada"), Some(elsewhere(Status::Away, 9, Some("new"))), 0, &mut fx);
    let (listed, count) = space.presence(&room(), 10);
    assert_eq!((listed.len(), count), (1, 1));
    assert_eq!((listed[0].status, listed[0].active_connections), (Status::Busy, 5));
    assert_eq!(listed[0].custom_status.as_deref(), Some("new"));
    assert_eq!(space.connections_of(&user("ada")), [conn(1)], "connections are those to this node");
    space.leases_ended(&room(), NodeId(2), 0, &mut fx);
    space.disconnect(conn(1), true, 0, &mut fx);
    let (listed, _) = space.presence(&room(), 10);
    assert_eq!((listed[0].status, listed[0].active_connections), (Status::Away, 2));
    space.leases_ended(&room(), NodeId(3), 0, &mut fx);
    assert_eq!(space.presence(&room(), 10), (Vec::new(), 0));
}

#[test]
fn a_room_is_followed_until_nobody_has_needed_it_for_a_while() {
    let mut space = followed();
    let mut fx = Effects::new();
    space.tick(1_000, &mut fx);
    space.leave(conn(1), &room(), 1_000, &mut fx);
    space.tick(5_000, &mut fx);
    assert!(!fx.contains(&Effect::Unfollow { room: room() }));
    space.hold_room(&room(), &mut fx);
    space.tick(60_000, &mut fx);
    assert!(!fx.contains(&Effect::Unfollow { room: room() }));
    space.release_room(&room());
    space.tick(80_000, &mut fx);
    assert_eq!(fx.iter().filter(|effect| matches!(effect, Effect::Unfollow { .. })).count(), 1);
    assert!(!space.is_open(&room()));
}
