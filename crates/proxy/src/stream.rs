//! Event streams on their way through: passed on chunk by chunk, counted, and ended politely when the gateway drains.

use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tidegate_wire::sse::EventScanner;

use crate::body::{Step, UpstreamBody};
use crate::live::{Leave, Listed};
use crate::{BodyError, ExchangeKind};

/// Clients are told to come back after 1 to 5 s, each at another time.
const RETRY_MIN_MS: u64 = 1000;
const RETRY_SPREAD_MS: u64 = 4001;

/// A `text/event-stream` response.
#[derive(Debug)]
pub(crate) struct EventStream {
    body: UpstreamBody,
    scanner: EventScanner,
    /// The length was announced: nothing can be put in, and the end cannot come early.
    sized: bool,
    #[expect(dead_code, reason = "keeps the stream in the register while it lives")]
    listed: Listed,
}

type Polled = Option<Result<Frame<Bytes>, BodyError>>;

impl EventStream {
    pub(crate) fn new(body: UpstreamBody, listed: Listed) -> Self {
        let flow = body.flow();
        flow.kind.set(ExchangeKind::Sse);
        flow.route.sse_streams.inc();
        flow.route.sse_streams_open.inc();
        let sized = body.size_hint().exact().is_some();
        Self { body, scanner: EventScanner::new(), sized, listed }
    }

    /// Each chunk is passed on at once. Gathering those that come together was tried: waiting a turn for the next one cost
    /// more than the writes that it saved.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Polled> {
        match std::task::ready!(self.body.poll_unless_drained(cx)) {
            Step::Frame(frame) => {
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    self.count(data);
                }
                Poll::Ready(frame)
            }
            Step::Leave(why) => self.leave(why),
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.body.ended()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.sized { self.body.size_hint() } else { SizeHint::new() }
    }

    fn count(&mut self, data: &Bytes) {
        let events = self.scanner.feed(data);
        let flow = self.body.flow();
        if events > 0 {
            flow.events.set(flow.events.get() + events);
            flow.route.sse_events.inc_by(events);
        }
        flow.route.sse_bytes.inc_by(data.len() as u64);
    }

    /// Between two events the client is told when to come back, and the response ends. In the middle of an event the
    /// rest is waited for: the next chunk, or the process's end.
    fn leave(&mut self, why: Leave) -> Poll<Polled> {
        if self.sized || !self.scanner.at_boundary() {
            return Poll::Pending;
        }
        let retry = RETRY_MIN_MS + self.body.clock().random(RETRY_SPREAD_MS);
        self.body.stop(why.reason());
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(format!("retry: {retry}\n\n"))))))
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.body.flow().route.sse_streams_open.dec();
    }
}
