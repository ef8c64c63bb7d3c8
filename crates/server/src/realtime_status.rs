//! What the admin listener shows of the realtime server beyond metrics: `/stats` and the cases API's `/websocket/…`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tidegate_realtime::{Node, Stats, TopRoom};

use crate::process;

/// Rooms in each list of the top ones.
const TOP: usize = 10;
/// A worker that lets ready tasks wait longer than this is overloaded, ms.
const MOST_LAG_MS: f64 = 500.0;
/// Beyond this share of the connections that are allowed, an operator should know.
const NEARLY_FULL: f64 = 0.9;

/// `/stats`.
pub(crate) fn stats(node: Option<&Node>) -> Value {
    let stats = node.map(Node::stats).unwrap_or_default();
    json!({
        "connections": stats.connections,
        "namespaces": namespaces(&stats),
        "rooms": rooms(&stats),
        "topRooms": node.map(top_rooms),
        "eventLoopLagMs": lag_ms(&stats),
        "clustering": clustering(node),
    })
}

fn clustering(node: Option<&Node>) -> Value {
    let is_one_of_many = node.is_some_and(Node::is_in_cluster);
    let others = node.map_or(0, |node| node.peers().living().len());
    json!({ "enabled": is_one_of_many, "nodes": others + 1 })
}

/// `/stats?scope=cluster`: the sums, and each node with its own part. What a node did not tell in time is marked.
pub(crate) async fn stats_of_cluster(node: &Arc<Node>, name: &str) -> Value {
    let mut peers = node.stats_of_peers().await;
    peers.given.insert(0, (name.into(), node.stats()));
    peers.given.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut by_namespace: BTreeMap<String, usize> = BTreeMap::new();
    for (namespace, open) in peers.given.iter().flat_map(|(_, stats)| &stats.by_namespace) {
        *by_namespace.entry(namespace.clone()).or_default() += open;
    }
    let part = |(name, stats): &(Arc<str>, Stats)| {
        json!({
            "name": &**name,
            "connections": stats.connections,
            "namespaces": namespaces(stats),
            "rooms": rooms(stats),
            "eventLoopLagMs": lag_ms(stats),
        })
    };
    let mut answer = json!({
        "connections": peers.given.iter().map(|(_, stats)| stats.connections).sum::<usize>(),
        "namespaces": by_namespace,
        "nodes": peers.given.iter().map(part).collect::<Vec<_>>(),
        "clustering": clustering(Some(node)),
    });
    if let (Some(answer), false) = (answer.as_object_mut(), peers.missing.is_empty()) {
        peers.missing.sort();
        answer.insert("partial".to_owned(), true.into());
        answer.insert("missing".to_owned(), peers.missing.iter().map(|name| &**name).collect::<Vec<_>>().into());
    }
    answer
}

/// `GET /websocket/metrics`.
pub(crate) fn metrics(node: &Node, started_seconds: f64) -> Value {
    let (stats, totals) = (node.stats(), node.totals());
    let process = process::stats(started_seconds);
    let now = process::now_seconds();
    json!({
        "connections": { "current": stats.connections, "total": totals.connections, "limit": node.most_connections() },
        "users": stats.users,
        "namespaces": namespaces(&stats),
        "rooms": rooms(&stats),
        "topRooms": top_rooms(node),
        "messages": {
            "received": totals.received,
            "sent": totals.sent,
            "persisted": totals.persisted,
            "dropped": totals.dropped,
            "refused": totals.limited,
        },
        "eventLoopLagMs": lag_ms(&stats),
        "memory": { "used": process.resident_bytes },
        "uptime": round(now - started_seconds),
        "timestamp": (now * 1_000.0) as u64,
    })
}

/// `GET /websocket/health`: degraded with the reasons, so that a monitor can say more than "it is red".
pub(crate) fn health(node: &Node, started_seconds: f64) -> Value {
    let metrics = metrics(node, started_seconds);
    let mut issues = Vec::new();
    if !node.health().store {
        issues.push("The history store takes no messages: persistent ones are refused".to_owned());
    }
    let lag = metrics.get("eventLoopLagMs").and_then(Value::as_f64).unwrap_or(0.0);
    if lag > MOST_LAG_MS {
        issues.push(format!("A worker lets ready tasks wait for {lag:.0} ms: it is overloaded"));
    }
    let (open, limit) = (node.stats().connections, node.most_connections());
    if open as f64 > limit as f64 * NEARLY_FULL {
        issues.push(format!("{open} of at most {limit} connections are open (max_connections in [realtime])"));
    }
    json!({
        "status": if issues.is_empty() { "healthy" } else { "degraded" },
        "issues": issues,
        "timestamp": metrics.get("timestamp"),
        "metrics": metrics,
    })
}

/// `POST /websocket/cleanup`.
pub(crate) fn cleanup(node: &Node) -> Value {
    let cleaned = node.cleanup();
    json!({
        "success": true,
        "removed": { "rooms": cleaned.rooms, "sessions": cleaned.sessions },
        "timestamp": (process::now_seconds() * 1_000.0) as u64,
    })
}

fn namespaces(stats: &Stats) -> Value {
    stats
        .by_namespace
        .iter()
        .map(|(name, open)| (name.clone(), Value::from(*open)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn rooms(stats: &Stats) -> Value {
    let average = if stats.rooms == 0 { 0.0 } else { stats.subscriptions as f64 / stats.rooms as f64 };
    json!({
        "totalRooms": stats.rooms,
        "totalSubscriptions": stats.subscriptions,
        "avgSubscriptionsPerRoom": round(average),
        "largestRoom": stats.largest_room,
    })
}

fn top_rooms(node: &Node) -> Value {
    let list = |rooms: Vec<TopRoom>| {
        let shown = rooms.into_iter().map(|room| {
            json!({
                "tenant": room.space.tenant.as_str(),
                "namespace": room.space.namespace.as_str(),
                "room": room.room,
                "users": room.users,
                "connections": room.connections,
                "messagesPerSecond": round(room.rate),
            })
        });
        shown.collect::<Vec<_>>()
    };
    json!({ "byMembers": list(node.largest_rooms(TOP)), "byRate": list(node.busiest_rooms(TOP)) })
}

fn lag_ms(stats: &Stats) -> f64 {
    stats.lags.iter().max().map_or(0.0, |lag| round(lag.as_secs_f64() * 1_000.0))
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
