//! A stream inside of another one, such as that of a WebSocket over HTTP/2 (RFC 8441), which only knows tasks. The direct calls of
//! a [`Transport`](crate::Transport) are made of polls whose wakers remember that the stream has moved.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

trait Duplex: AsyncRead + AsyncWrite {}

impl<S: AsyncRead + AsyncWrite> Duplex for S {}

/// See the module.
pub struct Over {
    stream: RefCell<Pin<Box<dyn Duplex + Send>>>,
    reading: Arc<Direction>,
    writing: Arc<Direction>,
}

/// What a socket's readiness would be.
#[derive(Debug)]
struct Direction {
    may_move: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Direction {
    fn new() -> Arc<Self> {
        Arc::new(Self { may_move: AtomicBool::new(true), task: Mutex::default() })
    }

    fn poll_ready(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        if self.may_move.load(Ordering::Acquire) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Wake for Direction {
    fn wake(self: Arc<Self>) {
        self.may_move.store(true, Ordering::Release);
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.wake();
        }
    }
}

impl fmt::Debug for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Over").finish_non_exhaustive()
    }
}

impl Over {
    pub(crate) fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self { stream: RefCell::new(Box::pin(stream)), reading: Direction::new(), writing: Direction::new() }
    }

    /// Polls now; what cannot move is `WouldBlock` until its waker says otherwise.
    fn directly<T>(
        &self,
        direction: &Arc<Direction>,
        poll: impl FnOnce(Pin<&mut (dyn Duplex + Send)>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        direction.may_move.store(false, Ordering::Release);
        let waker = Waker::from(direction.clone());
        match poll(self.stream.borrow_mut().as_mut(), &mut Context::from_waker(&waker)) {
            Poll::Ready(result) => {
                direction.may_move.store(true, Ordering::Release);
                result
            }
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut target = ReadBuf::new(buffer);
        self.directly(&self.reading, |stream, cx| stream.poll_read(cx, &mut target))?;
        Ok(target.filled().len())
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.directly(&self.writing, |stream, cx| stream.poll_write(cx, bytes))
    }

    pub(crate) fn try_write_vectored(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.directly(&self.writing, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    pub(crate) fn poll_read_ready(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.reading.poll_ready(cx)
    }

    pub(crate) fn poll_write_ready(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.writing.poll_ready(cx)
    }
}

impl AsyncRead for Over {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream.get_mut().as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Over {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().stream.get_mut().as_mut().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream.get_mut().as_mut().poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream.get_mut().as_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream.get_mut().as_mut().poll_shutdown(cx)
    }
}
