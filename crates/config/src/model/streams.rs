//! What happens inside WebSockets and event streams that go through the gateway.

use std::sync::Arc;
use std::time::Duration;

use crate::words::words;

/// What happens inside a route's WebSockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketPolicy {
    /// How close frames are looked at.
    pub inspect: Inspect,
    /// The largest message from the client, bytes, else 1009; 0 is no limit.
    pub max_message: u64,
    /// Messages per second from the client, else 1008; 0 is no limit.
    pub messages_per_second: u32,
    /// Messages at once; at least 1 if there is a limit.
    pub message_burst: u32,
    /// Bytes per second from the client, else 1008; 0 is no limit.
    pub bytes_per_second: u64,
    /// A template; the two rates also hold for all connections of one value together. `None`: for each alone.
    pub key: Option<Arc<str>>,
    /// How often the gateway pings both ends; zero is never.
    pub ping_interval: Duration,
    /// How long the answer may take, then 1011.
    pub ping_timeout: Duration,
    /// The longest silence; `None` is the tunnel_idle_timeout of route or upstream.
    pub idle_timeout: Option<Duration>,
}

impl Default for WebSocketPolicy {
    fn default() -> Self {
        Self {
            inspect: Inspect::Off,
            max_message: 0,
            messages_per_second: 0,
            message_burst: 0,
            bytes_per_second: 0,
            key: None,
            ping_interval: Duration::ZERO,
            ping_timeout: Duration::from_secs(20),
            idle_timeout: None,
        }
    }
}

/// What happens inside a route's event streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventStreamPolicy {
    /// A comment when the upstream was silent for so long; zero is never.
    pub heartbeat: Duration,
    /// Then the stream is ended after an event; zero is never.
    pub max_life: Duration,
    /// When clients are told to come back, then and at a drain: after a random time between this and twice this.
    pub retry: Duration,
}

impl Default for EventStreamPolicy {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(30), max_life: Duration::ZERO, retry: Duration::from_secs(2) }
    }
}

words! {
    /// How close WebSocket frames are looked at.
    pub Inspect {
        /// Not at all.
        Off = "off",
        /// Messages are counted and limited.
        Meter = "meter",
        /// Also validated: 1002, 1007.
        Strict = "strict",
    }
}
