//! Server-sent events: encoding, watching a stream pass, and reading one.
//!
//! Source: WHATWG HTML, section 9.2, "Server-sent events".

mod parse;
mod scan;

pub use parse::{Event, Parser, TooLarge};
pub use scan::EventScanner;

/// Appends an event. Data of several lines becomes several `data` fields, which readers join with a line feed again.
/// Line ends and NUL in `id` and `event`, which could forge other fields, are left out.
pub fn encode_event(out: &mut Vec<u8>, id: Option<&str>, event: Option<&str>, data: &str) {
    out.reserve(data.len() + id.map_or(0, str::len) + event.map_or(0, str::len) + 32);
    if let Some(id) = id {
        field(out, b"id: ", id);
    }
    if let Some(event) = event {
        field(out, b"event: ", event);
    }
    for line in Lines(Some(data)) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Appends a comment, as heartbeat: readers ignore it.
pub fn encode_comment(out: &mut Vec<u8>, text: &str) {
    for line in Lines(Some(text)) {
        out.push(b':');
        if !line.is_empty() {
            out.push(b' ');
            out.extend_from_slice(line.as_bytes());
        }
        out.push(b'\n');
    }
    // A blank line behind it, so that it also pushes out what some proxy holds until an event seems complete.
    out.push(b'\n');
}

/// Appends the time after which a reader that lost its connection shall come back, milliseconds.
pub fn encode_retry(out: &mut Vec<u8>, ms: u64) {
    out.extend_from_slice(b"retry: ");
    out.extend_from_slice(itoa::Buffer::new().format(ms).as_bytes());
    out.extend_from_slice(b"\n\n");
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    out.extend(value.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r' | 0)));
    out.push(b'\n');
}

/// The lines of a text; they end in LF, CR or CRLF. One more than there are line ends.
struct Lines<'a>(Option<&'a str>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.take()?;
        let Some(end) = memchr::memchr2(b'\n', b'\r', text.as_bytes()) else { return Some(text) };
        let (line, rest) = text.split_at_checked(end)?;
        self.0 = rest.strip_prefix("\r\n").or_else(|| rest.get(1..));
        Some(line)
    }
}

#[cfg(test)]
mod tests;
