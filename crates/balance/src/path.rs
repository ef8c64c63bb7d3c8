//! A request's path as nginx compares it with locations: percent-decoded, without dot segments and doubled slashes.

use std::borrow::Cow;

use thiserror::Error;

/// A path that cannot be: answered with 400, as by nginx.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidPath {
    /// `..` leads out of the root.
    #[error("{}", self.message())]
    Escapes,
    /// `%` without two hexadecimal digits behind it.
    #[error("{}", self.message())]
    Encoding,
    /// `%00`, which ends the path for many programs behind us.
    #[error("{}", self.message())]
    Zero,
}

impl InvalidPath {
    /// What to tell the client.
    pub fn message(self) -> &'static str {
        match self {
            Self::Escapes => "The path leads out of the root",
            Self::Encoding => "The path has a \"%\" without two hexadecimal digits behind it",
            Self::Zero => "The path has a zero byte",
        }
    }
}

/// A path in the form in which it is compared (nginx `$uri`). It is only borrowed if that is how it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    raw: &'a str,
    bytes: Cow<'a, [u8]>,
    /// Nothing but percent-decoding was needed: what is left of the path behind a prefix is a part of the raw one.
    decoded_only: bool,
}

impl<'a> NormalPath<'a> {
    /// Normalises as nginx does with `merge_slashes on`: decodes, then resolves `.` and `..`, then merges slashes; a slash
    /// that was encoded counts as one.
    ///
    /// # Errors
    /// See [`InvalidPath`].
    pub fn of(raw: &'a str) -> Result<Self, InvalidPath> {
        if is_normal(raw.as_bytes()) {
            return Ok(Self { raw, bytes: Cow::Borrowed(raw.as_bytes()), decoded_only: true });
        }
        let decoded = decode(raw.as_bytes())?;
        let path = resolve(&decoded)?;
        let decoded_only = path == decoded;
        Ok(Self { raw, bytes: Cow::Owned(path), decoded_only })
    }

    /// The path's bytes; they need not be UTF-8.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What follows the first `prefix_len` bytes, fit for a request line. Taken from the path as it came where that says
    /// the same, so that an encoded slash in it stays one; otherwise encoded as nginx does for `proxy_pass` with a URI.
    pub fn rest(&self, prefix_len: usize) -> Cow<'a, str> {
        if self.decoded_only {
            let mut at = 0;
            for _ in 0..prefix_len {
                at += if self.raw.as_bytes().get(at) == Some(&b'%') { 3 } else { 1 };
            }
            if let Some(rest) = self.raw.get(at..) {
                return Cow::Borrowed(rest);
            }
        }
        let mut rest = String::with_capacity(self.bytes.len());
        for &byte in self.bytes.get(prefix_len..).unwrap_or_default() {
            match byte {
                b' ' | b'#' | b'%' | b'?' | b'"' | b'<' | b'>' | b'\\' | 0..0x20 | 0x7f.. => {
                    rest.push('%');
                    for nibble in [byte >> 4, byte & 15] {
                        rest.push(char::from_digit(nibble.into(), 16).unwrap_or('0').to_ascii_uppercase());
                    }
                }
                byte => rest.push(byte.into()),
            }
        }
        Cow::Owned(rest)
    }
}

/// Whether there is nothing to do: the usual path, told by one walk.
fn is_normal(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        match byte {
            b'%' => return false,
            b'/' | b'.' if before == b'/' => return false,
            _ => before = byte,
        }
    }
    true
}

fn decode(path: &[u8]) -> Result<Vec<u8>, InvalidPath> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (&[high, low], tail) = tail.split_first_chunk().ok_or(InvalidPath::Encoding)?;
        let value = nibble(high).zip(nibble(low)).map(|(high, low)| high << 4 | low).ok_or(InvalidPath::Encoding)?;
        if value == 0 {
            return Err(InvalidPath::Zero);
        }
        out.push(value);
        rest = tail;
    }
    Ok(out)
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn resolve(path: &[u8]) -> Result<Vec<u8>, InvalidPath> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    // Before the first slash there is nothing.
    segments.next();
    out.push(b'/');
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"" | b"." => {}
            b".." => {
                // From "/a/" to "/".
                out.pop().filter(|_| !out.is_empty()).ok_or(InvalidPath::Escapes)?;
                while out.last().is_some_and(|byte| *byte != b'/') {
                    out.pop();
                }
            }
            segment => {
                out.extend_from_slice(segment);
                if !last {
                    out.push(b'/');
                }
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(raw: &str) -> String {
        String::from_utf8(NormalPath::of(raw).unwrap().as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn paths_are_normalised_as_by_nginx() {
        for (raw, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("//a///b//", "/a/b/"),
            ("/a/./b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a/../", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a%2fb%2F%2e%2e%2fc", "/a/c"),
            ("/a%20b%25", "/a b%"),
            ("/.hidden/..x/x..", "/.hidden/..x/x.."),
            ("/a%3Fb%23c", "/a?b#c"),
            ("/%c3%a9", "/é"),
        ] {
            assert_eq!(normal(raw), expected, "{raw}");
        }
    }

    #[test]
    fn what_cannot_be_a_path_is_refused() {
        for raw in ["/..", "/../a", "/a/../../b", "/%2e%2e/", "/a/..%2f..%2fetc"] {
            assert_eq!(NormalPath::of(raw), Err(InvalidPath::Escapes), "{raw}");
        }
        assert_eq!(NormalPath::of("/%"), Err(InvalidPath::Encoding));
        assert_eq!(NormalPath::of("/%2"), Err(InvalidPath::Encoding));
        assert_eq!(NormalPath::of("/%zz"), Err(InvalidPath::Encoding));
        assert_eq!(NormalPath::of("/a%00b"), Err(InvalidPath::Zero));
    }

    #[test]
    fn the_rest_is_as_it_came_unless_the_way_to_it_was_changed() {
        let rest = |raw, prefix: &str| NormalPath::of(raw).unwrap().rest(prefix.len()).into_owned();
        assert_eq!(rest("/api/a/b", "/api"), "/a/b");
        assert_eq!(rest("/api/a%2Fb%20c", "/api/"), "a%2Fb%20c");
        assert_eq!(rest("/%61pi%2Fx", "/api/"), "x");
        assert_eq!(rest("/api//a%20b", "/api"), "/a%20b");
        assert_eq!(rest("/x/../api/a%3fb%c3%a9", "/api/"), "a%3Fb%C3%A9");
        assert_eq!(rest("/api", "/api"), "");
    }
}
