use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Text that must not be shown. Prints as `***`; reading it takes [`Secret::expose`].
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself. Never log or label with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(self.0.as_bytes(), other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a secret of a production server has at least, bytes: as much as the largest HMAC takes in whole.
pub const STRONG_SECRET_BYTES: usize = 64;

/// Words of examples. Longer than what chance puts into a random text.
const PLACEHOLDERS: [&str; 8] =
    ["changeme", "change-me", "change_me", "change-this", "change_this", "your-secret", "placeholder", "development"];

/// Why a secret is none for production.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Weakness {
    /// It is too short.
    #[error("has {0} bytes; it must have at least {STRONG_SECRET_BYTES}: openssl rand -hex 32")]
    Short(usize),
    /// It has hardly any different bytes, so that it can be guessed.
    #[error("is the same few characters over and over; make a random one: openssl rand -hex 32")]
    Monotonous,
    /// Everybody who read an example knows it, or how it begins.
    #[error("is one for development; make a random one: openssl rand -hex 32")]
    Placeholder,
}

/// Why a secret is too weak for production, if it is.
pub fn weakness(secret: &Secret) -> Option<Weakness> {
    let bytes = secret.expose().as_bytes();
    let lower = secret.expose().to_ascii_lowercase();
    if PLACEHOLDERS.iter().any(|word| lower.contains(word)) {
        return Some(Weakness::Placeholder);
    }
    if bytes.len() < STRONG_SECRET_BYTES {
        return Some(Weakness::Short(bytes.len()));
    }
    let mut seen = [false; 256];
    for byte in bytes {
        if let Some(seen) = seen.get_mut(usize::from(*byte)) {
            *seen = true;
        }
    }
    // 64 random hexadecimal digits have fewer than 8 different ones once in about 10^20 secrets.
    (seen.iter().filter(|seen| **seen).count() < 8).then_some(Weakness::Monotonous)
}

/// Whether two byte strings are equal, in a time that tells neither where they differ nor how long the right one is.
pub fn constant_time_eq(left: &[u8], right: &[u8]) -> bool {
    digests_eq(&Sha256::digest(left).into(), &Sha256::digest(right).into())
}

/// Compares digests without an early end.
pub(crate) fn digests_eq(left: &[u8; 32], right: &[u8; 32]) -> bool {
    let difference = left.iter().zip(right).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars() {
        let secret = Secret::from("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_short_a_monotonous_and_an_examples_secret_are_weak() {
        let weakness = |text: &str| weakness(&Secret::from(text));
        let strong = "0123456789abcdef".repeat(4);
        assert_eq!(weakness(&strong), None);
        assert_eq!(weakness(&strong[..63]), Some(Weakness::Short(63)));
        assert_eq!(weakness(""), Some(Weakness::Short(0)));
        assert_eq!(weakness(&"secret".repeat(20)), Some(Weakness::Monotonous));
        assert_eq!(weakness(&"x".repeat(64)), Some(Weakness::Monotonous));
        assert_eq!(weakness(&format!("{strong}-Change-Me")), Some(Weakness::Placeholder));
    }

    #[test]
    fn equality_is_that_of_the_bytes() {
        assert!(constant_time_eq(b"", b""));
        assert!(constant_time_eq(b"abc", b"abc"));
        assert!(!constant_time_eq(b"abc", b"abd"));
        assert!(!constant_time_eq(b"abc", b"abcd"));
        assert_ne!(Secret::from("a"), Secret::from("b"));
    }
}
