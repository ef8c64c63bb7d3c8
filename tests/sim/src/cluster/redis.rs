//! The broker's end: the model of Redis behind connections that delay and lose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_cluster::model::{Channel, Life, Limits, Loss, Pushes, RunId, Seen, Server, Subscriber};
use tidegate_cluster::redis::Found;
use tidegate_cluster::{Claimed, Outgoing, Placed};
use tidegate_hub::{Pid, SessionRecord};
use tidegate_types::{Epoch, NodeId, PresenceInfo, Publication, RoomName, SpaceKey, UserId};

use super::ground::Ground;
use super::truth::Accepted;

/// The newest so many messages of a room are kept.
pub const KEPT: usize = 40;
/// How many of its last writes a broker can lose.
const LAG: usize = 64;

/// A call of a script.
#[derive(Clone)]
pub enum Request {
    Touch {
        space: usize,
        seen: Option<Seen>,
    },
    Publish {
        space: usize,
        number: u64,
        message: Box<Outgoing>,
    },
    /// A look at a room that leaves a mark, or a read of what was missed after a number.
    Look {
        space: usize,
        room: RoomName,
        mark: Option<u64>,
        after: Option<u64>,
    },
    Lease {
        space: usize,
        room: RoomName,
        user: UserId,
        info: Option<Box<PresenceInfo>>,
    },
    /// With how long it lives, unless its client is connected.
    Save(Box<SessionRecord>, Option<u64>),
    Drop(Pid),
    Claim {
        space: usize,
        pid: Pid,
        user: UserId,
    },
    /// Messages for a session that comes back.
    Log {
        space: usize,
        room: RoomName,
        after: u64,
    },
    Beat {
        first: bool,
    },
    EndLeases(NodeId),
    Supersede {
        on: NodeId,
        pid: Pid,
    },
}

pub enum Answer {
    /// The space has to be looked at first.
    OtherRun,
    Touched(Life),
    Placed(Placed),
    Found(Box<Found>),
    /// Whether the session was still the node's.
    Saved {
        pid: Pid,
        is_ours: bool,
    },
    Claimed(Option<Box<Claimed>>),
    Log(Option<Vec<Arc<Publication>>>),
    /// Whether the node is a member, and whom it is to bury.
    Member(bool, Vec<NodeId>),
    Done,
}

pub struct Redis {
    pub server: Server,
    pub down_until: Option<u64>,
    runs: u64,
    epochs: u64,
    /// The last write of each session that was answered.
    saved: BTreeMap<Pid, Option<SessionRecord>>,
    /// Sessions of which the broker has an older record than somebody was told that it has.
    stale: BTreeSet<Pid>,
}

impl Redis {
    pub fn new() -> Self {
        let limits = Limits { messages_per_room: KEPT, ..Limits::default() };
        Self {
            server: Server::new(RunId(1), limits, LAG),
            down_until: None,
            runs: 1,
            epochs: 100,
            saved: BTreeMap::new(),
            stale: BTreeSet::new(),
        }
    }

    pub fn is_up(&self) -> bool {
        self.down_until.is_none()
    }

    fn fresh(&mut self) -> Epoch {
        self.epochs += 1;
        Epoch(self.epochs)
    }

    /// Another life begins.
    pub fn restart(&mut self, g: &mut Ground, loss: Loss) {
        self.runs += 1;
        self.server.restart(RunId(self.runs), loss);
        // A stale record looks like any other: to Redis, whoever claims it is told less than its client was in. This is a
        // known limit (docs/scaling.md); here the claim finds nothing, so that it does not hide what else there is.
        let now = g.redis_clock();
        for (pid, record) in &self.saved {
            if record.is_some() && self.server.session(pid, now) != *record || record.is_none() {
                self.stale.insert(pid.clone());
            }
        }
        let writes = self.server.writes();
        for truth in &mut g.truths {
            g.report.lost += truth.lost_after(writes);
        }
    }

    pub fn call(&mut self, g: &mut Ground, node: NodeId, request: Request, out: &mut Pushes) -> Answer {
        let now = g.redis_clock();
        let key = |space: usize| g.keys.get(space).cloned();
        match request {
            Request::Touch { space, seen } => {
                let fresh = self.fresh();
                let seen = if g.sabotage == super::Sabotage::RenewSkipped { None } else { seen };
                let Some(key) = key(space) else { return Answer::OtherRun };
                let life = self.server.touch(&key, seen, fresh);
                g.report.renewals += u64::from(seen.is_some() && life.epoch == fresh);
                Answer::Touched(life)
            }
            Request::Publish { space, number, message } => self.publish(g, space, number, &message, out),
            Request::Look { space, room, mark, after } => {
                let Some(key) = key(space) else { return Answer::OtherRun };
                let mark = mark.map(|mark| (node, mark));
                let Ok(look) = self.server.look(&key, &room, mark, now, out) else { return Answer::OtherRun };
                let log = |after| self.server.log_by_seq(&key, &room, after, u64::MAX, usize::MAX, now);
                Answer::Found(Box::new((look, after.map_or(Some(Vec::new()), log))))
            }
            Request::Lease { space, room, user, info } => {
                if let Some(key) = key(space) {
                    self.server.lease(&key, &room, node, &user, info.map(|info| *info), out);
                }
                Answer::Done
            }
            Request::Save(record, ttl_ms) => {
                let is_ours = self.server.save_session(node, &record, ttl_ms, now);
                if is_ours {
                    self.stale.remove(&record.pid);
                    self.saved.insert(record.pid.clone(), Some(*record.clone()));
                }
                Answer::Saved { pid: record.pid, is_ours }
            }
            Request::Drop(pid) => {
                self.server.drop_session(node, &pid, now);
                self.saved.insert(pid.clone(), None);
                Answer::Saved { pid, is_ours: true }
            }
            Request::Claim { space, pid, user } => {
                let Some(key) = key(space) else { return Answer::OtherRun };
                if self.stale.contains(&pid) {
                    g.report.stale_sessions += 1;
                    return Answer::Claimed(None);
                }
                match self.server.claim(node, &key, &pid, &user, now) {
                    Ok(claimed) => Answer::Claimed(claimed.map(Box::new)),
                    Err(_) => Answer::OtherRun,
                }
            }
            Request::Log { space, room, after } => {
                let Some(key) = key(space) else { return Answer::OtherRun };
                Answer::Log(self.server.log_by_seq(&key, &room, after, u64::MAX, usize::MAX, now))
            }
            Request::Beat { first } => self.beat(g, node, first, now),
            Request::EndLeases(dead) => {
                if g.sabotage != super::Sabotage::LeasesOfTheDeadKept && self.server.bury(dead, node, out) {
                    g.report.buried += 1;
                }
                Answer::Done
            }
            Request::Supersede { on, pid } => {
                let to = tidegate_cluster::Audience::Node(on);
                let body = bytes::Bytes::copy_from_slice(pid.as_str().as_bytes());
                self.server.signal(Subscriber(0), node, to, body, out);
                Answer::Done
            }
        }
    }

    fn publish(&mut self, g: &mut Ground, space: usize, number: u64, message: &Outgoing, out: &mut Pushes) -> Answer {
        let now = g.redis_clock();
        let Ok(placed) = self.server.publish(message, now, out) else { return Answer::OtherRun };
        if placed.duplicate.is_some() {
            g.report.repeats += 1;
        } else if let Some(truth) = g.truths.get_mut(space) {
            let accepted = Accepted {
                number,
                room: message.room.clone(),
                epoch: placed.position.epoch,
                seq: placed.seq,
                offset: placed.position.offset,
                writes: self.server.writes(),
                lost: false,
                acked: None,
            };
            let outcome = truth.accepted(accepted);
            g.report.published += 1;
            g.check(outcome);
        }
        Answer::Placed(placed)
    }

    fn beat(&mut self, g: &mut Ground, node: NodeId, first: bool, now: u64) -> Answer {
        let is_member = self.server.beat(node, first, now);
        let mut claimed = Vec::new();
        if is_member {
            for member in self.server.members() {
                if member.node != node && self.server.claim_dead(member.node, node, g.dead_after_ms, now) {
                    claimed.push(member.node);
                }
            }
        }
        Answer::Member(is_member, claimed)
    }
}

/// The channels of a node beside those of its rooms.
pub fn own_channels(node: NodeId) -> [Channel; 2] {
    [Channel::Nodes, Channel::Node(node)]
}

/// The channel of a room, or that of the node's marks.
pub fn channel(key: &Arc<SpaceKey>, node: NodeId, room: Option<&RoomName>) -> Channel {
    match room {
        Some(room) => Channel::Room(Arc::clone(key), room.clone()),
        None => Channel::Marks(Arc::clone(key), node),
    }
}
