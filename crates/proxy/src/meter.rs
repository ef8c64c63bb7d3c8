//! What happens inside a WebSocket of a route that inspects: counts, limits, rules, and the gateway's own pings.
//!
//! Frames pass as they came. Only pongs that answer a ping of the gateway are taken out: nobody behind it has asked.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_balance::TokenBucket;
use tidegate_metrics::{CloseBy, Direction, StreamLimit, StreamPeer, WebSocketMetrics};
use tidegate_types::CloseReason;
use tidegate_wire::websocket::{Opcode, Role, Rules, Scanner, Seen, WsError, encode_header, encode_masked};

use crate::clock::{Clock, Ticks};
use crate::flow::Flow;
use crate::parting::{Farewell, NO_CODE};
use crate::policy::{Inspect, LimitKey, WebSocketPolicy};

/// Looks into both directions of a tunnel.
#[derive(Debug)]
pub(crate) struct Meter {
    policy: Arc<WebSocketPolicy>,
    metrics: Arc<WebSocketMetrics>,
    key: Option<LimitKey>,
    messages: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
    client: Side,
    upstream: Side,
    /// The gateway's pings begin so, which no other gateway on the way does.
    mark: [u8; MARK],
    ping_at: Ticks,
    /// When something last moved that an end of the tunnel wanted to send.
    heard: Ticks,
    idle_timeout: Duration,
}

const MARK: usize = 8;

/// What one end sends, and the pings that it gets.
#[derive(Debug)]
struct Side {
    scanner: Scanner,
    /// Bytes that it sent.
    sent: u64,
    /// The beginning of a pong that may be an answer to the gateway.
    held: Vec<u8>,
    ping: Ping,
}

#[derive(Debug, Default)]
struct Ping {
    number: u32,
    /// Since when one is due that could not be sent yet.
    wanted: Option<Ticks>,
    /// When one was sent that is not answered yet.
    sent: Option<(Instant, Ticks)>,
}

/// What becomes of bytes that were read.
pub(crate) struct Watched<'a> {
    /// What is to be passed on.
    pub(crate) out: Cow<'a, [u8]>,
    /// Then the tunnel ends.
    pub(crate) refused: Option<Farewell>,
}

/// What is due in a tunnel when its alarm rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing for so long.
    Nothing(Duration),
    /// Nothing moved for too long.
    Idle,
    /// That end does not answer.
    Dead(StreamPeer),
}

impl Meter {
    /// For a new tunnel. `deflate`: permessage-deflate was negotiated.
    pub(crate) fn new(
        policy: Arc<WebSocketPolicy>,
        key: Option<LimitKey>,
        deflate: bool,
        flow: &Flow,
        clock: &Clock,
        idle_timeout: Duration,
    ) -> Box<Self> {
        let now = clock.now();
        let side = |role| Side {
            scanner: Scanner::new(match policy.settings.inspect {
                Inspect::Off | Inspect::Meter => Rules::Light,
                Inspect::Strict => Rules::Strict { role, deflate },
            }),
            sent: 0,
            held: Vec::new(),
            ping: Ping::default(),
        };
        let interval = millis(policy.settings.ping_interval);
        // Tunnels that came together are not pinged together.
        let ping_at = if interval == 0 { Ticks::MAX } else { now + interval / 2 + clock.random(interval / 2 + 1) };
        Box::new(Self {
            key,
            messages: policy.messages.map(|settings| TokenBucket::new(settings, now)),
            bytes: policy.bytes.map(|settings| TokenBucket::new(settings, now)),
            client: side(Role::Server),
            upstream: side(Role::Client),
            mark: clock.random(u64::MAX).to_be_bytes(),
            ping_at,
            heard: now,
            idle_timeout,
            metrics: flow.route.websocket().clone(),
            policy,
        })
    }

    /// Looks at what an end has sent.
    pub(crate) fn watch<'a>(&mut self, from: StreamPeer, bytes: &'a [u8], flow: &Flow, clock: &Clock) -> Watched<'a> {
        let pings = !self.policy.settings.ping_interval.is_zero();
        let side = match from {
            StreamPeer::Client => &mut self.client,
            StreamPeer::Upstream => &mut self.upstream,
        };
        // Held bytes have been scanned already.
        let (all, begin): (Cow<'a, [u8]>, usize) = if side.held.is_empty() {
            (Cow::Borrowed(bytes), 0)
        } else {
            let mut held = std::mem::take(&mut side.held);
            let begin = held.len();
            held.extend_from_slice(bytes);
            (Cow::Owned(held), begin)
        };
        let base = side.sent - begin as u64;
        side.sent += bytes.len() as u64;
        let place = |position: u64| usize::try_from(position.saturating_sub(base)).unwrap_or(usize::MAX);
        let mut at = begin;
        let mut messages = 0u64;
        let mut answers = Vec::new();
        let mut refused = None;
        let direction = match from {
            StreamPeer::Client => Direction::ToUpstream,
            StreamPeer::Upstream => Direction::ToClient,
        };
        if from == StreamPeer::Client {
            let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let own = self.bytes.as_mut().zip(self.policy.bytes);
            if let Some((bucket, settings)) = own
                && !bucket.take(settings, count, clock.now())
            {
                refused = Some(limited(StreamLimit::Bytes));
            } else if self.policy.bytes.is_some()
                && let Some(key) = self.key
                && let Err(limit) = self.policy.take(key, 0, count, clock.process_now())
            {
                refused = Some(limited(limit));
            }
        }
        while refused.is_none() {
            let scanned = match side.scanner.scan(all.get(at..).unwrap_or_default()) {
                Ok(scanned) => scanned,
                Err(error) => {
                    refused = Some(broken(error, from));
                    break;
                }
            };
            at += scanned.consumed;
            match scanned.seen {
                None => break,
                Some(Seen::Frame { first, size, .. }) if from == StreamPeer::Client => {
                    let limit = self.policy.settings.max_message;
                    if limit > 0 && size > limit {
                        refused = Some(limited(StreamLimit::MessageSize));
                    } else if first {
                        let own = self.messages.as_mut().zip(self.policy.messages);
                        if let Some((bucket, settings)) = own {
                            if !bucket.take(settings, 1, clock.now()) {
                                refused = Some(limited(StreamLimit::Messages));
                            } else if let Some(key) = self.key
                                && let Err(limit) = self.policy.take(key, 1, 0, clock.process_now())
                            {
                                refused = Some(limited(limit));
                            }
                        }
                    }
                }
                Some(Seen::Frame { .. }) => {}
                Some(Seen::Message { size, .. }) => {
                    messages += 1;
                    #[expect(clippy::cast_precision_loss, reason = "a size for a histogram")]
                    self.metrics.message_bytes(direction).observe(size as f64);
                }
                Some(Seen::Control { opcode: Opcode::Close, payload, .. }) => {
                    let code = payload.first_chunk().map_or(NO_CODE, |code| u16::from_be_bytes(*code));
                    let by = match from {
                        StreamPeer::Client => CloseBy::Client,
                        StreamPeer::Upstream => CloseBy::Upstream,
                    };
                    flow.closed(code, by);
                }
                Some(Seen::Control { opcode: Opcode::Pong, payload, frame }) if pings => {
                    if let Some(number) = payload.strip_prefix(&self.mark) {
                        // It ends here, and what there was of it before is among the held bytes.
                        answers.push(at.saturating_sub(usize::try_from(frame).unwrap_or(usize::MAX))..at);
                        if let Some((sent, _)) = side.ping.sent
                            && number == side.ping.number.to_be_bytes()
                        {
                            side.ping.sent = None;
                            self.metrics.ping_rtt(from).observe(sent.elapsed().as_secs_f64());
                        }
                    }
                }
                Some(Seen::Control { .. }) => {}
            }
        }
        if messages > 0 {
            self.metrics.messages(direction).inc_by(messages);
            let total = match from {
                StreamPeer::Client => &flow.messages_in,
                StreamPeer::Upstream => &flow.messages_out,
            };
            total.set(total.get() + messages);
        }
        let mut end = all.len();
        if let Some(farewell) = &refused {
            if let Some(limit) = farewell.limit {
                self.metrics.limited(limit);
            }
            // A frame that has begun to pass cannot be taken back: that direction then ends without a Close.
            end = place(side.scanner.boundary()).min(all.len());
        } else if pings && side.scanner.incomplete_opcode() == Some(Opcode::Pong) {
            end = place(side.scanner.boundary());
            side.held = all.get(end..).unwrap_or_default().to_vec();
        }
        let out = if answers.is_empty() { part(all, end) } else { Cow::Owned(without(&all, end, &answers)) };
        if !out.is_empty() {
            self.heard = clock.now();
        }
        Watched { out, refused }
    }

    /// The ping for that end, if one is due.
    pub(crate) fn ping(&mut self, to: StreamPeer, clock: &Clock) -> Option<Vec<u8>> {
        let side = match to {
            StreamPeer::Client => &mut self.client,
            StreamPeer::Upstream => &mut self.upstream,
        };
        side.ping.wanted.take()?;
        side.ping.number = side.ping.number.wrapping_add(1);
        side.ping.sent = Some((Instant::now(), clock.now()));
        let payload = [&self.mark[..], &side.ping.number.to_be_bytes()].concat();
        let mut frame = Vec::with_capacity(6 + payload.len());
        match to {
            StreamPeer::Client => {
                encode_header(&mut frame, Opcode::Ping, true, payload.len() as u64);
                frame.extend_from_slice(&payload);
            }
            StreamPeer::Upstream => encode_masked(&mut frame, Opcode::Ping, &payload, clock.mask()),
        }
        Some(frame)
    }

    /// Whether a ping for that end waits for a place.
    pub(crate) fn wants_ping(&self, to: StreamPeer) -> bool {
        match to {
            StreamPeer::Client => self.client.ping.wanted.is_some(),
            StreamPeer::Upstream => self.upstream.ping.wanted.is_some(),
        }
    }

    /// What is due now. `patience` is how long both directions may be silent; `stuck` says of the client and the upstream
    /// that they take nothing.
    pub(crate) fn due(&mut self, now: Ticks, patience: Option<Duration>, stuck: [bool; 2]) -> Due {
        let settings = &self.policy.settings;
        let timeout = millis(settings.ping_timeout);
        let idle_at = self.heard.saturating_add(millis(patience.unwrap_or(self.idle_timeout).min(self.idle_timeout)));
        if idle_at <= now {
            return Due::Idle;
        }
        let again = self.ping_at <= now;
        if again {
            self.ping_at = now.saturating_add(millis(settings.ping_interval).max(1));
        }
        let mut next = idle_at.min(self.ping_at);
        let [client_stuck, upstream_stuck] = stuck;
        for (peer, side, stuck) in [
            (StreamPeer::Client, &mut self.client, client_stuck),
            (StreamPeer::Upstream, &mut self.upstream, upstream_stuck),
        ] {
            let ping = &mut side.ping;
            if again && ping.sent.is_none() && ping.wanted.is_none() {
                ping.wanted = Some(now);
            }
            // Who takes nothing cannot be pinged, and is as silent as one who does not answer.
            let since = ping.sent.map(|(_, ticks)| ticks).or(ping.wanted.filter(|_| stuck));
            if let Some(since) = since {
                let dead_at = since.saturating_add(timeout);
                if dead_at <= now {
                    return Due::Dead(peer);
                }
                next = next.min(dead_at);
            }
        }
        Due::Nothing(Duration::from_millis(next.saturating_sub(now)))
    }

    /// What was held back of an end's bytes.
    pub(crate) fn take_held(&mut self, from: StreamPeer) -> Vec<u8> {
        match from {
            StreamPeer::Client => std::mem::take(&mut self.client.held),
            StreamPeer::Upstream => std::mem::take(&mut self.upstream.held),
        }
    }
}

fn part(all: Cow<'_, [u8]>, end: usize) -> Cow<'_, [u8]> {
    match all {
        Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(..end).unwrap_or_default()),
        Cow::Owned(mut bytes) => {
            bytes.truncate(end);
            Cow::Owned(bytes)
        }
    }
}

fn without(all: &[u8], end: usize, holes: &[std::ops::Range<usize>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(end);
    let mut at = 0;
    for hole in holes {
        out.extend_from_slice(all.get(at..hole.start).unwrap_or_default());
        at = hole.end;
    }
    out.extend_from_slice(all.get(at..end).unwrap_or_default());
    out
}

/// The client went beyond a limit. It hears which; the upstream only that the client is gone.
fn limited(limit: StreamLimit) -> Farewell {
    let (code, text) = match limit {
        StreamLimit::MessageSize => (1009, "message too large"),
        StreamLimit::Messages | StreamLimit::KeyMessages => (1008, "too many messages"),
        StreamLimit::Bytes | StreamLimit::KeyBytes => (1008, "too many bytes"),
    };
    Farewell {
        reason: limit.reason(),
        client: Some((code, text)),
        upstream: Some((1001, "the gateway closed the client's connection")),
        deaf: Some(StreamPeer::Client),
        limit: Some(limit),
    }
}

/// An end broke the protocol. It hears so; the other one that it is gone.
fn broken(error: WsError, by: StreamPeer) -> Farewell {
    let code = error.close_code();
    let (reason, text) = if code == 1007 {
        (CloseReason::InvalidText, "text is not UTF-8")
    } else {
        (CloseReason::ProtocolError, "invalid frame")
    };
    let (client, upstream) = match by {
        StreamPeer::Client => ((code, text), (1001, "the gateway closed the client's connection")),
        StreamPeer::Upstream => ((1011, "the server broke the protocol"), (code, text)),
    };
    Farewell { reason, client: Some(client), upstream: Some(upstream), deaf: Some(by), limit: None }
}

fn millis(duration: Duration) -> Ticks {
    u64::try_from(duration.as_millis()).unwrap_or(Ticks::MAX)
}
