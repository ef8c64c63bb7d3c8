use std::cell::Cell;
use std::rc::Rc;

use http::{HeaderMap, HeaderName};
use tidegate_types::hex;

/// The header that carries a request's id, both ways.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id taken over from a client, in bytes.
const MAX_BYTES: usize = 128;

/// Makes ids that are unique, not secret: 32 random bits of the worker, then a 48-bit count from a random start.
#[derive(Debug)]
pub(crate) struct RequestIds {
    worker: u32,
    next: Cell<u64>,
}

impl RequestIds {
    pub fn new() -> Self {
        let mut seed = [0u8; 12];
        // Without randomness ids only stop being unique between processes; no reason not to start.
        let _ = getrandom::fill(&mut seed);
        let [a, b, c, d, rest @ ..] = seed;
        Self { worker: u32::from_le_bytes([a, b, c, d]), next: Cell::new(u64::from_le_bytes(rest)) }
    }

    /// The id of a request: the client's own if it is harmless, else a new one.
    pub fn of(&self, headers: &HeaderMap) -> Rc<str> {
        match headers.get(X_REQUEST_ID).and_then(|value| sane(value.as_bytes())) {
            Some(id) => id.into(),
            None => self.make(),
        }
    }

    /// A new id.
    pub fn make(&self) -> Rc<str> {
        let count = self.next.get();
        self.next.set(count.wrapping_add(1));
        let mut text = [0; 20];
        let (worker, rest) = text.split_at_mut(8);
        worker.copy_from_slice(&hex::<8>(u64::from(self.worker)));
        rest.copy_from_slice(&hex::<12>(count));
        std::str::from_utf8(&text).unwrap_or_default().into()
    }
}

/// An id that can stand in a header, a log line and an error body as it is.
fn sane(id: &[u8]) -> Option<&str> {
    let harmless = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'+' | b'/' | b'=' | b'@')
    };
    (1..=MAX_BYTES).contains(&id.len()).then_some(())?;
    std::str::from_utf8(id).ok().filter(|_| id.iter().all(harmless))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn made_ids_are_unique_and_of_one_length() {
        let ids = RequestIds::new();
        let first = ids.of(&HeaderMap::new());
        let second = ids.of(&HeaderMap::new());
        assert_ne!(first, second);
        assert_eq!(first.len(), 20);
    }

    #[test]
    fn a_client_may_choose_a_harmless_id_only() {
        let ids = RequestIds::new();
        let with = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
            ids.of(&headers)
        };
        assert_eq!(&*with(b"trace-1.2:3"), "trace-1.2:3");
        for bad in [&b"a b"[..], b"", b"\"quoted\"", "ü".as_bytes(), "x".repeat(129).as_bytes()] {
            assert_eq!(with(bad).len(), 20, "{bad:?}");
        }
    }
}
