//! A token that nobody signed lets nobody in, whatever it says; one that was signed is read, whatever else stands in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_auth::{AuthError, KeySet, MAX_TOKEN_BYTES};

const NOW: u64 = 1_700_000_000_000;

fuzz_target!(|text: &str| {
    let keys = KeySet::hs256(b"a secret that the fuzzer does not know");
    let verdict = keys.verify(text, NOW);
    assert!(verdict.is_err());
    assert!(keys.claims(text, NOW).is_err());
    if text.len() > MAX_TOKEN_BYTES {
        assert_eq!(verdict, Err(AuthError::Invalid));
    }
    let _ = tidegate_auth::bearer(text);
});
