//! What a config means once it is validated: every default filled in, every name in it known.
//!
//! Texts that another crate compiles (templates, header lines, regexes, networks) stay texts here; [`crate::load`] has
//! tried each of them, so compiling them again does not fail.

use std::net::SocketAddr;

mod cluster;
mod headers;
mod health;
mod interop;
mod limit;
mod listener;
mod operation;
mod realtime;
mod route;
mod store;
mod streams;
mod tokens;
mod upstream;
mod webhook;

use std::sync::Arc;

use tidegate_dialect::Dialect;

pub use cluster::{BrokerKind, Cluster, InternalTls, NodeAddress, Redis, RedisMode, RedisServer, RedisTls};
pub use headers::{Cors, HeaderChanges, SecurityHeaders};
pub use health::{Breaker, Health, Initially, Outlier, Probe, Retry, RetryOn, StatusRanges};
pub use interop::{Bridge, Interop, NodeAdapter};
pub use limit::{Admission, Rate, Zone, ZoneKind, ZoneUse};
pub use listener::{Admin, CertificateFiles, Client, ClientAuth, Listener, ListenerTls, RealIp, TlsVersion};
pub use operation::{AccessFormat, AccessLog, Drain, Jwt, Log, LogFormat, LogLevel, Reload, Trace};
pub use realtime::{Realtime, RealtimeAuth, RealtimeBehaviour, RealtimeNamespace};
pub use route::{Action, JwtMode, PathChange, PathMatch, Patience, Route};
pub use store::{Fsync, Store, StoreKind};
pub use streams::{EventStreamPolicy, Inspect, WebSocketPolicy};
pub use tokens::{PublicKeys, Tokens};
pub use upstream::{
    Balance, Discover, ProxyProtocol, SameSite, Sticky, StickyCookie, Upstream, UpstreamProtocol, UpstreamServer,
    UpstreamTls,
};
pub use webhook::{OnFailure, Webhook, WebhookEvent};

/// A whole, validated configuration. Whatever is named in it exists, and no two parts contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Worker threads; 0 is one for each core.
    pub workers: u16,
    /// What has no place in production was refused when the config was read.
    pub production: bool,
    /// The most open client connections of the process; 0 is no cap.
    pub max_connections: u32,
    /// Patience with clients.
    pub client: Client,
    /// Where clients are awaited; at least one, names and addresses all different.
    pub listeners: Vec<Listener>,
    /// Where health, metrics and stats are served; `None` if switched off.
    pub admin: Option<Admin>,
    /// Groups of servers, names all different.
    pub upstreams: Vec<Upstream>,
    /// Limits by key, names all different.
    pub zones: Vec<Zone>,
    /// The pace at which streams are let in.
    pub admission: Admission,
    /// Tokens checked at the edge; there whenever a route or a template asks for them.
    pub jwt: Option<Jwt>,
    /// Which requests go where, in the order of the file.
    pub routes: Vec<Route>,
    /// The realtime server; `None` if switched off.
    pub realtime: Option<Realtime>,
    /// The realtime APIs that the file declares.
    pub dialects: Vec<Arc<Dialect>>,
    /// Many processes as one server; there whenever a part of the config needs it.
    pub cluster: Option<Cluster>,
    /// Where persistent messages are kept.
    pub store: Store,
    /// What is logged.
    pub log: Log,
    /// Where traces go; `None` makes none.
    pub trace: Option<Trace>,
    /// Whether a changed file is taken up.
    pub reload: Reload,
    /// How the process ends.
    pub drain: Drain,
}

impl Config {
    /// What an application that embeds the server starts from: one listener, no admin listener, no access log, and the
    /// realtime server with every default, its history in memory.
    pub fn embedded(address: SocketAddr, auth: RealtimeAuth) -> Self {
        let listener = Listener::new("app", address);
        Self {
            admin: None,
            realtime: Some(Realtime::new(auth, vec![listener.name.clone()])),
            listeners: vec![listener],
            store: Store { kind: StoreKind::Memory, ..Store::default() },
            log: Log { access: AccessLog::Off, ..Log::default() },
            ..Self::default()
        }
    }
}

/// The listener that is there when none is named: `0.0.0.0:8080`.
impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 0,
            production: false,
            max_connections: 0,
            client: Client::default(),
            listeners: vec![Listener::default()],
            admin: Some(Admin::default()),
            upstreams: Vec::new(),
            zones: Vec::new(),
            admission: Admission::default(),
            jwt: None,
            routes: Vec::new(),
            realtime: None,
            dialects: Vec::new(),
            cluster: None,
            store: Store::default(),
            log: Log::default(),
            trace: None,
            reload: Reload::default(),
            drain: Drain::default(),
        }
    }
}
