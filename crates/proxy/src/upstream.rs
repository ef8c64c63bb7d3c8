use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_balance::{PeerSettings, RoundRobin, Tried};
use tidegate_metrics::{ConnectError, Metrics, ServerMetrics, UpstreamMetrics};
use tokio::net::TcpStream;

use crate::UpstreamSettings;

/// How long a resolved name is trusted.
const RESOLVED_FOR: Duration = Duration::from_secs(30);

/// An upstream of the process: shared by all workers, which keep only their own connections.
#[derive(Debug)]
pub struct Upstream {
    /// Unlike a name or an address in memory, never used twice.
    pub(crate) id: u64,
    pub(crate) settings: UpstreamSettings,
    pub(crate) servers: Box<[Server]>,
    pub(crate) metrics: Arc<UpstreamMetrics>,
    balance: Mutex<RoundRobin>,
    start: Instant,
}

/// One server of an upstream.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: Arc<str>,
    pub(crate) metrics: Arc<ServerMetrics>,
    /// An address needs no resolving.
    literal: Option<SocketAddr>,
    resolved: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
}

impl Upstream {
    /// A new upstream, all servers taken to be good.
    pub fn new(settings: UpstreamSettings, metrics: &Metrics) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let fail_timeout_ms = u64::try_from(settings.fail_timeout.as_millis()).unwrap_or(u64::MAX);
        let max_fails = settings.max_fails;
        let balance = RoundRobin::new(settings.servers.iter().map(|server| PeerSettings {
            weight: server.weight,
            max_fails,
            fail_timeout_ms,
        }));
        let servers = settings
            .servers
            .iter()
            .map(|server| Server {
                address: server.address.as_str().into(),
                metrics: metrics.server(&settings.name, &server.address),
                literal: server.address.parse().ok(),
                resolved: Mutex::default(),
            })
            .collect();
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            servers,
            metrics: metrics.upstream(&settings.name),
            balance: Mutex::new(balance),
            start: Instant::now(),
            settings,
        })
    }

    /// As configured.
    pub fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    /// Whether a request would find a server that is not known to be down.
    pub fn is_available(&self) -> bool {
        let now = self.now();
        let balance = self.balance.lock().unwrap_or_else(PoisonError::into_inner);
        (0..balance.len()).any(|index| !balance.is_down(index, now))
    }

    pub(crate) fn pick(&self, tried: Tried) -> Option<(usize, &Server)> {
        let index = if self.servers.len() == 1 {
            // Never down and always the same: no lock.
            if tried.contains(0) { None } else { Some(0) }
        } else {
            let now = self.now();
            self.balance.lock().unwrap_or_else(PoisonError::into_inner).pick(tried, now)
        }?;
        Some((index, self.servers.get(index)?))
    }

    pub(crate) fn failed(&self, index: usize) {
        if self.servers.len() > 1 {
            let now = self.now();
            self.balance.lock().unwrap_or_else(PoisonError::into_inner).failed(index, now);
        }
    }

    pub(crate) fn succeeded(&self, index: usize) {
        if self.servers.len() > 1 {
            self.balance.lock().unwrap_or_else(PoisonError::into_inner).succeeded(index);
        }
    }

    /// Milliseconds; begins at the age of a day so that "long ago" can be told from "at the start".
    fn now(&self) -> u64 {
        86_400_000 + u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }
}

impl Server {
    /// A new connection, without Nagle's delay.
    pub(crate) async fn connect(&self, timeout: Duration) -> Result<TcpStream, ConnectError> {
        let result = match tokio::time::timeout(timeout, self.open()).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ConnectError::Timeout),
        };
        if let Err(error) = &result {
            self.metrics.connect_errors(*error).inc();
            if self.literal.is_none() {
                // The name may have moved.
                *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
        result
    }

    async fn open(&self) -> Result<TcpStream, ConnectError> {
        let stream = match self.literal {
            Some(address) => TcpStream::connect(address).await.map_err(|error| classify(&error))?,
            None => {
                let mut result = Err(ConnectError::Resolve);
                for address in self.resolve().await?.iter() {
                    result = TcpStream::connect(address).await.map_err(|error| classify(&error));
                    if result.is_ok() {
                        break;
                    }
                }
                result?
            }
        };
        stream.set_nodelay(true).map_err(|error| classify(&error))?;
        Ok(stream)
    }

    async fn resolve(&self) -> Result<Arc<[SocketAddr]>, ConnectError> {
        if let Some((at, addresses)) = &*self.resolved.lock().unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < RESOLVED_FOR
        {
            return Ok(addresses.clone());
        }
        let found = tokio::net::lookup_host(&*self.address).await.map_err(|_| ConnectError::Resolve)?;
        let addresses: Arc<[SocketAddr]> = found.take(16).collect();
        if addresses.is_empty() {
            return Err(ConnectError::Resolve);
        }
        let entry = Some((Instant::now(), addresses.clone()));
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = entry;
        Ok(addresses)
    }
}

fn classify(error: &io::Error) -> ConnectError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is open")]
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused,
        io::ErrorKind::TimedOut => ConnectError::Timeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ConnectError::Unreachable,
        _ => ConnectError::Other,
    }
}
