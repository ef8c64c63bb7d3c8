//! Logs, traces, reload and the end of the process.

use crate::reader::{Endpoint, LogLook, Optional, Percent, Span};
use crate::{LogFormat, LogLevel};

sections! {
    /// What is logged.
    Log {
        /// From which level on.
        level: LogLevel = "info",
        /// As JSON, or as text for people.
        format: LogFormat = "json",
        /// Where the summary lines of connections and requests go: "stdout", "stderr", "off" or the path of a file.
        access: String = "stdout",
        /// How those lines look: "json", "combined" or a template.
        access_format: Optional<LogLook> = "json",
        /// Lines that wait for a slow target; beyond, they are dropped and counted.
        queue_lines: u64 = 8192,
    }

    /// Where traces go: OpenTelemetry, OTLP over HTTP.
    Trace {
        /// The collector's address, without /v1/traces.
        endpoint: Endpoint = "http://127.0.0.1:4318",
        /// Percent of the requests that have no sampled traceparent of their own; a fraction such as "0.1" is a string.
        sample: Percent = 1,
        /// The name of this service.
        service_name: String = "tidegate",
    }

    /// Whether a changed file is taken up by itself.
    Reload {
        /// The file is looked at every second; a change that has no problems is taken up.
        watch: bool = false,
    }

    /// How the process ends.
    Drain {
        /// How long connections have to end by themselves.
        timeout: Span = "30s",
        /// When clients are told to come back: each after a random time between this and twice this.
        reconnect_in: Span = "1s",
        /// From failing readiness to closing the listeners; the flag --drain-delay overrides it.
        delay: Span = "1s",
        /// Connections asked to go per second; 0 spreads them over a third of the timeout.
        rate: u64 = 0,
        /// Percent by which that pace varies.
        jitter: u64 = 20,
    }
}
