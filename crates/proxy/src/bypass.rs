//! The way of an event around hyper's encoder and its queue of buffers.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Shared by a client's stream ([`crate::Guarded`]) and the event stream that is its response: the events are left here as
/// chunks, and written when hyper flushes. hyper takes the body for silent meanwhile, and writes its end.
///
/// The order is kept because hyper flushes the stream only when its own queue is empty, and because bytes that hyper writes
/// later go behind what waits here. Nothing stays behind because hyper flushes after it has asked the body; when it asks
/// once more after that, it flushes only what it knows of, so then events go through hyper.
///
/// All of it happens on one thread; hyper only asks of a stream that may be upgraded that it could go to another one.
#[derive(Clone, Debug, Default)]
pub struct Bypass(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// hyper's queue is empty, and nothing has been given to it since.
    clear: AtomicBool,
    /// There are chunks.
    waits: AtomicBool,
    /// Something has been written since the event stream was asked.
    flushed: AtomicBool,
    chunks: Mutex<Chunks>,
}

#[derive(Debug, Default)]
struct Chunks {
    bytes: Vec<u8>,
    written: usize,
}

impl Bypass {
    /// Whether events may go this way until the event stream is asked again. If not, hyper gets them.
    pub(crate) fn is_clear(&self) -> bool {
        let just_flushed = self.0.flushed.load(Relaxed);
        if just_flushed {
            self.0.flushed.store(false, Relaxed);
        }
        self.is_open() && !just_flushed
    }

    /// hyper has got something to write.
    pub(crate) fn close(&self) {
        self.0.clear.store(false, Relaxed);
    }

    /// hyper's queue is empty.
    pub(crate) fn open(&self) {
        if !self.is_open() {
            self.0.clear.store(true, Relaxed);
            self.0.flushed.store(true, Relaxed);
        }
    }

    fn is_open(&self) -> bool {
        self.0.clear.load(Relaxed)
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_empty(&self) -> bool {
        !self.0.waits.load(Relaxed)
    }

    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.0.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves data as one chunk (RFC 9112 section 7.1).
    pub(crate) fn push(&self, data: &[u8]) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        self.0.waits.store(true, Relaxed);
        let chunks = &mut self.chunks().bytes;
        chunks.reserve(data.len() + 20);
        let digits = (usize::BITS - data.len().leading_zeros()).div_ceil(4);
        for place in (0..digits).rev() {
            chunks.push(HEX.get(data.len() >> (4 * place) & 0xf).copied().unwrap_or(b'0'));
        }
        chunks.extend_from_slice(b"\r\n");
        chunks.extend_from_slice(data);
        chunks.extend_from_slice(b"\r\n");
    }

    /// Writes what waits; usually nothing does.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        if self.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut chunks = self.chunks();
        while let Some(rest) = chunks.bytes.get(chunks.written..).filter(|rest| !rest.is_empty()) {
            let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, rest)? else {
                return Poll::Pending;
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            chunks.written += written;
        }
        // An idle stream owns no buffer.
        *chunks = Chunks::default();
        self.0.waits.store(false, Relaxed);
        self.0.flushed.store(true, Relaxed);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_asked_again_right_after_a_flush_leaves_nothing_here() {
        let bypass = Bypass::default();
        assert!(!bypass.is_clear(), "hyper has the head");
        bypass.open();
        assert!(!bypass.is_clear(), "the head has been flushed just now");
        assert!(bypass.is_clear());
        bypass.close();
        assert!(!bypass.is_clear());
    }

    #[test]
    fn what_the_socket_refuses_waits_and_goes_first() {
        let bypass = Bypass::default();
        let (mut near, mut far) = tokio::io::duplex(4);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        bypass.push(b"abc");
        assert!(bypass.poll_write(&mut cx, &mut near).is_pending());
        let mut read = Vec::new();
        while !bypass.is_empty() {
            let mut piece = [0; 3];
            let mut into = tokio::io::ReadBuf::new(&mut piece);
            assert!(tokio::io::AsyncRead::poll_read(Pin::new(&mut far), &mut cx, &mut into).is_ready());
            read.extend_from_slice(into.filled());
            let _ = bypass.poll_write(&mut cx, &mut near);
        }
        bypass.open();
        assert!(!bypass.is_clear() && bypass.is_clear());
        let mut rest = [0; 8];
        let mut into = tokio::io::ReadBuf::new(&mut rest);
        let _ = tokio::io::AsyncRead::poll_read(Pin::new(&mut far), &mut cx, &mut into);
        read.extend_from_slice(into.filled());
        assert_eq!(read, b"3\r\nabc\r\n");
    }

    #[test]
    fn a_chunk_has_its_size_in_hexadecimal() {
        for length in [1, 15, 16, 255, 256, 65_536] {
            let bypass = Bypass::default();
            bypass.push(&vec![b'x'; length]);
            let chunk = format!("{length:X}\r\n{}\r\n", "x".repeat(length));
            assert_eq!(bypass.chunks().bytes, chunk.as_bytes());
        }
    }
}
