//! What lies between a client and the server: a lane each way (and a second pair during and after an upgrade), in order
//! inside a lane, with delays that let the lanes overtake each other, and cut at any point.

use std::collections::VecDeque;

use crate::rng::Rng;

/// The most payloads that may wait for a client; beyond it the server closes it as a slow consumer.
const OUTBOX: usize = 150;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    WebSocket,
    Polling,
}

/// From client to server.
#[derive(Clone, Debug)]
pub enum Up {
    /// A frame, or the body of a POST: Engine.IO packets, over polling separated by 0x1e.
    Payload(String),
    /// A long poll.
    Get,
}

struct Lane<T> {
    queue: VecDeque<(u64, T)>,
}

impl<T> Lane<T> {
    fn new() -> Self {
        Self { queue: VecDeque::new() }
    }

    fn push(&mut self, item: T, now: u64, rng: &mut Rng) {
        let due = self.queue.back().map_or(0, |(due, _)| *due).max(now + 1 + rng.below(40));
        self.queue.push_back((due, item));
    }

    fn pop(&mut self, now: u64) -> Option<T> {
        self.queue.front().filter(|(due, _)| *due <= now)?;
        self.queue.pop_front().map(|(_, item)| item)
    }

    /// An arbitrary beginning still arrives.
    fn tear(&mut self, rng: &mut Rng) {
        let kept = rng.below(self.queue.len() as u64 + 1);
        self.queue.truncate(usize::try_from(kept).unwrap_or(0));
    }
}

pub struct Link {
    pub kind: Kind,
    /// Opened by a duplicated request: nobody reads it.
    pub ghost: bool,
    up: Lane<Up>,
    down: Lane<String>,
    ws_up: Lane<String>,
    ws_down: Lane<String>,
    cut: bool,
    /// When each side finds out.
    pub client_learns: Option<u64>,
    pub server_learns: Option<u64>,
}

impl Link {
    pub fn new(kind: Kind, ghost: bool) -> Self {
        Self {
            kind,
            ghost,
            up: Lane::new(),
            down: Lane::new(),
            ws_up: Lane::new(),
            ws_down: Lane::new(),
            cut: false,
            client_learns: None,
            server_learns: None,
        }
    }

    pub fn is_cut(&self) -> bool {
        self.cut
    }

    pub fn is_slow(&self) -> bool {
        self.down.queue.len() + self.ws_down.queue.len() > OUTBOX
    }

    /// Whether every POST has been answered.
    pub fn is_up_idle(&self) -> bool {
        self.up.queue.is_empty()
    }

    pub fn send_up(&mut self, up: Up, now: u64, rng: &mut Rng) {
        if !self.cut {
            self.up.push(up, now, rng);
        }
    }

    pub fn send_ws_up(&mut self, payload: String, now: u64, rng: &mut Rng) {
        if !self.cut {
            self.ws_up.push(payload, now, rng);
        }
    }

    pub fn send_down(&mut self, payload: String, now: u64, rng: &mut Rng) {
        if !self.cut {
            self.down.push(payload, now, rng);
        }
    }

    pub fn send_ws_down(&mut self, payload: String, now: u64, rng: &mut Rng) {
        if !self.cut {
            self.ws_down.push(payload, now, rng);
        }
    }

    pub fn take_up(&mut self, now: u64) -> Option<Up> {
        self.up.pop(now)
    }

    pub fn take_ws_up(&mut self, now: u64) -> Option<String> {
        self.ws_up.pop(now)
    }

    pub fn take_down(&mut self, now: u64) -> Option<String> {
        self.down.pop(now)
    }

    pub fn take_ws_down(&mut self, now: u64) -> Option<String> {
        self.ws_down.pop(now)
    }

    /// Breaks the connection.
    pub fn cut(&mut self, now: u64, rng: &mut Rng) {
        if self.cut {
            return;
        }
        self.cut = true;
        self.up.tear(rng);
        self.down.tear(rng);
        self.ws_up.tear(rng);
        self.ws_down.tear(rng);
        self.client_learns = Some(now + 50 + rng.below(600));
        // Mostly before the client is back, sometimes long after.
        let patience = if rng.chance(150) { 3_000 } else { 300 };
        self.server_learns = Some(now + 50 + rng.below(patience));
    }

    /// The server closes: what it had written arrives.
    pub fn close(&mut self, now: u64) {
        if self.cut {
            self.server_learns = None;
            return;
        }
        self.cut = true;
        self.up.queue.clear();
        self.ws_up.queue.clear();
        let last =
            [&self.down.queue, &self.ws_down.queue].into_iter().filter_map(|queue| queue.back()).map(|(due, _)| *due);
        self.client_learns = Some(last.max().unwrap_or(now).max(now) + 1);
    }

    /// The server's process is gone.
    pub fn die(&mut self, now: u64, rng: &mut Rng) {
        self.cut(now, rng);
        self.up.queue.clear();
        self.ws_up.queue.clear();
        self.server_learns = None;
    }

    /// The client goes away.
    pub fn leave(&mut self, now: u64, rng: &mut Rng) {
        self.cut(now, rng);
        self.down.queue.clear();
        self.ws_down.queue.clear();
    }
}
