use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::Method;
use tidegate_balance::PeerId;
use tidegate_transport::Transport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::response::{self, Framing, Head};
use crate::forward::Failure;
use crate::pool::Open;

/// The largest head taken from an upstream.
const MAX_HEAD: usize = 64 * 1024;

/// The worker's buffer: everything is read into it, and it is borrowed only while something is polled.
pub(crate) type Buffer = Rc<RefCell<Box<[u8]>>>;

/// Which server a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) upstream: u64,
    pub(crate) server: PeerId,
}

#[derive(Debug)]
enum Stream {
    Whole(Transport),
    /// The rest of an upload is sent by a task of its own.
    Reading(Rc<Transport>),
}

/// A connection to an upstream that carries one exchange, or none. Dropping it closes it; [`crate::pool::Pool::park`] keeps
/// it.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    /// Read, but not taken yet.
    rest: Bytes,
    /// Requests that it has carried, this one included.
    pub(crate) served: u64,
    pub(crate) place: Place,
    open: Open,
}

impl Connection {
    pub(crate) fn new(stream: Transport, place: Place, open: Open) -> Self {
        Self { stream: Stream::Whole(stream), rest: Bytes::new(), served: 1, place, open }
    }

    /// Whether it was idle in the pool before: the upstream may have closed it in the meantime.
    pub(crate) fn reused(&self) -> bool {
        self.served > 1
    }

    /// Whether nothing has come that nobody asked for: a connection that was closed, or that has bytes to read before a
    /// request was sent, is no good. Asks the kernel only if it has reported something.
    pub(crate) fn is_quiet(&self) -> bool {
        let Stream::Whole(stream) = &self.stream else { return false };
        let silent = |result: io::Result<usize>| result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.rest.is_empty() && silent(stream.try_read(&mut [0]))
    }

    /// Writes what the socket takes now.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.stream {
            Stream::Whole(stream) => stream.try_write(bytes),
            Stream::Reading(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// For a request's bytes. There is none after [`Connection::split`].
    pub(crate) fn writer(&mut self) -> Option<&mut Transport> {
        match &mut self.stream {
            Stream::Whole(stream) => Some(stream),
            Stream::Reading(_) => None,
        }
    }

    /// Lets the rest of a request be written while its response is read. The connection then carries no further request.
    pub(crate) fn split(self) -> (Self, Option<Uploader>) {
        match self.stream {
            Stream::Whole(stream) => {
                let stream = Rc::new(stream);
                (Self { stream: Stream::Reading(stream.clone()), ..self }, Some(Uploader(stream)))
            }
            Stream::Reading(_) => (self, None),
        }
    }

    /// The stream itself, what was read beyond the head, and the count of open connections that it is in.
    pub(crate) fn into_stream(self) -> Option<(Transport, Bytes, Open)> {
        match self.stream {
            Stream::Whole(stream) => Some((stream, self.rest, self.open)),
            Stream::Reading(_) => None,
        }
    }

    /// The head of the response. Interim responses other than a 101 are skipped (RFC 9110 section 15.2): the 100 that a
    /// client may wait for was sent when its body was asked for.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &RefCell<Box<[u8]>>,
        method: &Method,
    ) -> Poll<Result<Head, Failure>> {
        loop {
            let mut buffer = buffer.borrow_mut();
            let count = match ready!(self.poll_read(cx, &mut buffer)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Failure::Reset)),
                Ok(count) => count,
            };
            let fresh = buffer.get(..count).unwrap_or_default();
            let ends_a_line = memchr::memchr(b'\n', fresh).is_some();
            self.rest =
                if self.rest.is_empty() { Bytes::copy_from_slice(fresh) } else { [&self.rest, fresh].concat().into() };
            while ends_a_line && !self.rest.is_empty() {
                match response::parse(&self.rest, method) {
                    Err(response::BadResponse) => return Poll::Ready(Err(Failure::Invalid)),
                    Ok(Some((head, length))) => {
                        self.rest.advance(length);
                        let status = head.response.status();
                        if !status.is_informational() || status == http::StatusCode::SWITCHING_PROTOCOLS {
                            self.forget_empty();
                            return Poll::Ready(Ok(head));
                        }
                    }
                    Ok(None) => break,
                }
            }
            if self.rest.len() > MAX_HEAD {
                return Poll::Ready(Err(Failure::Invalid));
            }
        }
    }

    /// Up to `limit` further bytes, or none at the end of the connection. They take no more memory than they are many, however
    /// many wait for a slow client. What comes beyond `limit` is kept.
    pub(crate) fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &RefCell<Box<[u8]>>,
        limit: u64,
    ) -> Poll<io::Result<Bytes>> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if self.rest.is_empty() {
            let mut buffer = buffer.borrow_mut();
            let count = ready!(self.poll_read(cx, &mut buffer))?;
            self.rest = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
        }
        let count = limit.min(self.rest.len());
        Poll::Ready(Ok(self.rest.split_to(count)))
    }

    /// Bytes to be worked on in `buffer`: how many there are now, from its start; 0 at the end of the connection.
    pub(crate) fn poll_raw(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.rest.is_empty() {
            return self.poll_read(cx, buffer);
        }
        let count = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
        self.forget_empty();
        Poll::Ready(Ok(count))
    }

    /// Takes a whole body that nobody wants, if all of it has come already.
    pub(crate) fn skip(&mut self, framing: &Framing) -> bool {
        let Framing::Length(length) = framing else { return false };
        let Some(length) = usize::try_from(*length).ok().filter(|length| *length <= self.rest.len()) else {
            return false;
        };
        self.rest.advance(length);
        self.forget_empty();
        true
    }

    /// Bytes came that belong to nothing.
    pub(crate) fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// What was read must not be kept for the sake of none of its bytes.
    fn forget_empty(&mut self) {
        if self.rest.is_empty() {
            self.rest = Bytes::new();
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buffer);
        match &mut self.stream {
            Stream::Whole(stream) => ready!(Pin::new(stream).poll_read(cx, &mut read))?,
            Stream::Reading(stream) => ready!(stream.poll_read_shared(cx, &mut read))?,
        }
        Poll::Ready(Ok(read.filled().len()))
    }
}

/// Sends the rest of a request while somebody else reads the response.
#[derive(Debug)]
pub(crate) struct Uploader(Rc<Transport>);

impl AsyncWrite for Uploader {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write_shared(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write_shared(cx, bufs)
    }

    /// What was taken leaves by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The connection ends with the response, not before.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// As [`AsyncWrite::poll_write_vectored`], for what both kinds of writers are.
pub(crate) fn poll_write(
    stream: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    slices: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match slices {
        [one] => Pin::new(stream).poll_write(cx, one),
        several => Pin::new(stream).poll_write_vectored(cx, several),
    }
}
