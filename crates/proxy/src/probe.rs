//! One active probe of a server: a connection, a GET, or a real WebSocket handshake, each over a connection of its own.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{Method, StatusCode};
use tidegate_balance::ActiveSettings;
use tidegate_metrics::ConnectError;
use tidegate_rules::proxy_protocol::{ProxyHeader, ProxyVersion};
use tidegate_wire::websocket::{Opcode, accept_key, close_payload, encode_masked};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::UpstreamTls;
use crate::h1::{Head, parse_head};
use crate::headers::has_token;
use crate::server::Server;

/// The largest head that a probe reads.
const MAX_HEAD: usize = 64 * 1024;

/// How the servers of an upstream are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSettings {
    /// What is asked.
    pub kind: ProbeKind,
    /// Another port than the server's own. Not for unix sockets.
    pub port: Option<u16>,
    /// How long a whole probe may take.
    pub timeout: Duration,
    /// When, and how many results in a row count.
    pub schedule: ActiveSettings,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// A GET that must be answered with one of some statuses; the body is not read.
    Http {
        /// Path and query.
        path: String,
        /// The Host header; `None` is the server's address.
        host: Option<String>,
        /// The good statuses.
        status: Vec<RangeInclusive<u16>>,
    },
    /// A connection.
    Tcp,
    /// A handshake that must be answered with a 101 that fits its key (RFC 6455 section 4.2.2); then a Close frame.
    WebSocket {
        /// Path and query.
        path: String,
        /// The Host header; `None` is the server's address.
        host: Option<String>,
    },
}

/// Why a probe is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeFailure {
    Connect(ConnectError),
    /// Connected, and then the connection broke before there was an answer.
    Closed,
    Timeout,
    /// No HTTP, or ambiguous.
    Invalid,
    Status(StatusCode),
    /// A 101 that does not fit the key.
    Accept,
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connect: {}", error.as_str()),
            Self::Closed => f.write_str("the connection was closed without an answer"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Invalid => f.write_str("the answer is not valid HTTP"),
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
            Self::Accept => f.write_str("the 101 does not fit the handshake"),
        }
    }
}

/// How long a server may take to answer the Close frame of a probe. The probe is good whatever it does: waiting only keeps
/// the server's log free of resets.
const GOODBYE: Duration = Duration::from_millis(500);

/// Probes a server once.
///
/// A server that wants a PROXY header gets one that says that the gateway speaks for itself; another port does not.
pub(crate) async fn probe(
    settings: &ProbeSettings,
    proxy_protocol: Option<ProxyVersion>,
    tls: Option<&UpstreamTls>,
    http2: bool,
    server: &Server,
) -> Result<(), ProbeFailure> {
    let asked = tokio::time::timeout(settings.timeout, async {
        let mut stream = server.open(settings.port).await.map_err(ProbeFailure::Connect)?;
        if let (Some(version), None) = (proxy_protocol, settings.port) {
            let mut header = Vec::new();
            ProxyHeader::Own.encode(version, &mut header);
            stream.write_all(&header).await.map_err(|_| ProbeFailure::Closed)?;
        }
        let mut stream = server.secure(stream, tls).await.map_err(ProbeFailure::Connect)?;
        match &settings.kind {
            ProbeKind::Tcp => {}
            ProbeKind::Http { path, host, status: good } if http2 => {
                let host = host.as_deref().unwrap_or(server.authority());
                let status = Box::pin(crate::h2::ask(stream, path, host, tls.is_some(), false)).await?;
                let is_good = good.iter().any(|range| range.contains(&status.as_u16()));
                return if is_good { Ok(None) } else { Err(ProbeFailure::Status(status)) };
            }
            ProbeKind::WebSocket { path, host } if http2 => {
                let host = host.as_deref().unwrap_or(server.authority());
                let status = Box::pin(crate::h2::ask(stream, path, host, tls.is_some(), true)).await?;
                return if status.is_success() { Ok(None) } else { Err(ProbeFailure::Status(status)) };
            }
            ProbeKind::Http { path, host, status } => {
                get(&mut stream, path, host.as_deref().unwrap_or(server.authority()), status).await?;
            }
            ProbeKind::WebSocket { path, host } => {
                shake(&mut stream, path, host.as_deref().unwrap_or(server.authority())).await?;
            }
        }
        Ok(Some(stream))
    });
    let stream = asked.await.unwrap_or(Err(ProbeFailure::Timeout))?;
    if let Some(mut stream) = stream
        && matches!(settings.kind, ProbeKind::WebSocket { .. })
    {
        let _ = tokio::time::timeout(GOODBYE, until_closed(&mut stream)).await;
    }
    Ok(())
}

async fn get(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    path: &str,
    host: &str,
    good: &[RangeInclusive<u16>],
) -> Result<(), ProbeFailure> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: tidegate-probe\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    let status = ask(stream, &request).await?.response.status();
    if good.iter().any(|range| range.contains(&status.as_u16())) { Ok(()) } else { Err(ProbeFailure::Status(status)) }
}

async fn shake(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str, host: &str) -> Result<(), ProbeFailure> {
    let nonce = [random().to_be_bytes(), random().to_be_bytes()].concat();
    let key = STANDARD.encode(nonce);
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: tidegate-probe\r\nconnection: Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
    );
    let response = ask(stream, &request).await?.response;
    let (status, headers) = (response.status(), response.headers());
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(ProbeFailure::Status(status));
    }
    let accepted = headers.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| *accept == *accept_key(&key));
    if !accepted || !has_token(headers, &UPGRADE, "websocket") || !has_token(headers, &CONNECTION, "upgrade") {
        return Err(ProbeFailure::Accept);
    }
    let mut close = Vec::new();
    let [a, b, c, d, ..] = random().to_be_bytes();
    encode_masked(&mut close, Opcode::Close, &close_payload(1000, ""), [a, b, c, d]);
    stream.write_all(&close).await.map_err(|_| ProbeFailure::Closed)
}

/// Sends a request and waits for the head of its response; what comes behind it is left aside.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> Result<Head, ProbeFailure> {
    stream.write_all(request.as_bytes()).await.map_err(|_| ProbeFailure::Closed)?;
    let mut read = BytesMut::new();
    loop {
        if read.len() > MAX_HEAD {
            return Err(ProbeFailure::Invalid);
        }
        if stream.read_buf(&mut read).await.map_err(|_| ProbeFailure::Closed)? == 0 {
            return Err(ProbeFailure::Closed);
        }
        let mut bytes: Bytes = read.clone().freeze();
        while let Some((head, length)) = parse_head(&bytes, &Method::GET).map_err(|_| ProbeFailure::Invalid)? {
            let status = head.response.status();
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(head);
            }
            bytes.advance(length);
        }
    }
}

async fn until_closed(stream: &mut (impl AsyncRead + Unpin)) {
    let mut scrap = [0; 1024];
    while stream.read(&mut scrap).await.is_ok_and(|count| count > 0) {}
}

/// Unpredictable enough that no cache and no canned answer knows the key (RFC 6455 section 10.3 asks for no more of it).
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}
