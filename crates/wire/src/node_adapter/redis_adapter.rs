//! @socket.io/redis-adapter 8 (not its sharded form) and @socket.io/redis-emitter 5: PUBLISH and PSUBSCRIBE.
//!
//! Broadcasts are MessagePack `[uid, packet, options]`; requests and answers are JSON, or MessagePack where something in
//! them may be binary. The first byte tells which.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Ack, Broadcast, Error, Event, Heard, MAX_MESSAGE, Message, Names, Options, Packet, Selection, Value, msgpack,
    push_flags, push_member, push_number, push_packet, push_selection, text,
};

/// What the adapter calls `RequestType`.
mod kind {
    pub const SOCKETS: u8 = 0;
    pub const ALL_ROOMS: u8 = 1;
    pub const REMOTE_JOIN: u8 = 2;
    pub const REMOTE_LEAVE: u8 = 3;
    pub const REMOTE_DISCONNECT: u8 = 4;
    pub const REMOTE_FETCH: u8 = 5;
    pub const SERVER_SIDE_EMIT: u8 = 6;
    pub const BROADCAST: u8 = 7;
    pub const BROADCAST_CLIENT_COUNT: u8 = 8;
    pub const BROADCAST_ACK: u8 = 9;
}

/// The channels of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Broadcasts; followed by a room and `#` where there is exactly one.
    pub broadcasts: String,
    /// Requests.
    pub requests: String,
    /// Answers; followed by a uid and `#` where only one server is to hear them.
    pub answers: String,
}

impl Channels {
    /// The channels of a namespace under a key, by default `socket.io`.
    pub fn new(key: &str, namespace: &str) -> Self {
        Self {
            broadcasts: format!("{key}#{namespace}#"),
            requests: format!("{key}-request#{namespace}#"),
            answers: format!("{key}-response#{namespace}#"),
        }
    }

    /// What PSUBSCRIBE takes to hear all broadcasts.
    pub fn pattern(&self) -> String {
        let mut pattern = String::with_capacity(self.broadcasts.len() + 1);
        for character in self.broadcasts.chars() {
            // What is special in a pattern stands for itself in a name.
            if matches!(character, '*' | '?' | '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern.push('*');
        pattern
    }

    /// The channel that a broadcast goes to.
    pub fn of_broadcast(&self, to: &Selection) -> String {
        match to.rooms.0.as_slice() {
            [room] => format!("{}{room}#", self.broadcasts),
            _ => self.broadcasts.clone(),
        }
    }
}

#[derive(Deserialize)]
struct Raw<'a>(#[serde(borrow)] Option<std::borrow::Cow<'a, str>>, #[serde(borrow)] Packet<'a>, Options);

/// Reads what came on a channel of broadcasts. A packet without a namespace is of `/`.
///
/// # Errors
/// [`Error`].
pub fn broadcast(bytes: &Bytes) -> Result<Heard, Error> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Error::TooLarge);
    }
    let (text, attachments) = msgpack::to_json(bytes)?;
    let Raw(uid, packet, options) = serde_json::from_str(&text).map_err(|_| Error::Shape)?;
    let event = packet.event(attachments)?;
    let volatile = options.volatile();
    let broadcast = Broadcast { event, to: options.selection(), volatile, ack: None };
    Ok(Heard {
        uid: uid.map(std::borrow::Cow::into_owned),
        namespace: Some(packet.nsp.unwrap_or_else(|| "/".to_owned())),
        message: Message::Broadcast(broadcast),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    opts: Option<Options>,
    #[serde(default)]
    rooms: Names,
    #[serde(default)]
    close: Option<bool>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default, borrow)]
    packet: Option<Packet<'a>>,
    /// One socket, as adapters before the seventh name it.
    #[serde(default)]
    sid: Option<String>,
    #[serde(default)]
    room: Option<String>,
}

/// Reads what came on the channel of requests.
///
/// # Errors
/// [`Error`].
pub fn request(bytes: &Bytes) -> Result<Heard, Error> {
    let (text, attachments) = text(bytes)?;
    let request: Request<'_> = serde_json::from_str(&text).map_err(|_| Error::Shape)?;
    let uid = request.uid.clone();
    let message = match request.kind {
        kind::SOCKETS => Message::Ids { request: request.named()?, rooms: request.rooms },
        kind::ALL_ROOMS => Message::AllRooms { request: request.named()? },
        kind::REMOTE_JOIN => {
            let (of, rooms) = request.sockets_and_rooms();
            Message::Join { of, rooms }
        }
        kind::REMOTE_LEAVE => {
            let (of, rooms) = request.sockets_and_rooms();
            Message::Leave { of, rooms }
        }
        kind::REMOTE_DISCONNECT => {
            let close = request.close.unwrap_or(false);
            Message::Disconnect { of: request.sockets_and_rooms().0, close }
        }
        kind::REMOTE_FETCH => {
            Message::Fetch { request: request.named()?, of: request.opts.ok_or(Error::Shape)?.selection() }
        }
        kind::SERVER_SIDE_EMIT => Message::ServerSide {
            event: Event::checked(request.data.ok_or(Error::Shape)?.get(), attachments)?,
            request: request.request_id,
        },
        kind::BROADCAST => {
            let name = request.named()?;
            let options = request.opts.ok_or(Error::Shape)?;
            let event = request.packet.ok_or(Error::Shape)?.event(attachments)?;
            let ack = Some(Ack { request: name, timeout_ms: options.timeout_ms() });
            Message::Broadcast(Broadcast { event, volatile: options.volatile(), to: options.selection(), ack })
        }
        _ => return Err(Error::Shape),
    };
    Ok(Heard { uid, namespace: None, message })
}

impl Request<'_> {
    fn named(&self) -> Result<String, Error> {
        self.request_id.clone().ok_or(Error::Shape)
    }

    fn sockets_and_rooms(self) -> (Selection, Names) {
        match self.opts {
            Some(options) => (options.selection(), self.rooms),
            None => {
                let of = Selection { rooms: self.sid.into_iter().collect(), except: Names::default() };
                // Without anybody named nobody is meant, and no room would mean everybody.
                let of = if of.rooms.is_empty() { Selection { rooms: Names::from_iter([""]), ..of } } else { of };
                (of, self.room.into_iter().collect())
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<u8>,
    #[serde(default, borrow)]
    sockets: Option<&'a RawValue>,
    #[serde(default)]
    rooms: Option<Names>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    client_count: Option<u64>,
    #[serde(default, borrow)]
    packet: Option<&'a RawValue>,
}

/// Reads what came on a channel of answers.
///
/// # Errors
/// [`Error`].
pub fn answer(bytes: &Bytes) -> Result<Heard, Error> {
    let (text, attachments) = text(bytes)?;
    let answer: Answer<'_> = serde_json::from_str(&text).map_err(|_| Error::Shape)?;
    let json = |value: Option<&RawValue>| value.map_or("null", RawValue::get).to_owned();
    let request = answer.request_id.ok_or(Error::Shape)?;
    let message = match (answer.kind, answer.sockets, answer.rooms) {
        (Some(kind::SERVER_SIDE_EMIT), ..) => {
            Message::ServerSideAnswer { request, value: Value { json: json(answer.data), attachments } }
        }
        (Some(kind::BROADCAST_CLIENT_COUNT), ..) => {
            Message::ClientCount { request, count: answer.client_count.ok_or(Error::Shape)? }
        }
        (Some(kind::BROADCAST_ACK), ..) => {
            Message::Acked { request, value: Value { json: json(answer.packet), attachments } }
        }
        (Some(_), ..) => return Err(Error::Shape),
        (None, Some(sockets), _) => Message::Found { request, sockets: sockets.get().to_owned() },
        (None, None, Some(rooms)) => Message::Rooms { request, rooms },
        // A join of one socket has happened.
        (None, None, None) => Message::Nothing,
    };
    Ok(Heard { uid: None, namespace: None, message })
}

/// Writes a broadcast that wants no answers, as MessagePack.
///
/// # Errors
/// Its event is not JSON that every reader takes.
pub fn write_broadcast(uid: &str, namespace: &str, broadcast: &Broadcast) -> Result<Vec<u8>, Error> {
    let mut json = Vec::with_capacity(broadcast.event.payload.len() + 128);
    json.push(b'[');
    crate::json::write_string(&mut json, uid);
    json.push(b',');
    push_packet(&mut json, &broadcast.event, Some(namespace));
    json.extend_from_slice(b",{");
    push_selection(&mut json, &broadcast.to);
    json.push(b',');
    push_flags(&mut json, broadcast);
    json.extend_from_slice(b"}]");
    packed(&json, &broadcast.event.attachments)
}

fn packed(json: &[u8], attachments: &[Bytes]) -> Result<Vec<u8>, Error> {
    let json = std::str::from_utf8(json).map_err(|_| Error::Encoding)?;
    let mut out = Vec::with_capacity(json.len() + attachments.iter().map(Bytes::len).sum::<usize>());
    msgpack::from_json(json, attachments, &mut out)?;
    Ok(out)
}

/// Writes a request. `None` for what is none.
///
/// # Errors
/// As [`write_broadcast`].
pub fn write_request(uid: &str, namespace: &str, message: &Message) -> Result<Option<Vec<u8>>, Error> {
    let mut out = b"{".to_vec();
    push_member(&mut out, "uid", uid);
    let begin = |out: &mut Vec<u8>, kind: u8, request: Option<&str>| {
        out.extend_from_slice(b",\"type\":");
        push_number(out, u64::from(kind));
        if let Some(request) = request {
            out.push(b',');
            push_member(out, "requestId", request);
        }
    };
    let selection = |out: &mut Vec<u8>, of: &Selection| {
        out.extend_from_slice(b",\"opts\":{");
        push_selection(out, of);
        out.push(b'}');
    };
    let rooms_of = |out: &mut Vec<u8>, rooms: &Names| {
        out.extend_from_slice(b",\"rooms\":");
        rooms.push(out);
    };
    let mut attachments: &[Bytes] = &[];
    let mut must_pack = false;
    match message {
        Message::Ids { request, rooms } => {
            begin(&mut out, kind::SOCKETS, Some(request));
            rooms_of(&mut out, rooms);
        }
        Message::AllRooms { request } => begin(&mut out, kind::ALL_ROOMS, Some(request)),
        Message::Join { of, rooms } => {
            begin(&mut out, kind::REMOTE_JOIN, None);
            selection(&mut out, of);
            rooms_of(&mut out, rooms);
        }
        Message::Leave { of, rooms } => {
            begin(&mut out, kind::REMOTE_LEAVE, None);
            selection(&mut out, of);
            rooms_of(&mut out, rooms);
        }
        Message::Disconnect { of, close } => {
            begin(&mut out, kind::REMOTE_DISCONNECT, None);
            selection(&mut out, of);
            out.extend_from_slice(if *close { b",\"close\":true" } else { b",\"close\":false" });
        }
        Message::Fetch { request, of } => {
            begin(&mut out, kind::REMOTE_FETCH, Some(request));
            selection(&mut out, of);
        }
        Message::ServerSide { request, event } => {
            begin(&mut out, kind::SERVER_SIDE_EMIT, request.as_deref());
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(event.payload.as_bytes());
            attachments = &event.attachments;
        }
        Message::Broadcast(broadcast) => {
            let Some(ack) = &broadcast.ack else { return Ok(None) };
            begin(&mut out, kind::BROADCAST, Some(&ack.request));
            out.extend_from_slice(b",\"packet\":");
            push_packet(&mut out, &broadcast.event, Some(namespace));
            out.extend_from_slice(b",\"opts\":{");
            push_selection(&mut out, &broadcast.to);
            out.push(b',');
            push_flags(&mut out, broadcast);
            out.push(b'}');
            attachments = &broadcast.event.attachments;
            must_pack = true;
        }
        Message::Found { .. }
        | Message::Rooms { .. }
        | Message::ServerSideAnswer { .. }
        | Message::ClientCount { .. }
        | Message::Acked { .. }
        | Message::Nothing => return Ok(None),
    }
    out.push(b'}');
    if must_pack || !attachments.is_empty() { packed(&out, attachments).map(Some) } else { Ok(Some(out)) }
}

/// Writes an answer. `None` for what is none.
///
/// # Errors
/// As [`write_broadcast`].
pub fn write_answer(message: &Message) -> Result<Option<Vec<u8>>, Error> {
    let mut out = b"{".to_vec();
    let begin = |out: &mut Vec<u8>, kind: u8, request: &str| {
        out.extend_from_slice(b"\"type\":");
        push_number(out, u64::from(kind));
        out.push(b',');
        push_member(out, "requestId", request);
    };
    match message {
        Message::Found { request, sockets } => {
            push_member(&mut out, "requestId", request);
            out.extend_from_slice(b",\"sockets\":");
            out.extend_from_slice(sockets.as_bytes());
        }
        Message::Rooms { request, rooms } => {
            push_member(&mut out, "requestId", request);
            out.extend_from_slice(b",\"rooms\":");
            rooms.push(&mut out);
        }
        Message::ServerSideAnswer { request, value } => {
            begin(&mut out, kind::SERVER_SIDE_EMIT, request);
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(value.json.as_bytes());
            out.push(b'}');
            return if value.attachments.is_empty() {
                Ok(Some(out))
            } else {
                packed(&out, &value.attachments).map(Some)
            };
        }
        Message::ClientCount { request, count } => {
            begin(&mut out, kind::BROADCAST_CLIENT_COUNT, request);
            out.extend_from_slice(b",\"clientCount\":");
            push_number(&mut out, *count);
        }
        Message::Acked { request, value } => {
            begin(&mut out, kind::BROADCAST_ACK, request);
            out.extend_from_slice(b",\"packet\":");
            out.extend_from_slice(value.json.as_bytes());
            out.push(b'}');
            return packed(&out, &value.attachments).map(Some);
        }
        Message::Broadcast(_)
        | Message::Join { .. }
        | Message::Leave { .. }
        | Message::Disconnect { .. }
        | Message::Fetch { .. }
        | Message::Ids { .. }
        | Message::AllRooms { .. }
        | Message::ServerSide { .. }
        | Message::Nothing => return Ok(None),
    }
    out.push(b'}');
    Ok(Some(out))
}
