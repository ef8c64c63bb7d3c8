//! Many processes as one server.

use crate::RedisMode;
use crate::reader::{Hidden, HostName, ListenAddress, NodeAddress, OneOrMore, Optional, RedisUrl, Span};

sections! {
    /// Many processes as one server: their broker, who they are to each other, and how they reach each other. Switched on by this section.
    Cluster {
        /// Where Redis (7 or later, or Valkey) is: "redis://host:6379", "rediss://" for TLS, with user:password@ before the host and /database behind it if there are any; a list for Sentinel and Cluster.
        redis: OneOrMore<RedisUrl>,
        /// What those addresses are: one server, Sentinels that know it, or nodes of a Redis Cluster.
        mode: RedisMode = "standalone",
        /// What the Sentinels call the primary.
        service: String = "mymaster",
        /// The ACL user, if the URL names none.
        user: Optional<String> = "",
        /// The user's password, if the URL has none.
        password: Optional<Hidden> = "",
        /// The ACL user of the Sentinels, if they want one.
        sentinel_user: Optional<String> = "",
        /// The Sentinels' password, if they want one.
        sentinel_password: Optional<Hidden> = "",
        /// TLS to Redis, for "rediss://".
        redis_tls: RedisTls,
        /// What all keys and channels begin with: clusters that share a Redis have prefixes of their own.
        prefix: String = "tidegate",
        /// The secret that all nodes share, at least 32 bytes: who has it is a node. Session ids and the nodes' certificates are made of it.
        secret: Hidden,
        /// A file with that secret.
        secret_file: Optional<String> = "",
        /// The node's name in logs and the admin API; by default the host's name and the process id.
        name: Optional<String> = "",
        /// Where the node is (a rack, an availability zone): gateways prefer the nodes of their own as long as there are any.
        zone: Optional<String> = "",
        /// Where the other nodes reach this one, always by TLS with certificates of both sides. Port 0 takes any free one.
        internal_listen: ListenAddress = "127.0.0.1:0",
        /// The address that the others are told, if it is another one: an IP address, with or without a port.
        internal_address: Optional<NodeAddress> = "",
        /// Certificates for that of your own, in place of those made of the secret. Switched on by this section.
        internal_tls: InternalTls,
        /// How often a node says that it lives.
        heartbeat: Span = "2s",
        /// After how long without that it is taken to be dead.
        node_timeout: Span = "5s",
    }

    /// TLS to Redis.
    RedisTls {
        /// The name sent (SNI) and checked; by default the server's host.
        server_name: Optional<HostName> = "",
        /// The roots, PEM; by default those of the system.
        ca: Optional<String> = "",
        /// A certificate that is shown to the server, PEM.
        certificate: Optional<String> = "",
        /// Its private key, PEM.
        key: Optional<String> = "",
    }

    /// Certificates of the nodes.
    InternalTls {
        /// The roots that the nodes' certificates are checked against, PEM: whoever has a certificate of theirs is a node.
        ca: String,
        /// This node's certificate, PEM, good for servers and clients.
        certificate: String,
        /// Its private key, PEM.
        key: String,
        /// The name that the certificates of all nodes are for.
        server_name: HostName,
    }
}
