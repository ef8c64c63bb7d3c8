//! How a cluster of up to 1,000 nodes and a million clients loads its broker: `cargo run -p tidegate-sim --example scale`.
//!
//! Nothing of it is measured: it is the arithmetic and the events of docs/scaling.md, with the costs that
//! `cargo run -p tidegate-cluster --example cost` measures. What is random follows from a seed.
#![allow(clippy::print_stdout, reason = "it prints a table")]

use tidegate_sim::Rng;

/// Microseconds of Redis' one core, as measured (docs/scaling.md).
const PUBLISH_US: f64 = 13.0;
const PER_FOLLOWER_US: f64 = 0.5;
const LEASE_US: f64 = 8.5;
const FOLLOW_US: f64 = 21.0;
/// A session's record: one script, about a lease's work.
const SESSION_US: f64 = LEASE_US;
/// One heartbeat. Not measured: four times a lease, whose script does about a quarter of it.
const BEAT_US: f64 = 4.0 * LEASE_US;
/// Heartbeats a second and node.
const BEATS: f64 = 0.5;

/// Subscriptions of the rooms: each node follows the rooms that its clients are in.
struct Fanout {
    channels: usize,
    subscriptions: usize,
    /// Nodes that follow a room, on average and the most.
    mean: f64,
    most: usize,
}

/// Every client goes to a node by chance and is in `rooms_each` rooms of `rooms`.
fn fanout(nodes: usize, clients: usize, rooms: usize, rooms_each: usize, rng: &mut Rng) -> Fanout {
    let words = nodes.div_ceil(64);
    let mut follows = vec![0u64; rooms * words];
    for _ in 0..clients {
        let node = pick(rng, nodes);
        for _ in 0..rooms_each {
            let at = pick(rng, rooms) * words + node / 64;
            if let Some(word) = follows.get_mut(at) {
                *word |= 1 << (node % 64);
            }
        }
    }
    let per_room =
        || follows.chunks(words).map(|room| room.iter().map(|word| word.count_ones() as usize).sum::<usize>());
    let subscriptions: usize = per_room().sum();
    let channels = per_room().filter(|nodes| *nodes > 0).count();
    Fanout {
        channels,
        subscriptions,
        mean: subscriptions as f64 / channels.max(1) as f64,
        most: per_room().max().unwrap_or(0),
    }
}

fn pick(rng: &mut Rng, of: usize) -> usize {
    usize::try_from(rng.below(of as u64)).unwrap_or(0)
}

/// Clients that come back: each waits 1 s and a random part of `spread_ms`, then twice as long if it was refused. A node
/// takes `per_second` a second. Says the most attempts in one second, and when the last is back.
fn storm(clients: usize, spread_ms: u64, per_second: usize, rng: &mut Rng) -> (usize, usize) {
    let mut due: Vec<Vec<u8>> = vec![Vec::new(); 4_096];
    let at = |ms: u64| usize::try_from(ms / 1_000).unwrap_or(usize::MAX);
    for _ in 0..clients {
        let second = at(1_000 + rng.below(spread_ms + 1));
        if let Some(slot) = due.get_mut(second) {
            slot.push(0);
        }
    }
    let (mut most, mut last) = (0, 0);
    for second in 0..due.len() {
        let now = due.get_mut(second).map(std::mem::take).unwrap_or_default();
        most = most.max(now.len());
        for (index, tries) in now.into_iter().enumerate() {
            if index < per_second {
                last = second;
                continue;
            }
            let wait = (1_000u64 << tries.min(3)) + rng.below(1_000u64 << tries.min(3));
            if let Some(slot) = due.get_mut(second + at(wait).max(1)) {
                slot.push(tries + 1);
            }
        }
    }
    (most, last)
}

fn main() {
    let mut rng = Rng::new(1);
    println!("Membership: heartbeats every 2 s, and what they cost Redis");
    println!("| nodes | heartbeats/s | share of one core |");
    println!("|---|---|---|");
    for nodes in [3, 10, 100, 1_000] {
        let rate = f64::from(nodes) * BEATS;
        println!("| {nodes} | {rate} | {:.2} % |", rate * BEAT_US / 1e4);
    }
    println!("\nRooms and nodes: a million clients in all, 10,000 per node, two rooms each");
    println!(
        "| nodes | clients | rooms | channels | subscriptions | nodes per room: mean, most | us of Redis per message | messages/s of one shard at 70 % |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for nodes in [10, 100, 1_000] {
        let clients = nodes.min(100) * 10_000;
        for rooms in [100, 10_000, 200_000] {
            let of = fanout(nodes, clients, rooms, 2, &mut rng);
            let us = PUBLISH_US + of.mean * PER_FOLLOWER_US;
            println!(
                "| {nodes} | {clients} | {rooms} | {} | {} | {:.1}, {} | {us:.0} | {:.0} |",
                of.channels,
                of.subscriptions,
                of.mean,
                of.most,
                0.7e6 / us
            );
        }
    }
    println!("\nA node with 10,000 clients dies: they come back to the others, 2,000 a second each at most");
    println!(
        "| nodes left | jitter | most attempts in one second, all | per node | all back after | us of Redis, all | seconds of one core |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (left, spread) in [(2, 0), (2, 1_000), (2, 5_000), (9, 5_000), (99, 5_000)] {
        let (most, last) = storm(10_000, spread, left * 2_000, &mut rng);
        // A claim, a record, two leases each; the rooms are mostly followed already.
        let us = 10_000.0 * (2.0 * SESSION_US + 2.0 * LEASE_US);
        println!("| {left} | {} s | {most} | {} | {last} s | {us:.0} | {:.1} |", spread / 1_000, most / left, us / 1e6);
    }
    println!("\nRedis comes back: every node looks at its rooms, says its leases and stores its sessions again");
    println!("| nodes | clients | rooms per node | seconds of one core | with 4 shards |");
    println!("|---|---|---|---|---|");
    for (nodes, clients, rooms_per_node) in
        [(3, 30_000, 2_000), (10, 100_000, 5_000), (100, 1_000_000, 5_000), (1_000, 1_000_000, 2_000)]
    {
        let us = (nodes * rooms_per_node) as f64 * 2.0 * FOLLOW_US + f64::from(clients) * (2.0 * LEASE_US + SESSION_US);
        println!("| {nodes} | {clients} | {rooms_per_node} | {:.1} | {:.1} |", us / 1e6, us / 4e6);
    }
}
