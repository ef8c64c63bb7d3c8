use std::borrow::Cow;

use super::Error;
use crate::json::Scanner;

/// Splits an event's payload into its name and the other arguments: raw, separated by commas, without the brackets,
/// empty if there are none.
///
/// The payload must have come through [`super::decode`]; the arguments are not checked again. A name that is a number
/// is returned as it is written.
///
/// # Errors
/// [`Error::InvalidPayload`] if it is no array that begins with a string or number, or if the name escapes half of a
/// surrogate pair.
pub fn event_parts(payload: &str) -> Result<(Cow<'_, str>, &str), Error> {
    let mut scanner = Scanner::new(payload);
    if !scanner.eat(b'[') {
        return Err(Error::InvalidPayload);
    }
    scanner.space();
    let start = scanner.at();
    let name = match scanner.peek() {
        Some(b'"') => scanner.string()?.value()?,
        Some(b'-' | b'0'..=b'9') => {
            scanner.scalar()?;
            Cow::Borrowed(scanner.since(start))
        }
        _ => return Err(Error::InvalidPayload),
    };
    scanner.space();
    let more = scanner.eat(b',');
    let rest = trim(scanner.rest()).strip_suffix(']').map(trim).ok_or(Error::InvalidPayload)?;
    if more == rest.is_empty() {
        return Err(Error::InvalidPayload);
    }
    Ok((name, rest))
}

/// The JSON texts of an array's items: a whole payload's. Ends at what is not JSON.
pub fn args(payload: &str) -> Args<'_> {
    let payload = trim(payload);
    let items = payload.strip_prefix('[').and_then(|items| items.strip_suffix(']'));
    Args { scanner: items.map(Scanner::new) }
}

/// The JSON texts of a comma-separated list, as [`event_parts`] returns it and the encoders take it. Ends at what is not
/// JSON.
pub fn values(list: &str) -> Args<'_> {
    Args { scanner: Some(Scanner::new(list)) }
}

/// Items of JSON; see [`args`] and [`values`].
#[derive(Clone, Debug)]
pub struct Args<'a> {
    scanner: Option<Scanner<'a>>,
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let mut scanner = self.scanner.take()?;
        scanner.space();
        let start = scanner.at();
        scanner.value(0).ok()?;
        let item = scanner.since(start);
        scanner.space();
        if scanner.eat(b',') {
            self.scanner = Some(scanner);
        }
        Some(item)
    }
}

fn trim(json: &str) -> &str {
    json.trim_matches([' ', '\t', '\n', '\r'])
}
