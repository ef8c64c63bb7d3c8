//! A WebSocket tunnel: two streams and no buffer while nothing moves.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tidegate_metrics::Counter;
use tidegate_transport::Transport;
use tidegate_types::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{Alarm, Ring};
use crate::flow::Ending;
use crate::live::{Leave, Listed};
use crate::pool::Open;
use crate::websocket::Taken;

/// Reads of one direction before the other tasks of the worker get their turn.
const READS_PER_TURN: usize = 8;

/// How long the other direction may be silent after one has ended: a peer that is gone for good often just ends its own,
/// and is not to be waited for as long as an idle tunnel is.
const HALF_OPEN: Duration = Duration::from_secs(60);

/// What a tunnel needs besides its streams.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) alarm: Alarm,
    pub(crate) timeout: Duration,
    /// The worker's read buffer.
    pub(crate) buffer: Rc<RefCell<Box<[u8]>>>,
    #[expect(dead_code, reason = "counts the upstream connection while it lives")]
    pub(crate) open: Open,
    pub(crate) ending: Ending,
    #[expect(dead_code, reason = "keeps the tunnel in the register while it lives")]
    pub(crate) listed: Listed,
}

/// Pumps both directions until both have ended, one broke, nothing moved for too long, or the gateway closes.
#[derive(Debug)]
pub(crate) struct Tunnel {
    client: Transport,
    upstream: Transport,
    to_upstream: Lane,
    to_client: Lane,
    end: End,
}

/// One direction.
#[derive(Debug, Default)]
struct Lane {
    /// What the receiver did not take yet. Nothing is read while there is any.
    waiting: Bytes,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The sender has ended; the receiver is to be told after the rest.
    Ending,
    Ended,
}

/// Which side broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Reading,
    Writing,
}

impl Tunnel {
    pub(crate) fn new(client: Taken, upstream: Taken, end: End) -> Self {
        let flow = &end.ending;
        flow.route.tunnels.inc();
        flow.route.tunnels_open.inc();
        flow.bytes_in.set(client.read.len() as u64);
        flow.bytes_out.set(upstream.read.len() as u64);
        flow.route.tunnel_bytes_to_upstream.inc_by(client.read.len() as u64);
        flow.route.tunnel_bytes_to_client.inc_by(upstream.read.len() as u64);
        end.alarm.set(end.timeout);
        Self {
            client: client.stream,
            upstream: upstream.stream,
            to_upstream: Lane { waiting: unshared(client.read), state: State::Open },
            to_client: Lane { waiting: unshared(upstream.read), state: State::Open },
            end,
        }
    }
}

/// An empty slice would still keep the buffer of the connection that it was read by.
fn unshared(bytes: Bytes) -> Bytes {
    if bytes.is_empty() { Bytes::new() } else { bytes }
}

impl Future for Tunnel {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let flow = &this.end.ending;
        let mut buffer = this.end.buffer.borrow_mut();
        let (before_in, before_out) = (flow.bytes_in.get(), flow.bytes_out.get());

        let count = Count { total: &flow.bytes_in, metric: &flow.route.tunnel_bytes_to_upstream };
        let up = this.to_upstream.poll(cx, &mut this.client, &mut this.upstream, &mut buffer, &count);
        if up == Poll::Ready(Ok(())) && this.to_client.state == State::Open {
            flow.reason.set(CloseReason::ClientClosed);
        }
        let count = Count { total: &flow.bytes_out, metric: &flow.route.tunnel_bytes_to_client };
        let down = this.to_client.poll(cx, &mut this.upstream, &mut this.client, &mut buffer, &count);

        match (up, down) {
            (Poll::Ready(Err(Broken::Writing)), _) | (_, Poll::Ready(Err(Broken::Reading))) => {
                flow.reason.set(CloseReason::UpstreamFailed);
                return Poll::Ready(());
            }
            (Poll::Ready(Err(Broken::Reading)), _) | (_, Poll::Ready(Err(Broken::Writing))) => {
                flow.reason.set(CloseReason::TransportClosed);
                return Poll::Ready(());
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(()),
            (Poll::Pending, _) | (_, Poll::Pending) => {}
        }
        if (flow.bytes_in.get(), flow.bytes_out.get()) != (before_in, before_out) {
            this.end.alarm.set(this.end.timeout);
        } else if up.is_ready() || down.is_ready() {
            this.end.alarm.set(this.end.timeout.min(HALF_OPEN));
        }
        match this.end.alarm.poll(cx) {
            Poll::Pending | Poll::Ready(Ring::Leave(Leave::Drain)) => Poll::Pending,
            Poll::Ready(Ring::Leave(why)) => {
                flow.reason.set(why.reason());
                Poll::Ready(())
            }
            Poll::Ready(Ring::Due) => {
                flow.reason.set(CloseReason::IdleTimeout);
                Poll::Ready(())
            }
            Poll::Ready(Ring::Close) => {
                flow.reason.set(CloseReason::ServerShutdown);
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.end.ending.route.tunnels_open.dec();
    }
}

struct Count<'a> {
    total: &'a std::cell::Cell<u64>,
    metric: &'a Counter,
}

impl Count<'_> {
    fn add(&self, bytes: usize) {
        self.total.set(self.total.get() + bytes as u64);
        self.metric.inc_by(bytes as u64);
    }
}

impl Lane {
    /// Ready when this direction has ended and the receiver knows.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
        buffer: &mut [u8],
        count: &Count<'_>,
    ) -> Poll<Result<(), Broken>> {
        let mut reads = 0;
        loop {
            while !self.waiting.is_empty() {
                let written = std::task::ready!(write(cx, to, &self.waiting))?;
                self.waiting.advance(written);
                if self.waiting.is_empty() {
                    self.waiting = Bytes::new();
                }
            }
            match self.state {
                State::Open => {}
                State::Ending => {
                    // TCP's own FIN, or TLS's word for it: carries the half-close through. An error means that the receiver is gone, which
                    // the other direction finds out.
                    let _ = std::task::ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.state = State::Ended;
                    return Poll::Ready(Ok(()));
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
            if reads == READS_PER_TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            let mut read = ReadBuf::new(&mut *buffer);
            // Tokio takes a read that did not fill the buffer for the end of what is there, which saves the second
            // read that would only say so.
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Reading)),
                Poll::Pending => return Poll::Pending,
            }
            let bytes = read.filled();
            if bytes.is_empty() {
                self.state = State::Ending;
                continue;
            }
            count.add(bytes.len());
            let taken = match write(cx, to, bytes) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            if let Some(rest) = bytes.get(taken..)
                && !rest.is_empty()
            {
                self.waiting = Bytes::copy_from_slice(rest);
            }
        }
    }
}

fn write(cx: &mut Context<'_>, to: &mut Transport, bytes: &[u8]) -> Poll<Result<usize, Broken>> {
    Pin::new(to).poll_write(cx, bytes).map(|result: io::Result<usize>| match result {
        Ok(0) | Err(_) => Err(Broken::Writing),
        Ok(written) => Ok(written),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_tunnel_is_small() {
        let size = std::mem::size_of::<Tunnel>();
        assert!(size <= 400, "{size} bytes");
    }
}
