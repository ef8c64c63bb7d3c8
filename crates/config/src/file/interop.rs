//! Socket.IO servers in Node beside this one.

use super::RedisTls;
use crate::reader::{List, NamespaceName, RedisUrl};

sections! {
    /// Socket.IO servers in Node that serve some of the same namespaces: what either side sends to a room reaches the other side's clients as well. Sessions of these namespaces do not recover. Switched on by this section; a namespace is in one of the three at most. See migrate-from-socketio.md.
    Interop {
        /// The Redis that the Node servers talk through, one server: "redis://host:6379"; by default that of [cluster].
        redis: RedisUrl,
        /// TLS to it, for "rediss://".
        redis_tls: RedisTls,
        /// Node servers with createAdapter of @socket.io/redis-adapter, and processes with @socket.io/redis-emitter.
        redis_adapter: RedisAdapter,
        /// Node servers with createShardedAdapter of @socket.io/redis-adapter.
        sharded_adapter: ShardedAdapter,
        /// Node servers with @socket.io/redis-streams-adapter.
        streams_adapter: StreamsAdapter,
    }

    /// What the Node servers set for @socket.io/redis-adapter.
    RedisAdapter {
        /// Their option "key".
        key: String = "socket.io",
        /// The namespaces that they serve, too.
        namespaces: List<NamespaceName> = ["/"],
        /// The tenant whose clients belong to theirs: Node knows no tenants.
        tenant: String = "default",
    }

    /// What the Node servers set for the sharded adapter; their "subscriptionMode" is "dynamic", as by default, or "static".
    ShardedAdapter {
        /// Their option "channelPrefix".
        prefix: String = "socket.io",
        /// The namespaces that they serve, too.
        namespaces: List<NamespaceName> = ["/"],
        /// The tenant whose clients belong to theirs.
        tenant: String = "default",
    }

    /// What the Node servers set for @socket.io/redis-streams-adapter; their "streamCount" is 1, as by default.
    StreamsAdapter {
        /// Their option "streamName".
        stream: String = "socket.io",
        /// Their option "channelPrefix".
        prefix: String = "socket.io",
        /// Their option "maxLen".
        max_length: u64 = 10000,
        /// The namespaces that they serve, too.
        namespaces: List<NamespaceName> = ["/"],
        /// The tenant whose clients belong to theirs.
        tenant: String = "default",
    }
}
