//! What happens by the clock: pings, timeouts, comments on silent event streams, and the spaces' own ticks.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_session::{Session, Transport};
use tidegate_types::{ConnId, ShardId};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

use crate::compression;
use crate::connection::{Io, Protocol};
use crate::expiry;
use crate::node::{now_ms, steady_ms};
use crate::shard::{Shard, TICK};
use crate::wheel::TURNS;

/// A worker's clock stands for everybody's only on the first shard.
const FIRST: ShardId = ShardId(0);
/// Ticks between two looks at what is only counted now and then.
const SHOW_TICKS: u32 = 10;
/// Ticks between two sweeps.
const SWEEP_TICKS: u32 = 50;

pub(crate) fn start(shard: &Rc<Shard>) {
    spawn_local(ping(shard.clone()));
    spawn_local(comment(shard.clone()));
    spawn_local(measure_lag(shard.clone()));
    if shard.id == FIRST {
        spawn_local(tick(shard.clone()));
    }
}

fn every(round_ms: u64) -> tokio::time::Interval {
    let turn = Duration::from_millis((round_ms / TURNS as u64).max(10));
    let mut interval = interval(turn);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn ping(shard: Rc<Shard>) {
    let settings = shard.node.settings.session.clone();
    let mut turns = every(settings.ping_interval_ms);
    // A worker that was held up catches up, or every ping would be later than the one before.
    turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let round = Duration::from_millis(settings.ping_interval_ms);
    let turn_ms = (settings.ping_interval_ms / TURNS as u64).max(10);
    // One turn later than each timeout, because a turn may come early by less than one.
    let turns_of = |ms: u64| usize::try_from(ms.div_ceil(turn_ms)).unwrap_or(TURNS) + 1;
    let (timeout_turns, connect_turns) = (turns_of(settings.ping_timeout_ms), turns_of(settings.connect_timeout_ms));
    loop {
        if turns.tick().await.elapsed() > round {
            turns.reset();
        }
        shard.node.metrics.compression_saved_bytes.inc_by(compression::take_saved());
        shard.turn.set(shard.turn.get().wrapping_add(1));
        let now = steady_ms();
        let mut due: Vec<ConnId> = Vec::new();
        shard.wheel.borrow_mut().advance(|id| {
            let alive = shard.conn(*id).is_some();
            if alive {
                due.push(*id);
            }
            alive
        });
        let mut waiting: Vec<ConnId> = shard.wheel.borrow().earlier(timeout_turns).to_vec();
        if connect_turns % TURNS != timeout_turns % TURNS {
            waiting.extend_from_slice(shard.wheel.borrow().earlier(connect_turns));
        }
        for conn in waiting.iter().chain(&due).filter_map(|id| shard.conn(*id)) {
            let expired = conn.session.borrow().expired(now, &settings);
            if let Some(reason) = expired {
                shard.end(&conn, reason);
            }
        }
        for conn in due.iter().filter_map(|id| shard.conn(*id)) {
            expiry::watch(&shard, &conn, now_ms());
            if conn.session.borrow_mut().ping_turn(now) {
                match &conn.protocol {
                    Protocol::SocketIo | Protocol::Engine(_) => shard.send(&conn, &[], |packet| packet.push(b'2')),
                    Protocol::WebSocket(_) | Protocol::Lines => shard.send_ping(&conn),
                }
            }
            shard.look_at_activity(&conn, turn_ms, now_ms());
        }
    }
}

async fn comment(shard: Rc<Shard>) {
    let mut turns = every(shard.node.settings.sse_heartbeat_ms);
    loop {
        turns.tick().await;
        let mut due: Vec<ConnId> = Vec::new();
        shard.event_wheel.borrow_mut().advance(|id| {
            let alive = shard.conn(*id).is_some();
            if alive {
                due.push(*id);
            }
            alive
        });
        for conn in due.iter().filter_map(|id| shard.conn(*id)) {
            if let Io::Events(events) = &*conn.io.borrow() {
                events.comment();
            }
            expiry::watch(&shard, &conn, now_ms());
        }
    }
}

async fn tick(shard: Rc<Shard>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0u32;
    loop {
        ticks.tick().await;
        let now = now_ms();
        shard.node.tick(now);
        count = count.wrapping_add(1);
        if count.is_multiple_of(SHOW_TICKS) {
            shard.node.show();
        }
        if count.is_multiple_of(SWEEP_TICKS) {
            shard.node.sweep(now);
        }
    }
}

/// How long a task that is ready waits for its turn on this worker.
async fn measure_lag(shard: Rc<Shard>) {
    let Some(lag) = shard.node.lags.get(usize::from(shard.id.0)) else { return };
    loop {
        let due = tokio::time::Instant::now() + TICK;
        tokio::time::sleep_until(due).await;
        let late = due.elapsed().as_micros();
        lag.store(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A session on its way into the shard's table.
pub(crate) fn new_session(transport: Transport) -> Session {
    Session::open(transport, steady_ms())
}
