//! Clients that come back: what each of them missed, from the server's memory or from its store, as fast as it comes.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::{Context as _, ensure};
use clap::Args;
use tokio::sync::Semaphore;

use super::args::{Common, Ramp};
use super::clock::Clock;
use super::link::Scratch;
use super::payload::{self, find};
use super::ramp::open_all;
use super::report::{Failures, Report, Window};
use super::socketio::{Session, push_event};
use super::target::Target;
use super::token::{TokenArgs, Tokens};

/// Options of `bench replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The Socket.IO server, e.g. ws://127.0.0.1:8080.
    #[arg(long)]
    url: String,
    /// Clients that are cut and come back.
    #[arg(long, short, default_value_t = 200)]
    connections: usize,
    /// How many come back at a time.
    #[arg(long, default_value_t = 8)]
    at_once: usize,
    /// Messages that each of them missed.
    #[arg(long, short, default_value_t = 5_000)]
    messages: u64,
    /// Bytes of each message's payload.
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Persistent messages, read from the store in pages of `room:history` by clients that stay connected. A room keeps
    /// no more than the server's cap, 1,000 by default.
    #[arg(long)]
    history: bool,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    ramp: Ramp,
    #[command(flatten)]
    common: Common,
}

const ROOM: &str = "bench-replay";

struct State {
    target: Target,
    tokens: Tokens,
    args: ReplayArgs,
    scratch: Scratch,
    clock: Clock,
    received: Cell<u64>,
    wrong: Cell<u64>,
    failures: Rc<Failures>,
}

/// Runs the case.
pub async fn run(args: ReplayArgs) -> anyhow::Result<()> {
    ensure!(args.connections > 0 && args.messages > 0, "at least one client that missed at least one message");
    let state = Rc::new(State {
        target: Target::parse(&args.url)?,
        tokens: args.tokens.tokens()?,
        args,
        scratch: Scratch::new(),
        clock: Clock::start(),
        received: Cell::new(0),
        wrong: Cell::new(0),
        failures: Rc::default(),
    });
    let args = &state.args;
    let waiting = Rc::new(std::cell::RefCell::new(Vec::new()));
    open_all(args.connections, &args.ramp, args.common.quiet, &state.failures, |index| {
        let (state, waiting) = (Rc::clone(&state), Rc::clone(&waiting));
        async move {
            let source = state.target.source(index, state.args.connections)?;
            let auth = state.tokens.auth(index);
            let mut session = Session::open(&state.target, source, &state.scratch, &auth).await?;
            session.join(ROOM).await?;
            let comeback = session.comeback(&auth)?;
            // Without `--history` the connection ends here, without a word, as a cut one does.
            let session = state.args.history.then_some(session);
            waiting.borrow_mut().push((source, comeback, session));
            Ok(())
        }
    })
    .await?;
    ensure!(state.failures.count() == 0, "not all clients were let in");
    fill(&state).await.context("the messages that are to be missed")?;

    let window = Window::open(&args.common.pid)?;
    let turns = Rc::new(Semaphore::new(args.at_once.max(1)));
    let clients: Vec<_> = waiting
        .take()
        .into_iter()
        .map(|(source, auth, session)| {
            let (state, turns) = (Rc::clone(&state), Rc::clone(&turns));
            tokio::task::spawn_local(async move {
                let _turn = turns.acquire().await;
                let done = match session {
                    Some(session) => page(&state, session).await,
                    None => come_back(&state, source, &auth).await,
                };
                if let Err(error) = done {
                    state.failures.note(&error);
                }
            })
        })
        .collect();
    for client in clients {
        client.await?;
    }
    let measured = window.close(false);

    let received = state.received.get();
    let mut report = Report::new(if args.history { "replay by room:history" } else { "replay" }, &state.target);
    report.count("connections", "clients", args.connections as u64);
    report.count("messages", "messages that each missed", args.messages);
    report.count("size", "payload bytes", args.size as u64);
    report.count("received", "messages replayed", received);
    report.cost(&measured, received, "message");
    report.count("lost", "lost", (args.connections as u64 * args.messages).saturating_sub(received));
    report.count("wrong", "repeated or out of order", state.wrong.get());
    report.failures(&state.failures);
    report.print(args.common.json)
}

/// Publishes what is to be missed.
async fn fill(state: &State) -> anyhow::Result<()> {
    const UNDER_WAY: u64 = 128;
    let auth = state.tokens.auth(state.args.connections);
    let mut session = Session::open(&state.target, None, &state.scratch, &auth).await?;
    session.join(ROOM).await?;
    let writer = session.writer();
    let persistent = if state.args.history { ",\"persistent\":true" } else { "" };
    let (mut sent, mut acked) = (0, 0);
    let (mut message, mut out) = (Vec::new(), Vec::new());
    while acked < state.args.messages {
        out.clear();
        while sent < state.args.messages && sent - acked < UNDER_WAY {
            message.clear();
            message.extend_from_slice(format!("\"room:send\",{{\"room\":\"{ROOM}\",\"payload\":\"").as_bytes());
            payload::write(&mut message, sent, state.clock.now_us(), state.args.size);
            message.extend_from_slice(format!("\"{persistent}}}").as_bytes());
            push_event(&mut out, Some(1_000 + sent), &message);
            sent += 1;
        }
        writer.send(&out).await?;
        let open = session
            .packets(|packet| {
                if packet.first() == Some(&b'3') {
                    acked += 1;
                    let text = String::from_utf8_lossy(packet);
                    ensure!(!text.contains("\"success\":false"), "a message was refused: {text}");
                }
                Ok(())
            })
            .await?;
        ensure!(open, "the server closed the publisher's connection");
    }
    Ok(())
}

/// Comes back with the session's pid and offset, and reads until everything is there.
async fn come_back(state: &State, source: Option<std::net::Ipv4Addr>, auth: &str) -> anyhow::Result<()> {
    let (mut next, mut hint) = (0u64, 0usize);
    let mut each = |packet: &[u8]| {
        if packet.first() == Some(&b'2')
            && let Some(stamp) = find(packet, &mut hint)
        {
            if stamp.number != next {
                state.wrong.set(state.wrong.get() + 1);
            }
            next = stamp.number + 1;
            state.received.set(state.received.get() + 1);
        }
        Ok(next)
    };
    let mut session =
        Session::open_with(&state.target, source, &state.scratch, auth, |packet| each(packet).map(|_| ())).await?;
    let mut read = 0;
    while read < state.args.messages {
        let open = session
            .packets(|packet| {
                read = each(packet)?;
                Ok(())
            })
            .await?;
        ensure!(open, "the server closed the connection of a client that came back");
    }
    Ok(())
}

/// Reads the room's history from its beginning, in the largest pages.
async fn page(state: &State, mut session: Session) -> anyhow::Result<()> {
    let page = session.call(&format!("\"room:history\",{{\"room\":\"{ROOM}\",\"limit\":1000}}")).await?;
    let mut next = None;
    for (at, _) in page.windows(3).enumerate().filter(|(_, mark)| *mark == b"~b~") {
        let Some(stamp) = find(page.get(at..).unwrap_or_default(), &mut 0) else { continue };
        if next.is_some_and(|next| next != stamp.number) {
            state.wrong.set(state.wrong.get() + 1);
        }
        next = Some(stamp.number + 1);
        state.received.set(state.received.get() + 1);
    }
    Ok(())
}
