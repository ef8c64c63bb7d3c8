//! Behaviours of a space, one at a time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tidegate_hub::{
    Effect, Effects, GAP_EVENT, Message, NewSession, PresenceChange, PresenceUpdate, Published, Resume, ResumeFailure,
    SessionRecord, Since, Space, SpaceConfig, SpaceStart, Who,
};
use tidegate_types::{
    Class, ConnId, Epoch, EventName, Namespace, Position, PresenceInfo, RoomName, SessionOffset, ShardId, SpaceKey,
    Status, TenantId, UserId,
};

const EPOCH: Epoch = Epoch(1);

fn space(config: SpaceConfig) -> Space {
    let key = SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() };
    Space::new(Arc::new(key), config, SpaceStart::fresh(EPOCH))
}

fn room(name: &str) -> RoomName {
    RoomName::try_from(name).unwrap()
}

fn user(n: u32) -> UserId {
    UserId::try_from(format!("user-{n}")).unwrap()
}

fn conn(n: u32) -> ConnId {
    ConnId { shard: ShardId((n % 2) as u16), slot: n, generation: 0 }
}

fn who(n: u32) -> Who {
    Who { user: user(n), username: None }
}

fn connect(space: &mut Space, n: u32, of: u32, now: u64, fx: &mut Effects) {
    let session =
        NewSession { pid: format!("pid-{n}").into(), socket_id: format!("sid-{n}").into(), token_expires_at: None };
    space.connect(conn(n), who(of), session, now, fx);
}

fn enter(space: &mut Space, n: u32, of: u32, name: &str, now: u64) -> Effects {
    let mut fx = Vec::new();
    connect(space, n, of, now, &mut fx);
    space.join(conn(n), &room(name), now, &mut fx).unwrap();
    fx
}

fn publish(space: &mut Space, name: &str, class: Class, now: u64, fx: &mut Effects) -> Published {
    let event = EventName::try_from("room:message").unwrap();
    space.publish(message(name, event, class), now, fx)
}

fn message(name: &str, event: EventName, class: Class) -> Message {
    let data = Bytes::from_static(b"1");
    Message { room: room(name), event, data, attachments: Arc::from([]), class, idempotency: None }
}

fn presence(fx: &[Effect]) -> Vec<&PresenceChange> {
    fx.iter()
        .filter_map(|effect| match effect {
            Effect::Presence { change, .. } => Some(change),
            _ => None,
        })
        .collect()
}

fn delivered(fx: &[Effect]) -> Vec<u64> {
    let seq = |effect: &Effect| match effect {
        Effect::Deliver { publication, .. } => Some(publication.seq),
        _ => None,
    };
    fx.iter().filter_map(seq).collect()
}

/// Members reached by each presence effect, summed up, for 1,000 joins `pace_ms` apart.
fn storm(pace_ms: u64) -> usize {
    let mut space = space(SpaceConfig::default());
    let (mut reached, mut now) = (0, 0);
    for n in 0..1_000u32 {
        let mut fx = enter(&mut space, n, n, "r", now);
        now += pace_ms;
        if n % 20 == 19 {
            space.tick(now, &mut fx);
        }
        reached += presence(&fx).len() * (n as usize + 1);
    }
    for _ in 0..100 {
        let mut fx = Vec::new();
        now += 100;
        space.tick(now, &mut fx);
        reached += presence(&fx).len() * 1_000;
    }
    let (listed, count) = space.presence(&room("r"), 10);
    assert_eq!((listed.len(), count), (10, 1_000));
    reached
}

#[test]
fn a_thousand_joins_at_once_reach_at_most_three_thousand_members() {
    // One leading join and one snapshot of the full room, with slack for another.
    assert!(storm(0) <= 3_000, "{}", storm(0));
}

#[test]
fn a_thousand_joins_over_seconds_stay_linear_in_members_and_windows() {
    // Naively 500,000. 10 ms apart they last 100 windows, of which each may cost a batch of 10 diffs to at most 256
    // members, or, beyond 256, one snapshot each n ms to n members.
    for pace_ms in [1, 2, 10] {
        let seconds = (1_000 * pace_ms as usize).div_ceil(1_000);
        let bound = 3_000 + 32 * 256 * 3 * seconds + 1_000 * seconds;
        assert!(storm(pace_ms) <= bound, "{pace_ms} ms: {} > {bound}", storm(pace_ms));
        assert!(storm(pace_ms) <= 60_000);
    }
}

#[test]
fn a_thousand_leaves_at_once_reach_few() {
    let mut space = space(SpaceConfig::default());
    for n in 0..1_000 {
        enter(&mut space, n, n, "r", 0);
    }
    space.tick(5_000, &mut Vec::new());
    let mut reached = 0;
    for n in 0..1_000 {
        let mut fx = Vec::new();
        space.disconnect(conn(n), false, 10_000, &mut fx);
        reached += presence(&fx).len() * (1_000 - n as usize);
    }
    let mut fx = Vec::new();
    space.tick(20_000, &mut fx);
    assert!(reached <= 2_000, "{reached}");
    assert_eq!(presence(&fx), Vec::<&PresenceChange>::new(), "nobody is left to be told");
}

#[test]
fn a_whole_room_that_goes_idle_costs_a_few_snapshots() {
    let mut space = space(SpaceConfig::default());
    for n in 0..1_000 {
        enter(&mut space, n, n, "r", 0);
    }
    space.tick(10_000, &mut Vec::new());
    // Connections are looked at in turn, over 25 s. Told one by one it would be a million messages.
    let (mut messages, mut entries) = (0, 0);
    for n in 0..1_000u32 {
        let (mut fx, now) = (Vec::new(), 300_000 + u64::from(n) * 25);
        space.idle(conn(n), 0, now, &mut fx);
        space.tick(now, &mut fx);
        for change in presence(&fx) {
            let PresenceChange::Update { listed, count } = change else { panic!("{change:?}") };
            messages += count;
            entries += count * listed.len();
        }
    }
    assert!(messages <= 25_000, "{messages}");
    assert!(entries <= 200_000 * 26, "{entries}");
    assert!(space.presence(&room("r"), 1_000).0.iter().all(|info| info.status == Status::Away));
}

#[test]
fn a_clock_set_back_does_not_silence_a_room() {
    let mut space = space(SpaceConfig::default());
    enter(&mut space, 1, 1, "r", 1_000_000);
    enter(&mut space, 2, 2, "r", 1_000_000);
    let mut fx = enter(&mut space, 3, 3, "r", 400_000);
    space.tick(400_100, &mut fx);
    assert!(matches!(presence(&fx).as_slice(), [PresenceChange::Join(_)]), "{fx:?}");
}

#[test]
fn what_users_say_in_their_own_words_is_bounded() {
    let mut space = space(SpaceConfig::default());
    enter(&mut space, 1, 1, "r", 0);
    let mut say = |activity: &str| {
        let update = PresenceUpdate { current_activity: Some(activity.into()), ..PresenceUpdate::default() };
        let accepted = space.update_presence(conn(1), update, 0, &mut Vec::new());
        (accepted, space.presence_of(&user(1)).unwrap().current_activity)
    };
    assert_eq!(say("reading"), (true, Some("reading".into())));
    assert_eq!(say(&"x".repeat(257)), (false, Some("reading".into())));
    assert_eq!(say(""), (true, None));
}

#[test]
fn the_others_hear_of_a_join_at_once_and_the_joiner_does_not() {
    let mut space = space(SpaceConfig::default());
    assert_eq!(presence(&enter(&mut space, 1, 1, "r", 0)), Vec::<&PresenceChange>::new());
    let fx = enter(&mut space, 2, 2, "r", 1);
    let Some(Effect::Presence { change: PresenceChange::Join(info), except, shards, .. }) = fx.first() else {
        panic!("{fx:?}")
    };
    assert_eq!((&info.user_id, *except, info.status), (&user(2), Some(conn(2)), Status::Online));
    assert!(shards.contains(ShardId(0)) && shards.contains(ShardId(1)));
}

#[test]
fn a_second_tab_is_no_second_join_and_its_end_no_leave() {
    let mut space = space(SpaceConfig::default());
    enter(&mut space, 1, 1, "r", 0);
    enter(&mut space, 2, 2, "r", 1_000);
    let mut fx = enter(&mut space, 3, 2, "r", 2_000);
    space.disconnect(conn(2), false, 3_000, &mut fx);
    space.tick(4_000, &mut fx);
    assert_eq!(presence(&fx), Vec::<&PresenceChange>::new());
    space.disconnect(conn(3), false, 5_000, &mut fx);
    assert_eq!(presence(&fx), vec![&PresenceChange::Leave(user(2))]);
}

#[test]
fn leaving_and_coming_back_within_one_batch_is_not_told() {
    let mut space = space(SpaceConfig::default());
    enter(&mut space, 1, 1, "r", 0);
    enter(&mut space, 2, 2, "r", 1_000);
    let mut fx = Vec::new();
    space.leave(conn(2), &room("r"), 1_010, &mut fx);
    space.join(conn(2), &room("r"), 1_020, &mut fx).unwrap();
    space.tick(1_200, &mut fx);
    assert_eq!(presence(&fx), Vec::<&PresenceChange>::new());
}

#[test]
fn who_came_between_a_leave_and_a_return_is_told_of_the_return() {
    let mut space = space(SpaceConfig::default());
    space.subscribe(conn(9), &room("r"), 0, &mut Vec::new());
    enter(&mut space, 2, 2, "r", 0);
    let mut fx = Vec::new();
    space.leave(conn(2), &room("r"), 10, &mut fx);
    enter(&mut space, 1, 1, "r", 20);
    space.join(conn(2), &room("r"), 30, &mut fx).unwrap();
    fx.clear();
    space.tick(200, &mut fx);
    assert!(matches!(presence(&fx).as_slice(), [PresenceChange::Update { count: 2, .. }]), "{fx:?}");
}

#[test]
fn who_came_between_a_join_and_its_leave_is_left_with_no_ghost() {
    let mut space = space(SpaceConfig::default());
    enter(&mut space, 1, 1, "r", 0);
    enter(&mut space, 2, 2, "r", 0);
    enter(&mut space, 3, 3, "r", 10);
    enter(&mut space, 4, 4, "r", 20);
    let mut fx = Vec::new();
    space.leave(conn(3), &room("r"), 30, &mut fx);
    space.tick(200, &mut fx);
    assert!(matches!(presence(&fx).as_slice(), [PresenceChange::Update { count: 3, .. }]), "{fx:?}");
}

#[test]
fn who_is_shown_the_room_between_a_join_and_its_leave_is_left_with_no_ghost() {
    let mut space = space(SpaceConfig::default());
    enter(&mut space, 1, 1, "r", 0);
    enter(&mut space, 2, 2, "r", 0);
    enter(&mut space, 3, 3, "r", 10);
    assert_eq!(space.presence(&room("r"), 10).1, 3);
    let mut fx = Vec::new();
    space.leave(conn(3), &room("r"), 30, &mut fx);
    space.tick(200, &mut fx);
    assert!(matches!(presence(&fx).as_slice(), [PresenceChange::Update { count: 2, .. }]), "{fx:?}");
}

fn only_info(fx: &[Effect]) -> &PresenceInfo {
    match presence(fx).as_slice() {
        [PresenceChange::Update { listed, count: 1 }] => &listed[0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_user_is_as_present_as_their_most_present_tab_unless_they_said_otherwise() {
    let mut space = space(SpaceConfig::default());
    enter(&mut space, 1, 1, "r", 0);
    enter(&mut space, 2, 1, "r", 0);
    let mut fx = Vec::new();
    space.idle(conn(1), 500, 1_000, &mut fx);
    space.idle(conn(1), 500, 1_000, &mut fx);
    assert_eq!(presence(&fx), Vec::<&PresenceChange>::new(), "the other tab is online");
    space.idle(conn(2), 700, 2_000, &mut fx);
    assert_eq!((only_info(&fx).status, only_info(&fx).last_seen), (Status::Away, 700));
    fx.clear();
    space.active(conn(1), 2_500, &mut fx);
    assert_eq!((only_info(&fx).status, only_info(&fx).last_seen), (Status::Online, 2_500));
    fx.clear();
    say(&mut space, 1, Some(Status::Offline), None, 3_000, &mut fx);
    assert_eq!(only_info(&fx).status, Status::Offline);
    fx.clear();
    space.active(conn(2), 4_000, &mut fx);
    space.idle(conn(2), 4_000, 4_000, &mut fx);
    space.idle(conn(1), 4_000, 4_000, &mut fx);
    assert_eq!(presence(&fx), Vec::<&PresenceChange>::new(), "set by hand");
    say(&mut space, 1, Some(Status::Online), None, 5_000, &mut fx);
    assert_eq!(only_info(&fx).status, Status::Away, "the connections speak for themselves again");
}

fn say(
    space: &mut Space,
    n: u32,
    status: Option<Status>,
    metadata: Option<Map<String, Value>>,
    now: u64,
    fx: &mut Effects,
) -> bool {
    space.update_presence(conn(n), PresenceUpdate { status, metadata, ..PresenceUpdate::default() }, now, fx)
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn metadata_merge_and_a_heartbeat_tells_nobody() {
    let mut space = space(SpaceConfig::default());
    enter(&mut space, 1, 1, "r", 0);
    let mut fx = Vec::new();
    assert!(say(&mut space, 1, None, Some(object(json!({"a": 1, "b": 2}))), 1_000, &mut fx));
    assert!(say(&mut space, 1, None, Some(object(json!({"b": 3}))), 1_010, &mut fx));
    fx.clear();
    space.tick(1_200, &mut fx);
    assert_eq!(only_info(&fx).metadata.as_deref(), Some(&object(json!({"a": 1, "b": 3}))));
    fx.clear();
    assert!(say(&mut space, 1, Some(Status::Online), None, 9_000, &mut fx));
    assert_eq!(fx, Vec::new());
    assert_eq!(space.presence(&room("r"), 1).0[0].last_seen, 9_000);
}

#[test]
fn metadata_do_not_grow_without_bound() {
    let mut space = space(SpaceConfig::default());
    enter(&mut space, 1, 1, "r", 0);
    let mut fx = Vec::new();
    let large = object(json!({"a": "x".repeat(9_000)}));
    assert!(!say(&mut space, 1, None, Some(large), 0, &mut fx));
    for n in 0..64 {
        assert!(say(&mut space, 1, None, Some(object(json!({format!("k{n}"): n}))), 0, &mut fx));
    }
    assert!(!say(&mut space, 1, None, Some(object(json!({"one": "more"}))), 0, &mut fx));
}

#[test]
fn a_message_behind_a_persistent_one_waits_for_it_even_in_another_room() {
    let mut space = space(SpaceConfig::default());
    let mut fx = enter(&mut space, 1, 1, "a", 0);
    space.join(conn(1), &room("b"), 0, &mut fx).unwrap();
    fx.clear();
    let first = publish(&mut space, "a", Class::Persistent, 0, &mut fx);
    let second = publish(&mut space, "b", Class::Recoverable, 0, &mut fx);
    assert!(first.pending && second.pending);
    assert_eq!((delivered(&fx), space.head_seq(), space.position(&room("a")).offset), (vec![], 0, 0));
    space.appended(first.publication.seq, &mut fx);
    assert_eq!((delivered(&fx), space.head_seq(), space.position(&room("a")).offset), (vec![1, 2], 2, 1));
}

#[test]
fn a_refused_message_leaves_a_named_gap_in_its_place() {
    let mut space = space(SpaceConfig::default());
    let mut fx = enter(&mut space, 1, 1, "a\"b", 0);
    publish(&mut space, "a\"b", Class::Persistent, 0, &mut fx);
    publish(&mut space, "a\"b", Class::Recoverable, 0, &mut fx);
    space.append_failed(1, &mut fx);
    assert_eq!(delivered(&fx), vec![1, 2]);
    let ring = space.ring_of(&room("a\"b"));
    assert_eq!(ring[0].event.as_str(), GAP_EVENT);
    let body: Value = serde_json::from_slice(&ring[0].data).unwrap();
    assert_eq!(body, json!({"room": "a\"b", "from": 1, "to": 1}));
    assert_eq!(ring.iter().map(|p| p.position.unwrap().offset).collect::<Vec<_>>(), vec![1, 2]);
}

#[test]
fn numbers_are_reserved_before_they_are_handed_out_and_ahead_of_need() {
    let mut space = space(SpaceConfig { durable: true, reserve_block: 8, ..SpaceConfig::default() });
    let mut fx = enter(&mut space, 1, 1, "r", 0);
    fx.clear();
    assert!(publish(&mut space, "r", Class::Recoverable, 0, &mut fx).pending);
    assert_eq!(fx, vec![Effect::Reserve { upto: 9 }]);
    space.reserved(9, &mut fx);
    assert_eq!(delivered(&fx), vec![1]);
    fx.clear();
    for _ in 0..4 {
        assert!(!publish(&mut space, "r", Class::Recoverable, 0, &mut fx).pending);
    }
    assert_eq!(fx.iter().filter(|effect| matches!(effect, Effect::Reserve { .. })).count(), 0);
    publish(&mut space, "r", Class::Recoverable, 0, &mut fx);
    assert!(fx.contains(&Effect::Reserve { upto: 14 }), "fewer than half a block is left: {fx:?}");
}

#[test]
fn an_unanswered_reservation_is_asked_for_again() {
    let mut space = space(SpaceConfig { durable: true, ..SpaceConfig::default() });
    let mut fx = Vec::new();
    publish(&mut space, "r", Class::Recoverable, 5_000, &mut fx);
    fx.clear();
    space.tick(5_500, &mut fx);
    assert_eq!(fx, Vec::new());
    space.tick(6_000, &mut fx);
    assert_eq!(fx, vec![Effect::Reserve { upto: 1_025 }]);
}

#[test]
fn a_space_with_persistent_messages_only_reserves_nothing() {
    let mut space = space(SpaceConfig { durable: true, ..SpaceConfig::default() });
    let mut fx = Vec::new();
    for _ in 0..100 {
        publish(&mut space, "r", Class::Persistent, 0, &mut fx);
    }
    assert!(fx.iter().all(|effect| matches!(effect, Effect::Append(_))));
}

#[test]
fn a_full_read_of_the_store_proves_nothing() {
    let mut space = space(SpaceConfig { ring_window_ms: 10, store_messages: 5, ..SpaceConfig::default() });
    enter(&mut space, 1, 1, "r", 0);
    let mut fx = Vec::new();
    let mut stored: Vec<_> =
        (0..9).map(|_| publish(&mut space, "r", Class::Persistent, 0, &mut fx).publication).collect();
    stored.iter().for_each(|publication| space.appended(publication.seq, &mut fx));
    space.disconnect(conn(1), true, 0, &mut fx);
    space.tick(1_000, &mut fx);
    let pid = "pid-1".into();
    let offset = SessionOffset { epoch: EPOCH, seq: 2 };
    let answer = space.resume(&pid, offset, &user(1), conn(2), who(1), None, 1_000, &mut fx);
    assert_eq!(answer, Resume::NeedHistory { reads: vec![(room("r"), 2)] });
    let stored = stored.split_off(4);
    let answer = space.resume_with(&pid, offset, &user(1), conn(2), who(1), None, stored, 1_000, &mut fx);
    assert_eq!(answer, Resume::Failed(ResumeFailure::TooOld));
}

#[test]
fn a_cursor_from_the_future_or_another_epoch_is_refused() {
    for offset in [SessionOffset { epoch: EPOCH, seq: 9 }, SessionOffset { epoch: Epoch(2), seq: 0 }] {
        let mut space = space(SpaceConfig::default());
        let mut fx = enter(&mut space, 1, 1, "r", 0);
        space.disconnect(conn(1), true, 0, &mut fx);
        let answer = space.resume(&"pid-1".into(), offset, &user(1), conn(2), who(1), None, 0, &mut fx);
        assert_eq!(answer, Resume::Failed(ResumeFailure::OtherEpoch));
    }
}

#[test]
fn a_session_expires_with_its_window() {
    let mut space = space(SpaceConfig::default());
    let mut fx = enter(&mut space, 1, 1, "r", 0);
    space.disconnect(conn(1), true, 0, &mut fx);
    let offset = SessionOffset { epoch: EPOCH, seq: 0 };
    let answer = space.resume(&"pid-1".into(), offset, &user(1), conn(2), who(1), None, 120_000, &mut fx);
    assert_eq!(answer, Resume::Failed(ResumeFailure::Expired));
    assert!(!space.session_known(&"pid-1".into()));
}

#[test]
fn a_forgotten_room_goes_on_beyond_what_it_had_handed_out() {
    let mut space = space(SpaceConfig { ring_window_ms: 10, ..SpaceConfig::default() });
    let mut fx = Vec::new();
    for _ in 0..5 {
        publish(&mut space, "old", Class::Recoverable, 0, &mut fx);
    }
    let cursor = Position { epoch: EPOCH, offset: 3 };
    space.tick(100, &mut fx);
    for n in 0..=65_536 {
        let n = 10 + n;
        space.subscribe(conn(n), &room(&format!("room-{n}")), 100, &mut Vec::new());
        space.unsubscribe(conn(n), &room(&format!("room-{n}")));
    }
    space.tick(200, &mut fx);
    assert_eq!(space.since(&room("old"), cursor), Since::Store { after_offset: 3 });
    let again = publish(&mut space, "old", Class::Recoverable, 200, &mut fx).publication;
    assert_eq!(again.position.unwrap().offset, 6);
}

#[test]
fn the_ring_is_bounded_in_bytes_and_time() {
    let mut space = space(SpaceConfig { ring_bytes: 10 * 257, ..SpaceConfig::default() });
    let mut fx = Vec::new();
    for _ in 0..25 {
        publish(&mut space, "r", Class::Recoverable, 1_000, &mut fx);
    }
    assert_eq!(space.ring_of(&room("r")).len(), 10);
    space.tick(121_000, &mut fx);
    assert_eq!(space.ring_of(&room("r")).len(), 10);
    space.tick(121_001, &mut fx);
    assert_eq!(space.ring_of(&room("r")).len(), 0);
}

#[test]
fn a_volatile_message_has_no_place_and_overtakes() {
    let mut space = space(SpaceConfig::default());
    let mut fx = enter(&mut space, 1, 1, "r", 0);
    publish(&mut space, "r", Class::Persistent, 0, &mut fx);
    let volatile = publish(&mut space, "r", Class::Volatile, 0, &mut fx);
    assert!(!volatile.pending);
    assert_eq!((volatile.publication.seq, volatile.publication.position), (0, None));
    assert_eq!(delivered(&fx), vec![0]);
    publish(&mut space, "nobody", Class::Volatile, 0, &mut fx);
    assert_eq!(space.stats().rooms, 1);
}

/// A member who left at 2 of nine persistent messages, none of which is in the ring any more.
fn away_since_two(pending: bool) -> (Space, Vec<Arc<tidegate_types::Publication>>) {
    let mut space = space(SpaceConfig { ring_window_ms: 10, ..SpaceConfig::default() });
    let mut fx = enter(&mut space, 1, 1, "r", 0);
    let stored: Vec<_> = (0..9).map(|_| publish(&mut space, "r", Class::Persistent, 0, &mut fx).publication).collect();
    let last = if pending { 8 } else { 9 };
    stored.iter().take(last).for_each(|publication| space.appended(publication.seq, &mut fx));
    space.disconnect(conn(1), true, 0, &mut fx);
    space.tick(1_000, &mut fx);
    (space, stored.into_iter().skip(2).collect())
}

fn resume_with(space: &mut Space, stored: Vec<Arc<tidegate_types::Publication>>) -> Result<Vec<u64>, ResumeFailure> {
    let (pid, offset) = ("pid-1".into(), SessionOffset { epoch: EPOCH, seq: 2 });
    match space.resume_with(&pid, offset, &user(1), conn(2), who(1), None, stored, 1_000, &mut Vec::new()) {
        Resume::Recovered { missed, .. } => Ok(missed.iter().map(|publication| publication.seq).collect()),
        Resume::Failed(failure) => Err(failure),
        Resume::NeedHistory { .. } => panic!("the store has been read"),
    }
}

#[test]
fn a_message_stored_but_not_yet_released_is_left_to_the_live_stream() {
    let (mut space, stored) = away_since_two(true);
    assert_eq!(resume_with(&mut space, stored), Ok((3..=8).collect()));
}

#[test]
fn a_read_with_a_hole_or_without_its_end_is_not_believed() {
    for lost in [5, 9] {
        let (mut space, mut stored) = away_since_two(false);
        stored.retain(|publication| publication.seq != lost);
        assert_eq!(resume_with(&mut space, stored), Err(ResumeFailure::TooOld), "without {lost}");
    }
    let (mut space, stored) = away_since_two(false);
    assert_eq!(resume_with(&mut space, stored), Ok((3..=9).collect()));
}

#[test]
fn a_session_that_lives_is_not_imported_again() {
    let mut space = space(SpaceConfig { durable: true, ..SpaceConfig::default() });
    let fx = enter(&mut space, 1, 1, "r", 0);
    let Some(Effect::SaveSession(record)) = fx.last() else { panic!("{fx:?}") };
    space.import_session(record.clone(), 0);
    let offset = SessionOffset { epoch: EPOCH, seq: 0 };
    let answer = space.resume(&"pid-1".into(), offset, &user(1), conn(2), who(1), None, 0, &mut Vec::new());
    assert_eq!(answer, Resume::Failed(ResumeFailure::UnknownSession));
}

#[test]
fn what_waits_at_a_clean_stop_is_lost_and_the_floor_says_so() {
    let config = SpaceConfig { durable: true, ..SpaceConfig::default() };
    let mut space = space(config.clone());
    let mut fx = enter(&mut space, 1, 1, "r", 0);
    let Some(Effect::SaveSession(record)) = fx.pop() else { panic!("{fx:?}") };
    assert!(publish(&mut space, "r", Class::Recoverable, 0, &mut fx).pending);
    let saved = space.save();
    let mut space = Space::new(space.key().clone(), config, saved);
    space.import_session(record, 0);
    let offset = SessionOffset { epoch: EPOCH, seq: 0 };
    let answer = space.resume(&"pid-1".into(), offset, &user(1), conn(2), who(1), None, 0, &mut fx);
    assert_eq!(answer, Resume::Failed(ResumeFailure::TooOld));
}

#[test]
fn a_refused_message_is_not_looked_for_in_the_store_after_a_clean_stop() {
    let key = Arc::new(SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() });
    // An unclean start: of a room that the store does not name nothing is known but that it ends at or before 5.
    let start = SpaceStart { last_seq: 5, clean: false, ..SpaceStart::fresh(EPOCH) };
    let mut space = Space::new(key.clone(), SpaceConfig::default(), start);
    let mut fx = enter(&mut space, 1, 1, "r", 0);
    publish(&mut space, "r", Class::Persistent, 0, &mut fx);
    space.append_failed(6, &mut fx);
    let mut space = Space::new(key, SpaceConfig::default(), space.save());
    let record = SessionRecord {
        pid: "pid-2".into(),
        socket_id: "sid-2".into(),
        tenant: TenantId::default_tenant(),
        namespace: Namespace::root(),
        user: user(2),
        rooms: vec![(room("r"), 0)],
        token_expires_at: None,
        expires_at: Some(1_000),
    };
    space.import_session(record, 0);
    let offset = SessionOffset { epoch: EPOCH, seq: 0 };
    let answer = space.resume(&"pid-2".into(), offset, &user(2), conn(2), who(2), None, 0, &mut fx);
    let Resume::Recovered { missed, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(missed.iter().map(|p| p.event.as_str()).collect::<Vec<_>>(), [GAP_EVENT]);
}

#[test]
fn a_room_that_begins_late_has_nothing_older_than_its_first_message() {
    let key = Arc::new(SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() });
    let start = SpaceStart { last_seq: 9, ..SpaceStart::fresh(EPOCH) };
    let mut space = Space::new(key, SpaceConfig::default(), start);
    let mut fx = enter(&mut space, 1, 1, "r", 0);
    assert!(!space.has_older(&room("r"), 10), "an empty room");
    publish(&mut space, "r", Class::Recoverable, 0, &mut fx);
    publish(&mut space, "r", Class::Recoverable, 0, &mut fx);
    assert_eq!(space.position(&room("r")).offset, 11);
    assert!(!space.has_older(&room("r"), 10));
    assert!(space.has_older(&room("r"), 11));
    assert!(!space.has_older(&room("other"), 10), "a room that nothing is known of begins after 9");
}
