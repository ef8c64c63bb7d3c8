//! Socket.IO servers in Node beside this one.

use std::sync::Arc;

use tidegate_types::{Namespace, TenantId};

use super::Redis;

/// Socket.IO servers in Node that serve some of the same namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interop {
    /// What they talk through.
    pub redis: Redis,
    /// The namespaces, each once.
    pub bridges: Vec<Bridge>,
}

/// Namespaces that are served by Node servers, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// How the Node servers talk to each other.
    pub adapter: NodeAdapter,
    /// The namespaces, at least one.
    pub namespaces: Vec<Namespace>,
    /// Whose clients here they are.
    pub tenant: TenantId,
}

/// An adapter of Socket.IO in Node, with what it calls its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAdapter {
    /// `createAdapter` of `@socket.io/redis-adapter`.
    Redis {
        /// `key`.
        key: Arc<str>,
    },
    /// `createShardedAdapter` of `@socket.io/redis-adapter`.
    Sharded {
        /// `channelPrefix`.
        prefix: Arc<str>,
    },
    /// `@socket.io/redis-streams-adapter`.
    Streams {
        /// `streamName`.
        stream: Arc<str>,
        /// `channelPrefix`.
        prefix: Arc<str>,
        /// `maxLen`.
        max_length: u64,
    },
}
