use crate::RoomId;

/// Of the rooms of one order of magnitude at most so many are looked at. With more of them than that the order among
/// rooms that differ by less than a factor of two is a sample's.
pub(crate) const MOST_LOOKED_AT: usize = 4_096;

/// Rooms with somebody in them, by the order of magnitude of how many. A join or leave moves a room rarely and at a
/// constant cost, and the largest are found without a walk over all rooms under the space's lock.
#[derive(Default)]
pub(crate) struct Sizes {
    /// By the number of binary digits of the number of subscribers, less one.
    classes: Vec<Vec<RoomId>>,
    pub rooms: usize,
    pub subscriptions: usize,
}

/// What became of a room whose size changed.
pub(crate) struct Moved {
    /// Where the room stands in its class now.
    pub place: u32,
    /// The room that has taken its old place.
    pub filled_by: Option<RoomId>,
}

impl Sizes {
    /// A room's number of subscribers has changed. `None`: it stays where it is.
    pub fn moved(&mut self, id: RoomId, place: u32, from: u32, to: u32) -> Option<Moved> {
        self.subscriptions = (self.subscriptions + to as usize).saturating_sub(from as usize);
        let (old, new) = (class(from), class(to));
        if old == new {
            return None;
        }
        let mut filled_by = None;
        if let Some(old) = old.and_then(|old| self.classes.get_mut(old)) {
            let index = place as usize;
            if old.get(index) == Some(&id) {
                old.swap_remove(index);
                filled_by = old.get(index).copied();
            }
            if old.capacity() > 4 * old.len() + 64 {
                old.shrink_to(2 * old.len());
            }
        } else {
            self.rooms += 1;
        }
        let Some(new) = new else {
            self.rooms = self.rooms.saturating_sub(1);
            return Some(Moved { place: 0, filled_by });
        };
        if self.classes.len() <= new {
            self.classes.resize_with(new + 1, Vec::new);
        }
        let members = self.classes.get_mut(new)?;
        members.push(id);
        Some(Moved { place: u32::try_from(members.len() - 1).unwrap_or(u32::MAX), filled_by })
    }

    /// Rooms among which the `most` largest are, largest classes first.
    pub fn largest(&self, most: usize) -> impl Iterator<Item = RoomId> {
        let mut found = 0;
        let classes = self.classes.iter().rev().take_while(move |class| {
            let go_on = found < most;
            found += class.len();
            go_on
        });
        classes.flat_map(|class| class.iter().take(MOST_LOOKED_AT).copied())
    }
}

fn class(subscribers: u32) -> Option<usize> {
    subscribers.checked_ilog2().map(|class| class as usize)
}
