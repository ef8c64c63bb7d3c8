//! What the broker's work costs Redis, in microseconds of its one core: `cargo run -p tidegate-cluster --example cost`.
//!
//! It starts a `redis-server` of its own and real brokers, and divides the server's CPU time (`INFO cpu`) by what was done.
//! The server is the release that Debian builds, so the figures do not depend on how this program was built; they are rough
//! to some 20 % on a machine that does other things. docs/scaling.md is made of them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a measurement")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_cluster::redis::{Address, BrokerSettings, RedisBroker, RedisSettings, Topology};
use tidegate_cluster::{Broker, Heard, Outgoing};
use tidegate_testkit::redis::RedisServer;
use tidegate_types::{Class, NodeId, PresenceInfo, RoomName, SpaceKey, Status, UserId};

const MESSAGES: u64 = 20_000;
const LEASES: u64 = 10_000;

struct Node {
    broker: RedisBroker,
    heard: Arc<AtomicU64>,
    followed: Arc<AtomicU64>,
}

fn node(server: &RedisServer, id: u64) -> Node {
    let (heard, followed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (messages, rooms) = (Arc::clone(&heard), Arc::clone(&followed));
    let on_heard = move |heard: Heard| {
        messages.fetch_add(u64::from(matches!(heard, Heard::Published(_) | Heard::Leased { .. })), Ordering::Relaxed);
        rooms.fetch_add(u64::from(matches!(heard, Heard::Followed { .. })), Ordering::Relaxed);
        None
    };
    let address: Address = server.address().parse().unwrap();
    let broker = RedisBroker::start(
        RedisSettings::new(Topology::Standalone(vec![address])),
        BrokerSettings::default(),
        NodeId(id),
        tidegate_metrics::Metrics::new(),
        Arc::new(on_heard),
        Arc::new(|_| {}),
    )
    .unwrap();
    let node = Node { broker, heard, followed };
    until("connected", || node.broker.is_connected());
    node
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Microseconds of CPU that the server has used.
fn cpu(server: &RedisServer) -> f64 {
    let info = server.cli(&["INFO", "cpu"]);
    let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap();
    (of("used_cpu_sys:") + of("used_cpu_user:")) * 1e6
}

fn main() {
    let server = RedisServer::start();
    println!(
        "{}",
        server.cli(&["INFO", "server"]).lines().find(|line| line.starts_with("redis_version")).unwrap_or("")
    );
    let space = Arc::new(SpaceKey { tenant: "acme".try_into().unwrap(), namespace: "/".try_into().unwrap() });
    let publisher = node(&server, 1);
    let payload = Bytes::from(format!("{{\"text\":\"{}\"}}", "x".repeat(100)));
    let mut rows = Vec::new();
    let mut followers: Vec<Node> = Vec::new();
    for count in [0u64, 1, 4, 16] {
        let room = RoomName::try_from(format!("room-{count}")).unwrap();
        while (followers.len() as u64) < count {
            followers.push(node(&server, 10 + followers.len() as u64));
        }
        let before: Vec<u64> = followers.iter().map(|of| of.followed.load(Ordering::Relaxed)).collect();
        followers.iter().for_each(|of| of.broker.follow(&space, &room));
        until("followed", || {
            followers.iter().zip(&before).all(|(of, before)| of.followed.load(Ordering::Relaxed) > *before)
        });
        let heard: Vec<u64> = followers.iter().map(|of| of.heard.load(Ordering::Relaxed)).collect();
        let (began, used) = (Instant::now(), cpu(&server));
        let mut answers = std::collections::VecDeque::new();
        for _ in 0..MESSAGES {
            answers.push_back(publisher.broker.publish(Outgoing {
                space: Arc::clone(&space),
                room: room.clone(),
                event: "room:message".try_into().unwrap(),
                data: payload.clone(),
                attachments: Arc::new([]),
                class: Class::Persistent,
                idempotency: None,
            }));
            if answers.len() >= 256 {
                answers.pop_front().unwrap().blocking_recv().unwrap().unwrap();
            }
        }
        answers.into_iter().for_each(|answer| drop(answer.blocking_recv().unwrap().unwrap()));
        until("heard", || followers.iter().zip(&heard).all(|(of, h)| of.heard.load(Ordering::Relaxed) >= h + MESSAGES));
        let per = (cpu(&server) - used) / MESSAGES as f64;
        let rate = MESSAGES as f64 / began.elapsed().as_secs_f64();
        println!("publish, {count:>2} following nodes: {per:>6.1} us of Redis each ({rate:.0} a second here)");
        rows.push((count as f64, per));
    }
    let (first, last) = (rows[0], rows[rows.len() - 1]);
    println!("of that for each following node: {:.2} us", (last.1 - first.1) / (last.0 - first.0));
    drop(followers);
    let (used, room) = (cpu(&server), RoomName::try_from("leases").unwrap());
    let own = node(&server, 99);
    own.broker.follow(&space, &room);
    until("followed", || own.followed.load(Ordering::Relaxed) >= 1);
    for n in 0..LEASES {
        let user = UserId::try_from(format!("user-{n}")).unwrap();
        let info = PresenceInfo {
            user_id: user.clone(),
            username: None,
            status: Status::Online,
            last_seen: 0,
            metadata: None,
            active_connections: 1,
            current_activity: None,
            custom_status: None,
        };
        publisher.broker.lease(&space, &room, &user, Some(info));
    }
    until("leased", || own.heard.load(Ordering::Relaxed) >= LEASES);
    println!(
        "lease (a user's first or last connection of a node in a room), one following node: {:.1} us",
        (cpu(&server) - used) / LEASES as f64
    );
    let (used, from) = (cpu(&server), own.followed.load(Ordering::Relaxed));
    let rooms = 5_000u64;
    for n in 0..rooms {
        own.broker.follow(&space, &RoomName::try_from(format!("one-of-many-{n}")).unwrap());
    }
    until("followed", || own.followed.load(Ordering::Relaxed) >= from + rooms);
    println!("following one more room: {:.1} us", (cpu(&server) - used) / rooms as f64);
    let memory = server.cli(&["INFO", "memory"]);
    println!("{}", memory.lines().find(|line| line.starts_with("used_memory_human")).unwrap_or(""));
}
