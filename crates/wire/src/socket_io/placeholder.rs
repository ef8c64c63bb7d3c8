//! Placeholders: `{"_placeholder":true,"num":k}` stands in a binary packet's JSON for its k-th attachment.
//!
//! The reference parser throws "illegal attachments" on a bad one, which closes the connection of whoever **receives**
//! it; hence everything that is passed on is checked first, with keys compared by value, not by spelling.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use smallvec::SmallVec;

use super::Error;
use crate::json::{Invalid, MAX_DEPTH, Scanner};

/// Checks that every placeholder names one of `attachments`.
///
/// Stricter than the reference parser: numbers must be written as digits, and no attachment may be named twice (no
/// encoder does, and a small packet could otherwise be blown up by naming a large attachment again and again).
///
/// # Errors
/// [`Error::IllegalAttachments`], or [`Error::InvalidPayload`] if `json` is none.
pub fn check_placeholders(json: &str, attachments: usize) -> Result<(), Error> {
    if !may_have_placeholders(json) {
        return Ok(());
    }
    let mut used = Used::default();
    walk(json, |placeholder| match placeholder.num {
        Some(num) if num < attachments && used.first_time(num) => Ok(()),
        Some(_) | None => Err(Error::IllegalAttachments),
    })
}

/// Replaces every placeholder by `{"base64":"…"}`, for readers that know JSON only. What names no attachment, or one
/// that has been put in before, stays as it is; so does text that is not JSON.
pub fn inline_attachments(json: &str, attachments: &[Bytes]) -> String {
    let mut used = Used::default();
    replace(json, |placeholder, out| {
        let Some((num, bytes)) = placeholder.num.and_then(|num| Some((num, attachments.get(num)?))) else {
            return false;
        };
        if !used.first_time(num) {
            return false;
        }
        out.push_str(r#"{"base64":""#);
        STANDARD.encode_string(bytes, out);
        out.push_str("\"}");
        true
    })
    .unwrap_or_else(|| json.to_owned())
}

/// Adds `base` to the number of every placeholder, so that several binary messages can stand in one packet.
///
/// A message *without* attachments that goes into a packet with some must go through [`defuse_placeholders`].
pub fn renumber_placeholders(json: &str, base: usize) -> String {
    replace(json, |placeholder, out| {
        let Some(num) = placeholder.num.and_then(|num| num.checked_add(base)) else { return false };
        out.push_str(r#"{"_placeholder":true,"num":"#);
        out.push_str(itoa::Buffer::new().format(num));
        out.push('}');
        true
    })
    .unwrap_or_else(|| json.to_owned())
}

/// Makes what looks like a placeholder, in a message without attachments, harmless in a packet that has some: its
/// `true` becomes `"true"`.
pub fn defuse_placeholders(json: &str) -> Cow<'_, str> {
    if !may_have_placeholders(json) {
        return Cow::Borrowed(json);
    }
    let mut flags = Vec::new();
    let walked = walk(json, |placeholder| {
        flags.push(placeholder.flag);
        Ok(())
    });
    if walked.is_err() || flags.is_empty() {
        return Cow::Borrowed(json);
    }
    // An object is seen when it ends, hence after those inside it.
    flags.sort_unstable();
    let mut out = String::with_capacity(json.len() + 2 * flags.len());
    let mut from = 0;
    for flag in flags {
        out.push_str(json.get(from..flag).unwrap_or_default());
        out.push_str("\"true\"");
        from = flag + "true".len();
    }
    out.push_str(json.get(from..).unwrap_or_default());
    Cow::Owned(out)
}

/// A cheap look: `false` means certainly none.
pub fn may_have_placeholders(json: &str) -> bool {
    let bytes = json.as_bytes();
    // A key can also be spelled with `\u005f` and the like.
    memchr::memmem::find(bytes, b"_placeholder").is_some() || memchr::memmem::find(bytes, b"\\u").is_some()
}

/// Which attachments have been named.
#[derive(Default)]
struct Used(SmallVec<[u64; 2]>);

impl Used {
    /// `num` must be below the number of attachments, which bounds the set.
    fn first_time(&mut self, num: usize) -> bool {
        let (word, bit) = (num / 64, 1 << (num % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0.get_mut(word).is_some_and(|word| {
            let fresh = *word & bit == 0;
            *word |= bit;
            fresh
        })
    }
}

#[derive(Clone, Copy)]
struct Placeholder {
    start: usize,
    end: usize,
    /// Where the `true` of its `_placeholder` stands.
    flag: usize,
    num: Option<usize>,
}

/// An array or object that has not ended.
struct Open {
    start: usize,
    object: bool,
    key: Key,
    flag: Option<usize>,
    num: Option<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Key {
    Flag,
    Num,
    Other,
}

/// Visits every placeholder of the values in `json` (one, or several separated by commas) when it ends.
fn walk(json: &str, mut visit: impl FnMut(Placeholder) -> Result<(), Error>) -> Result<(), Error> {
    let mut scanner = Scanner::new(json);
    let mut open: SmallVec<[Open; 8]> = SmallVec::new();
    loop {
        scanner.space();
        let mut start = scanner.at();
        match scanner.peek().ok_or(Invalid)? {
            bracket @ (b'{' | b'[') => {
                scanner.next();
                let object = bracket == b'{';
                if open.len() >= MAX_DEPTH as usize {
                    return Err(Error::InvalidPayload);
                }
                scanner.space();
                if !scanner.eat(if object { b'}' } else { b']' }) {
                    let key = if object { key(&mut scanner)? } else { Key::Other };
                    open.push(Open { start, object, key, flag: None, num: None });
                    continue;
                }
            }
            _ => scanner.scalar()?,
        }
        // A value that began at `start` has ended.
        loop {
            let Some(around) = open.last_mut() else {
                scanner.space();
                match scanner.next() {
                    None => return Ok(()),
                    Some(b',') => break,
                    Some(_) => return Err(Error::InvalidPayload),
                }
            };
            // Of equal keys the last one counts, as in JavaScript.
            match around.key {
                Key::Flag => around.flag = (scanner.since(start) == "true").then_some(start),
                Key::Num => around.num = scanner.since(start).parse().ok(),
                Key::Other => {}
            }
            scanner.space();
            match (scanner.next().ok_or(Invalid)?, around.object) {
                (b',', true) => {
                    around.key = key(&mut scanner)?;
                    break;
                }
                (b',', false) => break,
                (b'}', true) | (b']', false) => {
                    start = around.start;
                    if let Some(flag) = around.flag {
                        visit(Placeholder { start, end: scanner.at(), flag, num: around.num })?;
                    }
                    open.pop();
                }
                _ => return Err(Error::InvalidPayload),
            }
        }
    }
}

fn key(scanner: &mut Scanner<'_>) -> Result<Key, Error> {
    let key = scanner.key()?;
    Ok(if key.is("_placeholder") {
        Key::Flag
    } else if key.is("num") {
        Key::Num
    } else {
        Key::Other
    })
}

/// Copies `json` with its outermost placeholders replaced by what `write` appends; `write` returns whether it did.
/// `None` if there is nothing to replace.
fn replace(json: &str, mut write: impl FnMut(Placeholder, &mut String) -> bool) -> Option<String> {
    if !may_have_placeholders(json) {
        return None;
    }
    let mut found: Vec<Placeholder> = Vec::new();
    let walked = walk(json, |placeholder| {
        // Those inside have been visited before: what stands in a placeholder goes with it, as in the reference.
        while found.last().is_some_and(|inner| inner.start > placeholder.start) {
            found.pop();
        }
        found.push(placeholder);
        Ok(())
    });
    walked.ok()?;
    let mut out = String::with_capacity(json.len());
    let mut from = 0;
    for placeholder in found {
        out.push_str(json.get(from..placeholder.start).unwrap_or_default());
        if !write(placeholder, &mut out) {
            out.push_str(json.get(placeholder.start..placeholder.end).unwrap_or_default());
        }
        from = placeholder.end;
    }
    out.push_str(json.get(from..).unwrap_or_default());
    Some(out)
}
