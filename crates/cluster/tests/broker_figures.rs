//! What a message costs: `cargo nextest run -p tidegate-cluster --test broker_figures --run-ignored all --no-capture`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, reason = "tests")]

mod broker_rig;

use std::collections::VecDeque;
use std::time::Instant;

use broker_rig::{Member, message, redis_node, room, space, standalone, wait};
use tidegate_cluster::Outgoing;
use tidegate_cluster::redis::BrokerSettings;
use tidegate_testkit::redis::RedisServer;
use tidegate_types::Class;

/// A field of `INFO`.
fn info(server: &RedisServer, section: &str, field: &str) -> f64 {
    let text = server.cli(&["INFO", section]);
    let line = text.lines().find_map(|line| line.trim().strip_prefix(field)?.strip_prefix(':').map(str::to_owned));
    let line = line.unwrap_or_default();
    line.split("usec_per_call=")
        .nth(1)
        .map_or_else(|| line.parse(), |rest| rest.split(',').next().unwrap().parse())
        .unwrap()
}

fn flood(node: &Member, count: usize, window: usize, make: impl Fn(usize) -> Outgoing) {
    let mut waiting = VecDeque::new();
    for n in 0..count {
        waiting.push_back(node.broker.publish(make(n)));
        if waiting.len() >= window {
            let answer: tokio::sync::oneshot::Receiver<_> = waiting.pop_front().unwrap();
            answer.blocking_recv().unwrap().unwrap();
        }
    }
    for answer in waiting {
        answer.blocking_recv().unwrap().unwrap();
    }
}

#[test]
#[ignore = "a measurement"]
fn what_a_message_costs_redis() {
    let text = "x".repeat(117);
    for (what, class, followers) in [
        ("recoverable, nobody follows", Class::Recoverable, 0),
        ("persistent, nobody follows", Class::Persistent, 0),
        ("persistent, three nodes follow", Class::Persistent, 3),
    ] {
        let server = RedisServer::start();
        let node = |id| redis_node(standalone(&server), id, BrokerSettings::default()).1;
        let nodes: Vec<_> = (1..=3).map(node).collect();
        for node in &nodes {
            node.until_connected();
            (0..10).take(followers * 10).for_each(|n| node.follow(&format!("room-{n}")));
        }
        flood(&nodes[0], 1_000, 64, |n| message(&format!("room-{}", n % 10), &text, class));
        server.cli(&["CONFIG", "RESETSTAT"]);
        let cpu = || info(&server, "cpu", "used_cpu_user") + info(&server, "cpu", "used_cpu_sys");
        let (before, begin, count) = (cpu(), Instant::now(), 100_000);
        flood(&nodes[0], count, 2_000, |n| message(&format!("room-{}", n % 10), &text, class));
        let (after, time) = (cpu(), begin.elapsed());
        let script = info(&server, "commandstats", "cmdstat_evalsha");
        println!(
            "{what}: {:.0} publishes/s at full speed; Redis {:.1} µs of CPU per message, {script:.1} µs in the script",
            count as f64 / time.as_secs_f64(),
            (after - before) * 1e6 / count as f64,
        );
        let begin = Instant::now();
        for n in 0..2_000 {
            wait_for(&nodes[0], message(&format!("room-{}", n % 10), &text, class));
        }
        println!("{what}: {:.0} µs per publish, one after the other", begin.elapsed().as_micros() as f64 / 2e3);
    }
}

fn wait_for(node: &Member, message: Outgoing) {
    node.broker.publish(message).blocking_recv().unwrap().unwrap();
}

#[test]
#[ignore = "a measurement"]
fn what_rooms_and_messages_take_in_redis() {
    let text = "x".repeat(117);
    let server = RedisServer::start();
    let (_, node) = redis_node(standalone(&server), 1, BrokerSettings::default());
    node.until_connected();
    let used = || info(&server, "memory", "used_memory");
    let rooms = 1_000;
    wait_for(&node, message("warm", &text, Class::Persistent));
    let empty = used();
    for n in 0..rooms {
        node.broker.follow(&space(), &room(&format!("followed-{n}")));
    }
    node.follow(&format!("followed-{}", rooms - 1));
    println!("a room that is followed by one node: {:.0} bytes", (used() - empty) / f64::from(rooms));
    for (class, many) in
        [(Class::Recoverable, 1), (Class::Persistent, 1), (Class::Persistent, 20), (Class::Persistent, 100)]
    {
        let before = used();
        let count = rooms as usize * many;
        let name = |n: usize| format!("{class:?}-{many}-{}", n % rooms as usize);
        flood(&node, count, 1_000, |n| message(&name(n), &text, class));
        println!(
            "{many} {class:?} messages of 128 bytes in each room: {:.0} bytes per room, {:.0} per message",
            (used() - before) / f64::from(rooms),
            (used() - before) / count as f64
        );
    }
    let before = used();
    for n in 0..1_000 {
        let record = tidegate_hub::SessionRecord {
            pid: tidegate_hub::Pid::from(format!("{n:027}")),
            ..broker_rig::session("", None, &["one", "two", "three"])
        };
        node.save(record);
    }
    node.save(broker_rig::session("last", None, &[]));
    node.ears.wait_saved("last", 1);
    println!("a session in three rooms: {:.0} bytes", (used() - before) / 1e3);
    let before = used();
    for n in 0..1_000 {
        let user = broker_rig::user(&format!("user-{n}"));
        node.broker.lease(
            &space(),
            &room("crowd"),
            &user,
            Some(broker_rig::presence(user.as_str(), 1_700_000_000_000)),
        );
    }
    node.broker.lease(&space(), &room("crowd"), &broker_rig::user("x"), None);
    while wait(node.broker.look(&space(), &room("crowd"))).unwrap().leases.len() < 1_000 {}
    println!("a lease: {:.0} bytes", (used() - before) / 1e3);
}
