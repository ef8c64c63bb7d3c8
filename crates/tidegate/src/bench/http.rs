//! HTTP/1.1 load: a closed loop of requests on each connection.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;

use super::args::Common;
use super::histogram::Histogram;
use super::link::{Reader, Scratch, Writer, halves};
use super::report::{Failures, Report, grouped, measure};
use super::target::Target;
use super::tls::Tls;
use super::websocket::head_end;

/// Options of `bench http`.
#[derive(Debug, Args)]
pub struct HttpArgs {
    /// What to request, e.g. http://127.0.0.1:8080/.
    #[arg(long)]
    url: String,
    /// Connections, each with one request under way.
    #[arg(long, short, default_value_t = 64)]
    connections: usize,
    /// One connection per request instead of keep-alive.
    #[arg(long)]
    new_connections: bool,
    /// No TLS session is resumed: each new connection shakes hands in full.
    #[arg(long)]
    no_resumption: bool,
    /// Each request asks with the next of so many values of this header, `Name=COUNT`.
    #[arg(long)]
    vary: Option<String>,
    /// Header to add, `Name: value`; may be repeated.
    #[arg(long)]
    header: Vec<String>,
    #[command(flatten)]
    common: Common,
}

struct State {
    target: Target,
    /// Without its empty line.
    request: Vec<u8>,
    varied: Option<Varied>,
    scratch: Scratch,
    completed: Cell<u64>,
    bytes: Cell<u64>,
    opened: Cell<u64>,
    refused: Cell<u64>,
    latency: RefCell<Histogram>,
    failures: Failures,
}

/// Runs the case.
pub async fn run(args: HttpArgs) -> anyhow::Result<()> {
    let mut target = Target::parse(&args.url)?;
    if args.no_resumption {
        target.tls = target.tls.map(Tls::without_resumption);
    }
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: tidegate-bench\r\nAccept: */*\r\n",
        target.path, target.host
    );
    for header in &args.header {
        let valid = header.split_once(':').is_some_and(|(name, _)| !name.is_empty()) && !header.contains(['\r', '\n']);
        anyhow::ensure!(valid, "`{header}` is not a header; write `Name: value`");
        request.push_str(header);
        request.push_str("\r\n");
    }
    let varied = args.vary.as_deref().map(Varied::parse).transpose()?;
    let state = Rc::new(State {
        target,
        request: request.into_bytes(),
        varied,
        scratch: Scratch::new(),
        completed: Cell::new(0),
        bytes: Cell::new(0),
        opened: Cell::new(0),
        refused: Cell::new(0),
        latency: RefCell::new(Histogram::new()),
        failures: Failures::default(),
    });
    // One request first: what is wrong is said at once instead of counted a million times.
    let mut probe = Connection::open(&state, 0).await?;
    probe.exchange(&state).await.context("the first request failed")?;
    drop(probe);
    state.completed.set(0);
    for index in 0..args.connections {
        tokio::task::spawn_local(client(Rc::clone(&state), index, args.new_connections));
    }
    let last = Cell::new(0);
    let live = Rc::clone(&state);
    let measured = measure(
        &args.common,
        move |_| {
            let done = live.completed.get();
            let since = done.saturating_sub(last.replace(done));
            format!("{} requests (+{}), {} failures", grouped(done), grouped(since), grouped(live.failures.count()))
        },
        || {
            state.completed.set(0);
            state.bytes.set(0);
            state.opened.set(0);
            state.refused.set(0);
            if let Some(tls) = &state.target.tls {
                tls.resumed().set(0);
            }
            state.latency.borrow_mut().clear();
        },
        || false,
    )
    .await?;
    let completed = state.completed.get();
    let mut report = Report::new(if args.new_connections { "http, new connections" } else { "http" }, &state.target);
    report.count("connections", "connections", args.connections as u64);
    report.count("completed", "requests", completed);
    report.count("opened", "connections opened", state.opened.get());
    if let Some(tls) = &state.target.tls {
        report.count("resumed", "TLS sessions resumed", tls.resumed().get());
    }
    report.count("not_2xx", "answers that were not 2xx", state.refused.get());
    report.count("body_bytes", "body bytes", state.bytes.get());
    report.cost(&measured, completed, "request");
    report.latency(&state.latency.borrow());
    report.failures(&state.failures);
    report.print(args.common.json)
}

async fn client(state: Rc<State>, index: usize, new_connections: bool) {
    let mut connection = None;
    let mut turn = index;
    loop {
        let result = async {
            let started = Instant::now();
            let mut open = match connection.take() {
                Some(open) => open,
                None => {
                    turn = turn.wrapping_add(1);
                    Connection::open(&state, if new_connections { turn } else { 0 }).await?
                }
            };
            let again = open.exchange(&state).await?;
            state.latency.borrow_mut().record(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
            state.completed.set(state.completed.get() + 1);
            if again && !new_connections {
                connection = Some(open);
            }
            anyhow::Ok(())
        }
        .await;
        if let Err(error) = result {
            state.failures.note(&error);
            // A dead server must not turn the generator into a busy loop.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A header whose value is another one in each request.
struct Varied {
    name: String,
    count: u32,
    next: Cell<u32>,
}

impl Varied {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, count) = text.split_once('=').with_context(|| format!("`{text}` is not Name=COUNT"))?;
        let count: u32 = count.parse().with_context(|| format!("`{count}` is not a number"))?;
        anyhow::ensure!(
            count > 0 && !name.is_empty() && !name.contains(['\r', '\n', ':']),
            "`{text}` is not Name=COUNT"
        );
        Ok(Self { name: name.to_owned(), count, next: Cell::new(0) })
    }

    fn write(&self, request: &mut Vec<u8>) {
        let number = self.next.get();
        self.next.set((number + 1) % self.count);
        request.extend_from_slice(format!("{}: {number}\r\n", self.name).as_bytes());
    }
}

struct Connection {
    reader: Reader,
    writer: Rc<Writer>,
}

impl Connection {
    /// `spread`: 0 lets the system choose the source address; others walk over 127.0.0.2–201, because the closed
    /// connections of one address hold its ports for a minute.
    async fn open(state: &State, spread: usize) -> anyhow::Result<Self> {
        let loopback = matches!(state.target.address.ip(), IpAddr::V4(ip) if ip.is_loopback());
        let source = (loopback && spread > 0).then(|| Ipv4Addr::new(127, 0, 0, 2 + (spread % 200) as u8));
        let stream = state.target.connect(source).await?;
        state.opened.set(state.opened.get() + 1);
        let (reader, writer) = halves(stream, &state.scratch);
        Ok(Self { reader, writer })
    }

    /// One request and its whole response; whether the connection may be used again.
    async fn exchange(&mut self, state: &State) -> anyhow::Result<bool> {
        let mut request = state.request.clone();
        if let Some(varied) = &state.varied {
            varied.write(&mut request);
        }
        request.extend_from_slice(b"\r\n");
        self.writer.send(&request).await?;
        let mut response = Response::default();
        loop {
            let open = self.reader.read(|bytes| response.feed(bytes)).await?;
            if response.done || (!open && response.ends_with_the_connection()) {
                break;
            }
            if !open {
                bail!("the server closed the connection in the middle of a response");
            }
        }
        state.bytes.set(state.bytes.get() + response.body_bytes);
        if !(200..300).contains(&response.status) {
            state.refused.set(state.refused.get() + 1);
        }
        Ok(response.done && !response.close)
    }
}

/// A response as it arrives. Only what tells where it ends is understood.
#[derive(Default)]
struct Response {
    status: u16,
    close: bool,
    done: bool,
    body_bytes: u64,
    body: Body,
}

#[derive(Default, PartialEq)]
enum Body {
    #[default]
    Head,
    Left(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    UntilClose,
}

impl Response {
    fn ends_with_the_connection(&self) -> bool {
        self.body == Body::UntilClose
    }

    fn feed(&mut self, bytes: &[u8]) -> anyhow::Result<usize> {
        let mut used = 0;
        while !self.done {
            let rest = bytes.get(used..).unwrap_or_default();
            let step = match self.body {
                Body::Head => {
                    let Some(end) = head_end(rest) else { break };
                    self.head(rest.get(..end).unwrap_or_default())?;
                    end
                }
                Body::Left(left) => self.take(rest, left, |left| if left == 0 { None } else { Some(Body::Left(left)) }),
                Body::Chunk(left) => {
                    self.take(rest, left, |left| Some(if left == 0 { Body::ChunkEnd } else { Body::Chunk(left) }))
                }
                Body::UntilClose => self.take(rest, u64::MAX, |_| Some(Body::UntilClose)),
                Body::ChunkSize | Body::ChunkEnd | Body::Trailer => {
                    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { break };
                    let line = rest.get(..end).unwrap_or_default().trim_ascii();
                    match self.body {
                        Body::ChunkSize => {
                            let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
                            let size = std::str::from_utf8(size)
                                .ok()
                                .and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
                            let size = size.context("the response's chunk size is not a number")?;
                            self.body = if size == 0 { Body::Trailer } else { Body::Chunk(size) };
                        }
                        Body::ChunkEnd => self.body = Body::ChunkSize,
                        Body::Head | Body::Left(_) | Body::Chunk(_) | Body::UntilClose | Body::Trailer => {
                            self.done = line.is_empty();
                        }
                    }
                    end + 1
                }
            };
            used += step;
            if step == 0 {
                break;
            }
        }
        Ok(used)
    }

    fn take(&mut self, rest: &[u8], left: u64, next: impl Fn(u64) -> Option<Body>) -> usize {
        let step = (rest.len() as u64).min(left);
        self.body_bytes += step;
        match next(left - step) {
            Some(body) => self.body = body,
            None => self.done = true,
        }
        step as usize
    }

    fn head(&mut self, head: &[u8]) -> anyhow::Result<()> {
        let mut lines = head.split(|byte| *byte == b'\n');
        let status = lines.next().unwrap_or_default();
        self.status = status
            .get(9..12)
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
            .with_context(|| format!("not an HTTP response: {}", String::from_utf8_lossy(status)))?;
        self.close = status.starts_with(b"HTTP/1.0");
        self.body = Body::UntilClose;
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = line.split_at_checked(colon).unwrap_or_default();
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            if name.eq_ignore_ascii_case(b"content-length") {
                let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.body = Body::Left(length.context("the response's Content-Length is not a number")?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
                self.body = Body::ChunkSize;
            } else if name.eq_ignore_ascii_case(b"connection") {
                self.close |= value.eq_ignore_ascii_case(b"close");
            }
        }
        if matches!(self.status, 204 | 304) || self.body == Body::Left(0) {
            self.done = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Response {
        let mut response = Response::default();
        // Byte by byte: nothing may depend on how the network cuts it.
        let (mut held, mut at) = (Vec::new(), 0);
        for byte in text.bytes() {
            held.push(byte);
            at += response.feed(&held[at..]).unwrap();
        }
        assert_eq!(at, text.len());
        response
    }

    #[test]
    fn a_response_ends_where_its_framing_says() {
        let sized = whole("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        assert!(sized.done && !sized.close && sized.body_bytes == 5);
        let chunked = whole(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\nT: v\r\n\r\n",
        );
        assert!(chunked.done && chunked.body_bytes == 19);
        assert!(whole("HTTP/1.1 204 No Content\r\n\r\n").done);
        let closing = whole("HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert!(closing.done && closing.close && closing.status == 502);
        let open = whole("HTTP/1.1 200 OK\r\n\r\nall of it");
        assert!(!open.done && open.ends_with_the_connection() && open.body_bytes == 9);
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        assert!(Response::default().feed(b"SSH-2.0-x\r\n\r\n").is_err());
        assert!(Response::default().feed(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").is_err());
    }
}
