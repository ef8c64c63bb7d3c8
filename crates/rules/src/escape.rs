//! How a value is written where it could break out of its place.

use crate::Place;

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// Appends a value so that it can do no harm in its place.
pub(crate) fn write(out: &mut Vec<u8>, value: &[u8], place: Place) {
    match place {
        Place::Key => out.extend_from_slice(value),
        Place::Request | Place::Response | Place::Text => out.extend(value.iter().filter(|byte| !is_control(**byte))),
        Place::Log => {
            each(out, value, b"\\x", |byte| !is_control(byte) && byte < 0x80 && byte != b'"' && byte != b'\\')
        }
        Place::Location => each(out, value, b"%", is_unreserved),
        Place::Json => json(out, value),
        Place::Html => html(out, value),
    }
}

/// Appends a part of the request's target in a redirect: what is encoded stays so, and nothing raw can end the field, the
/// path or an attribute.
pub(crate) fn write_target(out: &mut Vec<u8>, value: &[u8]) {
    each(out, value, b"%", |byte| is_unreserved(byte) || b"/?:@!$&'()*+,;=%[]".contains(&byte));
}

/// Appends a host in a redirect.
pub(crate) fn write_authority(out: &mut Vec<u8>, value: &[u8]) {
    each(out, value, b"%", |byte| is_unreserved(byte) || b":[]".contains(&byte));
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn each(out: &mut Vec<u8>, value: &[u8], mark: &[u8], plain: impl Fn(u8) -> bool) {
    for &byte in value {
        if plain(byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(mark);
            out.extend(digits(byte));
        }
    }
}

fn digits(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    [digit(byte >> 4), digit(byte & 15)]
}

/// The inside of a JSON string (RFC 8259 section 7). Bytes that are no UTF-8 are replaced: JSON has no way to write them.
fn json(out: &mut Vec<u8>, value: &[u8]) {
    for char in String::from_utf8_lossy(value).chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            // `<` too, so that the text may stand in a page's script.
            '\0'..='\x1f' | '\x7f' | '<' => {
                out.extend_from_slice(b"\\u00");
                out.extend(digits(u8::try_from(u32::from(char)).unwrap_or_default()));
            }
            _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn html(out: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            b'\'' => out.extend_from_slice(b"&#39;"),
            byte if is_control(byte) => {}
            byte => out.push(byte),
        }
    }
}

/// The bytes of a form-encoded text (`application/x-www-form-urlencoded`, as browsers write queries): `%41` is `A`, `+` is
/// a space. A percent sign without two digits stands for itself.
pub(crate) fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&first, tail) = rest.split_first()?;
        rest = tail;
        if first == b'+' {
            return Some(b' ');
        }
        if first == b'%'
            && let Some((&[high, low], tail)) = tail.split_first_chunk()
            && let (Some(high), Some(low)) = (nibble(high), nibble(low))
        {
            rest = tail;
            return Some(high << 4 | low);
        }
        Some(first)
    })
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
