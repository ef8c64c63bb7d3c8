//! Groups of servers.

use crate::reader::{
    FieldName, FieldValue, Hidden, HostName, KeyTemplate, List, Optional, ServerAddress, Span, Statuses, Token,
    UrlPath, UrlTarget,
};
use crate::words::words;
use crate::{Discover, Initially, ProxyProtocol, RetryOn, SameSite, UpstreamProtocol};

sections! {
    /// A group of servers that are interchangeable.
    Upstream {
        /// Addresses, host:port or unix:/path, of equal weight.
        servers: List<ServerAddress>,
        /// Servers with more to say about: [[upstream.NAME.server]].
        server: List<Server>,
        /// In place of servers: the cluster's nodes that do this, as they come and go. Spoken to over their internal listeners; a session's requests go to the node that has it.
        discover: Discover,
        /// How a server is chosen; "random" takes the better of two, "least_time" goes by a moving average.
        balance: BalanceKind = "round_robin",
        /// What is hashed with balance = "hash": a template.
        hash_key: Optional<KeyTemplate> = "",
        /// Ketama, so that few keys move when servers change (nginx hash KEY consistent).
        consistent: bool = false,
        /// No server gets more than so many percent of the average with a consistent hash; 0 is off, otherwise above 100.
        load_factor: u64 = 0,
        /// What keeps a client at its server. Switched on by this section.
        sticky: Sticky,
        /// How often names are resolved again if the answer has no TTL or a longer one.
        dns_refresh: Span = "30s",
        /// What the servers speak.
        protocol: UpstreamProtocol = "http1",
        /// The PROXY header that the servers get.
        proxy_protocol: ProxyProtocol = "off",
        /// TLS to the servers. Switched on by this section.
        tls: UpstreamTls,
        /// Until a TCP connection stands.
        connect_timeout: Span = "5s",
        /// From a WebSocket handshake to its 101.
        handshake_timeout: Span = "10s",
        /// The longest silence of the server while a response is awaited.
        read_timeout: Span = "60s",
        /// The longest silence of the client while its request body is awaited, or while it does not take the response.
        send_timeout: Span = "60s",
        /// The longest silence of an event stream.
        stream_timeout: Span = "24h",
        /// The longest silence of a WebSocket tunnel, both ways together.
        tunnel_idle_timeout: Span = "1h",
        /// Idle connections kept by each worker.
        keepalive: u64 = 32,
        /// How long an idle connection is kept.
        keepalive_timeout: Span = "60s",
        /// How many requests one connection carries.
        keepalive_requests: u64 = 1000,
        /// Failures in a row of time after which a server is skipped; 0 never skips.
        max_fails: u64 = 1,
        /// How long a failed server is skipped.
        fail_timeout: Span = "10s",
        /// Streams closed per second when a server goes down, is drained or leaves the config; 0 is all at once.
        close_rate: u64 = 50,
        /// Streams per second moved towards a server that came (back); 0 is none.
        rebalance_rate: u64 = 0,
        /// Active probes. Switched on by this section.
        health: Health,
        /// Ejection of servers that are worse than the others. Switched on by this section.
        outlier: Outlier,
        /// The circuit breaker of the whole upstream. Switched on by this section.
        breaker: Breaker,
        /// What is tried again.
        retry: Retry,
    }

    /// One server of an upstream.
    Server {
        /// The address, host:port or unix:/path; a name with several addresses is as many servers.
        address: ServerAddress,
        /// Its share of the requests, from 1 to 65535.
        weight: u64 = 1,
        /// The most exchanges at once in this process, streams included; 0 is no limit.
        max_conns: u64 = 0,
        /// Only used when all others are down.
        backup: bool = false,
        /// Never used.
        down: bool = false,
        /// Finishes what it has, gets nothing new.
        drain: bool = false,
        /// How long its weight ramps up after it came back.
        slow_start: Span = "0s",
        /// By default the upstream's.
        max_fails: u64,
        /// By default the upstream's.
        fail_timeout: Span,
    }

    /// What keeps a client at its server: one of cookie, header and query.
    Sticky {
        /// The name of a signed cookie that names the server.
        cookie: Optional<Token> = "",
        /// The cookie's HMAC key, at least 32 bytes. Without one the process makes its own, lost when it ends.
        secret: Optional<Hidden> = "",
        /// How long the browser keeps the cookie; 0s is until it is closed.
        ttl: Span = "0s",
        /// The cookie's path.
        path: UrlPath = "/",
        /// The cookie's domain; by default the request's host alone.
        domain: Optional<HostName> = "",
        /// Whether the cookie is only sent over https.
        secure: bool = false,
        /// Whether the cookie goes with requests from other sites.
        same_site: SameSite = "lax",
        /// The name of a request header, hashed consistently.
        header: Optional<FieldName> = "",
        /// The name of a query parameter, hashed consistently.
        query: Optional<Token> = "",
    }

    /// TLS to the servers.
    UpstreamTls {
        /// The name sent (SNI) and checked; by default the server's host.
        server_name: Optional<HostName> = "",
        /// Whether the server's certificate is checked.
        verify: bool = true,
        /// The roots, PEM; by default those of the system.
        ca: Optional<String> = "",
        /// A certificate that is shown to the servers, PEM.
        certificate: Optional<String> = "",
        /// Its private key, PEM.
        key: Optional<String> = "",
    }

    /// Active probes of each server.
    Health {
        /// What is asked: a GET, a connection, or a real WebSocket handshake.
        r#type: ProbeKind = "http",
        /// The path, with a query if it needs one.
        path: UrlTarget = "/",
        /// The Host header; by default the server's address.
        host: Optional<FieldValue> = "",
        /// The port; 0 is the server's own.
        port: u64 = 0,
        /// From one probe to the next.
        interval: Span = "5s",
        /// Percent of the interval by which it varies.
        jitter: u64 = 10,
        /// How long an answer may take.
        timeout: Span = "2s",
        /// Good probes in a row that bring a server up.
        rise: u64 = 2,
        /// Bad probes in a row that take it down.
        fall: u64 = 3,
        /// What is good with type = "http": one status, ranges, a comma list.
        status: Statuses = "200-399",
        /// What is assumed until the first probes.
        initially: Initially = "up",
    }

    /// Ejection of servers that are worse than the others.
    Outlier {
        /// How often is judged.
        interval: Span = "10s",
        /// Requests of a server in an interval below which it is not judged.
        min_requests: u64 = 20,
        /// Percent of 5xx answers and failed requests.
        error_rate: u64 = 50,
        /// Percent of the median latency of the servers above which one goes; 0 is off, otherwise above 100.
        latency_factor: u64 = 0,
        /// How long it is out, times the number of its ejections, up to ten times.
        ejection_time: Span = "30s",
        /// Percent of the servers that may be out at once; one always may.
        max_ejected: u64 = 50,
    }

    /// The circuit breaker of a whole upstream.
    Breaker {
        /// Percent of failed requests that opens it.
        error_rate: u64 = 50,
        /// Requests in an interval below which it does not open.
        min_requests: u64 = 50,
        /// Over which failures are counted.
        interval: Span = "10s",
        /// How long it stays open.
        open_for: Span = "10s",
        /// Requests that are let through then, to see.
        half_open_requests: u64 = 5,
        /// Exchanges at once, streams not counted; 0 is no cap.
        max_requests: u64 = 0,
    }

    /// What is tried again.
    Retry {
        /// "connect", "reset", "timeout" and statuses: "500", "502", "503", "504", "429".
        on: List<RetryOn> = ["connect", "reset"],
        /// Tries in all, the first one included.
        tries: u64 = 3,
        /// No retry after that long; 0s is no limit.
        timeout: Span = "0s",
        /// Percent of requests that may be retries (at least 10 per second may); 0 is no budget.
        budget: u64 = 20,
        /// Whether also requests that may not be repeated (POST, LOCK, PATCH) are tried again.
        non_idempotent: bool = false,
    }
}

words! {
    /// The word for a [`crate::Balance`].
    pub(crate) BalanceKind {
        /// Round robin.
        RoundRobin = "round_robin",
        /// Fewest exchanges.
        LeastConn = "least_conn",
        /// By the client's address.
        IpHash = "ip_hash",
        /// By a key.
        Hash = "hash",
        /// Two at random.
        Random = "random",
        /// Shortest expected time.
        LeastTime = "least_time",
    }
    /// The word for a [`crate::Probe`].
    pub(crate) ProbeKind {
        /// A GET.
        Http = "http",
        /// A connection.
        Tcp = "tcp",
        /// A WebSocket handshake.
        WebSocket = "websocket",
    }
}
