//! A client before its first request: whether there is room for its connection, who it is behind the proxies in front, and
//! what the listener grants it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{HeaderMap, Request};
use tidegate_config::{Config, Listener, RealIp};
use tidegate_metrics::{Counter, Metrics, RefusedConnection};
use tidegate_rules::proxy_protocol::{MAX_BYTES, Progress, ProxyHeader};
use tidegate_rules::{AddressHeader, TrustedProxies, client_address};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::StartError;
use crate::admission::{Asking, Limits, Wave};

/// What is written to a connection for which there is no room.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\n\
    content-length: 78\r\n\
    retry-after: 5\r\n\
    connection: close\r\n\r\n\
    {\"error\":{\"code\":\"UNAVAILABLE\",\"message\":\"Too many connections are open now\"}}";
/// How long such a connection may take to read that: closed at once, what it sends meanwhile would reset it.
const LINGER: Duration = Duration::from_secs(1);
/// How many may take that long; others are closed at once.
const MOST_LINGERING: u32 = 128;
/// What is read of a PROXY header at once; most are shorter.
const STEP: usize = 256;

/// How many connections are open.
#[derive(Debug, Default)]
pub(crate) struct Occupancy {
    listener: AtomicU32,
    lingering: AtomicU32,
    process: Arc<AtomicU32>,
}

/// The place of an open connection; free again when dropped.
#[derive(Debug)]
pub(crate) struct Occupied(Arc<Occupancy>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.listener.fetch_sub(1, Ordering::Relaxed);
        self.0.process.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a listener grants and asks. Made with the plan.
#[derive(Debug)]
pub(crate) struct Threshold {
    occupancy: Arc<Occupancy>,
    most: u32,
    most_of_process: u32,
    pub proxy_protocol: bool,
    tls: bool,
    trusted: TrustedProxies,
    real_ip: AddressHeader,
    header_timeout: Duration,
    /// The longest head, bytes.
    pub max_header_bytes: usize,
    /// After so many requests a connection ends.
    pub keepalive_requests: u64,
    /// Bytes per second that request bodies must reach; 0 is no minimum.
    pub body_min_rate: u64,
    pub wave: Option<Arc<Wave>>,
    refused: Box<[(RefusedConnection, Counter)]>,
}

impl Threshold {
    /// That of a listener, after its earlier one.
    ///
    /// # Errors
    /// A config built in code has networks that are none.
    pub fn new(
        config: &Config,
        listener: &Listener,
        before: Option<&Self>,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Result<Self, StartError> {
        let occupancy = match before {
            Some(before) => before.occupancy.clone(),
            None => Arc::new(Occupancy { process: limits.connections.clone(), ..Occupancy::default() }),
        };
        let network = |text: &Arc<str>| {
            text.parse()
                .map_err(|error| StartError::Config(format!("listener {:?}: trusted_proxies: {error}", listener.name)))
        };
        let trusted = listener.trusted_proxies.iter().map(network).collect::<Result<_, _>>()?;
        let refused = RefusedConnection::ALL
            .iter()
            .map(|reason| (*reason, metrics.connections_refused(&listener.name, *reason)))
            .collect();
        Ok(Self {
            occupancy,
            most: listener.max_connections,
            most_of_process: config.max_connections,
            proxy_protocol: listener.proxy_protocol,
            tls: listener.tls.is_some(),
            trusted: TrustedProxies::new(trusted),
            real_ip: match listener.real_ip {
                RealIp::XForwardedFor => AddressHeader::XForwardedFor,
                RealIp::Forwarded => AddressHeader::Forwarded,
                RealIp::XRealIp => AddressHeader::XRealIp,
                RealIp::None => AddressHeader::None,
            },
            header_timeout: config.client.header_timeout,
            max_header_bytes: config.client.max_header_bytes,
            keepalive_requests: config.client.keepalive_requests,
            body_min_rate: config.client.body_min_rate,
            wave: limits.wave.clone(),
            refused,
        })
    }

    /// That of the internal listener. Whoever comes in is a node: what it says of its clients is believed, and their limits
    /// have been asked where they came in.
    ///
    /// # Errors
    /// As of [`Threshold::new`].
    pub fn of_nodes(
        config: &Config,
        listener: &Listener,
        before: Option<&Self>,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Result<Self, StartError> {
        let this = Self::new(config, listener, before, limits, metrics)?;
        Ok(Self { most: 0, most_of_process: 0, wave: None, keepalive_requests: u64::MAX, body_min_rate: 0, ..this })
    }

    /// Who asks, by what trusted proxies say.
    pub fn asking(&self, peer: SocketAddr, headers: &HeaderMap) -> Asking {
        let client =
            if self.trusted.is_empty() { peer } else { client_address(peer, headers, self.real_ip, &self.trusted) };
        Asking { client, peer }
    }

    /// A place for one more connection.
    ///
    /// # Errors
    /// There is none.
    pub fn occupy(&self) -> Result<Occupied, RefusedConnection> {
        let full = |open: u32, most: u32| most > 0 && open >= most;
        let occupied = Occupied(self.occupancy.clone());
        // Counted before it is looked at, so that two workers cannot both take the last place.
        let listener = self.occupancy.listener.fetch_add(1, Ordering::Relaxed);
        let process = self.occupancy.process.fetch_add(1, Ordering::Relaxed);
        if full(process, self.most_of_process) {
            return Err(RefusedConnection::Process);
        }
        if full(listener, self.most) {
            return Err(RefusedConnection::Listener);
        }
        Ok(occupied)
    }

    /// Counts a connection that is closed before its first request.
    pub fn count_refused(&self, reason: RefusedConnection) {
        if let Some((_, counter)) = self.refused.iter().find(|(known, _)| *known == reason) {
            counter.inc();
        }
    }

    /// Tells a connection that there is no room for it.
    pub async fn turn_away(&self, mut stream: TcpStream) {
        // Who speaks TLS would take the text for a broken handshake.
        if self.tls || stream.try_write(FULL).is_err() {
            return;
        }
        if self.occupancy.lingering.fetch_add(1, Ordering::Relaxed) < MOST_LINGERING {
            let _ = tokio::time::timeout(LINGER, async {
                stream.shutdown().await?;
                drain(&stream).await
            })
            .await;
        }
        self.occupancy.lingering.fetch_sub(1, Ordering::Relaxed);
    }

    /// The client's address from the PROXY header with which the connection must begin.
    ///
    /// # Errors
    /// It does not; `None` if it ended without having sent anything, as the checks of balancers do.
    pub async fn proxied(&self, stream: &TcpStream, peer: SocketAddr) -> Result<SocketAddr, Option<RefusedConnection>> {
        if !self.trusted.is_empty() && !self.trusted.trusts(peer.ip()) {
            return Err(Some(RefusedConnection::Untrusted));
        }
        match tokio::time::timeout(self.header_timeout, proxy_header(stream)).await {
            Ok(Ok(Some(ProxyHeader::Proxied { source, .. }))) => Ok(source),
            Ok(Ok(Some(ProxyHeader::Own))) => Ok(peer),
            Ok(Ok(None)) => Err(None),
            Ok(Err(_)) => Err(Some(RefusedConnection::BadHeader)),
            Err(_) => Err(Some(RefusedConnection::LateHeader)),
        }
    }
}

/// The bytes of a request's head, as it is written without needless spaces.
pub(crate) fn head_bytes<B>(request: &Request<B>) -> usize {
    let target = request.uri().path_and_query().map_or(1, |target| target.as_str().len());
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    request.method().as_str().len() + target + "  HTTP/1.1\r\n\r\n".len() + fields.sum::<usize>()
}

/// Reads and forgets until the other side ends.
async fn drain(stream: &TcpStream) -> io::Result<()> {
    let mut bytes = [0; 1024];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads the header and not a byte more: looks at what is there first, and takes what belongs to it.
async fn proxy_header(stream: &TcpStream) -> io::Result<Option<ProxyHeader>> {
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let before = bytes.len();
        bytes.resize((before + STEP).min(MAX_BYTES), 0);
        let seen = stream.peek(bytes.get_mut(before..).unwrap_or_default()).await?;
        bytes.truncate(before + seen);
        if seen == 0 {
            return if before == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        match ProxyHeader::parse(&bytes).map_err(io::Error::other)? {
            Progress::Incomplete => take(stream, seen).await?,
            Progress::Complete { header, length } => {
                take(stream, length.saturating_sub(before)).await?;
                return Ok(Some(header));
            }
        }
    }
}

/// Takes bytes off a stream that are known to be there.
async fn take(stream: &TcpStream, count: usize) -> io::Result<()> {
    let mut left = count;
    let mut bytes = [0; STEP];
    while left > 0 {
        stream.readable().await?;
        match stream.try_read(bytes.get_mut(..left.min(STEP)).unwrap_or_default()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(taken) => left -= taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_when_there_is_no_room_is_framed_right() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
