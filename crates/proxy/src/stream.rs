//! Event streams on their way through: passed on chunk by chunk, counted, kept alive while the upstream is silent, and ended
//! politely when they are asked to go. Nothing is ever put into the middle of an event.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tidegate_types::CloseReason;
use tidegate_wire::sse::{EventScanner, encode_retry};

use crate::body::{Step, UpstreamBody};
use crate::clock::Ticks;
use crate::live::{Leave, Listed};
use crate::{BodyError, EventPolicy, ExchangeKind};

/// A comment without text: every reader ignores it, and every proxy on the way sees that the stream lives.
const HEARTBEAT: &[u8] = b":\n\n";

/// How long the end of an event is waited for.
const PATIENCE: Ticks = 5000;

/// A `text/event-stream` response.
#[derive(Debug)]
pub(crate) struct EventStream {
    body: UpstreamBody,
    scanner: EventScanner,
    /// The length was announced: the end cannot come early.
    sized: bool,
    /// Nothing can be put in: the length was announced, or the text is encoded.
    sealed: bool,
    retry: Ticks,
    heartbeat: Ticks,
    /// When the upstream's silence is too long, and from when on the stream has lived long enough.
    timeout: Ticks,
    ends: Ticks,
    /// When the upstream last sent something, and when anything was last sent to the client.
    heard: Ticks,
    sent: Ticks,
    /// It is to end at the next good place, why, and since when.
    leaving: Option<(CloseReason, Ticks)>,
    #[expect(dead_code, reason = "keeps the stream in the register while it lives")]
    listed: Listed,
}

type Polled = Option<Result<Frame<Bytes>, BodyError>>;

impl EventStream {
    /// `timeout` is the longest silence of the upstream; `encoded` that there is a Content-Encoding.
    pub(crate) fn new(
        mut body: UpstreamBody,
        policy: EventPolicy,
        timeout: Duration,
        encoded: bool,
        listed: Listed,
    ) -> Self {
        let flow = body.flow();
        flow.kind.set(ExchangeKind::Sse);
        flow.route.sse_streams.inc();
        flow.route.sse_streams_open.inc();
        let sized = body.size_hint().exact().is_some();
        let now = body.clock().now();
        let (heartbeat, life, timeout) = (millis(policy.heartbeat), millis(policy.max_life), millis(timeout));
        let ends = if life == 0 { Ticks::MAX } else { now.saturating_add(life) };
        let sealed = sized || encoded;
        // The alarm after each chunk; when it rings, what is due is worked out.
        let soonest = [heartbeat, life].into_iter().filter(|time| *time > 0).min().unwrap_or(timeout);
        body.set_patience(Duration::from_millis(soonest.min(timeout)));
        Self {
            body,
            scanner: EventScanner::new(),
            sized,
            sealed,
            retry: millis(policy.retry),
            heartbeat,
            timeout,
            ends,
            heard: now,
            sent: now,
            leaving: None,
            listed,
        }
    }

    /// Each chunk is passed on at once. Gathering those that come together was tried: waiting a turn for the next one cost
    /// more than the writes that it saved.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Polled> {
        if self.leaving.is_none() && !self.sealed {
            // Asked here too, since the alarm is only heard while the upstream is silent.
            if let Some(why) = self.body.asked_to_leave() {
                self.leave(why.reason());
            } else if self.ends <= self.body.clock().now() {
                self.leave(CloseReason::Moved);
            }
        }
        loop {
            if let Some((reason, _)) = self.leaving
                && !self.body.ended()
                && self.scanner.at_boundary()
            {
                return Poll::Ready(self.farewell(reason));
            }
            match ready!(self.body.poll_step(cx)) {
                Step::Frame(Some(Ok(frame))) => return Poll::Ready(Some(Ok(self.pass(frame)))),
                Step::Frame(other) => return Poll::Ready(other),
                Step::Leave(_) if self.leaving.is_some() => return Poll::Pending,
                Step::Leave(why) if !self.sealed => self.leave(why.reason()),
                // Nothing can be said in it: it may go on while the process drains, but not if it must go.
                Step::Leave(Leave::Drain) => return Poll::Pending,
                Step::Leave(why) => return self.body.fail(BodyError::Closing, why.reason(), cx),
                Step::Due => {
                    if let Some(heartbeat) = ready!(self.due(cx)) {
                        return Poll::Ready(Some(Ok(heartbeat)));
                    }
                }
            }
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.body.ended()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.sized { self.body.size_hint() } else { SizeHint::new() }
    }

    /// A frame of the upstream, and if the stream is to end, only up to the end of an event.
    fn pass(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(other) => return other,
        };
        let now = self.body.clock().now();
        self.heard = now;
        self.sent = now;
        let flow = self.body.flow();
        // What is encoded cannot be read.
        if self.sized || !self.sealed {
            let events = if self.leaving.is_some() {
                let (events, end) = finish_event(&mut self.scanner, &data);
                flow.bytes_out.set(flow.bytes_out.get().saturating_sub((data.len() - end) as u64));
                data.truncate(end);
                events
            } else {
                self.scanner.feed(&data)
            };
            if events > 0 {
                flow.events.set(flow.events.get() + events);
                flow.route.sse_events.inc_by(events);
            }
        }
        flow.route.sse_bytes.inc_by(data.len() as u64);
        Frame::data(data)
    }

    fn leave(&mut self, reason: CloseReason) {
        self.leaving = Some((reason, self.body.clock().now()));
        self.body.set_alarm(Duration::from_millis(PATIENCE));
    }

    /// Clients are told when to come back, each at another time, and the response ends.
    fn farewell(&mut self, reason: CloseReason) -> Polled {
        let retry = self.retry.saturating_add(self.body.clock().random(self.retry.saturating_add(1)));
        self.body.stop(reason);
        let mut text = Vec::new();
        encode_retry(&mut text, retry);
        Some(Ok(Frame::data(Bytes::from(text))))
    }

    /// The alarm has rung: something is due, or the next one has to be set.
    fn due(&mut self, cx: &Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let now = self.body.clock().now();
        let silent_at = self.heard.saturating_add(self.timeout);
        if silent_at <= now {
            return self.body.fail(BodyError::Idle, CloseReason::IdleTimeout, cx);
        }
        let mut next = silent_at;
        if let Some((reason, since)) = self.leaving {
            let cut_at = since.saturating_add(PATIENCE);
            if cut_at <= now {
                return self.body.fail(BodyError::Closing, reason, cx);
            }
            next = next.min(cut_at);
        } else if !self.sealed {
            if self.ends <= now {
                self.leave(CloseReason::Moved);
                return Poll::Ready(None);
            }
            next = next.min(self.ends);
        }
        let mut heartbeat = None;
        // Inside an event the upstream has the word; the next chunk sets the alarm again.
        if self.heartbeat > 0 && !self.sealed && self.leaving.is_none() && self.scanner.at_boundary() {
            if self.sent.saturating_add(self.heartbeat) <= now {
                self.sent = now;
                self.body.flow().route.sse_heartbeats.inc();
                heartbeat = Some(Frame::data(Bytes::from_static(HEARTBEAT)));
            }
            next = next.min(self.sent.saturating_add(self.heartbeat));
        }
        self.body.set_alarm(Duration::from_millis(next.saturating_sub(now)));
        Poll::Ready(heartbeat)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.body.flow().route.sse_streams_open.dec();
    }
}

/// Feeds the scanner up to the first place where something may be put in, or everything. Gives the events that were
/// completed, and how many bytes that was.
fn finish_event(scanner: &mut EventScanner, data: &[u8]) -> (u64, usize) {
    let mut events = 0;
    let mut at = 0;
    while !scanner.at_boundary() {
        let rest = data.get(at..).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        let line = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).map_or(rest.len(), |end| end + 1);
        events += scanner.feed(rest.get(..line).unwrap_or_default());
        at += line;
    }
    (events, at)
}

fn millis(duration: Duration) -> Ticks {
    u64::try_from(duration.as_millis()).unwrap_or(Ticks::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_finished_and_the_next_one_is_not_begun() {
        for (before, data, passed, events) in [
            ("data: a", " b\n\ndata: c\n\n", " b\n\n", 1),
            ("data: a\n", "\ndata: c\n\n", "\n", 1),
            ("data: a\r\n", "id: 1\r\n\r\ndata: c", "id: 1\r\n\r\n", 1),
            ("data: a", "never ends\n", "never ends\n", 0),
            ("data: a\n\n", "data: b\n\n", "", 0),
            (": comm", "ent\n\ndata: c\n\n", "ent\n", 0),
        ] {
            let mut scanner = EventScanner::new();
            scanner.feed(before.as_bytes());
            let (found, end) = finish_event(&mut scanner, data.as_bytes());
            assert_eq!((&data[..end], found), (passed, events), "{before:?} {data:?}");
        }
    }
}
