//! Reading requests: names in paths, parameters, bodies.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, Request};
use bytes::Bytes;
use hyper::body::Incoming;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tidegate_types::{ErrorCode, InvalidName, Namespace, SpaceKey, TenantId};
use tokio::time::timeout;

use super::refused::Refused;
use crate::http::{BodyFailure, decode, header, read_body};
use crate::node::SpaceCell;
use crate::shard::Shard;

/// A body has so long to arrive whole.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Objects and lists in each other. Clients are held to about the same, and not every parser bears more.
const MOST_DEPTH: usize = 128;

/// A name out of the request; `what` says which.
pub(super) fn name<T: for<'a> TryFrom<&'a str, Error = InvalidName>>(what: &str, given: &str) -> Result<T, Refused> {
    T::try_from(given).map_err(|error| Refused::bad(format!("{what}: it {error}")))
}

/// A namespace that is served.
pub(super) fn namespace(shard: &Shard, name: Option<&str>) -> Result<Namespace, Refused> {
    let namespace = Namespace::try_from(name.unwrap_or("/"));
    let namespace = namespace.ok().filter(|namespace| shard.node.settings.namespaces.get(namespace).is_some());
    namespace.ok_or_else(|| Refused::new(ErrorCode::NotFound, "namespace: there is none of that name"))
}

pub(super) fn space(shard: &Rc<Shard>, tenant: TenantId, namespace: Namespace) -> Result<Arc<SpaceCell>, Refused> {
    shard.node.space(&SpaceKey { tenant, namespace }).map_err(|error| {
        tracing::error!(%error, "a namespace cannot be opened");
        Refused::unavailable("The history store does not answer")
    })
}

/// A parameter that is true or false.
pub(super) fn flag(name: &str, given: Option<&str>) -> Result<Option<bool>, Refused> {
    match given {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(Refused::bad(format!("{name}: it must be true or false"))),
    }
}

/// A text as a part of a path or a query: whatever could mean something there is percent-encoded (RFC 3986 section 2.1).
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A query of those parameters that have a value.
pub(super) fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = String::new();
    for (name, value) in parameters.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        query.push_str(&encode(value));
    }
    query
}

/// The parameters of a query. One that nobody asks for is refused: a misspelt one would be ignored in silence.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub fn read(query: Option<&str>) -> Result<Self, Refused> {
        Self::read_lists(query, &[])
    }

    /// As [`Parameters::read`]; those of the names in `lists` may be there several times.
    pub fn read_lists(query: Option<&str>, lists: &[&str]) -> Result<Self, Refused> {
        let mut read: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name, true).into_owned();
            if !lists.contains(&name.as_str()) && read.iter().any(|(known, _)| *known == name) {
                return Err(Refused::bad(format!("{name}: it is there twice")));
            }
            read.push((name, decode(value, true).into_owned()));
        }
        Ok(Self(read))
    }

    pub fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(index).1)
    }

    /// All of that name, in their order.
    pub fn take_all(&mut self, name: &str) -> Vec<String> {
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|(known, _)| known == name);
        self.0 = left;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    pub fn take_name<T: for<'a> TryFrom<&'a str, Error = InvalidName>>(
        &mut self,
        what: &str,
    ) -> Result<Option<T>, Refused> {
        self.take(what).map(|given| name(what, &given)).transpose()
    }

    /// A whole number between 1 and `most`.
    pub fn take_limit(&mut self, default: usize, most: usize) -> Result<usize, Refused> {
        let Some(given) = self.take("limit") else { return Ok(default) };
        let limit = given.parse().ok().filter(|limit| (1..=most).contains(limit));
        limit.ok_or_else(|| Refused::bad(format!("limit: it must be a whole number from 1 to {most}")))
    }

    pub fn take_flag(&mut self, name: &str) -> Result<Option<bool>, Refused> {
        flag(name, self.take(name).as_deref())
    }

    /// Nothing else may be there.
    pub fn end(self) -> Result<(), Refused> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Refused::bad(format!("{name}: there is no such parameter here"))),
        }
    }
}

/// Reads a whole body of JSON, at most `most` bytes.
pub(super) async fn body(request: Request<Incoming>, most: usize) -> Result<Bytes, Refused> {
    is_json(request.headers())?;
    let body = match timeout(BODY_TIME, read_body(request.into_body(), most)).await {
        Ok(Ok(body)) => body,
        Ok(Err(BodyFailure::TooLarge)) => {
            return Err(Refused::new(ErrorCode::PayloadTooLarge, format!("The body is larger than {most} bytes")));
        }
        Ok(Err(BodyFailure::Broken)) => return Err(Refused::bad("The body broke off")),
        Err(_) => return Err(Refused::new(ErrorCode::RequestTimeout, "The body did not come in time")),
    };
    is_readable(&body)?;
    Ok(body)
}

/// Whether the body is text that a parser may be given.
pub(super) fn is_readable(body: &[u8]) -> Result<(), Refused> {
    match std::str::from_utf8(body) {
        Err(error) => Err(Refused::bad(format!("The body is no UTF-8, from byte {} on", error.valid_up_to()))),
        Ok(text) if depth(text) > MOST_DEPTH => {
            Err(Refused::bad(format!("The body has more than {MOST_DEPTH} objects and lists in each other")))
        }
        Ok(_) => Ok(()),
    }
}

fn is_json(headers: &HeaderMap) -> Result<(), Refused> {
    let Some(given) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let kind = given.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let is_json = kind.eq_ignore_ascii_case("application/json") || kind.to_ascii_lowercase().ends_with("+json");
    if is_json {
        return Ok(());
    }
    Err(Refused::new(ErrorCode::UnsupportedMediaType, "Content-Type: only application/json is read here"))
}

/// How deep arrays and objects stand in each other. Whether the text is JSON is the parser's to say.
fn depth(text: &str) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b']' | b'}' => open = open.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => _ = bytes.next(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// Reads a body into what it means. What is wrong is named by its place in the body.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refused> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = error.path().to_string();
        let place = if place == "." { "The body".to_owned() } else { place };
        Refused::bad(format!("{place}: {}", error.inner()))
    })?;
    json.end().map_err(|error| Refused::bad(format!("The body: {error}")))?;
    Ok(read)
}

/// A header that may be there once.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &::http::HeaderName) -> Result<Option<&'a str>, Refused> {
    let mut values = headers.get_all(name).iter();
    let Some(_) = values.next() else { return Ok(None) };
    let text = header(headers, name).filter(|_| values.next().is_none());
    text.map(Some).ok_or_else(|| Refused::bad(format!("{name}: it must be there once, in visible characters")))
}

/// Tells a value that is `null` from none.
pub(super) fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_texts() {
        for (text, expected) in
            [("1", 0), ("[]", 1), (r#"{"a":[{}],"b":[]}"#, 3), (r#"["[[[[", "\"[[["]"#, 1), ("]]]][", 1), ("\"[", 0)]
        {
            assert_eq!(depth(text), expected, "{text}");
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only how it is read matters")]
    struct Asked<'a> {
        #[serde(default, borrow, deserialize_with = "present")]
        payload: Option<&'a RawValue>,
        #[serde(default)]
        rooms: Vec<tidegate_types::RoomName>,
    }

    fn told(body: &str) -> String {
        parse::<Asked<'_>>(body.as_bytes()).unwrap_err().message
    }

    #[test]
    fn what_is_wrong_in_a_body_is_named_by_its_place() {
        assert!(told(r#"{"rooms":["a",""]}"#).starts_with("rooms[1]: "), "{}", told(r#"{"rooms":["a",""]}"#));
        assert!(told(r#"{"rooms":5}"#).starts_with("rooms: "));
        assert!(told(r#"{"colour":5}"#).contains("`colour`"));
        assert!(told("[").starts_with("The body: ") && told("{} {}").starts_with("The body: "));
        assert!(told(r#"{"payload":[1,}"#).starts_with("payload: "));
    }

    #[test]
    fn a_payload_may_be_null() {
        let asked = parse::<Asked<'_>>(br#"{"payload":null}"#).unwrap();
        assert_eq!(asked.payload.map(RawValue::get), Some("null"));
        assert!(parse::<Asked<'_>>(b"{}").unwrap().payload.is_none());
    }

    #[test]
    fn what_is_written_into_a_query_is_read_out_of_it() {
        let text = "a b&c=d%/?#é\u{1f600}";
        let query = query(&[("tenant", Some(text)), ("none", None), ("limit", Some("5"))]);
        let mut given = Parameters::read(query.strip_prefix('?')).unwrap();
        assert_eq!(given.take("tenant").as_deref(), Some(text));
        assert_eq!(given.take_limit(1, 10).unwrap(), 5);
        assert!(given.end().is_ok());
        assert_eq!(super::query(&[("none", None)]), "");
    }

    #[test]
    fn parameters_are_taken_by_name_and_none_may_be_left() {
        let mut given = Parameters::read(Some("limit=5&room=caf%C3%A9+x")).unwrap();
        assert_eq!(given.take_limit(100, 1_000).unwrap(), 5);
        assert_eq!(given.take("room").as_deref(), Some("café x"));
        assert!(given.end().is_ok());
        assert!(Parameters::read(Some("a=1&a=2")).is_err());
        assert!(Parameters::read(Some("colour=red")).unwrap().end().unwrap_err().message.starts_with("colour: "));
        for wrong in ["limit=0", "limit=1001", "limit=-1", "limit=", "limit=x"] {
            assert!(Parameters::read(Some(wrong)).unwrap().take_limit(1, 1_000).is_err(), "{wrong}");
        }
    }
}
