//! The other nodes of the cluster, as far as they are asked over HTTP.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tidegate_outbound::Endpoint;
use tidegate_types::{NodeId, NodeNumber};

/// Where another node answers questions of its peers: on its internal listener.
#[derive(Clone, Debug)]
pub struct PeerAddress {
    /// Its life.
    pub id: NodeId,
    /// Its number, part of the ids of its connections.
    pub number: NodeNumber,
    /// What operators call it. It stands in answers that lack its part.
    pub name: Arc<str>,
    /// Its internal listener, with the TLS by which both sides prove to be of the cluster. The path is not used.
    pub endpoint: Arc<Endpoint>,
}

/// The other living nodes with clients. Who knows the members of the cluster keeps it up to date; there is nobody in it
/// while there is no cluster.
#[derive(Default)]
pub struct Peers {
    living: RwLock<Arc<[PeerAddress]>>,
}

impl Peers {
    /// These live, and no others do. This node is not among them.
    pub fn set(&self, mut living: Vec<PeerAddress>) {
        living.sort_by_key(|peer| peer.id);
        *self.living.write().unwrap_or_else(PoisonError::into_inner) = living.into();
    }

    /// Those that live, by their ids.
    pub fn living(&self) -> Arc<[PeerAddress]> {
        self.living.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.living().iter().map(|peer| &peer.name)).finish()
    }
}
