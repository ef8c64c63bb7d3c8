use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use tidegate_types::Millis;

/// What is known of a request when a template is rendered, borrowed from wherever it lies. What is not known yet, or does
/// not exist, stays at its default and renders as nothing.
///
/// `Facts { method: "GET", ..Facts::default() }` is how one is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The client, after trusted proxies were looked through.
    pub client: Option<SocketAddr>,
    /// The peer of the connection.
    pub peer: Option<SocketAddr>,
    /// The host that the client asked for: the target's authority, or else `Host`. A port is left out when it is rendered,
    /// and letters become small, as in nginx's `$host`.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path as it came, still percent-encoded.
    pub path: &'a str,
    /// The query as it came, without the question mark.
    pub query: Option<&'a str>,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `1.0`, `1.1` or `2`.
    pub http_version: &'a str,
    /// The request's id.
    pub request_id: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// The listener's name.
    pub listener: &'a str,
    /// What follows the matched prefix of the path, still percent-encoded.
    pub prefix_rest: &'a str,
    /// The header of the request.
    pub headers: Option<&'a HeaderMap>,
    /// The claims of a token that was verified, by name; each as text (a list: comma-separated).
    pub claims: &'a [(Box<str>, Box<str>)],
    /// The client's TLS.
    pub tls: Option<TlsFacts<'a>>,
    /// The number of the connection within the process.
    pub connection: Option<u64>,
    /// The number of the request within the connection, from 1.
    pub connection_requests: Option<u64>,
    /// The trace's id in hexadecimal digits.
    pub trace_id: &'a str,
    /// The upstream's part; from the response head on.
    pub upstream: Option<&'a UpstreamFacts<'a>>,
    /// How it ended; for logs.
    pub end: Option<&'a EndFacts<'a>>,
}

/// What is known of the client's TLS.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsFacts<'a> {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'a str,
    /// The cipher suite.
    pub cipher: &'a str,
    /// The name that the client asked for.
    pub sni: &'a str,
    /// The subject of the client's certificate (RFC 2253).
    pub client_subject: &'a str,
    /// `SUCCESS`, `FAILED` or `NONE`, as nginx's `$ssl_client_verify`.
    pub client_verified: &'a str,
}

/// What is known of the upstream's part.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpstreamFacts<'a> {
    /// The upstream's name.
    pub name: &'a str,
    /// The server that answered or was tried last.
    pub address: &'a str,
    /// The status that it answered with.
    pub status: Option<u16>,
    /// How long it took to connect; `None` on a connection that was open already.
    pub connect_time: Option<Duration>,
    /// From the begin of the exchange to the head of the response.
    pub header_time: Option<Duration>,
    /// How many further tries were needed.
    pub retries: u8,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndFacts<'a> {
    /// The status sent to the client.
    pub status: u16,
    /// Bytes of the body or tunnel from the client.
    pub bytes_in: u64,
    /// Bytes of the body or tunnel to the client.
    pub bytes_out: u64,
    /// From the request's head to the end.
    pub duration: Duration,
    /// From the request's head to the response's.
    pub ttfb: Option<Duration>,
    /// `http`, `sse`, `websocket` and so on.
    pub kind: &'a str,
    /// Why it ended.
    pub reason: &'a str,
    /// The code of our own error.
    pub error: &'a str,
    /// Events passed on.
    pub events: u64,
    /// Messages from the client.
    pub messages_in: u64,
    /// Messages to the client.
    pub messages_out: u64,
    /// When it ended, ms since the Unix epoch.
    pub unix_ms: Millis,
    /// What is added to UTC for `{time_local}`, in minutes.
    pub utc_offset_minutes: i16,
}
