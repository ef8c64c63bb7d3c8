//! The contract of `Broker` and of its `History`, held by Redis, by a Redis Cluster and by the broker without Redis.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, reason = "tests")]

mod broker_rig;

use std::any::Any;
use std::sync::Arc;

use broker_rig::{
    Member, check, followed, leases, memory_node, message, messages, offsets, once, presence, redis_node, room,
    room_key, session, space, space_of, standalone, user, wait,
};
use bytes::Bytes;
use tidegate_cluster::model::Limits;
use tidegate_cluster::redis::{BrokerSettings, RedisSettings, Topology};
use tidegate_cluster::{
    Audience, Counted, Heard, Kind, MemoryCluster, Name, Outgoing, PublishError, Write, system_clock,
};
use tidegate_hub::Pid;
use tidegate_testkit::redis::{RedisCluster, RedisOptions, RedisServer};
use tidegate_types::{Class, NodeId, RoomKey};

struct Rig {
    a: Member,
    b: Member,
    _servers: Box<dyn Any>,
}

impl Rig {
    fn of(a: Member, b: Member, servers: impl Any) -> Self {
        a.until_connected();
        b.until_connected();
        Self { a, b, _servers: Box::new(servers) }
    }

    fn redis() -> Self {
        let server = RedisServer::start();
        let node = |id| redis_node(standalone(&server), id, limits()).1;
        Self::of(node(1), node(2), server)
    }

    fn redis_cluster() -> Self {
        let cluster = RedisCluster::start(&RedisOptions::default(), false);
        let seeds = || cluster.nodes.iter().map(|node| node.address().parse().unwrap()).collect();
        let node = |id| redis_node(RedisSettings::new(Topology::Cluster(seeds())), id, limits()).1;
        Self::of(node(1), node(2), cluster)
    }

    fn memory() -> Self {
        let limits = Limits { messages_per_room: 10, bytes_per_room: 4_000, ..Limits::default() };
        let cluster = MemoryCluster::start(limits, system_clock()).unwrap();
        Self::of(memory_node(&cluster, 1), memory_node(&cluster, 2), cluster)
    }
}

fn limits() -> BrokerSettings {
    BrokerSettings { max_messages_per_room: 10, max_bytes_per_room: 4_000, ..BrokerSettings::default() }
}

/// Each body becomes one test of each broker.
macro_rules! contract {
    ($($(#[$doc:meta])* fn $name:ident($rig:ident) $body:block)+) => {
        mod body {
            use super::*;
            $(pub fn $name($rig: &Rig) $body)+
        }
        mod redis { $($(#[$doc])* #[test] fn $name() { super::body::$name(&super::Rig::redis()); })+ }
        mod redis_cluster { $($(#[$doc])* #[test] fn $name() { super::body::$name(&super::Rig::redis_cluster()); })+ }
        mod memory { $($(#[$doc])* #[test] fn $name() { super::body::$name(&super::Rig::memory()); })+ }
    };
}

contract! {
    fn buckets_of_limits_count_for_all_nodes_and_leak(rig) {
        let count = |member: &Member, requests: &[(&[u8], u32)]| {
            let told = requests.iter().map(|(key, requests)| ((*key).into(), *requests)).collect();
            wait(member.broker.count(Counted { limit: "api".into(), rate: 1_000, told })).unwrap()
        };
        assert_eq!(count(&rig.a, &[(b"ada", 3), (b"bob", 1)]), [2_000, 0], "the first of a key at rest is not ahead");
        let ahead = count(&rig.b, &[(b"ada", 2)])[0];
        assert!((3_000..=4_000).contains(&ahead), "one a second leaks away: {ahead}");
        let other = Counted { limit: "other".into(), rate: 1_000, told: vec![((*b"ada").into(), 1)] };
        assert_eq!(wait(rig.b.broker.count(other)), Ok(vec![0]), "another limit");
        assert_eq!(count(&rig.a, &[]), Vec::<u64>::new());
    }

    fn connections_are_counted_over_all_nodes(rig) {
        let seat = |member: &Member, user: Option<&str>, held: u32, most: Option<u32>| {
            wait(member.broker.seat(&space(), user.map(broker_rig::user).as_ref(), held, most)).unwrap()
        };
        assert!(seat(&rig.a, Some("ada"), 1, Some(2)) && seat(&rig.b, Some("ada"), 1, Some(2)));
        assert!(!seat(&rig.a, Some("ada"), 2, Some(2)), "a third is refused");
        assert!(seat(&rig.a, Some("bob"), 1, Some(1)) && seat(&rig.a, None, 1, Some(1)), "counted apart");
        assert!(seat(&rig.b, Some("ada"), 2, None), "what is, is");
        assert!(!seat(&rig.a, Some("ada"), 1, Some(2)));
        assert!(seat(&rig.b, Some("ada"), 0, None));
        assert!(seat(&rig.a, Some("ada"), 2, Some(2)));
    }

    fn a_message_comes_to_every_node_that_follows_its_room_the_sender_too(rig) {
        rig.a.follow("lobby");
        rig.b.follow("lobby");
        let placed = rig.a.publish("lobby", "hello");
        assert_eq!(placed.duplicate, None);
        for node in [&rig.a, &rig.b] {
            node.hears("lobby", &[placed.position.offset]);
            let heard = messages(&node.ears.all(), "lobby");
            assert_eq!(heard[0].position, Some(placed.position));
            assert_eq!((heard[0].seq, heard[0].timestamp_ms), (placed.seq, placed.timestamp_ms));
            assert_eq!(&heard[0].data[..], br#"{"text":"hello"}"#);
            assert_eq!(heard[0].class, Class::Persistent);
        }
        let stranger = rig.b.publish("elsewhere", "not for a");
        assert_eq!(stranger.seq, placed.seq + 1, "one order for all rooms of the space");
        let last = rig.b.publish("lobby", "last");
        rig.a.hears("lobby", &[placed.position.offset, last.position.offset]);
        check(&rig.a.ears.all());
    }

    fn binary_values_and_empty_ones_come_as_they_were(rig) {
        rig.b.follow("lobby");
        let attachments: Arc<[Bytes]> = vec![Bytes::from_static(b"\x00\r\n\xff"), Bytes::new()].into();
        let data = Bytes::from_static(br#"{"a":{"_placeholder":true,"num":0}}, "x""#);
        let sent = Outgoing { data, attachments, ..message("lobby", "", Class::Recoverable) };
        let placed = rig.a.place(sent.clone()).unwrap();
        rig.b.hears("lobby", &[placed.position.offset]);
        let heard = &messages(&rig.b.ears.all(), "lobby")[0];
        assert_eq!((&heard.data, &heard.attachments, heard.class), (&sent.data, &sent.attachments, Class::Recoverable));
        assert_eq!((&heard.space, &heard.room, &heard.event), (&sent.space, &sent.room, &sent.event));
    }

    fn two_publishers_make_one_order_without_holes(rig) {
        for name in ["one", "two"] {
            rig.a.follow(name);
            rig.b.follow(name);
        }
        let mut answers = Vec::new();
        for n in 0..200 {
            for node in [&rig.a, &rig.b] {
                let class = if n % 2 == 0 { Class::Persistent } else { Class::Recoverable };
                let name = if n % 3 == 0 { "one" } else { "two" };
                answers.push(node.broker.publish(message(name, &n.to_string(), class)));
            }
        }
        let placed: Vec<_> = answers.into_iter().map(|answer| wait(answer).unwrap()).collect();
        for own in [0, 1] {
            let seqs: Vec<_> = placed.iter().skip(own).step_by(2).map(|placed| placed.seq).collect();
            assert!(seqs.is_sorted(), "what one caller sends stays in its order");
        }
        for node in [&rig.a, &rig.b] {
            node.ears.wait("heard it all", |heard| offsets(heard, "one").len() + offsets(heard, "two").len() >= 400);
            check(&node.ears.all());
        }
    }

    fn a_room_followed_late_begins_where_it_stands(rig) {
        for n in 0..3 {
            rig.a.publish("lobby", &n.to_string());
        }
        rig.b.follow("lobby");
        let heard = rig.b.ears.all();
        let Some(Heard::Followed { as_of, head, epoch, .. }) = followed(&heard, "lobby") else { panic!() };
        let next = rig.a.publish("lobby", "next");
        assert_eq!((head.offset + 1, *as_of + 1, *epoch), (next.position.offset, next.seq, next.position.epoch));
        rig.b.hears("lobby", &[next.position.offset]);
        assert_eq!(head.seq, next.seq - 1);
    }

    fn following_in_the_middle_of_traffic_misses_and_repeats_nothing(rig) {
        rig.b.follow("steady");
        let names: Vec<String> = (0..20).map(|n| format!("room-{n}")).collect();
        let (a, b) = (&rig.a, &rig.b);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..400 {
                    a.publish(&names[n % names.len()], "x");
                    a.publish("steady", "y");
                }
            });
            scope.spawn(|| {
                for _ in 0..3 {
                    for name in &names {
                        b.broker.follow(&space(), &room(name));
                    }
                    for name in names.iter().take(10) {
                        b.broker.unfollow(&space(), &room(name));
                    }
                    std::thread::yield_now();
                }
            });
        });
        for name in names.iter().skip(10) {
            let last = rig.a.publish(name, "last");
            rig.b.ears.wait("heard the last", |heard| offsets(heard, name).last() == Some(&last.position.offset));
        }
        let heard = rig.b.ears.all();
        check(&heard);
        assert_eq!(offsets(&heard, "steady").len(), 400);
    }

    fn a_room_that_was_left_is_silent(rig) {
        rig.b.follow("lobby");
        rig.b.follow("other");
        rig.b.broker.unfollow(&space(), &room("lobby"));
        rig.b.ears.forget();
        rig.a.publish("other", "first");
        rig.a.publish("lobby", "unheard");
        let last = rig.a.publish("other", "last");
        rig.b.ears.wait("heard the last", |heard| offsets(heard, "other").last() == Some(&last.position.offset));
        // What was on its way when it was left may have been heard; nothing was.
        assert_eq!(offsets(&rig.b.ears.all(), "lobby"), [0u64; 0]);
    }

    fn the_same_message_sent_again_is_published_once(rig) {
        rig.b.follow("lobby");
        let send = |node: &Member, text: &str, key: &str, id: &str| {
            node.place(Outgoing { idempotency: once(key, id), ..message("lobby", text, Class::Persistent) }).unwrap()
        };
        let first = send(&rig.a, "one", "key:1", "id-1");
        assert_eq!(first.duplicate, None);
        let again = send(&rig.b, "another text", "key:1", "id-2");
        assert_eq!(again.duplicate.as_deref(), Some("id-1"));
        assert_eq!((again.position, again.seq, again.timestamp_ms), (first.position, first.seq, first.timestamp_ms));
        let other = send(&rig.a, "two", "key", "id-3");
        assert_eq!(other.duplicate, None);
        rig.b.hears("lobby", &[first.position.offset, other.position.offset]);
    }

    fn a_volatile_message_has_no_place(rig) {
        assert_eq!(rig.a.place(message("lobby", "x", Class::Volatile)), Err(PublishError::Refused));
    }

    fn spaces_never_meet(rig) {
        let spaces = [("acme", "/"), ("acme", "/chat"), ("acme:", "/"), ("other", "/"), ("{acme}", "/"), ("acme", "/}")];
        for (tenant, namespace) in spaces {
            rig.b.broker.follow(&space_of(tenant, namespace), &room("lobby"));
        }
        let all = |heard: &[Heard]| heard.iter().filter(|it| matches!(it, Heard::Followed { .. })).count() == spaces.len();
        rig.b.ears.wait("followed all", all);
        for (tenant, namespace) in spaces {
            let sent = Outgoing { space: space_of(tenant, namespace), ..message("lobby", namespace, Class::Persistent) };
            assert_eq!(rig.a.place(sent).unwrap().seq, 1, "each counts for itself");
        }
        let heard = rig.b.ears.wait("heard all", |heard| messages(heard, "lobby").len() >= spaces.len());
        let mut epochs: Vec<_> = messages(&heard, "lobby").iter().map(|it| it.position.unwrap().epoch.0).collect();
        epochs.sort_unstable();
        epochs.dedup();
        assert_eq!(epochs.len(), spaces.len());
        for (tenant, namespace) in spaces {
            let of = space_of(tenant, namespace);
            let of_space: Vec<_> = messages(&heard, "lobby").into_iter().filter(|it| it.space == of).collect();
            assert_eq!(of_space.len(), 1);
            let key = RoomKey { tenant: of.tenant.clone(), namespace: of.namespace.clone(), room: room("lobby") };
            assert_eq!(rig.b.broker.read(&key, 0, 10).unwrap(), of_space);
        }
    }

    fn signals_come_to_whom_they_are_for_and_not_to_who_sent_them(rig) {
        rig.a.follow("lobby");
        rig.b.follow("lobby");
        let audiences =
            [Audience::Room(space(), room("lobby")), Audience::Nodes, Audience::Node(rig.b.broker.node())];
        for to in &audiences {
            rig.a.broker.signal(to.clone(), Bytes::from_static(b"psst\x00"));
        }
        rig.a.broker.signal(Audience::Room(space(), room("elsewhere")), Bytes::from_static(b"no"));
        let signals = |heard: &[Heard]| heard.iter().filter(|it| matches!(it, Heard::Signal { .. })).count();
        let heard = rig.b.ears.wait("three signals", |heard| signals(heard) >= 3);
        for to in audiences {
            let signal = Heard::Signal { from: rig.a.broker.node(), to, body: Bytes::from_static(b"psst\x00") };
            assert!(heard.contains(&signal), "{signal:?}");
        }
        rig.b.broker.signal(Audience::Nodes, Bytes::from_static(b"end"));
        let heard = rig.a.ears.wait("the answer", |heard| signals(heard) >= 1);
        assert_eq!(signals(&heard), 1, "nobody hears themselves");
    }

    fn leases_of_other_nodes_are_heard_as_they_come_change_and_go(rig) {
        let (a, b) = (rig.a.broker.node(), rig.b.broker.node());
        rig.a.broker.lease(&space(), &room("lobby"), &user("early:bird"), Some(presence("early:bird", 1)));
        rig.a.follow("lobby");
        rig.a.broker.lease(&space(), &room("lobby"), &user("alice"), Some(presence("alice", 1)));
        rig.b.follow("lobby");
        let alice = (a, "alice".to_owned());
        rig.b.ears.wait("heard of alice", |heard| leases(heard, "lobby").contains(&alice));
        rig.b.broker.lease(&space(), &room("lobby"), &user("bob"), Some(presence("bob", 1)));
        rig.a.ears.wait("heard of bob", |heard| leases(heard, "lobby") == [(b, "bob".to_owned())]);
        rig.a.broker.lease(&space(), &room("lobby"), &user("alice"), Some(presence("alice", 2)));
        let changed = |heard: &Heard| {
            matches!(heard, Heard::Leased { info: Some(info), .. } if *info == presence("alice", 2))
        };
        rig.b.ears.wait("heard the change", |heard| heard.iter().any(changed));
        rig.a.broker.lease(&space(), &room("lobby"), &user("alice"), None);
        rig.b.ears.wait("heard alice go", |heard| leases(heard, "lobby") == [(a, "early:bird".to_owned())]);
        let look = wait(rig.a.broker.look(&space(), &room("lobby"))).unwrap();
        let mut there: Vec<_> = look.leases.iter().map(|it| (it.node, it.info.user_id.to_string())).collect();
        there.sort_unstable();
        assert_eq!(there, [(a, "early:bird".to_owned()), (b, "bob".to_owned())]);
    }

    fn a_look_from_outside_changes_nothing(rig) {
        let placed = rig.a.publish("lobby", "x");
        let look = wait(rig.b.broker.look(&space(), &room("nowhere"))).unwrap();
        assert_eq!((look.epoch, look.head.offset), (placed.position.epoch, placed.seq));
        let look = wait(rig.b.broker.look(&space(), &room("lobby"))).unwrap();
        assert_eq!((look.head.offset, look.head.seq), (placed.position.offset, placed.seq));
        assert_eq!(rig.b.ears.all().iter().filter(|it| !matches!(it, Heard::Connected(_))).count(), 0);
        let next = rig.a.publish("lobby", "y");
        assert_eq!(next.position.offset, placed.position.offset + 1);
    }

    fn history_is_read_by_offset_and_by_seq(rig) {
        let mut placed = Vec::new();
        for n in 0..5 {
            placed.push(rig.a.publish("lobby", &n.to_string()));
            rig.a.publish("other", &n.to_string());
        }
        let key = room_key("lobby");
        let read = |found: Vec<Arc<tidegate_types::Publication>>| -> Vec<u64> {
            found.iter().map(|message| message.position.unwrap().offset).collect()
        };
        let all: Vec<u64> = placed.iter().map(|placed| placed.position.offset).collect();
        let history = &rig.b.broker;
        assert_eq!(read(history.read(&key, 0, 100).unwrap()), all);
        assert_eq!(read(history.read(&key, all[1], 2).unwrap()), all[2..4]);
        assert_eq!(read(history.read(&key, all[4], 2).unwrap()), [0u64; 0]);
        assert_eq!(read(history.tail(&key, None, 2).unwrap()), all[3..]);
        assert_eq!(read(history.tail(&key, Some(all[3]), 2).unwrap()), all[1..3]);
        assert_eq!(read(history.tail(&key, Some(all[0]), 2).unwrap()), [0u64; 0]);
        assert_eq!(read(history.tail(&key, Some(all[4] + 100), 100).unwrap()), all);
        assert_eq!(history.bounds(&key), Some((all[0], all[4])));
        assert_eq!(history.bounds(&room_key("nowhere")), None);
        let after = |seq, limit| history.read_seq(&key, seq, limit).unwrap().map(&read);
        assert_eq!(after(placed[1].seq, 100).as_deref(), Some(&all[2..]));
        assert_eq!(after(placed[4].seq, 100).as_deref(), Some(&[][..]));
        assert_eq!(after(placed[1].seq, 1).as_deref(), Some(&all[2..3]));
        let found = history.read(&key, 0, 1).unwrap();
        assert_eq!(found[0].position, Some(placed[0].position));
        assert_eq!(&found[0].data[..], br#"{"text":"0"}"#);
    }

    fn a_reader_from_before_what_is_kept_is_told_so(rig) {
        let placed: Vec<_> = (0..25).map(|n| rig.a.publish("lobby", &n.to_string())).collect();
        let history = &rig.b.broker;
        let kept = history.read(&room_key("lobby"), 0, 100).unwrap();
        assert_eq!(kept.len(), 10, "the newest ten");
        assert_eq!(kept[0].position, Some(placed[15].position));
        assert_eq!(history.read_seq(&room_key("lobby"), placed[13].seq, 100).unwrap(), None);
        assert_eq!(history.read_seq(&room_key("lobby"), placed[14].seq, 100).unwrap().unwrap().len(), 10);
        rig.b.follow("lobby");
        let heard = rig.b.ears.all();
        let Some(Heard::Followed { head, .. }) = followed(&heard, "lobby") else { panic!() };
        assert_eq!(head.trimmed_seq, placed[14].seq);
    }

    fn a_room_keeps_no_more_bytes_than_it_may(rig) {
        let long = "x".repeat(1_500);
        let placed: Vec<_> = (0..6).map(|_| rig.a.publish("lobby", &long)).collect();
        let kept = rig.b.broker.read(&room_key("lobby"), 0, 100).unwrap();
        assert_eq!(kept.len(), 3, "those after each have less than 4,000 bytes");
        let history = &rig.b.broker;
        assert_eq!(history.read_seq(&room_key("lobby"), placed[1].seq, 100).unwrap(), None);
        assert_eq!(history.read_seq(&room_key("lobby"), placed[2].seq, 100).unwrap().unwrap().len(), 3);
    }

    fn a_session_is_claimed_by_one(rig) {
        rig.a.publish("lobby", "x");
        rig.a.save(session("pid-1", None, &["lobby"]));
        rig.a.ears.wait_saved("pid-1", 1);
        assert_eq!(rig.b.claim("pid-1", "mallory").unwrap(), None, "somebody else's");
        assert_eq!(rig.b.claim("pid-2", "alice").unwrap(), None, "no such session");
        let claimed = rig.b.claim("pid-1", "alice").unwrap().expect("claimed");
        assert_eq!(claimed.record, session("pid-1", None, &["lobby"]));
        assert_eq!(claimed.was_live_on, Some(rig.a.broker.node()));
        assert_eq!(claimed.as_of.seq, 1);
        assert_eq!(rig.b.claim("pid-1", "alice").unwrap(), None, "claimed already");
        assert_eq!(rig.a.claim("pid-1", "alice").unwrap(), None, "claimed already");
    }

    fn who_has_lost_a_session_cannot_store_or_drop_it(rig) {
        rig.a.save(session("pid-1", None, &["one"]));
        rig.a.ears.wait_saved("pid-1", 1);
        rig.b.claim("pid-1", "alice").unwrap().expect("claimed");
        rig.b.save(session("pid-1", None, &["two"]));
        rig.b.ears.wait_saved("pid-1", 1);
        rig.a.save(session("pid-1", None, &["one", "stale"]));
        rig.a.ears.wait_saved("pid-1", 2);
        rig.a.broker.submit(Write::DropSession(Pid::from("pid-1"))).unwrap();
        rig.a.save(session("pid-9", None, &[]));
        rig.a.ears.wait_saved("pid-9", 1);
        let claimed = rig.b.claim("pid-1", "alice").unwrap().expect("still there");
        assert_eq!(claimed.record.rooms, session("pid-1", None, &["two"]).rooms);
    }

    fn a_session_that_waits_for_its_client_has_no_node(rig) {
        let later = system_clock()() + 60_000;
        rig.a.save(session("pid-1", None, &[]));
        rig.a.save(session("pid-1", Some(later), &["lobby"]));
        rig.a.ears.wait_saved("pid-1", 2);
        let claimed = rig.b.claim("pid-1", "alice").unwrap().expect("claimed");
        assert_eq!((claimed.was_live_on, claimed.record), (None, session("pid-1", Some(later), &["lobby"])));
        rig.a.save(session("pid-2", None, &[]));
        rig.a.broker.submit(Write::DropSession(Pid::from("pid-2"))).unwrap();
        rig.a.save(session("pid-3", Some(1), &[]));
        rig.a.ears.wait_saved("pid-3", 1);
        assert_eq!(rig.b.claim("pid-2", "alice").unwrap(), None, "dropped");
        assert_eq!(rig.b.claim("pid-3", "alice").unwrap(), None, "expired");
    }

    fn values_are_kept_once_replaced_taken_and_listed(rig) {
        let name = |kind, text: &str| Name { kind, text: text.into() };
        let value = Bytes::from_static(b"\x00value");
        let ticket = || name(Kind::Ticket, "t:1{}");
        assert_eq!(wait(rig.a.broker.keep(ticket(), value.clone(), 60_000)).unwrap(), None);
        assert_eq!(wait(rig.b.broker.keep(ticket(), Bytes::from_static(b"other"), 60_000)).unwrap(), Some(value.clone()));
        assert_eq!(wait(rig.b.broker.get(ticket())).unwrap(), Some(value.clone()));
        assert_eq!(wait(rig.b.broker.get(name(Kind::Replay, "t:1{}"))).unwrap(), None, "kinds are apart");
        assert_eq!(wait(rig.b.broker.take(ticket())).unwrap(), Some(value.clone()));
        assert_eq!(wait(rig.a.broker.take(ticket())).unwrap(), None, "taken");
        for text in ["a", "b", "names"] {
            wait(rig.a.broker.set(name(Kind::Revocation, text), Some(value.clone()), 60_000)).unwrap();
        }
        wait(rig.a.broker.set(name(Kind::Revocation, "a"), Some(Bytes::from_static(b"new")), 60_000)).unwrap();
        wait(rig.a.broker.set(name(Kind::Revocation, "b"), None, 60_000)).unwrap();
        let mut listed = wait(rig.b.broker.list(Kind::Revocation, 100)).unwrap();
        listed.sort();
        let expected = [("a".to_owned(), Bytes::from_static(b"new")), ("names".to_owned(), value)];
        assert_eq!(listed, expected);
        assert_eq!(wait(rig.b.broker.list(Kind::Revocation, 1)).unwrap().len(), 1);
        assert_eq!(wait(rig.b.broker.list(Kind::Ticket, 100)).unwrap(), []);
    }

    fn a_new_space_is_opened_the_same_for_all(rig) {
        let key = space_of("new", "/");
        let start = rig.a.broker.open_space(&key).unwrap();
        assert_eq!((start.last_seq, start.rooms.len()), (0, 0));
        let placed = rig.b.place(Outgoing { space: key.clone(), ..message("lobby", "x", Class::Persistent) }).unwrap();
        assert_eq!((placed.position.epoch, placed.seq), (start.epoch, 1));
        let again = rig.b.broker.open_space(&key).unwrap();
        assert_eq!((again.epoch, again.last_seq), (start.epoch, 1));
    }

    fn starting_over_misses_nothing(rig) {
        rig.b.follow("lobby");
        rig.b.follow("quiet");
        for round in 0..10 {
            rig.b.broker.catch_up(&space());
            // Fewer than a room keeps: what is read again must still be there.
            for n in 0..5 {
                rig.a.publish("lobby", &format!("{round} {n}"));
            }
            rig.b.ears.wait("heard it all", |heard| offsets(heard, "lobby").len() >= 5 * (round + 1));
        }
        let heard = rig.b.ears.wait("caught up", |heard| {
            let touch = |heard: &&Heard| matches!(heard, Heard::OutOfTouch { .. } | Heard::CaughtUp { .. });
            matches!(heard.iter().rev().find(touch), Some(Heard::CaughtUp { .. }))
        });
        check(&heard);
        assert!(heard.iter().any(|heard| matches!(heard, Heard::CaughtUp { .. })));
        assert_eq!(offsets(&heard, "lobby").len(), 50);
    }
}

/// Only a real node dies in a way that the broker without Redis has another switch for.
#[test]
fn the_leases_of_a_dead_node_end_at_once() {
    let server = RedisServer::start();
    let (_dying, a) = redis_node(standalone(&server), 1, limits());
    let (survivor, b) = redis_node(standalone(&server), 2, limits());
    a.until_connected();
    b.until_connected();
    for name in ["one", "two"] {
        b.follow(name);
        for n in 0..5 {
            let user = format!("user-{n}");
            a.broker.lease(&space(), &room(name), &broker_rig::user(&user), Some(presence(&user, 1)));
        }
        b.broker.lease(&space(), &room(name), &user("bob"), Some(presence("bob", 1)));
        b.ears.wait("heard of them", |heard| leases(heard, name).len() == 5);
    }
    let seat = |member: &Member| wait(member.broker.seat(&space(), Some(&user("ada")), 1, Some(1))).unwrap();
    assert!(seat(&a) && !seat(&b));
    wait(survivor.end_leases_of(NodeId(1))).unwrap();
    assert!(seat(&b), "a dead node holds nobody's place");
    let heard = b.ears.wait("gone", |heard| heard.contains(&Heard::NodeGone(NodeId(1))));
    assert_eq!(heard.iter().filter(|it| matches!(it, Heard::NodeGone(_))).count(), 1);
    for name in ["one", "two"] {
        assert_eq!(leases(&heard, name), [], "each room was told, before it was said that the node is gone");
        let look = wait(b.broker.look(&space(), &room(name))).unwrap();
        assert_eq!(look.leases.len(), 1, "bob's own");
    }
    assert_eq!(server.cli(&["KEYS", "*held:0000000000000001*"]).trim(), "");
    assert_eq!(server.cli(&["KEYS", "*seated:0000000000000001*"]).trim(), "");
    assert_eq!(server.cli(&["KEYS", "*node:0000000000000001*"]).trim(), "");
}
