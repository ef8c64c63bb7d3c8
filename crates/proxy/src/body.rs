use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tidegate_types::CloseReason;

use crate::Upstream;
use crate::clock::{Alarm, Clock, Ring};
use crate::flow::{Ending, Flow, Upload};
use crate::pool::{Connection, Pool};
use crate::stream::EventStream;

/// Why a body ended early. The connection it was on is closed, so that nobody takes the part for the whole.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The other side's body broke off or was malformed.
    #[error("the body could not be read: {0}")]
    Source(#[from] hyper::Error),
    /// Nothing came for too long.
    #[error("the body was silent for too long")]
    Idle,
    /// The gateway is going away.
    #[error("the gateway is going away")]
    Closing,
}

/// A response body of the gateway.
#[derive(Debug)]
pub struct Body(Inner);

#[derive(Debug)]
enum Inner {
    Fixed(Option<Bytes>),
    /// A response of the gateway itself that ends an exchange.
    Answer(Option<Bytes>, #[expect(dead_code, reason = "ends the exchange when the body has been sent")] Ending),
    Upstream(UpstreamBody),
    Events(Box<EventStream>),
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self(Inner::Fixed(None))
    }

    pub(crate) fn answer(self, ending: Ending) -> Self {
        match self.0 {
            Inner::Fixed(bytes) => {
                ending.bytes_out.set(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64));
                Self(Inner::Answer(bytes, ending))
            }
            other @ (Inner::Answer(..) | Inner::Upstream(_) | Inner::Events(_)) => Self(other),
        }
    }

    pub(crate) fn upstream(body: UpstreamBody) -> Self {
        Self(Inner::Upstream(body))
    }

    pub(crate) fn events(stream: EventStream) -> Self {
        Self(Inner::Events(Box::new(stream)))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Fixed(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Inner::Fixed(bytes) | Inner::Answer(bytes, _) => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            Inner::Upstream(body) => body.poll(cx),
            Inner::Events(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Fixed(bytes) | Inner::Answer(bytes, _) => bytes.is_none(),
            Inner::Upstream(body) => body.incoming.is_end_stream(),
            Inner::Events(stream) => stream.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Fixed(bytes) | Inner::Answer(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Inner::Upstream(body) => body.incoming.size_hint(),
            Inner::Events(stream) => stream.size_hint(),
        }
    }
}

/// What an upstream sends. When it has ended, its connection goes back to the pool; when it is dropped before, the
/// connection is closed.
#[derive(Debug)]
pub(crate) struct UpstreamBody {
    pub(crate) incoming: Incoming,
    ended: bool,
    lease: Option<Lease>,
    alarm: Alarm,
    timeout: Duration,
    ending: Ending,
}

/// The right to an upstream connection.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) connection: Connection,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) pool: Rc<Pool>,
}

impl UpstreamBody {
    pub(crate) fn new(incoming: Incoming, lease: Lease, alarm: Alarm, timeout: Duration, ending: Ending) -> Self {
        let mut this = Self { ended: false, incoming, lease: Some(lease), alarm, timeout, ending };
        if this.incoming.is_end_stream() {
            this.complete();
        } else {
            this.alarm.set(timeout);
        }
        this
    }

    pub(crate) fn flow(&self) -> &Flow {
        &self.ending
    }

    pub(crate) fn clock(&self) -> &Rc<Clock> {
        self.alarm.clock()
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.poll_unless_drained(cx) {
            // Only event streams are asked to end early.
            Poll::Ready(Step::Drain) | Poll::Pending => Poll::Pending,
            Poll::Ready(Step::Frame(frame)) => Poll::Ready(frame),
        }
    }

    pub(crate) fn poll_unless_drained(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.ended {
            return Poll::Ready(Step::Frame(None));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.ending.bytes_out.set(self.ending.bytes_out.get() + data.len() as u64);
                }
                // Trailers are the last frame, and hyper does not ask for another one after them.
                if frame.is_trailers() || self.incoming.is_end_stream() {
                    self.complete();
                } else {
                    self.alarm.set(self.timeout);
                }
                Poll::Ready(Step::Frame(Some(Ok(frame))))
            }
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(Step::Frame(None))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(self.fail(error.into(), CloseReason::UpstreamFailed)),
            Poll::Pending => match self.alarm.poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ring::Due) => Poll::Ready(self.fail(BodyError::Idle, CloseReason::IdleTimeout)),
                Poll::Ready(Ring::Close) => Poll::Ready(self.fail(BodyError::Closing, CloseReason::ServerShutdown)),
                Poll::Ready(Ring::Drain) => Poll::Ready(Step::Drain),
            },
        }
    }

    fn fail(&mut self, error: BodyError, reason: CloseReason) -> Step {
        self.ended = true;
        self.lease = None;
        self.ending.reason.set(reason);
        Step::Frame(Some(Err(error)))
    }

    /// Gives up the rest on purpose; the client sees a complete response.
    pub(crate) fn stop(&mut self, reason: CloseReason) {
        self.ended = true;
        self.lease = None;
        self.ending.reason.set(reason);
    }

    fn complete(&mut self) {
        self.ended = true;
        self.ending.reason.set(CloseReason::ClientClosed);
        if let Some(Lease { connection, upstream, pool }) = self.lease.take() {
            pool.park(&upstream, connection);
        }
    }
}

/// What came of polling.
pub(crate) enum Step {
    /// A frame, the end or an error.
    Frame(Option<Result<Frame<Bytes>, BodyError>>),
    /// Draining asks for the end.
    Drain,
}

/// The client's body on its way to the upstream.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    flow: Rc<Flow>,
    clock: Rc<Clock>,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, flow: &Rc<Flow>, clock: &Rc<Clock>) -> Self {
        if incoming.is_end_stream() {
            flow.upload.set(Upload::Done);
        }
        let incoming = (!incoming.is_end_stream()).then_some(incoming);
        Self { incoming, flow: flow.clone(), clock: clock.clone() }
    }

    /// For a request that is sent again; it had no body.
    pub(crate) fn empty(flow: &Rc<Flow>, clock: &Rc<Clock>) -> Self {
        Self { incoming: None, flow: flow.clone(), clock: clock.clone() }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *incoming).poll_frame(cx);
        this.flow.moved.set(this.clock.now());
        match frame {
            Poll::Pending => {
                this.flow.upload.set(Upload::WaitingForClient);
                Poll::Pending
            }
            Poll::Ready(None) => {
                this.flow.upload.set(Upload::Done);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.flow.bytes_in.set(this.flow.bytes_in.get() + data.len() as u64);
                }
                let done = frame.is_trailers() || incoming.is_end_stream();
                this.flow.upload.set(if done { Upload::Done } else { Upload::WaitingForUpstream });
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}
