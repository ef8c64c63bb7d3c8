//! The realtime server: Socket.IO, rooms, event streams.

use std::sync::Arc;
use std::time::Duration;

use tidegate_auth::{ApiKey, Secret};
use tidegate_dialect::Dialect;
use tidegate_types::Namespace;

use crate::{BrokerKind, Interop, Tokens, Webhook};

/// The realtime server. Its paths win over routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realtime {
    /// Names of the listeners that serve it; all of them by default.
    pub listeners: Vec<Arc<str>>,
    /// Path of Socket.IO, with a slash at both ends.
    pub path: Arc<str>,
    /// Path under which event streams, publishing and tickets lie, without a slash at its end.
    pub api_path: Arc<str>,
    /// Who gives messages their places.
    pub broker: BrokerKind,
    /// How often the server pings.
    pub ping_interval: Duration,
    /// How long it waits for the pong.
    pub ping_timeout: Duration,
    /// How long a client may take to join its first namespace.
    pub connect_timeout: Duration,
    /// How long an upgrade from polling may take.
    pub upgrade_timeout: Duration,
    /// The largest message, bytes.
    pub max_payload: usize,
    /// The most connections of this process.
    pub max_connections: usize,
    /// The most connections of one client address, of one /64 for IPv6; 0 is no limit.
    pub connections_per_ip: u32,
    /// New connections of one client address per second; 0 is no limit.
    pub connects_per_second: u32,
    /// New connections of one client address at once.
    pub connect_burst: u32,
    /// The most connections of one user in a namespace; 0 is no limit.
    pub connections_per_user: u32,
    /// The most connections of one tenant in a namespace; 0 is no limit.
    pub connections_per_tenant: u32,
    /// How long a cut connection can be recovered.
    pub recovery_window: Duration,
    /// The most bytes kept in memory for recovery, per tenant and namespace.
    pub recovery_bytes: usize,
    /// After how long without activity a connection is away; 0 is never.
    pub away_after: Duration,
    /// For how long a sender's own id of a message is remembered.
    pub idempotency_window: Duration,
    /// The most bytes that wait for one connection.
    pub outbox_bytes: usize,
    /// Whether WebSocket messages are compressed for clients that ask for it.
    pub compression: bool,
    /// Messages from so many bytes on are compressed.
    pub compression_threshold: usize,
    /// The most rooms of one connection.
    pub rooms_per_connection: usize,
    /// The most rooms of one user in a namespace; 0 is no limit.
    pub rooms_per_user: u32,
    /// Origins of web pages that may connect from elsewhere, `*` for all; none by default.
    pub cors_origins: Vec<String>,
    /// How often an idle event stream gets a comment.
    pub sse_heartbeat: Duration,
    /// Messages per second of one user; 0 is no limit.
    pub messages_per_second: u32,
    /// Messages at once of one user.
    pub message_burst: u32,
    /// Events of one user in a namespace within 60 s; 0 is no limit.
    pub events_per_minute: u32,
    /// Messages per second of one tenant; 0 is no limit.
    pub tenant_messages_per_second: u32,
    /// Messages at once of one tenant.
    pub tenant_message_burst: u32,
    /// Who is let in.
    pub auth: RealtimeAuth,
    /// The namespaces that are served, names all different.
    pub namespaces: Vec<RealtimeNamespace>,
    /// Node servers beside this one.
    pub interop: Option<Interop>,
    /// Backends that are asked or told, names all different.
    pub webhooks: Vec<Webhook>,
}

/// A namespace that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealtimeNamespace {
    /// Its name.
    pub name: Namespace,
    /// What its events do.
    pub behaviour: RealtimeBehaviour,
    /// Whether a token is needed.
    pub needs_token: bool,
}

/// What the events of a namespace do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RealtimeBehaviour {
    /// The rooms API.
    Rooms,
    /// What a dialect declares.
    Dialect(Arc<Dialect>),
}

impl RealtimeBehaviour {
    /// As in the file.
    pub fn name(&self) -> &str {
        match self {
            Self::Rooms => "rooms",
            Self::Dialect(dialect) => dialect.name(),
        }
    }
}

impl Realtime {
    /// The realtime server with every default, on the listeners named.
    pub fn new(auth: RealtimeAuth, listeners: Vec<Arc<str>>) -> Self {
        Self {
            listeners,
            path: "/socket.io/".into(),
            api_path: "/realtime".into(),
            broker: BrokerKind::Local,
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(45),
            upgrade_timeout: Duration::from_secs(10),
            max_payload: 1_000_000,
            max_connections: 10_000,
            connections_per_ip: 0,
            connects_per_second: 0,
            connect_burst: 20,
            connections_per_user: 0,
            connections_per_tenant: 0,
            recovery_window: Duration::from_secs(120),
            recovery_bytes: 64 << 20,
            away_after: Duration::from_secs(300),
            idempotency_window: Duration::from_secs(120),
            outbox_bytes: 4 << 20,
            compression: false,
            compression_threshold: 1 << 10,
            rooms_per_connection: 100,
            rooms_per_user: 0,
            cors_origins: Vec::new(),
            sse_heartbeat: Duration::from_secs(30),
            messages_per_second: 100,
            message_burst: 200,
            events_per_minute: 0,
            tenant_messages_per_second: 0,
            tenant_message_burst: 10_000,
            auth,
            namespaces: crate::check::namespaces_by_default(),
            interop: None,
            webhooks: Vec::new(),
        }
    }
}

/// The credentials that the realtime server knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealtimeAuth {
    /// Which tokens count.
    pub tokens: Tokens,
    /// The cookie that holds a token for those who send none otherwise.
    pub cookie: Option<Arc<str>>,
    /// How long before its token expires a client is told.
    pub expiry_notice: Duration,
    /// The keys of backends that publish.
    pub api_keys: Vec<ApiKey>,
}

impl RealtimeAuth {
    /// Tokens of that kind, with every default.
    pub fn new(tokens: Tokens) -> Self {
        Self {
            tokens,
            cookie: Some("tidegate_token".into()),
            expiry_notice: Duration::from_secs(60),
            api_keys: Vec::new(),
        }
    }

    /// HS256 tokens under one secret, with every default.
    pub fn hs256(secret: Secret) -> Self {
        Self::new(Tokens::hs256(secret))
    }

    /// No credential at all: no token is valid. For applications whose namespaces look at none.
    pub fn none() -> Self {
        Self { cookie: None, ..Self::new(Tokens::default()) }
    }
}
