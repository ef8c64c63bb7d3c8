use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{HOST, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tidegate_balance::Tried;
use tidegate_metrics::{ConnectError, Outcome};
use tidegate_types::{CloseReason, ErrorCode, Phase};
use tokio::sync::watch;

use crate::body::{Lease, RequestBody, Uploading, UpstreamBody};
use crate::carrier::{Carrier, Journey};
use crate::choice::Choice;
use crate::circuit::Admission;
use crate::clock::{Alarm, Clock, Ring, Species};
use crate::flow::{Ending, Flow, Upload};
use crate::h1::{Buffer, Connection, Framing, Head, Sending, SendingFailed};
use crate::h2::Links;
use crate::headers::{
    Prepared, add_request_id, is_encoded, is_event_stream, mark_event_stream, prepare_request, prepare_response,
};
use crate::live::{Live, LiveInbox};
use crate::pool::Pool;
use crate::retry::Tries;
use crate::server::{Server, Target};
use crate::stream::EventStream;
use crate::{Body, Exchange, ForwarderSettings, Patience, Upstream, error_response, websocket};

/// When clients are to come back that found no server to be had: nobody knows when one comes back.
const NO_SERVER_RETRY_S: u32 = 5;

/// How often the rate of a request body is looked at, where one is asked for.
const PACE: Duration = Duration::from_secs(1);

/// What one read takes at most.
const BUFFER: usize = 64 * 1024;

/// One worker's forwarding: its pools of idle upstream connections, its buffers, its clock, and the register
/// of what lives long. Lives on the worker's thread, inside its local runtime.
#[derive(Debug)]
pub struct Forwarder {
    pub(crate) clock: Rc<Clock>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) links: Rc<Links>,
    pub(crate) live: Rc<Live>,
    /// Every tunnel and every upstream connection of the worker reads into it; it is only borrowed while one is polled.
    pub(crate) buffer: Buffer,
    /// Heads of requests are built in it.
    pub(crate) scratch: RefCell<Vec<u8>>,
}

impl Forwarder {
    /// For one worker; must be called inside its local runtime.
    pub fn new(phase: watch::Receiver<Phase>) -> Rc<Self> {
        Self::with_settings(phase, ForwarderSettings::default())
    }

    /// As [`Forwarder::new`], with settings.
    pub fn with_settings(phase: watch::Receiver<Phase>, settings: ForwarderSettings) -> Rc<Self> {
        let clock = Clock::new(&settings);
        let pool = Rc::new(Pool::new(clock.clone()));
        let links = Rc::new(Links::new(clock.clone()));
        let (swept, swept_links) = (Rc::downgrade(&pool), Rc::downgrade(&links));
        tokio::task::spawn_local(Clock::run(clock.clone(), move || {
            if let Some(pool) = swept.upgrade() {
                pool.sweep();
            }
            if let Some(links) = swept_links.upgrade() {
                links.sweep();
            }
        }));
        tokio::task::spawn_local(follow(phase, Rc::downgrade(&clock)));
        let buffer = Rc::new(RefCell::new(vec![0; BUFFER].into_boxed_slice()));
        let live = Live::new(clock.clone());
        Rc::new(Self { clock, pool, links, live, buffer, scratch: RefCell::default() })
    }

    /// How streams are let go in a drain that begins later: a config may change it while the process runs.
    pub fn set_drain(&self, settings: &ForwarderSettings) {
        self.clock.set_drain(settings);
    }

    /// Answers questions about this worker's streams, and carries out orders to close some, from now on; must be called
    /// inside the worker's local runtime.
    pub fn attend(&self, inbox: LiveInbox) {
        tokio::task::spawn_local(Live::attend(Rc::downgrade(&self.live), inbox));
    }

    /// Forwards one request, which passed [`crate::check_framing`]. Always answers: what goes wrong becomes a JSON error.
    ///
    /// A WebSocket handshake is answered with the upstream's validated 101; the tunnel then runs in a task of its own as
    /// soon as the connection that the request came on hands its stream over.
    pub async fn forward(
        self: &Rc<Self>,
        mut request: Request<Incoming>,
        upstream: &Arc<Upstream>,
        mut exchange: Exchange,
    ) -> Response<Body> {
        if let Some(trace) = &exchange.trace {
            trace.strip(request.headers_mut());
        }
        if websocket::is_wanted(&request) {
            // Boxed, so that the memory of a plain connection does not hold a place for it.
            return Box::pin(websocket::connect(self, request, upstream, exchange)).await;
        }
        let (parts, body) = request.into_parts();
        let (changes, delay) = (exchange.changes.take(), exchange.delay);
        let ending = Ending::begin(exchange);
        wait(delay).await;
        let mut request = prepare_request(parts, changes);
        request.stamp(upstream);
        let body = RequestBody::new(body, ending.flow(), &self.clock);
        let admission = match ending.enter(upstream) {
            Ok(admission) => admission,
            Err(refused) => return refuse(refused, ending),
        };
        let trial = admission.as_ref().is_some_and(Admission::is_trial);
        match self.exchange(request, body, upstream, ending.flow(), trial).await {
            Ok(answered) => {
                if let Some(admission) = admission {
                    admission.answered(answered.head.response.status().as_u16());
                }
                self.answer(answered, upstream, ending)
            }
            Err(failure) => {
                if let Some(admission) = admission {
                    admission.failed(failure);
                }
                refuse(failure, ending)
            }
        }
    }

    /// From a prepared request to a response head that may be passed on.
    async fn exchange(
        &self,
        mut request: Prepared,
        mut body: RequestBody,
        upstream: &Arc<Upstream>,
        flow: &Rc<Flow>,
        trial: bool,
    ) -> Result<Answered, Failure> {
        let alarm = self.clock.alarm(Species::Exchange);
        let retry = &upstream.settings.retry;
        let repeatable =
            (request.parts.method.is_idempotent() || retry.non_idempotent) && flow.upload.get() == Upload::Done;
        let choice = Choice::of(upstream, flow, &request.parts);
        let mut tries = Tries::begin(upstream, flow, trial);
        let mut tried = Tried::default();
        // The same server again, on a new connection.
        let mut again: Option<Arc<Server>> = None;
        // What is passed on if no other server can be had.
        let mut held: Option<Box<(Head, Carrier)>> = None;
        let mut failure = Failure::NoServer;
        loop {
            let fresh = again.is_some();
            let server = match again.take() {
                Some(server) => server,
                None => {
                    let Some(busy) = upstream.pick(flow, choice.as_deref(), &mut tried).filter(|_| tries.next()) else {
                        let (head, carrier) = *held.ok_or(failure)?;
                        return Ok(Answered { head, carrier, upload: None, alarm });
                    };
                    if busy.target == Target::Name && Box::pin(upstream.resolve_now(&busy.name)).await {
                        tries.not_made();
                        continue;
                    }
                    let server = busy.server().clone();
                    flow.set_server(busy);
                    server
                }
            };
            if let Some(unwanted) = held.take() {
                self.discard(upstream, *unwanted);
            }
            if request.hostless
                && let Ok(host) = HeaderValue::from_str(&server.name)
            {
                request.parts.headers.insert(HOST, host);
            }
            let pooled = if fresh { None } else { self.take(upstream, &server) };
            let way = match pooled {
                Some(way) => way,
                // Boxed, for it is rare and large, and this future is moved and kept with every connection of a client.
                None => match Box::pin(self.open(upstream, &server, flow)).await {
                    Ok(way) => {
                        upstream.metrics.connect_seconds.observe(flow.connected().as_secs_f64());
                        way
                    }
                    Err(error) => {
                        server.metrics.requests(Outcome::ConnectFailed).inc();
                        upstream.failed(&server);
                        failure = Failure::Connect(error);
                        if !tries.may_follow(failure) {
                            return Err(failure);
                        }
                        continue;
                    }
                },
            };
            let reused = way.reused();
            let mut journey = match self.set_out(way, &request, body, flow) {
                Ok(journey) => journey,
                Err((reason, kept)) => {
                    failure = reason;
                    if !tries.may_follow(failure) {
                        return Err(failure);
                    }
                    body = kept;
                    if reused {
                        tries.over_again();
                        again = Some(server);
                    }
                    continue;
                }
            };
            match self.head(&mut journey, &request.parts.method, upstream, flow, &alarm).await {
                Ok(mut head) => {
                    let status = head.response.status().as_u16();
                    upstream.answered(&server, status, flow.attempt_time());
                    if prepare_response(&mut head.response).is_err() {
                        server.metrics.requests(Outcome::Invalid).inc();
                        return Err(Failure::Invalid);
                    }
                    server.metrics.requests(Outcome::Response).inc();
                    if retry.on.has_status(status) && repeatable && journey.is_sent() && tries.may_another() {
                        let (carrier, kept) = journey.hold().ok_or(Failure::Invalid)?;
                        held = Some(Box::new((head, carrier)));
                        body = kept;
                        continue;
                    }
                    let (carrier, upload) = journey.arrive().ok_or(Failure::Invalid)?;
                    return Ok(Answered { head, carrier, upload, alarm });
                }
                Err(reason) => {
                    server.metrics.requests(reason.outcome()).inc();
                    failure = reason;
                    if reason == Failure::Timeout {
                        journey.retire();
                    }
                    let unsent = repeatable || journey.is_unseen(reason);
                    if reused && matches!(reason, Failure::Reset | Failure::Unprocessed) {
                        // A connection that died while idle says nothing about its server.
                        if !unsent {
                            return Err(failure);
                        }
                        tries.over_again();
                        again = Some(server);
                    } else {
                        if reason.is_of_server() {
                            upstream.failed(&server);
                        }
                        if !unsent || !tries.may_follow(failure) {
                            return Err(failure);
                        }
                    }
                    body = journey.fail();
                }
            }
        }
    }

    /// A response that is not passed on. Its connection serves others if nothing of it is still to come.
    pub(crate) fn discard(&self, upstream: &Arc<Upstream>, (head, carrier): (Head, Carrier)) {
        if let Carrier::H1(mut connection) = carrier
            && head.reusable
            && connection.skip(&head.framing)
        {
            self.pool.park(upstream, connection);
        }
    }

    /// Sends the head of a request.
    pub(crate) fn begin(&self, connection: &Connection, request: &Prepared, body: RequestBody, flow: &Flow) -> Sending {
        Sending::begin(connection, request, body, flow, &mut self.scratch.borrow_mut())
    }

    /// Sends the rest of a request and waits for the head of the response.
    async fn head(
        &self,
        journey: &mut Journey,
        method: &Method,
        upstream: &Upstream,
        flow: &Flow,
        alarm: &Alarm,
    ) -> Result<Head, Failure> {
        let Patience { read, send, .. } = flow.patience(upstream);
        flow.moved.set(self.clock.now());
        // While the client's body is on its way, either side may be the silent one.
        let uploading = flow.upload.get() != Upload::Done;
        let first = if uploading { read.min(send) } else { read };
        let paced = uploading && flow.asked.as_ref().is_some_and(|asked| asked.limits.least_rate > 0);
        alarm.set(if paced { first.min(PACE) } else { first });
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = journey.poll_head(self, method, cx) {
                return Poll::Ready(result);
            }
            loop {
                match alarm.poll(cx) {
                    Poll::Ready(Ring::Due) => {}
                    Poll::Ready(Ring::Leave(_) | Ring::Close) | Poll::Pending => return Poll::Pending,
                }
                // Silence counts from when the request body last moved.
                let (longest, failure) = match flow.upload.get() {
                    Upload::WaitingForClient => (send, Failure::ClientSilent),
                    Upload::Done | Upload::Untouched => (read, Failure::Timeout),
                    Upload::WaitingForUpstream => (send, Failure::Timeout),
                };
                let waiting = flow.upload.get() == Upload::WaitingForClient;
                if paced && waiting && flow.is_too_slow(self.clock.now()) {
                    return Poll::Ready(Err(Failure::ClientSlow));
                }
                let silent = Duration::from_millis(self.clock.now().saturating_sub(flow.moved.get()));
                match longest.checked_sub(silent) {
                    Some(left) if !left.is_zero() => alarm.set(if paced { left.min(PACE) } else { left }),
                    Some(_) | None => return Poll::Ready(Err(failure)),
                }
            }
        })
        .await
    }

    /// Sends and receives, until there is a head.
    pub(crate) fn poll_head(
        &self,
        connection: &mut Connection,
        sending: &mut Sending,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Failure>> {
        if !sending.is_done()
            && let Some(stream) = connection.writer()
            && let Poll::Ready(Err(failed)) = sending.poll(cx, stream)
        {
            match failed {
                SendingFailed::Client => return Poll::Ready(Err(Failure::ClientBroken)),
                SendingFailed::TooLarge => return Poll::Ready(Err(Failure::TooLarge)),
                SendingFailed::Upstream => {}
            }
        }
        // An upstream that takes no more may have said why before.
        connection.poll_head(cx, &self.buffer, method)
    }

    /// The response on its way to the client.
    pub(crate) fn answer(&self, answered: Answered, upstream: &Arc<Upstream>, ending: Ending) -> Response<Body> {
        let Answered { head: Head { response, framing, reusable }, carrier, upload, alarm } = answered;
        let (mut parts, ()) = response.into_parts();
        let header_time = ending.responded(parts.status.as_u16());
        upstream.metrics.header_seconds.observe(header_time.as_secs_f64());
        let events = is_event_stream(&parts.headers) && !matches!(framing, Framing::Length(0));
        add_request_id(&mut parts.headers, &ending.request_id);
        ending.add_cookie(&mut parts.headers);
        ending.tell(&mut parts.extensions);
        let patience = ending.patience(upstream);
        let timeout = if events { patience.stream } else { patience.read };
        let reusable = reusable && upload.is_none();
        let (buffer, pool) = (self.buffer.clone(), self.pool.clone());
        let lease = Lease { carrier, reusable, buffer, upstream: upstream.clone(), pool, upload };
        let body = if events {
            mark_event_stream(&mut parts.headers);
            alarm.become_species(Species::Stream);
            ending.flows();
            let listed = self.live.enter(ending.flow(), upstream, &alarm);
            let policy = ending.event_policy.as_deref().copied().unwrap_or_default();
            let encoded = is_encoded(&parts.headers);
            let body = UpstreamBody::new(framing, lease, alarm, timeout, ending);
            Body::events(EventStream::new(body, policy, timeout, encoded, listed))
        } else {
            Body::upstream(UpstreamBody::new(framing, lease, alarm, timeout, ending))
        };
        Response::from_parts(parts, body)
    }
}

/// Waits if there is something to wait for. Boxed, so that the memory of a plain connection does not hold a place for a timer.
pub(crate) async fn wait(delay: Option<Duration>) {
    if let Some(delay) = delay {
        Box::pin(tokio::time::sleep(delay)).await;
    }
}

/// A response whose head has come.
pub(crate) struct Answered {
    pub(crate) head: Head,
    pub(crate) carrier: Carrier,
    /// What still sends the request.
    pub(crate) upload: Option<Uploading>,
    pub(crate) alarm: Alarm,
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
    /// The server says that it did nothing about the request.
    Unprocessed,
    /// The server takes no WebSocket over HTTP/2.
    NoTunnel,
    /// A response that breaks the protocol.
    Invalid,
    Timeout,
    /// Not even tried: the breaker is open, or too many requests are under way.
    Refused {
        retry_after_s: u32,
    },
    /// The client did not go on with its request body.
    ClientSilent,
    /// The client's request body broke off or was malformed.
    ClientBroken,
    /// The client sends its request body slower than it must.
    ClientSlow,
    /// The client's request body is longer than allowed.
    TooLarge,
}

impl Failure {
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::NoServer | Self::Connect(_) | Self::Refused { .. } => Outcome::ConnectFailed,
            Self::Reset | Self::Unprocessed | Self::NoTunnel => Outcome::Reset,
            Self::Invalid => Outcome::Invalid,
            Self::Timeout => Outcome::Timeout,
            Self::ClientSilent | Self::ClientBroken | Self::ClientSlow | Self::TooLarge => Outcome::Cancelled,
        }
    }

    /// Whether it speaks against the server.
    pub(crate) fn is_of_server(self) -> bool {
        match self {
            Self::Connect(_) | Self::Reset | Self::Invalid | Self::Timeout => true,
            Self::NoServer
            | Self::Refused { .. }
            | Self::Unprocessed
            | Self::NoTunnel
            | Self::ClientSilent
            | Self::ClientBroken
            | Self::ClientSlow
            | Self::TooLarge => false,
        }
    }

    /// When it is worth another try, in seconds.
    fn retry_after(self) -> Option<u32> {
        match self {
            Self::NoServer => Some(NO_SERVER_RETRY_S),
            Self::Refused { retry_after_s } => Some(retry_after_s),
            Self::Connect(_)
            | Self::Reset
            | Self::Unprocessed
            | Self::NoTunnel
            | Self::Invalid
            | Self::Timeout
            | Self::ClientSilent
            | Self::ClientBroken
            | Self::ClientSlow
            | Self::TooLarge => None,
        }
    }

    fn answer(self) -> (ErrorCode, &'static str, CloseReason) {
        match self {
            Self::NoServer => (ErrorCode::Unavailable, "No upstream server is available", CloseReason::UpstreamFailed),
            Self::Refused { .. } => {
                (ErrorCode::Unavailable, "The upstream takes no more requests at present", CloseReason::UpstreamFailed)
            }
            Self::Connect(ConnectError::Timeout) => {
                (ErrorCode::GatewayTimeout, "The upstream could not be reached in time", CloseReason::UpstreamFailed)
            }
            Self::Connect(
                ConnectError::Refused
                | ConnectError::Unreachable
                | ConnectError::Resolve
                | ConnectError::Tls
                | ConnectError::Other,
            ) => (ErrorCode::BadGateway, "The upstream could not be reached", CloseReason::UpstreamFailed),
            Self::Reset => (ErrorCode::BadGateway, "The upstream closed the connection", CloseReason::UpstreamFailed),
            Self::Unprocessed => {
                (ErrorCode::BadGateway, "The upstream did not take the request", CloseReason::UpstreamFailed)
            }
            Self::NoTunnel => {
                (ErrorCode::BadGateway, "The upstream takes no WebSocket over HTTP/2", CloseReason::UpstreamFailed)
            }
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
            Self::ClientSlow => {
                (ErrorCode::RequestTimeout, "The request body comes too slowly", CloseReason::IdleTimeout)
            }
            Self::TooLarge => {
                (ErrorCode::PayloadTooLarge, "The request body is larger than allowed", CloseReason::MessageTooLarge)
            }
        }
    }
}

/// The gateway's own answer, which ends the exchange when it has been sent.
pub(crate) fn refuse(failure: Failure, ending: Ending) -> Response<Body> {
    let (code, message, reason) = failure.answer();
    let mut response = error_response(code, message, &ending.request_id);
    if let Some(seconds) = failure.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer_error(response, code, reason, ending)
}

pub(crate) fn answer_error(
    mut response: Response<Body>,
    code: ErrorCode,
    reason: CloseReason,
    ending: Ending,
) -> Response<Body> {
    ending.answered(response.status().as_u16());
    ending.error.set(Some(code));
    ending.reason.set(reason);
    ending.tell(response.extensions_mut());
    response.map(|body| body.answer(ending))
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
