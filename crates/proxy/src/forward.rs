use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tidegate_balance::Tried;
use tidegate_metrics::{ConnectError, Outcome};
use tidegate_types::{CloseReason, ErrorCode, Phase};
use tokio::sync::watch;

use crate::body::{Lease, RequestBody, UpstreamBody};
use crate::clock::{Alarm, Clock, Ring, Species};
use crate::flow::{Ending, Flow, Upload};
use crate::headers::{
    Addresses, BadHead, add_request_id, is_event_stream, mark_event_stream, prepare_request, prepare_response,
};
use crate::pool::{Connection, Pool};
use crate::stream::EventStream;
use crate::{Body, Exchange, ForwarderSettings, Upstream, error_response, websocket};

/// How many further servers or connections a request may try.
const MAX_RETRIES: u8 = 2;

/// What one read of a tunnel takes at most.
const TUNNEL_BUFFER: usize = 64 * 1024;

/// One worker's forwarding: its pools of idle upstream connections, its buffer for tunnels, its clock, and the register
/// of what lives long. Lives on the worker's thread, inside its local runtime.
#[derive(Debug)]
pub struct Forwarder {
    pub(crate) clock: Rc<Clock>,
    pub(crate) pool: Rc<Pool>,
    /// Every tunnel of the worker reads into it; it is only borrowed while a tunnel is polled.
    pub(crate) buffer: Rc<RefCell<Box<[u8]>>>,
    pub(crate) addresses: Addresses,
}

impl Forwarder {
    /// For one worker; must be called inside its local runtime.
    pub fn new(phase: watch::Receiver<Phase>) -> Rc<Self> {
        Self::with_settings(phase, ForwarderSettings::default())
    }

    /// As [`Forwarder::new`], with settings.
    pub fn with_settings(phase: watch::Receiver<Phase>, settings: ForwarderSettings) -> Rc<Self> {
        let clock = Clock::new(settings.tick, settings.drain_spread);
        let pool = Rc::new(Pool::new(clock.clone()));
        let swept = Rc::downgrade(&pool);
        tokio::task::spawn_local(Clock::run(clock.clone(), move || {
            if let Some(pool) = swept.upgrade() {
                pool.sweep();
            }
        }));
        tokio::task::spawn_local(follow(phase, Rc::downgrade(&clock)));
        let buffer = Rc::new(RefCell::new(vec![0; TUNNEL_BUFFER].into_boxed_slice()));
        Rc::new(Self { clock, pool, buffer, addresses: Addresses::default() })
    }

    /// Forwards one request, which passed [`crate::check_framing`]. Always answers: what goes wrong becomes a JSON error.
    ///
    /// A WebSocket handshake is answered with the upstream's validated 101; the tunnel then runs in a task of its own as
    /// soon as the connection that the request came on hands its stream over.
    pub async fn forward(
        self: &Rc<Self>,
        request: Request<Incoming>,
        upstream: &Arc<Upstream>,
        exchange: Exchange,
    ) -> Response<Body> {
        if websocket::is_wanted(&request) {
            // Boxed, so that the memory of a plain connection does not hold a place for it.
            return Box::pin(websocket::connect(self, request, upstream, exchange)).await;
        }
        let (mut parts, body) = request.into_parts();
        let ending = Ending::begin(exchange);
        prepare_request(&mut parts, &ending, &self.addresses);
        let body = RequestBody::new(body, ending.flow(), &self.clock);
        match self.exchange(Request::from_parts(parts, body), upstream, ending.flow()).await {
            Ok((response, connection, alarm)) => self.answer(response, connection, alarm, upstream, ending),
            Err(failure) => refuse(failure, ending),
        }
    }

    /// From a prepared request to a response head that may be passed on.
    async fn exchange(
        &self,
        mut request: Request<RequestBody>,
        upstream: &Arc<Upstream>,
        flow: &Rc<Flow>,
    ) -> Result<(Response<Incoming>, Connection, Alarm), Failure> {
        let alarm = self.clock.alarm(Species::Exchange);
        let repeatable = request.method().is_idempotent() && flow.upload.get() == Upload::Done;
        // Only HTTP/1.0 may come without a Host.
        let hostless = !request.headers().contains_key(HOST);
        let mut tried = Tried::default();
        let mut fresh = false;
        let mut failure = Failure::NoServer;
        loop {
            let Some((index, server)) = upstream.pick(tried) else { return Err(failure) };
            flow.set_upstream(&server.address);
            if hostless && let Ok(host) = HeaderValue::from_str(&server.address) {
                request.headers_mut().insert(HOST, host);
            }
            let pooled = if fresh { None } else { self.pool.take(upstream, index) };
            let mut connection = match pooled {
                Some(connection) => connection,
                // Boxed, for it is rare and large, and this future is moved and kept with every connection of a client.
                None => match Box::pin(self.pool.open(upstream, index, server)).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        server.metrics.requests(Outcome::ConnectFailed).inc();
                        upstream.failed(index);
                        tried.insert(index);
                        failure = Failure::Connect(error);
                        if !retry(flow, upstream) {
                            return Err(failure);
                        }
                        continue;
                    }
                },
            };
            let reused = connection.reused();
            let again =
                (repeatable && (reused || upstream.servers.len() > 1)).then(|| copy(&request, flow, &self.clock));
            match self.send(&mut connection, request, upstream, flow, &alarm).await {
                Ok(mut response) => {
                    upstream.succeeded(index);
                    return match prepare_response(&mut response) {
                        Ok(()) => {
                            server.metrics.requests(Outcome::Response).inc();
                            Ok((response, connection, alarm))
                        }
                        Err(BadHead::Framing | BadHead::Upgrade) => {
                            server.metrics.requests(Outcome::Invalid).inc();
                            Err(Failure::Invalid)
                        }
                    };
                }
                Err(Unsent { failure: reason, request: unsent }) => {
                    server.metrics.requests(reason.outcome()).inc();
                    failure = reason;
                    // A connection that died while idle says nothing about its server: the same one, on a new connection.
                    fresh = reused;
                    if !reused {
                        upstream.failed(index);
                        tried.insert(index);
                    }
                    let broke_off = failure == Failure::Reset;
                    match unsent.or(again.filter(|_| broke_off)) {
                        Some(kept) if retry(flow, upstream) => request = kept,
                        Some(_) | None => return Err(failure),
                    }
                }
            }
        }
    }

    /// Sends a request and waits for the head of the response.
    async fn send(
        &self,
        connection: &mut Connection,
        request: Request<RequestBody>,
        upstream: &Upstream,
        flow: &Flow,
        alarm: &Alarm,
    ) -> Result<Response<Incoming>, Unsent> {
        let settings = &upstream.settings;
        flow.moved.set(self.clock.now());
        // While the client's body is on its way, either side may be the silent one.
        let uploading = flow.upload.get() != Upload::Done;
        let first = if uploading { settings.read_timeout.min(settings.send_timeout) } else { settings.read_timeout };
        alarm.set(first);
        let mut sending = pin!(connection.sender.try_send_request(request));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = sending.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(Unsent::from));
            }
            loop {
                match alarm.poll(cx) {
                    Poll::Ready(Ring::Due) => {}
                    Poll::Ready(Ring::Drain | Ring::Close) | Poll::Pending => return Poll::Pending,
                }
                // Silence counts from when the request body last moved.
                let (patience, failure) = match flow.upload.get() {
                    Upload::WaitingForClient => (settings.send_timeout, Failure::ClientSilent),
                    Upload::Done | Upload::Untouched => (settings.read_timeout, Failure::Timeout),
                    Upload::WaitingForUpstream => (settings.send_timeout, Failure::Timeout),
                };
                let silent = Duration::from_millis(self.clock.now().saturating_sub(flow.moved.get()));
                match patience.checked_sub(silent) {
                    Some(left) if !left.is_zero() => alarm.set(left),
                    Some(_) | None => return Poll::Ready(Err(Unsent { failure, request: None })),
                }
            }
        })
        .await
    }

    /// The response on its way to the client.
    pub(crate) fn answer(
        &self,
        response: Response<Incoming>,
        connection: Connection,
        alarm: Alarm,
        upstream: &Arc<Upstream>,
        ending: Ending,
    ) -> Response<Body> {
        let (mut parts, incoming) = response.into_parts();
        ending.answered(parts.status.as_u16());
        let events = is_event_stream(&parts.headers) && !http_body::Body::is_end_stream(&incoming);
        add_request_id(&mut parts.headers, ending.request_id_value.clone());
        let settings = &upstream.settings;
        let timeout = if events { settings.stream_timeout } else { settings.read_timeout };
        let lease = Lease { connection, upstream: upstream.clone(), pool: self.pool.clone() };
        if events {
            mark_event_stream(&mut parts.headers);
            alarm.become_species(Species::Stream);
        }
        let body = UpstreamBody::new(incoming, lease, alarm, timeout, ending);
        let body = if events { Body::events(EventStream::new(body)) } else { Body::upstream(body) };
        Response::from_parts(parts, body)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.clock.stop();
    }
}

/// Why there is no response to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    NoServer,
    Connect(ConnectError),
    /// The connection ended before a response head.
    Reset,
    /// A response that breaks the protocol.
    Invalid,
    Timeout,
    /// The client did not go on with its request body.
    ClientSilent,
    /// The client's request body broke off or was malformed.
    ClientBroken,
}

impl Failure {
    /// What hyper's client says about a request without a response.
    pub(crate) fn of(error: &hyper::Error) -> Self {
        if error.is_parse() || error.is_parse_too_large() {
            Self::Invalid
        } else if error.is_user() {
            // The only part of a request that can fail on our side is the client's body.
            Self::ClientBroken
        } else {
            Self::Reset
        }
    }

    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::NoServer | Self::Connect(_) => Outcome::ConnectFailed,
            Self::Reset => Outcome::Reset,
            Self::Invalid => Outcome::Invalid,
            Self::Timeout => Outcome::Timeout,
            Self::ClientSilent | Self::ClientBroken => Outcome::Cancelled,
        }
    }

    fn answer(self) -> (ErrorCode, &'static str, CloseReason) {
        match self {
            Self::NoServer => (ErrorCode::Unavailable, "No upstream server is available", CloseReason::UpstreamFailed),
            Self::Connect(ConnectError::Timeout) => {
                (ErrorCode::GatewayTimeout, "The upstream could not be reached in time", CloseReason::UpstreamFailed)
            }
            Self::Connect(
                ConnectError::Refused | ConnectError::Unreachable | ConnectError::Resolve | ConnectError::Other,
            ) => (ErrorCode::BadGateway, "The upstream could not be reached", CloseReason::UpstreamFailed),
            Self::Reset => (ErrorCode::BadGateway, "The upstream closed the connection", CloseReason::UpstreamFailed),
            Self::Invalid => (ErrorCode::BadGateway, "The upstream's response is invalid", CloseReason::UpstreamFailed),
            Self::Timeout => {
                (ErrorCode::GatewayTimeout, "The upstream did not answer in time", CloseReason::IdleTimeout)
            }
            Self::ClientSilent => {
                (ErrorCode::BadRequest, "The request body did not arrive in time", CloseReason::IdleTimeout)
            }
            Self::ClientBroken => {
                (ErrorCode::BadRequest, "The request body is malformed or incomplete", CloseReason::ProtocolError)
            }
        }
    }
}

/// The gateway's own answer, which ends the exchange when it has been sent.
pub(crate) fn refuse(failure: Failure, ending: Ending) -> Response<Body> {
    let (code, message, reason) = failure.answer();
    answer_error(error_response(code, message, &ending.request_id), code, reason, ending)
}

pub(crate) fn answer_error(
    response: Response<Body>,
    code: ErrorCode,
    reason: CloseReason,
    ending: Ending,
) -> Response<Body> {
    ending.answered(response.status().as_u16());
    ending.error.set(Some(code));
    ending.reason.set(reason);
    response.map(|body| body.answer(ending))
}

/// A request that got no response, and the request itself if it was not sent at all.
struct Unsent {
    failure: Failure,
    request: Option<Request<RequestBody>>,
}

impl From<TrySendError<Request<RequestBody>>> for Unsent {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let request = error.take_message();
        Self { failure: Failure::of(&error.into_error()), request }
    }
}

/// Whether one more try is allowed; counts it.
pub(crate) fn retry(flow: &Flow, upstream: &Upstream) -> bool {
    let retries = flow.retries.get();
    if retries >= MAX_RETRIES {
        return false;
    }
    flow.retries.set(retries + 1);
    upstream.metrics.retries.inc();
    true
}

/// The request once more, for when the connection turns out to be dead. It has no body.
fn copy(request: &Request<RequestBody>, flow: &Rc<Flow>, clock: &Rc<Clock>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty(flow, clock));
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// Passes the phases of the process on to what lives long.
async fn follow(mut phase: watch::Receiver<Phase>, clock: std::rc::Weak<Clock>) {
    loop {
        let current = *phase.borrow_and_update();
        {
            let Some(clock) = clock.upgrade() else { return };
            match current {
                Phase::Serving => {}
                Phase::Draining => clock.drain(),
                Phase::Closing => {
                    clock.close();
                    return;
                }
            }
        }
        if phase.changed().await.is_err() {
            return;
        }
    }
}
