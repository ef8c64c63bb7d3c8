//! How a receiver knows that a call is ours: an HMAC over the time and the body, so that neither can be changed nor an old
//! call be made again.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use tidegate_auth::Secret;
use tidegate_types::hex;

/// The value of `Tidegate-Signature`: `t=<seconds>,v1=<hex of HMAC-SHA256(secret, "<seconds>.<body>")>`.
pub(super) fn signature(secret: &Secret, seconds: u64, body: &[u8]) -> String {
    #[allow(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104 section 2)")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("a key of any length");
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut value = format!("t={seconds},v1=");
    for byte in mac.finalize().into_bytes() {
        value.extend(hex::<2>(u64::from(byte)).map(char::from));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_that_openssl_makes() {
        // printf '1700000000.{"event":"connect"}' | openssl dgst -sha256 -hmac whsec_0123456789abcdef
        let made = signature(&Secret::from("whsec_0123456789abcdef"), 1_700_000_000, br#"{"event":"connect"}"#);
        assert_eq!(
            made,
            concat!("t=1700000000,v1=", "aeea45818aae336477793b1e03cb34bf4e5c0ec69d45de044f288e970eb5f4a1")
        );
    }
}
