//! Sending twice, publishing once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use bytes::Bytes;
use tidegate_hub::{Effect, Effects, Idempotency, Message, Published, Space, SpaceConfig, SpaceStart};
use tidegate_types::{Class, Epoch, EventName, Namespace, RoomName, SpaceKey, TenantId, UserId};

fn space(config: SpaceConfig) -> Space {
    let key = SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() };
    Space::new(Arc::new(key), config, SpaceStart::fresh(Epoch(1)))
}

struct Send<'a> {
    room: &'a str,
    sender: &'a str,
    key: &'a str,
    class: Class,
    window_ms: u64,
}

const PLAIN: Send<'static> =
    Send { room: "quay", sender: "ada", key: "k", class: Class::Recoverable, window_ms: 120_000 };

fn send(space: &mut Space, what: &Send<'_>, id: &str, now: u64) -> Published {
    send_with(space, what, id, now, &mut Vec::new())
}

fn send_with(space: &mut Space, what: &Send<'_>, id: &str, now: u64, fx: &mut Effects) -> Published {
    let idempotency = Idempotency {
        sender: UserId::try_from(what.sender).unwrap(),
        key: what.key.try_into().unwrap(),
        message_id: id.into(),
        window_ms: what.window_ms,
    };
    let message = Message {
        room: RoomName::try_from(what.room).unwrap(),
        event: EventName::try_from("room:message").unwrap(),
        data: Bytes::from_static(b"1"),
        attachments: Arc::from([]),
        class: what.class,
        idempotency: Some(Box::new(idempotency)),
    };
    space.publish(message, now, fx)
}

#[test]
fn a_repeated_send_has_the_place_and_the_id_of_the_first() {
    let mut space = space(SpaceConfig::default());
    let first = send(&mut space, &PLAIN, "m-1", 0);
    assert_eq!((first.duplicate.as_deref(), first.pending), (None, false));
    let again = send(&mut space, &PLAIN, "m-2", 119_999);
    assert_eq!((again.duplicate.as_deref(), again.pending), (Some("m-1"), false));
    assert_eq!(again.publication.position, first.publication.position);
    assert_eq!(space.ring_of(&RoomName::try_from("quay").unwrap()).len(), 1);
    let late = send(&mut space, &PLAIN, "m-3", 120_000);
    assert_eq!((late.duplicate, late.publication.seq), (None, 2));
}

#[test]
fn a_key_is_the_senders_and_the_rooms_own() {
    let mut space = space(SpaceConfig::default());
    send(&mut space, &PLAIN, "m-1", 0);
    for other in [Send { room: "pier", ..PLAIN }, Send { sender: "bob", ..PLAIN }, Send { key: "l", ..PLAIN }] {
        assert_eq!(send(&mut space, &other, "m-2", 0).duplicate, None);
    }
    assert_eq!(send(&mut space, &PLAIN, "m-3", 0).duplicate.as_deref(), Some("m-1"));
}

#[test]
fn windows_of_different_length_live_side_by_side() {
    let mut space = space(SpaceConfig::default());
    let chat = Send { key: "nonce", window_ms: 10_000, ..PLAIN };
    send(&mut space, &PLAIN, "m-1", 0);
    send(&mut space, &chat, "m-2", 0);
    space.tick(10_000, &mut Vec::new());
    assert_eq!(send(&mut space, &PLAIN, "m-3", 10_000).duplicate.as_deref(), Some("m-1"));
    assert_eq!(send(&mut space, &chat, "m-4", 10_000).duplicate, None);
}

#[test]
fn a_send_repeated_while_the_first_waits_for_the_store_waits_for_the_same_outcome() {
    let mut space = space(SpaceConfig::default());
    let persistent = Send { class: Class::Persistent, ..PLAIN };
    let mut fx = Vec::new();
    let first = send_with(&mut space, &persistent, "m-1", 0, &mut fx);
    let again = send_with(&mut space, &persistent, "m-2", 0, &mut fx);
    assert!(first.pending && again.pending);
    assert_eq!((again.duplicate.as_deref(), again.publication.seq), (Some("m-1"), first.publication.seq));
    assert_eq!(fx.iter().filter(|effect| matches!(effect, Effect::Append(_))).count(), 1);
    space.appended(first.publication.seq, &mut fx);
    assert!(!send(&mut space, &persistent, "m-3", 0).pending);
}

#[test]
fn a_send_that_failed_may_be_tried_again() {
    let mut space = space(SpaceConfig::default());
    let persistent = Send { class: Class::Persistent, ..PLAIN };
    let first = send(&mut space, &persistent, "m-1", 0);
    space.append_failed(first.publication.seq, &mut Vec::new());
    let again = send(&mut space, &persistent, "m-2", 0);
    assert_eq!(again.duplicate, None);
    assert_ne!(again.publication.seq, first.publication.seq);
    // The failure of the first is old news by now.
    space.append_failed(first.publication.seq, &mut Vec::new());
    assert_eq!(send(&mut space, &persistent, "m-3", 0).duplicate.as_deref(), Some("m-2"));
}

#[test]
fn a_late_failure_does_not_undo_the_new_try() {
    let mut space = space(SpaceConfig::default());
    let persistent = Send { class: Class::Persistent, window_ms: 10, ..PLAIN };
    let first = send(&mut space, &persistent, "m-1", 0);
    // The store is so slow that the sender gave up before.
    assert_eq!(send(&mut space, &persistent, "m-2", 10).duplicate, None);
    space.append_failed(first.publication.seq, &mut Vec::new());
    assert_eq!(send(&mut space, &persistent, "m-3", 11).duplicate.as_deref(), Some("m-2"));
}

#[test]
fn a_volatile_message_is_not_repeated_either() {
    let mut space = space(SpaceConfig::default());
    let volatile = Send { class: Class::Volatile, ..PLAIN };
    assert_eq!(send(&mut space, &volatile, "m-1", 0).duplicate, None);
    let again = send(&mut space, &volatile, "m-2", 0);
    assert_eq!((again.duplicate.as_deref(), again.publication.position), (Some("m-1"), None));
}

#[test]
fn what_is_remembered_is_bounded_in_number_and_bytes_and_the_oldest_goes_first() {
    let long = "k".repeat(100);
    for config in [
        SpaceConfig { idempotency_entries: 8, ..SpaceConfig::default() },
        // Each costs about 320 bytes and its texts.
        SpaceConfig { idempotency_bytes: 8 * 440 + 300, ..SpaceConfig::default() },
    ] {
        let mut space = space(config);
        let key = |n: usize| format!("{long}-{n:02}");
        for n in 0..20 {
            send(&mut space, &Send { key: &key(n), ..PLAIN }, "m", n as u64);
        }
        let remembered =
            |n: &usize| send(&mut space, &Send { key: &key(*n), ..PLAIN }, "again", 20).duplicate.is_some();
        let mut newest_first: Vec<usize> = (0..20).rev().take_while(remembered).collect();
        newest_first.reverse();
        assert_eq!(newest_first, (12..20).collect::<Vec<_>>());
    }
}
