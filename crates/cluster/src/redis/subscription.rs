//! The connection that hears: sharded subscriptions, their confirmations and their messages, in the order of the server.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::call::Call;
use super::pipeline::{QUIET, TICK};
use super::resp::{ErrorCode, ServerError, Value};
use super::wire::{Broken, Wire};

/// How many channels one command subscribes to: a server does not pause for long, and an error hits few.
const BATCH: usize = 256;

/// What the server tells on this connection.
#[derive(Debug)]
pub(super) enum News {
    Subscribed(Bytes),
    Refused(Vec<Bytes>, ServerError),
    Message(Bytes, Bytes),
    /// The server has ended a subscription by itself: the channel's slot has moved.
    Ended(Bytes),
}

pub(super) struct Subscription {
    state: RefCell<State>,
    wake: Notify,
    timeout: Duration,
}

#[derive(Default)]
struct State {
    closed: bool,
    out: Vec<u8>,
    /// What was asked and is not answered yet. A confirmation comes for each channel, an error for the whole command.
    asked: VecDeque<Asked>,
}

enum Asked {
    Subscribe { channels: Vec<Bytes>, confirmed: usize },
    Unsubscribe { channels: Vec<Bytes>, confirmed: usize },
    Ping,
}

impl Subscription {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { state: RefCell::default(), wake: Notify::new(), timeout }
    }

    /// All channels must be of one slot.
    pub(super) fn subscribe(&self, channels: &[Bytes]) {
        self.ask("SSUBSCRIBE", channels, |channels| Asked::Subscribe { channels, confirmed: 0 });
    }

    /// All channels must be of one slot.
    pub(super) fn unsubscribe(&self, channels: &[Bytes]) {
        self.ask("SUNSUBSCRIBE", channels, |channels| Asked::Unsubscribe { channels, confirmed: 0 });
    }

    fn ask(&self, command: &'static str, channels: &[Bytes], asked: fn(Vec<Bytes>) -> Asked) {
        let mut state = self.state.borrow_mut();
        if state.closed {
            return;
        }
        for batch in channels.chunks(BATCH) {
            batch.iter().fold(Call::new(command), |call, channel| call.arg(channel)).encode(&mut state.out);
            state.asked.push_back(asked(batch.to_vec()));
        }
        self.wake.notify_one();
    }

    pub(super) fn close(&self) {
        *self.state.borrow_mut() = State { closed: true, ..State::default() };
        self.wake.notify_one();
    }

    /// Works until the connection ends.
    pub(super) async fn run(&self, mut wire: Wire, tell: impl Fn(News)) -> Broken {
        let broken = self.work(&mut wire, tell).await;
        self.close();
        match broken {
            Ok(()) => Broken::Left,
            Err(broken) => broken,
        }
    }

    async fn work(&self, wire: &mut Wire, tell: impl Fn(News)) -> Result<(), Broken> {
        let mut heard = Instant::now();
        loop {
            let next = {
                let mut state = self.state.borrow_mut();
                if state.closed {
                    return Ok(());
                }
                wire.unsent().append(&mut state.out);
                if state.asked.is_empty() { heard + QUIET } else { Instant::now() + TICK }
            };
            if wire.turn(&self.wake, next).await? {
                heard = Instant::now();
            }
            while let Some(value) = wire.next()? {
                // Told without holding anything: whoever is told may subscribe at once.
                if let Some(news) = self.heard(value)? {
                    tell(news);
                }
            }
            self.look(heard)?;
        }
    }

    fn heard(&self, value: Value) -> Result<Option<News>, Broken> {
        let mut state = self.state.borrow_mut();
        let Value::Push(parts) = value else {
            return match (state.asked.pop_front(), value) {
                (Some(Asked::Subscribe { mut channels, confirmed }), Value::Error(error)) => {
                    Ok(Some(News::Refused(channels.split_off(confirmed.min(channels.len())), error)))
                }
                // Whatever it says: what was unsubscribed from is of no interest any more.
                (Some(Asked::Unsubscribe { .. }), Value::Error(_)) => Ok(None),
                (Some(Asked::Ping), Value::Error(error)) if error.code != ErrorCode::Other => Ok(None),
                (Some(Asked::Ping), Value::Bytes(_)) => Ok(None),
                _ => Err(Broken::Unasked),
            };
        };
        let mut parts = parts.into_iter();
        let (kind, channel, rest) = (parts.next(), parts.next(), parts.next());
        let kind = kind.as_ref().and_then(Value::bytes).map(|kind| &**kind);
        let Some(Value::Bytes(channel)) = channel else {
            return Ok(None);
        };
        match (kind, rest) {
            (Some(b"smessage"), Some(Value::Bytes(payload))) => Ok(Some(News::Message(channel, payload))),
            (Some(b"ssubscribe"), _) => match state.asked.front_mut() {
                Some(Asked::Subscribe { channels, confirmed }) if channels.get(*confirmed) == Some(&channel) => {
                    *confirmed += 1;
                    if *confirmed == channels.len() {
                        state.asked.pop_front();
                    }
                    Ok(Some(News::Subscribed(channel)))
                }
                _ => Err(Broken::Unasked),
            },
            (Some(b"sunsubscribe"), _) => match state.asked.front_mut() {
                Some(Asked::Unsubscribe { channels, confirmed }) if channels.get(*confirmed) == Some(&channel) => {
                    *confirmed += 1;
                    if *confirmed == channels.len() {
                        state.asked.pop_front();
                    }
                    Ok(None)
                }
                _ => Ok(Some(News::Ended(channel))),
            },
            // Something newer that was not asked for.
            _ => Ok(None),
        }
    }

    fn look(&self, heard: Instant) -> Result<(), Broken> {
        let quiet = heard.elapsed();
        let mut state = self.state.borrow_mut();
        // Asked a long time after the last word: it has the time for its answer still.
        if !state.asked.is_empty() && quiet >= self.timeout + QUIET {
            return Err(Broken::Silent(self.timeout));
        }
        if state.asked.is_empty() && quiet >= QUIET && !state.closed {
            Call::new("PING").encode(&mut state.out);
            state.asked.push_back(Asked::Ping);
            self.wake.notify_one();
        }
        Ok(())
    }
}
