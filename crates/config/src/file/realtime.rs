//! The realtime server and its store.

use super::{Interop, Webhook};
use crate::BrokerKind;
use crate::reader::{
    AlgorithmName, Hidden, KeyScopes, List, NamespaceName, Optional, Origin, Size, Span, Token, Url, UrlPath,
};
use crate::words::words;

sections! {
    /// The realtime server. Its paths win over routes.
    Realtime {
        /// Whether it is there; this section alone switches it on.
        enabled: bool = true,
        /// Names of the listeners that serve it; by default all.
        listeners: List<String>,
        /// Path of Socket.IO.
        path: UrlPath = "/socket.io/",
        /// Path under which event streams, publishing and tickets lie.
        api_path: UrlPath = "/realtime",
        /// Who gives messages their places: this process alone, or the Redis of [cluster], which makes many processes one server.
        broker: BrokerKind = "local",
        /// How often the server pings a client.
        ping_interval: Span = "25s",
        /// How long it waits for the answer.
        ping_timeout: Span = "20s",
        /// How long a client may take to join its first namespace.
        connect_timeout: Span = "45s",
        /// How long an upgrade from polling to WebSocket may take.
        upgrade_timeout: Span = "10s",
        /// The largest message.
        max_payload: Size = "1MB",
        /// The most connections of this process.
        max_connections: u64 = 10000,
        /// The most connections of one client address (of one /64 for IPv6); 0 is no limit. Mind offices behind one address.
        connections_per_ip: u64 = 0,
        /// New connections of one client address per second; 0 is no limit.
        connects_per_second: u64 = 0,
        /// New connections of one client address at once, before that rate counts.
        connect_burst: u64 = 20,
        /// The most connections of one user in a namespace; 0 is no limit. A dialect's own limit wins.
        connections_per_user: u64 = 0,
        /// The most connections of one tenant in a namespace; 0 is no limit. A dialect's own limit wins.
        connections_per_tenant: u64 = 0,
        /// How long a cut connection can be recovered, with the messages that it missed.
        recovery_window: Span = "2m",
        /// The most memory for missed messages, per tenant and namespace.
        recovery_bytes: Size = "64MiB",
        /// After how long without a sign of its user a connection is away; 0 is never.
        away_after: Span = "5m",
        /// For how long a sender's own id of a message is remembered, so that sending it again does not publish it twice.
        idempotency_window: Span = "2m",
        /// The most that waits for one slow connection.
        outbox_bytes: Size = "4MiB",
        /// Whether WebSocket messages are compressed for clients that ask for it (permessage-deflate).
        compression: bool = false,
        /// Messages from this size on are compressed.
        compression_threshold: Size = "1KiB",
        /// The most rooms of one connection.
        rooms_per_connection: u64 = 100,
        /// The most rooms of one user in a namespace, over all of the user's connections; 0 is no limit. A dialect's own limit wins.
        rooms_per_user: u64 = 0,
        /// Origins of web pages that may connect from elsewhere, such as "https://example.org"; "*" for all.
        cors_origins: List<Origin> = [],
        /// How often an idle event stream gets a comment, so that proxies keep it open.
        sse_heartbeat: Span = "30s",
        /// Messages per second of one user; 0 is no limit.
        messages_per_second: u64 = 100,
        /// Messages at once of one user.
        message_burst: u64 = 200,
        /// Events of one user in a namespace within 60 s; 0 is no limit. A dialect's own limit wins.
        events_per_minute: u64 = 0,
        /// Messages per second of one tenant's users together; 0 is no limit.
        tenant_messages_per_second: u64 = 0,
        /// Messages at once of one tenant's users together.
        tenant_message_burst: u64 = 10000,
        /// Who is let in.
        auth: Auth,
        /// Namespaces beside those that are there by themselves, or otherwise than they are: [[realtime.namespace]].
        namespace: List<RealtimeNamespace>,
        /// Node servers beside this one. Switched on by this section.
        interop: Interop,
        /// Backends that are asked or told: [[realtime.webhook]].
        webhook: List<Webhook>,
    }

    /// A namespace and how it behaves. By themselves there are "/" with the dialect rooms; "/events", "/messaging", "/notifications" and "/dashboard" with cases; "/ws/chat" with chat.
    RealtimeNamespace {
        /// Its name, such as "/game".
        name: String,
        /// "rooms", "cases", "chat", or the name of a [dialect.NAME]. One that is there by itself keeps its own.
        dialect: String,
        /// Whether a token is needed; who shows none is "anonymous" otherwise.
        auth: Entrance = "required",
        /// Whether it is there.
        enabled: bool = true,
    }

    /// Who is let in to the realtime server.
    Auth {
        /// The secret of HMAC tokens, at least 32 bytes for HS256, 48 for HS384, 64 for HS512.
        jwt_secret: Hidden,
        /// A file with that secret.
        jwt_secret_file: String,
        /// The algorithms that count, such as ["ES256", "RS256"]; by default the usual one of each key (HS256, RS256, ES256, ES384, EdDSA). A key is used with one algorithm: its own, or the first of these that fits it.
        algorithms: List<AlgorithmName> = [],
        /// PEM files with the issuer's public keys; read again at a reload.
        public_keys: List<String> = [],
        /// Where the issuer publishes its keys (JWKS, RFC 7517). Fetched in the background; while it cannot be, the last keys count.
        jwks_url: Optional<Url> = "",
        /// A file with such a document; looked at every second.
        jwks_file: Optional<String> = "",
        /// How often jwks_url is fetched. A token with an unknown kid has it fetched at once, every 10 seconds at most.
        jwks_refresh: Span = "10m",
        /// One of these must stand in a token's aud; by default it is not looked at.
        audience: List<String> = [],
        /// One of these must be a token's iss; by default it is not looked at.
        issuer: List<String> = [],
        /// How far the issuer's clock may be off; counts for exp and nbf.
        leeway: Span = "0s",
        /// The cookie that holds a token, for clients that send none otherwise; "" for none.
        cookie: Optional<Token> = "tidegate_token",
        /// How long before its token expires a client is told (auth:expiring), so that it can send a new one (auth:refresh); 0 tells nobody.
        expiry_notice: Span = "60s",
        /// The keys of backends that use the HTTP API: [[realtime.auth.api_keys]].
        api_keys: List<ApiKey>,
    }

    /// The key of a backend that uses the HTTP API.
    ApiKey {
        /// Its name in logs.
        id: String,
        /// The secret, at least 16 bytes.
        secret: Hidden,
        /// The only tenant that it concerns; by default each request names one.
        tenant: String,
        /// What may be done with it: "publish", "history", "presence", "rooms", "connections", "disconnect", "membership", "revoke", or "*" for all.
        scopes: List<KeyScopes> = ["publish"],
        /// The only rooms that it concerns, such as "case:*", where "*" stands for any text; by default all.
        rooms: List<String>,
        /// The only namespaces that it concerns; by default all.
        namespaces: List<NamespaceName>,
        /// Requests per second; each operation of a batch counts. 0 is no limit.
        requests_per_second: u64 = 0,
        /// Requests at once; by default twice "requests_per_second".
        request_burst: u64,
    }

    /// Where persistent messages are kept, and how many.
    Store {
        /// "embedded" (on disk) or "memory"; by default "embedded" if there is a path.
        kind: StoreKind,
        /// The directory of the embedded store.
        path: String,
        /// When the embedded store is flushed to the disk: "always" before a message is acknowledged, at an "interval", or "never" by itself.
        fsync: FsyncKind = "always",
        /// The interval for fsync = "interval".
        fsync_interval: Span = "1s",
        /// How long a message is kept.
        ttl: Span = "1h",
        /// How many messages of one room are kept.
        max_messages_per_room: u64 = 1000,
        /// How many payload bytes of one room are kept; its newest message is kept in any case.
        max_bytes_per_room: Size = "16MiB",
        /// The most that waits for the disk.
        queue_bytes: Size = "64MiB",
    }
}

words! {
    /// Whether a token is needed.
    pub(crate) Entrance {
        /// Nobody enters without one.
        Required = "required",
        /// Who shows none is a stranger.
        Optional = "optional",
    }
    /// Where persistent messages are kept.
    pub(crate) StoreKind {
        /// On disk.
        Embedded = "embedded",
        /// Until the process ends.
        Memory = "memory",
    }
    /// When the store is flushed.
    pub(crate) FsyncKind {
        /// Before a message is acknowledged.
        Always = "always",
        /// Every so often.
        Interval = "interval",
        /// When the system likes.
        Never = "never",
    }
}
