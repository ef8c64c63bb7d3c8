//! The files, and the thread that writes them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_config::AccessLog as Target;
use tidegate_metrics::Counter;

use super::Known;
use crate::StartError;

/// How long to wait before a pipe that somebody else made non-blocking is tried again.
const PIPE_FULL: Duration = Duration::from_millis(5);

/// What the writer is told.
pub(super) enum Work {
    Write(Batch),
    /// Look whether files are to be opened again.
    Wake,
}

/// Lines of one worker on their way to the writer.
pub(super) struct Batch {
    pub output: Arc<Output>,
    pub text: Vec<u8>,
    pub lines: u64,
}

/// A file that lines are appended to, open once however many routes name it.
#[derive(Debug)]
pub(super) struct Output {
    target: Target,
    /// Lines that wait for the writer.
    pub waiting: AtomicU64,
    /// Only the writer's thread locks it once it is open.
    sink: Mutex<Sink>,
}

#[derive(Debug)]
struct Sink {
    file: File,
    /// The last write broke off inside a line.
    torn: bool,
    /// It was said already that it cannot be written.
    failing: bool,
}

impl Output {
    pub fn open(target: &Target) -> Result<Option<Arc<Self>>, StartError> {
        let failed = |path: PathBuf| move |source| StartError::File { path, source };
        let file = match target {
            Target::Off => return Ok(None),
            Target::Stdout => io::stdout().as_fd().try_clone_to_owned().map_err(failed("/dev/stdout".into()))?.into(),
            Target::Stderr => io::stderr().as_fd().try_clone_to_owned().map_err(failed("/dev/stderr".into()))?.into(),
            Target::File(path) => append_to(path).map_err(failed(path.clone()))?,
        };
        let sink = Mutex::new(Sink { file, torn: false, failing: false });
        Ok(Some(Arc::new(Self { target: target.clone(), waiting: AtomicU64::new(0), sink })))
    }

    /// Writes whole lines; what could not be written is counted.
    fn write(&self, batch: &Batch, lost: &Counter) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        match sink.write(&batch.text) {
            Ok(()) if std::mem::take(&mut sink.failing) => {
                tracing::info!(file = self.name(), "the access log can be written again");
            }
            Ok(()) => {}
            Err((error, lines)) => {
                lost.inc_by(lines);
                if !std::mem::replace(&mut sink.failing, true) {
                    tracing::error!(
                        %error, file = self.name(), lines,
                        "the access log cannot be written; its lines are lost, and counted, until it can be"
                    );
                }
            }
        }
        self.waiting.fetch_sub(batch.lines, Ordering::Relaxed);
    }

    /// Opens the file of that name again, which another program may have moved away.
    fn reopen(&self) {
        let Target::File(path) = &self.target else { return };
        match append_to(path) {
            Ok(file) => {
                let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
                *sink = Sink { file, torn: false, failing: false };
                tracing::info!(file = self.name(), "access log opened again");
            }
            Err(error) => {
                tracing::error!(%error, file = self.name(), "cannot open the access log again; going on with the old file");
            }
        }
    }

    fn name(&self) -> &str {
        match &self.target {
            Target::Off => "off",
            Target::Stdout => "stdout",
            Target::Stderr => "stderr",
            Target::File(path) => path.to_str().unwrap_or("(not UTF-8)"),
        }
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Sink {
    /// The error comes with the number of lines that are lost.
    fn write(&mut self, text: &[u8]) -> Result<(), (io::Error, u64)> {
        let lines = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count() as u64;
        if self.torn {
            // What follows would be glued to the half of a line.
            write_to(&mut self.file, b"\n").map_err(|(error, _)| (error, lines(text)))?;
            self.torn = false;
        }
        write_to(&mut self.file, text).map_err(|(error, written)| {
            let (before, rest) = text.split_at_checked(written).unwrap_or((&[], text));
            self.torn = before.last().is_some_and(|byte| *byte != b'\n');
            (error, lines(rest))
        })
    }
}

/// The error comes with how many bytes were written before.
fn write_to(out: &mut impl Write, mut text: &[u8]) -> Result<(), (io::Error, usize)> {
    let length = text.len();
    while !text.is_empty() {
        match out.write(text) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), length - text.len())),
            Ok(count) => text = text.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PIPE_FULL),
            Err(error) => return Err((error, length - text.len())),
        }
    }
    Ok(())
}

/// The outputs that are open.
#[derive(Clone, Default)]
pub(super) struct Outputs(Known);

impl Outputs {
    /// The one that is open already, or a new one; `None` if the target is none.
    pub fn open(&self, target: &Target) -> Result<Option<Arc<Output>>, StartError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|output| output.strong_count() > 0);
        if let Some(found) = known.iter().filter_map(|output| output.upgrade()).find(|output| output.target == *target)
        {
            return Ok(Some(found));
        }
        let output = Output::open(target)?;
        known.extend(output.iter().map(Arc::downgrade));
        Ok(output)
    }

    fn reopen(&self) {
        let known: Vec<_> = {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().filter_map(|output| output.upgrade()).collect()
        };
        for output in known {
            output.reopen();
        }
    }
}

/// The writer's life: until everybody who could send is gone.
pub(super) fn write_all(work: &Receiver<Work>, outputs: &Outputs, reopen: &AtomicBool, lost: &Counter) {
    while let Ok(next) = work.recv() {
        if reopen.swap(false, Ordering::AcqRel) {
            outputs.reopen();
        }
        match next {
            Work::Write(batch) => batch.output.write(&batch, lost),
            Work::Wake => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then is full.
    struct Full(usize, Vec<u8>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.0 - self.1.len();
            let taken = bytes.len().min(room);
            self.1.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_write_that_breaks_off_tells_how_far_it_came() {
        let mut full = Full(7, Vec::new());
        let (error, written) = write_to(&mut full, b"one\ntwo\n").unwrap_err();
        assert_eq!((error.kind(), written), (io::ErrorKind::StorageFull, 7));
    }

    #[test]
    fn a_line_after_half_a_line_begins_on_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "half").unwrap();
        let mut sink = Sink { file: append_to(&path).unwrap(), torn: true, failing: true };
        sink.write(b"whole\n").unwrap();
        sink.write(b"next\n").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "half\nwhole\nnext\n");
    }
}
