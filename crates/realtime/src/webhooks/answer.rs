//! What a backend answers, as JSON. Unknown keys are refused: `alow: false` must not let anybody in.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tidegate_types::{EventName, RoomName, UserId};

/// Events of one answer.
const MOST_EMITS: usize = 100;

/// To `connect`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectAnswer {
    #[serde(default = "yes")]
    pub allow: bool,
    /// What the client is told when it is not let in.
    #[serde(default)]
    pub message: Option<Box<str>>,
    /// For the client's program: `data.code` of its `connect_error`.
    #[serde(default)]
    pub code: Option<Box<str>>,
    /// Added to those of the token.
    #[serde(default)]
    pub permissions: Vec<Box<str>>,
    /// To be in from the start.
    #[serde(default)]
    pub rooms: Vec<RoomName>,
    /// Metadata of the user's presence.
    #[serde(default)]
    pub presence: Option<serde_json::Map<String, serde_json::Value>>,
}

/// To `join`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinAnswer {
    #[serde(default = "yes")]
    pub allow: bool,
    #[serde(default)]
    pub message: Option<Box<str>>,
}

/// To `publish`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishAnswer {
    #[serde(default = "yes")]
    pub allow: bool,
    #[serde(default)]
    pub message: Option<Box<str>>,
    /// Sent instead of the `payload` inside of the data.
    #[serde(default, deserialize_with = "there")]
    pub payload: Option<Box<RawValue>>,
    /// Sent instead of the data as a whole.
    #[serde(default, deserialize_with = "there")]
    pub data: Option<Box<RawValue>>,
}

/// To a client's own event.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EventAnswer {
    /// What the client's acknowledgement gets.
    #[serde(deserialize_with = "there")]
    pub ack: Option<Box<RawValue>>,
    pub emit: Vec<Emit>,
    pub join: Vec<RoomName>,
    pub leave: Vec<RoomName>,
}

/// An event for somebody; for the asking client if nobody is named.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Emit {
    #[serde(default)]
    pub room: Option<RoomName>,
    #[serde(default)]
    pub socket: Option<Box<str>>,
    #[serde(default)]
    pub user: Option<UserId>,
    pub event: EventName,
    #[serde(default, deserialize_with = "there")]
    pub data: Option<Box<RawValue>>,
    #[serde(default)]
    pub persistent: bool,
    #[serde(default)]
    pub volatile: bool,
}

fn yes() -> bool {
    true
}

/// A `null` that stands there is a value, not nothing.
fn there<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// Reads an answer. An empty body has nothing to say, and so nothing against it.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = match body.trim_ascii() {
        b"" => b"{}",
        body if body.starts_with(b"{") => body,
        // A list would be taken as the values of the fields in their order.
        _ => return Err("the answer is not a JSON object".to_owned()),
    };
    serde_json::from_slice(body).map_err(|error| format!("the answer is not as expected: {error}"))
}

impl EventAnswer {
    /// As [`read`].
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let answer: Self = read(body)?;
        if answer.emit.len() > MOST_EMITS {
            return Err(format!("the answer has {} events in \"emit\", {MOST_EMITS} at most", answer.emit.len()));
        }
        let vague = |emit: &&Emit| {
            u8::from(emit.room.is_some()) + u8::from(emit.socket.is_some()) + u8::from(emit.user.is_some()) > 1
        };
        match answer.emit.iter().find(vague) {
            Some(emit) => Err(format!("{:?} is for one of \"room\", \"socket\" and \"user\"", emit.event.as_str())),
            None => Ok(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_answer_has_nothing_against_it() {
        for body in ["", " \n", "{}"] {
            assert!(read::<JoinAnswer>(body.as_bytes()).unwrap().allow, "{body:?}");
        }
        let answer: ConnectAnswer =
            read(br#"{"permissions":["room:a:*"],"rooms":["a"],"presence":{"desk":4}}"#).unwrap();
        assert!(answer.allow && answer.presence.is_some());
    }

    #[test]
    fn a_misspelt_answer_allows_nothing() {
        for body in [r#"{"alow":false}"#, r#"{"allow":"no"}"#, "no", "[]", r#"{"allow":null}"#] {
            assert!(read::<JoinAnswer>(body.as_bytes()).is_err(), "{body}");
        }
        assert!(read::<ConnectAnswer>(br#"{"rooms":[""]}"#).is_err(), "no room has an empty name");
    }

    #[test]
    fn null_is_a_value_to_send() {
        let answer: PublishAnswer = read(br#"{"payload":null}"#).unwrap();
        assert_eq!(answer.payload.unwrap().get(), "null");
        assert!(read::<PublishAnswer>(b"{}").unwrap().payload.is_none());
    }

    #[test]
    fn an_emit_is_for_one_address_and_there_are_not_too_many() {
        let answer =
            EventAnswer::read(br#"{"ack":{"ok":1},"emit":[{"event":"done"},{"room":"a","event":"b","data":[1]}]}"#);
        assert_eq!(answer.unwrap().emit.len(), 2);
        let error = EventAnswer::read(br#"{"emit":[{"room":"a","user":"u","event":"b"}]}"#).unwrap_err();
        assert!(error.contains("one of"), "{error}");
        let many = vec![r#"{"event":"e"}"#; MOST_EMITS + 1].join(",");
        assert!(EventAnswer::read(format!(r#"{{"emit":[{many}]}}"#).as_bytes()).is_err());
    }
}
