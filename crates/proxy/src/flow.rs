use std::cell::Cell;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::SET_COOKIE;
use http::{Extensions, HeaderMap};
use tidegate_metrics::{CloseBy, RouteMetrics, StreamKind};
use tidegate_rules::proxy_protocol::ProxyHeader;
use tidegate_types::{CloseReason, ErrorCode};

use crate::circuit::{Admission, UnderWay};
use crate::clock::Ticks;
use crate::forward::Failure;
use crate::server::Busy;
use crate::{
    BodyLimits, EventPolicy, Exchange, ExchangeKind, ExchangeSummary, OnEnd, Patience, Trace, Upstream, UpstreamSeen,
};

/// A body's rate is looked at when its client was waited for so long, ms.
const SLOW_START: Ticks = 10_000;

/// How far the request body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upload {
    /// Nothing was asked of it yet: the request can be sent again.
    Untouched,
    /// The upstream takes, and the client has nothing at the moment.
    WaitingForClient,
    /// The upstream does not take what is there.
    WaitingForUpstream,
    /// Complete, or there is none.
    Done,
}

/// What is asked of a request body, and what is needed to see whether it is so.
pub(crate) struct AskedOfBody {
    pub(crate) limits: BodyLimits,
    /// How long the client was waited for before the body last moved, ms.
    pub(crate) waited: Cell<Ticks>,
}

/// The state of one exchange that its request body, its response body and the forwarder share.
pub(crate) struct Flow {
    pub(crate) request_id: Rc<str>,
    pub(crate) client: IpAddr,
    pub(crate) scheme: &'static str,
    pub(crate) route: Arc<RouteMetrics>,
    pub(crate) listener: Option<Arc<str>>,
    pub(crate) event_policy: Option<Arc<EventPolicy>>,
    patience: Option<Arc<Patience>>,
    tells: bool,
    on_end: Cell<Option<OnEnd>>,
    started: Instant,
    ttfb: Cell<Option<Duration>>,
    /// The server that has it, or had it last; counted there until the end.
    server: Cell<Option<Busy>>,
    /// Counts against the upstream's cap, until the end or until it becomes a stream.
    under_way: Cell<Option<UnderWay>>,
    /// The caller's, until the choice is made.
    pub(crate) hash_key: Cell<Option<Box<[u8]>>>,
    /// The client does not know yet which server it sticks to.
    pub(crate) new_cookie: Cell<bool>,
    /// The port that the client connected from, and where to; for those who tell the upstream in a PROXY header.
    client_port: u16,
    local: Option<Box<SocketAddr>>,
    pub(crate) trace: Option<Rc<Trace>>,
    /// When the current try began, since `started`: the first one at once, which saves a look at the clock.
    attempt: Cell<Duration>,
    connect: Cell<Option<Duration>>,
    upstream_status: Cell<Option<NonZeroU16>>,
    pub(crate) kind: Cell<ExchangeKind>,
    pub(crate) status: Cell<u16>,
    pub(crate) bytes_in: Cell<u64>,
    pub(crate) bytes_out: Cell<u64>,
    pub(crate) messages_in: Cell<u64>,
    pub(crate) messages_out: Cell<u64>,
    pub(crate) events: Cell<u64>,
    pub(crate) retries: Cell<u8>,
    close: Cell<Option<(u16, CloseBy)>>,
    pub(crate) reason: Cell<CloseReason>,
    pub(crate) error: Cell<Option<ErrorCode>>,
    pub(crate) upload: Cell<Upload>,
    /// When the request body last moved.
    pub(crate) moved: Cell<Ticks>,
    /// What is asked of the request body, if anything is.
    pub(crate) asked: Option<Box<AskedOfBody>>,
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("request_id", &self.request_id).finish_non_exhaustive()
    }
}

impl Flow {
    /// A try with a server begins.
    pub(crate) fn set_server(&self, server: Busy) {
        let address = self.trace.is_some().then(|| server.address.clone());
        if self.server.replace(Some(server)).is_some() {
            self.attempt.set(self.started.elapsed());
            self.connect.set(None);
        }
        if let (Some(trace), Some(address)) = (&self.trace, address) {
            trace.attempt(&address, self.attempt.get());
        }
    }

    /// A new connection to the server stands. Gives the time that it took.
    pub(crate) fn connected(&self) -> Duration {
        let time = self.started.elapsed().saturating_sub(self.attempt.get());
        self.connect.set(Some(time));
        time
    }

    /// A server's response head has come and is passed on. Gives the time since the try began.
    pub(crate) fn responded(&self, status: u16) -> Duration {
        self.upstream_status.set(NonZeroU16::new(status));
        self.answered(status);
        self.ttfb.get().unwrap_or_default().saturating_sub(self.attempt.get())
    }

    /// Whose connection this is, for a PROXY header. Where the client connected to is the server itself, if nobody said
    /// more: the header has a place for it.
    pub(crate) fn proxied(&self, server: Option<SocketAddr>) -> ProxyHeader {
        let source = SocketAddr::new(self.client, self.client_port);
        let nowhere = || SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let destination = self.local.as_deref().copied().or(server).unwrap_or_else(nowhere);
        ProxyHeader::Proxied { source, destination }
    }

    /// Since the current try began.
    pub(crate) fn attempt_time(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.attempt.get())
    }

    /// Tells the client which server it got, if it is to come back there and does not know.
    pub(crate) fn add_cookie(&self, headers: &mut HeaderMap) {
        if !self.new_cookie.get() {
            return;
        }
        if let Some(server) = self.server.take() {
            if let Some(cookie) = &server.cookie {
                headers.append(SET_COOKIE, cookie.set.clone());
            }
            self.server.set(Some(server));
        }
    }

    /// Asks the upstream whether it takes requests at all; counts this one as under way.
    pub(crate) fn enter(&self, upstream: &Upstream) -> Result<Option<Admission>, Failure> {
        let Some(circuit) = &upstream.circuit else { return Ok(None) };
        let (admission, under_way) = circuit.admit()?;
        self.under_way.set(under_way);
        Ok(Some(admission))
    }

    /// It has become a stream, which does not count as a request under way.
    pub(crate) fn flows(&self) {
        self.under_way.set(None);
    }

    /// The server's answer broke off in its body.
    pub(crate) fn broke_off(&self) {
        if let Some(server) = self.server.take() {
            server.tallies.broke_off();
            self.server.set(Some(server));
        }
    }

    /// A response head is there, whoever made it.
    pub(crate) fn answered(&self, status: u16) {
        self.status.set(status);
        self.ttfb.set(Some(self.started.elapsed()));
    }

    /// The address of the server that answers, or was tried last.
    pub(crate) fn server(&self) -> Option<Arc<str>> {
        let server = self.server.take()?;
        let address = server.address.clone();
        self.server.set(Some(server));
        Some(address)
    }

    /// Somebody has closed the WebSocket. Only the first Close counts: the second one answers it.
    pub(crate) fn closed(&self, code: u16, by: CloseBy) {
        if self.close.get().is_none() {
            self.close.set(Some((code, by)));
        }
    }

    pub(crate) fn close(&self) -> Option<(u16, CloseBy)> {
        self.close.get()
    }

    /// Whether the server that answers, or was tried last, has that address, or that name in the configuration.
    pub(crate) fn is_at(&self, server: &str) -> bool {
        let Some(busy) = self.server.take() else { return false };
        let is_at = *busy.address == *server || *busy.name == *server;
        self.server.set(Some(busy));
        is_at
    }

    /// When the exchange began, on the scale of [`crate::upstream::now`].
    pub(crate) fn began(&self) -> u64 {
        crate::upstream::moment(self.started)
    }

    /// How patient to be: as the route says, or else the upstream.
    pub(crate) fn patience(&self, upstream: &Upstream) -> Patience {
        match &self.patience {
            Some(patience) => Patience::clone(patience),
            None => upstream.settings.patience(),
        }
    }

    /// Tells the caller of the upstream's part, if he asked.
    pub(crate) fn tell(&self, extensions: &mut Extensions) {
        if self.tells {
            extensions.insert(UpstreamSeen {
                address: self.server(),
                status: self.upstream_status.get().map(NonZeroU16::get),
                connect_time: self.connect.get(),
                header_time: self.header_time(),
                retries: self.retries.get(),
            });
        }
    }

    /// From the begin of the last try to the head of the server's response.
    fn header_time(&self) -> Option<Duration> {
        let head = self.upstream_status.get().and(self.ttfb.get());
        head.map(|at| at.saturating_sub(self.attempt.get()))
    }

    /// Since the exchange began.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether the client sends its body slower than it must. Time in which the upstream was the slow one does not count.
    pub(crate) fn is_too_slow(&self, now: Ticks) -> bool {
        let Some(asked) = &self.asked else { return false };
        let waited = asked.waited.get() + now.saturating_sub(self.moved.get());
        let wanted = asked.limits.least_rate.saturating_mul(waited) / 1000;
        waited >= SLOW_START && self.bytes_in.get() < wanted
    }

    fn finish(&self) {
        let Some(on_end) = self.on_end.take() else { return };
        let stream = match self.kind.get() {
            ExchangeKind::Http => None,
            ExchangeKind::Sse => Some(StreamKind::Sse),
            ExchangeKind::WebSocket => Some(StreamKind::WebSocket),
        };
        let duration = self.started.elapsed();
        if let Some(kind) = stream {
            let lived = duration.saturating_sub(self.ttfb.get().unwrap_or_default());
            self.route.stream_seconds(kind).observe(lived.as_secs_f64());
        }
        on_end(ExchangeSummary {
            request_id: self.request_id.clone(),
            kind: self.kind.get(),
            status: self.status.get(),
            upstream: self.server.take().map(|server| server.address.clone()),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            messages_in: self.messages_in.get(),
            messages_out: self.messages_out.get(),
            sse_events: self.events.get(),
            ttfb: self.ttfb.get(),
            duration,
            close: self.close.get(),
            reason: self.reason.get(),
            error: self.error.get(),
            retries: self.retries.get(),
            upstream_connect: self.connect.get(),
            upstream_header: self.header_time(),
            upstream_status: self.upstream_status.get().map(NonZeroU16::get),
        });
    }
}

/// The one owner of an exchange's end: whoever holds it last ends the exchange.
#[derive(Debug)]
pub(crate) struct Ending(Rc<Flow>);

impl Ending {
    /// Begins an exchange. Until there is an answer, its end means that the client went away.
    pub(crate) fn begin(exchange: Exchange) -> Self {
        Self(Rc::new(Flow {
            request_id: exchange.request_id,
            client: exchange.client.ip(),
            scheme: exchange.scheme,
            route: exchange.route,
            listener: exchange.listener,
            event_policy: exchange.events,
            patience: exchange.patience,
            tells: exchange.tells,
            on_end: Cell::new(Some(exchange.on_end)),
            started: Instant::now(),
            ttfb: Cell::new(None),
            server: Cell::new(None),
            under_way: Cell::new(None),
            hash_key: Cell::new(exchange.hash_key),
            new_cookie: Cell::new(false),
            client_port: exchange.client.port(),
            local: exchange.local.map(Box::new),
            trace: exchange.trace,
            attempt: Cell::new(Duration::ZERO),
            connect: Cell::new(None),
            upstream_status: Cell::new(None),
            kind: Cell::new(ExchangeKind::Http),
            status: Cell::new(499),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            messages_in: Cell::new(0),
            messages_out: Cell::new(0),
            events: Cell::new(0),
            retries: Cell::new(0),
            close: Cell::new(None),
            reason: Cell::new(CloseReason::TransportClosed),
            error: Cell::new(None),
            upload: Cell::new(Upload::Untouched),
            moved: Cell::new(0),
            asked: (exchange.body != BodyLimits::default())
                .then(|| Box::new(AskedOfBody { limits: exchange.body, waited: Cell::new(0) })),
        }))
    }

    pub(crate) fn flow(&self) -> &Rc<Flow> {
        &self.0
    }
}

impl std::ops::Deref for Ending {
    type Target = Flow;

    fn deref(&self) -> &Flow {
        &self.0
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.finish();
    }
}
