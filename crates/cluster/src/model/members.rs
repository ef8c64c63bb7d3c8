use tidegate_types::{Millis, NodeId, NodeNumber};

use super::Server;
use super::server::Pushes;
use super::state;

/// A node that has been heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its life.
    pub node: NodeId,
    /// Its number.
    pub number: NodeNumber,
    /// When it last said that it lives.
    pub beat_at: Millis,
}

/// A node that has claimed a dead one and dies before it has ended its leases is waited for this long, ms.
const CLAIM_MS: u64 = 10_000;

impl Server {
    /// The node lives. False: it has been taken for dead, and must begin another life.
    pub fn beat(&mut self, node: NodeId, is_first: bool, now: Millis) -> bool {
        self.about_to_write();
        let number = self.free_number();
        match self.state.members.get_mut(&node) {
            Some(member) if member.claimed.is_some() => false,
            Some(member) => {
                member.beat_at = now;
                true
            }
            None if is_first => {
                self.state.members.insert(node, state::Member { number, beat_at: now, claimed: None });
                true
            }
            None => false,
        }
    }

    /// The smallest number that no member has.
    fn free_number(&self) -> NodeNumber {
        let taken = |number: &u16| self.state.members.values().any(|member| member.number.0 == *number);
        NodeNumber((0..u16::MAX).find(|number| !taken(number)).unwrap_or(u16::MAX))
    }

    /// All members, living or not.
    pub fn members(&self) -> Vec<Member> {
        let members = self.state.members.iter();
        members.map(|(node, of)| Member { node: *node, number: of.number, beat_at: of.beat_at }).collect()
    }

    /// Claims a node that has said nothing for `dead_after_ms`. True for one caller, who then calls [`Server::bury`].
    pub fn claim_dead(&mut self, dead: NodeId, by: NodeId, dead_after_ms: u64, now: Millis) -> bool {
        self.about_to_write();
        let Some(member) = self.state.members.get_mut(&dead) else { return false };
        let is_dead = now.saturating_sub(member.beat_at) >= dead_after_ms;
        let is_free = member.claimed.is_none_or(|(_, until)| until <= now);
        if is_dead && is_free {
            member.claimed = Some((by, now.saturating_add(CLAIM_MS)));
        }
        is_dead && is_free
    }

    /// Ends what a dead node held. Only who has claimed it may.
    pub fn bury(&mut self, dead: NodeId, by: NodeId, out: &mut Pushes) -> bool {
        let claimed = self.state.members.get(&dead).and_then(|member| member.claimed);
        if claimed.is_none_or(|(claimer, _)| claimer != by) {
            return false;
        }
        self.about_to_write();
        self.state.members.remove(&dead);
        self.end_leases(dead, out);
        true
    }

    /// A node leaves in good order: as if it had been claimed and buried.
    pub fn leave(&mut self, node: NodeId, out: &mut Pushes) {
        self.about_to_write();
        self.state.members.remove(&node);
        self.end_leases(node, out);
    }
}
