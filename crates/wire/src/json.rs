//! A JSON syntax scanner (RFC 8259): finds where values end, and builds nothing. Its input is UTF-8 already, and every
//! place where it stops is an ASCII byte, hence the offsets are character boundaries.

use std::borrow::Cow;

/// How deep arrays and objects may be nested. JavaScript knows no limit, but whoever later reads the value with serde
/// has this one.
pub(crate) const MAX_DEPTH: u32 = 127;

/// Not JSON, or nested too deeply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invalid;

/// A place in a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Bytes before the place.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The text from `start` to here.
    pub fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// What has not been scanned.
    pub fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    pub fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Takes the byte if it is the next one.
    #[inline]
    pub fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    #[inline]
    pub fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Skips a value with `depth` arrays and objects open around it.
    pub fn value(&mut self, depth: u32) -> Result<(), Invalid> {
        // One bit for each open bracket, the innermost lowest: whether it is an object's.
        let mut objects: u128 = 0;
        let mut open = 0;
        loop {
            self.space();
            match self.peek().ok_or(Invalid)? {
                bracket @ (b'{' | b'[') => {
                    self.at += 1;
                    let object = bracket == b'{';
                    if depth + open >= MAX_DEPTH {
                        return Err(Invalid);
                    }
                    self.space();
                    if !self.eat(if object { b'}' } else { b']' }) {
                        objects = objects << 1 | u128::from(object);
                        open += 1;
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            loop {
                if open == 0 {
                    return Ok(());
                }
                self.space();
                match (self.next().ok_or(Invalid)?, objects & 1 == 1) {
                    (b',', true) => {
                        self.key()?;
                        break;
                    }
                    (b',', false) => break,
                    (b'}', true) | (b']', false) => {
                        objects >>= 1;
                        open -= 1;
                    }
                    _ => return Err(Invalid),
                }
            }
        }
    }

    /// Skips a string, number or literal.
    pub fn scalar(&mut self) -> Result<(), Invalid> {
        match self.peek().ok_or(Invalid)? {
            b'"' => self.string().map(|_| ()),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => Err(Invalid),
        }
    }

    /// Skips a key and its colon, and returns the key as it stands between the quotes.
    pub fn key(&mut self) -> Result<Raw<'a>, Invalid> {
        self.space();
        let key = self.string()?;
        self.space();
        if self.eat(b':') { Ok(key) } else { Err(Invalid) }
    }

    /// Skips a string and returns what stands between the quotes.
    pub fn string(&mut self) -> Result<Raw<'a>, Invalid> {
        if !self.eat(b'"') {
            return Err(Invalid);
        }
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain(self.rest().as_bytes());
            match self.next().ok_or(Invalid)? {
                b'"' => {
                    let text = self.text.get(start..self.at - 1).unwrap_or_default();
                    return Ok(Raw { text, escaped });
                }
                b'\\' => {
                    escaped = true;
                    match self.next().ok_or(Invalid)? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            for _ in 0..4 {
                                if !self.next().ok_or(Invalid)?.is_ascii_hexdigit() {
                                    return Err(Invalid);
                                }
                            }
                        }
                        _ => return Err(Invalid),
                    }
                }
                _ => return Err(Invalid),
            }
        }
    }

    fn number(&mut self) -> Result<(), Invalid> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Invalid> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(Invalid) } else { Ok(()) }
    }

    fn literal(&mut self, literal: &str) -> Result<(), Invalid> {
        if !self.rest().starts_with(literal) {
            return Err(Invalid);
        }
        self.at += literal.len();
        Ok(())
    }
}

/// A string as it stands between its quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    pub text: &'a str,
    escaped: bool,
}

impl<'a> Raw<'a> {
    /// The string's value.
    ///
    /// # Errors
    /// An escaped half of a surrogate pair, which JavaScript has and Rust's strings have not.
    pub fn value(self) -> Result<Cow<'a, str>, Invalid> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.text));
        }
        let quoted = format!("\"{}\"", self.text);
        serde_json::from_str::<String>(&quoted).map(Cow::Owned).map_err(|_| Invalid)
    }

    /// Whether the string's value is the given one.
    pub fn is(self, value: &str) -> bool {
        if self.escaped { self.value().is_ok_and(|own| own == value) } else { self.text == value }
    }
}

/// How many bytes come before a quote, a backslash or a control character, eight bytes a step.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let found = control | zero(word ^ (ONES * 0x22)) | zero(word ^ (ONES * 0x5c));
        if found != 0 {
            // A borrow can only mark bytes above one that is marked rightly: the lowest mark is true.
            return index * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let stop = tail.iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\'));
    bytes.len() - tail.len() + stop.unwrap_or(tail.len())
}

/// Appends a JSON string.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if plain(text.as_bytes()) == text.len() {
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    out.pop();
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn valid(text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        let ok = scanner.value(0).is_ok();
        scanner.space();
        ok && scanner.rest().is_empty()
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(valid(&nested(MAX_DEPTH as usize)));
        assert!(!valid(&nested(MAX_DEPTH as usize + 1)));
        assert!(!valid(&"[".repeat(1_000_000)));
        assert!(serde_json::from_str::<serde_json::Value>(&nested(MAX_DEPTH as usize)).is_ok());
    }

    #[test]
    fn numbers_literals_and_escapes_follow_the_grammar() {
        for good in
            ["0", "-0", "10.5e-3", "1E+2", " true ", "null", r#""\u00e9\ud800\n""#, "{}", "[ ]", r#"{"a":[1,{}]}"#]
        {
            assert!(valid(good), "{good}");
        }
        for bad in [
            "",
            "01",
            "1.",
            ".5",
            "-",
            "+1",
            "1e",
            "tru",
            "nul",
            "NaN",
            "'a'",
            "\"a",
            "\"\n\"",
            r#""\x""#,
            r#""\u12g4""#,
            "[1,]",
            "[,1]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "{1:2}",
            "[1}",
            r#"{"a":1]"#,
            "1 2",
            "\u{a0}1",
            "[1 2]",
        ] {
            assert!(!valid(bad), "{bad}");
        }
    }

    #[test]
    fn a_written_string_is_what_serde_writes() {
        for text in
            ["", "a", "a\"b", "\\", "\u{1}", "é\u{2028}", "longer than eight bytes", "longer than eight \n bytes"]
        {
            let mut out = Vec::new();
            write_string(&mut out, text);
            assert_eq!(out, serde_json::to_vec(text).unwrap());
        }
    }

    proptest! {
        #[test]
        fn text_is_judged_as_serde_judges_it(text in r#"[\[\]{}",:0-9a-eE.+\\ntrulfsx \-]{0,24}"#) {
            prop_assert_eq!(valid(&text), serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok());
        }

        #[test]
        fn any_string_is_written_and_scanned_back(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            let json = String::from_utf8(out).unwrap();
            let mut scanner = Scanner::new(&json);
            prop_assert_eq!(scanner.string().unwrap().value().unwrap(), text.as_str());
            prop_assert!(scanner.rest().is_empty());
        }
    }
}
