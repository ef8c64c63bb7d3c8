//! Many processes as one server.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_auth::Secret;

use super::CertificateFiles;
use crate::words::words;

/// Many processes as one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The broker.
    pub redis: Redis,
    /// What all nodes share; at least 32 bytes.
    pub secret: Secret,
    /// The node's name; `None` is the host's name and the process id.
    pub name: Option<Arc<str>>,
    /// Where the node is.
    pub zone: Option<Arc<str>>,
    /// Where the other nodes reach this one; port 0 takes any free port.
    pub internal_listen: SocketAddr,
    /// What they are told, if it is another address; never an unspecified one.
    pub internal_address: Option<NodeAddress>,
    /// Certificates of the nodes; `None`: they are made of the secret.
    pub internal_tls: Option<InternalTls>,
    /// How often a node says that it lives.
    pub heartbeat: Duration,
    /// After how long without that it is dead; at least twice `heartbeat`.
    pub node_timeout: Duration,
}

impl Cluster {
    /// A cluster with every default.
    pub fn new(redis: Redis, secret: Secret) -> Self {
        Self {
            redis,
            secret,
            name: None,
            zone: None,
            internal_listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
            internal_address: None,
            internal_tls: None,
            heartbeat: Duration::from_secs(2),
            node_timeout: Duration::from_secs(5),
        }
    }
}

/// Where a node is told to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The machine.
    pub ip: IpAddr,
    /// The port; `None` is the one that it listens at.
    pub port: Option<u16>,
}

/// The broker of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// At least one; only with Sentinel and Cluster more.
    pub servers: Vec<RedisServer>,
    /// What they are.
    pub mode: RedisMode,
    /// What the Sentinels call the primary.
    pub service: Arc<str>,
    /// The database; 0 with a Redis Cluster.
    pub database: u32,
    /// The ACL user; `None` is the default user.
    pub user: Option<Arc<str>>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The ACL user of the Sentinels.
    pub sentinel_user: Option<Arc<str>>,
    /// The Sentinels' password.
    pub sentinel_password: Option<Secret>,
    /// TLS; `None` is plain.
    pub tls: Option<RedisTls>,
    /// What all keys and channels begin with.
    pub prefix: Arc<str>,
}

impl Redis {
    /// One server without TLS, with every default.
    pub fn at(host: &str, port: u16) -> Self {
        Self {
            servers: vec![RedisServer { host: host.into(), port }],
            mode: RedisMode::Standalone,
            service: "mymaster".into(),
            database: 0,
            user: None,
            password: None,
            sentinel_user: None,
            sentinel_password: None,
            tls: None,
            prefix: "tidegate".into(),
        }
    }
}

/// A server of Redis, or a Sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisServer {
    /// A name or an address, one of IPv6 without brackets.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

/// TLS to Redis. Its certificate is always checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// The name sent as SNI and checked; `None` is each server's host.
    pub server_name: Option<Arc<str>>,
    /// The roots, PEM; `None` is those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate shown to the server.
    pub certificate: Option<CertificateFiles>,
}

/// Certificates of the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalTls {
    /// The roots, PEM.
    pub ca: PathBuf,
    /// This node's.
    pub certificate: CertificateFiles,
    /// The name that the certificates of all nodes are for.
    pub server_name: Arc<str>,
}

words! {
    /// What the addresses of Redis are.
    pub RedisMode {
        /// One server.
        Standalone = "standalone",
        /// Sentinels that know where the primary is.
        Sentinel = "sentinel",
        /// Nodes of a Redis Cluster.
        Cluster = "cluster",
    }
    /// Who gives messages their places and passes them on.
    pub BrokerKind {
        /// This process, which is alone.
        Local = "local",
        /// The Redis of the cluster.
        Redis = "redis",
    }
}
