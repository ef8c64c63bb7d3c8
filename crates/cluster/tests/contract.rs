//! The contract of `History`, held by both stores.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod rig;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rig::{HANG, Reports, Rig, is_final, message, offsets, room_of, session, space};
use tidegate_cluster::{EmbeddedHistory, Full, History, HistorySettings, MemoryHistory, OnWritten, Write, Written};
use tidegate_hub::Pid;
use tidegate_types::{Class, Publication};

/// Each body becomes one test of each store.
macro_rules! contract {
    ($($(#[$doc:meta])* fn $name:ident($rig:ident $(, $change:expr)?) $body:block)+) => {
        $(mod $name {
            use super::*;
            fn body($rig: Rig) $body

            #[test]
            fn in_memory() {
                body(Rig::memory(contract!(@change $($change)?)));
            }

            #[test]
            fn embedded() {
                let dir = tempfile::tempdir().unwrap();
                body(Rig::embedded(dir.path(), contract!(@change $($change)?)));
            }
        })+
    };
    (@change) => { |_| {} };
    (@change $change:expr) => { $change };
}

contract! {
    fn messages_come_back_exactly_and_in_order(rig) {
        let sent: Vec<Arc<Publication>> = (1..=20).map(|n| rig.message("one", n, n)).collect();
        for message in &sent {
            rig.history.submit(Write::Append(Arc::clone(message))).unwrap();
        }
        rig.settle();
        let room = room_of(&rig.space, "one");
        assert_eq!(rig.history.read(&room, 0, 100).unwrap(), sent);
        assert_eq!(rig.history.read(&room, 18, 100).unwrap(), sent[18..]);
        assert_eq!(rig.history.read(&room, 4, 3).unwrap(), sent[4..7]);
        assert_eq!(rig.history.read(&room, 20, 3).unwrap(), []);
        assert_eq!(rig.history.read(&room, u64::MAX, 3).unwrap(), []);
        assert_eq!(rig.history.read(&room, 0, 0).unwrap(), []);
        assert_eq!(rig.history.bounds(&room), Some((1, 20)));
    }

    fn each_message_is_reported_appended_then_synced_in_the_order_of_submission(rig) {
        for n in 1..=50 {
            rig.history.submit(Write::Append(rig.message(if n % 3 == 0 { "a" } else { "b" }, n, n))).unwrap();
        }
        let all = rig.reports.wait_for(|all| all.iter().any(|written| is_final(written, &rig.space, 50)));
        let expected: Vec<Written> = (1..=50)
            .flat_map(|seq| {
                let space = Arc::clone(&rig.space);
                [Written::Appended { space: Arc::clone(&space), seq }, Written::Synced { space, seq }]
            })
            .collect();
        assert_eq!(all, expected);
        let stats = rig.history.stats();
        assert_eq!((stats.appended, stats.failed, stats.queued_items, stats.queued_bytes), (50, 0, 0, 0));
        assert!(rig.history.healthy());
    }

    fn only_the_newest_messages_up_to_the_cap_are_returned(rig, |settings| settings.max_messages_per_room = 10) {
        for n in 1..=300u64 {
            // Offsets have holes: recoverable messages take numbers too and are not stored.
            rig.history.submit(Write::Append(rig.message("one", n * 3, n * 5))).unwrap();
            if n % 7 == 0 {
                rig.settle();
                let first = n.saturating_sub(9).max(1);
                let expected: Vec<u64> = (first..=n).map(|n| n * 3).collect();
                assert_eq!(rig.read("one"), expected);
                let room = room_of(&rig.space, "one");
                assert_eq!(offsets(&rig.history.tail(&room, None, 500).unwrap()), expected);
                let before = (first - 1) * 5;
                assert_eq!(offsets(&rig.history.read_seq(&room, before, 500).unwrap().unwrap()), expected);
                assert_eq!(rig.history.read_seq(&room, 0, 500).unwrap().is_none(), first > 1, "not all of them");
                assert_eq!(rig.history.bounds(&room), Some((first * 3, n * 3)));
            }
        }
        assert!(rig.history.stats().removed >= 250, "{:?}", rig.history.stats());
    }

    fn an_expired_message_is_not_returned_though_it_was_not_swept(rig) {
        let room = room_of(&rig.space, "one");
        rig.append("one", 1, 1);
        rig.advance(30_000);
        rig.append("one", 2, 2);
        assert_eq!(rig.read("one"), [1, 2]);
        rig.advance(30_000);
        assert_eq!(rig.read("one"), [2]);
        assert_eq!(offsets(&rig.history.tail(&room, None, 10).unwrap()), [2]);
        assert_eq!(offsets(&rig.history.read_seq(&room, 1, 10).unwrap().unwrap()), [2]);
        assert_eq!(rig.history.read_seq(&room, 0, 10).unwrap(), None, "the first is gone");
        assert_eq!(rig.history.bounds(&room), Some((2, 2)));
        rig.advance(30_000);
        assert!(rig.read("one").is_empty());
        assert_eq!(rig.history.bounds(&room), None);
        assert_eq!(rig.history.read_seq(&room, 1, 10).unwrap(), None, "the second is gone too");
        rig.append("one", 3, 3);
        assert_eq!(rig.read("one"), [3]);
        assert_eq!(rig.history.read_seq(&room, 1, 10).unwrap(), None);
        assert_eq!(offsets(&rig.history.read_seq(&room, 2, 10).unwrap().unwrap()), [3]);
    }

    fn a_room_keeps_no_more_bytes_than_it_may(rig, |settings| settings.max_bytes_per_room = 10_000) {
        let room = room_of(&rig.space, "one");
        let mut kept = std::collections::VecDeque::new();
        for n in 1..=200u64 {
            let mut message = (*rig.message("one", n, n)).clone();
            // Now and then one that is larger than all that a room may keep: it is kept alone.
            let bytes = if n % 61 == 0 { 30_000 } else { 300 + (n as usize * 37) % 900 };
            message.data = Bytes::from(vec![b'x'; bytes]);
            let bytes = message.payload_bytes();
            rig.submit_and_wait(Arc::new(message));
            kept.push_back((n, bytes));
            while kept.iter().skip(1).map(|(_, bytes)| bytes).sum::<usize>() >= 10_000 {
                kept.pop_front();
            }
            let expected: Vec<u64> = kept.iter().map(|(n, _)| *n).collect();
            assert_eq!(rig.read("one"), expected);
            let first = expected[0];
            assert_eq!(rig.history.bounds(&room), Some((first, n)));
            assert_eq!(offsets(&rig.history.read_seq(&room, first - 1, 500).unwrap().unwrap()), expected);
            if first > 1 {
                assert_eq!(rig.history.read_seq(&room, first - 2, 500).unwrap(), None, "the one before is gone");
            }
        }
        assert!(rig.history.stats().removed >= 150, "{:?}", rig.history.stats());
    }

    fn the_tail_is_the_newest_messages_oldest_first(rig) {
        for n in 1..=10 {
            rig.append("one", n, n);
        }
        let room = room_of(&rig.space, "one");
        let tail = |before, limit| offsets(&rig.history.tail(&room, before, limit).unwrap());
        assert_eq!(tail(None, 3), [8, 9, 10]);
        assert_eq!(tail(Some(8), 3), [5, 6, 7]);
        assert_eq!(tail(Some(3), 5), [1, 2]);
        assert!(tail(Some(1), 5).is_empty());
        assert!(tail(Some(0), 5).is_empty());
        assert_eq!(tail(Some(100), 2), [9, 10]);
        assert!(tail(None, 0).is_empty());
    }

    fn messages_after_a_sequence_number_are_those_of_the_room_alone(rig) {
        for n in 1..=10u64 {
            let room = if n % 2 == 0 { "even" } else { "odd" };
            rig.append(room, n.div_ceil(2), n);
        }
        let after = |room: &str, seq, limit| {
            offsets(&rig.history.read_seq(&room_of(&rig.space, room), seq, limit).unwrap().unwrap())
        };
        assert_eq!(after("even", 0, 100), [1, 2, 3, 4, 5]);
        assert_eq!(after("even", 4, 100), [3, 4, 5]);
        assert_eq!(after("odd", 4, 100), [3, 4, 5]);
        assert_eq!(after("odd", 5, 1), [4]);
        assert!(after("odd", 9, 100).is_empty());
        assert!(after("none", 0, 100).is_empty());
    }

    fn a_session_is_found_until_it_expires_or_is_dropped(rig) {
        let pid = Pid::from("secret");
        assert_eq!(rig.history.session(&pid).unwrap(), None);
        let connected = session("secret", None);
        rig.history.submit(Write::SaveSession(connected.clone())).unwrap();
        rig.settle();
        assert_eq!(rig.history.session(&pid).unwrap(), Some(connected));
        let cut = session("secret", Some(rig.now() + 1_000));
        rig.history.submit(Write::SaveSession(cut.clone())).unwrap();
        rig.history.submit(Write::SaveSession(session("other", None))).unwrap();
        rig.settle();
        assert_eq!(rig.history.session(&pid).unwrap(), Some(cut));
        rig.advance(1_000);
        assert_eq!(rig.history.session(&pid).unwrap(), None);
        rig.history.submit(Write::DropSession(Pid::from("other"))).unwrap();
        rig.settle();
        assert_eq!(rig.history.session(&Pid::from("other")).unwrap(), None);
    }

    fn whatever_a_client_calls_its_session_is_answered(rig) {
        for pid in ["", "\0", "a\nb", &"x".repeat(100_000)] {
            assert_eq!(rig.history.session(&Pid::from(pid)).unwrap(), None);
        }
    }

    fn a_reservation_is_reported(rig) {
        rig.history.submit(Write::Reserve { space: Arc::clone(&rig.space), upto: 1_024 }).unwrap();
        let reserved = Written::Reserved { space: Arc::clone(&rig.space), upto: 1_024 };
        rig.reports.wait_for(|all| all.contains(&reserved));
    }

    fn two_tenants_with_one_room_name_never_meet(rig) {
        let other = space("other", "/");
        let third = space("default", "/chat");
        let epoch = rig.history.open_space(&other).unwrap().epoch;
        let third_epoch = rig.history.open_space(&third).unwrap().epoch;
        assert_ne!(epoch, rig.epoch);
        rig.append("one", 1, 1);
        rig.submit_and_wait(message(&other, epoch, "one", 1, 1, rig.now()));
        rig.submit_and_wait(message(&other, epoch, "one", 2, 2, rig.now()));
        rig.submit_and_wait(message(&third, third_epoch, "one", 7, 9, rig.now()));
        let read = |key| rig.history.read(&room_of(key, "one"), 0, 10).unwrap();
        assert_eq!(offsets(&read(&rig.space)), [1]);
        assert_eq!(offsets(&read(&other)), [1, 2]);
        assert_eq!(offsets(&read(&third)), [7]);
        assert!(read(&other).iter().all(|message| message.space == other && message.position.unwrap().epoch == epoch));
        assert_eq!(rig.history.read(&room_of(&space("nobody", "/"), "one"), 0, 10).unwrap(), []);
    }

    fn names_with_separators_in_them_never_collide(rig) {
        let places = [
            ("a", "/b", "c"), ("a", "/", "b/c"), ("a/b", "/", "c"), ("a-b", "/", "c"), ("a", "/", "b-c"), ("a", "/b/c", "d"),
            ("a", "/b", "c/d"), ("ä", "/\u{1F600}", "räume"), ("a", "/\u{1F600}", "räume"), ("a", "/", "räume:\u{1F600}"),
            ("a:b", "/", "c"), ("a", "/", "b:c"), ("a", "/", "b"), ("a", "/", "b\u{a0}"),
        ];
        for (n, (tenant, namespace, room)) in (1..).zip(places) {
            let key = space(tenant, namespace);
            let epoch = rig.history.open_space(&key).unwrap().epoch;
            rig.submit_and_wait(message(&key, epoch, room, n, n, rig.now()));
        }
        for (n, (tenant, namespace, room)) in (1..).zip(places) {
            let found = rig.history.read(&room_of(&space(tenant, namespace), room), 0, 100).unwrap();
            assert_eq!(offsets(&found), [n], "{tenant} {namespace} {room}");
            assert_eq!(found[0].room.as_str(), room);
        }
    }

    fn a_message_without_a_place_is_refused(rig) {
        let mut volatile = (*rig.message("one", 1, 7)).clone();
        volatile.class = Class::Volatile;
        volatile.position = None;
        rig.submit_and_wait(Arc::new(volatile));
        let stranger = space("stranger", "/");
        rig.submit_and_wait(message(&stranger, rig.epoch, "one", 1, 8, rig.now()));
        let all = rig.reports.wait_for(|all| all.len() >= 2);
        assert!(all.iter().all(|written| matches!(written, Written::Failed { .. })), "{all:?}");
        assert!(rig.read("one").is_empty());
        assert!(rig.history.healthy(), "a bad message is not a bad store");
    }

    fn an_open_space_keeps_its_epoch(rig) {
        assert_eq!(rig.history.open_space(&rig.space).unwrap().epoch, rig.epoch);
    }

    fn nothing_is_taken_after_the_close(rig) {
        rig.append("one", 1, 1);
        rig.history.close(Vec::new()).unwrap();
        assert_eq!(rig.history.submit(Write::Append(rig.message("one", 2, 2))), Err(Full));
        assert!(rig.history.open_space(&space("new", "/")).is_err());
        assert!(rig.history.close(Vec::new()).is_err());
        let mut ready = rig.history.queue_ready();
        assert_eq!(ready.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
    }

    fn everything_queued_before_the_close_is_stored(rig) {
        for n in 1..=99 {
            rig.history.submit(Write::Append(rig.message("one", n, n))).unwrap();
        }
        rig.history.close(Vec::new()).unwrap();
        rig.reports.wait_for(|all| all.iter().any(|written| is_final(written, &rig.space, 99)));
    }
}

/// Holds the writer inside its report until told to go on.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn listener(self: &Arc<Self>) -> OnWritten {
        let gate = Arc::clone(self);
        Arc::new(move |_| {
            let open = gate.open.lock().unwrap();
            let _open = gate.changed.wait_timeout_while(open, HANG, |open| !*open).unwrap();
        })
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

fn a_full_queue_refuses_and_says_when_there_is_room(open: impl FnOnce(HistorySettings, OnWritten) -> Box<dyn History>) {
    let clock = Arc::new(rig::START_MS.into());
    let settings = HistorySettings { queue_bytes: 20_000, ..rig::settings(&clock) };
    let gate = Arc::<Gate>::default();
    let history = open(settings, gate.listener());
    let key = space("default", "/");
    let epoch = history.open_space(&key).unwrap().epoch;
    let mut taken = 0;
    // The first group is through, in memory terms, while its report is held: submit until the queue behind it is full.
    while history.submit(Write::Append(message(&key, epoch, "one", taken + 1, taken + 1, rig::START_MS))).is_ok() {
        taken += 1;
        assert!(taken < 100_000, "never full");
    }
    let mut context = Context::from_waker(Waker::noop());
    let mut ready = history.queue_ready();
    assert!(history.stats().queued_bytes <= 21_000, "{:?}", history.stats());
    assert_eq!(ready.as_mut().poll(&mut context), Poll::Pending);
    gate.open();
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(ready);
    history.submit(Write::Append(message(&key, epoch, "one", taken + 1, taken + 1, rig::START_MS))).unwrap();
    history.open_space(&space("settle", "/")).unwrap();
    let read = history.read(&room_of(&key, "one"), 0, usize::MAX).unwrap();
    let last = offsets(&read).last().copied();
    assert_eq!(last, Some(taken + 1), "what was refused left no hole, what was taken is there");
}

#[test]
fn a_full_memory_queue_refuses_and_says_when_there_is_room() {
    a_full_queue_refuses_and_says_when_there_is_room(|settings, listener| {
        Box::new(MemoryHistory::open(settings, listener).unwrap())
    });
}

#[test]
fn a_full_embedded_queue_refuses_and_says_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    a_full_queue_refuses_and_says_when_there_is_room(|settings, listener| {
        Box::new(EmbeddedHistory::open(dir.path(), settings, listener).unwrap())
    });
}

#[test]
fn memory_is_bounded_over_all_rooms_and_the_oldest_messages_go_first() {
    let rig = Rig::memory(|settings| settings.memory_bytes = 100 * 250);
    for n in 1..=1_000 {
        rig.history.submit(Write::Append(rig.message(&format!("room-{}", n % 10), n, n))).unwrap();
    }
    rig.settle();
    let mut kept: Vec<u64> = (0..10).flat_map(|room| rig.read(&format!("room-{room}"))).collect();
    kept.sort_unstable();
    assert!(kept.len() > 50 && kept.len() <= 125, "{}", kept.len());
    let expected: Vec<u64> = (1_001 - kept.len() as u64..=1_000).collect();
    assert_eq!(kept, expected);
}

#[test]
fn swept_memory_is_empty() {
    let clock = Arc::new(std::sync::atomic::AtomicU64::new(rig::START_MS));
    let history = MemoryHistory::open(rig::settings(&clock), Arc::<Reports>::default().listener()).unwrap();
    let key = space("default", "/");
    let epoch = history.open_space(&key).unwrap().epoch;
    for n in 1..=10 {
        history.submit(Write::Append(message(&key, epoch, "one", n, n, rig::START_MS + n))).unwrap();
    }
    clock.fetch_add(60_005, Ordering::SeqCst);
    history.sweep().unwrap();
    assert_eq!(history.stats().removed, 5);
    assert_eq!(offsets(&history.read(&room_of(&key, "one"), 0, 100).unwrap()), [6, 7, 8, 9, 10]);
}
