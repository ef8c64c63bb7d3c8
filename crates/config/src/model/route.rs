//! Which requests go where, and what happens to them. A route is final: what `[defaults]` say is in it already.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    AccessFormat, AccessLog, Cors, EventStreamPolicy, HeaderChanges, SecurityHeaders, WebSocketPolicy, ZoneUse,
};
use crate::words::words;

/// Requests that are treated alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name for logs and metrics, unique.
    pub name: Arc<str>,
    /// Names of the listeners; empty is every listener.
    pub listeners: Vec<Arc<str>>,
    /// Hosts, lower case and without a port: exact, `*.example.org` or `example.*`; empty is any host that no other
    /// route names.
    pub hosts: Vec<Arc<str>>,
    /// Which paths.
    pub path: PathMatch,
    /// Which methods, upper case; empty is all.
    pub methods: Vec<Arc<str>>,
    /// Conditions on request headers, as written: `x-beta`, `x-version: 2`, `x-client: ~ ^ios`. All must hold.
    pub headers: Vec<Arc<str>>,
    /// What is done.
    pub action: Action,
    /// Whose limits count: `None` is those of the listener; `Some` with none in it is no limit at all.
    pub limits: Option<Vec<ZoneUse>>,
    /// `allow` and `deny` lines as written; the first that fits counts, nothing is allow.
    pub access: Vec<Arc<str>>,
    /// Whether a token is wanted.
    pub jwt: JwtMode,
    /// The largest request body, bytes, else 413; 0 is no limit.
    pub max_body: u64,
    /// Changes of the request on its way to the upstream.
    pub request_headers: HeaderChanges,
    /// Changes of the response, also of our own.
    pub response_headers: HeaderChanges,
    /// Security headers of responses that do not have them yet.
    pub security: Option<SecurityHeaders>,
    /// Cross-origin requests; `None` leaves them to the upstream.
    pub cors: Option<Cors>,
    /// What happens inside WebSockets.
    pub websocket: WebSocketPolicy,
    /// What happens inside event streams.
    pub sse: EventStreamPolicy,
    /// The route's own access log; `None` is that of `[log]`.
    pub log: Option<AccessLog>,
    /// Its own format; `None` is that of `[log]`.
    pub log_format: Option<AccessFormat>,
}

impl Route {
    /// A route with every default that does this with paths that begin so.
    pub fn new(name: &str, prefix: &str, action: Action) -> Self {
        Self {
            name: name.into(),
            listeners: Vec::new(),
            hosts: Vec::new(),
            path: PathMatch::Prefix(prefix.into()),
            methods: Vec::new(),
            headers: Vec::new(),
            action,
            limits: None,
            access: Vec::new(),
            jwt: JwtMode::Off,
            max_body: 0,
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
            security: None,
            cors: None,
            websocket: WebSocketPolicy::default(),
            sse: EventStreamPolicy::default(),
            log: None,
            log_format: None,
        }
    }

    /// Whether it is served by the listener of this name.
    pub fn serves(&self, listener: &str) -> bool {
        self.listeners.is_empty() || self.listeners.iter().any(|name| **name == *listener)
    }
}

/// Which paths a route is for (nginx location).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// `/x`: paths that begin so; the longest wins, unless a regex fits.
    Prefix(Arc<str>),
    /// `^~ /x`: paths that begin so; if it is the longest, regexes are not asked.
    PrefixFirst(Arc<str>),
    /// `= /x`: this path alone.
    Exact(Arc<str>),
    /// `~ x`, `~* x`: paths in which it is found; the first in the file wins over prefixes.
    Regex {
        /// The expression, known to be one.
        pattern: Arc<str>,
        /// `~*`.
        ignore_case: bool,
    },
}

/// As in the file.
impl std::fmt::Display for PathMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prefix(path) => f.write_str(path),
            Self::PrefixFirst(path) => write!(f, "^~ {path}"),
            Self::Exact(path) => write!(f, "= {path}"),
            Self::Regex { pattern, ignore_case: false } => write!(f, "~ {pattern}"),
            Self::Regex { pattern, ignore_case: true } => write!(f, "~* {pattern}"),
        }
    }
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The request goes to an upstream.
    Upstream {
        /// The upstream's name.
        name: Arc<str>,
        /// What becomes of the path.
        path: PathChange,
        /// Patience that differs from the upstream's.
        patience: Patience,
    },
    /// The client is sent elsewhere.
    Redirect {
        /// A template of the address.
        to: Arc<str>,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// A fixed response.
    Respond {
        /// From 200 to 599.
        status: u16,
        /// A template.
        body: Arc<str>,
        /// The `Content-Type`.
        content_type: Arc<str>,
    },
    /// nginx's stub_status page.
    StubStatus,
}

impl Action {
    /// To this upstream with every default.
    pub fn upstream(name: &str) -> Self {
        Self::Upstream { name: name.into(), path: PathChange::Keep, patience: Patience::default() }
    }
}

/// What becomes of the path on its way to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// Nothing.
    Keep,
    /// The matched prefix is removed; what is left begins with `/`.
    Strip,
    /// The matched prefix is replaced by this (nginx proxy_pass with a URI).
    Replace(Arc<str>),
}

/// Patience of a route that differs from its upstream's; `None` does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// As [`crate::Upstream::read_timeout`].
    pub read_timeout: Option<Duration>,
    /// As [`crate::Upstream::send_timeout`].
    pub send_timeout: Option<Duration>,
    /// As [`crate::Upstream::stream_timeout`].
    pub stream_timeout: Option<Duration>,
    /// As [`crate::Upstream::tunnel_idle_timeout`].
    pub tunnel_idle_timeout: Option<Duration>,
    /// As [`crate::Upstream::handshake_timeout`].
    pub handshake_timeout: Option<Duration>,
}

words! {
    /// Whether a route wants a token.
    pub JwtMode {
        /// Tokens are not looked at.
        Off = "off",
        /// Claims are known if there is a good one.
        Optional = "optional",
        /// Without a good one, 401.
        Required = "required",
    }
}
