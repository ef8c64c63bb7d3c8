//! JSON lines: the protocol of plain WebSocket clients, which know no Socket.IO. Each message is one JSON object; what it
//! says is what a Socket.IO packet says, and each is turned into the other, so that every namespace understands both.
//!
//! From the client: `connect`, `event`, `ack`, `disconnect`, `ping`. To the client: `connected`, `refused`, `event`,
//! `ack`, `disconnected`, `pong`, `error`. Described in `docs/lines-api.yaml` (AsyncAPI).

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_types::{Namespace, SessionOffset};

use crate::socket_io::{self, Kind};
use crate::write_string;

/// Why a line is not understood. The text goes to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No JSON object, or one with other fields.
    #[error("not understood: {0}")]
    Json(String),
    /// The type is none that clients send.
    #[error("\"type\" is one of connect, event, ack, disconnect and ping, not {0:?}")]
    Type(String),
    /// A field that this type needs is not there.
    #[error("{0:?} is missing")]
    Missing(&'static str),
    /// No name of a namespace.
    #[error("invalid \"namespace\": it {0}")]
    Namespace(String),
}

/// What a client's line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// This Socket.IO packet, without Engine.IO's type.
    Packet(String),
    /// Nothing but that the client is there; to be answered with [`PONG`].
    Ping,
}

/// The answer to a ping.
pub const PONG: &str = r#"{"type":"pong"}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Received<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    auth: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    id: Option<u64>,
}

/// Reads a client's line. A line without `type` is an event.
///
/// # Errors
/// [`LineError`]; the text says what is wrong.
pub fn read(line: &str) -> Result<Line, LineError> {
    // A list would be taken for the fields in their order.
    if !line.trim_start().starts_with('{') {
        return Err(LineError::Json("a JSON object is expected".to_owned()));
    }
    let line: Received<'_> = serde_json::from_str(line).map_err(|error| LineError::Json(error.to_string()))?;
    let namespace = Namespace::try_from(line.namespace.as_deref().unwrap_or("/"));
    let namespace = namespace.map_err(|error| LineError::Namespace(error.to_string()))?;
    // A comma ends the name in a packet.
    if namespace.as_str().contains(',') {
        return Err(LineError::Namespace("holds a comma".to_owned()));
    }
    let mut packet = Vec::with_capacity(64);
    let data = line.data.map(RawValue::get);
    match line.kind.as_deref().unwrap_or("event") {
        "connect" => socket_io::connect(&mut packet, namespace.as_str(), line.auth.map_or("{}", RawValue::get)),
        "event" => {
            let event = line.event.ok_or(LineError::Missing("event"))?;
            socket_io::event(&mut packet, namespace.as_str(), line.id, &event, data.unwrap_or_default(), None);
        }
        "ack" => {
            let id = line.id.ok_or(LineError::Missing("id"))?;
            socket_io::ack(&mut packet, namespace.as_str(), id, data.unwrap_or_default());
        }
        "disconnect" => socket_io::disconnect(&mut packet, namespace.as_str()),
        "ping" => return Ok(Line::Ping),
        other => return Err(LineError::Type(other.to_owned())),
    }
    let packet = String::from_utf8(packet).map_err(|error| LineError::Json(error.to_string()))?;
    Ok(Line::Packet(packet))
}

/// Writes a Socket.IO packet (without Engine.IO's type) as a line. Binary values stand in it as `{"base64":"…"}`.
/// `None` for what says nothing to such a client.
pub fn write(packet: &str, attachments: &[Bytes]) -> Option<String> {
    let header = socket_io::decode(packet).ok()?;
    let mut line = Vec::with_capacity(packet.len() + 64);
    let mut open = |kind: &str| {
        line.extend_from_slice(br#"{"type":""#);
        line.extend_from_slice(kind.as_bytes());
        line.extend_from_slice(br#"","namespace":"#);
        write_string(&mut line, header.namespace);
    };
    let payload = if attachments.is_empty() {
        Cow::Borrowed(header.payload)
    } else {
        Cow::Owned(socket_io::inline_attachments(header.payload, attachments))
    };
    match header.kind {
        Kind::Connect => {
            open("connected");
            push_members(&mut line, &payload);
        }
        Kind::ConnectError => {
            open("refused");
            push_members(&mut line, &payload);
        }
        Kind::Disconnect => {
            open("disconnected");
            line.push(b'}');
        }
        Kind::Event | Kind::BinaryEvent => {
            open("event");
            let (event, list) = socket_io::event_parts(&payload).ok()?;
            line.extend_from_slice(br#","event":"#);
            write_string(&mut line, &event);
            push_id(&mut line, header.ack_id);
            let mut values: Vec<&str> = socket_io::values(list).collect();
            let offset = offset_in(&values);
            if offset.is_some() {
                values.pop();
            }
            push_values(&mut line, &values);
            if let Some(offset) = offset {
                line.extend_from_slice(br#","offset":"#);
                line.extend_from_slice(offset.as_bytes());
            }
            line.push(b'}');
        }
        Kind::Ack | Kind::BinaryAck => {
            open("ack");
            push_id(&mut line, header.ack_id);
            let values: Vec<&str> = socket_io::args(&payload).collect();
            push_values(&mut line, &values);
            line.push(b'}');
        }
    }
    String::from_utf8(line).ok()
}

/// The line that says what was wrong with a client's line.
pub fn error(error: &LineError) -> String {
    let mut line = br#"{"type":"error","message":"#.to_vec();
    write_string(&mut line, &error.to_string());
    line.push(b'}');
    String::from_utf8(line).unwrap_or_default()
}

/// The members of a JSON object behind those that stand there already.
fn push_members(line: &mut Vec<u8>, object: &str) {
    let members = object.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default().trim();
    if !members.is_empty() {
        line.push(b',');
        line.extend_from_slice(members.as_bytes());
    }
    line.push(b'}');
}

fn push_id(line: &mut Vec<u8>, id: Option<u64>) {
    if let Some(id) = id {
        line.extend_from_slice(format!(r#","id":{id}"#).as_bytes());
    }
}

/// The first value as `data`, those behind it as `more`.
fn push_values(line: &mut Vec<u8>, values: &[&str]) {
    let Some((first, more)) = values.split_first() else { return };
    line.extend_from_slice(br#","data":"#);
    line.extend_from_slice(first.as_bytes());
    if !more.is_empty() {
        line.extend_from_slice(br#","more":["#);
        line.extend_from_slice(more.join(",").as_bytes());
        line.push(b']');
    }
}

/// The offset that recovery needs, which is a Socket.IO event's last argument, as it stands there.
fn offset_in<'a>(values: &[&'a str]) -> Option<&'a str> {
    let last = *values.last()?;
    let text = last.strip_prefix('"')?.strip_suffix('"')?;
    text.parse::<SessionOffset>().is_ok().then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(line: &str) -> String {
        match read(line).unwrap() {
            Line::Packet(packet) => packet,
            Line::Ping => panic!("a ping"),
        }
    }

    #[test]
    fn lines_of_clients_are_packets() {
        assert_eq!(packet(r#"{"type":"connect","auth":{"token":"t"}}"#), r#"0{"token":"t"}"#);
        assert_eq!(packet(r#"{"type":"connect","namespace":"/events"}"#), "0/events,{}");
        assert_eq!(packet(r#"{"event":"room:join","data":{"room":"a"},"id":7}"#), r#"27["room:join",{"room":"a"}]"#);
        assert_eq!(packet(r#"{"type":"event","event":"x\"y","namespace":"/n"}"#), r#"2/n,["x\"y"]"#);
        assert_eq!(packet(r#"{"type":"ack","id":3,"data":[1]}"#), "33[[1]]");
        assert_eq!(packet(r#"{"type":"disconnect"}"#), "1");
        assert_eq!(read(r#"{"type":"ping"}"#), Ok(Line::Ping));
    }

    #[test]
    fn what_is_no_line_is_named() {
        for (line, wanted) in [
            ("", "object"),
            ("[]", "not understood"),
            (r#"{"event":1}"#, "not understood"),
            (r#"{"event":"a","colour":1}"#, "colour"),
            (r#"{"type":"shout"}"#, "shout"),
            (r#"{}"#, "event"),
            (r#"{"type":"ack"}"#, "id"),
            (r#"{"type":"connect","namespace":"/a,2[]"}"#, "namespace"),
            (r#"{"event":"a","id":-1}"#, "not understood"),
            (r#"{"event":"a"}{"event":"b"}"#, "trailing"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(wanted), "{line}: {error}");
        }
    }

    #[test]
    fn packets_of_the_server_are_lines() {
        let line = |packet: &str| write(packet, &[]).unwrap();
        assert_eq!(line(r#"0{"sid":"a","pid":"b"}"#), r#"{"type":"connected","namespace":"/","sid":"a","pid":"b"}"#);
        assert_eq!(line(r#"4/n,{"message":"m"}"#), r#"{"type":"refused","namespace":"/n","message":"m"}"#);
        assert_eq!(line("1/n,"), r#"{"type":"disconnected","namespace":"/n"}"#);
        assert_eq!(
            line(r#"2["room:message",{"a":1},"1f.5"]"#),
            r#"{"type":"event","namespace":"/","event":"room:message","data":{"a":1},"offset":"1f.5"}"#
        );
        assert_eq!(
            line(r#"29["x",1,"two"]"#),
            r#"{"type":"event","namespace":"/","event":"x","id":9,"data":1,"more":["two"]}"#
        );
        assert_eq!(
            line(r#"312[{"success":true}]"#),
            r#"{"type":"ack","namespace":"/","id":12,"data":{"success":true}}"#
        );
    }

    #[test]
    fn binary_values_are_base64_in_lines() {
        let line = write(r#"51-["x",{"_placeholder":true,"num":0}]"#, &[Bytes::from_static(b"abc")]).unwrap();
        assert_eq!(line, r#"{"type":"event","namespace":"/","event":"x","data":{"base64":"YWJj"}}"#);
    }

    proptest! {
        #[test]
        fn whatever_a_line_holds_the_packet_says_the_same(event in "\\PC{0,20}", text in "\\PC{0,20}", id: Option<u64>) {
            let line = serde_json::json!({ "type": "event", "event": event, "data": { "t": text }, "id": id });
            let packet = packet(&line.to_string());
            let header = socket_io::decode(&packet).unwrap();
            prop_assert_eq!(header.ack_id, id);
            let value: serde_json::Value = serde_json::from_str(header.payload).unwrap();
            prop_assert_eq!(value, serde_json::json!([event, { "t": text }]));
        }

        #[test]
        fn any_text_is_a_line_or_is_refused(text in "\\PC{0,60}") {
            let _ = read(&text);
            if let Some(line) = write(&text, &[]) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{}", line);
            }
        }
    }
}
