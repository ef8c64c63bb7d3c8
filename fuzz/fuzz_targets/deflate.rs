//! No bytes inflate to more than is allowed; what was deflated inflates to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_wire::websocket::{Deflater, Inflater};

const MOST: usize = 64 << 10;

fuzz_target!(|data: &[u8]| {
    let mut out = b"before".to_vec();
    if Inflater::default().inflate(data, MOST, &mut out).is_ok() {
        assert!(out.len() <= MOST + 6 && out.starts_with(b"before"));
    }
    let mut deflated = Vec::new();
    if Deflater::default().deflate(data, &mut deflated) {
        assert!(deflated.len() < data.len());
        let mut again = Vec::new();
        assert!(Inflater::default().inflate(&deflated, data.len(), &mut again).is_ok());
        assert_eq!(again, data);
    }
});
