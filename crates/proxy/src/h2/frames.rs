//! What a connection's frames say that the `h2` crate keeps to itself: that the peer's SETTINGS have come, and up to which
//! stream a GOAWAY promises that requests were looked at. Without the latter nobody knows which requests may be repeated.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tidegate_transport::Transport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

/// What has been seen of the peer so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// SETTINGS came, and were taken into account.
    settled: Cell<bool>,
    /// The last stream that the peer may have looked at, once it has said so.
    last: Cell<Option<u32>>,
    ended: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Seen {
    /// Ready when the peer's SETTINGS are known; false if the connection ended before.
    pub(super) fn poll_settled(&self, cx: &Context<'_>) -> Poll<bool> {
        if self.settled.get() || self.ended.get() {
            return Poll::Ready(!self.ended.get());
        }
        self.waiting.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    pub(super) fn end(&self) {
        self.ended.set(true);
        self.wake();
    }

    /// Whether the connection takes no further streams.
    pub(super) fn is_over(&self) -> bool {
        self.ended.get() || self.last.get().is_some()
    }

    /// Whether the peer has promised that it did nothing about that stream.
    pub(super) fn disowns(&self, stream: u32) -> bool {
        self.last.get().is_some_and(|last| stream > last)
    }

    fn wake(&self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

/// A stream whose incoming frames are looked at on their way.
pub(super) struct Watched {
    stream: Transport,
    seen: Rc<Seen>,
    scanner: Scanner,
}

impl Watched {
    pub(super) fn new(stream: Transport, seen: Rc<Seen>) -> Self {
        Self { stream, seen, scanner: Scanner::default() }
    }
}

/// Finds the frames' heads (RFC 9113 section 4.1) in whatever pieces they come.
#[derive(Debug, Default)]
struct Scanner {
    /// The first bytes of a frame, as one number, and how many there are.
    head: u128,
    have: u8,
    /// Bytes of the payload that are still to come.
    left: u32,
    settings: bool,
}

/// A head, and of a GOAWAY also the number of the stream.
const HEAD: u8 = 9;
const HEAD_OF_GOAWAY: u8 = 13;

impl Scanner {
    fn feed(&mut self, mut bytes: &[u8], seen: &Seen) {
        loop {
            if self.have == 0 || self.have < self.wanted() {
                let Some((byte, rest)) = bytes.split_first() else { return };
                bytes = rest;
                self.head = self.head << 8 | u128::from(*byte);
                self.have += 1;
                match self.have {
                    HEAD => self.left = u32::try_from(self.head >> 48).unwrap_or(0),
                    HEAD_OF_GOAWAY.. => {
                        let last = u32::try_from(self.head & 0x7fff_ffff).unwrap_or(0);
                        seen.last.set(Some(seen.last.get().map_or(last, |before| before.min(last))));
                    }
                    _ => {}
                }
                if self.have > HEAD {
                    self.left = self.left.saturating_sub(1);
                }
                continue;
            }
            let count = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            bytes = bytes.get(count..).unwrap_or_default();
            self.left -= u32::try_from(count).unwrap_or(self.left);
            if self.left > 0 {
                return;
            }
            self.settings |= self.kind() == SETTINGS && self.flags() & ACK == 0;
            (self.head, self.have) = (0, 0);
        }
    }

    /// How many bytes are looked at before the rest is skipped.
    fn wanted(&self) -> u8 {
        let long = self.have > HEAD || (self.have == HEAD && self.kind() == GOAWAY && self.left >= 4);
        if long { HEAD_OF_GOAWAY } else { HEAD }
    }

    fn kind(&self) -> u8 {
        self.byte(5)
    }

    fn flags(&self) -> u8 {
        self.byte(4)
    }

    /// Counted from the end of a plain head.
    fn byte(&self, place: u32) -> u8 {
        let beyond = u32::from(self.have.saturating_sub(HEAD));
        u8::try_from(self.head >> (8 * (place + beyond)) & 0xff).unwrap_or(0)
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Nothing more is read before all frames that came have been dealt with.
        if this.scanner.settings && !this.seen.settled.replace(true) {
            this.seen.wake();
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.scanner.feed(buf.filled().get(before..).unwrap_or_default(), &this.seen);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags, 0, 0, 0, 0]);
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn frames_are_found_in_whatever_pieces_they_come() {
        let data = frame(0, 0, &[GOAWAY; 70_000]);
        let goaway = frame(GOAWAY, 0, &[0x80, 0, 1, 3, 0, 0, 0, 0, b'w', b'h', b'y']);
        let bytes = [frame(SETTINGS, ACK, &[]), data, goaway, frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 9])].concat();
        for size in [1, 2, 3, 7, 9, 13, 64, 4096, bytes.len()] {
            let (seen, mut scanner) = (Seen::default(), Scanner::default());
            let (before, last) = bytes.split_at(bytes.len() - 1);
            for piece in before.chunks(size) {
                scanner.feed(piece, &seen);
            }
            assert_eq!((seen.last.get(), scanner.settings), (Some(259), false), "{size}");
            scanner.feed(last, &seen);
            assert!(scanner.settings, "{size}");
        }
    }

    #[test]
    fn of_several_goodbyes_the_lowest_counts() {
        let (seen, mut scanner) = (Seen::default(), Scanner::default());
        for last in [[0x7f, 0xff, 0xff, 0xff], [0, 0, 0, 5]] {
            scanner.feed(&frame(GOAWAY, 0, &[last, [0; 4]].concat()), &seen);
        }
        assert!(seen.is_over() && seen.disowns(7) && !seen.disowns(5));
    }
}
