//! What is known of one request on its way: for templates while it is here, and kept for those of its response.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use tidegate_auth::VerifiedClaims;
use tidegate_proxy::{Trace, UpstreamSeen};
use tidegate_rules::{Facts, UpstreamFacts};

use crate::admission::Asking;
use crate::line::{spoken, version};
use crate::plan::Site;
use crate::route::{Action, Route, host};
use crate::slots::Held;
use crate::worker::Worker;

/// One request, and where it came in.
#[derive(Clone, Copy)]
pub(crate) struct Visit<'a> {
    pub worker: &'a Rc<Worker>,
    pub held: &'a Rc<Held>,
    pub site: &'a Site,
    pub request: &'a Request<Incoming>,
    /// Whose request it is.
    pub asking: Asking,
    /// `http` or `https`: how the client speaks to the listener.
    pub scheme: &'static str,
    /// Which request of its connection it is, from 1.
    pub number: u64,
    /// The trace that it is part of.
    pub trace: Option<&'a Rc<Trace>>,
}

/// Begins the trace of a request, if requests are traced.
pub(crate) fn begin_trace(worker: &Worker, request: &Request<Incoming>) -> Option<Rc<Trace>> {
    worker.tracer.as_ref().map(|tracer| tracer.begin(request.headers()))
}

impl<'a> Visit<'a> {
    pub fn new(
        worker: &'a Rc<Worker>,
        held: &'a Rc<Held>,
        site: &'a Site,
        request: &'a Request<Incoming>,
        asking: Asking,
        trace: Option<&'a Rc<Trace>>,
    ) -> Self {
        Self { worker, held, site, request, asking, scheme: held.slot.scheme(), number: held.slot.requests(), trace }
    }

    /// What templates may ask of it before its route is known.
    pub fn facts(self, request_id: &'a str) -> Facts<'a> {
        let (uri, headers) = (self.request.uri(), self.request.headers());
        Facts {
            client: Some(self.asking.client),
            peer: Some(self.asking.peer),
            host: host(uri, headers),
            method: self.request.method().as_str(),
            path: uri.path(),
            query: uri.query(),
            scheme: self.scheme,
            http_version: version(spoken(self.request)),
            tls: self.held.slot.tls_facts(),
            request_id,
            listener: &self.site.name,
            headers: Some(headers),
            connection: Some(self.held.slot.number),
            connection_requests: Some(self.number),
            trace_id: self.trace.map(|trace| trace.id()).unwrap_or_default(),
            ..Facts::default()
        }
    }
}

/// What a route does to a response when it is there, whoever made it.
pub(crate) struct After {
    route: Arc<Route>,
    https: bool,
    /// What CORS needs of the request; `None` if there is nothing to do.
    cors: Option<Option<HeaderValue>>,
    asked: Option<Box<Asked>>,
}

/// The request as the templates of a response see it.
struct Asked {
    /// For what the TLS handshake told, and its number.
    held: Rc<Held>,
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    asking: Asking,
    scheme: &'static str,
    number: u64,
    request_id: Rc<str>,
    listener: Arc<str>,
    host: Box<str>,
    prefix_rest: Box<str>,
    claims: VerifiedClaims,
    trace: Option<Rc<Trace>>,
}

impl After {
    /// `None` if the route does nothing to responses.
    pub fn new(
        visit: Visit<'_>,
        route: &Arc<Route>,
        request_id: &Rc<str>,
        prefix_rest: &str,
        claims: &VerifiedClaims,
    ) -> Option<Box<Self>> {
        let request = visit.request;
        let rules = route.rules.as_ref().filter(|rules| rules.changes_responses())?;
        let asked = rules.response.as_ref().filter(|response| response.asks).map(|response| {
            let (uri, headers) = (request.uri(), request.headers());
            Box::new(Asked {
                method: request.method().clone(),
                uri: uri.clone(),
                version: spoken(request),
                held: visit.held.clone(),
                headers: if response.reads_headers { headers.clone() } else { HeaderMap::new() },
                asking: visit.asking,
                scheme: visit.scheme,
                number: visit.number,
                request_id: request_id.clone(),
                listener: visit.site.name.clone(),
                host: host(uri, headers).into(),
                prefix_rest: prefix_rest.into(),
                claims: claims.clone(),
                trace: visit.trace.cloned(),
            })
        });
        let cors = rules.cors.is_some().then(|| request.headers().get(http::header::ORIGIN).cloned());
        Some(Box::new(Self { route: route.clone(), https: visit.scheme == "https", cors, asked }))
    }

    /// The answer to a preflight says itself what may be.
    pub fn without_cors(mut self: Box<Self>) -> Box<Self> {
        self.cors = None;
        self
    }

    /// Whether the upstream's part is to be told with the response.
    pub fn wants_upstream(&self) -> bool {
        self.asked.is_some()
    }

    /// Changes the response.
    pub fn apply<B>(self, response: &mut Response<B>) {
        let Some(rules) = &self.route.rules else { return };
        let seen = self.asked.as_ref().and_then(|_| response.extensions_mut().remove::<UpstreamSeen>());
        let headers = response.headers_mut();
        if let Some(security) = &rules.security {
            security.apply(headers, self.https);
        }
        if let (Some(cors), Some(origin)) = (&rules.cors, &self.cors) {
            cors.apply(origin.as_ref(), headers);
        }
        let Some(response) = &rules.response else { return };
        let Some(asked) = &self.asked else { return response.changes.apply(headers, &Facts::default()) };
        let upstream = seen.as_ref().map(|seen| UpstreamFacts {
            name: match &self.route.action {
                Action::Upstream(upstream) => &upstream.settings().name,
                Action::Redirect(_) | Action::Respond { .. } | Action::StubStatus => "",
            },
            address: seen.address.as_deref().unwrap_or_default(),
            status: seen.status,
            connect_time: seen.connect_time,
            header_time: seen.header_time,
            retries: seen.retries,
        });
        let facts = Facts {
            client: Some(asked.asking.client),
            peer: Some(asked.asking.peer),
            host: &asked.host,
            method: asked.method.as_str(),
            path: asked.uri.path(),
            query: asked.uri.query(),
            scheme: asked.scheme,
            http_version: version(asked.version),
            request_id: &asked.request_id,
            route: &self.route.name,
            listener: &asked.listener,
            prefix_rest: &asked.prefix_rest,
            headers: Some(&asked.headers),
            claims: asked.claims.as_slice(),
            upstream: upstream.as_ref(),
            tls: asked.held.slot.tls_facts(),
            connection: Some(asked.held.slot.number),
            connection_requests: Some(asked.number),
            trace_id: asked.trace.as_ref().map(|trace| trace.id()).unwrap_or_default(),
            ..Facts::default()
        };
        response.changes.apply(headers, &facts);
    }
}
