//! The upstream of measurements: cheap, fixed, the same for every proxy that is measured.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::net::{TcpListener, TcpStream};

use super::clock::Clock;
use super::frame::{self, first_masked, push_plain};
use super::link::{Reader, Scratch, Writer, halves};
use super::payload;
use super::websocket::head_end;

/// Options of `bench upstream`.
#[derive(Debug, Args)]
pub struct UpstreamArgs {
    /// Where to listen; port 0 takes a free one. The address is printed as the first line.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Bytes of the HTTP body.
    #[arg(long, default_value_t = 256)]
    body: usize,
    /// Events per second of each stream.
    #[arg(long, default_value_t = 50.0)]
    sse_rate: f64,
    /// The streams tick in so many groups, one after the other; 1 makes all tick at once, as a broadcast does.
    #[arg(long, default_value_t = 1)]
    sse_groups: usize,
    /// Bytes of each event's data.
    #[arg(long, default_value_t = 64)]
    sse_size: usize,
}

struct State {
    response: Vec<u8>,
    scratch: Scratch,
    /// By group.
    streams: RefCell<Vec<Vec<Rc<Writer>>>>,
    /// The group of the next stream.
    turn: Cell<usize>,
}

/// Serves until it is ended.
pub async fn run(args: UpstreamArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?)?;
    let body = "x".repeat(args.body);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
    let state = Rc::new(State {
        response: [head.as_bytes(), body.as_bytes()].concat(),
        scratch: Scratch::new(),
        streams: RefCell::new(vec![Vec::new(); args.sse_groups.max(1)]),
        turn: Cell::new(0),
    });
    tokio::task::spawn_local(tick(Rc::clone(&state), args.sse_rate, args.sse_size));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = Rc::clone(&state);
                tokio::task::spawn_local(async move {
                    // Whatever a client did wrong, the others go on; nobody is there to be told.
                    let _ = serve(&state, stream).await;
                });
            }
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

enum Asked {
    Nothing,
    Plain,
    Events,
    WebSocket(String),
}

async fn serve(state: &State, stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, writer) = halves(stream, &state.scratch);
    loop {
        let mut asked = Asked::Nothing;
        let open = reader
            .read(|bytes| {
                let Some(end) = head_end(bytes) else {
                    if bytes.len() > 32 * 1024 {
                        bail!("a request head without an end");
                    }
                    return Ok(0);
                };
                asked = question(bytes.get(..end).unwrap_or_default());
                Ok(end)
            })
            .await?;
        match asked {
            _ if !open => return Ok(()),
            Asked::Nothing => {}
            Asked::Plain => writer.send(&state.response).await?,
            Asked::Events => {
                writer
                    .send(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
                          Transfer-Encoding: chunked\r\n\r\n",
                    )
                    .await?;
                state.join(&writer);
                // Nothing more is expected; the read ends when the client goes.
                while reader.read(|bytes| Ok(bytes.len())).await? {}
                for group in state.streams.borrow_mut().iter_mut() {
                    group.retain(|stream| !Rc::ptr_eq(stream, &writer));
                }
                return Ok(());
            }
            Asked::WebSocket(key) => {
                let accept = tidegate_wire::websocket::accept_key(&key);
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {accept}\r\n\r\n"
                );
                writer.send(head.as_bytes()).await?;
                return echo(&mut reader, &writer).await;
            }
        }
    }
}

fn question(head: &[u8]) -> Asked {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let events = lines.next().unwrap_or_default().contains("/events");
    let key =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    match key {
        Some((_, key)) => Asked::WebSocket(key.trim().to_owned()),
        None if events => Asked::Events,
        None => Asked::Plain,
    }
}

async fn echo(reader: &mut Reader, writer: &Writer) -> anyhow::Result<()> {
    let mut out = Vec::new();
    loop {
        out.clear();
        let mut closing = false;
        let open = reader
            .read(|bytes| {
                let mut used = 0;
                while let Some(found) = first_masked(bytes.get_mut(used..).unwrap_or_default())? {
                    used += found.length;
                    match found.opcode {
                        frame::PING => push_plain(&mut out, frame::PONG, found.payload),
                        frame::PONG => {}
                        opcode => {
                            closing |= opcode == frame::CLOSE;
                            push_plain(&mut out, opcode, found.payload);
                        }
                    }
                }
                Ok(used)
            })
            .await?;
        writer.send(&out).await?;
        if out.capacity() > 64 * 1024 {
            out = Vec::new();
        }
        if !open || closing {
            return Ok(());
        }
    }
}

impl State {
    /// Puts a stream into the next group.
    fn join(&self, writer: &Rc<Writer>) {
        let mut groups = self.streams.borrow_mut();
        let turn = self.turn.get();
        self.turn.set((turn + 1) % groups.len().max(1));
        if let Some(group) = groups.get_mut(turn) {
            group.push(Rc::clone(writer));
        }
    }
}

/// One clock for all streams: each tick is one write to every stream of one group.
async fn tick(state: Rc<State>, rate: f64, size: usize) {
    let clock = Clock::start();
    let groups = state.streams.borrow().len();
    let mut interval =
        tokio::time::interval(Duration::from_secs_f64(1.0 / (rate * groups as f64).clamp(0.001, 10_000.0)));
    let (mut number, mut event, mut chunk) = (0u64, Vec::new(), Vec::new());
    loop {
        for group in 0..groups {
            interval.tick().await;
            event.clear();
            event.extend_from_slice(format!("id: {number}\ndata: ").as_bytes());
            payload::write(&mut event, number, clock.now_us(), size);
            event.extend_from_slice(b"\n\n");
            chunk.clear();
            chunk.extend_from_slice(format!("{:x}\r\n", event.len()).as_bytes());
            chunk.extend_from_slice(&event);
            chunk.extend_from_slice(b"\r\n");
            if let Some(streams) = state.streams.borrow_mut().get_mut(group) {
                // Who does not take a whole event at once is cut off: a measured proxy must never be that slow.
                streams.retain(|stream| stream.offer(&chunk).is_ok_and(|written| written == chunk.len()));
            }
        }
        number += 1;
    }
}
