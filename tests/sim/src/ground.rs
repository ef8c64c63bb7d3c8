//! What server and clients stand on: time, chance, links, stores and the truth.

use crate::link::{Kind, Link};
use crate::rng::Rng;
use crate::store::Store;
use crate::truth::{Broken, Truth};

/// A defect put in on purpose, to see that the checker finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// None: everything must hold.
    Nothing,
    /// After an unclean stop the reservation is forgotten.
    ReservationForgotten,
    /// Senders are told before the store has the message.
    AckBeforeAppend,
    /// The joiner is told before the store has the session's record.
    JoinAckBeforeSave,
    /// What lies in a mailbox from before a join or resume is delivered too.
    SeamIgnored,
    /// The oldest missed message is not replayed.
    ReplaySkipsOne,
    /// What was missed is sent before CONNECT: the stock client buffers it there, and keeps the buffer over the next cut.
    ReplayBeforeConnect,
    /// Members are looked up without their tenant.
    TenantsMixed,
    /// A mailbox hands out the last message first.
    MailboxReordered,
    /// Who comes back is not shown who is there now.
    PresenceNotShown,
    /// A message sent again is published again.
    RepeatsForgotten,
}

/// What happened in a run, to see that it was worth something.
#[derive(Clone, Copy, Default, Debug)]
pub struct Report {
    /// Messages that clients received in order.
    pub delivered: u64,
    /// Reconnects that were told `recovered`.
    pub recovered: u64,
    /// Those of them that were the first after `kill -9`.
    pub recovered_after_kill: u64,
    /// Reconnects that had to start afresh.
    pub afresh: u64,
    /// Resumes that needed the store.
    pub store_reads: u64,
    /// Transports upgraded from polling to WebSocket.
    pub upgrades: u64,
    /// Clean restarts.
    pub restarts: u64,
    /// Ends by `kill -9`.
    pub kills: u64,
    /// Messages that the store refused.
    pub refused: u64,
    /// Durable acks that senders received.
    pub acks: u64,
    /// Messages sent again that had been published.
    pub repeats: u64,
    /// Jumps of the server's clock.
    pub jumps: u64,
}

impl Report {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.recovered += other.recovered;
        self.recovered_after_kill += other.recovered_after_kill;
        self.afresh += other.afresh;
        self.store_reads += other.store_reads;
        self.upgrades += other.upgrades;
        self.restarts += other.restarts;
        self.kills += other.kills;
        self.refused += other.refused;
        self.acks += other.acks;
        self.repeats += other.repeats;
        self.jumps += other.jumps;
    }
}

pub struct Ground {
    /// Goes on steadily, as time does.
    pub now: u64,
    /// What the server's clock says beyond that, ms.
    pub skew: i64,
    pub rng: Rng,
    pub links: Vec<Link>,
    pub stores: Vec<Store>,
    pub truths: Vec<Truth>,
    pub sabotage: Sabotage,
    pub report: Report,
    pub broken: Option<Broken>,
    /// No more faults: everything must come to rest.
    pub healed: bool,
    pub numbers: u64,
}

impl Ground {
    /// The time as the server's clock has it, ms since the Unix epoch: it may jump.
    pub fn wall(&self) -> u64 {
        (self.now + 1_700_000_000_000).saturating_add_signed(self.skew)
    }

    /// Remembers the first broken promise.
    pub fn check(&mut self, outcome: Result<(), Broken>) {
        if let Err(broken) = outcome {
            self.broken.get_or_insert(broken);
        }
    }

    pub fn open_link(&mut self, ghost: bool) -> usize {
        let kind = if self.rng.chance(500) { Kind::WebSocket } else { Kind::Polling };
        self.links.push(Link::new(kind, ghost));
        self.links.len() - 1
    }

    pub fn link(&mut self, index: usize) -> Option<(&mut Link, &mut Rng, u64)> {
        let now = self.now;
        self.links.get_mut(index).map(|link| (link, &mut self.rng, now))
    }
}
