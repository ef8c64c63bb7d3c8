//! Lives of the server: what a restart or a failover means for the numbers that it had handed out.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_types::{Epoch, Millis, SpaceKey};

use super::Server;
use super::state::{Space, State};

/// One life of a server process; a replica that becomes the primary is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub u64);

/// What a restart loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Every write is there again: an append-only file, or a replica that had everything.
    Nothing,
    /// The last writes: an append-only file that was not forced to the disk, or a replica that lagged behind.
    Last(usize),
    /// Everything: a server without persistence.
    Everything,
}

/// Where a space's counters stand, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The life of the counters.
    pub epoch: Epoch,
    /// The last `seq` handed out.
    pub seq: u64,
    /// The life of the server that the space is in.
    pub run: RunId,
    /// The one before.
    pub prev: RunId,
    /// `seq` when this one began.
    pub base: u64,
}

/// What a node knows of a space: the highest `seq` that it has heard or been answered, and in which life of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The life of the counters.
    pub epoch: Epoch,
    /// The highest number seen in it.
    pub seq: u64,
    /// The life of the server that it was seen in.
    pub run: RunId,
}

impl Seen {
    /// Whether what has been seen proves that the server has lost something, or that nobody can say so any more: then the
    /// epoch must be renewed before anything else of the space is believed.
    pub fn proves_loss(&self, life: &Life) -> bool {
        if self.epoch != life.epoch || self.run == life.run {
            // Another epoch says already that something was lost. Within one life nothing is.
            return false;
        }
        // What this life has handed out itself says nothing about what the one before had.
        self.run != life.prev || self.seq > life.base
    }
}

impl Server {
    /// The server dies and comes back as `run`: all connections end.
    pub fn restart(&mut self, run: RunId, loss: Loss) {
        self.run = run;
        self.hang_up_all();
        match loss {
            Loss::Nothing => {}
            Loss::Last(writes) => {
                let keep = self.before.len().saturating_sub(writes);
                if let Some(state) = self.before.get(keep) {
                    self.state = state.clone();
                }
            }
            Loss::Everything => self.state = State::default(),
        }
        self.before.clear();
    }

    /// Where the space's counters stand. A space that there is none of begins with the epoch `fresh`.
    pub fn life(&mut self, space: &Arc<SpaceKey>, fresh: Epoch, now: Millis) -> Life {
        self.about_to_write();
        self.enter(space, fresh, now).life()
    }

    /// Begins a new life of the counters, if it is still the one that the caller means.
    pub fn renew(&mut self, space: &Arc<SpaceKey>, meant: Epoch, fresh: Epoch, now: Millis) -> Life {
        self.about_to_write();
        let space = self.enter(space, fresh, now);
        if space.epoch == meant {
            space.epoch = fresh;
        }
        space.life()
    }

    /// The space, in this life of the server.
    pub(super) fn enter(&mut self, key: &Arc<SpaceKey>, fresh: Epoch, now: Millis) -> &mut Space {
        let run = self.run;
        let space = self.state.spaces.entry(Arc::clone(key)).or_insert_with(|| Arc::new(Space::new(fresh, run)));
        let space = Arc::make_mut(space);
        if space.run != run {
            space.prev = space.run;
            space.base = space.seq;
            space.run = run;
        }
        space.rooms.retain(|_, room| room.expires_at > now);
        space.once.retain(|_, once| once.until > now);
        space
    }
}

impl Space {
    fn new(epoch: Epoch, run: RunId) -> Self {
        Self { epoch, seq: 0, run, prev: run, base: 0, rooms: BTreeMap::new(), once: BTreeMap::new() }
    }

    pub fn life(&self) -> Life {
        Life { epoch: self.epoch, seq: self.seq, run: self.run, prev: self.prev, base: self.base }
    }
}
