use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::thread::JoinHandle;

use tidegate_types::NodeId;

use super::core::Core;
use crate::Pause;

/// The one thread on which nodes hear and are answered.
pub(super) struct Dispatch {
    core: Arc<Mutex<Core>>,
    bell: Arc<Condvar>,
    thread: Option<JoinHandle<()>>,
}

impl Dispatch {
    pub fn start(core: Arc<Mutex<Core>>) -> std::io::Result<Self> {
        let bell = Arc::new(Condvar::new());
        let (of_thread, rung) = (Arc::clone(&core), Arc::clone(&bell));
        let run = move || deliver(&of_thread, &rung);
        let thread = std::thread::Builder::new().name("memory-broker".into()).spawn(run)?;
        Ok(Self { core, bell, thread: Some(thread) })
    }

    pub fn wake(&self) {
        self.bell.notify_all();
    }

    pub fn settle(&self) {
        let mut core = lock(&self.core);
        while core.is_busy() {
            core = self.bell.wait(core).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Dispatch {
    fn drop(&mut self) {
        lock(&self.core).closed = true;
        self.bell.notify_all();
        let Some(thread) = self.thread.take() else { return };
        // The last handle may be dropped by what a node hears, on the thread itself.
        if thread.thread().id() != std::thread::current().id() {
            drop(thread.join());
        }
    }
}

fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes the thread when a node can take more.
struct Bell {
    rung: AtomicBool,
    core: Arc<Mutex<Core>>,
    bell: Arc<Condvar>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        // Under the lock, or the thread could look before this and begin to wait after it.
        let _held = lock(&self.core);
        self.bell.notify_all();
    }
}

/// A node that cannot take more now.
struct Full {
    node: NodeId,
    pause: Pause,
    bell: Arc<Bell>,
}

impl Full {
    /// Whether it can take more now. Not to be called under the lock.
    fn is_over(&mut self) -> bool {
        if !self.bell.rung.swap(false, Ordering::AcqRel) {
            return false;
        }
        let waker = Waker::from(Arc::clone(&self.bell));
        self.pause.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
    }
}

fn deliver(core: &Arc<Mutex<Core>>, bell: &Arc<Condvar>) {
    let mut full: Vec<Full> = Vec::new();
    let mut of = lock(core);
    loop {
        if of.closed {
            return;
        }
        if full.iter().any(|full| full.bell.rung.load(Ordering::Acquire)) {
            drop(of);
            let over: Vec<NodeId> = full.extract_if(.., Full::is_over).map(|full| full.node).collect();
            of = lock(core);
            over.into_iter().for_each(|node| of.pause(node, false));
            continue;
        }
        let Some((node, due)) = of.next_due() else {
            bell.notify_all();
            of = bell.wait(of).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        // What a node hears makes it call the broker again.
        drop(of);
        let pause = due();
        of = lock(core);
        of.delivering = false;
        if let Some(pause) = pause {
            of.pause(node, true);
            let bell = Bell { rung: AtomicBool::new(true), core: Arc::clone(core), bell: Arc::clone(bell) };
            full.push(Full { node, pause, bell: Arc::new(bell) });
        }
    }
}
