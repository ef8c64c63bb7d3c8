//! The calls on one connection: sent in order, many at once, answered in order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tracing::warn;

use super::call::{Call, LOAD, Script};
use super::error::{ConnectError, LinkError};
use super::metrics::LinkMetrics;
use super::resp::{ErrorCode, Value};
use super::wire::{Broken, Wire};

/// How often deadlines are looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// A connection on which nothing happens is tried with a PING after this time.
pub(super) const QUIET: Duration = Duration::from_millis(500);

/// A call's result, when it comes. Dropping it does not take the call back.
#[derive(Debug)]
pub struct Answer(oneshot::Receiver<Result<Value, LinkError>>);

impl Future for Answer {
    type Output = Result<Value, LinkError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A call that nobody will answer any more is dropped without a word only together with its thread.
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(LinkError::Unanswered)))
    }
}

/// Whatever way the work on a connection ends, nobody may wait for an answer in vain.
struct Farewell<'a>(&'a Pipeline);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.0.state.borrow_mut(), State { closed: true, ..State::default() });
        for mut waiting in state.in_flight.into_iter().chain(state.delayed) {
            waiting.end(Err(LinkError::Unanswered));
        }
    }
}

/// Calls that wait for their answers.
pub(super) struct Pipeline {
    state: RefCell<State>,
    wake: Notify,
    limits: Limits,
    metrics: LinkMetrics,
    /// The server says that it cannot be written any more.
    demoted: Cell<bool>,
}

#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) in_flight: usize,
    pub(super) bytes: usize,
    pub(super) timeout: Duration,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// Encoded calls that the connection has not taken yet.
    out: Vec<u8>,
    /// How many bytes have gone into `out` since the begin.
    encoded: u64,
    /// About the memory of all calls below.
    bytes: usize,
    in_flight: VecDeque<Waiting>,
    /// Scripts that the server has been told.
    known: Vec<&'static Script>,
    /// Calls that wait until all before them are answered, because the server has forgotten the scripts: sent at once, they
    /// could overtake one that has to be sent again.
    delayed: VecDeque<Waiting>,
}

struct Waiting {
    /// `None` when nobody is to be told any more.
    answer: Option<oneshot::Sender<Result<Value, LinkError>>>,
    since: Instant,
    /// Where in the stream it begins.
    begins: u64,
    name: &'static str,
    size: usize,
    /// Scripts only, to send them again.
    call: Option<Call>,
    /// How often it has been sent.
    sent: u8,
}

/// How often a script is sent to a server that does not know it although it has been told just before.
const MOST_SENT: u8 = 4;

impl Waiting {
    fn new(call: Call, answer: Option<oneshot::Sender<Result<Value, LinkError>>>) -> Self {
        let (name, size) = (call.name(), call.size());
        Self { answer, since: Instant::now(), begins: 0, name, size, call: Some(call), sent: 0 }
    }

    fn end(&mut self, result: Result<Value, LinkError>) {
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(result);
        }
    }
}

impl Pipeline {
    pub(super) fn new(limits: Limits, metrics: LinkMetrics) -> Self {
        Self { state: RefCell::default(), wake: Notify::new(), limits, metrics, demoted: Cell::new(false) }
    }

    /// Puts a call behind those before it.
    pub(super) fn call(&self, call: Call) -> Answer {
        let (answer, result) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        let refused = if state.closed {
            Some(LinkError::Unsent)
        } else if state.in_flight.len() + state.delayed.len() >= self.limits.in_flight
            || state.bytes + call.size() > self.limits.bytes
        {
            Some(LinkError::Behind)
        } else {
            None
        };
        if let Some(error) = refused {
            self.metrics.failed(&error);
            let _ = answer.send(Err(error));
            return Answer(result);
        }
        let waiting = Waiting::new(call, Some(answer));
        state.bytes += waiting.size;
        if state.delayed.is_empty() {
            state.send(waiting);
            self.wake.notify_one();
        } else {
            state.delayed.push_back(waiting);
        }
        Answer(result)
    }

    /// Takes no more calls; those in flight are still answered.
    pub(super) fn close(&self) {
        self.state.borrow_mut().closed = true;
        self.wake.notify_one();
    }

    /// Works until the connection ends, or is closed and everything has been answered. Rings `moved` when the server says
    /// that another one is to be asked.
    pub(super) async fn run(&self, mut wire: Wire, moved: &Notify) -> Broken {
        let _farewell = Farewell(self);
        let broken = match self.work(&mut wire, moved).await {
            Ok(()) => Broken::Left,
            Err(broken) => broken,
        };
        let mut state = std::mem::replace(&mut *self.state.borrow_mut(), State { closed: true, ..State::default() });
        for waiting in &mut state.in_flight {
            let sent = waiting.begins < wire.written;
            let error = if sent { LinkError::Unanswered } else { LinkError::Unsent };
            if waiting.answer.is_some() {
                self.metrics.failed(&error);
            }
            waiting.end(Err(error));
        }
        for waiting in &mut state.delayed {
            self.metrics.failed(&LinkError::Unsent);
            waiting.end(Err(LinkError::Unsent));
        }
        broken
    }

    async fn work(&self, wire: &mut Wire, moved: &Notify) -> Result<(), Broken> {
        let mut heard = Instant::now();
        // The handshake's bytes are not the calls'.
        wire.written = 0;
        loop {
            let idle = self.state.borrow().in_flight.is_empty();
            let next = if idle { heard + QUIET } else { Instant::now() + TICK };
            self.hand_over(wire);
            if wire.turn(&self.wake, next).await? {
                heard = Instant::now();
            }
            while let Some(value) = wire.next()? {
                self.answered(value, moved)?;
            }
            self.look(heard)?;
            if self.demoted.get() {
                return Err(Broken::Demoted);
            }
            let state = self.state.borrow();
            if state.closed && state.in_flight.is_empty() {
                return Ok(());
            }
        }
    }

    fn hand_over(&self, wire: &mut Wire) {
        let mut state = self.state.borrow_mut();
        if wire.unsent().is_empty() {
            std::mem::swap(wire.unsent(), &mut state.out);
        } else {
            wire.unsent().extend_from_slice(&state.out);
        }
        state.out.clear();
    }

    fn answered(&self, value: Value, moved: &Notify) -> Result<(), Broken> {
        if let Value::Push(_) = value {
            // Nothing on this connection is subscribed to; what else a server tells by itself is not for us.
            return Ok(());
        }
        let mut state = self.state.borrow_mut();
        let mut waiting = state.in_flight.pop_front().ok_or(Broken::Unasked)?;
        state.bytes -= waiting.size;
        if let Value::Error(error) = value {
            if error.code == ErrorCode::NoScript && waiting.call.is_some() && waiting.sent < MOST_SENT {
                state.known.clear();
                // Behind those that are to be sent again, before those that were never sent.
                let place = state.delayed.partition_point(|other| other.sent > 0);
                state.bytes += waiting.size;
                state.delayed.insert(place, waiting);
            } else {
                if matches!(error.code, ErrorCode::Moved | ErrorCode::Ask | ErrorCode::ClusterDown) {
                    moved.notify_one();
                }
                if matches!(error.code, ErrorCode::ReadOnly | ErrorCode::MasterDown) {
                    self.demoted.set(true);
                }
                if waiting.answer.is_none() && waiting.name == LOAD {
                    warn!("Redis refuses a script: {}", ConnectError::Answered(error.clone()));
                }
                let error = LinkError::Answered(error);
                self.metrics.failed(&error);
                waiting.end(Err(error));
            }
        } else {
            if waiting.answer.is_some() {
                self.metrics.took(waiting.name, waiting.since.elapsed());
            }
            waiting.end(Ok(value));
        }
        if state.in_flight.is_empty() && !state.delayed.is_empty() {
            for waiting in std::mem::take(&mut state.delayed) {
                state.send(waiting);
            }
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Deadlines, and signs of life.
    fn look(&self, heard: Instant) -> Result<(), Broken> {
        let now = Instant::now();
        let timeout = self.limits.timeout;
        let mut state = self.state.borrow_mut();
        let State { in_flight, delayed, .. } = &mut *state;
        let late = |waiting: &&mut Waiting| now.duration_since(waiting.since) >= timeout;
        for waiting in in_flight.iter_mut().take_while(late).filter(|it| it.answer.is_some()) {
            // Even if it has not been sent yet: it will be.
            self.metrics.failed(&LinkError::Unanswered);
            waiting.end(Err(LinkError::Unanswered));
        }
        for waiting in delayed.iter_mut().take_while(late).filter(|it| it.answer.is_some()) {
            self.metrics.failed(&LinkError::Unsent);
            waiting.end(Err(LinkError::Unsent));
        }
        let mut freed = 0;
        delayed.retain(|waiting| {
            freed += if waiting.answer.is_none() { waiting.size } else { 0 };
            waiting.answer.is_some()
        });
        state.bytes -= freed;
        match state.in_flight.front() {
            // A long answer that is on its way is a sign of life; but not for ever.
            Some(oldest) => {
                let since =
                    if now.duration_since(oldest.since) > 8 * timeout { oldest.since } else { oldest.since.max(heard) };
                if now.duration_since(since) >= timeout {
                    return Err(Broken::Silent(timeout));
                }
            }
            None if now.duration_since(heard) >= QUIET => {
                let ping = Waiting::new(Call::new("PING"), None);
                state.bytes += ping.size;
                state.send(ping);
                self.wake.notify_one();
            }
            None => {}
        }
        Ok(())
    }
}

impl State {
    fn send(&mut self, mut waiting: Waiting) {
        let Some(call) = &waiting.call else { return };
        let script = call.script_called();
        if let Some(script) = script.filter(|script| !self.known.iter().any(|known| std::ptr::eq(*known, *script))) {
            self.known.push(script);
            let load = Waiting::new(script.load(), None);
            self.bytes += load.size;
            self.put(load);
        }
        if script.is_some() {
            waiting.sent += 1;
        }
        self.put(waiting);
    }

    fn put(&mut self, mut waiting: Waiting) {
        let Some(call) = &waiting.call else { return };
        let before = self.out.len();
        waiting.begins = self.encoded;
        call.encode(&mut self.out);
        self.encoded += (self.out.len() - before) as u64;
        if call.script_called().is_none() {
            waiting.call = None;
        }
        self.in_flight.push_back(waiting);
    }
}
