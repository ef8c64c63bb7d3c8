//! One connection to a Redis server: bytes out, values in, and the handshake at its begin.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tidegate_transport::rustls::ClientConfig;
use tidegate_transport::{ClientTerms, HandshakeError, ServerName, Socket, TlsStream, Transport, Trust};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::call::Call;
use super::error::ConnectError;
use super::resp::{Garbage, Parser, ServerError, Value};
use super::settings::{Address, Login, SettingsError, TlsSettings};

/// How much is read at once.
const CHUNK: usize = 16 * 1024;
/// A buffer that had to be larger than this is not kept.
const KEPT: usize = 64 * 1024;

/// What TLS needs, made once.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl Tls {
    pub(super) fn new(settings: &TlsSettings) -> Result<Self, SettingsError> {
        let bad = |text: String| SettingsError::Tls(text);
        let trust = settings.ca.as_deref().map_or(Trust::System, Trust::Roots);
        let terms = ClientTerms { trust, certificate: settings.certificate.as_ref(), http2: false };
        let mut config = (*terms.config().map_err(|error| bad(error.to_string()))?).clone();
        // Redis is none of the protocols of HTTP.
        config.alpn_protocols.clear();
        let name = match &settings.server_name {
            Some(name) => {
                Some(server_name(name).ok_or_else(|| bad(format!("server_name {name:?} is no name of a host")))?)
            }
            None => None,
        };
        Ok(Self { config: Arc::new(config), name })
    }
}

fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

/// A connection.
pub(super) struct Wire {
    transport: Transport,
    parser: Parser,
    unsent: Vec<u8>,
    sent: usize,
    /// Bytes that the kernel or TLS has taken since the begin.
    pub(super) written: u64,
}

/// What ends a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the server closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("{0}; is it Redis at all?")]
    Garbage(#[from] Garbage),
    #[error("it answered what it had not been asked")]
    Unasked,
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("it is a replica now")]
    Demoted,
    #[error("it is no longer the one to speak to")]
    Left,
}

impl Wire {
    pub(super) async fn connect(address: &Address, tls: Option<&Tls>, most: usize) -> Result<Self, ConnectError> {
        let stream = Self::reach(address).await?;
        let transport = match tls {
            None => Transport::from(stream),
            Some(tls) => {
                let name = tls.name.clone().or_else(|| server_name(&address.host));
                let name = name.ok_or_else(|| ConnectError::Tls(format!("{:?} is no name of a host", address.host)))?;
                let stream = TlsStream::connect(Socket::Tcp(stream), tls.config.clone(), name).await;
                stream.map_err(|error: HandshakeError| ConnectError::Tls(error.to_string()))?.into()
            }
        };
        Ok(Self { transport, parser: Parser::new(most), unsent: Vec::new(), sent: 0, written: 0 })
    }

    async fn reach(address: &Address) -> Result<TcpStream, ConnectError> {
        let found = tokio::net::lookup_host((&*address.host, address.port)).await.map_err(ConnectError::Resolve)?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in found {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // Small calls must not wait for the acknowledgement of those before them.
                    stream.set_nodelay(true).map_err(ConnectError::Connect)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(ConnectError::Connect(last))
    }

    /// Logs in and changes to RESP3.
    pub(super) async fn greet(&mut self, login: &Login) -> Result<(), ConnectError> {
        let mut hello = Call::new("HELLO").arg("3");
        if let Some(password) = &login.password {
            hello = hello.arg("AUTH").arg(login.user.as_deref().unwrap_or("default")).arg(password.reveal());
        }
        self.ask(&hello.arg("SETNAME").arg("tidegate")).await.map(|_| ())
    }

    /// One call and its answer, of a connection that does nothing else yet.
    pub(super) async fn ask(&mut self, call: &Call) -> Result<Value, ConnectError> {
        call.encode(&mut self.unsent);
        let nobody = Notify::new();
        loop {
            match self.next().map_err(Broken::from)? {
                Some(Value::Error(error)) => return Err(ConnectError::of(error)),
                Some(Value::Push(_)) => {}
                Some(value) => return Ok(value),
                None => {
                    let far = Instant::now() + Duration::from_secs(3600);
                    self.turn(&nobody, far).await?;
                }
            }
        }
    }

    /// What is to be sent. Goes out with the next [`Wire::turn`].
    pub(super) fn unsent(&mut self) -> &mut Vec<u8> {
        &mut self.unsent
    }

    /// The next value that has come as a whole.
    pub(super) fn next(&mut self) -> Result<Option<Value>, Garbage> {
        self.parser.next()
    }

    /// Sends and receives what is possible now; waits only if nothing is, until something is, `wake` is rung or it is time.
    /// Returns whether something has come.
    pub(super) async fn turn(&mut self, wake: &Notify, until: Instant) -> Result<bool, Broken> {
        self.send()?;
        if self.receive()? {
            // A server that never pauses must not keep the other tasks of the thread from their turns.
            tokio::task::yield_now().await;
            return Ok(true);
        }
        let transport = &self.transport;
        let blocked = !self.unsent.is_empty();
        tokio::select! {
            ready = poll_fn(|cx| transport.poll_read_ready(cx)) => ready?,
            ready = poll_fn(|cx| transport.poll_write_ready(cx)), if blocked => ready?,
            () = wake.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
        self.send()?;
        self.receive()
    }

    fn send(&mut self) -> Result<(), Broken> {
        while let Some(rest) = self.unsent.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.transport.try_write(rest) {
                Ok(count) => {
                    self.sent += count;
                    self.written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.sent > KEPT {
                        self.unsent.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.sent = 0;
        self.unsent.clear();
        self.unsent.shrink_to(KEPT);
        Ok(())
    }

    fn receive(&mut self) -> Result<bool, Broken> {
        let buffer = self.parser.buffer();
        let before = buffer.len();
        if before == 0 && buffer.capacity() > KEPT {
            *buffer = BytesMut::new();
        }
        buffer.resize(before + CHUNK, 0);
        let result = self.transport.try_read(buffer.get_mut(before..).unwrap_or_default());
        buffer.truncate(before + result.as_ref().ok().copied().unwrap_or(0));
        match result {
            Ok(0) => Err(Broken::Closed),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl From<Broken> for ConnectError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken.to_string())
    }
}

impl ConnectError {
    fn of(error: ServerError) -> Self {
        Self::Answered(error)
    }
}
