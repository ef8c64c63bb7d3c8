//! What operators are shown of the realtime server. Asked by hand or by a scrape, never on a message's way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use tidegate_metrics::{DropReason, EventLabel, RateLimit};
use tidegate_types::{Millis, ShardId, SpaceKey, TenantId};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::across::{self, Question};
use crate::node::{Node, now_ms};
use crate::{api, ask};

/// See [`Node::health`].
#[derive(Clone, Debug)]
pub struct Health {
    /// Sessions, event streams and plain WebSockets.
    pub connections: usize,
    /// Socket.IO sockets by tenant, by name.
    pub by_tenant: Vec<(TenantId, usize)>,
    /// Whether the history store takes messages.
    pub store: bool,
}

/// See [`Node::stats_of_peers`].
#[derive(Clone, Debug, Default)]
pub struct PeerStats {
    /// Each with the name of its node.
    pub given: Vec<(Arc<str>, Stats)>,
    /// The names of those that did not answer in time.
    pub missing: Vec<Arc<str>>,
}

/// See [`Node::stats`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Sessions, event streams and plain WebSockets.
    pub connections: usize,
    /// Users with a socket; one who is in several namespaces counts in each.
    pub users: usize,
    /// Socket.IO sockets by namespace, by name.
    pub by_namespace: Vec<(String, usize)>,
    /// Rooms somebody is in.
    pub rooms: usize,
    /// Memberships.
    pub subscriptions: usize,
    /// Members of the largest room.
    pub largest_room: usize,
    /// How late each worker's last tick came.
    pub lags: Vec<Duration>,
}

/// A room among the largest or the busiest.
#[derive(Clone, Debug, PartialEq)]
pub struct TopRoom {
    /// Tenant and namespace.
    pub space: Arc<SpaceKey>,
    /// The room.
    pub room: String,
    /// Distinct users in it.
    pub users: usize,
    /// Connections and listeners in it.
    pub connections: usize,
    /// Messages per second over the last 10 s.
    pub rate: f64,
}

/// See [`Node::totals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections since the start.
    pub connections: u64,
    /// Messages from clients and from the publish API.
    pub received: u64,
    /// Messages to clients, one per receiver.
    pub sent: u64,
    /// Messages appended to the store.
    pub persisted: u64,
    /// Messages that a client did not get.
    pub dropped: u64,
    /// Attempts refused by a limit.
    pub limited: u64,
}

/// See [`Node::cleanup`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Rooms that nobody is in and that keep nothing in memory.
    pub rooms: usize,
    /// Sessions that could have been recovered no more.
    pub sessions: usize,
}

impl Node {
    /// Connections and the store's state, for `/health`.
    pub fn health(&self) -> Health {
        let mut by_tenant: FxHashMap<TenantId, usize> = FxHashMap::default();
        for cell in self.cells() {
            let connections = cell.lock().connections();
            if connections > 0 {
                *by_tenant.entry(cell.key.tenant.clone()).or_default() += connections;
            }
        }
        let mut by_tenant: Vec<_> = by_tenant.into_iter().collect();
        by_tenant.sort();
        Health { connections: self.door.open(), by_tenant, store: self.history.healthy() }
    }

    /// Rooms and subscriptions, for `/stats`.
    pub fn stats(&self) -> Stats {
        let lags = self.lags.iter().map(|lag| Duration::from_micros(lag.load(Ordering::Relaxed))).collect();
        let mut stats = Stats { connections: self.door.open(), lags, ..Stats::default() };
        let mut by_namespace: FxHashMap<String, usize> = FxHashMap::default();
        for cell in self.cells() {
            let space = cell.lock().stats();
            stats.rooms += space.rooms;
            stats.users += space.users;
            stats.subscriptions += space.subscriptions;
            stats.largest_room = stats.largest_room.max(space.largest_room);
            if space.connections > 0 {
                *by_namespace.entry(cell.key.namespace.as_str().to_owned()).or_default() += space.connections;
            }
        }
        stats.by_namespace = by_namespace.into_iter().collect();
        stats.by_namespace.sort();
        stats
    }

    /// The same of the other nodes of the cluster, as far as they answer in time. From any thread; it needs the first worker.
    pub async fn stats_of_peers(self: &Arc<Self>) -> PeerStats {
        let (teller, told) = oneshot::channel();
        ask::tell_one(self, ShardId(0), move |shard| {
            let shard = shard.clone();
            spawn_local(async move {
                let question = Question {
                    method: Method::GET,
                    path: api::PEER_STATS.to_owned(),
                    body: Bytes::new(),
                    key: HeaderValue::from_static(""),
                };
                let _ = teller.send(across::all(&shard, &question).await);
            });
        });
        let mut stats = PeerStats::default();
        // Without an answer the worker has ended, and so does everything else.
        let answers = told.await.unwrap_or_default();
        for (peer, answer) in answers.given {
            match serde_json::from_value(answer) {
                Ok(given) => stats.given.push((peer.name, given)),
                Err(_) => stats.missing.push(peer.name),
            }
        }
        stats.missing.extend(answers.missing.into_iter().map(|missing| missing.peer.name));
        stats
    }

    /// The rooms with the most members, at most so many. Each space answers from what it keeps sorted: the cost does not
    /// grow with the rooms.
    pub fn largest_rooms(&self, most: usize) -> Vec<TopRoom> {
        self.top(most, tidegate_hub::Space::top_rooms_by_members, |a, b| b.connections.cmp(&a.connections))
    }

    /// The rooms with the most messages per second, at most so many.
    pub fn busiest_rooms(&self, most: usize) -> Vec<TopRoom> {
        self.top(most, tidegate_hub::Space::top_rooms_by_rate, |a, b| b.rate.total_cmp(&a.rate))
    }

    fn top(
        &self,
        most: usize,
        of: impl Fn(&tidegate_hub::Space, usize, Millis) -> Vec<tidegate_hub::RoomSummary>,
        order: impl Fn(&TopRoom, &TopRoom) -> std::cmp::Ordering,
    ) -> Vec<TopRoom> {
        let now = now_ms();
        let mut top: Vec<TopRoom> = Vec::new();
        for cell in self.cells() {
            let rooms = of(&cell.lock(), most, now);
            top.extend(rooms.into_iter().map(|room| TopRoom {
                space: cell.key.clone(),
                room: room.room.as_str().to_owned(),
                users: room.users,
                connections: room.connections,
                rate: room.rate,
            }));
            top.sort_by(&order);
            top.truncate(most);
        }
        top
    }

    /// What has happened since the start, over all tenants.
    pub fn totals(&self) -> Totals {
        let mut counted = Vec::new();
        let mut totals = Totals::default();
        for cell in self.cells() {
            // Tenants beyond the cap share their counters, and a tenant's namespaces do.
            let metrics = Arc::as_ptr(&cell.metrics);
            if counted.contains(&metrics) {
                continue;
            }
            counted.push(metrics);
            totals.connections += cell.metrics.connections.get();
            totals.persisted += cell.metrics.messages_persisted.get();
            totals.received += EventLabel::ALL.iter().map(|label| cell.metrics.received(*label).get()).sum::<u64>();
            totals.sent += EventLabel::ALL.iter().map(|label| cell.metrics.sent(*label).get()).sum::<u64>();
            totals.dropped += DropReason::ALL.iter().map(|reason| cell.metrics.dropped(*reason).get()).sum::<u64>();
            totals.limited += RateLimit::ALL.iter().map(|limit| cell.metrics.limited(*limit).get()).sum::<u64>();
        }
        totals
    }

    /// Forgets at once what is forgotten by and by: rooms nobody is in, sessions, budgets and tickets whose time is over.
    pub fn cleanup(&self) -> Cleaned {
        let now = now_ms();
        let mut cleaned = Cleaned::default();
        for cell in self.cells() {
            let (rooms, sessions) = self.with_space(&cell, |space, effects| space.clean(now, effects));
            cleaned.rooms += rooms;
            cleaned.sessions += sessions;
        }
        self.sweep(now);
        cleaned
    }
}
