//! Any document is a set of keys or is refused; a key never takes a token that it did not sign.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_auth::{Algorithm, Jwks, Secrets};

fuzz_target!(|data: &[u8]| {
    for secrets in [Secrets::Accepted, Secrets::Refused] {
        let _ = Jwks::parse(data, &Algorithm::ALL, secrets);
    }
});
