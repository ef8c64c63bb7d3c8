//! A route, compiled from the config: whom it is for, what it does, and what it changes.

use std::sync::Arc;

use bytes::Bytes;
use http::header::ACCESS_CONTROL_REQUEST_METHOD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use tidegate_balance::{Fit, PathPattern};
use tidegate_config as config;
use tidegate_config::{JwtMode, PathMatch};
use tidegate_proxy::{Patience, RouteMetrics, Upstream};
use tidegate_rules::{
    Cors, HeaderChanges, HeaderLine, HeaderMatch, OriginPattern, PathChange, Place, Security, SecurityHeaders,
    Template, Variable, header_name,
};

use crate::StartError;
use crate::access_log::Log;
use crate::admission::{self, Gate, Limits};
use crate::plan::{Part, Shared};
use crate::stream_terms::StreamTerms;

/// What routes are compiled with.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub config: &'a config::Config,
    pub upstreams: &'a [(Arc<str>, Arc<Upstream>)],
    pub limits: &'a Limits,
    pub drained: &'a [Part],
    pub shared: &'a Shared,
}

/// Requests that are treated alike.
#[derive(Debug)]
pub(crate) struct Route {
    pub name: Arc<str>,
    pub metrics: Arc<RouteMetrics>,
    /// Where its lines go; `None` is nowhere.
    pub log: Option<Arc<Log>>,
    /// Taken out of use: new requests are refused.
    pub drained: bool,
    /// What is asked of clients; `None` is nothing.
    pub gate: Option<Arc<Gate>>,
    /// The largest request body, bytes; 0 is no limit.
    pub max_body: u64,
    /// What it wants of its WebSockets and event streams.
    pub streams: StreamTerms,
    pub action: Action,
    /// Empty is all.
    methods: Vec<Method>,
    /// All must hold.
    conditions: Vec<HeaderMatch>,
    /// What there is to do beside the action. A plain route has none, and pays for no more than looking here.
    pub rules: Option<Box<Rules>>,
}

/// What a route does.
#[derive(Debug)]
pub(crate) enum Action {
    Upstream(Arc<Upstream>),
    Redirect(Redirect),
    Respond { status: StatusCode, body: Template, content_type: HeaderValue },
    StubStatus,
}

/// Where clients are sent.
#[derive(Debug)]
pub(crate) struct Redirect {
    pub to: Template,
    pub status: StatusCode,
    /// Without a host in the request there is nowhere to send the client.
    pub needs_host: bool,
}

/// What a route does beside its action.
#[derive(Debug)]
pub(crate) struct Rules {
    pub jwt: JwtMode,
    pub cors: Option<Cors>,
    pub security: Option<SecurityHeaders>,
    pub path: Option<PathChange>,
    pub request: Option<Arc<HeaderChanges>>,
    pub response: Option<Changes>,
    pub patience: Option<Arc<Patience>>,
}

/// Changes of responses, and what their templates ask for.
#[derive(Debug)]
pub(crate) struct Changes {
    pub changes: HeaderChanges,
    /// Something of the request or of the upstream.
    pub asks: bool,
    /// The header of the request, which is gone by then unless it is kept.
    pub reads_headers: bool,
}

impl Rules {
    fn is_plain(&self) -> bool {
        self.jwt == JwtMode::Off
            && self.cors.is_none()
            && self.security.is_none()
            && self.path.is_none()
            && self.request.is_none()
            && self.response.is_none()
            && self.patience.is_none()
    }

    /// Whether anything is done to responses.
    pub fn changes_responses(&self) -> bool {
        self.cors.is_some() || self.security.is_some() || self.response.is_some()
    }
}

impl Redirect {
    pub fn new(to: &str, status: StatusCode) -> Result<Self, tidegate_rules::TemplateError> {
        let to = Template::parse(to, Place::Location)?;
        let host = Variable::Named(tidegate_rules::Named::Host);
        let needs_host = to.variables().any(|variable| *variable == host);
        Ok(Self { to, status, needs_host })
    }
}

impl Route {
    /// Compiles a route.
    ///
    /// # Errors
    /// A config built in code holds something that cannot be, or names something that does not exist.
    pub fn new(context: Context<'_>, route: &config::Route, listener: &config::Listener) -> Result<Self, StartError> {
        let Context { config, upstreams, limits, drained, shared } = context;
        let fault = |what: &dyn std::fmt::Display| StartError::Config(format!("route {:?}: {what}", route.name));
        let (action, path, patience, metrics) = match &route.action {
            config::Action::Upstream { name, path, patience } => {
                let found = upstreams.iter().find(|(known, _)| known == name);
                // A Config read from a file has no dangling names; one built in code may.
                let (_, upstream) =
                    found.ok_or_else(|| fault(&format_args!("there is no upstream of the name {name:?}")))?;
                let patience = resolve(patience, upstream);
                let metrics = shared.metrics.route_to(&route.name, name);
                (Action::Upstream(upstream.clone()), change(path), patience, metrics)
            }
            config::Action::Redirect { to, status } => {
                let status = StatusCode::from_u16(*status).map_err(|error| fault(&error))?;
                let redirect = Redirect::new(to, status).map_err(|error| fault(&error))?;
                (Action::Redirect(redirect), None, None, shared.metrics.route(&route.name))
            }
            config::Action::Respond { status, body, content_type } => {
                let respond = Action::Respond {
                    status: StatusCode::from_u16(*status).map_err(|error| fault(&error))?,
                    body: Template::parse(body, Place::of_body(content_type)).map_err(|error| fault(&error))?,
                    content_type: HeaderValue::from_str(content_type).map_err(|error| fault(&error))?,
                };
                (respond, None, None, shared.metrics.route(&route.name))
            }
            config::Action::StubStatus => (Action::StubStatus, None, None, shared.metrics.route(&route.name)),
        };
        if route.jwt != JwtMode::Off && config.jwt.is_none() {
            return Err(fault(&"it asks for tokens, and there is no [jwt]"));
        }
        let methods = route.methods.iter().map(|method| Method::from_bytes(method.as_bytes()));
        let conditions = route.headers.iter().map(|condition| HeaderMatch::parse(condition));
        let request = changes(&route.request_headers, Place::Request).map_err(|error| fault(&error))?;
        let response = changes(&route.response_headers, Place::Response).map_err(|error| fault(&error))?;
        let rules = Rules {
            jwt: route.jwt,
            cors: route.cors.as_ref().map(cors).transpose().map_err(|error| fault(&error))?,
            security: route.security.as_ref().map(security).transpose().map_err(|error| fault(&error))?,
            path,
            request: request.map(Arc::new),
            response: response.map(Changes::new),
            patience,
        };
        Ok(Self {
            name: route.name.clone(),
            metrics,
            log: shared.logs.of(&config.log, Some(route))?,
            drained: drained.contains(&Part::Route(route.name.clone())),
            gate: admission::gate(Some(route), listener, limits, &shared.metrics)?,
            max_body: route.max_body,
            streams: StreamTerms::of(route, &shared.policies).map_err(|error| fault(&error))?,
            action,
            methods: methods.collect::<Result<_, _>>().map_err(|error| fault(&error))?,
            conditions: conditions.collect::<Result<_, _>>().map_err(|error| fault(&error))?,
            rules: (!rules.is_plain()).then(|| Box::new(rules)),
        })
    }

    /// Whether it takes a request of its host and path.
    pub fn fits<B>(&self, request: &Request<B>) -> Fit {
        if !self.conditions.iter().all(|condition| condition.matches(request.headers())) {
            return Fit::No;
        }
        if self.methods.is_empty() || self.allows(request.method()) || self.answers_preflight(request) {
            return Fit::Yes;
        }
        Fit::OtherMethod
    }

    /// Who may GET may HEAD, as in nginx's `limit_except`.
    fn allows(&self, method: &Method) -> bool {
        self.methods.contains(method) || *method == Method::HEAD && self.methods.contains(&Method::GET)
    }

    /// Preflights ask about a method; they come with another.
    fn answers_preflight<B>(&self, request: &Request<B>) -> bool {
        let headers = request.headers();
        self.rules.as_ref().is_some_and(|rules| rules.cors.is_some())
            && Cors::is_preflight(request.method(), headers)
            && headers
                .get(ACCESS_CONTROL_REQUEST_METHOD)
                .and_then(|asked| Method::from_bytes(asked.as_bytes()).ok())
                .is_some_and(|asked| self.allows(&asked))
    }

    /// How much it asks of a request beside host and path.
    pub fn specificity(&self) -> u32 {
        let conditions = u32::try_from(self.conditions.len()).unwrap_or(u32::MAX / 2);
        2 * conditions + u32::from(!self.methods.is_empty())
    }
}

/// The patterns of the config as those of the table.
pub(crate) fn pattern(path: &PathMatch) -> PathPattern<'_> {
    match path {
        PathMatch::Prefix(path) => PathPattern::Prefix(path),
        PathMatch::PrefixFirst(path) => PathPattern::PrefixFirst(path),
        PathMatch::Exact(path) => PathPattern::Exact(path),
        PathMatch::Regex { pattern, ignore_case } => PathPattern::Regex { pattern, ignore_case: *ignore_case },
    }
}

fn change(path: &config::PathChange) -> Option<PathChange> {
    match path {
        config::PathChange::Keep => None,
        config::PathChange::Strip => Some(PathChange::Strip),
        config::PathChange::Replace(prefix) => Some(PathChange::Replace((**prefix).into())),
    }
}

/// The route's patience, or the upstream's where it says nothing; `None` if it says nothing at all.
fn resolve(route: &config::Patience, upstream: &Upstream) -> Option<Arc<Patience>> {
    let of_upstream = upstream.settings();
    (*route != config::Patience::default()).then(|| {
        Arc::new(Patience {
            read: route.read_timeout.unwrap_or(of_upstream.read_timeout),
            send: route.send_timeout.unwrap_or(of_upstream.send_timeout),
            handshake: route.handshake_timeout.unwrap_or(of_upstream.handshake_timeout),
            stream: route.stream_timeout.unwrap_or(of_upstream.stream_timeout),
            tunnel_idle: route.tunnel_idle_timeout.unwrap_or(of_upstream.tunnel_idle_timeout),
        })
    })
}

/// `None` if nothing changes.
fn changes(
    changes: &config::HeaderChanges,
    place: Place,
) -> Result<Option<HeaderChanges>, tidegate_rules::TemplateError> {
    if changes.is_empty() {
        return Ok(None);
    }
    let lines = |lines: &[Arc<str>]| lines.iter().map(|line| HeaderLine::parse(line, place)).collect::<Result<_, _>>();
    let remove = changes.remove.iter().map(|name| header_name(name, place)).collect::<Result<_, _>>()?;
    Ok(Some(HeaderChanges { set: lines(&changes.set)?, add: lines(&changes.add)?, remove }))
}

impl Changes {
    fn new(changes: HeaderChanges) -> Self {
        let asks = changes.templates().next().is_some();
        let reads_headers = changes.templates().any(Template::reads_headers);
        Self { changes, asks, reads_headers }
    }
}

fn security(headers: &config::SecurityHeaders) -> Result<SecurityHeaders, tidegate_rules::TemplateError> {
    let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let preset = Security {
        hsts: text(&headers.hsts),
        csp: text(&headers.csp),
        frame: text(&headers.frame),
        nosniff: headers.nosniff,
        referrer: text(&headers.referrer),
        xss: text(&headers.xss),
    };
    preset.headers()
}

fn cors(cors: &config::Cors) -> Result<Cors, String> {
    fn all<T, E: ToString>(texts: &[Arc<str>], parse: impl Fn(&str) -> Result<T, E>) -> Result<Vec<T>, String> {
        texts.iter().map(|text| parse(text)).collect::<Result<_, _>>().map_err(|error: E| error.to_string())
    }
    Ok(Cors::new(
        all(&cors.origins, OriginPattern::parse)?,
        &all(&cors.methods, |method| Method::from_bytes(method.as_bytes()))?,
        &all(&cors.headers, |name| HeaderName::try_from(name))?,
        &all(&cors.expose, |name| HeaderName::try_from(name))?,
        cors.credentials,
        cors.max_age.as_secs(),
    ))
}

/// The value of `Allow` for a path with these routes (RFC 9110 section 10.2.1).
pub(crate) fn allow<B>(routes: &[Arc<Route>], request: &Request<B>) -> HeaderValue {
    let mut allowed: Vec<&str> = Vec::new();
    for route in routes.iter().filter(|route| route.fits(request) == Fit::OtherMethod) {
        let head = route.methods.contains(&Method::GET).then_some("HEAD");
        for method in route.methods.iter().map(Method::as_str).chain(head) {
            if !allowed.contains(&method) {
                allowed.push(method);
            }
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(allowed.join(", "))).unwrap_or(HeaderValue::from_static(""))
}

/// The host that a request is for: the target's authority, or else `Host` (RFC 9112 section 3.2.2).
pub(crate) fn host<'a>(uri: &'a http::Uri, headers: &'a HeaderMap) -> &'a str {
    match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}
