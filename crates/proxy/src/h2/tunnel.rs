//! A WebSocket on a stream of HTTP/2 (RFC 8441): extended CONNECT, where the server has said that it knows it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is sent at once at most.
const MOST: usize = 16 * 1024;

/// A stream of bytes inside of a connection of HTTP/2. Dropped without having been shut down, it is reset.
pub(crate) struct Bidirectional {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Received, but not taken yet.
    rest: Bytes,
    ended: bool,
}

impl Bidirectional {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive, rest: Bytes::new(), ended: false }
    }
}

impl AsyncRead for Bidirectional {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _ = this.receive.flow_control().release_capacity(data.len());
                    this.rest = data;
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.rest.len().min(buf.remaining());
        buf.put_slice(this.rest.get(..count).unwrap_or_default());
        this.rest.advance(count);
        if this.rest.is_empty() {
            // Not kept for the sake of none of its bytes.
            this.rest = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bidirectional {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let broken = |error: h2::Error| io::Error::new(io::ErrorKind::BrokenPipe, error);
        this.send.reserve_capacity(buf.len().min(MOST));
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = buf.len().min(this.send.capacity());
        let data = Bytes::copy_from_slice(buf.get(..count).unwrap_or_default());
        Poll::Ready(this.send.send_data(data, false).map(|()| count).map_err(broken))
    }

    /// What was taken leaves by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.ended, true) {
            // A stream that was reset has ended, too.
            let _ = this.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }
}
