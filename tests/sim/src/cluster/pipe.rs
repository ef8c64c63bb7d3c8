use std::collections::VecDeque;

use crate::rng::Rng;

/// One direction of a connection: what is sent arrives in order, each after some time, or never.
pub struct Pipe<T> {
    items: VecDeque<(u64, T)>,
    last: u64,
}

impl<T> Pipe<T> {
    pub fn new() -> Self {
        Self { items: VecDeque::new(), last: 0 }
    }

    pub fn send(&mut self, item: T, now: u64, rng: &mut Rng) {
        let delay = match rng.below(100) {
            0..85 => rng.below(20),
            85..98 => rng.below(120),
            _ => rng.below(900),
        };
        self.last = self.last.max(now + delay);
        self.items.push_back((self.last, item));
    }

    pub fn take(&mut self, now: u64) -> Option<T> {
        self.items.front().filter(|(due, _)| *due <= now)?;
        self.items.pop_front().map(|(_, item)| item)
    }

    /// The connection breaks: of what is on its way some of the oldest still arrives.
    pub fn cut(&mut self, rng: &mut Rng) {
        let arrives = rng.below(self.items.len() as u64 + 1);
        self.items.truncate(usize::try_from(arrives).unwrap_or(0));
    }

    pub fn clear(&mut self) {
        self.items.clear();
    }
}
