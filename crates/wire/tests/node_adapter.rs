//! What the Redis adapters of Socket.IO wrote is read for what it meant, and what is written in their way reads the same.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tidegate_wire::node_adapter::cluster_adapter::Form;
use tidegate_wire::node_adapter::{Error, Heard, Message, Value, cluster_adapter, redis_adapter};

#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    adapter: String,
    about: String,
    form: String,
    #[serde(rename = "where")]
    place: String,
    bytes: Json,
    means: Json,
}

fn vectors() -> Vec<Vector> {
    let text = include_str!("../../../tests/vectors/node_adapter.json");
    serde_json::from_str::<Vectors>(text).unwrap().vectors
}

fn decoded(text: &Json) -> Bytes {
    STANDARD.decode(text.as_str().unwrap()).unwrap().into()
}

impl Vector {
    fn bytes(&self) -> Bytes {
        decoded(&self.bytes)
    }

    fn read(&self) -> Result<Heard, Error> {
        if self.form == "entry" {
            let fields: Vec<Bytes> = self.bytes.as_array().unwrap().iter().map(decoded).collect();
            return cluster_adapter::entry(fields.chunks(2).map(|pair| (&*pair[0], &pair[1])));
        }
        self.read_bytes(&self.bytes())
    }

    fn read_bytes(&self, bytes: &Bytes) -> Result<Heard, Error> {
        match self.adapter.as_str() {
            "redis-adapter" if self.place.starts_with("socket.io-request#/") => redis_adapter::request(bytes),
            "redis-adapter" if self.place.starts_with("socket.io-response#/") => redis_adapter::answer(bytes),
            "redis-adapter" => redis_adapter::broadcast(bytes),
            _ => cluster_adapter::message(bytes),
        }
    }

    /// The message written again.
    fn write(&self, message: &Message) -> Result<Heard, Error> {
        let bytes = match (self.adapter.as_str(), message) {
            ("redis-adapter", Message::Broadcast(broadcast)) if broadcast.ack.is_none() => {
                redis_adapter::write_broadcast("u", "/", broadcast).unwrap()
            }
            ("redis-adapter", _) if self.place.starts_with("socket.io-request#/") => {
                redis_adapter::write_request("u", "/", message).unwrap().unwrap()
            }
            ("redis-adapter", _) => redis_adapter::write_answer(message).unwrap().unwrap(),
            ("streams", _) if self.form == "entry" => {
                let fields = cluster_adapter::write_entry("u", "/", message).unwrap().unwrap();
                return cluster_adapter::entry(fields.iter().map(|(name, value)| (name.as_bytes(), value)));
            }
            ("streams", _) => cluster_adapter::write("u", "/", message, Form::Packed).unwrap().unwrap(),
            _ => cluster_adapter::write("u", "/", message, Form::TextIfPossible).unwrap().unwrap(),
        };
        self.read_bytes(&bytes.into())
    }
}

fn value(value: &Value) -> Json {
    serde_json::from_str(&value.json).unwrap()
}

/// A message in the words of the vectors.
fn meaning(message: &Message) -> Json {
    match message {
        Message::Broadcast(broadcast) => json!({ "broadcast": {
            "payload": serde_json::from_str::<Json>(&broadcast.event.payload).unwrap(),
            "rooms": broadcast.to.rooms.0,
            "except": broadcast.to.except.0,
            "volatile": broadcast.volatile,
            "attachments": broadcast.event.attachments.iter().map(|one| STANDARD.encode(one)).collect::<Vec<_>>(),
            "ack": broadcast.ack.as_ref().map(|ack| ack.timeout_ms),
        } }),
        Message::Join { of, rooms } => {
            json!({ "join": { "rooms": of.rooms.0, "except": of.except.0, "into": rooms.0 } })
        }
        Message::Leave { of, rooms } => {
            json!({ "leave": { "rooms": of.rooms.0, "except": of.except.0, "from": rooms.0 } })
        }
        Message::Disconnect { of, close } => {
            json!({ "disconnect": { "rooms": of.rooms.0, "except": of.except.0, "close": close } })
        }
        Message::Fetch { of, .. } => json!({ "fetch": { "rooms": of.rooms.0, "except": of.except.0 } }),
        Message::Ids { .. } => json!("ids"),
        Message::AllRooms { .. } => json!({ "allRooms": true }),
        Message::ServerSide { request, event } => json!({ "serverSide": {
            "payload": serde_json::from_str::<Json>(&event.payload).unwrap(),
            "ack": request.is_some(),
        } }),
        Message::Found { sockets, .. } => {
            let sockets: Vec<Json> = serde_json::from_str(sockets).unwrap();
            let id = |socket: Json| if socket.is_string() { socket } else { socket["id"].clone() };
            json!({ "found": sockets.into_iter().map(id).collect::<Vec<_>>() })
        }
        Message::Rooms { rooms, .. } => json!({ "rooms": rooms.0 }),
        Message::ServerSideAnswer { value: answer, .. } => json!({ "serverSideAnswer": value(answer) }),
        Message::ClientCount { count, .. } => json!({ "clientCount": count }),
        Message::Acked { value: answer, .. } => json!({ "acked": value(answer) }),
        Message::Nothing => json!(null),
    }
}

#[test]
fn what_the_adapters_wrote_is_read_for_what_it_meant() {
    let vectors = vectors();
    assert!(vectors.len() > 80);
    for vector in &vectors {
        let heard = vector.read().unwrap_or_else(|error| panic!("{}: {}: {error}", vector.adapter, vector.about));
        assert_eq!(meaning(&heard.message), vector.means, "{}: {}", vector.adapter, vector.about);
    }
}

#[test]
fn what_is_written_in_their_way_reads_the_same() {
    for vector in &vectors() {
        let heard = vector.read().unwrap();
        let again = vector.write(&heard.message).unwrap();
        assert_eq!(again.message, heard.message, "{}: {}", vector.adapter, vector.about);
    }
}

#[test]
fn a_message_that_is_cut_off_anywhere_is_refused() {
    for vector in vectors().iter().filter(|vector| vector.form == "publish" && vector.bytes().len() < 2_000) {
        let bytes = vector.bytes();
        for end in 0..bytes.len() {
            assert!(vector.read_bytes(&bytes.slice(..end)).is_err(), "{} up to {end}", vector.about);
        }
    }
}

#[test]
fn options_count_in_any_order_and_numbers_are_rooms() {
    let request = br#"{"rooms":[1,"b"],"opts":{"flags":null,"except":[],"rooms":[-2]},"type":2}"#;
    let heard = redis_adapter::request(&Bytes::from_static(request)).unwrap();
    assert_eq!(meaning(&heard.message), json!({ "join": { "rooms": ["-2"], "except": [], "into": ["1", "b"] } }));
}

#[test]
fn one_socket_may_be_named_as_old_adapters_do_and_nobody_is_not_everybody() {
    let request = |text: &'static str| redis_adapter::request(&Bytes::from_static(text.as_bytes())).unwrap().message;
    let Message::Leave { of, rooms } = request(r#"{"type":3,"requestId":"a","sid":"S","room":"r"}"#) else { panic!() };
    assert_eq!((of.rooms.0.as_slice(), rooms.0.as_slice()), (&["S".to_owned()][..], &["r".to_owned()][..]));
    let Message::Disconnect { of, .. } = request(r#"{"type":4}"#) else { panic!() };
    assert!(!of.rooms.is_empty());
}

#[test]
fn what_no_client_takes_is_refused() {
    for (text, error) in [
        (r#"{"type":9,"data":{"packet":["disconnect"]}}"#, Error::Event),
        (r#"{"type":3,"data":{"packet":{"type":3,"data":["a"]},"opts":{}}}"#, Error::Shape),
        (r#"{"type":3,"data":{"packet":{"type":2,"data":{"a":1}},"opts":{}}}"#, Error::Event),
        (r#"{"type":99,"data":{}}"#, Error::Shape),
        (r#"{"type":7,"data":{"opts":{}}}"#, Error::Shape),
        ("{", Error::Shape),
    ] {
        assert_eq!(cluster_adapter::message(&Bytes::from_static(text.as_bytes())), Err(error), "{text}");
    }
    let deep = format!(r#"{{"type":9,"data":{{"packet":["a",{}1{}]}}}}"#, "[".repeat(130), "]".repeat(130));
    assert!(cluster_adapter::message(&deep.into()).is_err());
}

#[test]
fn a_namespace_and_its_rooms_have_channels() {
    let channels = redis_adapter::Channels::new("socket.io", "/chat");
    assert_eq!(channels.broadcasts, "socket.io#/chat#");
    assert_eq!(channels.requests, "socket.io-request#/chat#");
    assert_eq!(channels.answers, "socket.io-response#/chat#");
    let channels = cluster_adapter::Channels::new("socket.io", "/");
    assert_eq!(channels.of_room("r1").as_deref(), Some("socket.io#/#r1#"));
    assert_eq!(channels.of_room("AAAAAAAAAAAAAAAAAAAA"), None);
    assert_eq!(channels.of_server("u"), "socket.io#/#u#");
}
