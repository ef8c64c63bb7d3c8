use smallvec::SmallVec;

use super::PeerId;

/// What one request has tried, and how far the walk of its hash has come. Begin with the default.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    peers: SmallVec<[PeerId; 4]>,
    /// Whether a hash has begun to walk.
    pub(super) begun: bool,
    /// Steps that led to no server.
    pub(super) misses: u8,
    /// Steps of nginx's `hash`.
    pub(super) rehash: u32,
    /// The hash so far, or the place on the ring.
    pub(super) hash: u32,
}

/// So many steps may lead to no server, then round robin decides (nginx's constant).
pub(super) const MAX_MISSES: u8 = 20;

impl Tried {
    /// Whether the server was tried.
    pub fn contains(&self, id: PeerId) -> bool {
        self.peers.contains(&id)
    }

    /// Remembers a try. [`super::Group::pick`] does so by itself.
    pub fn insert(&mut self, id: PeerId) {
        if !self.contains(id) {
            self.peers.push(id);
        }
    }

    /// Whether nothing was tried yet.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}
