use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::core::Core;

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

fn deliver(core: &Mutex<Core>, bell: &Condvar) {
    let mut of = lock(core);
    loop {
        if of.closed {
            return;
        }
        let Some(due) = of.next_due() else {
            bell.notify_all();
            of = bell.wait(of).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        // What a node hears makes it call the broker again.
        drop(of);
        due();
        of = lock(core);
        of.delivering = false;
    }
}
