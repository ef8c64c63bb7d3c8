//! Many Socket.IO publishers, each alone in its room, each with several messages under way: how fast are they taken?

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use anyhow::ensure;
use clap::Args;

use super::args::{Common, Ramp};
use super::clock::Clock;
use super::histogram::Histogram;
use super::link::Scratch;
use super::payload::{self, find};
use super::ramp::open_all;
use super::report::{Failures, Report, grouped, measure};
use super::socketio::{Session, push_event};
use super::target::Target;
use super::token::{TokenArgs, Tokens};

/// Options of `bench publish`.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The Socket.IO server, e.g. ws://127.0.0.1:8080.
    #[arg(long)]
    url: String,
    /// Publishers, each alone in its room.
    #[arg(long, short, default_value_t = 64)]
    connections: usize,
    /// Messages of each publisher whose ack may be outstanding.
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Bytes of each message's payload.
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Publish with `persistent: true`.
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
    args: PublishArgs,
    scratch: Scratch,
    clock: Clock,
    acked: Cell<u64>,
    delivered: Cell<u64>,
    wrong: Cell<u64>,
    alive: Cell<u64>,
    latency: RefCell<Histogram>,
    failures: Rc<Failures>,
}

/// Runs the case.
pub async fn run(args: PublishArgs) -> anyhow::Result<()> {
    ensure!(args.connections > 0 && args.window > 0, "at least one publisher with at least one message under way");
    let state = Rc::new(State {
        target: Target::parse(&args.url)?,
        tokens: args.tokens.tokens()?,
        args,
        scratch: Scratch::new(),
        clock: Clock::start(),
        acked: Cell::new(0),
        delivered: Cell::new(0),
        wrong: Cell::new(0),
        alive: Cell::new(0),
        latency: RefCell::new(Histogram::new()),
        failures: Rc::default(),
    });
    let args = &state.args;
    open_all(args.connections, &args.ramp, args.common.quiet, &state.failures, |index| {
        publisher(Rc::clone(&state), index)
    })
    .await?;
    let live = Rc::clone(&state);
    let last = Cell::new(0);
    let measured = measure(
        &args.common,
        move |_| {
            let acked = live.acked.get();
            let since = acked.saturating_sub(last.replace(acked));
            format!("{} acknowledged (+{}), {} alive", grouped(acked), grouped(since), grouped(live.alive.get()))
        },
        || {
            state.acked.set(0);
            state.delivered.set(0);
            state.latency.borrow_mut().clear();
        },
        || state.alive.get() == 0,
    )
    .await?;
    let acked = state.acked.get();
    let mut report = Report::new("publish", &state.target);
    report.count("connections", "publishers", args.connections as u64);
    report.count("window", "messages of each under way", args.window as u64);
    report.count("size", "payload bytes", args.size as u64);
    report.text("class", "messages", if args.persistent { "persistent" } else { "recoverable" });
    report.count("acknowledged", "acknowledged", acked);
    report.count("delivered", "delivered to their senders", state.delivered.get());
    report.cost(&measured, acked, "message");
    report.latency(&state.latency.borrow());
    report.count("wrong", "refused, lost or out of order", state.wrong.get());
    report.count("alive", "alive at the end", state.alive.get());
    report.failures(&state.failures);
    report.print(args.common.json)
}

async fn publisher(state: Rc<State>, index: usize) -> anyhow::Result<()> {
    let source = state.target.source(index, state.args.connections)?;
    let mut session = Session::open(&state.target, source, &state.scratch, &state.tokens.auth(index)).await?;
    let room = format!("bench-publish-{index}");
    session.join(&room).await?;
    state.alive.set(state.alive.get() + 1);
    tokio::task::spawn_local(async move {
        if let Err(error) = publish(&state, session, &room).await {
            state.failures.note(&error);
        }
        state.alive.set(state.alive.get() - 1);
    });
    Ok(())
}

async fn publish(state: &State, mut session: Session, room: &str) -> anyhow::Result<()> {
    let writer = session.writer();
    let persistent = if state.args.persistent { ",\"persistent\":true" } else { "" };
    let (mut sent, mut heard, mut hint) = (0u64, 0u64, 0usize);
    let mut under_way: VecDeque<Instant> = VecDeque::new();
    let (mut message, mut out) = (Vec::new(), Vec::new());
    loop {
        // A few at a time, so that one write carries several.
        if under_way.len() <= state.args.window / 2 {
            out.clear();
            let now = Instant::now();
            while under_way.len() < state.args.window {
                message.clear();
                message.extend_from_slice(b"\"room:send\",{\"room\":\"");
                message.extend_from_slice(room.as_bytes());
                message.extend_from_slice(b"\",\"payload\":\"");
                payload::write(&mut message, sent, state.clock.now_us(), state.args.size);
                message.extend_from_slice(b"\"");
                message.extend_from_slice(persistent.as_bytes());
                message.push(b'}');
                push_event(&mut out, Some(1_000 + sent), &message);
                sent += 1;
                under_way.push_back(now);
            }
            writer.send(&out).await?;
        }
        let open = session
            .packets(|packet| {
                match packet.first() {
                    Some(b'3') => {
                        if !packet.windows(14).any(|part| part == b"\"success\":true") {
                            state.wrong.set(state.wrong.get() + 1);
                        }
                        if let Some(since) = under_way.pop_front() {
                            let late = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                            state.latency.borrow_mut().record(late);
                        }
                        state.acked.set(state.acked.get() + 1);
                    }
                    Some(b'2') => {
                        if let Some(stamp) = find(packet, &mut hint) {
                            if stamp.number != heard {
                                state.wrong.set(state.wrong.get() + 1);
                            }
                            heard = stamp.number + 1;
                            state.delivered.set(state.delivered.get() + 1);
                        }
                    }
                    _ => {}
                }
                Ok(())
            })
            .await?;
        ensure!(open, "the server closed a publisher's connection");
    }
}
