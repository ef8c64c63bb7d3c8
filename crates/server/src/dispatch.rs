//! Which part of the gateway answers a request, and the line it leaves in the access log.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tidegate_metrics::StatusClass;
use tidegate_proxy::{
    BodyLimits, Exchange, ExchangeKind, ExchangeSummary, RouteMetrics, Trace, Upstream, check_framing, error_response,
};
use tidegate_realtime::Shard;
use tidegate_rules::Facts;
use tidegate_types::ErrorCode;

use crate::access_log::{Entry, Log};
use crate::admission::{Admitted, Asking, Gate, Refusal};
use crate::body::Body;
use crate::client::head_bytes;
use crate::plan::{Route, Site};
use crate::realtime;
use crate::request_id::X_REQUEST_ID;
use crate::slots::Held;
use crate::upstreams;
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
    method: Method,
    host: Option<HeaderValue>,
    uri: Uri,
    headers: Option<Box<HeaderMap>>,
    pub route: Option<Arc<str>>,
    trace: Option<Rc<Trace>>,
    /// The span has been given away: a session may have several lines.
    traced: Cell<bool>,
}

impl Line {
    pub fn of(request: &Request<Incoming>, asking: Asking, site: &Site, route: Option<&Route>) -> Self {
        let log = route.map_or(&site.log, |route| &route.log);
        Self {
            log: log.clone(),
            listener: site.name.clone(),
            client: asking.client,
            peer: (asking.peer != asking.client).then(|| Box::new(asking.peer)),
            version: request.version(),
            method: request.method().clone(),
            host: request.headers().get(HOST).cloned(),
            uri: request.uri().clone(),
            headers: log.as_ref().and_then(|log| log.keep(request.headers())),
            route: route.map(|route| route.name.clone()),
            trace: None,
            traced: Cell::new(false),
        }
        .compact_if(request.headers().contains_key(UPGRADE))
    }

    /// Begins the request's trace, if requests are traced.
    pub fn traced(mut self, worker: &Worker, request: &Request<Incoming>) -> Self {
        self.trace = worker.tracer.as_ref().map(|tracer| tracer.begin(request.headers()));
        self
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

    pub fn entry<'a>(&'a self, request_id: &'a str, kind: &'static str, status: u16) -> Entry<'a> {
        Entry {
            kind,
            request_id,
            trace_id: self.trace.as_ref().map(|trace| trace.id()).unwrap_or_default(),
            client: self.client,
            peer: self.peer.as_deref().copied().unwrap_or(self.client),
            listener: &self.listener,
            scheme: "http",
            http_version: version(self.version),
            method: self.method.as_str(),
            host: self.host.as_ref().map(HeaderValue::as_bytes).unwrap_or_default(),
            path: self.uri.path(),
            query: self.uri.query(),
            headers: self.headers.as_deref(),
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

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

/// The begin of a stream, for a route that has a log of its own.
struct Opening {
    line: Rc<Line>,
    request_id: Rc<str>,
    started: Instant,
}

impl Opening {
    fn tell(&self, worker: &Worker, response: &Response<Body>) {
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

/// Who answers.
enum Way {
    Here(Response<Bytes>),
    Refused(Response<Body>),
    Upstream(Arc<Upstream>, Exchange, Option<Opening>),
    Realtime(Rc<Shard>, Admitted),
}

/// Answers one request of a client connection.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    held: Rc<Held>,
    site: Arc<Site>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    held.busy();
    let asking = site.threshold.asking(held.slot.client, request.headers());
    let mut response = match choose(&worker, &held, &site, asking, &request) {
        Way::Upstream(upstream, exchange, opening) => {
            let response = worker.forwarder.forward(request, &upstream, exchange).await.map(Body::Proxy);
            if let Some(opening) = opening {
                opening.tell(&worker, &response);
            }
            response
        }
        // Boxed, so that the memory of a plain connection does not hold a place for it.
        Way::Realtime(shard, admitted) => {
            Box::pin(realtime::serve(&worker, &held, &site, asking, admitted, shard, request)).await.map(Body::Realtime)
        }
        Way::Here(response) => here(&worker, &held, &site, asking, &request, response),
        Way::Refused(response) => response,
    };
    let last = worker.draining.get() || held.slot.requests() >= site.threshold.keepalive_requests;
    if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

fn choose(worker: &Rc<Worker>, held: &Rc<Held>, site: &Site, asking: Asking, request: &Request<Incoming>) -> Way {
    let turned = |refusal: &Refusal, route: Option<&Route>, counted: &RouteMetrics| {
        counted.answered(refusal.status.as_u16());
        Way::Refused(refuse(
            worker,
            held,
            Line::of(request, asking, site, route).traced(worker, request),
            request,
            refusal,
        ))
    };
    if let Err(ambiguity) = check_framing(request) {
        worker.refused(ambiguity.as_str());
        let refusal = Refusal::with(ErrorCode::BadRequest, ambiguity.message());
        return turned(&refusal, None, &worker.unrouted);
    }
    // hyper looks at its buffer's size only when a head is not complete yet, so that a longer one may have come at once.
    if head_bytes(request) > site.threshold.max_header_bytes {
        worker.refused("too_large");
        let refusal = Refusal::with(ErrorCode::HeadTooLarge, "The request's head is larger than allowed");
        return turned(&refusal, None, &worker.unrouted);
    }
    let admit = |gate: &Option<Arc<Gate>>| {
        let admitted = gate.as_ref().map_or_else(|| Ok(Admitted::default()), |gate| gate.admit(asking, request))?;
        match &site.threshold.wave {
            Some(wave) => wave.admit(request).map(|()| admitted),
            None => Ok(admitted),
        }
    };
    if site.realtime
        && let Some(shard) = &worker.shard
        && shard.serves(request.uri().path())
    {
        return match admit(&site.realtime_gate) {
            Ok(admitted) => Way::Realtime(shard.clone(), admitted),
            Err(refusal) => turned(&refusal, None, &worker.realtime),
        };
    }
    if let Some(local) = &worker.local
        && let Some(response) = local(request)
    {
        return Way::Here(response);
    }
    if let Some(admin) = &worker.admin
        && let Some(response) = admin.answer(request.method(), request.uri().path())
    {
        return Way::Here(response);
    }
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let Some(route) = site.routes.find(host, request.uri().path()) else {
        let refusal = Refusal::with(ErrorCode::NoRoute, "No route matches this host and path");
        return turned(&refusal, None, &worker.unrouted);
    };
    if route.drained {
        let refusal = Refusal::with(ErrorCode::Unavailable, "This route is being drained");
        return turned(&refusal, Some(route), &route.metrics);
    }
    let Admitted { delay, places } = match admit(&route.gate) {
        Ok(admitted) => admitted,
        Err(refusal) => return turned(&refusal, Some(route), &route.metrics),
    };
    if route.max_body > 0 && http_body::Body::size_hint(request.body()).lower() > route.max_body {
        let refusal = Refusal::with(ErrorCode::PayloadTooLarge, "The request body is larger than allowed");
        return turned(&refusal, Some(route), &route.metrics);
    }
    let line = Rc::new(Line::of(request, asking, site, Some(route)).traced(worker, request));
    let request_id = worker.ids.of(request.headers());
    let opening = route.log.as_ref().is_some_and(|log| log.tells_openings()).then(|| Opening {
        line: line.clone(),
        request_id: request_id.clone(),
        started: Instant::now(),
    });
    let trace = line.trace.clone();
    let counted = route.metrics.clone();
    let (at_end, place) = (worker.clone(), held.clone());
    let on_end = Box::new(move |summary: ExchangeSummary| {
        place.idle();
        let class = StatusClass::of(summary.status);
        counted.requests(class).inc();
        if let Some(ttfb) = summary.ttfb {
            counted.ttfb_seconds(class).observe(ttfb.as_secs_f64());
        }
        if summary.kind == ExchangeKind::Http {
            counted.duration_seconds(class).observe(summary.duration.as_secs_f64());
        }
        log(&at_end, &line, &summary);
        drop(places);
    });
    let mut exchange = Exchange::new(request_id, asking.client, "http", route.metrics.clone(), on_end);
    exchange.trace = trace;
    exchange.listener = Some(site.name.clone());
    exchange.delay = delay;
    exchange.body = BodyLimits { most_bytes: route.max_body, least_rate: site.threshold.body_min_rate };
    upstreams::brief(&mut exchange, &route.upstream, site.address, || Facts {
        client: Some(asking.client),
        peer: Some(asking.peer),
        host,
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query(),
        scheme: "http",
        headers: Some(request.headers()),
        route: &route.name,
        listener: &site.name,
        ..Facts::default()
    });
    Way::Upstream(route.upstream.clone(), exchange, opening)
}

fn log(worker: &Worker, line: &Line, summary: &ExchangeSummary) {
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
        ..line.entry(&summary.request_id, summary.kind.as_str(), summary.status)
    };
    line.write(worker, &entry);
}

/// The process's own answer.
fn here(
    worker: &Worker,
    held: &Held,
    site: &Site,
    asking: Asking,
    request: &Request<Incoming>,
    mut response: Response<Bytes>,
) -> Response<Body> {
    let start = Instant::now();
    let id = worker.ids.of(request.headers());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    let line = Line::of(request, asking, site, None).traced(worker, request);
    let status = response.status().as_u16();
    let bytes_out = response.body().len() as u64;
    line.write(worker, &Entry { bytes_out, duration: start.elapsed(), ..line.entry(&id, "http", status) });
    held.idle();
    response.map(Body::Full)
}

fn refuse(worker: &Worker, held: &Held, line: Line, request: &Request<Incoming>, refusal: &Refusal) -> Response<Body> {
    let id = worker.ids.of(request.headers());
    let mut response = error_response(refusal.code, refusal.message, &id);
    *response.status_mut() = refusal.status;
    refusal.write_headers(response.headers_mut());
    let bytes_out = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
    let error = Some(refusal.code.as_str());
    line.write(worker, &Entry { bytes_out, error, ..line.entry(&id, "http", refusal.status.as_u16()) });
    held.idle();
    response.map(Body::Proxy)
}

/// The line of a request whose head could not be read, so that nothing of it is known.
pub(crate) fn log_malformed(worker: &Worker, client: SocketAddr, site: &Site, status: u16) {
    worker.unrouted.answered(status);
    let line = Line {
        log: site.log.clone(),
        listener: site.name.clone(),
        client,
        peer: None,
        version: Version::HTTP_11,
        method: Method::GET,
        host: None,
        uri: Uri::default(),
        headers: None,
        route: None,
        trace: None,
        traced: Cell::new(false),
    };
    let id = worker.ids.make();
    let error = Some(ErrorCode::BadRequest.as_str());
    line.write(worker, &Entry { method: "", path: "", error, ..line.entry(&id, "http", status) });
}
