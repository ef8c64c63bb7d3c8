//! Who has which slot, and the link to each.

use std::rc::Rc;

use super::link::Link;
use super::slot::{SLOTS, Slot, Slots};

/// A server that there is, whether it is reached or not. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member(u32);

const NOBODY: u32 = 0;

/// All servers.
pub(super) struct Members {
    owners: Vec<u32>,
    links: Vec<(Member, Rc<Link>)>,
    next: u32,
}

impl Default for Members {
    fn default() -> Self {
        Self { owners: vec![NOBODY; usize::from(SLOTS)], links: Vec::new(), next: 1 }
    }
}

impl Members {
    pub(super) fn add(&mut self) -> Member {
        let member = Member(self.next);
        self.next += 1;
        member
    }

    /// The one that has all slots.
    pub(super) fn add_only(&mut self) -> Member {
        let member = self.add();
        self.owners.fill(member.0);
        member
    }

    pub(super) fn link(&self, slot: Slot) -> Option<Rc<Link>> {
        let owner = *self.owners.get(usize::from(slot.index()))?;
        self.links.iter().find(|(member, _)| member.0 == owner).map(|(_, link)| Rc::clone(link))
    }

    pub(super) fn owner(&self, slot: Slot) -> Option<Member> {
        self.owners.get(usize::from(slot.index())).copied().filter(|owner| *owner != NOBODY).map(Member)
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Rc<Link>> {
        self.links.iter().map(|(_, link)| link)
    }

    /// Whether every slot is somebody's, reached or not.
    pub(super) fn all_owned(&self) -> bool {
        !self.owners.contains(&NOBODY)
    }

    pub(super) fn all_up(&self) -> bool {
        self.owners.iter().all(|owner| self.links.iter().any(|(member, _)| member.0 == *owner))
    }

    fn of(&self, member: Member) -> Slots {
        Slots::filter(|slot| self.owners.get(usize::from(slot)) == Some(&member.0))
    }

    /// Its link has come: for these slots.
    pub(super) fn put(&mut self, member: Member, link: Rc<Link>) -> Slots {
        self.links.push((member, link));
        self.of(member)
    }

    /// Its link has gone, with these slots.
    pub(super) fn take(&mut self, member: Member) -> Option<(Rc<Link>, Slots)> {
        let place = self.links.iter().position(|(other, _)| *other == member)?;
        let (_, link) = self.links.swap_remove(place);
        Some((link, self.of(member)))
    }

    /// It does not have this slot any more. Whether that is news.
    pub(super) fn disown(&mut self, member: Member, slot: Slot) -> bool {
        match self.owners.get_mut(usize::from(slot.index())) {
            Some(owner) if *owner == member.0 => {
                *owner = NOBODY;
                true
            }
            _ => false,
        }
    }

    /// Who has which slots from now on (`None`: nobody). What that takes from links, and what it gives to links.
    pub(super) fn assign(&mut self, owner_of: impl Fn(u16) -> Option<Member>) -> (Vec<Change>, Vec<Change>) {
        let now: Vec<u32> = (0..SLOTS).map(|slot| owner_of(slot).map_or(NOBODY, |member| member.0)).collect();
        let before = std::mem::replace(&mut self.owners, now);
        let differs = |slot: u16, of: &[u32], than: &[u32], member: Member| {
            let slot = usize::from(slot);
            of.get(slot) == Some(&member.0) && than.get(slot) != Some(&member.0)
        };
        let changes = |of: &[u32], than: &[u32]| {
            let change = |(member, link): &(Member, Rc<Link>)| Change {
                link: Rc::clone(link),
                slots: Slots::filter(|slot| differs(slot, of, than, *member)),
            };
            self.links.iter().map(change).filter(|change| !change.slots.is_empty()).collect()
        };
        (changes(&before, &self.owners), changes(&self.owners, &before))
    }
}

/// Slots that a link lost or won.
pub(super) struct Change {
    pub(super) link: Rc<Link>,
    pub(super) slots: Slots,
}
