//! A WebSocket tunnel: two streams and no buffer while nothing moves.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tidegate_metrics::{CloseBy, Counter, StreamPeer};
use tidegate_transport::Transport;
use tidegate_types::CloseReason;
use tidegate_wire::websocket::Boundaries;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{Alarm, Clock, Ring, Species};
use crate::flow::{Ending, Flow};
use crate::live::{Leave, Listed};
use crate::meter::{Due, Meter, Watched};
use crate::parting::{Farewell, HURRY, PATIENCE, Parting};
use crate::websocket::{Place, Taken};

/// Reads of one direction before the other tasks of the worker get their turn.
pub(crate) const READS_PER_TURN: usize = 8;

/// How long the other direction may be silent after one has ended: a peer that is gone for good often just ends its own,
/// and is not to be waited for as long as an idle tunnel is.
const HALF_OPEN: Duration = Duration::from_secs(60);

/// A connection that ended without a Close (RFC 6455 section 7.4.1).
const ABNORMAL: u16 = 1006;

/// What a tunnel needs besides its streams.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) alarm: Alarm,
    pub(crate) timeout: Duration,
    /// The worker's read buffer.
    pub(crate) buffer: Rc<RefCell<Box<[u8]>>>,
    #[expect(dead_code, reason = "has its place at the upstream while it lives")]
    pub(crate) open: Place,
    pub(crate) ending: Ending,
    #[expect(dead_code, reason = "keeps the tunnel in the register while it lives")]
    pub(crate) listed: Listed,
    pub(crate) meter: Option<Box<Meter>>,
}

/// Pumps both directions until both have ended, one broke, nothing moved for too long, or the gateway closes.
#[derive(Debug)]
pub(crate) struct Tunnel {
    client: Transport,
    upstream: Transport,
    to_upstream: Lane,
    to_client: Lane,
    end: End,
    /// Which end was the first to end its direction.
    ended: Option<StreamPeer>,
    parting: Option<Box<Parting>>,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// What the receiver did not take yet. Nothing is read while there is any.
    pub(crate) waiting: Bytes,
    /// Where frames end in what is passed on: there the gateway may put in frames of its own.
    pub(crate) frames: Boundaries,
    pub(crate) state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    #[default]
    Open,
    /// The sender has ended; the receiver is to be told after the rest.
    Ending,
    Ended,
}

/// Why a direction cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its sender broke.
    Reading,
    /// Its receiver broke.
    Writing,
    /// The gateway does not let it.
    Refused(Farewell),
}

/// A direction of a tunnel that is looked into.
struct Inside<'a> {
    meter: &'a mut Meter,
    from: StreamPeer,
    flow: &'a Flow,
    clock: &'a Clock,
}

impl Inside<'_> {
    fn to(&self) -> StreamPeer {
        match self.from {
            StreamPeer::Client => StreamPeer::Upstream,
            StreamPeer::Upstream => StreamPeer::Client,
        }
    }
}

impl Tunnel {
    pub(crate) fn new(client: Taken, upstream: Taken, end: End) -> Self {
        let flow = &end.ending;
        flow.route.tunnels.inc();
        flow.route.tunnels_open.inc();
        end.alarm.set(end.timeout);
        let mut tunnel = Self {
            client: client.stream,
            upstream: upstream.stream,
            to_upstream: Lane::default(),
            to_client: Lane::default(),
            end,
            ended: None,
            parting: None,
        };
        tunnel.begin_with(&client.read, &upstream.read);
        tunnel
    }

    /// What was read together with the handshake comes first.
    fn begin_with(&mut self, from_client: &[u8], from_upstream: &[u8]) {
        let End { ending, alarm, meter, .. } = &mut self.end;
        let (flow, clock) = (ending.flow(), &**alarm.clock());
        let mut refusal = None;
        for (from, lane, bytes) in [
            (StreamPeer::Client, &mut self.to_upstream, from_client),
            (StreamPeer::Upstream, &mut self.to_client, from_upstream),
        ] {
            if bytes.is_empty() {
                continue;
            }
            count(flow, from).add(bytes.len());
            let mut out = Cow::Borrowed(bytes);
            if let Some(meter) = meter {
                let watched = meter.watch(from, bytes, flow, clock);
                out = watched.out;
                refusal = refusal.or(watched.refused);
            }
            lane.frames.feed(&out);
            // Copied: a slice would keep the buffer of the connection that it was read by.
            lane.waiting = Bytes::copy_from_slice(&out);
        }
        if let Some(refusal) = refusal {
            self.part(&refusal, PATIENCE);
        } else if self.end.meter.is_some() {
            self.end.alarm.set(Duration::ZERO);
        }
    }

    /// Begins to end the tunnel.
    fn part(&mut self, farewell: &Farewell, patience: Duration) {
        let End { ending, alarm, meter, .. } = &mut self.end;
        if let Some(mut meter) = meter.take() {
            for (from, lane) in
                [(StreamPeer::Client, &mut self.to_upstream), (StreamPeer::Upstream, &mut self.to_client)]
            {
                lane.append(&meter.take_held(from));
            }
        }
        ending.reason.set(farewell.reason);
        ending.closed(farewell.code(), CloseBy::Gateway);
        alarm.become_species(Species::Parting);
        alarm.set(patience);
        self.parting = Some(Parting::new(farewell, alarm.clock()));
    }

    /// Goes on with ending.
    fn poll_parting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(parting) = &mut self.parting else { return Poll::Ready(()) };
        let mut buffer = self.end.buffer.borrow_mut();
        parting.to_client.poll(&mut self.to_client, cx, &mut self.upstream, &mut self.client, &mut buffer);
        parting.to_upstream.poll(&mut self.to_upstream, cx, &mut self.client, &mut self.upstream, &mut buffer);
        // Whose answer cannot be recognised is told that nothing follows, so that its end comes soon.
        if parting.to_client.said && parting.to_upstream.deaf {
            let _ = Pin::new(&mut self.client).poll_shutdown(cx);
        }
        if parting.to_upstream.said && parting.to_client.deaf {
            let _ = Pin::new(&mut self.upstream).poll_shutdown(cx);
        }
        if parting.is_over() {
            return Poll::Ready(());
        }
        match self.end.alarm.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => Poll::Ready(()),
        }
    }

    /// Moves what can be moved. Ready when both directions have ended, or one cannot go on.
    fn pump(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), (StreamPeer, Stop)>> {
        let End { ending, alarm, meter, buffer, timeout, .. } = &mut self.end;
        let (flow, clock) = (ending.flow(), &**alarm.clock());
        let mut buffer = buffer.borrow_mut();
        let before = (flow.bytes_in.get(), flow.bytes_out.get());

        let from = StreamPeer::Client;
        let inside = meter.as_deref_mut().map(|meter| Inside { meter, from, flow, clock });
        let up =
            self.to_upstream.poll(cx, &mut self.client, &mut self.upstream, &mut buffer, &count(flow, from), inside);
        let from = StreamPeer::Upstream;
        let inside = meter.as_deref_mut().map(|meter| Inside { meter, from, flow, clock });
        let down =
            self.to_client.poll(cx, &mut self.upstream, &mut self.client, &mut buffer, &count(flow, from), inside);
        if self.ended.is_none() {
            if up == Poll::Ready(Ok(())) {
                self.ended = Some(StreamPeer::Client);
                flow.reason.set(CloseReason::ClientClosed);
            } else if down == Poll::Ready(Ok(())) {
                self.ended = Some(StreamPeer::Upstream);
            }
        }
        match (up, down) {
            (Poll::Ready(Err(stop)), _) => return Poll::Ready(Err((StreamPeer::Client, stop))),
            (_, Poll::Ready(Err(stop))) => return Poll::Ready(Err((StreamPeer::Upstream, stop))),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
            (Poll::Pending, _) | (_, Poll::Pending) => {}
        }
        // A meter knows by itself when something moved: its own pings and their answers do not count.
        if meter.is_none() {
            if (flow.bytes_in.get(), flow.bytes_out.get()) != before {
                alarm.set(*timeout);
            } else if self.ended.is_some() {
                alarm.set((*timeout).min(HALF_OPEN));
            }
        }
        Poll::Pending
    }

    /// What the alarm says; `None` to wait for it.
    fn rung(&mut self, cx: &mut Context<'_>) -> Option<(Farewell, Duration)> {
        loop {
            match self.end.alarm.poll(cx) {
                Poll::Pending => return None,
                Poll::Ready(Ring::Close) => return Some((Farewell::leave(Leave::Drain), HURRY)),
                Poll::Ready(Ring::Leave(why)) => return Some((Farewell::leave(why), PATIENCE)),
                Poll::Ready(Ring::Due) => {}
            }
            let clock = self.end.alarm.clock().clone();
            let Some(meter) = &mut self.end.meter else { return Some((Farewell::idle(), PATIENCE)) };
            let stuck = [!self.to_client.waiting.is_empty(), !self.to_upstream.waiting.is_empty()];
            match meter.due(clock.now(), self.ended.is_some().then_some(HALF_OPEN), stuck) {
                Due::Idle => return Some((Farewell::idle(), PATIENCE)),
                Due::Dead(peer) => return Some((Farewell::dead(peer), PATIENCE)),
                Due::Nothing(time) => self.end.alarm.set(time),
            }
            for (to, lane) in [(StreamPeer::Client, &mut self.to_client), (StreamPeer::Upstream, &mut self.to_upstream)]
            {
                if lane.state == State::Open
                    && lane.waiting.is_empty()
                    && lane.frames.at_boundary()
                    && let Some(ping) = meter.ping(to, &clock)
                {
                    lane.waiting = ping.into();
                    cx.waker().wake_by_ref();
                }
            }
        }
    }
}

impl Future for Tunnel {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.parting.is_none() {
            let (farewell, patience) = match this.pump(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(()),
                Poll::Ready(Err((_, Stop::Refused(farewell)))) => (farewell, PATIENCE),
                Poll::Ready(Err((StreamPeer::Client, Stop::Writing) | (StreamPeer::Upstream, Stop::Reading))) => {
                    this.ended.get_or_insert(StreamPeer::Upstream);
                    this.end.ending.reason.set(CloseReason::UpstreamFailed);
                    return Poll::Ready(());
                }
                Poll::Ready(Err((StreamPeer::Client, Stop::Reading) | (StreamPeer::Upstream, Stop::Writing))) => {
                    this.ended.get_or_insert(StreamPeer::Client);
                    this.end.ending.reason.set(CloseReason::TransportClosed);
                    return Poll::Ready(());
                }
                Poll::Pending => match this.rung(cx) {
                    None => return Poll::Pending,
                    Some(farewell) => farewell,
                },
            };
            this.part(&farewell, patience);
        }
        this.poll_parting(cx)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let flow = &self.end.ending;
        flow.route.tunnels_open.dec();
        match (flow.close(), self.ended) {
            (Some((code, by)), _) => flow.route.websocket().closed(code, by),
            (None, Some(peer)) if self.end.meter.is_some() => {
                let by = match peer {
                    StreamPeer::Client => CloseBy::Client,
                    StreamPeer::Upstream => CloseBy::Upstream,
                };
                flow.route.websocket().closed(ABNORMAL, by);
            }
            (None, _) => {}
        }
    }
}

/// Where the bytes of an end are counted.
fn count(flow: &Flow, from: StreamPeer) -> Count<'_> {
    match from {
        StreamPeer::Client => Count { total: &flow.bytes_in, metric: &flow.route.tunnel_bytes_to_upstream },
        StreamPeer::Upstream => Count { total: &flow.bytes_out, metric: &flow.route.tunnel_bytes_to_client },
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
        mut inside: Option<Inside<'_>>,
    ) -> Poll<Result<(), Stop>> {
        let mut reads = 0;
        loop {
            while !self.waiting.is_empty() {
                let written = std::task::ready!(write(cx, to, &self.waiting))?;
                self.taken(written);
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
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Stop::Reading)),
                Poll::Pending => return Poll::Pending,
            }
            let bytes = read.filled();
            if bytes.is_empty() {
                self.state = State::Ending;
                continue;
            }
            count.add(bytes.len());
            let Some(inside) = &mut inside else {
                self.frames.feed(bytes);
                self.pass(cx, to, bytes)?;
                continue;
            };
            let Watched { mut out, refused } = inside.meter.watch(inside.from, bytes, inside.flow, inside.clock);
            let place = self.frames.feed(&out);
            let receiver = inside.to();
            if let Some(place) = place
                && refused.is_none()
                && inside.meter.wants_ping(receiver)
                && let Some(ping) = inside.meter.ping(receiver, inside.clock)
            {
                out.to_mut().splice(place..place, ping);
            }
            self.pass(cx, to, &out)?;
            if let Some(refused) = refused {
                return Poll::Ready(Err(Stop::Refused(refused)));
            }
        }
    }

    /// Writes what the receiver takes at once, and keeps the rest.
    fn pass(&mut self, cx: &mut Context<'_>, to: &mut Transport, bytes: &[u8]) -> Result<(), Stop> {
        if bytes.is_empty() {
            return Ok(());
        }
        let taken = match write(cx, to, bytes) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        if let Some(rest) = bytes.get(taken..)
            && !rest.is_empty()
        {
            self.waiting = Bytes::copy_from_slice(rest);
        }
        Ok(())
    }

    /// The receiver took so much of what waited for it.
    pub(crate) fn taken(&mut self, bytes: usize) {
        self.waiting.advance(bytes);
        if self.waiting.is_empty() {
            self.waiting = Bytes::new();
        }
    }

    /// Bytes that were read before and are to be passed on after all.
    fn append(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.frames.feed(bytes);
            self.waiting = [&self.waiting[..], bytes].concat().into();
        }
    }
}

pub(crate) fn write<T: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut T,
    bytes: &[u8],
) -> Poll<Result<usize, Stop>> {
    Pin::new(to).poll_write(cx, bytes).map(|result: io::Result<usize>| match result {
        Ok(0) | Err(_) => Err(Stop::Writing),
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
