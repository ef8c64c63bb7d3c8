use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::num::NonZeroU16;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use tidegate_transport::Transport;

use crate::compression::Compression;
use crate::encoded::Encoded;
use std::sync::Arc;

/// The most buffers that one `writev` takes.
const VECTOR: usize = 64;

/// What a queued buffer takes beyond its bytes: a queue of empty pongs must be bounded, too.
const ENTRY: usize = 64;

/// What became of bytes for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Handed to the kernel, or waiting in the bounded queue.
    Taken,
    /// The queue was full: nothing of it was taken.
    Full,
    /// The connection is broken.
    Broken,
}

/// Frames that the socket would not take, by reference, oldest first.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Bytes>,
    /// Of all that is queued, with what the queue itself takes for it.
    bytes: usize,
    /// Bytes of a replay, which the limit does not count: it is bounded by the ring and the history, and a session that is
    /// closed over it would ask for it again.
    replayed: usize,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn fits(&self, bytes: usize, limit: usize) -> bool {
        self.bytes.saturating_add(bytes) <= limit.saturating_add(self.replayed)
    }

    /// Queues a part of a replay.
    pub fn push_replayed(&mut self, bytes: Bytes) {
        self.replayed += bytes.len() + ENTRY;
        self.push(bytes);
    }

    pub fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len() + ENTRY;
        self.queue.push_back(bytes);
    }

    pub fn pop(&mut self) -> Option<Bytes> {
        let bytes = self.queue.pop_front()?;
        self.bytes = self.bytes.saturating_sub(bytes.len() + ENTRY);
        Some(bytes)
    }

    /// Everything that waits, oldest first.
    pub fn take(&mut self) -> VecDeque<Bytes> {
        self.bytes = 0;
        self.replayed = 0;
        std::mem::take(&mut self.queue)
    }

    /// Writes what the socket takes. Gives capacity back once empty.
    pub fn flush(&mut self, stream: &Transport) -> io::Result<()> {
        while !self.queue.is_empty() {
            let slices: SmallVec<[IoSlice<'_>; VECTOR]> =
                self.queue.iter().take(VECTOR).map(|bytes| IoSlice::new(bytes)).collect();
            let written = stream.try_write_vectored(&slices);
            drop(slices);
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.queue = VecDeque::new();
        self.replayed = 0;
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes = self.bytes.saturating_sub(written);
        while let Some(first) = self.queue.front_mut() {
            if first.len() > written {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.bytes = self.bytes.saturating_sub(ENTRY);
            self.queue.pop_front();
        }
    }
}

/// A WebSocket's writing half: straight to the socket while it takes bytes, by queue when it does not.
pub(crate) struct FrameSink {
    outbox: Option<Box<Outbox>>,
    compression: Compression,
    /// Whether the peer speaks JSON lines.
    lines: bool,
    /// The code of the close frame that the peer has sent.
    close_code: Option<NonZeroU16>,
    /// What is sent only queues: somebody will flush at the end of the turn.
    corked: bool,
}

impl FrameSink {
    pub fn new(compression: Compression) -> Self {
        Self { outbox: None, compression, lines: false, close_code: None, corked: false }
    }

    /// From now on broadcasts go out as JSON lines.
    pub fn speak_lines(&mut self) {
        self.lines = true;
    }

    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The peer has said goodbye: it is to be answered with its own code.
    pub fn answer_close(&mut self, code: NonZeroU16) {
        self.close_code = Some(code);
    }

    /// What the peer's close frame is answered with.
    pub fn close_code(&self) -> Option<NonZeroU16> {
        self.close_code
    }

    /// A broadcast's frames as this connection takes them.
    fn frames_of<'a>(&self, encoded: &'a Encoded) -> &'a Bytes {
        if self.lines {
            return encoded.line();
        }
        if self.compression.is_agreed() { encoded.frames_for(self.compression) } else { encoded.frames() }
    }

    /// Whether bytes can go straight to the socket.
    fn is_idle(&self) -> bool {
        self.outbox.is_none() && !self.corked
    }

    /// Whether something waits until the socket takes it.
    pub fn is_blocked(&self) -> bool {
        !self.corked && self.has_queued()
    }

    /// Whether something waits for [`FrameSink::flush`].
    pub fn has_queued(&self) -> bool {
        self.outbox.is_some()
    }

    /// From now on what is sent only queues. False if it did before.
    pub fn cork(&mut self) -> bool {
        !std::mem::replace(&mut self.corked, true)
    }

    /// What is sent is written again.
    pub fn uncork(&mut self) {
        self.corked = false;
    }

    pub fn into_outbox(self) -> Option<Box<Outbox>> {
        self.outbox
    }

    fn fits(&self, bytes: usize, limit: usize) -> bool {
        self.outbox.as_ref().is_none_or(|outbox| outbox.fits(bytes, limit))
    }

    /// Queues a replayed message without writing it; [`FrameSink::flush`] does.
    pub fn hold(&mut self, frames: Bytes) {
        self.outbox.get_or_insert_default().push_replayed(frames);
    }

    fn queue(&mut self, bytes: Bytes) {
        self.outbox.get_or_insert_default().push(bytes);
    }

    /// Sends complete frames that live in a scratch buffer; only what the socket refuses is copied.
    pub fn send(&mut self, stream: &Transport, frames: &[u8], limit: usize) -> Sent {
        if !self.fits(frames.len(), limit) {
            return Sent::Full;
        }
        let written = if self.is_idle() {
            match stream.try_write(frames) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return Sent::Broken,
            }
        } else {
            0
        };
        if let Some(rest) = frames.get(written..).filter(|rest| !rest.is_empty()) {
            self.queue(Bytes::copy_from_slice(rest));
        }
        Sent::Taken
    }

    /// Sends the frames of a run of messages with one system call. On [`Sent::Full`] nothing of the run was taken.
    pub fn send_run(&mut self, stream: &Transport, run: &[&Arc<Encoded>], limit: usize) -> Sent {
        if let ([only], true) = (run, self.is_idle()) {
            let frames = self.frames_of(only);
            return match stream.try_write(frames) {
                Ok(written) if written == frames.len() => Sent::Taken,
                Ok(written) => {
                    self.queue(frames.slice(written..));
                    Sent::Taken
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.queue(frames.clone());
                    Sent::Taken
                }
                Err(_) => Sent::Broken,
            };
        }
        let frames: SmallVec<[&Bytes; VECTOR]> = run.iter().map(|encoded| self.frames_of(encoded)).collect();
        if !self.fits(frames.iter().map(|frames| frames.len()).sum(), limit) {
            return Sent::Full;
        }
        let was_idle = self.is_idle();
        let outbox = self.outbox.get_or_insert_default();
        frames.into_iter().for_each(|frames| outbox.push(frames.clone()));
        if was_idle {
            return self.flush(stream);
        }
        Sent::Taken
    }

    /// Writes queued frames; the socket has become writable.
    pub fn flush(&mut self, stream: &Transport) -> Sent {
        if let Some(outbox) = self.outbox.as_mut() {
            if outbox.flush(stream).is_err() {
                return Sent::Broken;
            }
            if outbox.is_empty() {
                self.outbox = None;
            }
        }
        Sent::Taken
    }
}
