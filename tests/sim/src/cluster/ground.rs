use std::sync::Arc;

use tidegate_types::{Epoch, NodeId, PresenceInfo, Publication, RoomName, SessionOffset, SpaceKey, UserId};

use super::pipe::Pipe;
use super::truth::Truth;
use crate::rng::Rng;
use crate::truth::Broken;

/// A rule that is broken on purpose, to see the checker notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// All rules hold.
    Nothing,
    /// Nobody says what they had seen when the broker comes back with less.
    RenewSkipped,
    /// A broken subscription is subscribed again, and nothing more.
    CutsIgnored,
    /// A client is told that it has joined or left before its session's record is stored.
    AckBeforeSave,
    /// Nobody takes a dead node's leases back.
    LeasesOfTheDeadKept,
    /// The leases that the broker has lost are not repeated.
    LeasesNotRepeated,
    /// A message is sent again under another name.
    RepeatsUnnamed,
    /// A session that comes back is given all it had, without looking what it missed.
    MissedSkipped,
    /// Messages of one tenant are delivered to the other.
    TenantsMixed,
    /// Members are not told that something is lost.
    GapsUntold,
}

/// What happened, for the test to see that it was worth something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages that the broker took.
    pub published: u64,
    /// Messages that clients got.
    pub delivered: u64,
    /// Messages whose sender was told that they are kept.
    pub acked: u64,
    /// Messages sent again that the broker had.
    pub repeats: u64,
    /// Sessions resumed, on the node that they were on.
    pub recovered_here: u64,
    /// Sessions resumed on another node.
    pub recovered_elsewhere: u64,
    /// Sessions that began afresh although there had been one.
    pub afresh: u64,
    /// Times that a room's members were told of a gap.
    pub gaps: u64,
    /// Connections to the broker that broke.
    pub cuts: u64,
    /// Nodes killed.
    pub kills: u64,
    /// Nodes frozen for a while.
    pub freezes: u64,
    /// Dead nodes whose leases were taken back.
    pub buried: u64,
    /// Nodes that were taken for dead and live.
    pub mistaken: u64,
    /// Lives of the broker that lost nothing.
    pub restarts: u64,
    /// Lives of the broker that lost something.
    pub losses: u64,
    /// Messages that the broker lost.
    pub lost: u64,
    /// New epochs.
    pub renewals: u64,
    /// Jumps of a clock.
    pub jumps: u64,
    /// Sessions that were asked for after the broker had lost their last record.
    pub stale_sessions: u64,
    /// Clients whose cursor names a message that the broker has lost.
    pub lost_cursors: u64,
}

impl Report {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.published += other.published;
        self.delivered += other.delivered;
        self.acked += other.acked;
        self.repeats += other.repeats;
        self.recovered_here += other.recovered_here;
        self.recovered_elsewhere += other.recovered_elsewhere;
        self.afresh += other.afresh;
        self.gaps += other.gaps;
        self.cuts += other.cuts;
        self.kills += other.kills;
        self.freezes += other.freezes;
        self.buried += other.buried;
        self.mistaken += other.mistaken;
        self.restarts += other.restarts;
        self.losses += other.losses;
        self.lost += other.lost;
        self.renewals += other.renewals;
        self.jumps += other.jumps;
        self.stale_sessions += other.stale_sessions;
        self.lost_cursors += other.lost_cursors;
    }
}

pub enum ToServer {
    Hello { tenant: usize, user: UserId, session: Option<(String, SessionOffset)> },
    Join { ask: u64, room: RoomName },
    Leave { ask: u64, room: RoomName },
    Send { ask: u64, room: RoomName, number: u64, persistent: bool },
}

pub enum ToClient {
    Welcome {
        pid: String,
        recovered: bool,
        elsewhere: bool,
    },
    /// Where the client stands from now on.
    Stands(SessionOffset),
    Joined {
        ask: u64,
        room: RoomName,
        epoch: Epoch,
        seq: u64,
        users: Vec<UserId>,
    },
    Left {
        ask: u64,
    },
    Refused {
        ask: u64,
    },
    Acked {
        ask: u64,
    },
    Message(Arc<Publication>),
    Gap {
        room: RoomName,
        offset: u64,
    },
    /// Who is in the room.
    Present {
        room: RoomName,
        users: Vec<UserId>,
    },
    Came {
        room: RoomName,
        user: PresenceInfo,
    },
    Went {
        room: RoomName,
        user: UserId,
    },
}

/// A client's connection to a node.
pub struct Link {
    pub node: NodeId,
    pub up: Pipe<ToServer>,
    pub down: Pipe<ToClient>,
    pub is_cut: bool,
    pub client_learns: Option<u64>,
    pub server_learns: Option<u64>,
}

impl Link {
    pub fn cut(&mut self, now: u64, rng: &mut Rng) {
        if self.is_cut {
            return;
        }
        self.is_cut = true;
        self.up.cut(rng);
        self.down.cut(rng);
        self.client_learns = Some(now + rng.below(800));
        self.server_learns = Some(now + rng.below(3_000));
    }

    /// The node has ended the connection.
    pub fn end(&mut self, now: u64, rng: &mut Rng) {
        self.cut(now, rng);
        self.server_learns = None;
    }
}

/// What everybody stands on.
pub struct Ground {
    pub now: u64,
    pub rng: Rng,
    pub redis_skew: i64,
    pub dead_after_ms: u64,
    pub keys: Vec<Arc<SpaceKey>>,
    pub truths: Vec<Truth>,
    pub links: Vec<Link>,
    pub sabotage: Sabotage,
    pub report: Report,
    pub broken: Option<Broken>,
    /// No more faults: everything must come to rest.
    pub healed: bool,
    pub numbers: u64,
}

/// When a run begins, ms since the Unix epoch.
pub const BEGIN: u64 = 1_700_000_000_000;

impl Ground {
    pub fn redis_clock(&self) -> u64 {
        (BEGIN + self.now).saturating_add_signed(self.redis_skew)
    }

    /// Remembers the first broken promise.
    pub fn check(&mut self, outcome: Result<(), Broken>) {
        if let Err(broken) = outcome {
            self.broken.get_or_insert(broken);
        }
    }

    pub fn open_link(&mut self, node: NodeId) -> usize {
        self.links.push(Link {
            node,
            up: Pipe::new(),
            down: Pipe::new(),
            is_cut: false,
            client_learns: None,
            server_learns: None,
        });
        self.links.len() - 1
    }

    pub fn send_up(&mut self, link: usize, message: ToServer) {
        if let Some(of) = self.links.get_mut(link).filter(|of| !of.is_cut) {
            of.up.send(message, self.now, &mut self.rng);
        }
    }

    pub fn send_down(&mut self, link: usize, message: ToClient) {
        if let Some(of) = self.links.get_mut(link).filter(|of| !of.is_cut) {
            of.down.send(message, self.now, &mut self.rng);
        }
    }
}
