use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use slab::Slab;
use tidegate_metrics::Gauge;
use tidegate_rules::TlsFacts;
use tidegate_transport::ClientTls;

use crate::client::Occupied;
use crate::status::Counts;

/// How patient to be with clients between exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientTimeouts {
    /// From accepting a connection to the end of its first request's head.
    pub header: Duration,
    /// From the end of a response to the end of the next request's head.
    pub keepalive: Duration,
}

/// What a client connection is doing, as far as its timeout is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No head has come yet since that tick.
    First(u32),
    /// Between two exchanges since that tick.
    Between(u32),
    /// In an exchange, which has timeouts of its own.
    Busy,
}

/// One client connection. Its task looks here when it is woken; whoever wants something of it writes here and wakes it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub client: SocketAddr,
    /// Unlike any other of the process.
    pub number: u64,
    /// What its TLS handshake told, if it speaks TLS. Shared with the lines of its requests, which may outlive it.
    tls: OnceCell<Rc<ClientTls>>,
    state: Cell<State>,
    requests: Cell<u32>,
    /// Exchanges that go on: HTTP/2 has several at once.
    exchanges: Cell<u32>,
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Slot {
    /// What the TLS handshake told, if there was one.
    pub fn tls(&self) -> Option<&Rc<ClientTls>> {
        self.tls.get()
    }

    /// The same for templates.
    pub fn tls_facts(&self) -> Option<TlsFacts<'_>> {
        self.tls().map(|tls| tls_facts(tls))
    }

    /// Remembers what the handshake told.
    pub fn secured(&self, tls: ClientTls) {
        // There is one handshake for each connection.
        let _ = self.tls.set(Rc::new(tls));
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.get().is_some() { "https" } else { "http" }
    }

    /// Whether the connection must end now.
    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Whether a request has been read from it.
    pub fn was_used(&self) -> bool {
        !matches!(self.state.get(), State::First(_))
    }

    /// Remembers whom to wake.
    pub fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// The connection's task ends. A tunnel or a session that goes on holds the slot, and through a waker it would hold the
    /// ended task's memory too.
    pub fn unwatch(&self) {
        *self.waker.borrow_mut() = None;
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// How many requests have come on it, the current one included.
    pub fn requests(&self) -> u64 {
        u64::from(self.requests.get())
    }
}

/// What a handshake told, for templates.
pub(crate) fn tls_facts(tls: &ClientTls) -> TlsFacts<'_> {
    TlsFacts {
        version: tls.version,
        cipher: tls.cipher,
        sni: &tls.sni,
        client_subject: &tls.subject,
        client_verified: tls.verified,
    }
}

/// One worker's client connections, and their timeouts: one walk a second instead of a timer per connection.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: RefCell<Slab<Rc<Slot>>>,
    tick: Cell<u32>,
    header_ticks: Cell<u32>,
    keepalive_ticks: Cell<u32>,
    open: Gauge,
    counts: Arc<Counts>,
}

/// Holds a connection's place; counts it as open until dropped. A tunnel keeps it longer than the connection's task.
#[derive(Debug)]
pub(crate) struct Held {
    slots: Rc<Slots>,
    key: usize,
    pub slot: Rc<Slot>,
    _occupied: Occupied,
}

impl Held {
    /// An exchange begins.
    pub fn busy(&self) {
        let counts = &self.slots.counts;
        counts.request();
        self.slot.requests.set(self.slot.requests.get().saturating_add(1));
        self.slot.exchanges.set(self.slot.exchanges.get() + 1);
        match self.slot.state.replace(State::Busy) {
            State::First(_) => {
                counts.reading(-1);
                counts.writing(1);
            }
            State::Between(_) => counts.writing(1),
            State::Busy => {}
        }
    }

    /// An exchange has ended; after the last one, the next is awaited.
    pub fn idle(&self) {
        let left = self.slot.exchanges.get().saturating_sub(1);
        self.slot.exchanges.set(left);
        if left > 0 {
            return;
        }
        if self.slot.state.replace(State::Between(self.slots.tick.get())) == State::Busy {
            self.slots.counts.writing(-1);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.slots.slots.borrow_mut().try_remove(self.key);
        self.slots.open.dec();
        let counts = &self.slots.counts;
        counts.closed();
        match self.slot.state.get() {
            State::First(_) => counts.reading(-1),
            State::Busy => counts.writing(-1),
            State::Between(_) => {}
        }
    }
}

/// How often [`Slots::tick`] is to be called.
pub(crate) const TICK: Duration = Duration::from_millis(250);

impl Slots {
    /// None yet; [`Slots::set_timeouts`] before any comes.
    pub fn new(open: Gauge, counts: Arc<Counts>) -> Rc<Self> {
        Rc::new(Self {
            slots: RefCell::default(),
            tick: Cell::new(0),
            header_ticks: Cell::new(u32::MAX),
            keepalive_ticks: Cell::new(u32::MAX),
            open,
            counts,
        })
    }

    /// From now on, for connections that are open too.
    pub fn set_timeouts(&self, timeouts: ClientTimeouts) {
        let ticks =
            |time: Duration| u32::try_from(time.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX).max(1);
        self.header_ticks.set(ticks(timeouts.header));
        self.keepalive_ticks.set(ticks(timeouts.keepalive));
    }

    /// A connection was accepted.
    pub fn open(self: &Rc<Self>, client: SocketAddr, occupied: Occupied) -> Held {
        let slot = Rc::new(Slot {
            client,
            number: self.counts.opened(),
            tls: OnceCell::new(),
            exchanges: Cell::new(0),
            state: Cell::new(State::First(self.tick.get())),
            requests: Cell::new(0),
            cut: Cell::new(false),
            waker: RefCell::default(),
        });
        let key = self.slots.borrow_mut().insert(slot.clone());
        self.open.inc();
        self.counts.reading(1);
        Held { slots: self.clone(), key, slot, _occupied: occupied }
    }

    pub fn is_empty(&self) -> bool {
        self.slots.borrow().is_empty()
    }

    /// A quarter of a second has passed. Every fourth time, connections that waited too long are cut.
    pub fn tick(&self) {
        let now = self.tick.get().wrapping_add(1);
        self.tick.set(now);
        let (header_ticks, keepalive_ticks) = (self.header_ticks.get(), self.keepalive_ticks.get());
        if !now.is_multiple_of(4) && header_ticks >= 4 && keepalive_ticks >= 4 {
            return;
        }
        for (_, slot) in self.slots.borrow().iter() {
            let late = match slot.state.get() {
                State::First(since) => now.wrapping_sub(since) >= header_ticks,
                State::Between(since) => now.wrapping_sub(since) >= keepalive_ticks,
                State::Busy => false,
            };
            if late {
                slot.cut.set(true);
                slot.wake();
            }
        }
    }

    /// Every connection's task looks whether the server is draining.
    pub fn wake_all(&self) {
        for (_, slot) in self.slots.borrow().iter() {
            slot.wake();
        }
    }

    /// Every connection ends now.
    pub fn cut_all(&self) {
        for (_, slot) in self.slots.borrow().iter() {
            slot.cut.set(true);
            slot.wake();
        }
    }
}
