use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tidegate_balance::{Algorithm, Duty, OutlierSettings};
use tidegate_rules::Template;
use tidegate_rules::proxy_protocol::ProxyVersion;

use crate::{CircuitSettings, ProbeSettings, RetrySettings, Sticky, UpstreamTls};

use crate::Patience;

/// An upstream: a group of servers that are interchangeable, and how patient to be with them.
///
/// Timeouts are watched by a ticker of the worker and fire up to one tick ([`ForwarderSettings::tick`]) late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Name for logs and metric labels.
    pub name: String,
    /// At least one server; an upstream without servers answers 503.
    pub servers: Vec<ServerSettings>,
    /// Until the TCP connection stands (name resolution included).
    pub connect_timeout: Duration,
    /// The longest silence of the upstream while a response (head or body) is awaited.
    pub read_timeout: Duration,
    /// The longest silence of the client while its request body is awaited, or while it does not take the response.
    pub send_timeout: Duration,
    /// From sending a WebSocket handshake until its 101.
    pub handshake_timeout: Duration,
    /// The longest silence of a `text/event-stream` response.
    pub stream_timeout: Duration,
    /// The longest silence of a WebSocket tunnel, both directions together.
    pub tunnel_idle_timeout: Duration,
    /// Idle connections kept per worker and server.
    pub keepalive_idle: usize,
    /// How long an idle connection is kept.
    pub keepalive_timeout: Duration,
    /// How many requests one connection carries.
    pub keepalive_requests: u64,
    /// Failures after which a server is skipped; 0 never skips.
    pub max_fails: u32,
    /// How long it is skipped.
    pub fail_timeout: Duration,
    /// How a server is chosen.
    pub balance: Algorithm,
    /// What the algorithm hashes, if it does: whoever calls the forwarder renders it ([`crate::Exchange::hash_key`]).
    pub hash_key: Option<Template>,
    /// What keeps a client at its server.
    pub sticky: Option<Sticky>,
    /// The header that servers get before the first byte of a connection, which then carries one client's exchange only.
    pub proxy_protocol: Option<ProxyVersion>,
    /// TLS to the servers; `None` is plain.
    pub tls: Option<UpstreamTls>,
    /// Whether the servers are spoken to in HTTP/2, all exchanges of a worker on as few connections as they allow. Not together
    /// with a PROXY header, which holds for a whole connection.
    pub http2: bool,
    /// How often names are resolved again; at least every second.
    pub dns_refresh: Duration,
    /// Whether the one name among `servers` is none of DNS: whoever has the upstream says what it means
    /// ([`crate::Upstream::discovered`]). Until then there is no server.
    pub discovered: bool,
    /// A field that each request to the servers carries, whatever the client sent in it.
    pub stamp: Option<(HeaderName, HeaderValue)>,
    /// How the servers are probed, if they are.
    pub probe: Option<ProbeSettings>,
    /// How servers that are worse than the others are ejected, if they are.
    pub outlier: Option<OutlierSettings>,
    /// When requests are refused as a whole.
    pub circuit: CircuitSettings,
    /// What is tried again.
    pub retry: RetrySettings,
    /// Streams asked to go per second when their server goes down or is drained; 0 asks all at once.
    pub close_rate: u32,
    /// Streams per second that are asked to move to a server that came (back); 0 moves none.
    pub rebalance_rate: u32,
}

impl UpstreamSettings {
    /// Whether a value of the request decides beside the algorithm.
    pub(crate) fn sticks_by_value(&self) -> bool {
        matches!(self.sticky, Some(Sticky::Header(_) | Sticky::Query(_)))
    }
}

impl UpstreamSettings {
    /// How long the servers are waited for.
    pub fn patience(&self) -> Patience {
        Patience {
            read: self.read_timeout,
            send: self.send_timeout,
            handshake: self.handshake_timeout,
            stream: self.stream_timeout,
            tunnel_idle: self.tunnel_idle_timeout,
        }
    }
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            servers: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(10),
            stream_timeout: Duration::from_secs(24 * 3600),
            tunnel_idle_timeout: Duration::from_secs(3600),
            keepalive_idle: 32,
            keepalive_timeout: Duration::from_secs(60),
            keepalive_requests: 1000,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
            balance: Algorithm::RoundRobin,
            hash_key: None,
            sticky: None,
            proxy_protocol: None,
            tls: None,
            http2: false,
            dns_refresh: Duration::from_secs(30),
            discovered: false,
            stamp: None,
            probe: None,
            outlier: None,
            circuit: CircuitSettings::default(),
            retry: RetrySettings::default(),
            close_rate: 50,
            rebalance_rate: 0,
        }
    }
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// `host:port`, the host a name or an address (`[::1]:80` for IPv6), or `unix:/path`. A name with several addresses is
    /// as many servers.
    pub address: String,
    /// Share relative to the other servers.
    pub weight: u32,
    /// The most live connections of the process, streams included; 0 is no limit.
    pub max_conns: u32,
    /// Only asked when no server without this can be had.
    pub backup: bool,
    /// Whether it serves, drains or is down.
    pub duty: Duty,
    /// Over how long its weight grows from a tenth to the whole after it came (back).
    pub slow_start: Duration,
    /// The upstream's, if `None`.
    pub max_fails: Option<u32>,
    /// The upstream's, if `None`.
    pub fail_timeout: Option<Duration>,
}

impl ServerSettings {
    /// A server with a weight of 1 and nothing special.
    pub fn at(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            weight: 1,
            max_conns: 0,
            backup: false,
            duty: Duty::Serve,
            slow_start: Duration::ZERO,
            max_fails: None,
            fail_timeout: None,
        }
    }
}

/// What a worker's [`crate::Forwarder`] has in common for all upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwarderSettings {
    /// The resolution of all timeouts.
    pub tick: Duration,
    /// Over how long the ends of tunnels and event streams are spread when draining begins.
    pub drain_spread: Duration,
    /// The time between two such ends; zero makes it of the spread.
    pub drain_gap: Duration,
    /// How far each may be from its even place, percent of the time between two.
    pub drain_jitter: u8,
}

impl Default for ForwarderSettings {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            drain_spread: Duration::from_secs(5),
            drain_gap: Duration::ZERO,
            drain_jitter: 20,
        }
    }
}
