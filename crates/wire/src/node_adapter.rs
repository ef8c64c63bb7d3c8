//! What Socket.IO servers in Node say to each other through Redis, so that a server of another kind can be one of them.
//!
//! Source: @socket.io/redis-adapter 8.3 with @socket.io/redis-emitter 5.1 ([`redis_adapter`]), and the messages of
//! socket.io-adapter 2.5 as the sharded adapter and @socket.io/redis-streams-adapter 0.3 write them ([`cluster_adapter`]).
//! `tests/vectors/node_adapter.json` holds what these packages wrote.
//!
//! One vocabulary ([`Message`]) for all of them: a broadcast is the same thing whichever adapter carries it. MessagePack
//! becomes JSON text with attachments first, so each message is read in one way, by key, in whatever order it was written.
//!
//! Anybody who can write to that Redis can write on these channels: nothing here trusts what it reads.

pub mod cluster_adapter;
mod msgpack;
mod names;
pub mod redis_adapter;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::write_string;
use crate::socket_io;
pub use names::Names;

/// The largest message that is read, bytes. Redis itself would take 512 MiB.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Why bytes are no message of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Larger than [`MAX_MESSAGE`].
    #[error("the message is too large")]
    TooLarge,
    /// It ends too early, or has something behind its end.
    #[error("the message is cut off, or two in one")]
    Length,
    /// Not MessagePack, or an extension that no JSON value stands for.
    #[error("neither MessagePack nor JSON of the adapters")]
    Encoding,
    /// Nested too deeply.
    #[error("nested too deeply")]
    Depth,
    /// Well-formed, but not what an adapter writes.
    #[error("not a message of this adapter")]
    Shape,
    /// An event that clients would take for a broken packet.
    #[error("not an event that clients take")]
    Event,
}

/// Whom something is for: sockets in any of `rooms` (everybody, if there are none), but not those in any of `except`.
/// Each socket is in a room that has its id as name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// Rooms; a socket in several of them counts once.
    pub rooms: Names,
    /// Rooms whose sockets are passed over.
    pub except: Names,
}

/// An event on its way between servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `["name",…]`, checked: what [`socket_io::event_parts`] takes. Binary values stand in it as placeholders.
    pub payload: String,
    /// The binary values, by the number of their placeholder.
    pub attachments: Vec<Bytes>,
}

impl Event {
    /// Makes an event of its name and its arguments (raw JSON, separated by commas).
    pub fn new(name: &str, args: &str, attachments: Vec<Bytes>) -> Self {
        let mut payload = Vec::with_capacity(name.len() + args.len() + 5);
        payload.push(b'[');
        write_string(&mut payload, name);
        if !args.is_empty() {
            payload.push(b',');
            payload.extend_from_slice(args.as_bytes());
        }
        payload.push(b']');
        // Made of text, by text.
        Self { payload: String::from_utf8(payload).unwrap_or_default(), attachments }
    }

    /// Checks what came from another server.
    fn checked(payload: &str, attachments: Vec<Bytes>) -> Result<Self, Error> {
        socket_io::check_event(payload).map_err(|_| Error::Event)?;
        if attachments.len() > socket_io::MAX_ATTACHMENTS as usize {
            return Err(Error::Event);
        }
        if !attachments.is_empty() {
            socket_io::check_placeholders(payload, attachments.len()).map_err(|_| Error::Event)?;
            // Binary values elsewhere in the message, where none belongs, would be counted as the event's.
            if payload.matches("{\"_placeholder\":true,\"num\":").count() != attachments.len() {
                return Err(Error::Event);
            }
        }
        Ok(Self { payload: payload.to_owned(), attachments })
    }
}

/// A value with what is binary in it: a client's answer, or a server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// JSON; `null` if there was none.
    pub json: String,
    /// The binary values, by the number of their placeholder.
    pub attachments: Vec<Bytes>,
}

impl Value {
    /// A value without anything binary.
    pub fn json(json: impl Into<String>) -> Self {
        Self { json: json.into(), attachments: Vec::new() }
    }
}

/// An event for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// What.
    pub event: Event,
    /// For whom.
    pub to: Selection,
    /// Whether who is behind goes without it.
    pub volatile: bool,
    /// Set when each client's answer is wanted.
    pub ack: Option<Ack>,
}

/// How the clients' answers are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Names the request in the answers.
    pub request: String,
    /// How long its sender waits, ms, if it says.
    pub timeout_ms: Option<u64>,
}

/// What one server says to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// An event for clients.
    Broadcast(Broadcast),
    /// Sockets are to join rooms.
    Join {
        /// Which sockets.
        of: Selection,
        /// Which rooms.
        rooms: Names,
    },
    /// Sockets are to leave rooms.
    Leave {
        /// Which sockets.
        of: Selection,
        /// Which rooms.
        rooms: Names,
    },
    /// Sockets are to be put out of the namespace.
    Disconnect {
        /// Which sockets.
        of: Selection,
        /// Whether their connections are to be closed as well.
        close: bool,
    },
    /// Which sockets are there? Answered with [`Message::Found`].
    Fetch {
        /// Names the request in its answers.
        request: String,
        /// Which sockets.
        of: Selection,
    },
    /// The ids of the sockets in any of these rooms. Answered with [`Message::Found`].
    Ids {
        /// Names the request in its answers.
        request: String,
        /// Rooms; all sockets, if there are none.
        rooms: Names,
    },
    /// Which rooms are there? Answered with [`Message::Rooms`].
    AllRooms {
        /// Names the request in its answers.
        request: String,
    },
    /// An event for servers.
    ServerSide {
        /// Set when each server's answer is wanted.
        request: Option<String>,
        /// What.
        event: Event,
    },

    /// Answers [`Message::Fetch`] and [`Message::Ids`].
    Found {
        /// The request.
        request: String,
        /// A JSON array: of objects with `id`, `handshake`, `rooms` and `data`, or of ids.
        sockets: String,
    },
    /// Answers [`Message::AllRooms`].
    Rooms {
        /// The request.
        request: String,
        /// The rooms.
        rooms: Names,
    },
    /// Answers [`Message::ServerSide`].
    ServerSideAnswer {
        /// The request.
        request: String,
        /// The answer.
        value: Value,
    },
    /// Answers a [`Message::Broadcast`] that wants answers: how many clients of this server will be waited for.
    ClientCount {
        /// The request.
        request: String,
        /// How many.
        count: u64,
    },
    /// One client's answer.
    Acked {
        /// The request.
        request: String,
        /// The first argument of the client's answer.
        value: Value,
    },
    /// Nothing to do: a heartbeat, or an answer without content.
    Nothing,
}

/// A message, and who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The sending server, `emitter` for a process without clients; emitters leave it out at times.
    pub uid: Option<String>,
    /// The namespace, where the message itself names it.
    pub namespace: Option<String>,
    /// What it says.
    pub message: Message,
}

/// A packet of Socket.IO as adapters write it.
#[derive(Deserialize)]
struct Packet<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    nsp: Option<String>,
}

impl Packet<'_> {
    /// EVENT, or BINARY_EVENT as old emitters call it.
    fn event(&self, attachments: Vec<Bytes>) -> Result<Event, Error> {
        match self.kind {
            2 | 5 => Event::checked(self.data.get(), attachments),
            _ => Err(Error::Shape),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    rooms: Names,
    except: Names,
    flags: Option<Flags>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Flags {
    volatile: Option<bool>,
    timeout: Option<f64>,
}

impl Options {
    fn volatile(&self) -> bool {
        self.flags.as_ref().and_then(|flags| flags.volatile).unwrap_or(false)
    }

    fn timeout_ms(&self) -> Option<u64> {
        let timeout = self.flags.as_ref()?.timeout.filter(|timeout| (0.0..1e12).contains(timeout))?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its range has been looked at")]
        Some(timeout as u64)
    }

    fn selection(self) -> Selection {
        Selection { rooms: self.rooms, except: self.except }
    }
}

/// A message as JSON text, whatever it was written in.
fn text(bytes: &Bytes) -> Result<(String, Vec<Bytes>), Error> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Error::TooLarge);
    }
    if bytes.first() == Some(&b'{') {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::Encoding)?;
        return Ok((text.to_owned(), Vec::new()));
    }
    msgpack::to_json(bytes)
}

/// Appends `"rooms":[…],"except":[…]`.
fn push_selection(out: &mut Vec<u8>, of: &Selection) {
    out.extend_from_slice(b"\"rooms\":");
    of.rooms.push(out);
    out.extend_from_slice(b",\"except\":");
    of.except.push(out);
}

/// Appends `"key":"value"`.
fn push_member(out: &mut Vec<u8>, key: &str, value: &str) {
    write_string(out, key);
    out.push(b':');
    write_string(out, value);
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends the flags of a broadcast.
fn push_flags(out: &mut Vec<u8>, broadcast: &Broadcast) {
    out.extend_from_slice(b"\"flags\":{");
    if broadcast.volatile {
        out.extend_from_slice(b"\"volatile\":true");
    }
    if let Some(timeout) = broadcast.ack.as_ref().and_then(|ack| ack.timeout_ms) {
        out.extend_from_slice(if broadcast.volatile { b",\"timeout\":" } else { b"\"timeout\":" });
        push_number(out, timeout);
    }
    out.push(b'}');
}

/// Appends the packet of an event, with its namespace where the adapter wants it there.
fn push_packet(out: &mut Vec<u8>, event: &Event, namespace: Option<&str>) {
    out.extend_from_slice(b"{\"type\":2,\"data\":");
    out.extend_from_slice(event.payload.as_bytes());
    if let Some(namespace) = namespace {
        out.push(b',');
        push_member(out, "nsp", namespace);
    }
    out.push(b'}');
}
