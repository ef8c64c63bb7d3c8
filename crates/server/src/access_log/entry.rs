use std::net::SocketAddr;
use std::time::Duration;

use tidegate_rules::TlsFacts;

use super::Kept;

/// What one line says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// `http`, `websocket`, `sse` or `socketio`; `open` for the begin of a stream.
    pub kind: &'static str,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    /// After trusted proxies were looked through.
    pub client: SocketAddr,
    /// The other end of the connection.
    pub peer: SocketAddr,
    pub listener: &'a str,
    pub scheme: &'static str,
    /// Of the client's connection.
    pub tls: Option<TlsFacts<'a>>,
    /// `1.0`, `1.1` or `2`.
    pub http_version: &'static str,
    pub method: &'a str,
    pub host: &'a [u8],
    /// Without the query, in which secrets may stand.
    pub path: &'a str,
    /// For templates that ask for it.
    pub query: Option<&'a str>,
    /// What the log's format needs beside; see [`super::Log::keep`].
    pub kept: Option<&'a Kept>,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    pub ttfb: Option<Duration>,
    pub route: Option<&'a str>,
    /// The server's address.
    pub upstream: Option<&'a str>,
    pub upstream_status: Option<u16>,
    /// `None` if a connection was used again.
    pub upstream_connect: Option<Duration>,
    pub upstream_header: Option<Duration>,
    pub retries: u8,
    /// Events of a stream or messages of a session.
    pub events: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    /// Of a realtime session: `websocket`, `polling` or `sse`.
    pub transport: Option<&'static str>,
    pub tenant: Option<&'a str>,
    pub user: Option<&'a str>,
    pub reason: Option<&'static str>,
    pub error: Option<&'static str>,
}
