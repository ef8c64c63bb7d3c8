use std::sync::Arc;

use tidegate_auth::ApiKeys;
use tidegate_balance::BucketSettings;
use tidegate_types::Millis;

use crate::app::App;
use crate::bridge::InteropSettings;
use crate::door::DoorSettings;
use crate::namespaces::Namespaces;
use crate::webhooks::WebhookSettings;

/// What the realtime server needs to know; every field has the default of the rooms API.
#[derive(Clone)]
pub struct Settings {
    /// Path of Socket.IO, with both slashes.
    pub path: String,
    /// Path under which SSE, publishing and tickets lie, without a slash at its end.
    pub api_path: String,
    /// The namespaces that are served.
    pub namespaces: Namespaces,
    /// The application whose endpoints are served; its namespaces stand in `namespaces`.
    pub app: Option<Arc<App>>,
    /// Heartbeat, timeouts and packet limits of a session.
    pub session: tidegate_session::Settings,
    /// Connections in all and of one address.
    pub door: DoorSettings,
    /// The most rooms one connection may be in.
    pub max_rooms_per_connection: usize,
    /// The most bytes waiting for one connection.
    pub outbox_bytes: usize,
    /// Messages from so many bytes on are compressed for WebSocket clients that ask for it (RFC 7692); `None`: compression
    /// is never agreed to.
    pub compression_threshold: Option<usize>,
    /// How long a cut session can be recovered, ms.
    pub recovery_window_ms: Millis,
    /// Messages in memory for recovery, bytes per (tenant, namespace).
    pub ring_bytes: usize,
    /// After how long without activity a connection is away, ms; 0 = never.
    pub away_after_ms: Millis,
    /// For how long a sender's own id of a message is remembered, ms.
    pub idempotency_window_ms: Millis,
    /// How many messages of a room the history keeps.
    pub history_messages: usize,
    /// Comment heartbeat of SSE streams, ms.
    pub sse_heartbeat_ms: Millis,
    /// Events of all users of one tenant; a rate of 0 = no limit.
    pub tenant_messages: BucketSettings,
    /// Origins that may use the endpoints from a browser; `*` for all.
    pub cors_origins: Vec<String>,
    /// The cookie that holds a token for clients that show none otherwise.
    pub token_cookie: Option<String>,
    /// How long before a token's end its client is told, ms; 0 tells nobody.
    pub expiry_notice_ms: Millis,
    /// Keys of backends that publish.
    pub api_keys: ApiKeys,
    /// Backends that are asked or told.
    pub webhooks: Vec<WebhookSettings>,
    /// Node servers on the same Redis that serve some namespaces, too.
    pub interop: Option<InteropSettings>,
    /// Secret that session ids are authenticated with; kept across restarts where a data directory is.
    pub node_secret: Arc<[u8]>,
    /// Number of this node in its cluster.
    pub node: u16,
    /// How many workers there are.
    pub shards: u16,
    /// When clients are asked to come back after a drain, ms: between so long and five times as long.
    pub reconnect_in_ms: Millis,
    /// For how long a drain spreads the closing of its streams, ms.
    pub drain_spread_ms: Millis,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            path: "/socket.io/".to_owned(),
            api_path: "/realtime".to_owned(),
            namespaces: Namespaces::default(),
            app: None,
            session: tidegate_session::Settings::default(),
            door: DoorSettings::default(),
            max_rooms_per_connection: 100,
            outbox_bytes: 4 << 20,
            compression_threshold: None,
            recovery_window_ms: 120_000,
            ring_bytes: 64 << 20,
            away_after_ms: 300_000,
            idempotency_window_ms: 120_000,
            history_messages: 1_000,
            sse_heartbeat_ms: 30_000,
            tenant_messages: BucketSettings { rate: 0, burst: 0 },
            cors_origins: Vec::new(),
            token_cookie: Some("tidegate_token".to_owned()),
            expiry_notice_ms: 60_000,
            api_keys: ApiKeys::default(),
            webhooks: Vec::new(),
            interop: None,
            node_secret: Arc::from([]),
            node: 0,
            shards: 1,
            reconnect_in_ms: 1_000,
            drain_spread_ms: 2_000,
        }
    }
}
