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
    fn proves_loss(&self, life: &Life) -> bool {
        if self.epoch != life.epoch {
            // Another epoch says already that something was lost.
            return false;
        }
        // What this life has handed out itself says nothing about what the one before had.
        let is_of_another = self.run != life.run && self.seq > 0;
        self.seq > life.seq || (is_of_another && (self.run != life.prev || self.seq > life.base))
    }
}

/// The space was last written in another life of the server, or there is none: it must be looked at ([`Server::touch`])
/// before anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherRun;

impl Server {
    /// The server dies and comes back as `run`: all connections end. [`Server::writes`] goes back with what is lost.
    pub fn restart(&mut self, run: RunId, loss: Loss) {
        self.run = run;
        self.hang_up_all();
        match loss {
            Loss::Nothing => {}
            Loss::Last(writes) => {
                let lost = writes.min(self.before.len());
                if let Some(state) = self.before.get(self.before.len() - lost) {
                    self.state = state.clone();
                    self.writes -= lost as u64;
                }
            }
            Loss::Everything => (self.state, self.writes) = (State::default(), 0),
        }
        self.before.clear();
    }

    /// Looks at a space's counters, from a connection to this life of the server, before anything is written there and now
    /// and then after. What the caller has seen may prove that the server has lost something: then the counters begin
    /// another life, `fresh`. So does a space that there is none of.
    pub fn touch(&mut self, key: &Arc<SpaceKey>, seen: Option<Seen>, fresh: Epoch) -> Life {
        self.about_to_write();
        let run = self.run;
        let space = self.state.spaces.entry(Arc::clone(key)).or_insert_with(|| Arc::new(Space::new(fresh, run)));
        let space = Arc::make_mut(space);
        if space.run != run {
            space.prev = space.run;
            space.base = space.seq;
            space.run = run;
        }
        if seen.is_some_and(|seen| seen.proves_loss(&space.life())) {
            space.epoch = fresh;
        }
        space.life()
    }

    /// The space, unless it has to be looked at first.
    pub(super) fn space(&mut self, key: &SpaceKey, now: Millis) -> Result<&mut Space, OtherRun> {
        let run = self.run;
        let space = self.state.spaces.get_mut(key).filter(|space| space.run == run).ok_or(OtherRun)?;
        let space = Arc::make_mut(space);
        space.rooms.retain(|_, room| room.expires_at > now);
        space.once.retain(|_, once| once.until > now);
        Ok(space)
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
