//! What may stand in a file. Each section is declared once; its reader and its JSON Schema both come from that.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, json};
use toml::Spanned;
use toml::de::DeValue;

use crate::reader::{
    At, Fields, Hidden, Host, List, ListenAddress, Named, Origin, Reader, Section, ServerAddress, Site, Size, Span,
    UrlPath, Value,
};
use crate::text::suggest;
use crate::{LogFormat, LogLevel};

macro_rules! sections {
    ($($(#[doc = $doc:literal])+ $name:ident {
        $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty $(= $default:tt)?,)+
    })+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Default)]
        pub(crate) struct $name {
            $($(#[doc = $field_doc])+ pub $field: Option<At<$type>>,)+
            given: Vec<&'static str>,
        }

        impl $name {
            /// Whether the key is not there at all. One that cannot be read is `None` too, and has its problem already.
            #[allow(dead_code, reason = "not every section has keys that must be there")]
            pub fn lacks(&self, key: &str) -> bool {
                !self.given.contains(&key)
            }
        }

        impl Section for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($field),)+];

            fn from_fields(fields: &Fields<'_>) -> Self {
                Self {
                    $($field: fields.get(stringify!($field)),)+
                    given: Self::KEYS.iter().copied().filter(|key| fields.has(key)).collect(),
                }
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let mut properties = Map::new();
                $(
                    let mut schema = generator.subschema_for::<$type>();
                    schema.insert("description".to_owned(), concat!($($field_doc),+).trim().into());
                    $(schema.insert("default".to_owned(), json!($default));)?
                    properties.insert(stringify!($field).to_owned(), schema.to_value());
                )+
                json_schema!({
                    "description": concat!($($doc),+).trim(),
                    "type": "object",
                    "properties": properties,
                    "additionalProperties": false,
                })
            }
        }
    )+};
}

macro_rules! choices {
    ($($(#[doc = $doc:literal])+ $name:ident { $first:ident = $first_text:literal, $($variant:ident = $text:literal,)+ })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $first, $($variant,)+ }

        impl Value for $name {
            const WANTED: &'static str = concat!("one of \"", $first_text, "\"", $(", \"", $text, "\"",)+);

            fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
                reader.parse(value, site, |text| match text {
                    $first_text => Ok(Self::$first),
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("must be {}{}", Self::WANTED, suggest(text, [$first_text, $($text,)+]))),
                })
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "enum": [$first_text, $($text,)+] })
            }
        }
    )+};
}

sections! {
    /// The configuration of Tidegate.
    TidegateConfig {
        /// Worker threads; 0 is one for each core.
        workers: u64 = 0,
        /// Addresses that clients connect to. Without any: one named "public" at 0.0.0.0:8080.
        listener: List<Listener>,
        /// Where health, metrics and stats are served.
        admin: Admin,
        /// Groups of servers that are interchangeable.
        upstream: Named<Upstream>,
        /// Which requests go to which upstream; the longest path wins.
        route: List<Route>,
        /// The realtime server: Socket.IO, rooms, event streams. Switched on by this section.
        realtime: Realtime,
        /// Where persistent messages are kept.
        store: Store,
        /// What is logged.
        log: Log,
        /// How the process ends.
        drain: Drain,
    }

    /// An address that clients connect to.
    Listener {
        /// The name that routes refer to; may be left out if it is the only listener.
        name: String = "public",
        /// IP address and port; port 0 takes any free port.
        address: ListenAddress = "0.0.0.0:8080",
    }

    /// Where health, metrics and stats are served. Keep it from the public.
    Admin {
        /// Whether there is an admin listener.
        enabled: bool = true,
        /// IP address and port.
        address: ListenAddress = "127.0.0.1:9090",
    }

    /// A group of servers that are interchangeable.
    Upstream {
        /// Addresses, host:port, of equal weight.
        servers: List<ServerAddress>,
        /// Servers with weights: [[upstream.NAME.server]].
        server: List<Server>,
        /// Until a TCP connection stands.
        connect_timeout: Span = "5s",
        /// From a WebSocket handshake to its 101.
        handshake_timeout: Span = "10s",
        /// The longest silence of the server while a response is awaited.
        read_timeout: Span = "60s",
        /// The longest silence of the client while its request body is awaited, or while it does not take the response.
        send_timeout: Span = "60s",
        /// The longest silence of an event stream.
        stream_timeout: Span = "24h",
        /// The longest silence of a WebSocket tunnel, both ways together.
        tunnel_idle_timeout: Span = "1h",
        /// Idle connections kept by each worker.
        keepalive: u64 = 32,
        /// How long an idle connection is kept.
        keepalive_timeout: Span = "60s",
        /// How many requests one connection carries.
        keepalive_requests: u64 = 1000,
        /// Failures in a row of time after which a server is skipped; 0 never skips.
        max_fails: u64 = 1,
        /// How long a failed server is skipped.
        fail_timeout: Span = "10s",
    }

    /// One server of an upstream.
    Server {
        /// The address, host:port.
        address: ServerAddress,
        /// Its share of the requests, from 1 to 65535.
        weight: u64 = 1,
    }

    /// Requests that go to an upstream.
    Route {
        /// Name in logs and metrics; by default host and path.
        name: String,
        /// Only requests of this listener; by default those of all.
        listener: String,
        /// Only requests for this host, without a port; by default those for any host that no route names.
        host: Host,
        /// Only paths that begin so.
        path: UrlPath = "/",
        /// The upstream's name.
        upstream: String,
    }

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
        /// How long a cut connection can be recovered, with the messages that it missed.
        recovery_window: Span = "2m",
        /// The most memory for missed messages, per tenant and namespace.
        recovery_bytes: Size = "64MiB",
        /// The most that waits for one slow connection.
        outbox_bytes: Size = "4MiB",
        /// The most rooms of one connection.
        rooms_per_connection: u64 = 100,
        /// Origins of web pages that may connect from elsewhere, such as "https://example.org"; "*" for all.
        cors_origins: List<Origin> = [],
        /// How often an idle event stream gets a comment, so that proxies keep it open.
        sse_heartbeat: Span = "30s",
        /// Messages per second of one user; 0 is no limit.
        messages_per_second: u64 = 100,
        /// Messages at once of one user.
        message_burst: u64 = 200,
        /// Who is let in.
        auth: Auth,
    }

    /// Who is let in to the realtime server.
    Auth {
        /// The secret of HS256 tokens, at least 32 bytes.
        jwt_secret: Hidden,
        /// A file with that secret.
        jwt_secret_file: String,
        /// The keys of backends that publish: [[realtime.auth.api_keys]].
        api_keys: List<ApiKey>,
    }

    /// The key of a backend that publishes.
    ApiKey {
        /// Its name in logs.
        id: String,
        /// The secret, at least 16 bytes.
        secret: Hidden,
        /// The only tenant that it publishes to; by default each request names one.
        tenant: String,
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
        /// The most that waits for the disk.
        queue_bytes: Size = "64MiB",
    }

    /// What is logged.
    Log {
        /// From which level on.
        level: LogLevel = "info",
        /// As JSON, or as text for people.
        format: LogFormat = "json",
        /// Where the summary lines of connections and requests go: "stdout", "stderr", "off" or the path of a file.
        access: String = "stdout",
    }

    /// How the process ends.
    Drain {
        /// How long connections have to end by themselves.
        timeout: Span = "30s",
        /// When clients are told to come back: each after a random time between this and twice this.
        reconnect_in: Span = "1s",
    }
}

choices! {
    /// Where persistent messages are kept.
    StoreKind { Embedded = "embedded", Memory = "memory", }
    /// When the store is flushed.
    FsyncKind { Always = "always", Interval = "interval", Never = "never", }
}

/// The JSON Schema (draft 2020-12) of the config file.
pub fn json_schema() -> serde_json::Value {
    let mut schema =
        schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<TidegateConfig>();
    schema.insert("title".to_owned(), "tidegate.toml".into());
    schema.to_value()
}
