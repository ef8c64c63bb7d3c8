//! How a tunnel ends when the gateway wants it to: a Close frame each way, where a frame of that direction ends; then a
//! short wait for the answers; then the connections close.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tidegate_metrics::{StreamLimit, StreamPeer};
use tidegate_types::CloseReason;
use tidegate_wire::websocket::{Opcode, Rules, Scanner, Seen, close_payload, encode_header, encode_masked};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Clock;
use crate::live::Leave;
use crate::tunnel::{Lane, READS_PER_TURN, State, write};

/// How long all of that may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// How long, when everything closes.
pub(crate) const HURRY: Duration = Duration::from_millis(100);

/// The code that stands for a Close without one (RFC 6455 section 7.4.1).
pub(crate) const NO_CODE: u16 = 1005;

/// Why a tunnel ends, and what both ends are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Farewell {
    pub(crate) reason: CloseReason,
    /// What the client is told; `None` if there is no use.
    pub(crate) client: Option<(u16, &'static str)>,
    /// What the upstream is told.
    pub(crate) upstream: Option<(u16, &'static str)>,
    /// Whose frames are not followed any more, so that its Close would not be recognised.
    pub(crate) deaf: Option<StreamPeer>,
    pub(crate) limit: Option<StreamLimit>,
}

impl Farewell {
    /// The same for both.
    fn both(reason: CloseReason, code: u16, text: &'static str) -> Self {
        Self { reason, client: Some((code, text)), upstream: Some((code, text)), deaf: None, limit: None }
    }

    /// 1012 ("service restart") tells clients that connecting again is right.
    pub(crate) fn leave(why: Leave) -> Self {
        let (code, text) = match why {
            Leave::Drain => (1012, "the gateway restarts"),
            Leave::ServerDown => (1012, "the server is down"),
            Leave::ServerDrain | Leave::RouteGone | Leave::Rebalance => (1012, "please connect again"),
            Leave::Kick => (1008, "closed by the operator"),
        };
        Self::both(why.reason(), code, text)
    }

    pub(crate) fn idle() -> Self {
        Self::both(CloseReason::IdleTimeout, 1001, "idle for too long")
    }

    /// The other end of one that does not answer pings is told why it is alone.
    pub(crate) fn dead(peer: StreamPeer) -> Self {
        let told = Some((1011, "the other end does not answer"));
        let (client, upstream) = match peer {
            StreamPeer::Client => (None, told),
            StreamPeer::Upstream => (told, None),
        };
        Self { reason: CloseReason::PingTimeout, client, upstream, deaf: None, limit: None }
    }

    /// The code that is counted.
    pub(crate) fn code(&self) -> u16 {
        self.client.or(self.upstream).map_or(NO_CODE, |(code, _)| code)
    }
}

/// A tunnel on its way out.
#[derive(Debug)]
pub(crate) struct Parting {
    pub(crate) to_upstream: Way,
    pub(crate) to_client: Way,
}

/// One direction of it.
#[derive(Debug)]
pub(crate) struct Way {
    /// The Close frame, until there is a place for it.
    close: Option<Vec<u8>>,
    /// Nothing more will be written.
    pub(crate) said: bool,
    /// Follows what the sender of this direction still sends, to find its Close.
    ear: Option<Scanner>,
    /// Its frames are not followed: only its end counts.
    pub(crate) deaf: bool,
    /// The sender has closed, or has ended.
    heard: bool,
}

impl Parting {
    pub(crate) fn new(farewell: &Farewell, clock: &Clock) -> Box<Self> {
        let client = farewell.client.map(|(code, text)| {
            let payload = close_payload(code, text);
            let mut frame = Vec::new();
            encode_header(&mut frame, Opcode::Close, true, payload.len() as u64);
            frame.extend_from_slice(&payload);
            frame
        });
        let upstream = farewell.upstream.map(|(code, text)| {
            let mut frame = Vec::new();
            encode_masked(&mut frame, Opcode::Close, &close_payload(code, text), clock.mask());
            frame
        });
        // An end that is told nothing is not waited for either.
        let (client_gone, upstream_gone) = (client.is_none(), upstream.is_none());
        let way = |close: Option<Vec<u8>>, from, from_gone| Way {
            said: close.is_none(),
            close,
            ear: None,
            deaf: farewell.deaf == Some(from),
            heard: from_gone,
        };
        Box::new(Self {
            to_upstream: way(upstream, StreamPeer::Client, client_gone),
            to_client: way(client, StreamPeer::Upstream, upstream_gone),
        })
    }

    pub(crate) fn is_over(&self) -> bool {
        [&self.to_upstream, &self.to_client].into_iter().all(|way| way.said && way.heard)
    }
}

impl Way {
    /// Goes on with one direction, as far as it can.
    pub(crate) fn poll<F, T>(
        &mut self,
        lane: &mut Lane,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        buffer: &mut [u8],
    ) where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        if lane.state == State::Ended {
            // The receiver knows that nothing follows.
            self.close = None;
            self.said = true;
            self.heard = true;
        }
        if (self.deaf || self.heard) && !lane.frames.at_boundary() {
            // A frame that will never end leaves no place for a Close.
            self.close = None;
        }
        for _ in 0..READS_PER_TURN {
            while !self.said {
                if !lane.waiting.is_empty() {
                    match write(cx, to, &lane.waiting) {
                        Poll::Pending => break,
                        Poll::Ready(Ok(written)) => lane.taken(written),
                        Poll::Ready(Err(_)) => {
                            lane.waiting = Bytes::new();
                            self.close = None;
                            self.said = true;
                        }
                    }
                } else if lane.frames.at_boundary()
                    && let Some(close) = self.close.take()
                {
                    lane.waiting = close.into();
                    self.ear.get_or_insert_with(|| Scanner::new(Rules::Light));
                } else if self.close.is_none() {
                    self.said = true;
                } else {
                    break;
                }
            }
            // The rest of a frame is only read when what came before it has been taken.
            if self.heard || (self.close.is_some() && !lane.waiting.is_empty()) {
                return;
            }
            let mut read = ReadBuf::new(&mut *buffer);
            match std::pin::Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => self.take(lane, read.filled()),
                Poll::Ready(_) => {
                    self.heard = true;
                    if !lane.frames.at_boundary() {
                        // A frame that will never end leaves no place for a Close.
                        self.close = None;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Bytes of the sender: the end of the frame under way is passed on, all else is only listened to.
    fn take(&mut self, lane: &mut Lane, bytes: &[u8]) {
        let mut rest = bytes;
        if self.close.is_some() && !self.deaf {
            match lane.frames.finish(bytes) {
                None => {
                    lane.waiting = Bytes::copy_from_slice(bytes);
                    return;
                }
                Some(end) => {
                    lane.waiting = Bytes::copy_from_slice(bytes.get(..end).unwrap_or_default());
                    rest = bytes.get(end..).unwrap_or_default();
                }
            }
        }
        if self.deaf {
            return;
        }
        let ear = self.ear.get_or_insert_with(|| Scanner::new(Rules::Light));
        while let Ok(scanned) = ear.scan(rest) {
            match scanned.seen {
                None => return,
                Some(Seen::Control { opcode: Opcode::Close, .. }) => {
                    self.heard = true;
                    return;
                }
                Some(Seen::Control { .. } | Seen::Frame { .. } | Seen::Message { .. }) => {}
            }
            rest = rest.get(scanned.consumed..).unwrap_or_default();
        }
    }
}
