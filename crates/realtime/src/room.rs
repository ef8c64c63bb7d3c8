/// One local member of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub slot: u32,
    /// Messages up to this sequence number have reached the member on another way (before it joined, or by replay).
    pub after_seq: u64,
}

const GONE: u32 = u32::MAX;

impl Member {
    pub fn is_gone(self) -> bool {
        self.slot == GONE
    }
}

/// The members of a room on one shard.
///
/// A fan-out pauses between chunks of members, and members come and go meanwhile: while one is under way, those that go
/// leave a hole, so that nobody moves to a place that has been passed.
#[derive(Debug, Default)]
pub(crate) struct LocalRoom {
    members: Vec<Member>,
    holes: usize,
    walking: bool,
}

impl LocalRoom {
    /// Adds a member; returns its index.
    pub fn add(&mut self, member: Member) -> u32 {
        self.members.push(member);
        u32::try_from(self.members.len() - 1).unwrap_or(GONE)
    }

    /// Removes the member at the index. Returns the member that has moved to that index, if any.
    pub fn remove(&mut self, index: u32) -> Option<Member> {
        let index = index as usize;
        let member = self.members.get_mut(index)?;
        if self.walking {
            member.slot = GONE;
            self.holes += 1;
            return None;
        }
        self.members.swap_remove(index);
        self.members.get(index).copied()
    }

    /// Begins or goes on with a walk: the members from `from` on, at most `most` of them.
    pub fn walk(&mut self, from: usize, most: usize) -> &[Member] {
        self.walking = true;
        let end = (from + most).min(self.members.len());
        self.members.get(from..end).unwrap_or_default()
    }

    /// The slots of the members.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.members.iter().filter(|member| !member.is_gone()).map(|member| member.slot)
    }

    /// The numbers have begun again: what comes is new to all members.
    pub fn renew(&mut self) {
        self.members.iter_mut().for_each(|member| member.after_seq = 0);
    }

    /// Ends a walk. Returns the members that have moved, with their new index, when there were holes.
    pub fn walked(&mut self) -> Vec<(Member, u32)> {
        self.walking = false;
        if self.holes == 0 {
            return Vec::new();
        }
        self.holes = 0;
        self.members.retain(|member| !member.is_gone());
        (0..).zip(&self.members).map(|(index, member)| (*member, index)).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.members.len() == self.holes && !self.walking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(slot: u32) -> Member {
        Member { slot, after_seq: 0 }
    }

    #[test]
    fn a_member_that_leaves_moves_the_last_one_into_its_place() {
        let mut room = LocalRoom::default();
        (0..3).for_each(|slot| _ = room.add(member(slot)));
        assert_eq!(room.remove(0), Some(member(2)));
        assert_eq!(room.remove(1), None);
        assert_eq!(room.remove(0), None);
        assert!(room.is_empty());
    }

    #[test]
    fn nobody_is_passed_over_when_members_leave_during_a_fan_out() {
        let mut room = LocalRoom::default();
        (0..4).for_each(|slot| _ = room.add(member(slot)));
        let mut seen: Vec<u32> = room.walk(0, 2).iter().map(|member| member.slot).collect();
        assert_eq!(room.remove(0), None);
        seen.extend(room.walk(2, 2).iter().map(|member| member.slot));
        assert_eq!(seen, [0, 1, 2, 3]);
        let moved = room.walked();
        assert_eq!(moved, [(member(1), 0), (member(2), 1), (member(3), 2)]);
    }
}
