//! Many connections that do nothing: how many live, and what one costs.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Args;

use super::args::{Common, Ramp, duration};
use super::frame::{self, push_masked};
use super::link::{Scratch, halves};
use super::process::{usage, usage_of};
use super::ramp::open_all;
use super::report::{Failures, Report, grouped, measure};
use super::socketio::Session;
use super::target::Target;
use super::token::{TokenArgs, Tokens};
use super::websocket::{self, close_text, head_end};

/// Options of `bench idle`.
#[derive(Debug, Args)]
pub struct IdleArgs {
    /// What to connect to, e.g. ws://127.0.0.1:8080/ws.
    #[arg(long)]
    url: String,
    /// How many connections.
    #[arg(long, short = 'n', default_value_t = 10_000)]
    count: usize,
    /// Socket.IO sessions that join a room, instead of plain WebSockets.
    #[arg(long, conflicts_with = "sse")]
    socketio: bool,
    /// SSE streams, instead of WebSockets.
    #[arg(long)]
    sse: bool,
    /// The room that the Socket.IO sessions join; none if empty.
    #[arg(long, default_value = "bench")]
    room: String,
    /// At most so many sessions in a room; the rooms are then called ROOM-0, ROOM-1, …
    #[arg(long)]
    room_size: Option<usize>,
    /// Connections that are opened and kept before the memory is read for the first time, so that what the first
    /// connections set up once is not charged to the others.
    #[arg(long, default_value_t = 50)]
    settle_count: usize,
    /// Pause before each reading of the memory.
    #[arg(long, default_value = "2s", value_parser = duration)]
    settle: Duration,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    ramp: Ramp,
    #[command(flatten)]
    common: Common,
}

struct State {
    target: Target,
    tokens: Tokens,
    args: IdleArgs,
    scratch: Scratch,
    alive: Cell<u64>,
    events: Cell<u64>,
    failures: Rc<Failures>,
}

/// Runs the case.
pub async fn run(args: IdleArgs) -> anyhow::Result<()> {
    let state = Rc::new(State {
        target: Target::parse(&args.url)?,
        tokens: args.tokens.tokens()?,
        args,
        scratch: Scratch::new(),
        alive: Cell::new(0),
        events: Cell::new(0),
        failures: Rc::default(),
    });
    let args = &state.args;
    let first = args.settle_count.min(args.count);
    let open = |offset: usize| {
        let state = &state;
        move |index| one(Rc::clone(state), offset + index)
    };
    open_all(first, &args.ramp, args.common.quiet, &state.failures, open(0)).await?;
    tokio::time::sleep(args.settle).await;
    let before = usage_of(&args.common.pid);
    let own_before = usage(std::process::id()).unwrap_or_default();
    let started = std::time::Instant::now();
    if args.count > first {
        open_all(args.count - first, &args.ramp, args.common.quiet, &state.failures, open(first)).await?;
    }
    let ramp_seconds = started.elapsed().as_secs_f64();
    tokio::time::sleep(args.settle).await;
    let (after, own_after) = (usage_of(&args.common.pid), usage(std::process::id()).unwrap_or_default());
    let opened = state.alive.get();
    let live = Rc::clone(&state);
    let measured = measure(
        &args.common,
        move |_| format!("{} alive of {}", grouped(live.alive.get()), grouped(live.args.count as u64)),
        || state.events.set(0),
        || state.alive.get() == 0,
    )
    .await?;

    let mut report = Report::new("idle", &state.target);
    report.count("wanted", "connections wanted", args.count as u64);
    report.count("opened", "alive after the ramp", opened);
    report.count("alive", "alive at the end", state.alive.get());
    report.value("ramp_seconds", "ramp", ramp_seconds, "s");
    let counted = args.count.saturating_sub(first).max(1) as f64;
    if let (Some(before), Some(after)) = (before, after) {
        let kib = (after.private_kib as f64 - before.private_kib as f64) / counted;
        report.value("kib_per_connection", "server memory per connection", kib, "KiB");
        report.value("base_kib", "server memory before", before.private_kib as f64, "KiB");
        let open_us = after.cpu_us.saturating_sub(before.cpu_us) as f64 / counted;
        report.value("open_cpu_us", "server CPU per connection opened", open_us, "µs");
    }
    let own = own_after.private_kib.saturating_sub(own_before.private_kib) as f64 / counted;
    report.value("generator_kib_per_connection", "generator memory per connection", own, "KiB");
    report.count("events", "packets received while idle", state.events.get());
    report.idle_cost(&measured);
    report.failures(&state.failures);
    report.print(args.common.json)
}

/// Opens one connection and leaves a task behind that keeps it.
async fn one(state: Rc<State>, index: usize) -> anyhow::Result<()> {
    let source = state.target.source(index, state.args.count)?;
    if state.args.socketio {
        let auth = state.tokens.auth(index);
        let mut session = Session::open(&state.target, source, &state.scratch, &auth).await?;
        if !state.args.room.is_empty() {
            let room = match state.args.room_size {
                Some(size) => format!("{}-{}", state.args.room, index / size.max(1)),
                None => state.args.room.clone(),
            };
            session.join(&room).await?;
        }
        keep(state, async move |state: &State| {
            let count = |_: &[u8]| {
                state.events.set(state.events.get() + 1);
                Ok(())
            };
            while session.packets(count).await? {}
            bail!("the server closed a session")
        });
    } else if state.args.sse {
        let stream = state.target.connect(source).await?;
        let (mut reader, writer) = halves(stream, &state.scratch);
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
            state.target.path, state.target.host
        );
        writer.send(request.as_bytes()).await?;
        let mut accepted = false;
        while !accepted {
            let open = reader
                .read(|bytes| {
                    let Some(end) = head_end(bytes) else { return Ok(0) };
                    ensure!(
                        bytes.starts_with(b"HTTP/1.1 200"),
                        "the server refused a stream: {}",
                        String::from_utf8_lossy(bytes.get(..end.min(80)).unwrap_or_default())
                    );
                    accepted = true;
                    Ok(bytes.len())
                })
                .await?;
            ensure!(open || accepted, "the server closed a stream at once");
        }
        keep(state, async move |state: &State| {
            let _writer = writer;
            while reader
                .read(|bytes| {
                    state.events.set(state.events.get() + 1);
                    Ok(bytes.len())
                })
                .await?
            {}
            bail!("the server closed a stream")
        });
    } else {
        let (mut reader, writer) = websocket::open(&state.target, &state.target.path, source, &state.scratch).await?;
        keep(state, async move |state: &State| {
            loop {
                let mut answers = Vec::new();
                let open = reader
                    .read(|bytes| {
                        websocket::frames(bytes, |opcode, payload| {
                            match opcode {
                                frame::PING => push_masked(&mut answers, frame::PONG, payload),
                                frame::CLOSE => bail!(close_text(payload)),
                                _ => state.events.set(state.events.get() + 1),
                            }
                            Ok(())
                        })
                    })
                    .await?;
                ensure!(open, "the server closed a WebSocket");
                if !answers.is_empty() {
                    writer.send(&answers).await?;
                }
            }
        });
    }
    Ok(())
}

/// Counts the connection as alive as long as `life` lasts.
fn keep(state: Rc<State>, life: impl AsyncFnOnce(&State) -> anyhow::Result<()> + 'static) {
    state.alive.set(state.alive.get() + 1);
    tokio::task::spawn_local(async move {
        let end = life(&state).await;
        state.alive.set(state.alive.get() - 1);
        if let Err(error) = end {
            state.failures.note(&error);
        }
    });
}
