//! Round trips: each connection sends, waits for what comes back, and sends again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{bail, ensure};
use clap::Args;

use super::args::{Common, Ramp};
use super::clock::Clock;
use super::frame::{self, push_masked};
use super::histogram::Histogram;
use super::link::Scratch;
use super::payload::{self, find};
use super::ramp::open_all;
use super::report::{Failures, Report, grouped, measure};
use super::socketio::{Session, push_event};
use super::target::Target;
use super::token::{TokenArgs, Tokens};
use super::websocket::{self, close_text};

/// Options of `bench echo`.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// The server: Socket.IO, or with --websocket anything that echoes frames.
    #[arg(long)]
    url: String,
    /// Plain WebSocket echo instead of Socket.IO.
    #[arg(long)]
    websocket: bool,
    /// Connections, each with one message under way.
    #[arg(long, short, default_value_t = 50)]
    connections: usize,
    /// Bytes of each message's payload.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Publish with `persistent: true` (Socket.IO).
    #[arg(long)]
    persistent: bool,
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
    args: EchoArgs,
    scratch: Scratch,
    clock: Clock,
    completed: Cell<u64>,
    wrong: Cell<u64>,
    alive: Cell<u64>,
    latency: RefCell<Histogram>,
    failures: Rc<Failures>,
}

impl State {
    fn completed(&self, started: Instant) {
        self.completed.set(self.completed.get() + 1);
        self.latency.borrow_mut().record(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}

/// Runs the case.
pub async fn run(args: EchoArgs) -> anyhow::Result<()> {
    let state = Rc::new(State {
        target: Target::parse(&args.url)?,
        tokens: args.tokens.tokens()?,
        args,
        scratch: Scratch::new(),
        clock: Clock::start(),
        completed: Cell::new(0),
        wrong: Cell::new(0),
        alive: Cell::new(0),
        latency: RefCell::new(Histogram::new()),
        failures: Rc::default(),
    });
    let args = &state.args;
    open_all(args.connections, &args.ramp, args.common.quiet, &state.failures, |index| {
        let state = Rc::clone(&state);
        async move { if state.args.websocket { plain(state, index).await } else { socketio(state, index).await } }
    })
    .await?;
    let live = Rc::clone(&state);
    let last = Cell::new(0);
    let measured = measure(
        &args.common,
        move |_| {
            let done = live.completed.get();
            let since = done.saturating_sub(last.replace(done));
            format!("{} round trips (+{}), {} alive", grouped(done), grouped(since), grouped(live.alive.get()))
        },
        || {
            state.completed.set(0);
            state.latency.borrow_mut().clear();
        },
        || state.alive.get() == 0,
    )
    .await?;
    let completed = state.completed.get();
    let mut report = Report::new(if args.websocket { "echo, WebSocket" } else { "echo, Socket.IO" }, &state.target);
    report.count("connections", "connections", args.connections as u64);
    report.count("size", "payload bytes", args.size as u64);
    report.count("completed", "round trips", completed);
    report.cost(&measured, completed, "round trip");
    report.latency(&state.latency.borrow());
    report.count("wrong", "answers that were not the message", state.wrong.get());
    report.count("alive", "alive at the end", state.alive.get());
    report.failures(&state.failures);
    report.print(args.common.json)
}

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

async fn plain(state: Rc<State>, index: usize) -> anyhow::Result<()> {
    let source = state.target.source(index, state.args.connections)?;
    let (mut reader, writer) = websocket::open(&state.target, &state.target.path, source, &state.scratch).await?;
    keep(state, async move |state: &State| {
        let mut number = 0;
        let (mut message, mut out) = (Vec::new(), Vec::new());
        loop {
            message.clear();
            payload::write(&mut message, number, state.clock.now_us(), state.args.size);
            number += 1;
            out.clear();
            push_masked(&mut out, frame::TEXT, &message);
            let started = Instant::now();
            writer.send(&out).await?;
            let mut answered = false;
            while !answered {
                let open = reader
                    .read(|bytes| {
                        websocket::frames(bytes, |opcode, payload| {
                            match opcode {
                                frame::TEXT | frame::BINARY => {
                                    answered = true;
                                    if payload != message.as_slice() {
                                        state.wrong.set(state.wrong.get() + 1);
                                    }
                                }
                                frame::CLOSE => bail!(close_text(payload)),
                                _ => {}
                            }
                            Ok(())
                        })
                    })
                    .await?;
                ensure!(open, "the server closed a WebSocket");
            }
            state.completed(started);
        }
    });
    Ok(())
}

/// The rooms API's echo: a member that is alone in its room sends, and gets both its message and the ack.
async fn socketio(state: Rc<State>, index: usize) -> anyhow::Result<()> {
    let source = state.target.source(index, state.args.connections)?;
    let mut session = Session::open(&state.target, source, &state.scratch, &state.tokens.auth(index)).await?;
    let room = format!("bench-echo-{index}");
    session.join(&room).await?;
    let writer = session.writer();
    keep(state, async move |state: &State| {
        let persistent = if state.args.persistent { ",\"persistent\":true" } else { "" };
        let (mut number, mut hint) = (0, 0);
        let (mut message, mut out) = (Vec::new(), Vec::new());
        loop {
            message.clear();
            message.extend_from_slice(format!("\"room:send\",{{\"room\":\"{room}\",\"payload\":\"").as_bytes());
            payload::write(&mut message, number, state.clock.now_us(), state.args.size);
            message.extend_from_slice(format!("\"{persistent}}}").as_bytes());
            out.clear();
            push_event(&mut out, Some(1_000 + number), &message);
            let started = Instant::now();
            writer.send(&out).await?;
            let (mut echoed, mut acked) = (false, false);
            while !(echoed && acked) {
                let open = session
                    .packets(|packet| {
                        match packet.first() {
                            Some(b'3') => {
                                acked = true;
                                let text = String::from_utf8_lossy(packet);
                                ensure!(!text.contains("\"success\":false"), "a message was refused: {text}");
                            }
                            Some(b'2') => {
                                if let Some(stamp) = find(packet, &mut hint) {
                                    echoed = true;
                                    if stamp.number != number {
                                        state.wrong.set(state.wrong.get() + 1);
                                    }
                                }
                            }
                            _ => {}
                        }
                        Ok(())
                    })
                    .await?;
                ensure!(open, "the server closed a session");
            }
            number += 1;
            state.completed(started);
        }
    });
    Ok(())
}
