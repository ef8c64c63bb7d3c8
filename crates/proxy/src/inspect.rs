//! The framing of what a client sends, followed byte by byte beside hyper's parser, which normalises some shapes that an
//! intermediary must refuse: it drops a Content-Length next to `chunked`, merges equal lengths, and takes bare line feeds.
//!
//! Not a second parser of HTTP: only lines, the two framing fields, `Upgrade`, and the chunks' sizes are looked at. What
//! is neither refused here nor there is parsed alike by both.

/// A line of a head or of chunked framing may not be longer. hyper's own limit for the whole head is lower.
const MAX_LINE: usize = 512 * 1024;
/// A chunk's size with its extensions.
const MAX_CHUNK_LINE: usize = 4096;

/// What to do with the bytes just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Pass them on.
    Pass,
    /// Pass on those before `at`; whether the rest is HTTP depends on the answer.
    Hold { at: usize },
    /// The line that begins at `at` (or before) must not be understood by anyone.
    BadHead { at: usize },
    /// The body's framing is broken from `at` on.
    BadBody { at: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a head, or between two requests.
    Head,
    /// That many bytes of a body are left.
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    /// After a chunk's data: an empty line.
    ChunkEnd,
    Trailers,
    /// After a request that asks for another protocol.
    Held,
    /// Another protocol.
    Through,
    Bad,
}

/// Follows one connection.
#[derive(Debug)]
pub(crate) struct Inspector {
    state: State,
    /// The beginning of a line that is not complete yet.
    line: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    /// The request line has been seen.
    begun: bool,
}

impl Default for Inspector {
    fn default() -> Self {
        Self { state: State::Head, line: Vec::new(), length: None, chunked: false, upgrade: false, begun: false }
    }
}

struct Bad;

impl Inspector {
    /// Whether nothing may be read until the answer is known.
    pub(crate) fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// The answer to the request after which reading was held.
    pub(crate) fn release(&mut self, switching: bool) {
        if self.state == State::Held {
            self.state = if switching { State::Through } else { State::Head };
        }
    }

    /// Looks at the next bytes.
    pub(crate) fn inspect(&mut self, bytes: &[u8]) -> Verdict {
        let mut rest = bytes;
        loop {
            let at = bytes.len() - rest.len();
            match self.state {
                State::Through => return Verdict::Pass,
                State::Bad => return Verdict::BadHead { at },
                State::Held if rest.is_empty() => return Verdict::Pass,
                State::Held => return Verdict::Hold { at },
                State::Body(left) | State::ChunkData(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left - taken as u64;
                    rest = rest.get(taken..).unwrap_or_default();
                    if left > 0 {
                        self.state = if matches!(self.state, State::Body(_)) {
                            State::Body(left)
                        } else {
                            State::ChunkData(left)
                        };
                        return Verdict::Pass;
                    }
                    if matches!(self.state, State::Body(_)) {
                        self.end_message();
                    } else {
                        self.state = State::ChunkEnd;
                    }
                }
                State::Head | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    if rest.is_empty() {
                        return Verdict::Pass;
                    }
                    let Some(end) = memchr::memchr(b'\n', rest) else {
                        let limit = if self.state == State::Head { MAX_LINE } else { MAX_CHUNK_LINE };
                        if self.line.len() + rest.len() > limit {
                            return self.refuse(at);
                        }
                        self.line.extend_from_slice(rest);
                        return Verdict::Pass;
                    };
                    let (line, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
                    rest = after.get(1..).unwrap_or_default();
                    let outcome = if self.line.is_empty() {
                        self.take_line(line)
                    } else {
                        let mut whole = std::mem::take(&mut self.line);
                        whole.extend_from_slice(line);
                        self.take_line(&whole)
                    };
                    if outcome.is_err() {
                        return self.refuse(at);
                    }
                }
            }
        }
    }

    fn refuse(&mut self, at: usize) -> Verdict {
        let head = self.state == State::Head;
        self.state = State::Bad;
        self.line = Vec::new();
        if head { Verdict::BadHead { at } } else { Verdict::BadBody { at } }
    }

    /// A line without its LF.
    fn take_line(&mut self, line: &[u8]) -> Result<(), Bad> {
        // RFC 9112 section 2.2 lets a recipient take a bare LF for a line's end; those that do not see another message.
        let line = line.strip_suffix(b"\r").ok_or(Bad)?;
        match self.state {
            State::Head => self.take_head_line(line),
            State::ChunkSize => self.take_chunk_size(line),
            State::ChunkEnd if line.is_empty() => {
                self.state = State::ChunkSize;
                Ok(())
            }
            State::Trailers if line.is_empty() => {
                self.end_message();
                Ok(())
            }
            State::Trailers if !is_folded(line) => Ok(()),
            State::ChunkEnd
            | State::Trailers
            | State::Body(_)
            | State::ChunkData(_)
            | State::Held
            | State::Through
            | State::Bad => Err(Bad),
        }
    }

    fn take_head_line(&mut self, line: &[u8]) -> Result<(), Bad> {
        if !self.begun {
            // RFC 9112 section 2.2: empty lines before a request line are ignored.
            self.begun = !line.is_empty();
            return if is_folded(line) { Err(Bad) } else { Ok(()) };
        }
        if line.is_empty() {
            return self.end_head();
        }
        if is_folded(line) {
            return Err(Bad);
        }
        let Some(colon) = memchr::memchr(b':', line) else { return Err(Bad) };
        let (name, value) = line.split_at_checked(colon).ok_or(Bad)?;
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = parse(value, 10).ok_or(Bad)?;
                if self.chunked || self.length.replace(length).is_some() {
                    return Err(Bad);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") || self.length.is_some() || self.chunked {
                    return Err(Bad);
                }
                self.chunked = true;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            _ => {}
        }
        Ok(())
    }

    fn end_head(&mut self) -> Result<(), Bad> {
        self.begun = false;
        let length = self.length.take();
        if std::mem::take(&mut self.chunked) {
            self.state = State::ChunkSize;
        } else if let Some(length @ 1..) = length {
            self.state = State::Body(length);
        } else {
            self.end_message();
        }
        Ok(())
    }

    fn end_message(&mut self) {
        self.state = if std::mem::take(&mut self.upgrade) { State::Held } else { State::Head };
    }

    fn take_chunk_size(&mut self, line: &[u8]) -> Result<(), Bad> {
        let end = memchr::memchr(b';', line).unwrap_or(line.len());
        let (size, extension) = line.split_at_checked(end).ok_or(Bad)?;
        // A bare CR in an extension has been read as a line's end before now.
        if extension.contains(&b'\r') {
            return Err(Bad);
        }
        let size = parse(size.trim_ascii_end(), 16).ok_or(Bad)?;
        self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
        Ok(())
    }
}

/// A line that begins with white space continues the one before, for those who still fold (RFC 9112 section 5.2).
fn is_folded(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

/// Digits only: no sign, no white space, no prefix.
fn parse(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        number.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worst verdict, and how many bytes were good, for every way to cut the text in two, and byte by byte.
    fn inspect(text: &str) -> Verdict {
        let bytes = text.as_bytes();
        let whole = Inspector::default().inspect(bytes);
        for cut in 0..bytes.len() {
            let mut inspector = Inspector::default();
            let first = inspector.inspect(&bytes[..cut]);
            let second = inspector.inspect(&bytes[cut..]);
            let worst = if first == Verdict::Pass { second } else { first };
            assert_eq!(std::mem::discriminant(&worst), std::mem::discriminant(&whole), "{text:?} cut at {cut}");
        }
        let mut inspector = Inspector::default();
        let worst = bytes.iter().map(|byte| inspector.inspect(&[*byte])).find(|verdict| *verdict != Verdict::Pass);
        assert_eq!(
            std::mem::discriminant(&worst.unwrap_or(Verdict::Pass)),
            std::mem::discriminant(&whole),
            "{text:?} byte by byte"
        );
        whole
    }

    #[test]
    fn ordinary_requests_pass_one_after_the_other() {
        assert_eq!(
            inspect(
                "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n\n\n\nPUT / HTTP/1.1\r\n\
                 Transfer-Encoding: chunked\r\n\r\n3;a=b\r\n\n\r\n\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET /c HTTP/1.1\r\n\r\n"
            ),
            Verdict::Pass
        );
    }

    #[test]
    fn two_lengths_are_refused_in_any_order_and_even_if_equal() {
        let (te, cl) = ("Transfer-Encoding: chunked\r\n", "content-length: 5\r\n");
        for (first, second) in [(te, cl), (cl, te), (cl, cl), (te, te)] {
            let text = format!("POST / HTTP/1.1\r\n{first}{second}\r\n");
            assert_eq!(inspect(&text), Verdict::BadHead { at: 17 + first.len() }, "{text}");
        }
    }

    #[test]
    fn lengths_that_are_not_plain_numbers_are_refused() {
        for length in ["", "+5", "-1", "5,5", "0x5", "5 5", "99999999999999999999"] {
            let text = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            assert!(matches!(inspect(&text), Verdict::BadHead { .. }), "{length}");
        }
    }

    #[test]
    fn codings_other_than_chunked_are_refused() {
        for coding in ["gzip, chunked", "chunked, identity", "\u{b}chunked", "x"] {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: {coding}\r\n\r\n");
            assert!(matches!(inspect(&text), Verdict::BadHead { .. }), "{coding}");
        }
    }

    #[test]
    fn bare_line_feeds_and_folded_lines_are_refused() {
        for text in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\n\tA: b\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        ] {
            assert!(matches!(inspect(text), Verdict::BadHead { .. }), "{text:?}");
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for chunks in [
            "5\nabcde\r\n",
            "x\r\n",
            "\r\n",
            "-1\r\n",
            " 5\r\n",
            "5\r\nabcdefg\r\n",
            "1;a\rb\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\n b\r\n",
            "FFFFFFFFFFFFFFFFFF\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert!(matches!(inspect(&text), Verdict::BadBody { .. }), "{chunks:?}");
        }
    }

    #[test]
    fn what_follows_a_request_to_upgrade_waits_for_the_answer() {
        let head = "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
        let mut inspector = Inspector::default();
        assert_eq!(inspector.inspect(format!("{head}\u{1}\n").as_bytes()), Verdict::Hold { at: head.len() });
        assert!(inspector.is_held());
        inspector.release(true);
        assert_eq!(inspector.inspect(b"\n\n\n"), Verdict::Pass);

        let mut inspector = Inspector::default();
        assert_eq!(inspector.inspect(head.as_bytes()), Verdict::Pass);
        inspector.release(false);
        assert!(matches!(inspector.inspect(b"GET /\n"), Verdict::BadHead { .. }));
    }

    #[test]
    fn endless_lines_are_refused() {
        let mut inspector = Inspector::default();
        let line = vec![b'a'; 64 * 1024];
        let verdicts: Vec<_> = (0..9).map(|_| inspector.inspect(&line)).collect();
        assert!(matches!(verdicts[8], Verdict::BadHead { .. }), "{verdicts:?}");
        assert_eq!(inspector.line.capacity(), 0, "and their memory is given back");
    }
}
