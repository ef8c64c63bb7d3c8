//! Where clients are awaited.

use crate::reader::{Hidden, List, ListenAddress, Network, Optional, Size, Span};
use crate::{ClientAuth, RealIp, TlsVersion};

sections! {
    /// Patience with clients, on all listeners.
    Client {
        /// From accepting a connection to the end of its first request head (nginx client_header_timeout).
        header_timeout: Span = "60s",
        /// How long an idle connection is kept for the next request (nginx keepalive_timeout).
        keepalive_timeout: Span = "75s",
        /// How many requests one connection carries.
        keepalive_requests: u64 = 1000,
        /// The longest time in which a client may take nothing of what is sent.
        send_timeout: Span = "60s",
        /// Bytes per second that a request body must reach after its first 10 s, else 408; 0 is no minimum.
        body_min_rate: Size = 0,
        /// The longest request head, else 431.
        max_header_bytes: Size = "32KiB",
        /// The most header lines, else 431.
        max_headers: u64 = 100,
    }

    /// An address that clients connect to.
    Listener {
        /// The name that routes refer to; may be left out if it is the only listener.
        name: String = "public",
        /// IP address and port; port 0 takes any free port.
        address: ListenAddress = "0.0.0.0:8080",
        /// The most open connections; beyond, 503 with Retry-After. 0 is no cap.
        max_connections: u64 = 0,
        /// Whether HTTP/2 is offered (ALPN) on a TLS listener.
        http2: bool = true,
        /// Answers everything with 308 to https.
        redirect_https: bool = false,
        /// The port of that address.
        redirect_https_port: u64 = 443,
        /// Networks of the proxies whose word on the client's address is taken.
        trusted_proxies: List<Network> = [],
        /// The header in which they name the client.
        real_ip: RealIp = "x-forwarded-for",
        /// Every connection must begin with a PROXY header, v1 or v2, and come from trusted_proxies; from anywhere if there are none.
        proxy_protocol: bool = false,
        /// Names of zones for routes that say nothing about limits.
        limits: List<String> = [],
        /// TLS towards clients. Switched on by this section.
        tls: ListenerTls,
    }

    /// TLS towards clients.
    ListenerTls {
        /// The certificate with its chain, PEM.
        certificate: Optional<String>,
        /// Its private key, PEM.
        key: Optional<String>,
        /// More pairs: [[listener.tls.certificates]]. Which one a client gets follows from the names in them; the first is the default.
        certificates: List<Certificate>,
        /// The oldest version spoken.
        min_version: TlsVersion = "1.2",
        /// Certificates, PEM, that client certificates are checked against.
        client_ca: Optional<String> = "",
        /// Whether clients show a certificate.
        client_auth: ClientAuth = "off",
        /// From accepting a connection to the end of the handshake.
        handshake_timeout: Span = "10s",
        /// Handshakes per second of all clients; 0 is no limit.
        handshakes_per_second: u64 = 0,
        /// Handshakes at once; beyond, the connection is closed. 0 is as many as per second.
        handshake_burst: u64 = 0,
        /// Whether sessions can be resumed with tickets.
        session_tickets: bool = true,
        /// How often the files are looked at; a changed pair is taken up.
        reload_interval: Span = "10s",
    }

    /// A certificate and its key.
    Certificate {
        /// The certificate with its chain, PEM.
        certificate: String,
        /// Its private key, PEM.
        key: String,
    }

    /// Where health, metrics and stats are served. Keep it from the public.
    Admin {
        /// Whether there is an admin listener.
        enabled: bool = true,
        /// IP address and port.
        address: ListenAddress = "127.0.0.1:9090",
        /// What changes and connection lists need, at least 16 bytes. Without one they are refused unless the address is on loopback.
        token: Optional<Hidden> = "",
        /// A file with that token.
        token_file: Optional<String> = "",
    }
}
