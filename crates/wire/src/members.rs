use std::borrow::Cow;

use crate::json::{Invalid, Scanner};

/// The members of a JSON object in their order, equal keys included: what a key says and the raw text of its value.
///
/// Builds nothing and is linear in the text, whatever that holds; see [`Members`].
pub fn members(object: &str) -> Members<'_> {
    let mut scanner = Scanner::new(object);
    scanner.space();
    let state = if !scanner.eat(b'{') {
        State::Broken
    } else {
        scanner.space();
        if scanner.eat(b'}') { State::Ended } else { State::Member }
    };
    Members { scanner, state }
}

/// A text is not a JSON object, is nested too deeply, or has half of a surrogate pair in a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnObject;

#[derive(Clone, Copy, Debug)]
enum State {
    Member,
    Ended,
    Broken,
    Done,
}

/// See [`members`]. A text that is not a JSON object gives an error where that shows, and nothing behind it.
#[derive(Clone, Debug)]
pub struct Members<'a> {
    scanner: Scanner<'a>,
    state: State,
}

impl<'a> Members<'a> {
    fn member(&mut self) -> Result<(Cow<'a, str>, &'a str), Invalid> {
        let scanner = &mut self.scanner;
        let key = scanner.key()?.value()?;
        scanner.space();
        let start = scanner.at();
        scanner.value(1)?;
        let value = scanner.since(start);
        scanner.space();
        self.state = match scanner.next() {
            Some(b',') => State::Member,
            Some(b'}') => State::Ended,
            _ => return Err(Invalid),
        };
        Ok((key, value))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<(Cow<'a, str>, &'a str), NotAnObject>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.state {
            State::Member => {
                let member = self.member();
                if member.is_err() {
                    self.state = State::Done;
                }
                Some(member.map_err(|Invalid| NotAnObject))
            }
            State::Ended => {
                self.state = State::Done;
                self.scanner.space();
                (!self.scanner.rest().is_empty()).then_some(Err(NotAnObject))
            }
            State::Broken => {
                self.state = State::Done;
                Some(Err(NotAnObject))
            }
            State::Done => None,
        }
    }
}

/// What a JSON string says; `None` for another value, and for half of a surrogate pair, which Rust's strings do not have.
pub fn string_value(json: &str) -> Option<Cow<'_, str>> {
    let mut scanner = Scanner::new(json);
    let value = scanner.string().ok()?.value().ok()?;
    scanner.rest().is_empty().then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn all(json: &str) -> Result<Vec<(String, String)>, NotAnObject> {
        members(json).map(|member| member.map(|(key, value)| (key.into_owned(), value.to_owned()))).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Result<Vec<(String, String)>, NotAnObject> {
        Ok(expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn members_come_in_order_with_their_raw_values() {
        assert_eq!(all("{}"), pairs(&[]));
        assert_eq!(all(r#" {"a" : [1, {"b":2}] , "a":"}" , "\u0062":null } "#), {
            pairs(&[("a", r#"[1, {"b":2}]"#), ("a", r#""}""#), ("b", "null")])
        });
    }

    #[test]
    fn what_is_no_object_is_an_error_and_ends() {
        for bad in ["", "[]", "1", "{", r#"{"a"}"#, r#"{"a":1"#, r#"{"a":1,}"#, "{}x", r#"{"a":1}{"#, r#"{"\ud800":1}"#]
        {
            assert_eq!(all(bad), Err(NotAnObject), "{bad}");
            assert!(members(bad).count() < 3, "{bad}");
        }
    }

    #[test]
    fn strings_say_what_they_say() {
        assert_eq!(string_value(r#""a\n""#).as_deref(), Some("a\n"));
        for other in ["1", "null", r#""a"b"#, r#""\ud800""#, ""] {
            assert_eq!(string_value(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn objects_are_judged_as_serde_judges_them(text in r#"\{?[\[\]{}",:0-9a-e\\u \-]{0,24}\}?"#) {
            let parsed = serde_json::from_str::<Value>(&text).ok().filter(Value::is_object);
            // A lone surrogate inside a value is left as it stands.
            if !text.contains('\\') {
                prop_assert_eq!(all(&text).is_ok(), parsed.is_some(), "{}", text);
            }
            let _ = string_value(&text);
        }
    }
}
