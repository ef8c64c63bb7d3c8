use std::fmt;
use std::io::{self, IoSlice};
use std::task::{Poll, ready};

use tokio::io::ReadBuf;

use super::scratch;
use super::session::{MAX_FRAGMENT, Outgoing, Session, Step};
use crate::Socket;

/// What one call encrypts at most: two full records, of which the heap may have to keep what the socket does not take.
const MOST_WRITTEN: usize = 2 * MAX_FRAGMENT;
/// What one call reads at least and at most. Less than what the reader has room for would cost more calls, much more would
/// have to be kept.
const LEAST_READ: usize = 2 * 1024;
const MOST_READ: usize = 64 * 1024;
/// A record's header and what a cipher suite adds.
const OVERHEAD: usize = 64;
/// Plaintext and records together that one connection may make us keep. rustls's own limits are far below.
const MOST_KEPT: usize = 256 * 1024;

/// What a TLS connection is beside its socket. All buffers are empty, and own nothing, while it is idle.
pub(crate) struct State {
    pub(super) session: Session,
    /// The name that a client asked for.
    pub(super) name: Option<Box<str>>,
    /// Records that have not come completely.
    partial: Vec<u8>,
    /// Plaintext that the reader had no room for, from `taken` on.
    ready: Vec<u8>,
    taken: usize,
    /// Records that the socket did not take.
    unsent: Vec<u8>,
    /// The last byte that a writer was not told to be taken is among them: its writer was to come again when they are sent.
    owed: bool,
    /// The peer has said that it sends nothing more.
    ended: bool,
    broken: Option<io::ErrorKind>,
}

/// Not what passes through it.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("session", &self.session).field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// Reads from the socket; 0 at its end.
type Read<'a> = &'a mut dyn FnMut(&mut [u8]) -> Poll<io::Result<usize>>;

impl State {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            name: None,
            partial: Vec::new(),
            ready: Vec::new(),
            taken: 0,
            unsent: Vec::new(),
            owed: false,
            ended: false,
            broken: None,
        }
    }

    /// What the session has to say first.
    pub(super) fn start(&mut self) -> io::Result<()> {
        self.process(&mut [], &mut ReadBuf::new(&mut []))
    }

    /// Whether [`State::read`] would say something without asking the socket.
    pub(super) fn is_readable(&self) -> bool {
        self.taken < self.ready.len() || self.ended || self.broken.is_some()
    }

    /// Reads at least one byte of plaintext, or none at the end, by as many calls of `read` as it takes. What the session wants
    /// to send meanwhile is left to be flushed.
    pub(super) fn read(&mut self, buffer: &mut ReadBuf<'_>, read: Read<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            if self.taken < self.ready.len() {
                self.take_ready(buffer);
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            self.check()?;
            ready!(self.receive(buffer, read))?;
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn take_ready(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = self.ready.get(self.taken..).unwrap_or_default();
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..count).unwrap_or_default());
        self.taken += count;
        if self.taken == self.ready.len() {
            self.ready = Vec::new();
            self.taken = 0;
        }
    }

    /// One read from the socket and what comes of it: plaintext in `buffer`, and in `ready` what does not fit.
    pub(super) fn receive(&mut self, buffer: &mut ReadBuf<'_>, read: Read<'_>) -> Poll<io::Result<()>> {
        let kept = self.partial.len();
        let most = (buffer.remaining() + OVERHEAD).clamp(LEAST_READ, MOST_READ);
        scratch::reading(kept + most, |incoming| {
            let count = ready!(read(incoming.get_mut(kept..kept + most).unwrap_or_default()))?;
            if count == 0 {
                // Whoever cuts the connection can make a message look complete that is not.
                self.broken = Some(io::ErrorKind::UnexpectedEof);
                return Poll::Ready(Err(truncated()));
            }
            let incoming = incoming.get_mut(..kept + count).unwrap_or_default();
            if let Some(front) = incoming.get_mut(..kept) {
                front.copy_from_slice(&self.partial);
            }
            self.partial = Vec::new();
            Poll::Ready(self.process(incoming, buffer))
        })
    }

    fn process(&mut self, incoming: &mut [u8], buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let Self { session, ready, unsent, .. } = self;
        let mut plain = |bytes: &[u8]| {
            let (now, later) = bytes.split_at_checked(buffer.remaining()).unwrap_or((bytes, &[]));
            buffer.put_slice(now);
            ready.extend_from_slice(later);
        };
        let mut done = 0;
        let mut result = Ok(());
        // Behind an error only the alert that tells the peer is wanted: what else came must not be looked at again.
        while result.is_ok() || session.wants_write() {
            let rest = incoming.get_mut(done..).unwrap_or_default();
            let (discard, step) = session.step(rest, &mut plain, unsent, &Outgoing::Nothing);
            done += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => self.ended = true,
                Ok(Step::Open | Step::Waiting) => break,
                Err(error) if result.is_ok() => result = Err(error),
                Err(_) => break,
            }
        }
        let rest = incoming.get(done..).unwrap_or_default();
        if !self.ended && !rest.is_empty() {
            self.partial = rest.to_vec();
        }
        if let Err(error) = result {
            self.broken = Some(io::ErrorKind::InvalidData);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        if self.ready.len() + self.partial.len() + self.unsent.len() > MOST_KEPT {
            self.broken = Some(io::ErrorKind::OutOfMemory);
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        match self.broken {
            None => Ok(()),
            Some(io::ErrorKind::UnexpectedEof) => Err(truncated()),
            Some(kind) => Err(kind.into()),
        }
    }

    /// Whether records wait for the socket that no writer was told to come again for.
    pub(super) fn owes_flush(&self) -> bool {
        !self.unsent.is_empty() && !self.owed
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        let mut sent = 0;
        while let Some(rest) = self.unsent.get(sent..).filter(|rest| !rest.is_empty()) {
            match socket.try_write(rest) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if sent == self.unsent.len() {
            self.unsent = Vec::new();
        } else {
            self.unsent.drain(..sent);
        }
        Ok(())
    }

    pub(super) fn try_write(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        self.flush(socket)?;
        if self.has_unsent() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // The first byte was encrypted before, as the last one of the call that did not say so.
        let said = usize::from(std::mem::take(&mut self.owed)).min(bytes.len());
        let fresh = bytes.get(said..).unwrap_or_default();
        let fresh = fresh.get(..MOST_WRITTEN).unwrap_or(fresh);
        if fresh.is_empty() {
            return Ok(said);
        }
        let whole = self.send(socket, &Outgoing::Data(fresh))?;
        let taken = said + fresh.len();
        if whole {
            return Ok(taken);
        }
        // The writer must come again to have the rest sent, so it is not told of the last byte.
        self.owed = true;
        if taken == 1 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken - 1) }
    }

    pub(super) fn try_write_vectored(&mut self, socket: &Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        let Some(first) = filled.next() else { return Ok(0) };
        if filled.next().is_none() || first.len() >= MAX_FRAGMENT {
            return self.try_write(socket, first);
        }
        // Fewer and fuller records.
        scratch::gathering(|together| {
            for slice in slices {
                let room = MOST_WRITTEN.saturating_sub(together.len());
                together.extend_from_slice(slice.get(..room).unwrap_or(slice));
                if room <= slice.len() {
                    break;
                }
            }
            self.try_write(socket, together)
        })
    }

    /// Says that nothing more is sent. `Ok(true)` once the socket has taken it.
    pub(super) fn say_end(&mut self, socket: &Socket) -> io::Result<bool> {
        self.flush(socket)?;
        if self.has_unsent() || self.session.is_handshaking() {
            return Ok(!self.has_unsent());
        }
        // Said once; rustls does not say it again.
        self.send(socket, &Outgoing::CloseNotify)
    }

    /// Encrypts and writes; whether the socket has taken everything.
    fn send(&mut self, socket: &Socket, outgoing: &Outgoing<'_>) -> io::Result<bool> {
        if self.broken.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        scratch::writing(|records| {
            loop {
                let Self { session, partial, ready, .. } = self;
                let (done, step) =
                    session.step(partial, &mut |bytes| ready.extend_from_slice(bytes), records, outgoing);
                partial.drain(..done);
                let step = step.map_err(|error| {
                    self.broken = Some(io::ErrorKind::InvalidData);
                    io::Error::new(io::ErrorKind::InvalidData, error)
                })?;
                match step {
                    Step::Again => {}
                    Step::PeerClosed => self.ended = true,
                    Step::Open => break,
                    Step::Waiting if matches!(outgoing, Outgoing::CloseNotify) => break,
                    Step::Waiting => return Err(io::ErrorKind::BrokenPipe.into()),
                }
            }
            let sent = match socket.try_write(records) {
                _ if records.is_empty() => 0,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            self.unsent = records.get(sent..).unwrap_or_default().to_vec();
            Ok(self.unsent.is_empty())
        })
    }
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the TLS stream was cut off: its end was not announced")
}
