//! One publisher, many subscribers in one Socket.IO room.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use tokio::sync::Notify;

use super::args::{Common, Ramp};
use super::clock::Clock;
use super::histogram::Histogram;
use super::link::{Scratch, Writer};
use super::payload::{self, find};
use super::process::usage;
use super::ramp::open_all;
use super::report::{Failures, Report, grouped, measure};
use super::socketio::{Session, push_event};
use super::target::Target;
use super::token::{TokenArgs, Tokens};

/// Options of `bench fanout`.
#[derive(Debug, Args)]
pub struct FanoutArgs {
    /// The Socket.IO server, e.g. ws://127.0.0.1:8080; several nodes of a cluster with commas.
    #[arg(long, required = true, value_delimiter = ',')]
    url: Vec<String>,
    /// The process id of the broker between the nodes: also report its CPU time per message.
    #[arg(long)]
    broker_pid: Option<u32>,
    /// Members of the room, in turn on each node; the first of them also publishes.
    #[arg(long, short = 's', default_value_t = 1_000)]
    subscribers: usize,
    /// Messages published per second.
    #[arg(long, short, default_value_t = 50.0)]
    rate: f64,
    /// Bytes of each message's payload.
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// The room.
    #[arg(long, default_value = "bench-fanout")]
    room: String,
    /// Publish with `persistent: true`.
    #[arg(long)]
    persistent: bool,
    /// As fast as acks and deliveries come back, instead of at a rate.
    #[arg(long)]
    full_speed: bool,
    /// At full speed: the most messages that are not acknowledged, or not delivered to everyone, at a time.
    #[arg(long, default_value_t = 64)]
    window: u64,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    ramp: Ramp,
    #[command(flatten)]
    common: Common,
}

struct State {
    targets: Vec<Target>,
    tokens: Tokens,
    args: FanoutArgs,
    scratch: Scratch,
    clock: Clock,
    /// Published in all, acknowledged in all.
    published: Cell<u64>,
    acked: Cell<u64>,
    refused: Cell<u64>,
    /// Deliveries in all, and those in the measured time.
    delivered: Cell<u64>,
    measured: Cell<u64>,
    measured_published: Cell<u64>,
    repeated: Cell<u64>,
    alive: Cell<u64>,
    latency: RefCell<Histogram>,
    /// Of deliveries by the publisher's node, and by the others.
    local: RefCell<Histogram>,
    remote: RefCell<Histogram>,
    progress: Notify,
    stop: Cell<bool>,
    publisher: RefCell<Option<Rc<Writer>>>,
    failures: Rc<Failures>,
}

/// Acks of publications carry ids from here, apart from those of the set-up.
const FIRST_ACK: u64 = 1_000;

impl State {
    fn room_for_more(&self) -> bool {
        let window = self.args.window.max(1);
        let members = self.args.subscribers as u64;
        let published = self.published.get();
        published - self.acked.get().min(published) < window
            && (published * members).saturating_sub(self.delivered.get()) < window * members
    }
}

/// Runs the case.
pub async fn run(args: FanoutArgs) -> anyhow::Result<()> {
    if args.subscribers == 0 || !(args.rate > 0.0 && args.rate <= 1e6) {
        bail!("a fan-out needs at least one subscriber and a rate between 0 and 1,000,000 per second");
    }
    let state = Rc::new(State {
        targets: args.url.iter().map(|url| Target::parse(url)).collect::<Result<_, _>>()?,
        tokens: args.tokens.tokens()?,
        args,
        scratch: Scratch::new(),
        clock: Clock::start(),
        published: Cell::new(0),
        acked: Cell::new(0),
        refused: Cell::new(0),
        delivered: Cell::new(0),
        measured: Cell::new(0),
        measured_published: Cell::new(0),
        repeated: Cell::new(0),
        alive: Cell::new(0),
        latency: RefCell::new(Histogram::new()),
        local: RefCell::new(Histogram::new()),
        remote: RefCell::new(Histogram::new()),
        progress: Notify::new(),
        stop: Cell::new(false),
        publisher: RefCell::new(None),
        failures: Rc::default(),
    });
    let args = &state.args;
    let Some(first) = state.targets.first() else { bail!("a fan-out needs a server") };
    let opened = open_all(args.subscribers, &args.ramp, args.common.quiet, &state.failures, |index| {
        subscribe(Rc::clone(&state), index)
    })
    .await?;
    if opened < args.subscribers {
        let mut report = Report::new("fanout", first);
        report
            .count("opened", "subscribers that joined", opened as u64)
            .failures(&state.failures)
            .print(args.common.json)?;
        bail!("only {opened} of {} subscribers joined", args.subscribers);
    }
    // The presence messages of the joins are not part of what is measured.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let publisher = tokio::task::spawn_local(publish(Rc::clone(&state)));
    let live = Rc::clone(&state);
    let last = Cell::new(0);
    let broker_before = Cell::new(None);
    let measured = measure(
        &args.common,
        move |_| {
            let delivered = live.measured.get();
            let since = delivered.saturating_sub(last.replace(delivered));
            let late = live.latency.borrow().quantile(0.99);
            format!(
                "{} deliveries (+{}), p99 {late} µs, {} alive",
                grouped(delivered),
                grouped(since),
                grouped(live.alive.get())
            )
        },
        || {
            state.measured.set(0);
            state.measured_published.set(state.published.get());
            for histogram in [&state.latency, &state.local, &state.remote] {
                histogram.borrow_mut().clear();
            }
            broker_before.set(args.broker_pid.and_then(usage));
        },
        || state.alive.get() == 0,
    )
    .await?;
    let broker = broker_before.get().zip(args.broker_pid.and_then(usage));
    let delivered = state.measured.get();
    let published = state.published.get() - state.measured_published.get();
    state.stop.set(true);
    state.progress.notify_waiters();
    let [latency, local, remote] = [&state.latency, &state.local, &state.remote].map(|of| of.borrow().clone());
    // What is under way may still arrive before it counts as lost.
    let expected = |state: &State| state.published.get() * args.subscribers as u64;
    for _ in 0..500 {
        if publisher.is_finished() && state.delivered.get() >= expected(&state) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    publisher.abort();

    let mut report = Report::new(if args.full_speed { "fanout at full speed" } else { "fanout" }, first);
    report.count("subscribers", "subscribers", args.subscribers as u64);
    report.count("size", "payload bytes", args.size as u64);
    report.text("class", "messages", if args.persistent { "persistent" } else { "recoverable" });
    report.count("published", "published", published);
    report.count("delivered", "deliveries", delivered);
    report.cost(&measured, delivered, "delivery");
    report.latency(&latency);
    if state.targets.len() > 1 {
        report.latency_of("local_latency", "  on the publisher's node", &local);
        report.latency_of("remote_latency", "  on the others", &remote);
    }
    if let Some((before, after)) = broker {
        let per_message = after.cpu_us.saturating_sub(before.cpu_us) as f64 / published.max(1) as f64;
        report.value("broker_cpu_us", "broker CPU per message", per_message, "µs");
    }
    report.count("published_in_all", "published in all, with the warm-up", state.published.get());
    report.count("lost", "lost", expected(&state).saturating_sub(state.delivered.get()));
    report.count("repeated", "repeated or out of order", state.repeated.get());
    report.count("refused", "publications refused", state.refused.get());
    report.count("alive", "subscribers alive at the end", state.alive.get());
    report.failures(&state.failures);
    report.print(args.common.json)
}

/// Opens one session, joins the room, and leaves a task behind that counts.
async fn subscribe(state: Rc<State>, index: usize) -> anyhow::Result<()> {
    let node = index % state.targets.len().max(1);
    let Some(target) = state.targets.get(node) else { bail!("no server") };
    let source = target.source(index, state.args.subscribers)?;
    let mut session = Session::open(target, source, &state.scratch, &state.tokens.auth(index)).await?;
    session.join(&state.args.room).await?;
    if index == 0 {
        *state.publisher.borrow_mut() = Some(session.writer());
    }
    state.alive.set(state.alive.get() + 1);
    tokio::task::spawn_local(async move {
        let (mut next, mut hint) = (0u64, 0usize);
        let end = loop {
            let read = session
                .packets(|packet| {
                    match packet.first() {
                        Some(b'2') => {
                            let Some(stamp) = find(packet, &mut hint) else { return Ok(()) };
                            if stamp.number < next {
                                state.repeated.set(state.repeated.get() + 1);
                                return Ok(());
                            }
                            next = stamp.number + 1;
                            state.delivered.set(state.delivered.get() + 1);
                            state.measured.set(state.measured.get() + 1);
                            let late = state.clock.now_us().saturating_sub(stamp.sent_us);
                            state.latency.borrow_mut().record(late);
                            let by_node = if node == 0 { &state.local } else { &state.remote };
                            by_node.borrow_mut().record(late);
                        }
                        Some(b'3') if index == 0 => acknowledged(&state, packet),
                        _ => {}
                    }
                    Ok(())
                })
                .await;
            if state.args.full_speed && state.room_for_more() {
                state.progress.notify_one();
            }
            match read {
                Ok(true) => {}
                Ok(false) => break anyhow::anyhow!("the server closed a subscriber's connection"),
                Err(error) => break error,
            }
        };
        state.alive.set(state.alive.get() - 1);
        state.failures.note(&end);
    });
    Ok(())
}

fn acknowledged(state: &State, packet: &[u8]) {
    state.acked.set(state.acked.get() + 1);
    let text = std::str::from_utf8(packet).unwrap_or_default();
    if text.contains("\"success\":false") {
        state.refused.set(state.refused.get() + 1);
        let reason = text.split_once('[').map_or(text, |(_, json)| json);
        state.failures.note(&anyhow::anyhow!("a publication was refused: {reason}"));
    }
}

async fn publish(state: Rc<State>) -> anyhow::Result<()> {
    let Some(writer) = state.publisher.borrow().clone() else { return Ok(()) };
    let room = serde_json::Value::from(state.args.room.as_str());
    let persistent = if state.args.persistent { ",\"persistent\":true" } else { "" };
    let mut arguments = Vec::new();
    let mut frames = Vec::new();
    let started = tokio::time::Instant::now();
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / state.args.rate.min(1_000.0)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !state.stop.get() {
        let due = if state.args.full_speed {
            if !state.room_for_more() {
                state.progress.notified().await;
                continue;
            }
            // A few at a time, so that one write carries several.
            8
        } else {
            tick.tick().await;
            ((started.elapsed().as_secs_f64() * state.args.rate) as u64 + 1).saturating_sub(state.published.get())
        };
        frames.clear();
        for _ in 0..due {
            if state.args.full_speed && !state.room_for_more() {
                break;
            }
            let number = state.published.get();
            arguments.clear();
            arguments.extend_from_slice(format!("\"room:send\",{{\"room\":{room},\"payload\":\"").as_bytes());
            payload::write(&mut arguments, number, state.clock.now_us(), state.args.size);
            arguments.extend_from_slice(format!("\"{persistent}}}").as_bytes());
            push_event(&mut frames, Some(FIRST_ACK + number), &arguments);
            state.published.set(number + 1);
        }
        writer.send(&frames).await?;
    }
    Ok(())
}
