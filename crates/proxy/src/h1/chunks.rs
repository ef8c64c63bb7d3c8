//! The chunked coding of a response (RFC 9112 section 7.1), taken off in place.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// A chunk's size with its extensions may not be longer, nor may all trailers together.
const MAX_LINE: usize = 4096;
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Hexadecimal digits; so many have come.
    Size {
        size: u64,
        digits: u8,
    },
    /// From the size to the line's end; so many bytes have come.
    Extension {
        size: u64,
        bytes: usize,
    },
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    Trailers,
    Done,
    Broken,
}

/// Follows one body.
#[derive(Debug)]
pub(crate) struct Chunks {
    state: State,
    /// Trailer lines as they came, once the last chunk has come.
    trailers: Vec<u8>,
}

/// What came out of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Where the data lies now.
    pub(crate) start: usize,
    /// Its end.
    pub(crate) end: usize,
    /// How many of the bytes belonged to the body; what is behind them does not.
    pub(crate) consumed: usize,
}

/// The trailers are no fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadChunk;

impl Chunks {
    pub(crate) fn new() -> Self {
        Self { state: State::Size { size: 0, digits: 0 }, trailers: Vec::new() }
    }

    /// Whether the end of the body has been seen.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the framing is broken: what came before is good, and nothing follows.
    pub(crate) fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Whether anything follows the data of a body that is done.
    pub(crate) fn has_trailers(&self) -> bool {
        self.trailers.len() > b"\r\n".len()
    }

    /// Takes the coding off: the data of all chunks in `bytes` ends up in one piece.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Decoded {
        let mut at = 0;
        let (mut start, mut end) = (0, 0);
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Data { left } => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    if start == end {
                        (start, end) = (at, at + taken);
                    } else {
                        bytes.copy_within(at..at + taken, end);
                        end += taken;
                    }
                    at += taken;
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                    continue;
                }
                State::Trailers => {
                    at += self.take_trailers(bytes.get(at..).unwrap_or_default());
                    continue;
                }
                State::Done | State::Broken => break,
                State::Size { .. }
                | State::Extension { .. }
                | State::SizeEnd { .. }
                | State::DataCr
                | State::DataLf => self.state = self.after(byte).unwrap_or(State::Broken),
            }
            at += 1;
        }
        Decoded { start, end, consumed: at }
    }

    /// A byte between the data.
    fn after(&self, byte: u8) -> Option<State> {
        Some(match (self.state, byte) {
            (State::Size { size, digits }, digit) if digit.is_ascii_hexdigit() => {
                if digits >= 16 {
                    return None;
                }
                let digit = char::from(digit).to_digit(16)?;
                State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return None,
            (State::Size { size, .. } | State::Extension { size, .. }, b'\r') => State::SizeEnd { size },
            (State::Size { size, .. }, b';' | b' ' | b'\t') => State::Extension { size, bytes: 0 },
            (State::Extension { size, bytes }, byte) if byte != b'\n' && bytes < MAX_LINE => {
                State::Extension { size, bytes: bytes + 1 }
            }
            (State::SizeEnd { size: 0 }, b'\n') => State::Trailers,
            (State::SizeEnd { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
            _ => return None,
        })
    }

    /// Keeps trailer lines up to the empty one; says how many bytes it took.
    fn take_trailers(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            self.trailers.extend_from_slice(rest.get(..line).unwrap_or_default());
            taken += line;
            if self.trailers.len() > MAX_TRAILERS {
                self.state = State::Broken;
                break;
            }
            if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                self.state = State::Done;
                break;
            }
        }
        taken
    }

    /// The trailer fields, if there are any; asked once, at the end.
    pub(crate) fn trailers(&mut self) -> Result<Option<HeaderMap>, BadChunk> {
        let lines = std::mem::take(&mut self.trailers);
        if lines.len() <= b"\r\n".len() {
            return Ok(None);
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&lines, &mut fields) else {
            return Err(BadChunk);
        };
        let mut map = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadChunk)?;
            map.append(name, HeaderValue::from_bytes(field.value).map_err(|_| BadChunk)?);
        }
        Ok(Some(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data, trailers and what is left over; the same for every way to cut the bytes in two, and byte by byte.
    fn decode(bytes: &[u8]) -> Result<(Vec<u8>, Option<HeaderMap>, usize), BadChunk> {
        let run = |pieces: &[&[u8]]| {
            let mut chunks = Chunks::new();
            let (mut data, mut over) = (Vec::new(), 0);
            for piece in pieces {
                let mut piece = piece.to_vec();
                let decoded = chunks.decode(&mut piece);
                data.extend_from_slice(&piece[decoded.start..decoded.end]);
                over += piece.len() - decoded.consumed;
            }
            if chunks.is_broken() {
                return Err(BadChunk);
            }
            let trailers = if chunks.is_done() { chunks.trailers()? } else { None };
            Ok((data, trailers, over))
        };
        let whole = run(&[bytes]);
        for cut in 0..=bytes.len() {
            assert_eq!(run(&[&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
        }
        assert_eq!(run(&bytes.chunks(1).collect::<Vec<_>>()), whole);
        whole
    }

    #[test]
    fn chunks_become_one_piece_however_they_are_cut() {
        let (data, trailers, over) =
            decode(b"3\r\nabc\r\n1;x=\"y\"\r\nd\r\nA \r\n0123456789\r\n0\r\n\r\nrest").unwrap();
        assert_eq!((data.as_slice(), trailers, over), (b"abcd0123456789".as_slice(), None, 4));
    }

    #[test]
    fn trailers_are_fields() {
        let (data, trailers, over) = decode(b"1\r\na\r\n000\r\nX-Sum: 7\r\nx-two:8\r\n\r\n").unwrap();
        let trailers = trailers.unwrap();
        assert_eq!((data.as_slice(), trailers.len(), over), (b"a".as_slice(), 2, 0));
        assert!(trailers["x-sum"] == "7" && trailers["x-two"] == "8", "{trailers:?}");
    }

    #[test]
    fn an_unfinished_body_is_not_done() {
        for bytes in ["", "3", "3\r\n", "3\r\nab", "3\r\nabc", "3\r\nabc\r\n", "0\r\n", "0\r\nA: b\r\n", "0\r\n\r"] {
            let mut chunks = Chunks::new();
            chunks.decode(&mut bytes.as_bytes().to_vec());
            assert!(!chunks.is_done() && !chunks.is_broken(), "{bytes:?}");
        }
    }

    #[test]
    fn broken_framing_is_refused() {
        for bytes in [
            "x\r\n",
            "\r\n",
            " 3\r\n",
            "-1\r\n",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "00000000000000003\r\n",
            "3;a\nb\r\n",
            "3x\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\nA : b\r\n\r\n",
        ] {
            assert_eq!(decode(bytes.as_bytes()), Err(BadChunk), "{bytes:?}");
        }
        for endless in [format!("1;{}", "a".repeat(MAX_LINE + 1)), format!("0\r\n{}", "A: b\r\n".repeat(MAX_TRAILERS))]
        {
            let mut chunks = Chunks::new();
            chunks.decode(&mut endless.into_bytes());
            assert!(chunks.is_broken());
        }
    }

    #[test]
    fn what_came_before_the_break_is_good() {
        let mut bytes = b"4\r\nhalfway\r\n".to_vec();
        let mut chunks = Chunks::new();
        let decoded = chunks.decode(&mut bytes);
        assert_eq!((&bytes[decoded.start..decoded.end], chunks.is_broken()), (b"half".as_slice(), true));
    }
}
