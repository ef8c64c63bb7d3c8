//! What a node does about its membership, and what it knows of the others: pure, time comes in, calls go out as [`Advice`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidegate_types::{Millis, NodeId, NodeNumber};

use super::member::Member;
use super::reply::{Beat, Beaten, Registered};

/// How much is remembered of what was left out, so that it is told once.
const MOST_LEFT_OUT: usize = 1_024;
/// Between two heartbeats, ms, however much changes.
const HURRY_MS: u64 = 100;
/// Claims of one heartbeat, as in the script: when there are as many, there may be more.
const MOST_CLAIMS: usize = 8;

/// How often a node says that it lives, and when it is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipSettings {
    /// Between two heartbeats, ms.
    pub heartbeat_ms: u64,
    /// Silent for so long, a node is dead, ms.
    pub node_timeout_ms: u64,
}

impl Default for MembershipSettings {
    fn default() -> Self {
        Self { heartbeat_ms: 2_000, node_timeout_ms: 5_000 }
    }
}

/// What the scripts are told of time, ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Silent for so long, a node is dead.
    pub timeout_ms: u64,
    /// For how long a dead node's number is given to nobody else. Its clients have long been told that their sessions are
    /// unknown; and a node that was paused for less gets it back, and its polling clients notice nothing.
    pub cooling_ms: u64,
    /// For how long who claimed a dead node has time to take back what it held.
    pub claim_ms: u64,
    /// How long the keys live without any member.
    pub ttl_ms: u64,
}

impl From<MembershipSettings> for Terms {
    fn from(settings: MembershipSettings) -> Self {
        let timeout_ms = settings.node_timeout_ms;
        Self { timeout_ms, cooling_ms: 3_600_000, claim_ms: timeout_ms.max(10_000), ttl_ms: 24 * 3_600_000 }
    }
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Ask for membership, if possible under this number (0: none is preferred).
    Register(u16),
    /// Say that the node lives.
    Beat {
        /// The changes that are known.
        version: u64,
        /// Whether its record has changed.
        record: bool,
    },
    /// End the membership: the cluster does not speak this node's protocol.
    Withdraw,
    /// Nothing for so long, ms.
    Sleep(u64),
}

/// What came of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// The node is a member, from now on or again, under this number: what it holds is to be told anew.
    pub joined: Option<NodeNumber>,
    /// It was taken to be dead, or Redis has forgotten it.
    pub lost: bool,
    /// Dead nodes that are this node's to bury, with their names as far as known.
    pub claimed: Vec<(NodeId, Option<Box<str>>)>,
    /// Whether the members are others than before.
    pub changed: bool,
    /// Members that speak another protocol, each told once.
    pub misfits: Vec<Member>,
    /// Ids of members whose records cannot be read, each told once.
    pub unreadable: Vec<Box<str>>,
    /// There is no number left.
    pub full: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No member.
    Outside,
    /// A member that has not seen the others yet: it may be the one that does not fit.
    Joining,
    /// A member.
    Inside,
    /// A member that has to go.
    Misfit,
}

/// A node's membership, as the node sees it.
#[derive(Clone, Debug)]
pub struct Membership {
    me: Member,
    settings: MembershipSettings,
    phase: Phase,
    /// The others, readable and fitting.
    others: BTreeMap<NodeId, Member>,
    version: u64,
    record_changed: bool,
    next: Millis,
    heard: Option<Millis>,
    left_out: BTreeSet<Box<[u8]>>,
}

impl Membership {
    /// Of a node that is no member yet; the number in `me` is one that it would like, or 0.
    pub fn new(me: Member, settings: MembershipSettings) -> Self {
        Self {
            me,
            settings,
            phase: Phase::Outside,
            others: BTreeMap::new(),
            version: 0,
            record_changed: false,
            next: 0,
            heard: None,
            left_out: BTreeSet::new(),
        }
    }

    /// This node, as it is told to the others.
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// The other members that this node understands, by their ids. When Redis cannot be reached: those that were known last.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.others.values()
    }

    /// How often it says that it lives.
    pub fn settings(&self) -> MembershipSettings {
        self.settings
    }

    /// Whether the node is a member, as far as it knows.
    pub fn is_member(&self) -> bool {
        self.phase == Phase::Inside
    }

    /// Whether Redis has answered within the node timeout.
    pub fn in_touch(&self, now: Millis) -> bool {
        self.heard.is_some_and(|heard| now.saturating_sub(heard) <= self.settings.node_timeout_ms)
    }

    /// Says something else of this node from now on.
    pub fn change(&mut self, change: impl FnOnce(&mut Member), now: Millis) {
        let before = self.me.clone();
        change(&mut self.me);
        if self.me != before {
            self.record_changed = true;
            self.next = now;
        }
    }

    /// What to do now. The same again until an answer has been taken in, or the time to sleep is over.
    pub fn advice(&self, now: Millis) -> Advice {
        if now < self.next {
            return Advice::Sleep(self.next - now);
        }
        match self.phase {
            Phase::Outside => Advice::Register(self.me.number.0),
            Phase::Joining | Phase::Inside => Advice::Beat { version: self.version, record: self.record_changed },
            Phase::Misfit => Advice::Withdraw,
        }
    }

    /// Takes in the answer to [`Advice::Register`].
    pub fn registered(&mut self, answer: Registered, now: Millis) -> Noted {
        self.heard = Some(now);
        let mut noted = Noted::default();
        match answer {
            Registered::Member(number) => {
                self.me.number = number;
                self.phase = Phase::Joining;
                self.record_changed = false;
                self.version = 0;
                self.next = now;
            }
            // Whoever takes back what was held does so in a moment, and has until the claim runs out.
            Registered::Wait => self.next = now + self.soon(),
            Registered::Full => {
                noted.full = true;
                self.next = now + self.settings.node_timeout_ms;
            }
        }
        noted
    }

    /// Takes in the answer to [`Advice::Beat`]; `record` as there.
    pub fn beaten(&mut self, answer: Beat, record: bool, now: Millis) -> Noted {
        self.heard = Some(now);
        if record {
            self.record_changed = false;
        }
        let mut noted = Noted::default();
        let beaten = match answer {
            Beat::Gone => {
                noted.lost = self.phase == Phase::Inside;
                self.phase = Phase::Outside;
                self.version = 0;
                self.next = now;
                return noted;
            }
            Beat::Member(beaten) => *beaten,
        };
        self.next = now + self.until_next(&beaten);
        self.version = beaten.version;
        let name = |id: &NodeId| self.others.get(id).map(|member| member.name.clone());
        noted.claimed = beaten.claimed.iter().map(|id| (*id, name(id))).collect();
        self.learn(&beaten, &mut noted);
        if self.phase == Phase::Joining {
            if noted.misfits.is_empty() {
                self.phase = Phase::Inside;
                noted.joined = Some(self.me.number);
            } else {
                self.phase = Phase::Misfit;
                // With their next heartbeat the others see it, and can tell their operators too.
                self.next = now + self.settings.heartbeat_ms + self.soon();
            }
        }
        noted
    }

    /// Takes in that [`Advice::Withdraw`] has been done. The node tries again later: the others may have been replaced.
    pub fn withdrawn(&mut self, now: Millis) {
        self.phase = Phase::Outside;
        self.others.clear();
        self.left_out.clear();
        self.next = now + self.settings.node_timeout_ms;
    }

    /// Others have changed: what, the next heartbeat tells, which comes soon.
    pub fn hurry(&mut self, now: Millis) {
        if matches!(self.phase, Phase::Misfit) || self.is_waiting_outside(now) {
            return;
        }
        // When many come at once, as after a restart of all, not each is worth a heartbeat.
        let earliest = self.heard.map_or(now, |heard| heard + HURRY_MS);
        self.next = self.next.min(earliest.max(now));
    }

    /// After a withdrawal or a refusal there is a time to wait for, whatever happens among the others.
    fn is_waiting_outside(&self, now: Millis) -> bool {
        self.phase == Phase::Outside && self.heard.is_some() && self.next > now + self.soon()
    }

    /// There was no answer.
    pub fn failed(&mut self, now: Millis) {
        self.next = now + self.soon();
    }

    fn soon(&self) -> u64 {
        (self.settings.heartbeat_ms / 4).max(1)
    }

    /// The next heartbeat comes when somebody silent becomes dead, if that is before its time: so nobody is found dead later
    /// than need be.
    fn until_next(&self, beaten: &Beaten) -> u64 {
        let usual = self.settings.heartbeat_ms;
        if beaten.claimed.len() >= MOST_CLAIMS {
            return 1;
        }
        match self.settings.node_timeout_ms.checked_sub(beaten.silence_ms) {
            Some(left) => usual.min(left + 2),
            // Somebody is silent, and this node has no right to judge yet.
            None => usual,
        }
    }

    fn learn(&mut self, beaten: &Beaten, noted: &mut Noted) {
        let before = if beaten.whole { std::mem::take(&mut self.others) } else { BTreeMap::new() };
        if beaten.whole {
            self.left_out.retain(|id| beaten.changed.iter().any(|(known, _)| **known == **id));
        }
        for (id, entry) in &beaten.changed {
            noted.changed |= self.learn_one(id, entry, noted);
        }
        if beaten.whole {
            noted.changed = before != self.others;
        }
    }

    /// Whether it changes who the members are.
    fn learn_one(&mut self, id: &Bytes, entry: &Bytes, noted: &mut Noted) -> bool {
        let known = std::str::from_utf8(id).ok().and_then(|id| id.parse::<NodeId>().ok());
        if known == Some(self.me.id) {
            return false;
        }
        let forgotten = |others: &mut BTreeMap<_, _>| known.and_then(|id| others.remove(&id)).is_some();
        if entry.is_empty() {
            self.left_out.remove(&**id);
            return forgotten(&mut self.others);
        }
        let member = match Member::read(id, entry) {
            Ok(member) if member.protocol.fits(self.me.protocol) => member,
            Ok(misfit) => {
                if self.leave_out(id) {
                    noted.misfits.push(misfit);
                }
                return forgotten(&mut self.others);
            }
            Err(_) => {
                if self.leave_out(id) {
                    noted.unreadable.push(String::from_utf8_lossy(id).chars().take(32).collect::<String>().into());
                }
                return forgotten(&mut self.others);
            }
        };
        self.left_out.remove(&**id);
        let before = self.others.insert(member.id, member.clone());
        before.is_none_or(|before| before != member)
    }

    /// Whether it is new that this one is left out.
    fn leave_out(&mut self, id: &Bytes) -> bool {
        self.left_out.len() < MOST_LEFT_OUT && self.left_out.insert(Box::from(&**id))
    }
}

#[cfg(test)]
mod tests;
