//! Nodes that find each other in a real Redis, and what they make of what does not belong there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_cluster::membership::{
    Bury, Member, Members, MembersThread, Membership, MembershipSettings, Protocol, Roles,
};
use tidegate_cluster::redis::{RedisSettings, Topology};
use tidegate_metrics::{LeftOut, LeftOutLabels, Metrics};
use tidegate_testkit::redis::RedisServer;
use tidegate_types::{NodeId, NodeNumber};
use tokio::sync::oneshot;

const SETTINGS: MembershipSettings = MembershipSettings { heartbeat_ms: 100, node_timeout_ms: 600 };
const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    members: Members,
    metrics: Arc<Metrics>,
    thread: Option<MembersThread>,
}

fn redis(server: &RedisServer) -> RedisSettings {
    RedisSettings::new(Topology::Standalone(vec![server.address().parse().unwrap()]))
}

fn node(server: &RedisServer, id: u64, change: impl FnOnce(&mut Member)) -> Node {
    let mut me = Member {
        id: NodeId(id),
        number: NodeNumber(0),
        name: format!("n{id}").into(),
        zone: "".into(),
        version: "1".into(),
        protocol: Protocol::OWN,
        address: ([127, 0, 0, 1], 7000).into(),
        roles: Roles { realtime: true, gateway: false },
        draining: false,
    };
    change(&mut me);
    let metrics = Metrics::new();
    let (members, thread) = Members::start(redis(server), Membership::new(me, SETTINGS), metrics.clone()).unwrap();
    Node { members, metrics, thread: Some(thread) }
}

impl Node {
    fn sees(&self) -> Vec<u64> {
        self.members.view().others.iter().map(|member| member.id.0).collect()
    }

    fn left_out(&self, reason: LeftOut) -> u64 {
        self.metrics.cluster_left_out.get_or_create(&LeftOutLabels { reason }).get()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.members.leave();
        self.thread.take().unwrap().join();
    }
}

#[track_caller]
fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What stands in Redis of a node that never said a word after it came.
fn ghost(server: &RedisServer, id: u64, record: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/membership/scripts/register.lua");
    let keys = ["seen", "info", "numbers", "cooling", "dead", "changed", "version", "since", "ch"];
    let keys: Vec<String> = keys.iter().map(|key| format!("tidegate:{{nodes}}:{key}")).collect();
    let id = format!("{id:016x}");
    let mut arguments = vec!["--eval", script];
    arguments.extend(keys.iter().map(String::as_str));
    arguments.extend([",", &id, record, "0", "9"]);
    server.cli(&arguments);
}

fn burials(nodes: &[&Node]) -> Arc<Mutex<Vec<(usize, NodeId)>>> {
    let buried = Arc::new(Mutex::new(Vec::new()));
    for (index, node) in nodes.iter().enumerate() {
        let buried = buried.clone();
        let bury: Bury = Arc::new(move |id| {
            buried.lock().unwrap().push((index, id));
            let (done, answer) = oneshot::channel();
            let _ = done.send(Ok(()));
            answer
        });
        node.members.bury_from_start(bury);
    }
    buried
}

#[test]
fn nodes_find_each_other_and_see_each_other_leave() {
    let server = RedisServer::start();
    let nodes = [1, 2, 3].map(|id| node(&server, id, |_| {}));
    wait("all see all", || nodes.iter().all(|node| node.sees().len() == 2));
    let mut numbers: Vec<_> = nodes.iter().map(|node| node.members.view().me.number.0).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.len() == 3 && !numbers.contains(&0), "{numbers:?}");
    nodes[0].members.drain();
    wait("it is told", || nodes[2].members.view().others.iter().any(|member| member.id.0 == 1 && member.draining));
    let [first, second, third] = nodes;
    drop(first);
    wait("it is gone", || second.sees() == [3] && third.sees() == [2]);
    for key in server.cli(&["KEYS", "*"]).lines() {
        assert_ne!(server.cli(&["PTTL", key]), "-1", "{key} would stay for ever");
    }
}

#[test]
fn a_dead_node_is_buried_once() {
    let server = RedisServer::start();
    let nodes = [1, 2, 3].map(|id| node(&server, id, |_| {}));
    let buried = burials(&nodes.iter().collect::<Vec<_>>());
    wait("all see all", || nodes.iter().all(|node| node.sees().len() == 2));
    let record = "{\"name\":\"g\",\"version\":\"1\",\"protocol\":{\"speaks\":1,\"since\":1},\"address\":\"127.0.0.1:1\",\"roles\":{\"realtime\":true,\"gateway\":false}}";
    let begin = Instant::now();
    ghost(&server, 0x99, record);
    wait("it is seen", || nodes.iter().all(|node| node.sees().contains(&0x99)));
    wait("it is dead for all", || nodes.iter().all(|node| node.sees().len() == 2));
    assert!(begin.elapsed() >= Duration::from_millis(SETTINGS.node_timeout_ms));
    wait("it is buried", || server.cli(&["ZCARD", "tidegate:{nodes}:dead"]) == "0");
    let buried = buried.lock().unwrap();
    assert!(buried.len() == 1 && buried[0].1 == NodeId(0x99), "{buried:?}");
    assert_eq!(nodes.iter().map(|node| node.metrics.cluster_burials.get()).sum::<u64>(), 1);
}

#[test]
fn a_burial_that_fails_is_tried_again() {
    let server = RedisServer::start();
    let one = node(&server, 1, |_| {});
    wait("it is a member", || one.members.view().is_member);
    let tries = Arc::new(AtomicU64::new(0));
    let counted = tries.clone();
    one.members.bury_from_start(Arc::new(move |_| {
        let (done, answer) = oneshot::channel();
        let result =
            if counted.fetch_add(1, Ordering::Relaxed) < 2 { Err(tidegate_cluster::Unavailable) } else { Ok(()) };
        let _ = done.send(result);
        answer
    }));
    ghost(&server, 0x99, "{}");
    wait("it is buried in the end", || one.metrics.cluster_burials.get() == 1);
    assert_eq!(tries.load(Ordering::Relaxed), 3);
    assert_eq!(one.left_out(LeftOut::Unreadable), 1, "what it said of itself was nothing");
}

#[test]
fn a_redis_that_has_forgotten_everything_is_told_again_under_the_same_numbers() {
    let mut server = RedisServer::start();
    let nodes = [1, 2].map(|id| node(&server, id, |_| {}));
    wait("all see all", || nodes.iter().all(|node| node.sees().len() == 1));
    let numbers = |nodes: &[Node; 2]| nodes.each_ref().map(|node| node.members.view().me.number);
    let before = numbers(&nodes);
    server.restart();
    wait("they are back", || nodes.iter().all(|node| node.members.view().joins == 2 && node.sees().len() == 1));
    assert_eq!(numbers(&nodes), before);
}

#[test]
fn while_redis_stands_still_nobody_dies() {
    let server = RedisServer::start();
    let nodes = [1, 2].map(|id| node(&server, id, |_| {}));
    let buried = burials(&nodes.iter().collect::<Vec<_>>());
    wait("all see all", || nodes.iter().all(|node| node.sees().len() == 1));
    server.stop();
    wait("they notice", || nodes.iter().all(|node| !node.members.view().in_touch));
    assert!(nodes.iter().all(|node| node.sees().len() == 1), "what was known last stays");
    server.cont();
    wait("they are in touch", || nodes.iter().all(|node| node.members.view().in_touch));
    let heard = Instant::now();
    wait("some time passes", || heard.elapsed() > Duration::from_millis(2 * SETTINGS.node_timeout_ms));
    assert!(nodes.iter().all(|node| node.members.view().joins == 1 && node.sees().len() == 1));
    assert!(buried.lock().unwrap().is_empty());
}

#[test]
fn foreign_bytes_and_wrong_types_under_our_keys_harm_nobody() {
    let server = RedisServer::start();
    let nodes = [1, 2].map(|id| node(&server, id, |_| {}));
    wait("all see all", || nodes.iter().all(|node| node.sees().len() == 1));
    server.cli(&["HSET", "tidegate:{nodes}:info", "\u{1}not an id", "\u{2}garbage"]);
    server.cli(&["ZADD", "tidegate:{nodes}:changed", "99999999", "\u{1}not an id"]);
    server.cli(&["SET", "tidegate:{nodes}:version", "99999999"]);
    wait("it is counted", || nodes.iter().all(|node| node.left_out(LeftOut::Unreadable) == 1));
    assert!(nodes.iter().all(|node| node.sees().len() == 1));
    server.cli(&["DEL", "tidegate:{nodes}:seen"]);
    server.cli(&["SET", "tidegate:{nodes}:seen", "a text"]);
    wait("nothing can be told", || nodes.iter().all(|node| !node.members.view().in_touch));
    assert!(nodes.iter().all(|node| node.sees().len() == 1));
    server.cli(&["DEL", "tidegate:{nodes}:seen"]);
    wait("they are back", || nodes.iter().all(|node| node.members.view().is_member && node.sees().len() == 1));
}

#[test]
fn who_speaks_another_protocol_stays_outside() {
    let server = RedisServer::start();
    let old = node(&server, 1, |_| {});
    wait("it is a member", || old.members.view().is_member);
    let new = node(&server, 2, |me| me.protocol = Protocol { speaks: 9, since: 9 });
    wait("both have told it", || [&old, &new].iter().all(|node| node.left_out(LeftOut::Protocol) >= 1));
    assert!(!new.members.view().is_member && old.sees().is_empty() && new.sees().is_empty());
    drop(old);
    wait("the new one comes in when the old one is gone", || new.members.view().is_member);
}
