//! How failing servers are found, and what is done then.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::words::words;

/// Active probes of each server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// The port; `None` is the server's own.
    pub port: Option<u16>,
    /// From one probe to the next.
    pub interval: Duration,
    /// Percent of the interval by which it varies, at most 100.
    pub jitter: u8,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good probes in a row that bring a server up.
    pub rise: u32,
    /// Bad probes in a row that take it down.
    pub fall: u32,
    /// What is assumed until the first probes.
    pub initially: Initially,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            probe: Probe::Http { path: "/".into(), host: None, status: StatusRanges::default() },
            port: None,
            interval: Duration::from_secs(5),
            jitter: 10,
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            initially: Initially::Up,
        }
    }
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A GET.
    Http {
        /// With a query if it has one.
        path: Arc<str>,
        /// The Host header; `None` is the server's address.
        host: Option<Arc<str>>,
        /// What counts as good.
        status: StatusRanges,
    },
    /// A connection.
    Tcp,
    /// A WebSocket handshake that must be answered with a valid 101.
    WebSocket {
        /// With a query if it has one.
        path: Arc<str>,
        /// The Host header; `None` is the server's address.
        host: Option<Arc<str>>,
    },
}

/// Status codes: `200`, `200-399`, `200-299,304`. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRanges(Vec<RangeInclusive<u16>>);

impl StatusRanges {
    /// Reads a comma list of codes and ranges, each from 100 to 599.
    pub fn parse(text: &str) -> Result<Self, String> {
        let code = |text: &str| match text.trim().parse::<u16>() {
            Ok(code @ 100..=599) => Ok(code),
            Ok(_) | Err(_) => Err(format!("has no status from 100 to 599 but {:?}", text.trim())),
        };
        let range = |part: &str| match part.split_once('-') {
            Some((low, high)) => match (code(low)?, code(high)?) {
                (low, high) if low <= high => Ok(low..=high),
                (low, high) => Err(format!("has a range that ends before it begins: {low}-{high}")),
            },
            None => code(part).map(|code| code..=code),
        };
        text.split(',').map(range).collect::<Result<_, _>>().map(Self)
    }

    /// The ranges, in their order.
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.0
    }

    /// Whether the status is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// `200-399`.
impl Default for StatusRanges {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

/// As in the file.
impl std::fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match (range.start(), range.end()) {
                (low, high) if low == high => write!(f, "{comma}{low}")?,
                (low, high) => write!(f, "{comma}{low}-{high}")?,
            }
        }
        Ok(())
    }
}

/// Ejection of servers that are worse than the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// How often is judged.
    pub interval: Duration,
    /// Requests of a server in an interval below which it is not judged.
    pub min_requests: u32,
    /// Percent of 5xx answers and failed requests, from 1 to 100.
    pub error_rate: u8,
    /// Percent of the median of the servers' mean latencies above which a server goes; 0 is off, otherwise above 100.
    pub latency_factor: u32,
    /// How long it is out, times the number of its ejections, up to ten times.
    pub ejection_time: Duration,
    /// Percent of the servers that may be out at once; one always may.
    pub max_ejected: u8,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            min_requests: 20,
            error_rate: 50,
            latency_factor: 0,
            ejection_time: Duration::from_secs(30),
            max_ejected: 50,
        }
    }
}

/// The circuit breaker of a whole upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Percent of failed requests in the interval that opens it, from 1 to 100.
    pub error_rate: u8,
    /// Requests in the interval below which it does not open.
    pub min_requests: u32,
    /// Over which failures are counted.
    pub interval: Duration,
    /// How long it stays open.
    pub open_for: Duration,
    /// Requests that are let through then, to see.
    pub half_open_requests: u32,
    /// Exchanges at once, streams not counted; 0 is no cap.
    pub max_requests: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            error_rate: 50,
            min_requests: 50,
            interval: Duration::from_secs(10),
            open_for: Duration::from_secs(10),
            half_open_requests: 5,
            max_requests: 0,
        }
    }
}

/// What is tried again, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// What is tried again; all different.
    pub on: Vec<RetryOn>,
    /// Tries in all, the first one included; at least 1.
    pub tries: u32,
    /// No retry after that long; zero is no limit.
    pub timeout: Duration,
    /// Percent of requests that may be retries (at least 10 per second may); 0 is no budget.
    pub budget: u8,
    /// Whether also POST, LOCK and PATCH are tried again.
    pub non_idempotent: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            on: vec![RetryOn::Connect, RetryOn::Reset],
            tries: 3,
            timeout: Duration::ZERO,
            budget: 20,
            non_idempotent: false,
        }
    }
}

words! {
    /// What is assumed of a server until its first probes.
    pub Initially {
        /// It is up.
        Up = "up",
        /// It is down.
        Down = "down",
    }
    /// What is tried again.
    pub RetryOn {
        /// No connection.
        Connect = "connect",
        /// A connection that broke before the response.
        Reset = "reset",
        /// No response in time.
        Timeout = "timeout",
        /// Internal Server Error.
        Status500 = "500",
        /// Bad Gateway.
        Status502 = "502",
        /// Service Unavailable.
        Status503 = "503",
        /// Gateway Timeout.
        Status504 = "504",
        /// Too Many Requests.
        Status429 = "429",
    }
}
