//! One server of an upstream: where it is and how it is connected to.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::sticky::ServerCookie;
use tidegate_balance::{Load, PeerId};
use tidegate_metrics::{ConnectError, ServerMetrics};
use tidegate_transport::Transport;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};

use crate::UpstreamTls;
use crate::tally::Tallies;

/// One server of an upstream, or one address of a configured name.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) id: PeerId,
    /// As configured: what metrics call it.
    pub(crate) name: Arc<str>,
    /// Where it is: what logs call it.
    pub(crate) address: Arc<str>,
    pub(crate) target: Target,
    pub(crate) metrics: Arc<ServerMetrics>,
    pub(crate) load: Arc<Load>,
    /// For clients that are to stick to it.
    pub(crate) cookie: Option<ServerCookie>,
    pub(crate) tallies: Tallies,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// A name that has not been resolved yet.
    Name,
}

impl Target {
    pub(crate) fn of(address: &str) -> Self {
        match address.split_at_checked(5) {
            Some((scheme, path)) if scheme.eq_ignore_ascii_case("unix:") => Self::Unix(path.into()),
            Some(_) | None => address.parse().map_or(Self::Name, Self::Tcp),
        }
    }

    pub(crate) fn is_name(address: &str) -> bool {
        Self::of(address) == Self::Name
    }
}

/// A server that is counted as having one live connection more for as long as this lives.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Server>);

impl Busy {
    /// For a server whose [`Load`] has counted it.
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Self(server)
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.0
    }
}

impl Deref for Busy {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.load.release();
    }
}

impl Server {
    /// A new connection, without Nagle's delay, which begins with `first`, and then with TLS if there is to be any.
    pub(crate) async fn connect(
        &self,
        timeout: Duration,
        first: &[u8],
        tls: Option<&UpstreamTls>,
    ) -> Result<Transport, ConnectError> {
        let begin = async {
            let mut stream = self.open(None).await?;
            if !first.is_empty() {
                stream.write_all(first).await.map_err(|error| classify(&error))?;
            }
            self.secure(stream, tls).await
        };
        let result = match tokio::time::timeout(timeout, begin).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ConnectError::Timeout),
        };
        if let Err(error) = &result {
            self.metrics.connect_errors(*error).inc();
        }
        result
    }

    /// The stream with TLS around it, if there is to be any.
    pub(crate) async fn secure(&self, stream: Transport, tls: Option<&UpstreamTls>) -> Result<Transport, ConnectError> {
        match tls {
            None => Ok(stream),
            Some(tls) => tls.shake(stream, &self.name).await,
        }
    }

    /// What a probe calls the server.
    pub(crate) fn authority(&self) -> &str {
        if matches!(self.target, Target::Unix(_)) { "localhost" } else { &self.name }
    }

    /// A new connection; to another port of the same host if one is given.
    pub(crate) async fn open(&self, port: Option<u16>) -> Result<Transport, ConnectError> {
        match &self.target {
            Target::Tcp(address) => {
                let address = SocketAddr::new(address.ip(), port.unwrap_or(address.port()));
                let stream = TcpStream::connect(address).await.map_err(|error| classify(&error))?;
                stream.set_nodelay(true).map_err(|error| classify(&error))?;
                Ok(stream.into())
            }
            Target::Unix(path) => Ok(UnixStream::connect(path).await.map_err(|error| classify(&error))?.into()),
            Target::Name => Err(ConnectError::Resolve),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_sockets_and_names_are_told_apart() {
        assert_eq!(Target::of("[::1]:80"), Target::Tcp(([0, 0, 0, 0, 0, 0, 0, 1], 80).into()));
        assert_eq!(Target::of("unix:/run/app.sock"), Target::Unix("/run/app.sock".into()));
        assert_eq!(Target::of("app:3000"), Target::Name);
        assert_eq!(Target::of("é"), Target::Name);
    }
}
