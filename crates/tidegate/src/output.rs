use std::io::{self, Write};

use crate::failure::Failure;

/// Writes to standard output. A reader that has gone away (`tidegate … | head`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::io("cannot write the output", error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
