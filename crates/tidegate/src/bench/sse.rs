//! Many subscribers of an event stream.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use anyhow::ensure;
use clap::Args;

use super::args::{Common, Ramp};
use super::clock::Clock;
use super::histogram::Histogram;
use super::link::{Scratch, halves};
use super::payload::find;
use super::ramp::open_all;
use super::report::{Failures, Report, grouped, measure};
use super::target::Target;
use super::websocket::head_end;

/// Options of `bench sse`.
#[derive(Debug, Args)]
pub struct SseArgs {
    /// The stream, e.g. http://127.0.0.1:8080/events.
    #[arg(long)]
    url: String,
    /// Subscribers.
    #[arg(long, short = 's', default_value_t = 100)]
    subscribers: usize,
    /// Header to add, `Name: value`; may be repeated.
    #[arg(long)]
    header: Vec<String>,
    #[command(flatten)]
    ramp: Ramp,
    #[command(flatten)]
    common: Common,
}

struct State {
    target: Target,
    request: String,
    count: usize,
    scratch: Scratch,
    clock: Clock,
    events: Cell<u64>,
    bytes: Cell<u64>,
    gaps: Cell<u64>,
    alive: Cell<u64>,
    latency: RefCell<Histogram>,
    failures: Rc<Failures>,
}

/// Runs the case.
pub async fn run(args: SseArgs) -> anyhow::Result<()> {
    let target = Target::parse(&args.url)?;
    let headers: String = args.header.iter().map(|header| format!("{header}\r\n")).collect();
    let request =
        format!("GET {} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n{headers}\r\n", target.path, target.host);
    let state = Rc::new(State {
        target,
        request,
        count: args.subscribers,
        scratch: Scratch::new(),
        clock: Clock::start(),
        events: Cell::new(0),
        bytes: Cell::new(0),
        gaps: Cell::new(0),
        alive: Cell::new(0),
        latency: RefCell::new(Histogram::new()),
        failures: Rc::default(),
    });
    open_all(args.subscribers, &args.ramp, args.common.quiet, &state.failures, |index| {
        subscribe(Rc::clone(&state), index)
    })
    .await?;
    let live = Rc::clone(&state);
    let last = Cell::new(0);
    let measured = measure(
        &args.common,
        move |_| {
            let events = live.events.get();
            let since = events.saturating_sub(last.replace(events));
            format!("{} events (+{}), {} alive", grouped(events), grouped(since), grouped(live.alive.get()))
        },
        || {
            state.events.set(0);
            state.bytes.set(0);
            state.latency.borrow_mut().clear();
        },
        || state.alive.get() == 0,
    )
    .await?;
    let events = state.events.get();
    let mut report = Report::new("sse", &state.target);
    report.count("subscribers", "subscribers", args.subscribers as u64);
    report.count("events", "events", events);
    report.count("bytes", "bytes", state.bytes.get());
    report.cost(&measured, events, "event");
    report.latency(&state.latency.borrow());
    report.count("gaps", "gaps in the numbering", state.gaps.get());
    report.count("alive", "alive at the end", state.alive.get());
    report.failures(&state.failures);
    report.print(args.common.json)
}

async fn subscribe(state: Rc<State>, index: usize) -> anyhow::Result<()> {
    let stream = state.target.connect(state.target.source(index, state.count)?).await?;
    let (mut reader, writer) = halves(stream, &state.scratch);
    writer.send(state.request.as_bytes()).await?;
    let mut accepted = false;
    while !accepted {
        let open = reader
            .read(|bytes| {
                let Some(end) = head_end(bytes) else { return Ok(0) };
                let head = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).to_ascii_lowercase();
                let status = head.lines().next().unwrap_or_default();
                ensure!(status.split(' ').nth(1) == Some("200"), "the server refused the stream: {status}");
                ensure!(head.contains("text/event-stream"), "the answer is not an event stream");
                accepted = true;
                Ok(end)
            })
            .await?;
        ensure!(open || accepted, "the server closed the stream at once");
    }
    state.alive.set(state.alive.get() + 1);
    tokio::task::spawn_local(async move {
        let _writer = writer;
        let mut next = None;
        let end = loop {
            let read = reader
                .read(|bytes| {
                    state.bytes.set(state.bytes.get() + bytes.len() as u64);
                    let used = events(bytes, |data| {
                        state.events.set(state.events.get() + 1);
                        if let Some(stamp) = find(data, &mut 0) {
                            if next.is_some_and(|next| next != stamp.number) {
                                state.gaps.set(state.gaps.get() + 1);
                            }
                            next = Some(stamp.number + 1);
                            state.latency.borrow_mut().record(state.clock.now_us().saturating_sub(stamp.sent_us));
                        }
                    });
                    Ok(used)
                })
                .await;
            match read {
                Ok(true) => {}
                Ok(false) => break anyhow::anyhow!("the server closed a stream"),
                Err(error) => break error,
            }
        };
        state.alive.set(state.alive.get() - 1);
        state.failures.note(&end);
    });
    Ok(())
}

/// Hands each complete event's last `data` line to `event`; how many bytes were used up.
///
/// Chunk framing needs no decoder of its own: a chunk's size is a line that is no field, and the line end behind a
/// chunk is an empty line without data before it. A chunk that ends inside an event ends the event a line too early,
/// and the real end then has no data: the count stays right.
fn events(bytes: &[u8], mut event: impl FnMut(&[u8])) -> usize {
    let (mut used, mut at) = (0, 0);
    let mut data: Option<&[u8]> = None;
    while let Some(rest) = bytes.get(at..) {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { break };
        let line = rest.get(..end).unwrap_or_default();
        at += end + 1;
        if let Some(found) = line.strip_prefix(b"data:") {
            data = Some(found);
        } else if line.trim_ascii().is_empty()
            && let Some(data) = data.take()
        {
            event(data);
        }
        if data.is_none() {
            used = at;
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_through_chunk_framing_and_comments_are_not() {
        let text = b"a\r\n: beat\n\n\r\n1f\r\nid: 1\ndata: one\n\n\r\n20\r\ndata: a\ndata: b\n\n\r\n5\r\ndata: cut";
        let mut seen = Vec::new();
        let used = events(text, |data| seen.push(String::from_utf8_lossy(data).into_owned()));
        assert_eq!(seen, [" one", " b"]);
        assert_eq!(used, text.len() - "data: cut".len());
    }
}
