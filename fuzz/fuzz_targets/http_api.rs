//! Any body of the HTTP API is understood or refused; none panics, however deep or wrong it is.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| tidegate_realtime::fuzz_body(data));
