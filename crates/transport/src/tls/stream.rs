use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, CommonState, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::server;
use super::session::Session;
use super::state::State;
use crate::{Portable, Socket};

/// A TLS connection of one thread. Its state may be written to by whoever holds a reference, as a socket may.
#[derive(Debug)]
pub struct TlsStream {
    socket: Socket,
    state: RefCell<State>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The first bytes are not TLS's; they look like a request of HTTP.
    #[error("the client speaks plain HTTP")]
    PlainHttp(Socket),
    /// The peer went away.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The socket broke.
    #[error("the connection broke during the handshake: {0}")]
    Io(io::Error),
    /// The two did not come together. The peer has been told, as far as it takes it.
    #[error("{0}")]
    Tls(rustls::Error),
}

/// The type of a handshake record (RFC 8446 section 5.1), which a connection begins with.
const HANDSHAKE: u8 = 22;

impl TlsStream {
    /// The server's side of a handshake.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub async fn accept(socket: Socket, config: Arc<ServerConfig>) -> Result<Self, HandshakeError> {
        let session = UnbufferedServerConnection::new(config).map_err(HandshakeError::Tls)?;
        Self::begin(socket, Session::Server(session)).await
    }

    /// The client's side of a handshake. `name` is what the server's certificate must be for.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub async fn connect(
        socket: Socket,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, HandshakeError> {
        let session = UnbufferedClientConnection::new(config, name).map_err(HandshakeError::Tls)?;
        Self::begin(socket, Session::Client(session)).await
    }

    async fn begin(mut socket: Socket, session: Session) -> Result<Self, HandshakeError> {
        let mut first = matches!(session, Session::Server(_));
        // On the heap while it is worked on: the caller's future need not hold a place for it.
        let mut state = Box::new(State::new(session));
        let mut plain_http = false;
        let result = poll_fn(|cx| {
            state.start()?;
            loop {
                state.flush(&socket)?;
                let blocked = state.has_unsent();
                if !state.session.is_handshaking() && !blocked {
                    return Poll::Ready(Ok(()));
                }
                if blocked {
                    ready!(socket.poll_write_ready(cx))?;
                    continue;
                }
                let mut read = |buffer: &mut [u8]| {
                    let mut target = ReadBuf::new(buffer);
                    ready!(Pin::new(&mut socket).poll_read(cx, &mut target))?;
                    let bytes = target.filled();
                    if std::mem::take(&mut first) && bytes.first().is_some_and(|byte| *byte != HANDSHAKE) {
                        plain_http = bytes.iter().take(3).all(u8::is_ascii_uppercase);
                    }
                    if plain_http {
                        return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                    }
                    Poll::Ready(Ok(bytes.len()))
                };
                let received = state.receive(&mut ReadBuf::new(&mut []), &mut read);
                if let Some(name) = server::take_name() {
                    state.name = Some(name);
                }
                ready!(received)?;
            }
        })
        .await;
        match result {
            Ok(()) => Ok(Self::from_parts(socket, *state)),
            Err(_) if plain_http => Err(HandshakeError::PlainHttp(socket)),
            Err(error) => {
                // The alert; an error here is no news.
                let _ = state.flush(&socket);
                Err(classify(error))
            }
        }
    }

    pub(crate) fn from_parts(socket: Socket, state: State) -> Self {
        Self { socket, state: RefCell::new(state) }
    }

    pub(crate) fn into_portable(self) -> io::Result<Portable> {
        Portable::tls(self.socket, self.state.into_inner())
    }

    /// Asks rustls about the connection: protocols, cipher suite, certificates.
    pub fn inspect<T>(&self, ask: impl FnOnce(&CommonState) -> T) -> T {
        ask(&self.state.borrow().session)
    }

    /// The name that a client asked for.
    pub(super) fn server_name(&self) -> Option<Box<str>> {
        self.state.borrow().name.clone()
    }

    /// See [`crate::Transport::try_read`].
    ///
    /// # Errors
    /// See [`crate::Transport::try_read`].
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = |buffer: &mut [u8]| match self.socket.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        };
        let mut target = ReadBuf::new(buffer);
        let mut state = self.state.borrow_mut();
        let result = state.read(&mut target, &mut read);
        if state.owes_flush() {
            state.flush(&self.socket)?;
        }
        match result {
            Poll::Ready(result) => result.map(|()| target.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// See [`crate::Transport::try_write`].
    ///
    /// # Errors
    /// See [`crate::Transport::try_write`].
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.state.borrow_mut().try_write(&self.socket, bytes)
    }

    /// See [`crate::Transport::try_write_vectored`].
    ///
    /// # Errors
    /// See [`crate::Transport::try_write_vectored`].
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.state.borrow_mut().try_write_vectored(&self.socket, slices)
    }

    /// See [`crate::Transport::poll_read_ready`].
    ///
    /// # Errors
    /// See [`crate::Transport::poll_read_ready`].
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.borrow().is_readable() {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    /// See [`crate::Transport::poll_write_ready`].
    ///
    /// # Errors
    /// See [`crate::Transport::poll_write_ready`].
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_write_ready(cx)
    }
}

fn classify(error: io::Error) -> HandshakeError {
    let kind = error.kind();
    match error.downcast::<rustls::Error>() {
        Ok(error) => HandshakeError::Tls(error),
        Err(_) if kind == io::ErrorKind::UnexpectedEof => HandshakeError::Closed,
        Err(error) => HandshakeError::Io(error),
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { socket, state } = self.get_mut();
        let state = state.get_mut();
        let result = state.read(buf, &mut |buffer| {
            let mut target = ReadBuf::new(buffer);
            ready!(Pin::new(&mut *socket).poll_read(cx, &mut target))?;
            Poll::Ready(Ok(target.filled().len()))
        });
        if state.owes_flush() {
            // No writer was told to come again for these, so that this task has to be woken for them.
            state.flush(socket)?;
            while state.owes_flush() && socket.poll_write_ready(cx)?.is_ready() {
                state.flush(socket)?;
            }
        }
        result
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { socket, state } = self.get_mut();
        loop {
            match state.get_mut().try_write(socket, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_write_ready(cx))?,
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, state } = self.get_mut();
        loop {
            match state.get_mut().try_write_vectored(socket, bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_write_ready(cx))?,
                result => return Poll::Ready(result),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, state } = self.get_mut();
        let state = state.get_mut();
        while state.has_unsent() {
            state.flush(socket)?;
            if state.has_unsent() {
                ready!(socket.poll_write_ready(cx))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more is sent, in TLS's own words and TCP's. The peer may go on sending.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, state } = self.get_mut();
        let state = state.get_mut();
        while !state.say_end(socket)? {
            ready!(socket.poll_write_ready(cx))?;
        }
        Pin::new(socket).poll_shutdown(cx)
    }
}
