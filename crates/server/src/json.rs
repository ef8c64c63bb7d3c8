use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use tidegate_types::push_socket_address;

/// Writes one flat JSON object into a buffer, without building anything first.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    fn key(&mut self, key: &'static str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A text that needs no escaping: one of ours.
    pub fn raw_text(&mut self, key: &'static str, text: &str) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'"');
    }

    /// Any text; bytes that are not UTF-8 become U+FFFD.
    pub fn text(&mut self, key: &'static str, text: &[u8]) {
        self.key(key);
        self.out.push(b'"');
        // Without a branch per byte.
        let plain = |byte: u8| (0x20..=0x7e).contains(&byte) & (byte != b'"') & (byte != b'\\');
        if text.iter().fold(true, |all, byte| all & plain(*byte)) {
            self.out.extend_from_slice(text);
        } else {
            escape(self.out, text);
        }
        self.out.push(b'"');
    }

    pub fn address(&mut self, key: &'static str, address: SocketAddr) {
        self.key(key);
        self.out.push(b'"');
        push_socket_address(self.out, address);
        self.out.push(b'"');
    }

    pub fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Milliseconds with three decimals.
    pub fn millis(&mut self, key: &'static str, value: Duration) {
        self.key(key);
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.out.extend_from_slice(itoa::Buffer::new().format(micros / 1_000).as_bytes());
        let rest = micros % 1_000;
        if rest > 0 {
            let digit = |value: u64| b'0'.wrapping_add(u8::try_from(value % 10).unwrap_or(0));
            self.out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
        }
    }

    pub fn end(self) {
        self.out.push(b'}');
    }
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for character in String::from_utf8_lossy(text).chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            // The line separators U+2028 and U+2029 end a line for some readers.
            control if control.is_control() || matches!(control, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}
