//! The connection: listens to what it is told, writes what it is given, and comes back when it breaks.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::super::backoff::{Backoff, Dice};
use super::super::call::Call;
use super::super::error::ConnectError;
use super::super::resp::Value;
use super::super::wire::{Broken, Wire};
use super::{Arrival, Arriving, Load, Order, Put, Server, Source};

/// Orders taken at once.
const BATCH: usize = 128;
/// Redis is asked whether it is still there after so long without a word.
const QUIET: Duration = Duration::from_secs(5);
/// It has so long for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What has waited longer than this for the connection is no news any more.
const STALE: Duration = Duration::from_secs(5);
/// Orders that wait while there is no connection, or answers that are outstanding.
const MOST_WAITING: usize = 16_384;

/// Opens a connection and logs in.
pub(super) async fn connect(server: &Server) -> Result<Wire, ConnectError> {
    let open = async {
        let mut last = ConnectError::Late;
        for address in server.addresses() {
            match Wire::connect(address, server.tls.as_ref(), server.settings.max_answer_bytes).await {
                Ok(mut wire) => {
                    wire.greet(&server.settings.login).await?;
                    if server.settings.database != 0 {
                        wire.ask(&Call::new("SELECT").int(server.settings.database)).await?;
                    }
                    return Ok(wire);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    timeout(server.settings.connect_timeout, Box::pin(open)).await.unwrap_or(Err(ConnectError::Late))
}

/// What is wanted of the connection.
#[derive(Default)]
struct Wanted {
    sources: BTreeSet<Source>,
    waiting: VecDeque<Order>,
}

pub(super) async fn run(
    server: Arc<Server>,
    mut orders: mpsc::Receiver<Order>,
    arriving: Arriving,
    leaving: Arc<Load>,
    woken: Arc<Notify>,
) {
    let mut wanted = Wanted::default();
    let (dice, mut backoff, mut told) = (Dice::new(), Backoff::default(), false);
    loop {
        match connect(&server).await {
            Ok(wire) => {
                let started = Instant::now();
                let mut link = Link { wire, asked: VecDeque::new(), arriving: &arriving, leaving: &leaving };
                let ended = link.serve(&mut orders, &mut wanted, &woken).await;
                link.asked.drain(..).for_each(|asked| asked.never(&leaving));
                arriving.push(Arrival::Lost);
                match ended {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(%error, "the Redis of the Node servers is lost; trying again"),
                }
                told = true;
                if started.elapsed() > STALE {
                    backoff = Backoff::default();
                }
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, "the Redis of the Node servers cannot be reached; trying on");
            }
            Err(_) => {}
        }
        // Orders are heard all the same: what is to be listened to must not get lost.
        let pause = sleep(backoff.next(&dice));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                order = orders.recv() => match order {
                    Some(order) => wanted.note(order, &leaving),
                    None => return,
                }
            }
        }
    }
}

impl Wanted {
    /// Keeps an order for when there is a connection.
    fn note(&mut self, order: Order, leaving: &Load) {
        match order {
            Order::Listen(source) => _ = self.sources.insert(source),
            Order::Ignore(source) => _ = self.sources.remove(&source),
            Order::Count(_, answer) => drop(answer.send(None)),
            Order::Put(..) => {
                if self.waiting.len() >= MOST_WAITING
                    && let Some(Order::Put(oldest, _)) = self.waiting.pop_front()
                {
                    leaving.drop(oldest.bytes());
                }
                self.waiting.push_back(order);
            }
        }
    }
}

/// A call whose answer is outstanding. They come in the order of the calls.
enum Asked {
    /// Of so many bytes.
    Put(usize),
    /// Confirmed by a push, refused by an answer.
    Listening,
    Count(oneshot::Sender<Option<u64>>),
    Ping,
}

impl Asked {
    /// No answer will come.
    fn never(self, leaving: &Load) {
        match self {
            // Whether it has arrived is not known, and twice is worse than not at all.
            Self::Put(bytes) => leaving.drop(bytes),
            Self::Count(answer) => drop(answer.send(None)),
            Self::Listening | Self::Ping => {}
        }
    }
}

struct Link<'a> {
    wire: Wire,
    asked: VecDeque<Asked>,
    arriving: &'a Arriving,
    leaving: &'a Load,
}

impl Link<'_> {
    /// Until the connection breaks, or nobody wants it any more.
    async fn serve(
        &mut self,
        orders: &mut mpsc::Receiver<Order>,
        wanted: &mut Wanted,
        woken: &Notify,
    ) -> Result<(), Broken> {
        wanted.sources.iter().for_each(|source| self.ask(&source.subscribe(), Asked::Listening));
        // Behind the subscriptions: its answer says that they are in force.
        self.ask(&Call::new("PING"), Asked::Ping);
        let mut connected = false;
        let (mut heard, mut asked_at) = (Instant::now(), Instant::now());
        loop {
            for _ in 0..BATCH {
                if self.asked.len() >= MOST_WAITING {
                    break;
                }
                let order = match wanted.waiting.pop_front() {
                    Some(order) => order,
                    None => match orders.try_recv() {
                        Ok(order) => order,
                        Err(mpsc::error::TryRecvError::Empty) => break,
                        Err(mpsc::error::TryRecvError::Disconnected) => return Ok(()),
                    },
                };
                if self.asked.is_empty() {
                    asked_at = Instant::now();
                }
                self.carry_out(order, wanted);
            }
            let until = Instant::now() + if self.asked.is_empty() { QUIET } else { PATIENCE };
            // Whoever gives an order rings.
            if self.wire.turn(woken, until).await? {
                heard = Instant::now();
                asked_at = heard;
            }
            while let Some(value) = self.wire.next()? {
                self.heard(value)?;
            }
            if !connected && self.asked.is_empty() {
                connected = true;
                self.arriving.push(Arrival::Connected);
            }
            if self.asked.is_empty() && heard.elapsed() >= QUIET {
                asked_at = Instant::now();
                self.ask(&Call::new("PING"), Asked::Ping);
            } else if !self.asked.is_empty() && asked_at.elapsed() >= PATIENCE {
                return Err(Broken::Silent(PATIENCE));
            }
        }
    }

    fn ask(&mut self, call: &Call, asked: Asked) {
        call.encode(self.wire.unsent());
        self.asked.push_back(asked);
    }

    fn carry_out(&mut self, order: Order, wanted: &mut Wanted) {
        match order {
            Order::Put(put, since) if since.elapsed() > STALE => self.leaving.drop(put.bytes()),
            Order::Put(put, _) => self.ask(&put.call(), Asked::Put(put.bytes())),
            Order::Listen(source) => {
                self.ask(&source.subscribe(), Asked::Listening);
                wanted.sources.insert(source);
            }
            Order::Ignore(source) => {
                self.ask(&source.unsubscribe(), Asked::Listening);
                wanted.sources.remove(&source);
            }
            Order::Count(source, answer) => self.ask(&source.count(), Asked::Count(answer)),
        }
    }

    fn heard(&mut self, value: Value) -> Result<(), Broken> {
        let Value::Push(parts) = value else { return self.answered(value) };
        let kind = parts.first().and_then(Value::bytes).cloned().unwrap_or_default();
        match &*kind {
            b"message" | b"pmessage" | b"smessage" => {
                let mut parts = parts.into_iter().rev().map(text);
                if let (Some(Some(payload)), Some(Some(channel))) = (parts.next(), parts.next()) {
                    self.arriving.push(Arrival::Message { pattern: &*kind == b"pmessage", channel, payload });
                }
            }
            b"subscribe" | b"psubscribe" | b"ssubscribe" | b"unsubscribe" | b"punsubscribe" | b"sunsubscribe" => {
                if matches!(self.asked.front(), Some(Asked::Listening)) {
                    self.asked.pop_front();
                }
            }
            // Something newer that was not asked for.
            _ => {}
        }
        Ok(())
    }

    fn answered(&mut self, answer: Value) -> Result<(), Broken> {
        let asked = self.asked.pop_front().ok_or(Broken::Unasked)?;
        if let Value::Error(error) = &answer {
            tracing::warn!(%error, "the Redis of the Node servers has refused something");
            asked.never(self.leaving);
            return Ok(());
        }
        match asked {
            Asked::Put(bytes) => self.leaving.left(bytes),
            Asked::Count(counted) => {
                let count = answer.into_pairs().and_then(|pairs| pairs.first().and_then(|(_, count)| count.int()));
                // Who asked may have gone.
                let _ = counted.send(count.and_then(|count| u64::try_from(count).ok()));
            }
            Asked::Ping => {}
            Asked::Listening => return Err(Broken::Unasked),
        }
        Ok(())
    }
}

fn text(value: Value) -> Option<Bytes> {
    if let Value::Bytes(bytes) = value { Some(bytes) } else { None }
}

impl Load {
    fn left(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn drop(&self, bytes: usize) {
        self.left(bytes);
        self.counts.dropped_out.fetch_add(1, Ordering::Relaxed);
    }
}

impl Source {
    fn name(&self) -> &str {
        match self {
            Self::Channel(name) | Self::Pattern(name) | Self::Shard(name) => name,
        }
    }

    fn call(&self, [channel, pattern, shard]: [&'static str; 3]) -> Call {
        let name = match self {
            Self::Channel(_) => channel,
            Self::Pattern(_) => pattern,
            Self::Shard(_) => shard,
        };
        Call::new(name).arg(self.name())
    }

    fn subscribe(&self) -> Call {
        self.call(["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"])
    }

    fn unsubscribe(&self) -> Call {
        self.call(["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"])
    }

    fn count(&self) -> Call {
        let what = if matches!(self, Self::Shard(_)) { "SHARDNUMSUB" } else { "NUMSUB" };
        Call::new("PUBSUB").arg(what).arg(self.name())
    }
}

impl Put {
    fn call(&self) -> Call {
        match self {
            Self::Publish { channel, payload } => Call::new("PUBLISH").arg(channel).arg(payload),
            Self::ShardPublish { channel, payload } => Call::new("SPUBLISH").arg(channel).arg(payload),
            Self::Append { stream, most, fields } => {
                let call = Call::new("XADD").arg(stream).arg("MAXLEN").arg("~").int(*most).arg("*");
                fields.iter().fold(call, |call, (name, value)| call.arg(name).arg(value))
            }
        }
    }
}
