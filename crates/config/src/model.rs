use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_auth::{ApiKey, Secret};

/// A whole, validated configuration. Whatever is named in it exists, and no two parts contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Worker threads; 0 is one for each core.
    pub workers: u16,
    /// Where clients are awaited; at least one, names and addresses all different.
    pub listeners: Vec<Listener>,
    /// Where health, metrics and stats are served; `None` if switched off.
    pub admin: Option<Admin>,
    /// Groups of servers, names all different.
    pub upstreams: Vec<Upstream>,
    /// Which requests go where.
    pub routes: Vec<Route>,
    /// The realtime server; `None` if switched off.
    pub realtime: Option<Realtime>,
    /// Where persistent messages are kept.
    pub store: Store,
    /// What is logged.
    pub log: Log,
    /// How the process ends.
    pub drain: Drain,
}

/// The listener that is there when none is named: `0.0.0.0:8080`.
impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 0,
            listeners: vec![Listener::default()],
            admin: Some(Admin::default()),
            upstreams: Vec::new(),
            routes: Vec::new(),
            realtime: None,
            store: Store::default(),
            log: Log::default(),
            drain: Drain::default(),
        }
    }
}

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The name that routes refer to.
    pub name: Arc<str>,
    /// The address; port 0 takes any free port.
    pub address: SocketAddr,
}

impl Default for Listener {
    fn default() -> Self {
        Self { name: "public".into(), address: (Ipv4Addr::UNSPECIFIED, 8080).into() }
    }
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The address; port 0 takes any free port.
    pub address: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: (Ipv4Addr::LOCALHOST, 9090).into() }
    }
}

/// A group of servers that are interchangeable, and how patient to be with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The name that routes refer to.
    pub name: Arc<str>,
    /// At least one, addresses all different.
    pub servers: Vec<UpstreamServer>,
    /// Until a TCP connection stands.
    pub connect_timeout: Duration,
    /// From a WebSocket handshake to its 101.
    pub handshake_timeout: Duration,
    /// The longest silence of the server while a response is awaited.
    pub read_timeout: Duration,
    /// The longest silence of the client while its request body is awaited or while it does not take the response.
    pub send_timeout: Duration,
    /// The longest silence of an event stream.
    pub stream_timeout: Duration,
    /// The longest silence of a WebSocket tunnel.
    pub tunnel_idle_timeout: Duration,
    /// Idle connections kept per worker.
    pub keepalive: usize,
    /// How long an idle connection is kept.
    pub keepalive_timeout: Duration,
    /// How many requests one connection carries.
    pub keepalive_requests: u64,
    /// Failures after which a server is skipped; 0 never skips.
    pub max_fails: u32,
    /// How long it is skipped.
    pub fail_timeout: Duration,
}

impl Upstream {
    /// An upstream with the default patience and equal weights; addresses are `host:port`.
    pub fn new(name: &str, addresses: &[&str]) -> Self {
        let server = |address: &&str| UpstreamServer { address: (*address).into(), weight: 1 };
        Self {
            name: name.into(),
            servers: addresses.iter().map(server).collect(),
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            stream_timeout: Duration::from_secs(24 * 3600),
            tunnel_idle_timeout: Duration::from_secs(3600),
            keepalive: 32,
            keepalive_timeout: Duration::from_secs(60),
            keepalive_requests: 1_000,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
        }
    }
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamServer {
    /// `host:port`; the host is a name, an IPv4 address or an IPv6 address in brackets.
    pub address: Arc<str>,
    /// Its share of the requests, at least 1.
    pub weight: u32,
}

/// Requests that go to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name for logs and metrics, unique.
    pub name: Arc<str>,
    /// The listener's name; `None` is every listener.
    pub listener: Option<Arc<str>>,
    /// The host, lower case and without a port; `None` is any host that no other route names.
    pub host: Option<Arc<str>>,
    /// The path's beginning; begins with `/`.
    pub path: Arc<str>,
    /// The upstream's name.
    pub upstream: Arc<str>,
}

/// The realtime server. Its paths win over routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realtime {
    /// Names of the listeners that serve it; all of them by default.
    pub listeners: Vec<Arc<str>>,
    /// Path of Socket.IO, with a slash at both ends.
    pub path: Arc<str>,
    /// Path under which event streams, publishing and tickets lie, without a slash at its end.
    pub api_path: Arc<str>,
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
    /// How long a cut connection can be recovered.
    pub recovery_window: Duration,
    /// The most bytes kept in memory for recovery, per tenant and namespace.
    pub recovery_bytes: usize,
    /// The most bytes that wait for one connection.
    pub outbox_bytes: usize,
    /// The most rooms of one connection.
    pub rooms_per_connection: usize,
    /// Origins of web pages that may connect from elsewhere, `*` for all; none by default.
    pub cors_origins: Vec<String>,
    /// How often an idle event stream gets a comment.
    pub sse_heartbeat: Duration,
    /// Messages per second of one user; 0 is no limit.
    pub messages_per_second: u32,
    /// Messages at once of one user.
    pub message_burst: u32,
    /// Who is let in.
    pub auth: RealtimeAuth,
}

impl Realtime {
    /// The realtime server with every default, on the listeners named.
    pub fn new(auth: RealtimeAuth, listeners: Vec<Arc<str>>) -> Self {
        Self {
            listeners,
            path: "/socket.io/".into(),
            api_path: "/realtime".into(),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(45),
            upgrade_timeout: Duration::from_secs(10),
            max_payload: 1_000_000,
            max_connections: 10_000,
            recovery_window: Duration::from_secs(120),
            recovery_bytes: 64 << 20,
            outbox_bytes: 4 << 20,
            rooms_per_connection: 100,
            cors_origins: Vec::new(),
            sse_heartbeat: Duration::from_secs(30),
            messages_per_second: 100,
            message_burst: 200,
            auth,
        }
    }
}

/// The credentials that the realtime server knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealtimeAuth {
    /// The secret of HS256 tokens, at least 32 bytes.
    pub jwt_secret: Secret,
    /// The keys of backends that publish.
    pub api_keys: Vec<ApiKey>,
}

/// Where persistent messages are kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Where.
    pub kind: StoreKind,
    /// How long a message is kept.
    pub ttl: Duration,
    /// How many messages of one room are kept.
    pub max_messages_per_room: usize,
    /// The most bytes that wait for the writer.
    pub queue_bytes: usize,
}

/// In memory, an hour, 1,000 messages a room.
impl Default for Store {
    fn default() -> Self {
        Self {
            kind: StoreKind::Memory,
            ttl: Duration::from_secs(3600),
            max_messages_per_room: 1_000,
            queue_bytes: 64 << 20,
        }
    }
}

/// Where persistent messages are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Until the process ends.
    Memory,
    /// On this machine's disk.
    Embedded {
        /// The directory, relative to the working directory.
        path: PathBuf,
        /// When it is flushed to the disk.
        fsync: Fsync,
    },
}

/// When the store is flushed to the disk. A killed process loses nothing in any case; this is about the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before a message is acknowledged.
    Always,
    /// Every so often.
    Interval(Duration),
    /// When the operating system likes.
    Never,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// From which level on.
    pub level: LogLevel,
    /// As what.
    pub format: LogFormat,
    /// Where the summary lines of connections and exchanges go.
    pub access: AccessLog,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Json, access: AccessLog::Stdout }
    }
}

/// From which level on the process logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may fail.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Where the summary lines of connections and exchanges go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, to which lines are appended.
    File(PathBuf),
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long connections have to end by themselves.
    pub timeout: Duration,
    /// When clients are told to come back: each after a random time between this and twice this.
    pub reconnect_in: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), reconnect_in: Duration::from_secs(1) }
    }
}
