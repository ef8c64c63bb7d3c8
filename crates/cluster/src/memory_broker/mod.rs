//! [`Broker`](crate::Broker) without Redis: several nodes of one process that share one [`model`](crate::model), with
//! switches for what goes wrong. For tests and examples; it is not durable and not made to be fast.
//!
//! Every call is carried out at once, under one lock; what is heard and what is answered comes from one thread, in order.
//! A lane of a node can be held, so that a test decides which of the two comes first, or lost.

mod broker;
mod core;
mod dispatch;
mod history;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_types::NodeId;

use self::core::Core;
use self::dispatch::Dispatch;
use crate::model::{Limits, Loss};
use crate::{Clock, OnHeard, OnWritten, PublishError};

/// What comes to a node: two streams that Redis does not order against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What happens ([`Heard`](crate::Heard)).
    Heard,
    /// What its calls are answered.
    Answers,
}

/// All nodes and the broker between them.
#[derive(Clone)]
pub struct MemoryCluster(Arc<Shared>);

/// One node's broker.
pub struct MemoryBroker {
    shared: Arc<Shared>,
    node: NodeId,
}

struct Shared {
    core: Arc<Mutex<Core>>,
    dispatch: Dispatch,
    clock: Clock,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, then lets what follows from it be heard.
    fn with<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.lock();
        core.now = (self.clock)();
        let outcome = change(&mut core);
        drop(core);
        self.dispatch.wake();
        outcome
    }
}

impl MemoryCluster {
    /// An empty broker. Ages are judged by the clock.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(limits: Limits, clock: Clock) -> std::io::Result<Self> {
        let core = Arc::new(Mutex::new(Core::new(limits)));
        let dispatch = Dispatch::start(Arc::clone(&core))?;
        Ok(Self(Arc::new(Shared { core, dispatch, clock })))
    }

    /// One more node; it is connected at once.
    pub fn node(&self, node: NodeId, on_heard: OnHeard, on_written: OnWritten) -> Arc<MemoryBroker> {
        self.0.with(|core| core.arrive(node, on_heard, on_written));
        Arc::new(MemoryBroker { shared: Arc::clone(&self.0), node })
    }

    /// The connection between the node and the broker breaks. What was on its way to the node is lost.
    pub fn cut(&self, node: NodeId) {
        self.0.with(|core| core.cut(node));
    }

    /// The connection works again: the node follows again, finds what it missed and repeats its leases.
    pub fn mend(&self, node: NodeId) {
        self.0.with(|core| core.mend(node));
    }

    /// The broker dies: every node is cut off.
    pub fn stop(&self) {
        self.0.with(Core::stop);
    }

    /// The broker is back, another life of it, and all living nodes are connected again in the order of their ids.
    pub fn restart(&self, loss: Loss) {
        self.0.with(|core| {
            core.stop();
            core.restart(loss);
        });
    }

    /// The node dies: it hears nothing any more, and nobody is told.
    pub fn kill(&self, node: NodeId) {
        self.0.with(|core| core.kill(node));
    }

    /// The others notice that the node is dead: its leases end, and they hear that it is gone.
    pub fn bury(&self, node: NodeId) {
        self.0.with(|core| core.bury(node));
    }

    /// From now on what comes to the node by the lane waits.
    pub fn hold(&self, node: NodeId, lane: Lane) {
        self.0.with(|core| core.hold(node, lane, true));
    }

    /// Ends [`MemoryCluster::hold`]: what waited comes now, in order.
    pub fn release(&self, node: NodeId, lane: Lane) {
        self.0.with(|core| core.hold(node, lane, false));
    }

    /// Whether the node's calls are carried out and their answers lost: they are answered that the broker cannot be
    /// reached.
    pub fn lose_answers(&self, node: NodeId, lost: bool) {
        self.0.with(|core| core.lose_answers(node, lost));
    }

    /// Whether the node's messages are refused, and why.
    pub fn refuse(&self, node: NodeId, why: Option<PublishError>) {
        self.0.with(|core| core.refuse(node, why));
    }

    /// Waits until everything has come to the nodes that is not held. Not to be called from what a node hears.
    pub fn settle(&self) {
        self.0.dispatch.settle();
    }
}
