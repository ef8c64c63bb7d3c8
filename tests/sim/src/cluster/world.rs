use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_cluster::model::{Loss, Pushes};
use tidegate_types::{Namespace, NodeId, RoomName, SpaceKey, TenantId, UserId};

use super::client::Client;
use super::ground::{Ground, Report, Sabotage};
use super::node::Node;
use super::redis::Redis;
use super::truth::Truth;
use crate::rng::Rng;
use crate::world::Violation;

const STEP_MS: u64 = 10;
const NODES: u64 = 3;
const CLIENTS: usize = 5;
const ROOMS: usize = 3;
const JUMPS_MS: [i64; 6] = [-600_000, -5_000, -300, 300, 5_000, 600_000];
const DEAD_AFTER_MS: u64 = 5_000;

struct World {
    g: Ground,
    redis: Redis,
    nodes: BTreeMap<NodeId, Node>,
    /// When nodes that died come back as others.
    births: Vec<u64>,
    lives: u64,
    clients: Vec<Client>,
    rooms: Vec<RoomName>,
}

/// Runs `steps` steps of 10 ms with faults, then heals everything and waits for rest.
///
/// # Errors
/// The first promise that was broken.
pub fn run(seed: u64, steps: u64, sabotage: Sabotage) -> Result<Report, Violation> {
    let mut world = World::new(seed, sabotage);
    for _ in 0..steps {
        world.fault();
        world.act();
        world.step(seed)?;
    }
    world.heal();
    for _ in 0..2_500 {
        world.step(seed)?;
    }
    world.last_words();
    for _ in 0..300 {
        world.step(seed)?;
    }
    world.at_rest();
    world.verdict(seed)?;
    Ok(world.g.report)
}

impl World {
    fn new(seed: u64, sabotage: Sabotage) -> Self {
        let tenants = ["acme", "umbrella"];
        let keys = tenants.iter().filter_map(|tenant| {
            let tenant = TenantId::try_from(*tenant).ok()?;
            Some(Arc::new(SpaceKey { tenant, namespace: Namespace::root() }))
        });
        // Both tenants use the same names.
        let rooms: Vec<RoomName> = (0..ROOMS).filter_map(|n| RoomName::try_from(format!("room-{n}")).ok()).collect();
        let mut g = Ground {
            now: 1_000_000,
            rng: Rng::new(seed),
            redis_skew: 0,
            dead_after_ms: DEAD_AFTER_MS,
            keys: keys.collect(),
            truths: tenants.iter().map(|_| Truth::default()).collect(),
            links: Vec::new(),
            sabotage,
            report: Report::default(),
            broken: None,
            healed: false,
            numbers: 0,
        };
        let mut clients = Vec::new();
        for tenant in 0..tenants.len() {
            for index in 0..CLIENTS {
                let wanted: BTreeSet<RoomName> = rooms.iter().filter(|_| g.rng.chance(600)).cloned().collect();
                let Ok(user) = UserId::try_from(format!("{tenant}/user-{}", index % 4)) else { continue };
                clients.push(Client::new(clients.len(), tenant, user, wanted));
            }
        }
        let mut world =
            Self { g, redis: Redis::new(), nodes: BTreeMap::new(), births: Vec::new(), lives: 0, clients, rooms };
        (0..NODES).for_each(|_| world.give_birth());
        world
    }

    fn give_birth(&mut self) {
        self.lives += 1;
        let id = NodeId(self.lives);
        self.nodes.insert(id, Node::new(&self.g, id));
    }

    fn any_node(&mut self) -> Option<NodeId> {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        self.g.rng.pick(&ids).copied()
    }

    fn fault(&mut self) {
        let links: Vec<usize> = self.clients.iter().filter_map(Client::link).collect();
        if self.g.rng.chance(10)
            && let Some(link) = self.g.rng.pick(&links).copied()
        {
            let now = self.g.now;
            if let Some(of) = self.g.links.get_mut(link) {
                of.cut(now, &mut self.g.rng);
            }
        }
        if self.g.rng.chance(5)
            && let Some(id) = self.any_node()
        {
            self.cut(id);
        }
        if self.g.rng.chance(3)
            && let Some(id) = self.any_node()
        {
            let patience = if self.g.rng.chance(200) { 9_000 } else { 1_500 };
            let until = self.g.now + self.g.rng.below(patience);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.frozen_until = until;
                self.g.report.freezes += 1;
            }
        }
        if self.g.rng.chance(1)
            && self.nodes.len() > 1
            && let Some(id) = self.any_node()
        {
            self.kill(id);
        }
        if self.g.rng.chance(1) {
            let by = self.g.rng.pick(&JUMPS_MS).copied().unwrap_or(0);
            if let Some(node) = self.any_node().and_then(|id| self.nodes.get_mut(&id)) {
                node.skew += by;
                self.g.report.jumps += 1;
            }
        }
        if self.redis.is_up() && self.g.rng.chance(1) {
            self.stop_redis();
        }
    }

    fn cut(&mut self, id: NodeId) {
        let g = &mut self.g;
        if let Some(link) = self.nodes.get_mut(&id).and_then(|node| node.link.as_mut()) {
            link.cut(g);
        }
    }

    fn kill(&mut self, id: NodeId) {
        self.g.report.kills += 1;
        self.g.truths.iter_mut().for_each(|truth| truth.forgotten_with(id));
        if let Some(link) = self.nodes.remove(&id).and_then(|node| node.link) {
            self.redis.server.hang_up(link.life);
        }
        let now = self.g.now;
        for link in self.g.links.iter_mut().filter(|link| link.node == id) {
            link.end(now, &mut self.g.rng);
        }
        let after = self.g.rng.below(8_000);
        self.births.push(now + after);
    }

    fn stop_redis(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.cut(id));
        self.redis.down_until = Some(self.g.now + self.g.rng.below(3_000));
        let loss = match self.g.rng.below(4) {
            0 | 1 => Loss::Nothing,
            2 => Loss::Last(usize::try_from(self.g.rng.below(12)).unwrap_or(0)),
            _ => Loss::Everything,
        };
        match loss {
            Loss::Nothing => self.g.report.restarts += 1,
            Loss::Last(_) | Loss::Everything => self.g.report.losses += 1,
        }
        self.redis.restart(&mut self.g, loss);
    }

    fn act(&mut self) {
        for index in 0..self.clients.len() {
            if self.g.rng.chance(40)
                && let (Some(client), Some(room)) = (self.clients.get_mut(index), self.g.rng.pick(&self.rooms))
            {
                client.say(&mut self.g, room);
            }
            if self.g.rng.chance(3)
                && let (Some(client), Some(room)) = (self.clients.get_mut(index), self.g.rng.pick(&self.rooms))
                && !client.wanted.remove(room)
            {
                client.wanted.insert(room.clone());
            }
        }
    }

    fn step(&mut self, seed: u64) -> Result<(), Violation> {
        self.g.now += STEP_MS;
        let (now, healed) = (self.g.now, self.g.healed);
        if self.redis.down_until.is_some_and(|until| until <= now || healed) {
            self.redis.down_until = None;
        }
        let due = self.births.iter().filter(|at| **at <= now || healed).count();
        self.births.retain(|at| *at > now && !healed);
        (0..due).for_each(|_| self.give_birth());
        self.serve();
        for node in self.nodes.values_mut() {
            node.step(&mut self.g, &mut self.redis);
        }
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for client in &mut self.clients {
            client.step(&mut self.g, &ids);
        }
        self.verdict(seed)
    }

    /// The broker carries out what has come, and publishes to whoever listens then.
    fn serve(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let mut out = Pushes::new();
            if let Some(node) = self.nodes.get_mut(&id) {
                node.serve(&mut self.g, &mut self.redis, &mut out);
            }
            for (to, push) in out {
                let g = &mut self.g;
                self.nodes.values_mut().any(|node| node.deliver(g, to, &push));
            }
        }
    }

    fn verdict(&mut self, seed: u64) -> Result<(), Violation> {
        match self.g.broken.take() {
            Some(what) => Err(Violation { seed, at_ms: self.g.now - 1_000_000, what }),
            None => Ok(()),
        }
    }

    fn heal(&mut self) {
        self.g.healed = true;
        let now = self.g.now;
        self.clients.iter_mut().for_each(|client| client.hurry(now));
    }

    /// A message to each room, after which nothing more is said.
    fn last_words(&mut self) {
        for index in 0..self.clients.len() {
            for room in self.rooms.clone() {
                if let Some(client) = self.clients.get_mut(index) {
                    client.say(&mut self.g, &room);
                }
            }
        }
    }

    fn at_rest(&mut self) {
        let outcomes: Vec<_> = self.clients.iter().map(|client| client.at_rest(&self.g)).collect();
        outcomes.into_iter().for_each(|outcome| self.g.check(outcome));
        for (tenant, truth) in self.g.truths.iter().enumerate() {
            let epochs =
                self.nodes.values().filter_map(|node| node.spaces.get(tenant)?.hub.as_ref().map(|of| of.epoch()));
            let told = epochs.filter_map(|epoch| truth.lost_in_silence(epoch)).next().cloned();
            if let Some(lost) = told {
                self.g.broken.get_or_insert(format!("acknowledged, lost, and nobody is told: {lost:?}"));
                break;
            }
        }
        self.presence_at_rest();
    }

    fn presence_at_rest(&mut self) {
        for tenant in 0..self.g.keys.len() {
            for room in self.rooms.clone() {
                let inside = || self.clients.iter().filter(|of| of.tenant() == tenant && of.is_in(&room));
                let expected: BTreeSet<UserId> = inside().map(|client| client.user.clone()).collect();
                let mut wrong = None;
                for client in inside() {
                    let others: BTreeSet<_> = expected.iter().filter(|user| **user != client.user).cloned().collect();
                    let told = client.others_in(&room);
                    if told != others {
                        wrong =
                            Some(format!("{:?} believes that {told:?} are in {room:?}, not {others:?}", client.user));
                    }
                }
                if let Some(mut wrong) = wrong {
                    let held = (1..=self.lives).map(NodeId).flat_map(|node| {
                        let held = self.redis.server.leases_of(node).into_iter();
                        held.filter(|(key, of, _)| self.g.keys.get(tenant) == Some(key) && *of == room)
                            .map(move |(_, _, user)| format!("{} by {node}", user.as_str()))
                    });
                    let held: Vec<String> = held.collect();
                    let living: Vec<String> = self.nodes.keys().map(ToString::to_string).collect();
                    wrong += &format!("; the broker has {held:?}, living are {living:?}");
                    self.g.check(Err(wrong));
                }
            }
        }
    }
}
