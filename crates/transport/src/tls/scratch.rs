//! The thread's buffers for TLS. Each is taken out of its place while it is used, so that a call from within finds a new one
//! instead of a borrowed one.

use std::cell::Cell;
use std::thread::LocalKey;

thread_local! {
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static PLAIN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static WRITE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Beyond this, a buffer that had to grow is not kept.
const KEPT: usize = 128 * 1024;

fn with<T>(place: &'static LocalKey<Cell<Vec<u8>>>, run: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut buffer = place.take();
    let result = run(&mut buffer);
    if buffer.capacity() <= KEPT {
        place.set(buffer);
    }
    result
}

/// For records that are read: at least `length` bytes, of any content.
pub(super) fn reading<T>(length: usize, run: impl FnOnce(&mut [u8]) -> T) -> T {
    with(&READ, |buffer| {
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        run(buffer)
    })
}

/// For bytes that are gathered to be encrypted together; empty.
pub(super) fn gathering<T>(run: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    with(&PLAIN, |buffer| {
        buffer.clear();
        run(buffer)
    })
}

/// For records that are written; empty.
pub(super) fn writing<T>(run: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    with(&WRITE, |buffer| {
        buffer.clear();
        run(buffer)
    })
}
