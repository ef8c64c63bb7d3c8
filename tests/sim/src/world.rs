//! One run: a seed, and everything that follows from it.

use tidegate_types::{Class, Epoch, RoomName};

use crate::client::Client;
use crate::ground::{Ground, Report, Sabotage};
use crate::rng::Rng;
use crate::server::{REPEAT_MS, Server, class_name};
use crate::store::Store;
use crate::truth::Truth;

const STEP_MS: u64 = 10;
const CLIENTS: usize = 4;
const JUMPS_MS: [i64; 6] = [-600_000, -5_000, -300, 300, 5_000, 600_000];
const CLASSES: [Class; 5] =
    [Class::Persistent, Class::Persistent, Class::Recoverable, Class::Recoverable, Class::Volatile];

/// A promise that was broken, and how to see it again.
#[derive(Debug)]
pub struct Violation {
    /// The run.
    pub seed: u64,
    /// Milliseconds into the run.
    pub at_ms: u64,
    /// What.
    pub what: String,
}

struct World {
    g: Ground,
    server: Option<Server>,
    clients: Vec<Client>,
    tenants: Vec<String>,
    rooms: Vec<RoomName>,
    generation: u64,
    down_until: u64,
    /// This run's spaces hold persistent messages only, which makes recovery after a kill provable.
    only_persistent: bool,
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
    for _ in 0..600 {
        world.step(seed)?;
    }
    world.last_words();
    for _ in 0..200 {
        world.step(seed)?;
    }
    world.at_rest();
    world.verdict(seed)?;
    Ok(world.g.report)
}

impl World {
    fn new(seed: u64, sabotage: Sabotage) -> Self {
        let tenants = vec!["acme".to_owned(), "umbrella".to_owned()];
        // Both tenants use the same names.
        let rooms: Vec<RoomName> = (0..4).filter_map(|n| RoomName::try_from(format!("room-{n}")).ok()).collect();
        let mut g = Ground {
            now: 1_000_000,
            skew: 0,
            rng: Rng::new(seed),
            links: Vec::new(),
            stores: (0..tenants.len()).map(|n| Store::new(Epoch(100 + n as u64))).collect(),
            truths: tenants.iter().map(|_| Truth::default()).collect(),
            sabotage,
            report: Report::default(),
            broken: None,
            healed: false,
            numbers: 0,
        };
        let mut clients = Vec::new();
        for (index, name) in tenants.iter().enumerate() {
            for _ in 0..CLIENTS {
                let wanted = rooms.iter().filter(|_| g.rng.chance(500)).cloned().collect();
                clients.push(Client::new(clients.len(), index, name, wanted));
            }
        }
        let server = Server::start(&mut g, &tenants, 0);
        let only_persistent = seed % 4 == 3;
        Self { g, server: Some(server), clients, tenants, rooms, generation: 0, down_until: 0, only_persistent }
    }

    fn class(&mut self) -> Class {
        let class = self.g.rng.pick(&CLASSES).copied().unwrap_or(Class::Recoverable);
        if self.only_persistent && class == Class::Recoverable { Class::Persistent } else { class }
    }

    fn fault(&mut self) {
        let links: Vec<usize> = self.clients.iter().filter_map(Client::link).collect();
        if self.g.rng.chance(12)
            && let Some(link) = self.g.rng.pick(&links).copied()
            && let Some((link, rng, now)) = self.g.link(link)
        {
            link.cut(now, rng);
        }
        if self.g.rng.chance(4) {
            let until = self.g.now + self.g.rng.below(5_000);
            let index = usize::try_from(self.g.rng.below(self.clients.len() as u64)).unwrap_or(0);
            if let Some(client) = self.clients.get_mut(index) {
                client.pause(until);
            }
        }
        if self.g.rng.chance(10) {
            // A ghost's connection ends some time.
            let ghosts = self.g.links.iter_mut().filter(|link| link.ghost && !link.is_cut());
            let (now, rng) = (self.g.now, &mut self.g.rng);
            ghosts.for_each(|link| link.leave(now, rng));
        }
        if self.g.rng.chance(3) {
            self.jump();
        }
        if self.server.is_some() && self.g.rng.chance(2) {
            if self.g.rng.chance(350) {
                self.restart()
            } else {
                self.kill()
            }
            self.down_until = self.g.now + self.g.rng.below(1_500);
        }
    }

    /// Somebody sets the server's clock.
    fn jump(&mut self) {
        let by = self.g.rng.pick(&JUMPS_MS).copied().unwrap_or(0);
        self.g.skew += by;
        self.g.report.jumps += 1;
        if by.unsigned_abs() >= REPEAT_MS {
            self.g.truths.iter_mut().for_each(Truth::repeats_forgotten);
        }
    }

    fn restart(&mut self) {
        let Some(server) = self.server.take() else { return };
        self.g.truths.iter_mut().for_each(Truth::repeats_forgotten);
        self.g.report.restarts += 1;
        server.stop(&mut self.g);
        self.end_links();
    }

    fn kill(&mut self) {
        self.server = None;
        self.g.truths.iter_mut().for_each(Truth::repeats_forgotten);
        self.g.report.kills += 1;
        self.end_links();
        let stores = self.g.stores.iter_mut();
        let mut broken = Vec::new();
        for (store, truth) in stores.zip(&mut self.g.truths) {
            store.kill();
            broken.push(truth.killed(|room, seq| store.has(room, seq)));
        }
        broken.into_iter().for_each(|outcome| self.g.check(outcome));
        self.clients.iter_mut().for_each(|client| client.after_kill = true);
    }

    fn end_links(&mut self) {
        let (now, rng) = (self.g.now, &mut self.g.rng);
        self.g.links.iter_mut().for_each(|link| link.die(now, rng));
    }

    fn act(&mut self) {
        for index in 0..self.clients.len() {
            if self.g.rng.chance(60) {
                let class = class_name(self.class());
                if let (Some(client), Some(room)) = (self.clients.get_mut(index), self.g.rng.pick(&self.rooms)) {
                    client.send_message(&mut self.g, room, class);
                }
            }
            if self.g.rng.chance(3)
                && let (Some(client), Some(room)) = (self.clients.get_mut(index), self.g.rng.pick(&self.rooms))
            {
                match client.wanted.iter().position(|of| of == room) {
                    Some(at) => drop(client.wanted.remove(at)),
                    None => client.wanted.push(room.clone()),
                }
            }
        }
        // A backend says something.
        if self.g.rng.chance(20) {
            let tenant = usize::try_from(self.g.rng.below(self.tenants.len() as u64)).unwrap_or(0);
            let class = self.class();
            if let (Some(room), Some(server)) = (self.g.rng.pick(&self.rooms).cloned(), self.server.as_mut()) {
                self.g.numbers += 1;
                let number = self.g.numbers;
                server.publish(&mut self.g, tenant, room, class, number, None);
            }
        }
    }

    fn step(&mut self, seed: u64) -> Result<(), Violation> {
        self.g.now += STEP_MS;
        if self.server.is_none() && (self.g.now >= self.down_until || self.g.healed) {
            self.generation += 1;
            self.server = Some(Server::start(&mut self.g, &self.tenants, self.generation));
        }
        if let Some(server) = &mut self.server {
            server.step(&mut self.g);
        } else {
            // Nobody listens: whoever tries is refused.
            let (now, rng) = (self.g.now, &mut self.g.rng);
            self.g.links.iter_mut().filter(|link| !link.is_cut()).for_each(|link| link.die(now, rng));
        }
        for client in &mut self.clients {
            client.step(&mut self.g);
        }
        self.verdict(seed)
    }

    fn verdict(&mut self, seed: u64) -> Result<(), Violation> {
        match self.g.broken.take() {
            Some(what) => Err(Violation { seed, at_ms: self.g.now - 1_000_000, what }),
            None => Ok(()),
        }
    }

    fn heal(&mut self) {
        self.g.healed = true;
        let (now, rng) = (self.g.now, &mut self.g.rng);
        self.g.links.iter_mut().filter(|link| link.ghost).for_each(|link| link.leave(now, rng));
        self.clients.iter_mut().for_each(|client| client.hurry(now));
    }

    /// A message to each room, after which nothing more is said.
    fn last_words(&mut self) {
        for tenant in 0..self.tenants.len() {
            for room in self.rooms.clone() {
                // With a place: a client that does not know where it stands in the room learns it from this one.
                let class = if self.g.rng.chance(500) { Class::Persistent } else { Class::Recoverable };
                self.g.numbers += 1;
                let number = self.g.numbers;
                if let Some(server) = &mut self.server {
                    server.publish(&mut self.g, tenant, room, class, number, None);
                }
            }
        }
    }

    fn at_rest(&mut self) {
        let outcomes: Vec<_> = self.clients.iter().map(|client| client.at_rest(&self.g)).collect();
        outcomes.into_iter().for_each(|outcome| self.g.check(outcome));
        for tenant in 0..self.tenants.len() {
            for room in self.rooms.clone() {
                let there = self.server.as_mut().map(|server| server.present(tenant, &room)).unwrap_or_default();
                let name = self.tenants.get(tenant);
                let inside =
                    self.clients.iter().filter(|client| Some(&client.tenant_name) == name && client.is_in(&room));
                let mut expected: Vec<String> = inside.map(|client| client.user.clone()).collect();
                expected.sort();
                expected.dedup();
                for client in self.clients.iter().filter(|of| Some(&of.tenant_name) == name && of.is_in(&room)) {
                    let others = expected.iter().filter(|user| **user != client.user).cloned().collect();
                    let told = client.others_in(&room);
                    if told != others {
                        self.g.check(Err(format!(
                            "{} believes that {told:?} are in {room}, not {others:?}",
                            client.user
                        )));
                    }
                }
                if there != expected {
                    self.g.check(Err(format!("present in {room} of {name:?}: {there:?}, not {expected:?}")));
                }
            }
        }
    }
}
