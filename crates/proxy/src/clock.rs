//! One coarse clock per worker instead of a timer per exchange.
//!
//! Everything that can be idle for too long has an [`Alarm`]: a slot in a slab with its due time. A ticker walks the slab
//! once per tick and wakes what is due. Setting an alarm is a store, and an idle tunnel costs one slot. With nothing
//! registered, the ticker sleeps.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::Notify;

use crate::ForwarderSettings;
use crate::live::Leave;

/// Milliseconds since the clock was made, as of the last tick.
pub(crate) type Ticks = u64;

/// What the end of the process means for the owner of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Species {
    /// Runs to its end.
    Exchange,
    /// Is asked to end at a good place when draining begins, and at the latest when everything closes: tunnels and event
    /// streams.
    Stream,
    /// Was asked and is about to end: only its due time counts.
    Parting,
}

#[derive(Debug)]
struct Slot {
    due: Ticks,
    /// When the owner is asked to end, and why.
    leave_at: Ticks,
    leave: Leave,
    species: Species,
    waker: Option<Waker>,
}

impl Slot {
    fn leaving(&self) -> Option<Leave> {
        (self.leave_at != NEVER).then_some(self.leave)
    }
}

const NEVER: Ticks = Ticks::MAX;

/// A drain of a few streams need not take the time that it may.
const LONGEST_GAP: Duration = Duration::from_millis(250);

/// How long those have that are about to end when everything closes.
const CLOSING: Ticks = 200;

/// A worker's clock.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// From the process's first clock to this one, milliseconds.
    offset: Ticks,
    tick: Duration,
    now: Cell<Ticks>,
    slots: RefCell<Slab<Slot>>,
    /// Idle connections that wait for their end.
    parked: Cell<usize>,
    asleep: Cell<bool>,
    woken: Notify,
    stopped: Cell<bool>,
    closing: Cell<bool>,
    draining: Cell<bool>,
    /// Over how long the ends of streams are spread when draining begins.
    spread: Cell<Ticks>,
    gap: Cell<Duration>,
    jitter: Cell<u8>,
    seed: Cell<u64>,
}

impl Clock {
    pub(crate) fn new(settings: &ForwarderSettings) -> Rc<Self> {
        use std::hash::{BuildHasher, RandomState};
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        let start = Instant::now();
        Rc::new(Self {
            start,
            offset: millis(start.saturating_duration_since(*ORIGIN.get_or_init(|| start))),
            tick: settings.tick.max(Duration::from_millis(1)),
            now: Cell::new(0),
            slots: RefCell::default(),
            parked: Cell::new(0),
            asleep: Cell::new(false),
            woken: Notify::new(),
            stopped: Cell::new(false),
            closing: Cell::new(false),
            draining: Cell::new(false),
            spread: Cell::new(millis(settings.drain_spread)),
            gap: Cell::new(settings.drain_gap),
            jitter: Cell::new(settings.drain_jitter),
            seed: Cell::new(RandomState::new().hash_one(0u8) | 1),
        })
    }

    /// The pace of a drain that begins later. The tick stays.
    pub(crate) fn set_drain(&self, settings: &ForwarderSettings) {
        self.spread.set(millis(settings.drain_spread));
        self.gap.set(settings.drain_gap);
        self.jitter.set(settings.drain_jitter);
    }

    pub(crate) fn now(&self) -> Ticks {
        self.now.get()
    }

    /// Milliseconds on a scale that all workers share, as of the last tick.
    pub(crate) fn process_now(&self) -> Ticks {
        self.now.get().saturating_add(self.offset)
    }

    /// For a frame that the gateway itself sends to an upstream.
    pub(crate) fn mask(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.random(u64::MAX).to_be_bytes();
        [a, b, c, d]
    }

    /// The ticker. Ends after [`Clock::stop`], when nothing is registered any more. `each_second` runs about once per
    /// second while anything is.
    pub(crate) async fn run(self: Rc<Self>, each_second: impl Fn()) {
        let mut swept = self.read();
        loop {
            if self.slots.borrow().is_empty() && self.parked.get() == 0 {
                if self.stopped.get() {
                    return;
                }
                self.asleep.set(true);
                self.woken.notified().await;
                continue;
            }
            tokio::time::sleep(self.tick).await;
            let now = self.read();
            self.fire(now);
            if now.saturating_sub(swept) >= 1000 {
                swept = now;
                each_second();
            }
        }
    }

    /// Nobody will need the clock for anything new.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        self.woken.notify_one();
    }

    /// Idle connections come (`true`) and go.
    pub(crate) fn parked(&self, more: bool, count: usize) {
        let parked = self.parked.get();
        self.parked.set(if more { parked + count } else { parked.saturating_sub(count) });
        if more {
            self.rouse();
        }
    }

    pub(crate) fn alarm(self: &Rc<Self>, species: Species) -> Alarm {
        self.rouse();
        let slot = Slot { due: NEVER, leave_at: self.drain_time(species), leave: Leave::Drain, species, waker: None };
        let key = self.slots.borrow_mut().insert(slot);
        Alarm { clock: self.clone(), key }
    }

    /// Streams are asked to end, spread over the drain window, so that their clients do not come back all at once.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        let streams: Vec<usize> = {
            let slots = self.slots.borrow();
            slots.iter().filter(|(_, slot)| slot.species == Species::Stream).map(|(key, _)| key).collect()
        };
        let count = u32::try_from(streams.len()).unwrap_or(u32::MAX).max(1);
        let spread = (Duration::from_millis(self.spread.get()) / count).min(LONGEST_GAP);
        let gap = Some(self.gap.get()).filter(|gap| !gap.is_zero()).unwrap_or(spread);
        self.ask_to_leave(&streams, Leave::Drain, gap, self.jitter.get());
    }

    /// Streams and tunnels end now.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.draining.set(true);
        let soon = self.read() + CLOSING;
        for (_, slot) in self.slots.borrow_mut().iter_mut() {
            match slot.species {
                Species::Exchange => {}
                Species::Parting => slot.due = slot.due.min(soon),
                Species::Stream => _ = slot.waker.take().map(Waker::wake),
            }
        }
    }

    /// Asks the owners of these alarms to end, one after the other with that time between two, each up to `jitter` percent
    /// of it later. Who was asked already keeps its time unless this one is sooner.
    pub(crate) fn ask_to_leave(&self, alarms: &[usize], why: Leave, gap: Duration, jitter: u8) {
        let begin = self.read();
        let gap = u64::try_from(gap.as_micros()).unwrap_or(NEVER);
        let mut slots = self.slots.borrow_mut();
        for (place, alarm) in (0u64..).zip(alarms) {
            let Some(slot) = slots.get_mut(*alarm) else { continue };
            let late = self.random((gap / 100).saturating_mul(u64::from(jitter)) + 1);
            let at = begin.saturating_add(gap.saturating_mul(place).saturating_add(late) / 1000).min(NEVER - 1);
            if slot.species == Species::Stream && at < slot.leave_at {
                slot.leave_at = at;
                slot.leave = why;
            }
        }
    }

    /// Takes back what was asked for that reason; whether there was anything to take back.
    pub(crate) fn let_stay(&self, alarm: usize, why: Leave) -> bool {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(alarm) else { return false };
        let asked = slot.species == Species::Stream && slot.leaving() == Some(why);
        if asked {
            slot.leave_at = self.drain_time(slot.species);
            slot.leave = Leave::Drain;
        }
        asked
    }

    /// Whether and why the owner of an alarm has been asked to end.
    pub(crate) fn leaving(&self, alarm: usize) -> Option<Leave> {
        self.slots.borrow().get(alarm).and_then(Slot::leaving)
    }

    /// A number below `bound`; good enough to spread things.
    pub(crate) fn random(&self, bound: u64) -> u64 {
        // xorshift64 (Marsaglia 2003): no secret depends on it.
        let mut seed = self.seed.get();
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        self.seed.set(seed);
        seed.checked_rem(bound).unwrap_or(0)
    }

    fn drain_time(&self, species: Species) -> Ticks {
        if species == Species::Stream && self.draining.get() {
            self.now() + self.random(self.spread.get() + 1)
        } else {
            NEVER
        }
    }

    fn read(&self) -> Ticks {
        let now = millis(self.start.elapsed());
        self.now.set(now);
        now
    }

    /// The time stood still while the ticker slept.
    fn rouse(&self) {
        if self.asleep.replace(false) {
            self.read();
            self.woken.notify_one();
        }
    }

    fn fire(&self, now: Ticks) {
        for (_, slot) in self.slots.borrow_mut().iter_mut() {
            let leaves = slot.leave_at <= now && slot.species != Species::Parting;
            if (slot.due <= now || leaves)
                && let Some(waker) = slot.waker.take()
            {
                waker.wake();
            }
        }
    }
}

fn millis(duration: Duration) -> Ticks {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

/// What an alarm says when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    /// The time is up.
    Due,
    /// End at the next good place.
    Leave(Leave),
    /// Closing: end now.
    Close,
}

/// A place in the worker's clock.
#[derive(Debug)]
pub(crate) struct Alarm {
    clock: Rc<Clock>,
    key: usize,
}

impl Alarm {
    /// Rings when `timeout` has passed, never early, up to a tick late. One tick is added because the clock's hand may
    /// be that far behind.
    pub(crate) fn set(&self, timeout: Duration) {
        let due = self.clock.now().saturating_add(millis(timeout)).saturating_add(millis(self.clock.tick));
        self.with(|slot| slot.due = due);
    }

    /// Turns the owner into something that the drain treats otherwise.
    pub(crate) fn become_species(&self, species: Species) {
        let leave_at = self.clock.drain_time(species);
        self.with(|slot| {
            slot.species = species;
            // Who is about to end stays marked as such in the register.
            if species != Species::Parting {
                slot.leave_at = leave_at;
                slot.leave = Leave::Drain;
            }
        });
    }

    /// Registers the task, or tells what is up.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Ring> {
        let mut slots = self.clock.slots.borrow_mut();
        let Some(slot) = slots.get_mut(self.key) else { return Poll::Pending };
        if self.clock.closing.get() && slot.species == Species::Stream {
            return Poll::Ready(Ring::Close);
        }
        let now = self.clock.now();
        if slot.due <= now {
            return Poll::Ready(Ring::Due);
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => slot.waker = Some(cx.waker().clone()),
        }
        // Registered all the same: the owner may have to wait for a good place, and must hear of the rest.
        let leaves = slot.leave_at <= now && slot.species != Species::Parting;
        if leaves { Poll::Ready(Ring::Leave(slot.leave)) } else { Poll::Pending }
    }

    /// Whether and why the owner is to end by now.
    pub(crate) fn asked(&self) -> Option<Leave> {
        let slots = self.clock.slots.borrow();
        let slot = slots.get(self.key)?;
        if slot.leave_at <= self.clock.now() { slot.leaving() } else { None }
    }

    pub(crate) fn key(&self) -> usize {
        self.key
    }

    pub(crate) fn clock(&self) -> &Rc<Clock> {
        &self.clock
    }

    fn with(&self, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.clock.slots.borrow_mut().get_mut(self.key) {
            change(slot);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut slots = self.clock.slots.borrow_mut();
        slots.try_remove(self.key);
        if slots.is_empty() && slots.capacity() > 1024 {
            slots.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leave_times(clock: &Clock) -> Vec<Ticks> {
        clock.slots.borrow().iter().map(|(_, slot)| slot.leave_at).collect()
    }

    #[test]
    fn a_drain_asks_streams_one_after_the_other_and_exchanges_never() {
        for (gap, expected) in [(Duration::ZERO, 100), (Duration::from_millis(30), 30)] {
            let settings = ForwarderSettings {
                drain_spread: Duration::from_secs(1),
                drain_gap: gap,
                drain_jitter: 50,
                ..ForwarderSettings::default()
            };
            let clock = Clock::new(&settings);
            let streams: Vec<_> = (0..10).map(|_| clock.alarm(Species::Stream)).collect();
            let exchange = clock.alarm(Species::Exchange);
            clock.drain();
            let begin = clock.now();
            let times = leave_times(&clock);
            for (place, at) in (0u64..).zip(&times[..10]) {
                let even = begin + place * expected;
                assert!((even..=even + expected / 2).contains(at), "{at} at {place}, from {begin}");
            }
            assert_eq!(times[10], NEVER);
            drop((streams, exchange));
        }
    }

    #[test]
    fn an_order_keeps_an_earlier_one_and_can_be_taken_back() {
        let clock = Clock::new(&ForwarderSettings::default());
        let alarm = clock.alarm(Species::Stream);
        clock.ask_to_leave(&[alarm.key()], Leave::ServerDown, Duration::ZERO, 0);
        let first = leave_times(&clock);
        clock.ask_to_leave(&[alarm.key(), alarm.key()], Leave::Kick, Duration::from_secs(9), 0);
        assert_eq!((leave_times(&clock), clock.leaving(alarm.key())), (first, Some(Leave::ServerDown)));
        assert!(!clock.let_stay(alarm.key(), Leave::Kick));
        assert!(clock.let_stay(alarm.key(), Leave::ServerDown));
        assert_eq!(clock.leaving(alarm.key()), None);
    }
}
