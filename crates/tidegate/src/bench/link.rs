//! A connection of the generator: reads through one buffer for all, writes straight to the socket.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, ready};

use tidegate_transport::Transport;
use tokio::io::ReadBuf;
use tokio::sync::Mutex;

/// The read buffer that all connections share: an idle connection owns none.
#[derive(Clone)]
pub struct Scratch(Rc<RefCell<Vec<u8>>>);

impl Scratch {
    /// 64 KiB.
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(vec![0; 64 * 1024])))
    }
}

/// The reading half.
pub struct Reader {
    stream: Rc<Transport>,
    scratch: Scratch,
    /// What was read but is not complete yet.
    rest: Vec<u8>,
}

/// The writing half; shared by the tasks of one connection.
pub struct Writer {
    stream: Rc<Transport>,
    turn: Mutex<()>,
}

/// Makes the two halves of a connection.
pub fn halves(stream: impl Into<Transport>, scratch: &Scratch) -> (Reader, Rc<Writer>) {
    let stream = Rc::new(stream.into());
    let writer = Rc::new(Writer { stream: stream.clone(), turn: Mutex::new(()) });
    (Reader { stream, scratch: scratch.clone(), rest: Vec::new() }, writer)
}

impl Reader {
    /// Waits for bytes and hands them, after what was left the last time, to `take`, which says how many it used up.
    /// `false` when the peer has closed.
    ///
    /// `poll_read` instead of `readable` + `try_read`, because after a short read tokio knows that the socket is empty:
    /// that saves the second system call of every delivery.
    pub async fn read(&mut self, mut take: impl FnMut(&mut [u8]) -> anyhow::Result<usize>) -> anyhow::Result<bool> {
        poll_fn(|context| {
            let mut scratch = self.scratch.0.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(self.stream.poll_read_shared(context, &mut buffer))?;
            let filled = buffer.filled_mut();
            if filled.is_empty() {
                return Poll::Ready(Ok(false));
            }
            if self.rest.is_empty() {
                let used = take(filled)?;
                self.rest.extend_from_slice(filled.get(used..).unwrap_or_default());
            } else {
                self.rest.extend_from_slice(filled);
                let used = take(&mut self.rest)?.min(self.rest.len());
                self.rest.drain(..used);
                if self.rest.is_empty() {
                    self.rest = Vec::new();
                }
            }
            Poll::Ready(Ok(true))
        })
        .await
    }
}

impl Writer {
    /// Writes all of `bytes`.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.stream.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|context| self.stream.poll_write_ready(context)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes `bytes` if the socket takes them at once; how many it took.
    pub fn offer(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }
}
