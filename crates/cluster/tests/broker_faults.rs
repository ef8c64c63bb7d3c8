//! Redis dies, stalls, fails over or cuts connections under load: every message that was acknowledged is heard by every node
//! that follows its room, once and in order, or the loss is told.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, reason = "tests")]

mod broker_rig;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use broker_rig::{
    HANG, Member, check, leases, message, messages, presence, redis_node, room, session, space, standalone, stands,
    user, wait,
};
use tidegate_cluster::redis::{BrokerSettings, RedisSettings, Topology};
use tidegate_cluster::{Heard, Placed};
use tidegate_testkit::redis::{Aof, RedisCluster, RedisOptions, RedisSentinel, RedisServer};
use tidegate_types::{Class, NodeId};

const ROOMS: [&str; 3] = ["one", "two", "three"];

fn keeps_much() -> BrokerSettings {
    BrokerSettings { max_messages_per_room: 20_000, ..BrokerSettings::default() }
}

/// Two nodes that follow the rooms, and what was acknowledged.
struct Drill {
    a: Member,
    b: Member,
    acknowledged: Mutex<Vec<(String, String, Placed)>>,
    refused: AtomicU64,
    stop: AtomicBool,
}

impl Drill {
    fn on(settings: impl Fn() -> RedisSettings) -> Self {
        let node = |id| redis_node(settings(), id, keeps_much()).1;
        let (a, b) = (node(1), node(2));
        for node in [&a, &b] {
            node.until_connected();
            for name in ROOMS {
                node.follow(name);
            }
        }
        let (refused, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { a, b, acknowledged: Mutex::default(), refused, stop }
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until so many more were acknowledged.
    #[track_caller]
    fn go_on(&self, more: usize) {
        let (from, until) = (self.acknowledged(), Instant::now() + HANG);
        while self.acknowledged() < from + more {
            assert!(Instant::now() < until, "nothing is acknowledged any more; {} so far", self.acknowledged());
            std::thread::yield_now();
        }
    }

    /// Publishes on both nodes while `faults` happen, then gives an account.
    #[track_caller]
    fn run(&self, faults: impl FnOnce()) {
        std::thread::scope(|scope| {
            for (id, node) in [(1, &self.a), (2, &self.b)] {
                scope.spawn(move || self.load(id, node));
            }
            self.go_on(200);
            faults();
            self.go_on(200);
            self.stop.store(true, Ordering::SeqCst);
        });
        for name in ROOMS {
            let last = loop {
                if let Ok(placed) = self.a.place(message(name, &format!("last of {name}"), Class::Persistent)) {
                    break placed;
                }
            };
            for node in [&self.a, &self.b] {
                // Or told that everything up to it is lost: in a new epoch rooms begin at their heads.
                node.ears.wait("heard the last", |heard| stands(heard, name) == Some(last.position.offset));
            }
        }
        self.account();
    }

    fn load(&self, id: u64, node: &Member) {
        let mut n = 0;
        let mut waiting = Vec::new();
        while !self.stop.load(Ordering::SeqCst) {
            n += 1;
            let class = if n % 3 == 0 { Class::Recoverable } else { Class::Persistent };
            let (name, text) = (ROOMS[n % ROOMS.len()], format!("{id}-{n}"));
            waiting.push((name, text.clone(), node.broker.publish(message(name, &text, class))));
            if waiting.len() >= 8 {
                for (name, text, answer) in waiting.drain(..) {
                    match wait(answer) {
                        Ok(placed) => self.acknowledged.lock().unwrap().push((name.into(), text, placed)),
                        Err(_) => {
                            self.refused.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            }
            // A few hundred messages a second are load enough to hit every moment, and leave the machine to the others.
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    #[track_caller]
    fn account(&self) {
        let mut placed: HashMap<(u64, String, u64), String> = HashMap::new();
        for node in [&self.a, &self.b] {
            let heard = node.ears.all();
            check(&heard);
            let mut texts = HashSet::new();
            for name in ROOMS {
                let gaps = heard.iter().any(|heard| match heard {
                    Heard::CaughtUp { rooms, .. } => rooms.iter().any(|room| room.gap && room.room.as_str() == name),
                    _ => false,
                });
                for message in messages(&heard, name) {
                    let position = message.position.unwrap();
                    let text = String::from_utf8(message.data.to_vec()).unwrap();
                    assert!(texts.insert(text.clone()), "{text} twice");
                    let at = (position.epoch.0, name.to_owned(), position.offset);
                    let other = placed.entry(at).or_insert_with(|| text.clone());
                    assert_eq!(*other, text, "two messages in one place");
                }
                for (_, text, at) in self.acknowledged.lock().unwrap().iter().filter(|it| it.0 == name) {
                    let text = format!("{{\"text\":\"{text}\"}}");
                    assert!(
                        texts.contains(&text) || gaps,
                        "{text} at {at:?} was acknowledged, not heard, not told as lost"
                    );
                }
            }
        }
    }

    fn epochs(&self) -> usize {
        let all = self.a.ears.all();
        let told = all.iter().filter_map(|heard| match heard {
            Heard::Followed { epoch, .. } | Heard::CaughtUp { epoch, .. } => Some(epoch.0),
            _ => None,
        });
        told.collect::<HashSet<_>>().len()
    }

    fn gaps(&self) -> usize {
        let count = |node: &Member| {
            let all = node.ears.all();
            let rooms = all.iter().filter_map(|heard| match heard {
                Heard::CaughtUp { rooms, .. } => Some(rooms.iter().filter(|room| room.gap).count()),
                _ => None,
            });
            rooms.sum::<usize>()
        };
        count(&self.a) + count(&self.b)
    }
}

#[test]
fn cut_subscriptions_and_calls_leave_no_hole_and_no_repetition() {
    let server = RedisServer::start();
    let drill = Drill::on(|| standalone(&server));
    drill.run(|| {
        for _ in 0..5 {
            for kind in ["pubsub", "normal"] {
                for client in server.clients(kind).iter().take(1) {
                    server.kill_client(client);
                }
                drill.go_on(50);
            }
        }
    });
    assert_eq!((drill.gaps(), drill.epochs()), (0, 1), "nothing was lost, nothing is told as lost");
}

#[test]
fn a_killed_redis_that_kept_everything_loses_nothing() {
    let mut server = RedisServer::with(RedisOptions { aof: Aof::Always, ..RedisOptions::default() });
    let settings = standalone(&server);
    let drill = Drill::on(|| settings.clone());
    drill.run(|| {
        for _ in 0..2 {
            server.kill_9();
            server.restart();
            drill.go_on(100);
        }
    });
    assert_eq!((drill.gaps(), drill.epochs()), (0, 1), "nothing was lost, nothing is told as lost");
}

#[test]
fn a_killed_redis_that_kept_nothing_begins_a_new_epoch_and_every_room_is_told() {
    let mut server = RedisServer::start();
    let settings = standalone(&server);
    let drill = Drill::on(|| settings.clone());
    drill.run(|| {
        server.kill_9();
        server.restart();
    });
    assert_eq!(drill.epochs(), 2);
    assert_eq!(drill.gaps(), 6, "three rooms on two nodes");
}

/// What the append-only file had not on disk is lost: here, all after a moment, by putting an older file back.
#[test]
fn a_redis_that_lost_its_last_messages_is_found_out() {
    let mut server = RedisServer::with(RedisOptions { aof: Aof::Always, ..RedisOptions::default() });
    let settings = standalone(&server);
    let drill = Drill::on(|| settings.clone());
    let folder = server.folder().join("appendonlydir");
    let file = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.to_string_lossy().contains(".incr.")).unwrap();
    drill.run(|| {
        let then = std::fs::read(&file).unwrap();
        drill.go_on(100);
        server.kill_9();
        std::fs::write(&file, then).unwrap();
        server.restart();
    });
    assert_eq!(drill.epochs(), 2, "{}", server.log());
    assert_eq!(drill.gaps(), 6);
}

#[test]
fn everything_is_flushed_and_the_nodes_find_out() {
    let server = RedisServer::start();
    let drill = Drill::on(|| standalone(&server));
    drill.run(|| {
        server.cli(&["FLUSHALL"]);
    });
    assert_eq!(drill.epochs(), 2);
}

#[test]
fn a_stopped_redis_refuses_and_loses_nothing() {
    let server = RedisServer::start();
    let drill = Drill::on(|| standalone(&server));
    drill.run(|| {
        server.stop();
        let stopped = Instant::now();
        drill.a.ears.wait("noticed", |heard| heard.contains(&Heard::Connected(false)));
        let refused = drill.refused.load(Ordering::SeqCst);
        while drill.refused.load(Ordering::SeqCst) < refused + 10 || stopped.elapsed() < Duration::from_secs(3) {
            std::thread::yield_now();
        }
        server.cont();
    });
    assert_eq!((drill.gaps(), drill.epochs()), (0, 1), "nothing was lost, nothing is told as lost");
}

#[test]
fn a_failover_by_sentinel_loses_nothing_without_a_word() {
    let mut sentinel = RedisSentinel::start(&RedisOptions::default(), 3, None);
    let sentinels: Vec<_> = sentinel.sentinels.iter().map(|it| it.address().parse().unwrap()).collect();
    let drill = Drill::on(|| {
        let login = tidegate_cluster::redis::Login::default();
        let (sentinels, service) = (sentinels.clone(), RedisSentinel::SERVICE.into());
        RedisSettings::new(Topology::Sentinel { sentinels, service, login, tls: false })
    });
    drill.run(|| sentinel.servers[0].kill_9());
}

#[test]
fn a_failover_in_a_cluster_loses_nothing_without_a_word() {
    let mut cluster = RedisCluster::start(&RedisOptions::default(), true);
    let seeds: Vec<_> = cluster.nodes.iter().map(|node| node.address().parse().unwrap()).collect();
    let drill = Drill::on(|| RedisSettings::new(Topology::Cluster(seeds.clone())));
    let slot = tidegate_cluster::redis::Slot::of(b"{acme:/}").index();
    drill.run(|| cluster.nodes[RedisCluster::owner(slot)].kill_9());
}

#[test]
fn thousands_of_rooms_are_followed_and_heard_again_after_a_cut() {
    let server = RedisServer::start();
    let node = |id| redis_node(standalone(&server), id, keeps_much()).1;
    // One after the other: the server lists connections in this order.
    let a = node(1);
    a.until_connected();
    let b = node(2);
    b.until_connected();
    let names: Vec<String> = (0..3_000).map(|n| format!("room-{n}")).collect();
    for name in &names {
        b.broker.follow(&space(), &room(name));
    }
    let count = |heard: &[Heard]| heard.iter().filter(|heard| matches!(heard, Heard::Followed { .. })).count();
    b.ears.wait("followed all", |heard| count(heard) == names.len());
    // The second one's only: the first goes on publishing.
    server.kill_client(&server.clients("pubsub")[1]);
    for name in names.iter().step_by(10) {
        a.publish(name, "meanwhile");
    }
    b.ears.wait("heard all", |heard| {
        let live = heard.iter().filter(|heard| matches!(heard, Heard::Published(_))).count();
        let missed = heard.iter().map(|heard| match heard {
            Heard::CaughtUp { rooms, .. } => rooms.iter().map(|room| room.missed.len()).sum(),
            _ => 0,
        });
        live + missed.sum::<usize>() == names.len() / 10
    });
    check(&b.ears.all());
}

#[test]
fn an_entry_that_is_not_ours_does_not_stop_a_room() {
    let server = RedisServer::start();
    let settings = BrokerSettings { ttl_ms: 50, ..BrokerSettings::default() };
    let (_, a) = redis_node(standalone(&server), 1, settings);
    a.until_connected();
    a.publish("one", "first");
    server.cli(&["XADD", "tidegate:{acme:/}:log:one", "1-5", "m", "garbage"]);
    let until = Instant::now() + HANG;
    let mut last = 0;
    // Until the log has been looked through, and the entry is gone with what is too old.
    while server.cli(&["XRANGE", "tidegate:{acme:/}:log:one", "-", "+"]).contains("garbage") {
        let placed = a.publish("one", "next");
        assert_eq!(placed.position.offset, if last == 0 { placed.position.offset } else { last + 1 });
        last = placed.position.offset;
        assert!(Instant::now() < until, "never removed");
    }
}

#[test]
fn after_redis_has_forgotten_them_leases_are_said_again() {
    let mut server = RedisServer::start();
    let settings = standalone(&server);
    let node = |id| redis_node(settings.clone(), id, keeps_much()).1;
    let (a, b) = (node(1), node(2));
    for node in [&a, &b] {
        node.until_connected();
        node.follow("one");
    }
    let there = [(NodeId(1), "alice".to_owned())];
    a.broker.lease(&space(), &room("one"), &user("alice"), Some(presence("alice", 1)));
    a.broker.lease(&space(), &room("one"), &user("bob"), Some(presence("bob", 1)));
    b.ears.wait("heard of both", |heard| leases(heard, "one").len() == 2);
    server.kill_9();
    a.ears.wait("noticed", |heard| heard.contains(&Heard::Connected(false)));
    a.broker.lease(&space(), &room("one"), &user("bob"), None);
    server.restart();
    let came_back = |heard: &[Heard]| heard.iter().any(|heard| matches!(heard, Heard::CaughtUp { .. }));
    b.ears.wait("alice again, and not bob", |heard| came_back(heard) && leases(heard, "one") == there);
    assert!(server.cli(&["SMEMBERS", "tidegate:node:0000000000000001:spaces"]).contains("acme"));
}

#[test]
fn sessions_wait_for_redis_and_the_newest_record_is_the_one_that_stays() {
    let mut server = RedisServer::with(RedisOptions { aof: Aof::Always, ..RedisOptions::default() });
    let settings = standalone(&server);
    let (a, b) = (redis_node(settings.clone(), 1, keeps_much()).1, redis_node(settings, 2, keeps_much()).1);
    a.until_connected();
    a.save(session("pid", None, &["one"]));
    a.ears.wait_saved("pid", 1);
    server.kill_9();
    a.ears.wait("noticed", |heard| heard.contains(&Heard::Connected(false)));
    a.save(session("pid", None, &["two"]));
    a.save(session("pid", None, &["three"]));
    assert!(a.claim("pid", "alice").is_err(), "no guess");
    server.restart();
    a.ears.wait_saved("pid", 3);
    b.until_connected();
    let claimed = loop {
        if let Ok(claimed) = b.claim("pid", "alice") {
            break claimed.expect("there");
        }
    };
    assert_eq!(claimed.record, session("pid", None, &["three"]));
}

#[test]
fn what_is_not_ours_is_refused_and_harms_nothing() {
    let server = RedisServer::start();
    let node = |id| redis_node(standalone(&server), id, keeps_much()).1;
    let (a, b) = (node(1), node(2));
    for node in [&a, &b] {
        node.until_connected();
        for name in ROOMS {
            node.follow(name);
        }
    }
    let first = a.publish("one", "first");
    // Bytes of nobody, of another version, of a message that is cut off, and a position from nowhere.
    for bytes in ["hello", "\u{2}\u{1}later", "\u{1}\u{2}", "", "\u{1}\u{9}x"] {
        for channel in ["tidegate:{acme:/}:ch:one", "tidegate:all", "tidegate:node:0000000000000002"] {
            server.cli(&["SPUBLISH", channel, bytes]);
        }
    }
    let second = a.publish("one", "second");
    b.hears("one", &[first.position.offset, second.position.offset]);
    assert!(b.broker.stats().corrupt >= 10, "{:?}", b.broker.stats());

    // Other types under our keys: what cannot be kept is refused; other rooms are not touched by it.
    server.cli(&["DEL", "tidegate:{acme:/}:log:two"]);
    server.cli(&["SET", "tidegate:{acme:/}:log:two", "x"]);
    server.cli(&["DEL", "tidegate:{acme:/}:room:three"]);
    server.cli(&["HSET", "tidegate:{acme:/}:room:three", "a", "b"]);
    server.cli(&["SET", "tidegate:{acme:/}:who:one", "x"]);
    server.cli(&["LPUSH", "tidegate:{acme:/}:sess:pid", "x"]);
    for name in ["two", "three"] {
        let refused = a.place(message(name, "x", Class::Persistent));
        assert_eq!(refused, Err(tidegate_cluster::PublishError::Refused), "{name}");
    }
    assert_eq!(b.claim("pid", "alice"), Ok(None));
    let third = a.publish("one", "third");
    b.ears.wait("goes on", |heard| messages(heard, "one").len() == 3);
    assert_eq!(third.position.offset, second.position.offset + 1);

    // An entry of the log that cannot be read: a reader is told that something is missing.
    server.cli(&["DEL", "tidegate:{acme:/}:who:one"]);
    server.cli(&["XADD", "tidegate:{acme:/}:log:one", "9999999-1", "m", "garbage"]);
    let read = a.broker.read(&broker_rig::room_key("one"), 0, 100).unwrap();
    assert_eq!(read.len(), 3);
    assert_eq!(a.broker.read_seq(&broker_rig::room_key("one"), first.seq, 100).unwrap(), None);
    check(&b.ears.all());
}

#[test]
fn while_redis_is_away_everything_is_refused_at_once() {
    let mut server = RedisServer::start();
    let (_, a) = redis_node(standalone(&server), 1, keeps_much());
    a.until_connected();
    a.publish("one", "x");
    server.kill_9();
    a.ears.wait("noticed", |heard| heard.contains(&Heard::Connected(false)));
    for _ in 0..1_000 {
        assert_eq!(a.place(message("one", "x", Class::Persistent)), Err(tidegate_cluster::PublishError::Unavailable));
    }
    assert!(a.broker.open_space(&broker_rig::space_of("new", "/")).is_err());
    assert!(wait(a.broker.look(&space(), &room("one"))).is_err());
    assert!(a.broker.read(&broker_rig::room_key("one"), 0, 1).is_err());
}
