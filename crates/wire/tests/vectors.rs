//! The vectors in `tests/vectors`, which `verify.cjs` beside them checks against the reference implementations.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_wire::engine_io::{self, Packet};
use tidegate_wire::socket_io::{self, Kind};
use tidegate_wire::sse;
use tidegate_wire::websocket::{self, Decoder, Message, Role, WsError};

fn load<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

#[derive(Deserialize)]
struct SocketIo {
    decode: Vec<SocketIoPacket>,
    refuse: Vec<Refused>,
    encode: Vec<SocketIoEncode>,
    placeholders: Vec<Placeholders>,
}

#[derive(Deserialize)]
struct SocketIoPacket {
    text: String,
    kind: u8,
    namespace: String,
    ack_id: Option<u64>,
    attachments: u32,
    payload: String,
}

#[derive(Deserialize)]
struct Refused {
    text: String,
    why: String,
}

#[derive(Deserialize)]
struct SocketIoEncode {
    kind: u8,
    namespace: String,
    ack_id: Option<u64>,
    #[serde(default)]
    attachments: usize,
    event: Option<String>,
    args: String,
    trailing: Option<String>,
    text: String,
}

#[derive(Deserialize)]
struct Placeholders {
    payload: String,
    attachments: usize,
    legal: bool,
}

fn socket_io_vectors() -> SocketIo {
    load(include_str!("../../../tests/vectors/socket_io.json"))
}

const KINDS: [Kind; 7] =
    [Kind::Connect, Kind::Disconnect, Kind::Event, Kind::Ack, Kind::ConnectError, Kind::BinaryEvent, Kind::BinaryAck];

#[test]
fn socket_io_packets_are_read_as_the_reference_reads_them() {
    for vector in socket_io_vectors().decode {
        let header = socket_io::decode(&vector.text).unwrap_or_else(|error| panic!("{}: {error}", vector.text));
        assert_eq!(header.kind, KINDS[usize::from(vector.kind)], "{}", vector.text);
        assert_eq!(header.namespace, vector.namespace);
        assert_eq!(header.ack_id, vector.ack_id, "{}", vector.text);
        assert_eq!(header.attachments, vector.attachments);
        assert_eq!(header.payload, vector.payload);
    }
}

#[test]
fn what_is_no_socket_io_packet_is_refused() {
    for vector in socket_io_vectors().refuse {
        assert!(socket_io::decode(&vector.text).is_err(), "{}: {}", vector.text, vector.why);
    }
}

#[test]
fn socket_io_packets_are_written_as_the_reference_writes_them() {
    for vector in socket_io_vectors().encode {
        let SocketIoEncode { kind, namespace, ack_id, attachments, event, args, trailing, text } = &vector;
        let (event, trailing) = (event.as_deref().unwrap_or_default(), trailing.as_deref());
        let mut out = Vec::new();
        match KINDS[usize::from(*kind)] {
            Kind::Connect => socket_io::connect(&mut out, namespace, args),
            Kind::Disconnect => socket_io::disconnect(&mut out, namespace),
            Kind::Event => socket_io::event(&mut out, namespace, *ack_id, event, args, trailing),
            Kind::Ack => socket_io::ack(&mut out, namespace, ack_id.unwrap(), args),
            Kind::ConnectError => socket_io::connect_error(&mut out, namespace, args),
            Kind::BinaryEvent => {
                socket_io::binary_event(&mut out, *attachments, namespace, *ack_id, event, args, trailing);
            }
            Kind::BinaryAck => socket_io::binary_ack(&mut out, *attachments, namespace, ack_id.unwrap(), args),
        }
        assert_eq!(std::str::from_utf8(&out).unwrap(), text);
        socket_io::decode(text).unwrap();
    }
}

#[test]
fn placeholders_are_legal_where_the_reference_takes_them() {
    for vector in socket_io_vectors().placeholders {
        let checked = socket_io::check_placeholders(&vector.payload, vector.attachments);
        assert_eq!(checked.is_ok(), vector.legal, "{}", vector.payload);
        // Whatever looks like a placeholder is none any more once it has been defused.
        let defused = socket_io::defuse_placeholders(&vector.payload);
        assert_eq!(socket_io::check_placeholders(&defused, 0), Ok(()), "{defused}");
    }
}

#[derive(Deserialize)]
struct EngineIo {
    packets: Vec<EngineIoPacket>,
    payloads: Vec<Payload>,
    refuse: Vec<String>,
    refuse_payloads: Vec<String>,
}

#[derive(Deserialize)]
struct EngineIoPacket {
    text: String,
    #[serde(rename = "type")]
    kind: String,
    data: Option<String>,
    binary: Option<String>,
}

#[derive(Deserialize)]
struct Payload {
    text: String,
    packets: Vec<String>,
}

fn engine_io_vectors() -> EngineIo {
    load(include_str!("../../../tests/vectors/engine_io.json"))
}

#[test]
fn engine_io_packets_are_read_and_written_as_the_reference_does() {
    for vector in engine_io_vectors().packets {
        let packet = engine_io::decode_text(&vector.text).unwrap();
        let data = vector.data.as_deref().unwrap_or_default();
        let expected = match (vector.kind.as_str(), &vector.binary) {
            ("open", _) => Packet::Open(data),
            ("close", _) => Packet::Close,
            ("ping", _) => Packet::Ping(data),
            ("pong", _) => Packet::Pong(data),
            ("message", None) => Packet::Message(data),
            ("message", Some(hex)) => Packet::Binary(bytes(hex).into()),
            ("upgrade", _) => Packet::Upgrade,
            ("noop", _) => Packet::Noop,
            (other, _) => panic!("{other}"),
        };
        assert_eq!(packet, expected);
        let mut out = Vec::new();
        engine_io::encode_text(&mut out, &packet);
        assert_eq!(out, vector.text.as_bytes());
    }
}

#[test]
fn payloads_are_split_and_joined_as_the_reference_does() {
    let vectors = engine_io_vectors();
    for Payload { text, packets } in &vectors.payloads {
        let read: Vec<_> = engine_io::decode_payload(text, 16).map(Result::unwrap).collect();
        let expected: Vec<_> = packets.iter().map(|packet| engine_io::decode_text(packet).unwrap()).collect();
        assert_eq!(read, expected);
        let mut out = Vec::new();
        let mut writer = engine_io::PayloadWriter::new(&mut out);
        read.iter().for_each(|packet| writer.packet(packet));
        assert_eq!(out, text.as_bytes());
    }
    for text in &vectors.refuse {
        assert!(engine_io::decode_text(text).is_err(), "{text}");
    }
    for text in &vectors.refuse_payloads {
        assert!(engine_io::decode_payload(text, 16).any(|packet| packet.is_err()), "{text}");
    }
}

#[derive(Deserialize)]
struct WebSocket {
    accept: Vec<Accept>,
    invalid_keys: Vec<String>,
    decode: Vec<Frames>,
    refuse: Vec<RefusedFrames>,
}

#[derive(Deserialize)]
struct Accept {
    key: String,
    accept: String,
}

#[derive(Deserialize)]
struct Frames {
    about: String,
    role: String,
    max: Option<usize>,
    hex: String,
    messages: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct RefusedFrames {
    about: String,
    role: String,
    max: Option<usize>,
    hex: String,
    code: u16,
}

fn web_socket_vectors() -> WebSocket {
    load(include_str!("../../../tests/vectors/websocket.json"))
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Feeds the bytes `step` at a time, as a connection would.
fn receive(role: &str, max: Option<usize>, bytes: &[u8], step: usize) -> (Vec<serde_json::Value>, Option<WsError>) {
    let role = if role == "server" { Role::Server } else { Role::Client };
    let mut decoder = Decoder::new(role, max.unwrap_or(1 << 20));
    let mut messages = Vec::new();
    let mut kept = Vec::new();
    for chunk in bytes.chunks(step) {
        kept.extend_from_slice(chunk);
        loop {
            match decoder.decode(&mut kept) {
                Err(error) => return (messages, Some(error)),
                Ok(decoded) => {
                    let consumed = decoded.consumed;
                    messages.extend(decoded.message.map(describe));
                    kept.drain(..consumed);
                    if consumed == 0 {
                        break;
                    }
                }
            }
        }
    }
    (messages, None)
}

fn describe(message: Message<'_>) -> serde_json::Value {
    match message {
        Message::Text(text) => serde_json::json!({ "text": text }),
        Message::Binary(bytes) => serde_json::json!({ "binary": hex(bytes) }),
        Message::Ping(bytes) => serde_json::json!({ "ping": hex(bytes) }),
        Message::Pong(bytes) => serde_json::json!({ "pong": hex(bytes) }),
        Message::Close(None) => serde_json::json!({ "close": null }),
        Message::Close(Some((code, reason))) => serde_json::json!({ "close": code, "reason": reason }),
        Message::Compressed { .. } => panic!("nothing was agreed"),
    }
}

#[test]
fn web_socket_frames_give_the_messages_of_the_rfc_however_they_are_cut() {
    for vector in web_socket_vectors().decode {
        let bytes = bytes(&vector.hex);
        for step in 1..=bytes.len() {
            let (messages, error) = receive(&vector.role, vector.max, &bytes, step);
            assert_eq!((&messages, error), (&vector.messages, None), "{}, {step} at a time", vector.about);
        }
    }
}

#[test]
fn web_socket_frames_that_break_the_rfc_are_refused_with_its_close_codes() {
    for vector in web_socket_vectors().refuse {
        let bytes = bytes(&vector.hex);
        for step in 1..=bytes.len() {
            let (_, error) = receive(&vector.role, vector.max, &bytes, step);
            assert_eq!(error.map(WsError::close_code), Some(vector.code), "{}, {step} at a time", vector.about);
        }
    }
}

#[test]
fn web_socket_keys_are_accepted_and_answered_as_in_the_rfc() {
    let vectors = web_socket_vectors();
    for Accept { key, accept } in &vectors.accept {
        assert!(websocket::is_valid_key(key));
        assert_eq!(websocket::accept_key(key), *accept);
    }
    for key in &vectors.invalid_keys {
        assert!(!websocket::is_valid_key(key), "{key}");
    }
}

#[derive(Deserialize)]
struct Sse {
    streams: Vec<Stream>,
    encode: Vec<Encode>,
}

#[derive(Deserialize)]
struct Stream {
    text: String,
    events: Vec<Event>,
    retry_ms: Option<u64>,
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Event {
    #[serde(default)]
    id: String,
    #[serde(default = "message")]
    event: String,
    data: String,
}

#[derive(Deserialize)]
struct Encode {
    id: Option<String>,
    event: Option<String>,
    data: String,
    text: String,
}

fn message() -> String {
    "message".to_owned()
}

#[test]
fn event_streams_are_read_as_the_standard_says_however_they_are_cut() {
    let vectors: Sse = load(include_str!("../../../tests/vectors/sse.json"));
    for Stream { text, events, retry_ms } in &vectors.streams {
        for step in 1..=text.len() {
            let mut parser = sse::Parser::new(1_000);
            let mut scanner = sse::EventScanner::new();
            let mut read = Vec::new();
            let mut counted = 0;
            for chunk in text.as_bytes().chunks(step) {
                let show = |event: sse::Event<'_>| {
                    read.push(Event {
                        id: event.id.to_owned(),
                        event: event.event.to_owned(),
                        data: event.data.to_owned(),
                    });
                };
                parser.feed(chunk, show).unwrap();
                counted += scanner.feed(chunk);
            }
            assert_eq!(&read, events, "{text:?}, {step} at a time");
            assert_eq!(counted, events.len() as u64, "{text:?}, {step} at a time");
            assert_eq!(parser.retry_ms(), *retry_ms);
        }
    }
    for Encode { id, event, data, text } in &vectors.encode {
        let mut out = Vec::new();
        sse::encode_event(&mut out, id.as_deref(), event.as_deref(), data);
        assert_eq!(std::str::from_utf8(&out).unwrap(), text);
    }
}
