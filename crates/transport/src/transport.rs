use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::{Over, Portable, Socket, TlsStream};

/// A stream of bytes, whatever carries it. Plain sockets cost one comparison more than by themselves.
///
/// The calls on a shared reference are those of [`TcpStream`]: they never wait, and they may be used while another task of the
/// same thread polls the stream. A write that takes only a part, or nothing (`WouldBlock`), has to go on with the rest of
/// the same bytes: TLS may have begun to send them.
#[derive(Debug)]
pub enum Transport {
    /// TCP or a Unix socket, as it is.
    Plain(Socket),
    /// TLS on one of them; boxed, for it is rarer and larger.
    Tls(Box<TlsStream>),
    /// A stream inside of another one.
    Over(Box<Over>),
}

/// The same expression for all kinds.
macro_rules! each {
    ($transport:expr, $stream:ident => $then:expr) => {
        match $transport {
            Transport::Plain($stream) => $then,
            Transport::Tls($stream) => $then,
            Transport::Over($stream) => $then,
        }
    };
}

impl Transport {
    /// A stream inside of another one, such as one of HTTP/2.
    pub fn over(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self::Over(Box::new(Over::new(stream)))
    }

    /// Reads what is there. `WouldBlock` if nothing is; 0 at the end.
    ///
    /// # Errors
    /// Those of read(2); `UnexpectedEof` for a TLS stream that was cut off.
    #[inline]
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(self, stream => stream.try_read(buffer))
    }

    /// Writes what is taken now. `WouldBlock` if nothing is: then, or if only a part was, the same bytes must be written again
    /// when the stream is writable.
    ///
    /// # Errors
    /// Those of write(2).
    #[inline]
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        each!(self, stream => stream.try_write(bytes))
    }

    /// As [`Transport::try_write`], from several buffers.
    ///
    /// # Errors
    /// Those of writev(2).
    #[inline]
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        each!(self, stream => stream.try_write_vectored(slices))
    }

    /// Ready when a read may find something. Only the last task to ask is woken.
    ///
    /// # Errors
    /// The runtime is going away.
    #[inline]
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read_ready(cx))
    }

    /// Ready when a write may be taken. Only the last task to ask is woken.
    ///
    /// # Errors
    /// The runtime is going away.
    #[inline]
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_write_ready(cx))
    }

    /// As [`AsyncRead::poll_read`], for a stream whose other direction is somebody else's.
    ///
    /// # Errors
    /// As [`Transport::try_read`].
    pub fn poll_read_shared(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// As [`AsyncWrite::poll_write_vectored`], for a stream whose other direction is somebody else's.
    ///
    /// # Errors
    /// As [`Transport::try_write`].
    pub fn poll_write_shared(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            match self.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Whether the peer waits to be told that the stream ends ([`AsyncWrite::poll_shutdown`]); closing a plain socket says it by
    /// itself.
    pub fn says_goodbye(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(_) | Self::Over(_) => true,
        }
    }

    /// Takes the stream from this thread's runtime, to go on in another one.
    ///
    /// # Errors
    /// The runtime does not give the socket back; a stream inside of another one is that one's thread's.
    pub fn into_portable(self) -> io::Result<Portable> {
        match self {
            Self::Plain(socket) => Portable::plain(socket),
            Self::Tls(stream) => stream.into_portable(),
            Self::Over(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(Socket::Tcp(stream))
    }
}

impl From<UnixStream> for Transport {
    fn from(stream: UnixStream) -> Self {
        Self::Plain(Socket::Unix(stream))
    }
}

impl From<Socket> for Transport {
    fn from(socket: Socket) -> Self {
        Self::Plain(socket)
    }
}

impl From<TlsStream> for Transport {
    fn from(stream: TlsStream) -> Self {
        Self::Tls(Box::new(stream))
    }
}

impl AsyncRead for Transport {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
