//! Bytes of another node (or of whoever writes to the broker's channels) are a signal or are refused; none panics, and what
//! is understood means the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| tidegate_realtime::fuzz_signal(data));
