use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tidegate_types::CloseReason;

use crate::Upstream;
use crate::carrier::Carrier;
use crate::clock::{Alarm, Clock, Ring};
use crate::flow::{Ending, Flow, Upload};
use crate::h1::{Buffer, Framing};
use crate::live::Leave;
use crate::pool::Pool;
use crate::stream::EventStream;

/// Why a body ended early. The connection it was on is closed, so that nobody takes the part for the whole.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The client's body broke off or was malformed.
    #[error("the client's body could not be read: {0}")]
    Client(#[from] hyper::Error),
    /// The client's body is longer than allowed.
    #[error("the client's body is larger than allowed")]
    TooLarge,
    /// The upstream's body broke off.
    #[error("the upstream's body could not be read: {0}")]
    Upstream(#[from] io::Error),
    /// The upstream's body has broken chunks.
    #[error("the chunked framing of the upstream's body is broken")]
    Framing,
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
            Inner::Upstream(body) => body.ended(),
            Inner::Events(stream) => stream.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Fixed(bytes) | Inner::Answer(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Inner::Upstream(body) => body.size_hint(),
            Inner::Events(stream) => stream.size_hint(),
        }
    }
}

/// What an upstream sends. When it has ended, its connection goes back to the pool; when it is dropped before, the
/// connection is closed.
#[derive(Debug)]
pub(crate) struct UpstreamBody {
    framing: Framing,
    /// Until the end.
    lease: Option<Lease>,
    /// Told at the next turn: the server would drop what it has not written yet, be it the response's head.
    failure: Option<BodyError>,
    alarm: Alarm,
    timeout: Duration,
    ending: Ending,
}

/// The right to an upstream connection.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) carrier: Carrier,
    /// Whether it may carry a further request.
    pub(crate) reusable: bool,
    /// The worker's.
    pub(crate) buffer: Buffer,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) pool: Rc<Pool>,
    #[expect(dead_code, reason = "what still sends the request's body ends with the response")]
    pub(crate) upload: Option<Uploading>,
}

/// A task that sends the rest of a request's body.
#[derive(Debug)]
pub(crate) struct Uploading(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for Uploading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl UpstreamBody {
    pub(crate) fn new(framing: Framing, lease: Lease, alarm: Alarm, timeout: Duration, ending: Ending) -> Self {
        let mut this = Self { framing, lease: Some(lease), failure: None, alarm, timeout, ending };
        if matches!(this.framing, Framing::Length(0)) {
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
        self.lease.is_none() && self.failure.is_none()
    }

    /// Exact if the upstream said a length.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(left) => SizeHint::with_exact(left),
            Framing::Chunked(_) | Framing::UntilClose => SizeHint::new(),
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match ready!(self.poll_step(cx)) {
            // Only event streams are asked to end early.
            Step::Leave(_) => Poll::Pending,
            Step::Frame(frame) => Poll::Ready(frame),
            Step::Due => self.fail(BodyError::Idle, CloseReason::IdleTimeout, cx),
        }
    }

    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let Some(lease) = &mut self.lease else {
            return Poll::Ready(Step::Frame(self.failure.take().map(Err)));
        };
        match lease.poll(&mut self.framing, cx) {
            Poll::Ready(Ok(Piece { frame, last })) => {
                if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
                    self.ending.bytes_out.set(self.ending.bytes_out.get() + data.len() as u64);
                }
                if last {
                    self.complete();
                } else {
                    if matches!(self.framing, Framing::Length(0)) {
                        // All that was announced: nobody may wait for the trailers that HTTP/2 allows behind it.
                        self.ending.reason.set(CloseReason::ClientClosed);
                    }
                    self.alarm.set(self.timeout);
                }
                Poll::Ready(Step::Frame(frame.map(Ok)))
            }
            Poll::Ready(Err(error)) => self.fail(error, CloseReason::UpstreamFailed, cx),
            Poll::Pending => match ready!(self.alarm.poll(cx)) {
                Ring::Due => Poll::Ready(Step::Due),
                Ring::Leave(why) => Poll::Ready(Step::Leave(why)),
                Ring::Close => self.fail(BodyError::Closing, CloseReason::ServerShutdown, cx),
            },
        }
    }

    /// Whether it is time to end, whatever the upstream does.
    pub(crate) fn asked_to_leave(&self) -> Option<Leave> {
        self.alarm.asked()
    }

    /// The longest silence from now on, before something is due.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.timeout = patience;
        self.alarm.set(patience);
    }

    /// When something is due next, unless the upstream sends something before.
    pub(crate) fn set_alarm(&self, time: Duration) {
        self.alarm.set(time);
    }

    /// Breaks off: the error comes at the next turn, when what came before it has been written.
    pub(crate) fn fail<T>(&mut self, error: BodyError, reason: CloseReason, cx: &Context<'_>) -> Poll<T> {
        if reason == CloseReason::UpstreamFailed
            && self.lease.as_ref().is_some_and(|lease| lease.upstream.settings.outlier.is_some())
        {
            self.ending.broke_off();
        }
        self.lease = None;
        self.ending.reason.set(reason);
        self.failure = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives up the rest on purpose; the client sees a complete response.
    pub(crate) fn stop(&mut self, reason: CloseReason) {
        self.lease = None;
        self.ending.reason.set(reason);
    }

    fn complete(&mut self) {
        self.ending.reason.set(CloseReason::ClientClosed);
        if let Some(Lease { carrier: Carrier::H1(connection), reusable: true, upstream, pool, .. }) = self.lease.take()
        {
            pool.park(&upstream, connection);
        }
    }
}

/// A part of a response's body.
pub(crate) struct Piece {
    pub(crate) frame: Option<Frame<Bytes>>,
    /// Nothing follows.
    pub(crate) last: bool,
}

impl Lease {
    fn poll(&mut self, framing: &mut Framing, cx: &mut Context<'_>) -> Poll<Result<Piece, BodyError>> {
        let broke_off = || BodyError::Upstream(io::ErrorKind::UnexpectedEof.into());
        let connection = match &mut self.carrier {
            Carrier::H1(connection) => connection,
            Carrier::H2(stream) => return stream.poll(framing, cx),
        };
        match framing {
            Framing::Length(left) => {
                let data = ready!(connection.poll_bytes(cx, &self.buffer, *left))?;
                if data.is_empty() {
                    return Poll::Ready(Err(broke_off()));
                }
                *left -= data.len() as u64;
                Poll::Ready(Ok(Piece { frame: Some(Frame::data(data)), last: *left == 0 }))
            }
            Framing::UntilClose => {
                let data = ready!(connection.poll_bytes(cx, &self.buffer, u64::MAX))?;
                let last = data.is_empty();
                Poll::Ready(Ok(Piece { frame: (!last).then(|| Frame::data(data)), last }))
            }
            Framing::Chunked(chunks) => loop {
                if chunks.is_broken() {
                    return Poll::Ready(Err(BodyError::Framing));
                }
                if chunks.is_done() {
                    let trailers = chunks.trailers().map_err(|_| BodyError::Framing)?;
                    return Poll::Ready(Ok(Piece { frame: trailers.map(Frame::trailers), last: true }));
                }
                let mut buffer = self.buffer.borrow_mut();
                let count = ready!(connection.poll_raw(cx, &mut buffer))?;
                if count == 0 {
                    return Poll::Ready(Err(broke_off()));
                }
                let bytes = buffer.get_mut(..count).unwrap_or_default();
                let decoded = chunks.decode(bytes);
                // What comes behind the body was not asked for.
                self.reusable &= decoded.consumed == count;
                let data = bytes.get(decoded.start..decoded.end).unwrap_or_default();
                if !data.is_empty() {
                    let last = chunks.is_done() && !chunks.has_trailers();
                    return Poll::Ready(Ok(Piece { frame: Some(Frame::data(Bytes::copy_from_slice(data))), last }));
                }
            },
        }
    }
}

/// What came of polling.
pub(crate) enum Step {
    /// A frame, the end or an error.
    Frame(Option<Result<Frame<Bytes>, BodyError>>),
    /// The end is asked for.
    Leave(Leave),
    /// The alarm has rung.
    Due,
}

/// The client's body on its way to the upstream.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    /// What was sent to a server that did not look at it; comes again before the rest.
    #[expect(clippy::box_collection, reason = "most bodies have none, and are kept with every exchange")]
    again: Option<Box<VecDeque<Frame<Bytes>>>>,
    flow: Rc<Flow>,
    clock: Rc<Clock>,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, flow: &Rc<Flow>, clock: &Rc<Clock>) -> Self {
        if incoming.is_end_stream() {
            flow.upload.set(Upload::Done);
        }
        let incoming = (!incoming.is_end_stream()).then_some(incoming);
        Self { incoming, again: None, flow: flow.clone(), clock: clock.clone() }
    }

    /// For a request without a body.
    pub(crate) fn empty(flow: &Rc<Flow>, clock: &Rc<Clock>) -> Self {
        Self { incoming: None, again: None, flow: flow.clone(), clock: clock.clone() }
    }
}

impl RequestBody {
    /// Lets frames come again that were counted when they came first.
    pub(crate) fn put_back(&mut self, frames: Vec<Frame<Bytes>>) {
        if !frames.is_empty() {
            let rest = self.again.take().map(|rest| *rest).unwrap_or_default();
            self.again = Some(Box::new(frames.into_iter().chain(rest).collect()));
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(again) = &mut self.again {
            if let Some(frame) = again.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            self.again = None;
        }
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *incoming).poll_frame(cx);
        if frame.is_ready()
            && self.flow.upload.get() == Upload::WaitingForClient
            && let Some(asked) = &self.flow.asked
        {
            let silent = self.clock.now().saturating_sub(self.flow.moved.get());
            asked.waited.set(asked.waited.get() + silent);
        }
        if frame.is_ready() || self.flow.upload.get() != Upload::WaitingForClient {
            // Asking again while the client is silent moves nothing.
            self.flow.moved.set(self.clock.now());
        }
        match frame {
            Poll::Pending => {
                self.flow.upload.set(Upload::WaitingForClient);
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.flow.upload.set(Upload::Done);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    let bytes = self.flow.bytes_in.get() + data.len() as u64;
                    self.flow.bytes_in.set(bytes);
                    let most = self.flow.asked.as_ref().map_or(0, |asked| asked.limits.most_bytes);
                    if most > 0 && bytes > most {
                        return Poll::Ready(Some(Err(BodyError::TooLarge)));
                    }
                }
                let done = frame.is_trailers() || incoming.is_end_stream();
                self.flow.upload.set(if done { Upload::Done } else { Upload::WaitingForUpstream });
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.incoming.as_ref().is_none_or(http_body::Body::is_end_stream)
            && self.again.as_ref().is_none_or(|again| again.is_empty())
    }
}
