//! The access log: one JSON line per exchange, connection and stream.
//!
//! A worker formats lines into a buffer of its own and gives it away when it is full or a quarter of a second old; one
//! thread writes. The channel between them is bounded: when the disk or the pipe cannot keep up, whole buffers are
//! dropped and their lines counted, never is a worker held up.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate_config::AccessLog as Target;
use tidegate_metrics::Counter;

use crate::StartError;
use crate::json::Object;
use crate::timestamp::Timestamp;

/// A buffer of this size is given to the writer, bytes.
const FLUSH_BYTES: usize = 32 * 1024;
/// Buffers that may wait for the writer, over all workers.
const WAITING: usize = 64;

/// What one line says.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// `http`, `websocket`, `sse` or `socketio`.
    pub kind: &'static str,
    pub request_id: &'a str,
    pub client: SocketAddr,
    pub method: &'a str,
    pub host: &'a [u8],
    /// Without the query, in which secrets may stand.
    pub path: &'a str,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    pub ttfb: Option<Duration>,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub retries: u8,
    /// Events of a stream or messages of a session.
    pub events: u64,
    /// Of a realtime session: `websocket`, `polling` or `sse`.
    pub transport: Option<&'static str>,
    pub tenant: Option<&'a str>,
    pub user: Option<&'a str>,
    pub reason: Option<&'static str>,
    pub error: Option<&'static str>,
}

/// Lines of one worker on their way to the writer.
struct Batch {
    text: Vec<u8>,
    lines: u64,
}

/// The writer's thread, and what workers need to reach it.
pub(crate) struct AccessLog {
    sender: Option<SyncSender<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// Opens the target and starts the writer.
    pub fn open(target: &Target) -> Result<Self, StartError> {
        let output: Box<dyn Write + Send> = match target {
            Target::Off => return Ok(Self { sender: None, thread: None }),
            Target::Stdout => Box::new(io::stdout()),
            Target::Stderr => Box::new(io::stderr()),
            Target::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Box::new(file.map_err(|source| StartError::File { path: path.clone(), source })?)
            }
        };
        let (sender, receiver) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_batches(receiver, output))
            .map_err(StartError::Thread)?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// A worker's end. Dropped lines are counted in `dropped`.
    pub fn lines(&self, dropped: Counter) -> Lines {
        Lines {
            buffer: RefCell::new(Vec::new()),
            count: Cell::new(0),
            timestamp: RefCell::default(),
            sender: self.sender.clone(),
            dropped,
        }
    }

    /// Waits until everything given away has been written. All [`Lines`] must be gone.
    pub fn close(mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_batches(receiver: Receiver<Batch>, mut output: Box<dyn Write + Send>) {
    let mut failed = false;
    while let Ok(batch) = receiver.recv() {
        let written = output.write_all(&batch.text).and_then(|()| output.flush());
        if let Err(error) = written
            && !std::mem::replace(&mut failed, true)
        {
            tracing::error!(%error, lines = batch.lines, "the access log cannot be written; its lines are lost");
        }
    }
}

/// A worker's lines.
pub(crate) struct Lines {
    buffer: RefCell<Vec<u8>>,
    count: Cell<u64>,
    timestamp: RefCell<Timestamp>,
    sender: Option<SyncSender<Batch>>,
    dropped: Counter,
}

impl Lines {
    /// Whether lines go anywhere.
    pub fn enabled(&self) -> bool {
        self.sender.is_some()
    }

    /// Adds a line.
    pub fn write(&self, entry: &Entry<'_>) {
        if !self.enabled() {
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        if buffer.capacity() == 0 {
            buffer.reserve_exact(FLUSH_BYTES + 4 * 1024);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format(&mut buffer, entry, self.timestamp.borrow_mut().format(now));
        self.count.set(self.count.get() + 1);
        if buffer.len() >= FLUSH_BYTES {
            drop(buffer);
            self.flush();
        }
    }

    /// Gives everything to the writer.
    pub fn flush(&self) {
        let Some(sender) = &self.sender else { return };
        let lines = self.count.replace(0);
        if lines == 0 {
            return;
        }
        match sender.try_send(Batch { text: self.buffer.take(), lines }) {
            Ok(()) => {}
            Err(TrySendError::Full(mut batch) | TrySendError::Disconnected(mut batch)) => {
                self.dropped.inc_by(batch.lines);
                batch.text.clear();
                self.buffer.replace(batch.text);
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

fn format(out: &mut Vec<u8>, entry: &Entry<'_>, timestamp: &str) {
    out.reserve(512);
    let mut line = Object::begin(out);
    line.raw_text("ts", timestamp);
    line.raw_text("level", if entry.status >= 500 { "error" } else { "info" });
    line.raw_text("kind", entry.kind);
    // Ids are made or checked here, and a method is a token.
    line.raw_text("request_id", entry.request_id);
    line.address("client", entry.client);
    line.raw_text("method", entry.method);
    line.text("host", entry.host);
    line.text("path", entry.path.as_bytes());
    line.number("status", u64::from(entry.status));
    line.number("bytes_in", entry.bytes_in);
    line.number("bytes_out", entry.bytes_out);
    line.millis("duration_ms", entry.duration);
    if let Some(ttfb) = entry.ttfb {
        line.millis("ttfb_ms", ttfb);
    }
    if let Some(route) = entry.route {
        line.text("route", route.as_bytes());
    }
    if let Some(upstream) = entry.upstream {
        line.text("upstream", upstream.as_bytes());
    }
    if entry.retries > 0 {
        line.number("retries", u64::from(entry.retries));
    }
    if entry.events > 0 {
        line.number("events", entry.events);
    }
    if let Some(transport) = entry.transport {
        line.raw_text("transport", transport);
    }
    if let Some(tenant) = entry.tenant {
        line.text("tenant", tenant.as_bytes());
    }
    if let Some(user) = entry.user {
        line.text("user", user.as_bytes());
    }
    if let Some(reason) = entry.reason {
        line.raw_text("reason", reason);
    }
    if let Some(error) = entry.error {
        line.raw_text("error", error);
    }
    line.end();
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>() -> Entry<'a> {
        Entry {
            kind: "http",
            request_id: "id-1",
            client: "127.0.0.1:5000".parse().unwrap(),
            method: "GET",
            host: b"exa\"mple\xff\n",
            path: "/a\\b",
            status: 200,
            bytes_in: 0,
            bytes_out: 12,
            duration: Duration::from_micros(1_234),
            ttfb: Some(Duration::from_micros(999)),
            route: Some("api"),
            upstream: Some("127.0.0.1:9000"),
            retries: 1,
            events: 0,
            transport: None,
            tenant: None,
            user: None,
            reason: Some("client_closed"),
            error: None,
        }
    }

    #[test]
    fn a_line_is_one_json_object_whatever_the_client_sent() {
        let mut out = Vec::new();
        format(&mut out, &entry(), "2026-01-01T00:00:00.000Z");
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["host"], "exa\"mple\u{fffd}\n");
        assert_eq!(line["path"], "/a\\b");
        assert_eq!(line["duration_ms"], 1.234);
        assert_eq!(line["ttfb_ms"], 0.999);
        assert_eq!(line["retries"], 1);
        assert_eq!(line["client"], "127.0.0.1:5000");
        assert!(line.get("events").is_none());
    }

    #[test]
    fn lines_are_dropped_and_counted_when_the_writer_cannot_keep_up() {
        let (sender, receiver) = sync_channel(1);
        let log = AccessLog { sender: Some(sender), thread: None };
        let dropped = Counter::default();
        let lines = log.lines(dropped.clone());
        for _ in 0..3 {
            lines.write(&entry());
            lines.flush();
        }
        assert_eq!(dropped.get(), 2);
        assert_eq!(receiver.recv().unwrap().lines, 1);
    }

    #[test]
    fn nothing_is_lost_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let log = AccessLog::open(&Target::File(path.clone())).unwrap();
        let lines = log.lines(Counter::default());
        for _ in 0..1_000 {
            lines.write(&entry());
        }
        drop(lines);
        log.close();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 1_000);
    }
}
