//! The access log: one line per exchange, connection and stream, in the format of its route, into the file of its route.
//!
//! A worker formats lines into buffers of its own, one for each file, and gives them away when they are full or a quarter
//! of a second old; one thread writes. What waits for it is bounded: when a disk or a pipe cannot keep up, or is full,
//! whole buffers are dropped and their lines counted, never is a worker held up.
//!
//! [`AccessLog`] is the process's, [`Log`] is what a route holds, [`Lines`] is a worker's end. A reload asks for the logs
//! of the new config: a file that is open already is shared, one that no route names any more is closed when its last line
//! has been written.

mod entry;
mod escape;
mod format;
mod kept;
mod lines;
mod output;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use tidegate_config as config;
use tidegate_metrics::Counter;
use tidegate_rules::Facts;

pub(crate) use entry::Entry;
pub(crate) use kept::Kept;
pub(crate) use lines::Lines;

use crate::StartError;
use format::Format;
use kept::Needs;
use output::{Outputs, Work, write_all};

/// Buffers that may wait for the writer, over all workers and files. Lines are bounded for each file beside that.
const WAITING: usize = 1024;

/// How long the end of the process waits for lines to be written: a pipe that nobody reads must not keep it alive.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Where one route's lines go, and how they look. Many routes may share one file.
#[derive(Debug)]
pub(crate) struct Log {
    output: Arc<output::Output>,
    format: Format,
    needs: Needs,
    /// The name of the route's upstream, if it has one.
    upstream: Box<str>,
    /// Named by the route itself.
    own: bool,
}

impl Log {
    /// Whether streams leave a line when they begin, too: those of a route with a log of its own do.
    pub fn tells_openings(&self) -> bool {
        self.own
    }

    /// What a line will need at its end; `None` if it needs nothing. `facts` are asked for only then.
    pub fn keep<'a>(&self, facts: impl FnOnce() -> Facts<'a>) -> Option<Box<Kept>> {
        self.needs.any().then(|| Box::new(self.needs.keep(&facts())))
    }
}

/// The writer's thread, and what is needed to reach it.
pub(crate) struct AccessLog {
    sender: Mutex<Option<SyncSender<Work>>>,
    writer: Mutex<Option<(JoinHandle<()>, Receiver<()>)>>,
    outputs: Outputs,
    reopen: Arc<AtomicBool>,
    dropped: Counter,
    queue_lines: u64,
}

impl AccessLog {
    /// Starts the writer. So many lines may wait for one file; what is lost is counted in `dropped`.
    pub fn start(queue_lines: usize, dropped: Counter) -> Result<Self, StartError> {
        let (sender, receiver) = sync_channel(WAITING);
        let (done, ended) = sync_channel::<()>(1);
        let outputs = Outputs::default();
        let reopen = Arc::new(AtomicBool::new(false));
        let (written, lost, wanted) = (outputs.clone(), dropped.clone(), reopen.clone());
        let run = move || {
            write_all(&receiver, &written, &wanted, &lost);
            drop(done);
        };
        let thread =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(run).map_err(StartError::Thread)?;
        Ok(Self {
            sender: Mutex::new(Some(sender)),
            writer: Mutex::new(Some((thread, ended))),
            outputs,
            reopen,
            dropped,
            queue_lines: queue_lines as u64,
        })
    }

    /// The log of a route, or that of requests without one; `None` if it is off.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn of(&self, default: &config::Log, route: Option<&config::Route>) -> Result<Option<Arc<Log>>, StartError> {
        let own = route.and_then(|route| route.log.as_ref());
        let Some(output) = self.outputs.open(own.unwrap_or(&default.access))? else { return Ok(None) };
        let format = route.and_then(|route| route.log_format.as_ref()).unwrap_or(&default.access_format);
        let format = Format::of(format)?;
        let upstream = match route.map(|route| &route.action) {
            Some(config::Action::Upstream { name, .. }) => Box::from(&**name),
            Some(_) | None => Box::default(),
        };
        Ok(Some(Arc::new(Log { output, needs: format.needs(), format, upstream, own: own.is_some() })))
    }

    /// A worker's end.
    pub fn lines(&self) -> Lines {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Lines::new(sender, self.dropped.clone(), self.queue_lines)
    }

    /// Opens every file again by its name, as nginx does on SIGUSR1. Returns at once; until it is done, lines go to the
    /// file that was open.
    pub fn reopen(&self) {
        self.reopen.store(true, std::sync::atomic::Ordering::Release);
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            // A full queue wakes the writer by itself.
            let _ = sender.try_send(Work::Wake);
        }
    }

    /// Waits until everything given away has been written. All [`Lines`] must be gone.
    pub fn close(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((thread, ended)) = writer else { return };
        if ended.recv_timeout(LAST_LINES) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the last lines of the access log could not be written: nobody takes them");
            return;
        }
        let _ = thread.join();
    }
}

/// The outputs that are open, as far as somebody still holds them.
type Known = Arc<Mutex<Vec<Weak<output::Output>>>>;
