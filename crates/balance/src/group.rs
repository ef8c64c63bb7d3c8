//! A group of servers that can stand in for each other, and the choice of one of them for a request.
//!
//! What nginx users rely on is kept exactly: which server gets a request, in which order others are tried, what
//! `max_fails`, `fail_timeout`, `max_conns`, `backup` and `down` mean. `crates/proxy/tests/balance_nginx.rs` asks a real
//! nginx the same questions.
//!
//! Start reading at [`Group::pick`]; the algorithms lie in files of their names.

mod address_hash;
mod crc32;
mod key_hash;
mod latency;
mod least;
mod peer;
mod random;
mod ring;
mod tried;
mod weighted;

use std::net::IpAddr;
use std::sync::Arc;

use tidegate_types::Millis;

pub use peer::{Duty, Load, Mark, PeerId, PeerSettings, PeerView};
pub use tried::Tried;

use peer::Peer;
use ring::Ring;

/// How a server is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Smooth weighted round robin (nginx without a directive).
    #[default]
    RoundRobin,
    /// The fewest live connections for the weight (nginx `least_conn`).
    LeastConn,
    /// By the client's address (nginx `ip_hash`).
    IpHash,
    /// By a key, modulo the weights (nginx `hash KEY`).
    Hash,
    /// By a key, on a ketama ring (nginx `hash KEY consistent`).
    ConsistentHash {
        /// No server gets more than so many percent of the average of live connections; the next one on the ring is
        /// taken (Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads). 100 and less: no bound.
        load_factor: u32,
    },
    /// The better of two drawn at random (nginx `random two least_conn`).
    RandomTwo,
    /// The lowest peak EWMA of the time to the first byte, times what is under way.
    LeastTime,
}

/// A server as it is to be: the configured name and one address of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// As configured, `host:port` or `unix:/path`: what consistent hashing places on its ring.
    pub server: Arc<str>,
    /// One of the addresses behind it. Together with `server` this is who it is: its state is kept as long as both stay.
    pub address: Arc<str>,
    /// How it takes part.
    pub settings: PeerSettings,
}

/// What a choice may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The client's (real) address, for [`Algorithm::IpHash`].
    pub client: IpAddr,
    /// The key of [`Algorithm::Hash`] and [`Algorithm::ConsistentHash`]; without one: round robin.
    pub key: &'a [u8],
    /// A value that sticks to one server whatever the algorithm is: consistent hashing of it; empty: the algorithm decides.
    pub stick: &'a [u8],
}

/// The servers and what is known about them. Needs a lock around it when threads share it; [`Load`] does not.
#[derive(Debug)]
pub struct Group {
    algorithm: Algorithm,
    /// Whether [`Asked::stick`] is used, so that a ring is needed.
    sticks: bool,
    peers: Vec<Peer>,
    ring: Ring,
    random: random::Draws,
    next: u32,
}

impl Group {
    /// A group of no servers yet: follow with [`Group::update`]. `seed` is what chance is drawn from.
    pub fn new(algorithm: Algorithm, sticks: bool, seed: u64) -> Self {
        let ring = Ring::default();
        Self { algorithm, sticks, peers: Vec::new(), ring, random: random::Draws::new(seed), next: 0 }
    }

    /// A group with these servers, all taken to be well and warm.
    pub fn of(algorithm: Algorithm, members: impl IntoIterator<Item = Member>, seed: u64) -> Self {
        let mut group = Self::new(algorithm, false, seed);
        group.update(members, 0);
        group
    }

    /// A group with another algorithm that knows what this one knows and counts in the same [`Load`]s: for a new
    /// configuration. Follow with [`Group::update`].
    pub fn succeeded_by(&self, algorithm: Algorithm, sticks: bool) -> Self {
        Self {
            algorithm,
            sticks,
            peers: self.peers.clone(),
            ring: Ring::default(),
            random: self.random.clone(),
            next: self.next,
        }
    }

    /// These are the servers from now on, in this order. Those that were there keep what is known about them: failures,
    /// marks, live connections, times. One that is new to a group that had servers starts slowly (`slow_start`).
    pub fn update(&mut self, members: impl IntoIterator<Item = Member>, now: Millis) {
        let first = self.peers.is_empty();
        let mut known: Vec<Option<Peer>> = std::mem::take(&mut self.peers).into_iter().map(Some).collect();
        for member in members {
            let same = |peer: &Option<Peer>| peer.as_ref().is_some_and(|peer| peer.is(&member));
            let kept = known.iter_mut().find(|peer| same(peer)).and_then(Option::take);
            let peer = match kept {
                Some(peer) => peer.with(member.settings),
                None => {
                    let id = PeerId(self.next);
                    self.next = self.next.wrapping_add(1);
                    Peer::new(id, member, (!first).then_some(now))
                }
            };
            self.peers.push(peer);
        }
        let wanted = self.sticks || matches!(self.algorithm, Algorithm::ConsistentHash { .. });
        self.ring.place(self.peers.iter().filter(|_| wanted));
    }

    /// The server for a request that has tried `tried` before; its place among the members. It is counted in the server's
    /// [`Load`] until [`Load::release`]. `None`: none can be had. Backup servers are only asked when no other can be had.
    pub fn pick(&mut self, asked: &Asked<'_>, tried: &mut Tried, now: Millis) -> Option<usize> {
        if self.sticks && !asked.stick.is_empty() {
            let index = self.consistent_hash(asked.stick, 0, tried, now)?;
            return self.take(index, tried, now);
        }
        let index = match self.algorithm {
            Algorithm::RoundRobin => self.round_robin(tried, now),
            Algorithm::LeastConn => self.least_conn(tried, now),
            Algorithm::IpHash => self.address_hash(asked.client, tried, now),
            Algorithm::Hash => self.key_hash(asked.key, tried, now),
            Algorithm::ConsistentHash { load_factor } => self.consistent_hash(asked.key, load_factor, tried, now),
            Algorithm::RandomTwo => self.random_two(tried, now),
            Algorithm::LeastTime => self.least_time(tried, now),
        }?;
        self.take(index, tried, now)
    }

    /// One server by name, for a client that sticks to it: also if it drains, not if it is down, failing or full. Counted
    /// as by [`Group::pick`].
    pub fn pick_this(&mut self, id: PeerId, tried: &mut Tried, now: Millis) -> Option<usize> {
        let single = self.peers.len() == 1;
        let index = self.index(id)?;
        let keeps = self.peers.get(index).is_some_and(|peer| !tried.contains(id) && peer.keeps(single, now));
        if keeps { self.take(index, tried, now) } else { None }
    }

    fn take(&mut self, index: usize, tried: &mut Tried, now: Millis) -> Option<usize> {
        let peer = self.peers.get_mut(index)?;
        peer.begin(now);
        tried.insert(peer.id);
        Some(index)
    }

    /// The server could not be reached or broke off. Returns whether it is skipped from now on and was not before.
    pub fn failed(&mut self, id: PeerId, now: Millis) -> bool {
        if self.peers.len() == 1 {
            // There is nowhere else to go.
            return false;
        }
        self.peer_mut(id).is_some_and(|peer| peer.fail(now))
    }

    /// The server answered. Clears its failures if this was the trial after `fail_timeout`; returns whether it did.
    pub fn succeeded(&mut self, id: PeerId, now: Millis) -> bool {
        self.peer_mut(id).is_some_and(|peer| peer.succeed(now))
    }

    /// The time from sending a request to the first byte of its response, for [`Algorithm::LeastTime`].
    pub fn observed(&mut self, id: PeerId, micros: u64, now: Millis) {
        if let Some(peer) = self.peer_mut(id) {
            peer.latency.observe(micros, now);
        }
    }

    /// Sets or takes away what others have found out about a server: it gets nothing while it has any mark. Returns
    /// whether that changed the mark. A server whose last mark goes starts slowly.
    pub fn mark(&mut self, id: PeerId, mark: Mark, on: bool, now: Millis) -> bool {
        self.peer_mut(id).is_some_and(|peer| peer.mark(mark, on, now))
    }

    /// What an operator wants of the server, beside its configuration; kept until the configuration of it changes.
    /// Returns whether there is such a server.
    pub fn order(&mut self, id: PeerId, duty: Duty, now: Millis) -> bool {
        self.peer_mut(id).map(|peer| peer.order(duty, now)).is_some()
    }

    /// Another weight, beside its configuration; 0 counts as 1. The ring of consistent hashing stays as configured.
    /// Returns whether there is such a server.
    pub fn weigh(&mut self, id: PeerId, weight: u32) -> bool {
        self.peer_mut(id).map(|peer| peer.weigh(weight)).is_some()
    }

    /// How many live connections the servers that are well and no backups have above their fair part of all of them, by
    /// weight; those with none above are left out.
    pub fn excess(&self, now: Millis) -> Vec<(usize, u32)> {
        let single = self.peers.len() == 1;
        let well = |peer: &&Peer| !peer.settings.backup && peer.view(single, now).is_healthy();
        let (live, total) = self.peers.iter().filter(well).fold((0, 0), |(live, total), peer| {
            (live + i128::from(peer.load.live()), total + i128::from(peer.weight()))
        });
        let numbered = self.peers.iter().enumerate().filter(|(_, peer)| well(peer));
        let above = numbered.filter_map(|(index, peer)| {
            let fair = (live * i128::from(peer.weight())).div_euclid(total.max(1));
            // Rounded in favour of who has them: one too few moves back and forth.
            let fair = if fair * total < live * i128::from(peer.weight()) { fair + 1 } else { fair };
            u32::try_from(i128::from(peer.load.live()) - fair)
                .ok()
                .filter(|above| *above > 0)
                .map(|above| (index, above))
        });
        above.collect()
    }

    /// How many servers the group has.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether the group has no server at all.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Whether a request would find a server now.
    pub fn is_available(&self, now: Millis) -> bool {
        let single = self.peers.len() == 1;
        self.peers.iter().any(|peer| peer.serves(single, now))
    }

    /// Everything about the servers, in their order.
    pub fn peers(&self, now: Millis) -> impl Iterator<Item = PeerView<'_>> {
        let single = self.peers.len() == 1;
        self.peers.iter().map(move |peer| peer.view(single, now))
    }

    /// The server's id.
    pub fn id(&self, index: usize) -> Option<PeerId> {
        self.peers.get(index).map(|peer| peer.id)
    }

    /// The server's place.
    pub fn index(&self, id: PeerId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id)
    }

    /// Where the server's live connections are counted.
    pub fn load(&self, index: usize) -> Option<&Arc<Load>> {
        self.peers.get(index).map(|peer| &peer.load)
    }

    fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }
}

#[cfg(test)]
mod tests;
