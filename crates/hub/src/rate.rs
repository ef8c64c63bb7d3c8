use tidegate_types::Millis;

use crate::RoomId;

/// The rate is that of so long a time, ms.
const WINDOW_MS: u64 = 10_000;
/// Rooms that may be among the busiest.
const CANDIDATES: usize = 256;

/// Messages of a room over a sliding window, estimated: all of the current fixed window, and of the one before it the
/// share that the sliding window still covers.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rate {
    window: u32,
    current: u32,
    previous: u32,
}

impl Rate {
    /// Counts a message; returns how many the window has.
    pub fn count(&mut self, now: Millis) -> u32 {
        let window = window_of(now);
        if window != self.window {
            *self = Self { window, current: 0, previous: self.at(window).1 };
        }
        self.current = self.current.saturating_add(1);
        self.current
    }

    /// Messages per second.
    pub fn per_second(&self, now: Millis) -> f64 {
        let (current, previous) = self.at(window_of(now));
        let covered = 1.0 - (now % WINDOW_MS) as f64 / WINDOW_MS as f64;
        (f64::from(current) + f64::from(previous) * covered) * 1_000.0 / WINDOW_MS as f64
    }

    /// The counts of a window and of the one before it.
    fn at(&self, window: u32) -> (u32, u32) {
        match window.wrapping_sub(self.window) {
            0 => (self.current, self.previous),
            1 => (0, self.current),
            _ => (0, 0),
        }
    }
}

fn window_of(now: Millis) -> u32 {
    (now / WINDOW_MS) as u32
}

/// The rooms among which the busiest are. A room that is not in asks for a place when its count reaches a power of two,
/// and takes that of one other room if it is busier: a busy room asks often, and a quiet one costs next to nothing.
#[derive(Default)]
pub(crate) struct Busy {
    pub rooms: Vec<RoomId>,
    hand: usize,
}

impl Busy {
    pub fn asks(count: u32) -> bool {
        count.is_power_of_two()
    }

    /// The room whose place is asked for, if all are taken.
    pub fn challenged(&mut self) -> Option<RoomId> {
        if self.rooms.len() < CANDIDATES {
            return None;
        }
        self.hand = (self.hand + 1) % CANDIDATES;
        self.rooms.get(self.hand).copied()
    }

    /// Gives the room the place just asked for.
    pub fn take_place(&mut self, room: RoomId) {
        if self.rooms.len() < CANDIDATES {
            self.rooms.push(room);
        } else if let Some(place) = self.rooms.get_mut(self.hand) {
            *place = room;
        }
    }
}
