//! Groups of servers: who they are, how one is chosen, and how they are spoken to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_auth::Secret;

use crate::model::{Breaker, Health, Outlier, Retry};
use crate::words::words;

/// A group of servers that are interchangeable, and how patient to be with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The name that routes refer to.
    pub name: Arc<str>,
    /// At least one, addresses all different, not all of them backup; none if they are discovered.
    pub servers: Vec<UpstreamServer>,
    /// Which nodes of the cluster are the servers, as they come and go.
    pub discover: Option<Discover>,
    /// How one is chosen.
    pub balance: Balance,
    /// What keeps a client at its server.
    pub sticky: Option<Sticky>,
    /// Until a TCP connection stands.
    pub connect_timeout: Duration,
    /// From a WebSocket handshake to its 101.
    pub handshake_timeout: Duration,
    /// The longest silence of the server while a response is awaited.
    pub read_timeout: Duration,
    /// The longest silence of the client while its request body is awaited or while it does not take the response.
    pub send_timeout: Duration,
    /// The longest silence of an event stream.
    pub stream_timeout: Duration,
    /// The longest silence of a WebSocket tunnel.
    pub tunnel_idle_timeout: Duration,
    /// Idle connections kept per worker.
    pub keepalive: usize,
    /// How long an idle connection is kept.
    pub keepalive_timeout: Duration,
    /// How many requests one connection carries.
    pub keepalive_requests: u64,
    /// Failures after which a server is skipped; 0 never skips. Each server has its own value, which may differ.
    pub max_fails: u32,
    /// How long it is skipped. Each server has its own value, which may differ.
    pub fail_timeout: Duration,
    /// How often names are resolved again if the answer has no TTL or a longer one.
    pub dns_refresh: Duration,
    /// What the servers speak.
    pub protocol: UpstreamProtocol,
    /// The PROXY header that the servers get.
    pub proxy_protocol: ProxyProtocol,
    /// Streams closed per second when a server goes down, is drained or leaves the config; 0 is all at once.
    pub close_rate: u32,
    /// Streams per second moved towards a server that came (back); 0 is none.
    pub rebalance_rate: u32,
    /// TLS to the servers; `None` is plain TCP.
    pub tls: Option<UpstreamTls>,
    /// Active probes.
    pub health: Option<Health>,
    /// Ejection of servers that are worse than the others.
    pub outlier: Option<Outlier>,
    /// The circuit breaker of the whole group.
    pub breaker: Option<Breaker>,
    /// What is tried again.
    pub retry: Retry,
}

impl Upstream {
    /// An upstream with every default and equal weights; addresses are `host:port` or `unix:/path`.
    pub fn new(name: &str, addresses: &[&str]) -> Self {
        Self {
            name: name.into(),
            servers: addresses.iter().map(|address| UpstreamServer::new(address)).collect(),
            discover: None,
            balance: Balance::RoundRobin,
            sticky: None,
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            stream_timeout: Duration::from_secs(24 * 3600),
            tunnel_idle_timeout: Duration::from_secs(3600),
            keepalive: 32,
            keepalive_timeout: Duration::from_secs(60),
            keepalive_requests: 1_000,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
            dns_refresh: Duration::from_secs(30),
            protocol: UpstreamProtocol::Http1,
            proxy_protocol: ProxyProtocol::Off,
            close_rate: 50,
            rebalance_rate: 0,
            tls: None,
            health: None,
            outlier: None,
            breaker: None,
            retry: Retry::default(),
        }
    }
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamServer {
    /// `host:port`, where the host is a name, an IPv4 address or an IPv6 address in brackets; or `unix:` and a path.
    pub address: Arc<str>,
    /// Its share of the requests, at least 1.
    pub weight: u32,
    /// The most exchanges at once in this process, streams included; 0 is no limit.
    pub max_conns: u32,
    /// Only used when all others are down.
    pub backup: bool,
    /// Never used.
    pub down: bool,
    /// Finishes what it has, gets nothing new.
    pub drain: bool,
    /// How long its weight ramps up after coming back.
    pub slow_start: Duration,
    /// Failures after which it is skipped; 0 never skips.
    pub max_fails: u32,
    /// How long it is skipped.
    pub fail_timeout: Duration,
}

impl UpstreamServer {
    /// A server with every default.
    pub fn new(address: &str) -> Self {
        Self {
            address: address.into(),
            weight: 1,
            max_conns: 0,
            backup: false,
            down: false,
            drain: false,
            slow_start: Duration::ZERO,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
        }
    }
}

/// How a server is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// nginx's smooth weighted round robin.
    RoundRobin,
    /// The fewest exchanges by weight (nginx least_conn).
    LeastConn,
    /// By the client's address (nginx ip_hash).
    IpHash,
    /// By a key (nginx hash).
    Hash {
        /// A template.
        key: Arc<str>,
        /// Ketama, as nginx `hash KEY consistent`.
        consistent: bool,
        /// No server has more than so many percent of the average; 0 is off, otherwise above 100. Consistent only.
        load_factor: u32,
    },
    /// The better of two taken at random (nginx random two).
    Random,
    /// The shortest expected time, by a moving average.
    LeastTime,
}

/// What keeps a client at its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// A signed cookie that names the server.
    Cookie(StickyCookie),
    /// Consistent hash of this request header, lower case.
    Header(Arc<str>),
    /// Consistent hash of this query parameter.
    Query(Arc<str>),
}

/// The signed cookie of a sticky upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// The cookie's name.
    pub name: Arc<str>,
    /// The HMAC key, at least 32 bytes; without one the process makes its own, lost when it ends.
    pub secret: Option<Secret>,
    /// How long the browser keeps it; zero is until it is closed.
    pub ttl: Duration,
    /// RFC 6265 Path.
    pub path: Arc<str>,
    /// RFC 6265 Domain; `None` is the host of the request alone.
    pub domain: Option<Arc<str>>,
    /// Only over https.
    pub secure: bool,
    /// Whether it goes with requests from other sites.
    pub same_site: SameSite,
}

impl StickyCookie {
    /// A cookie with every default.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            secret: None,
            ttl: Duration::ZERO,
            path: "/".into(),
            domain: None,
            secure: false,
            same_site: SameSite::Lax,
        }
    }
}

/// TLS to servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name sent as SNI and checked; `None` is each server's host.
    pub server_name: Option<Arc<str>>,
    /// Whether the server's certificate is checked.
    pub verify: bool,
    /// The roots, PEM; `None` is those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate shown to the servers.
    pub certificate: Option<super::CertificateFiles>,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { server_name: None, verify: true, ca: None, certificate: None }
    }
}

words! {
    /// Which nodes of the cluster are the servers of an upstream.
    pub Discover {
        /// Those that serve realtime with the cluster's broker.
        Realtime = "realtime",
    }
    /// What the servers of an upstream speak.
    pub UpstreamProtocol {
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2: prior knowledge, or ALPN over TLS.
        Http2 = "http2",
    }
    /// The PROXY header that servers get.
    pub ProxyProtocol {
        /// None.
        Off = "off",
        /// The line for people.
        V1 = "v1",
        /// The binary one.
        V2 = "v2",
    }
    /// Whether a cookie goes with requests from other sites (RFC 6265bis section 5.6.7).
    pub SameSite {
        /// With navigation only.
        Lax = "lax",
        /// Never.
        Strict = "strict",
        /// Always; browsers want `secure` with it.
        None = "none",
    }
}
