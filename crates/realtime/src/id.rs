use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use tidegate_types::{Millis, hex};

/// Unguessable bytes from the operating system.
///
/// # Panics
/// When the operating system has no randomness to give: without it no secret could be made.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[allow(clippy::expect_used, reason = "without randomness nothing here is safe; the process must not go on")]
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// 20 characters, base64url, unguessable: socket ids, as Node's.
pub(crate) fn socket_id() -> String {
    URL_SAFE_NO_PAD.encode(random::<15>())
}

/// 24 characters, base64url, unguessable: private session ids and tickets.
pub(crate) fn secret_id() -> String {
    URL_SAFE_NO_PAD.encode(random::<18>())
}

/// Message ids: unique, and sortable by time. Not secret, so they cost no system call.
pub(crate) struct MessageIds {
    node: u64,
    next: AtomicU64,
}

impl MessageIds {
    pub fn new() -> Self {
        let node = random::<8>().iter().fold(0, |number, byte| (number << 8) | u64::from(*byte));
        Self { node, next: AtomicU64::new(0) }
    }

    /// 32 hexadecimal digits: time, process, counter.
    pub fn next(&self, now: Millis) -> String {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = Vec::with_capacity(32);
        id.extend_from_slice(&hex::<12>(now));
        id.extend_from_slice(&hex::<12>(self.node));
        id.extend_from_slice(&hex::<8>(count));
        String::from_utf8(id).unwrap_or_default()
    }
}

/// Small numbers for spreading load (xorshift64); never for secrets.
pub(crate) struct Jitter(u64);

impl Jitter {
    pub fn new() -> Self {
        Self(random::<8>().iter().fold(1, |number, byte| (number << 8) | u64::from(*byte)) | 1)
    }

    /// From `least` to `most`, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        least + self.0 % (most - least + 1)
    }
}
