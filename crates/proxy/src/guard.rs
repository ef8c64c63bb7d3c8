use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::inspect::{Inspector, Verdict};

/// What a parser gets to see instead of a line that must not be understood: no version of HTTP has a NUL in a head, so
/// hyper answers 400 and closes.
const NONSENSE: &[u8] = b"\0\r\n\r\n";

/// A client's stream whose HTTP/1.1 framing is watched: give hyper's server `TokioIo<Guarded<TcpStream>>`.
///
/// Refused with 400 and a close: Transfer-Encoding beside Content-Length, either of them twice, lengths that are not plain
/// digits, codings other than chunked, bare line feeds, folded lines. A chunked body with broken framing fails where it is
/// read. After a request to upgrade nothing is read until it is answered, so that what follows is never taken for the wrong
/// protocol; [`crate::take_back`] returns what was held.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    inspector: Inspector,
    /// Read, but not known yet to be HTTP.
    held: Vec<u8>,
    /// Waits for an answer to the request to upgrade.
    waiting: Option<Waker>,
    refused: bool,
    /// A body's framing is: there is nothing more to read.
    broken: bool,
    shuts_down: bool,
}

impl<S> Guarded<S> {
    /// Watches what comes from `stream`, from the first request on. For a stream that is ended by dropping it, as TCP is.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            inspector: Inspector::default(),
            held: Vec::new(),
            waiting: None,
            refused: false,
            broken: false,
            shuts_down: false,
        }
    }

    /// For a stream that has to say that it ends, such as TLS.
    pub fn with_shutdown(stream: S) -> Self {
        Self { shuts_down: true, ..Self::new(stream) }
    }

    /// The stream, and what was read from it and held back.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.stream, self.held.into())
    }

    /// The stream.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Whether a request on this connection was refused for its framing.
    pub fn refused(&self) -> bool {
        self.refused
    }

    fn inspect(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let fresh = buf.filled().get(before..).unwrap_or_default();
        match self.inspector.inspect(fresh) {
            Verdict::Pass => Ok(()),
            Verdict::Hold { at } => {
                self.held = fresh.get(at..).unwrap_or_default().to_vec();
                buf.set_filled(before + at);
                Ok(())
            }
            Verdict::BadHead { at } => {
                self.refused = true;
                buf.set_filled(before + at);
                let room = buf.remaining().min(NONSENSE.len());
                buf.put_slice(NONSENSE.get(..room).unwrap_or_default());
                Ok(())
            }
            Verdict::BadBody { at } => {
                self.refused = true;
                self.broken = true;
                buf.set_filled(before + at);
                // What came before in the same read is good, and may hold the request's head.
                if at > 0 { Ok(()) } else { Err(broken()) }
            }
        }
    }

    fn answered(&mut self, bytes: &[u8]) {
        if self.inspector.is_held() {
            self.inspector.release(bytes.starts_with(b"HTTP/1.1 101"));
            if let Some(waker) = self.waiting.take() {
                waker.wake();
            }
        }
    }
}

/// Buffers so short that copying them together costs less than a vectored system call.
struct Few {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl Few {
    const MAX: usize = 1024;

    fn of(bufs: &[IoSlice<'_>]) -> Option<Self> {
        if bufs.iter().map(|buf| buf.len()).sum::<usize>() > Self::MAX {
            return None;
        }
        let mut few = Self { bytes: [0; Self::MAX], len: 0 };
        for buf in bufs {
            few.bytes.get_mut(few.len..)?.get_mut(..buf.len())?.copy_from_slice(buf);
            few.len += buf.len();
        }
        Some(few)
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the chunked framing of the body is broken")
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.inspector.is_held() {
            this.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if this.broken {
            return Poll::Ready(Err(broken()));
        }
        if this.held.is_empty() {
            std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
        } else {
            let mut held = std::mem::take(&mut this.held);
            let rest = held.split_off(held.len().min(buf.remaining()));
            buf.put_slice(&held);
            let result = this.inspect(buf, before);
            this.held.extend_from_slice(&rest);
            return Poll::Ready(result);
        }
        Poll::Ready(this.inspect(buf, before))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.answered(buf);
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(few) = Few::of(bufs) {
            return Pin::new(this).poll_write(cx, few.bytes());
        }
        this.answered(bufs.iter().map(|buf| &**buf).find(|buf| !buf.is_empty()).unwrap_or_default());
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// hyper drops the stream right after, and closing a TCP stream says all that a shutdown would.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shuts_down { Pin::new(&mut self.stream).poll_shutdown(cx) } else { Poll::Ready(Ok(())) }
    }
}
