//! What is logged and traced, how the config is taken up again and how the process ends; tokens at the edge.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_auth::Secret;

use crate::Tokens;
use crate::words::words;

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// From which level on.
    pub level: LogLevel,
    /// As what.
    pub format: LogFormat,
    /// Where the summary lines of connections and exchanges go.
    pub access: AccessLog,
    /// How those lines look.
    pub access_format: AccessFormat,
    /// Lines that wait for a slow target; beyond, they are dropped and counted.
    pub queue_lines: usize,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Json,
            access: AccessLog::Stdout,
            access_format: AccessFormat::Json,
            queue_lines: 8_192,
        }
    }
}

words! {
    /// From which level on the process logs.
    pub LogLevel {
        /// What failed.
        Error = "error",
        /// What may fail.
        Warn = "warn",
        /// What an operator wants to know.
        Info = "info",
        /// What a developer wants to know.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
    /// How a log line of the process looks.
    pub LogFormat {
        /// One JSON object a line.
        Json = "json",
        /// For people.
        Text = "text",
    }
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

/// How the summary lines look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessFormat {
    /// One JSON object a line.
    Json,
    /// nginx's and Apache's combined.
    Combined,
    /// A template.
    Template(Arc<str>),
}

/// OpenTelemetry, OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The collector's address without `/v1/traces`.
    pub endpoint: Arc<str>,
    /// How many of a million requests without a sampled `traceparent` of their own.
    pub sample: u32,
    /// The resource's `service.name`.
    pub service_name: Arc<str>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { endpoint: "http://127.0.0.1:4318".into(), sample: 10_000, service_name: "tidegate".into() }
    }
}

/// Whether a changed file is taken up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reload {
    /// Whether the file is looked at every second.
    pub watch: bool,
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long connections have to end by themselves.
    pub timeout: Duration,
    /// When clients are told to come back: each after a random time between this and twice this.
    pub reconnect_in: Duration,
    /// From failing readiness to closing the listeners.
    pub delay: Duration,
    /// Connections asked to go per second; 0 spreads them over a third of the timeout.
    pub rate: u32,
    /// Percent by which that pace varies, at most 100.
    pub jitter: u8,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            reconnect_in: Duration::from_secs(1),
            delay: Duration::from_secs(1),
            rate: 0,
            jitter: 20,
        }
    }
}

/// Tokens checked at the edge. At least one of header, cookie and query is there; asked in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// Which tokens count.
    pub tokens: Tokens,
    /// The header that holds `Bearer TOKEN`, lower case.
    pub header: Option<Arc<str>>,
    /// The cookie that holds a token.
    pub cookie: Option<Arc<str>>,
    /// The query parameter that holds a token.
    pub query: Option<Arc<str>>,
}

impl Jwt {
    /// HS256 tokens under one secret, in `Authorization` only.
    pub fn new(secret: Secret) -> Self {
        Self::of(Tokens::hs256(secret))
    }

    /// Tokens in `Authorization` only.
    pub fn of(tokens: Tokens) -> Self {
        Self { tokens, header: Some("authorization".into()), cookie: None, query: None }
    }
}
