//! What lies in Redis or comes over its channels is read or refused, whatever it is; a message that is read is one that was
//! written so.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate_cluster::redis::read_anything(&Bytes::copy_from_slice(bytes)));
