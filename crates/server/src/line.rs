//! The line that a request leaves in the access log: what of the request is kept for it until its end.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HOST, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use tidegate_proxy::{ExchangeSummary, Trace};
use tidegate_rules::Facts;
use tidegate_transport::ClientTls;
use tidegate_types::ErrorCode;

use crate::access_log::{Entry, Kept, Log};
use crate::body::Body;
use crate::plan::Site;
use crate::route::Route;
use crate::slots::{Slot, tls_facts};
use crate::visit::Visit;
use crate::worker::Worker;

/// What the access log says about a request, kept until its end. Shared with the request, not copied.
pub(crate) struct Line {
    /// Where the line goes; `None` is nowhere.
    log: Option<Arc<Log>>,
    listener: Arc<str>,
    client: SocketAddr,
    /// If it is another one.
    peer: Option<Box<SocketAddr>>,
    version: Version,
    /// The client's, if it speaks TLS.
    tls: Option<Rc<ClientTls>>,
    method: Method,
    host: Option<HeaderValue>,
    uri: Uri,
    kept: Option<Box<Kept>>,
    pub route: Option<Arc<str>>,
    trace: Option<Rc<Trace>>,
    /// The span has been given away: a session may have several lines.
    traced: Cell<bool>,
}

impl Line {
    /// `facts` are those of the route, for what the log's format keeps.
    pub fn of<'a>(visit: Visit<'_>, route: Option<&Route>, facts: impl FnOnce() -> Facts<'a>) -> Self {
        let log = route.map_or(&visit.site.log, |route| &route.log);
        Self::keeping(visit, route, log.as_ref().and_then(|log| log.keep(facts)))
    }

    /// With what the log's format keeps.
    pub fn keeping(visit: Visit<'_>, route: Option<&Route>, kept: Option<Box<Kept>>) -> Self {
        let Visit { request, site, asking, held, .. } = visit;
        let log = route.map_or(&site.log, |route| &route.log);
        Self {
            log: log.clone(),
            listener: site.name.clone(),
            client: asking.client,
            peer: (asking.peer != asking.client).then(|| Box::new(asking.peer)),
            tls: held.slot.tls().cloned(),
            version: spoken(request),
            method: request.method().clone(),
            host: request.headers().get(HOST).cloned(),
            uri: request.uri().clone(),
            kept,
            route: route.map(|route| route.name.clone()),
            trace: visit.trace.cloned(),
            traced: Cell::new(false),
        }
        .compact_if(request.headers().contains_key(UPGRADE))
    }

    /// What is shared with the request keeps the buffer alive that its head was read into. A tunnel or session lives
    /// long after it and must not: it gets copies.
    fn compact_if(mut self, long_lived: bool) -> Self {
        if long_lived {
            self.host = self.host.and_then(|host| HeaderValue::from_bytes(host.as_bytes()).ok());
            let target = self.uri.path_and_query().map_or("/", |target| target.as_str());
            self.uri = Uri::try_from(target).unwrap_or_default();
        }
        self
    }

    /// The client's address, as the listener believes it.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    pub fn entry<'a>(&'a self, request_id: &'a str, kind: &'static str, status: u16) -> Entry<'a> {
        Entry {
            kind,
            request_id,
            trace_id: self.trace.as_ref().map(|trace| trace.id()).unwrap_or_default(),
            client: self.client,
            peer: self.peer.as_deref().copied().unwrap_or(self.client),
            listener: &self.listener,
            scheme: if self.tls.is_some() { "https" } else { "http" },
            tls: self.tls.as_deref().map(tls_facts),
            http_version: version(self.version),
            method: self.method.as_str(),
            host: self.host.as_ref().map(HeaderValue::as_bytes).unwrap_or_default(),
            path: self.uri.path(),
            query: self.uri.query(),
            kept: self.kept.as_deref(),
            status,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            ttfb: None,
            route: self.route.as_deref(),
            upstream: None,
            upstream_status: None,
            upstream_connect: None,
            upstream_header: None,
            retries: 0,
            events: 0,
            messages_in: 0,
            messages_out: 0,
            transport: None,
            tenant: None,
            user: None,
            reason: None,
            error: None,
        }
    }

    /// Writes the line of an exchange that has ended.
    pub fn end(&self, worker: &Worker, summary: &ExchangeSummary) {
        let entry = Entry {
            bytes_in: summary.bytes_in,
            bytes_out: summary.bytes_out,
            duration: summary.duration,
            ttfb: summary.ttfb,
            upstream: summary.upstream.as_deref(),
            retries: summary.retries,
            events: summary.sse_events,
            messages_in: summary.messages_in,
            messages_out: summary.messages_out,
            reason: Some(summary.reason.as_str()),
            error: summary.error.map(ErrorCode::as_str),
            upstream_status: summary.upstream_status,
            upstream_connect: summary.upstream_connect,
            upstream_header: summary.upstream_header,
            ..self.entry(&summary.request_id, summary.kind.as_str(), summary.status)
        };
        self.write(worker, &entry);
    }

    /// Gives the line away, and with that of the end the span.
    pub fn write(&self, worker: &Worker, entry: &Entry<'_>) {
        worker.lines.write(self.log.as_deref(), entry);
        if let (Some(tracer), Some(trace)) = (&worker.tracer, &self.trace)
            && entry.kind != "open"
            && !self.traced.replace(true)
        {
            tracer.end(trace, entry);
        }
    }
}

/// The version that the client speaks: a WebSocket over HTTP/2 has the form of HTTP/1.1.
pub(crate) fn spoken(request: &Request<Incoming>) -> Version {
    if request.extensions().get::<Protocol>().is_some() { Version::HTTP_2 } else { request.version() }
}

/// `1.0`, `1.1` or `2`.
pub(crate) fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

/// The begin of a stream, for a route that has a log of its own.
pub(crate) struct Opening {
    line: Rc<Line>,
    request_id: Rc<str>,
    started: Instant,
}

impl Opening {
    /// Of an exchange that begins now; `None` if the route does not tell openings.
    pub fn of(route: &Route, line: &Rc<Line>, request_id: &Rc<str>) -> Option<Self> {
        route.log.as_ref().is_some_and(|log| log.tells_openings()).then(|| Self {
            line: line.clone(),
            request_id: request_id.clone(),
            started: Instant::now(),
        })
    }

    /// Writes the line, if the response begins a stream.
    pub fn tell(&self, worker: &Worker, response: &Response<Body>) {
        let stream = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => "websocket",
            _ if tidegate_proxy::is_event_stream(response.headers()) => "sse",
            _ => return,
        };
        let ttfb = self.started.elapsed();
        let entry = self.line.entry(&self.request_id, "open", response.status().as_u16());
        self.line.write(worker, &Entry { transport: Some(stream), duration: ttfb, ttfb: Some(ttfb), ..entry });
    }
}

/// The line of a request whose head could not be read, so that nothing of it is known.
pub(crate) fn log_malformed(worker: &Worker, slot: &Slot, site: &Site, status: u16) {
    worker.unrouted.answered(status);
    let facts = || Facts { connection: Some(slot.number), ..Facts::default() };
    let line = Line {
        log: site.log.clone(),
        listener: site.name.clone(),
        client: slot.client,
        peer: None,
        tls: slot.tls().cloned(),
        version: Version::HTTP_11,
        method: Method::GET,
        host: None,
        uri: Uri::default(),
        kept: site.log.as_ref().and_then(|log| log.keep(facts)),
        route: None,
        trace: None,
        traced: Cell::new(false),
    };
    let id = worker.ids.make();
    let error = Some(ErrorCode::BadRequest.as_str());
    line.write(worker, &Entry { method: "", path: "", error, ..line.entry(&id, "http", status) });
}
