//! Where clients are awaited, and how patient the gateway is with them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_auth::Secret;

use crate::model::ZoneUse;
use crate::words::words;

/// Patience with clients, on all listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// From accepting a connection to the end of the first head (nginx client_header_timeout).
    pub header_timeout: Duration,
    /// How long an idle connection is kept for the next request (nginx keepalive_timeout).
    pub keepalive_timeout: Duration,
    /// Requests of one connection, then `Connection: close` or GOAWAY; at least 1.
    pub keepalive_requests: u64,
    /// The longest time in which a client may take nothing of what is sent.
    pub send_timeout: Duration,
    /// Bytes per second that a request body must reach after its first 10 s, else 408; 0 is no minimum.
    pub body_min_rate: u64,
    /// The longest request head, bytes, else 431.
    pub max_header_bytes: usize,
    /// The most header lines, else 431.
    pub max_headers: usize,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(75),
            keepalive_requests: 1_000,
            send_timeout: Duration::from_secs(60),
            body_min_rate: 0,
            max_header_bytes: 32 << 10,
            max_headers: 100,
        }
    }
}

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The name that routes refer to.
    pub name: Arc<str>,
    /// The address; port 0 takes any free port.
    pub address: SocketAddr,
    /// The most open connections; 0 is no cap.
    pub max_connections: u32,
    /// Whether HTTP/2 is offered by ALPN on a TLS listener.
    pub http2: bool,
    /// Everything is answered with 308 to https at this port; `None` serves routes.
    pub redirect_https: Option<u16>,
    /// Networks of the proxies whose word on the client's address is taken, as written: `10.0.0.0/8`, `::1`.
    pub trusted_proxies: Vec<Arc<str>>,
    /// The header that names the client, from peers in `trusted_proxies` only.
    pub real_ip: RealIp,
    /// Whether every connection must begin with a PROXY header, v1 or v2, and come from `trusted_proxies` (from anywhere
    /// if that is empty).
    pub proxy_protocol: bool,
    /// Zones for routes that say nothing about limits.
    pub limits: Vec<ZoneUse>,
    /// TLS; `None` is plain TCP.
    pub tls: Option<ListenerTls>,
}

impl Listener {
    /// A plain listener with every default.
    pub fn new(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.into(),
            address,
            max_connections: 0,
            http2: true,
            redirect_https: None,
            trusted_proxies: Vec::new(),
            real_ip: RealIp::XForwardedFor,
            proxy_protocol: false,
            limits: Vec::new(),
            tls: None,
        }
    }
}

/// `public` at `0.0.0.0:8080`.
impl Default for Listener {
    fn default() -> Self {
        Self::new("public", (Ipv4Addr::UNSPECIFIED, 8080).into())
    }
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one; the first is for names that none has, and for clients without SNI.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version spoken.
    pub min_version: TlsVersion,
    /// Certificates (PEM) that client certificates are checked against; there whenever `client_auth` is not off.
    pub client_ca: Option<PathBuf>,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
    /// From accepting a connection to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Handshakes per second of all clients; 0 is no limit.
    pub handshakes_per_second: u32,
    /// Handshakes at once; beyond, a connection is closed before its handshake. At least 1 if there is a limit.
    pub handshake_burst: u32,
    /// Whether sessions can be resumed with tickets.
    pub session_tickets: bool,
    /// How often the files are looked at.
    pub reload_interval: Duration,
}

impl ListenerTls {
    /// TLS with every default.
    pub fn new(certificates: Vec<CertificateFiles>) -> Self {
        Self {
            certificates,
            min_version: TlsVersion::Tls12,
            client_ca: None,
            client_auth: ClientAuth::Off,
            handshake_timeout: Duration::from_secs(10),
            handshakes_per_second: 0,
            handshake_burst: 0,
            session_tickets: true,
            reload_interval: Duration::from_secs(10),
        }
    }
}

/// A certificate and its key. The files are not read by the config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, PEM, the own certificate first.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The address; port 0 takes any free port.
    pub address: SocketAddr,
    /// What changes and connection lists need; without one they are refused unless the address is on loopback.
    pub token: Option<Secret>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: (Ipv4Addr::LOCALHOST, 9090).into(), token: None }
    }
}

words! {
    /// Which header of a trusted proxy names the client.
    pub RealIp {
        /// `X-Forwarded-For`, from the right past trusted proxies.
        XForwardedFor = "x-forwarded-for",
        /// `Forwarded` (RFC 7239), from the right past trusted proxies.
        Forwarded = "forwarded",
        /// `X-Real-IP`.
        XRealIp = "x-real-ip",
        /// None: the peer is the client.
        None = "none",
    }
    /// The oldest version of TLS spoken.
    pub TlsVersion {
        /// RFC 5246.
        Tls12 = "1.2",
        /// RFC 8446.
        Tls13 = "1.3",
    }
    /// Whether clients show a certificate.
    pub ClientAuth {
        /// They are not asked.
        Off = "off",
        /// They are asked; one that is shown must be good.
        Optional = "optional",
        /// Without a good one there is no connection.
        Required = "required",
    }
}
