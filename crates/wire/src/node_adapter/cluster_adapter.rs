//! The messages of socket.io-adapter's `ClusterAdapter`: `{uid, nsp, type, data}`, as the sharded adapter (SPUBLISH) and
//! the streams adapter (XADD, and PUBLISH for what nobody needs to read again) carry them.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Ack, Broadcast, Error, Event, Heard, Message, Names, Options, Packet, Selection, Value, msgpack, push_flags,
    push_member, push_number, push_packet, push_selection, text,
};

/// What socket.io-adapter calls `MessageType`.
mod kind {
    pub const INITIAL_HEARTBEAT: u8 = 1;
    pub const HEARTBEAT: u8 = 2;
    pub const BROADCAST: u8 = 3;
    pub const SOCKETS_JOIN: u8 = 4;
    pub const SOCKETS_LEAVE: u8 = 5;
    pub const DISCONNECT_SOCKETS: u8 = 6;
    pub const FETCH_SOCKETS: u8 = 7;
    pub const FETCH_SOCKETS_RESPONSE: u8 = 8;
    pub const SERVER_SIDE_EMIT: u8 = 9;
    pub const SERVER_SIDE_EMIT_RESPONSE: u8 = 10;
    pub const BROADCAST_CLIENT_COUNT: u8 = 11;
    pub const BROADCAST_ACK: u8 = 12;
    pub const ADAPTER_CLOSE: u8 = 13;
}

/// Room names of this length are taken for socket ids, which have no channel of their own.
const SOCKET_ID_LENGTH: usize = 20;

/// The channels of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channels {
    /// What is for every server.
    pub all: String,
}

impl Channels {
    /// The channels of a namespace under a prefix, by default `socket.io`.
    pub fn new(prefix: &str, namespace: &str) -> Self {
        Self { all: format!("{prefix}#{namespace}#") }
    }

    /// What is for one server.
    pub fn of_server(&self, uid: &str) -> String {
        format!("{}{uid}#", self.all)
    }

    /// Broadcasts of the sharded adapter to one room; `None` for rooms that have no channel.
    pub fn of_room(&self, room: &str) -> Option<String> {
        let is_id = room.encode_utf16().count() == SOCKET_ID_LENGTH;
        (!is_id).then(|| format!("{}{room}#", self.all))
    }
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    nsp: Option<String>,
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BroadcastData<'a> {
    #[serde(borrow)]
    packet: Packet<'a>,
    opts: Options,
    #[serde(default)]
    request_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(default)]
    opts: Option<Options>,
    #[serde(default)]
    rooms: Names,
    #[serde(default)]
    close: Option<bool>,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default, borrow)]
    packet: Option<&'a RawValue>,
    #[serde(default, borrow)]
    sockets: Option<&'a RawValue>,
    #[serde(default)]
    client_count: Option<u64>,
}

/// Reads a message of a channel: JSON, or MessagePack.
///
/// # Errors
/// [`Error`].
pub fn message(bytes: &Bytes) -> Result<Heard, Error> {
    let (text, attachments) = text(bytes)?;
    let raw: Raw<'_> = serde_json::from_str(&text).map_err(|_| Error::Shape)?;
    let message = content(raw.kind, raw.data.map_or("{}", RawValue::get), attachments)?;
    Ok(Heard { uid: raw.uid, namespace: raw.nsp, message })
}

/// Reads an entry of the stream, by its fields.
///
/// # Errors
/// [`Error`].
pub fn entry<'a>(fields: impl IntoIterator<Item = (&'a [u8], &'a Bytes)>) -> Result<Heard, Error> {
    let (mut uid, mut namespace, mut kind, mut data) = (None, None, None, None);
    for (name, value) in fields {
        let text = || std::str::from_utf8(value).map(str::to_owned).map_err(|_| Error::Encoding);
        match name {
            b"uid" => uid = Some(text()?),
            b"nsp" => namespace = Some(text()?),
            b"type" => kind = Some(text()?.parse().map_err(|_| Error::Shape)?),
            b"data" => data = Some(value),
            _ => {}
        }
    }
    let (json, attachments) = match data {
        None => ("{}".to_owned(), Vec::new()),
        Some(data) if data.first() == Some(&b'{') => text(data)?,
        Some(data) => text(&base64_decoded(data)?)?,
    };
    Ok(Heard { uid, namespace, message: content(kind.ok_or(Error::Shape)?, &json, attachments)? })
}

fn base64_decoded(data: &Bytes) -> Result<Bytes, Error> {
    use base64::Engine as _;
    if data.len() > super::MAX_MESSAGE * 2 {
        return Err(Error::TooLarge);
    }
    base64::engine::general_purpose::STANDARD.decode(data).map(Bytes::from).map_err(|_| Error::Encoding)
}

fn content(kind: u8, data: &str, attachments: Vec<Bytes>) -> Result<Message, Error> {
    if matches!(kind, kind::INITIAL_HEARTBEAT | kind::HEARTBEAT | kind::ADAPTER_CLOSE) {
        return Ok(Message::Nothing);
    }
    if kind == kind::BROADCAST {
        let data: BroadcastData<'_> = serde_json::from_str(data).map_err(|_| Error::Shape)?;
        let event = data.packet.event(attachments)?;
        let ack = data.request_id.map(|request| Ack { request, timeout_ms: data.opts.timeout_ms() });
        let volatile = data.opts.volatile();
        return Ok(Message::Broadcast(Broadcast { event, to: data.opts.selection(), volatile, ack }));
    }
    let data: Data<'_> = serde_json::from_str(data).map_err(|_| Error::Shape)?;
    let of = |options: Option<Options>| options.map(Options::selection).ok_or(Error::Shape);
    let named = |request: Option<String>| request.ok_or(Error::Shape);
    let json = data.packet.map_or("null", RawValue::get);
    Ok(match kind {
        kind::SOCKETS_JOIN => Message::Join { of: of(data.opts)?, rooms: data.rooms },
        kind::SOCKETS_LEAVE => Message::Leave { of: of(data.opts)?, rooms: data.rooms },
        kind::DISCONNECT_SOCKETS => Message::Disconnect { of: of(data.opts)?, close: data.close.unwrap_or(false) },
        kind::FETCH_SOCKETS => Message::Fetch { request: named(data.request_id)?, of: of(data.opts)? },
        kind::FETCH_SOCKETS_RESPONSE => Message::Found {
            request: named(data.request_id)?,
            sockets: data.sockets.ok_or(Error::Shape)?.get().to_owned(),
        },
        kind::SERVER_SIDE_EMIT => {
            Message::ServerSide { request: data.request_id, event: Event::checked(json, attachments)? }
        }
        kind::SERVER_SIDE_EMIT_RESPONSE => Message::ServerSideAnswer {
            request: named(data.request_id)?,
            value: Value { json: json.to_owned(), attachments },
        },
        kind::BROADCAST_CLIENT_COUNT => {
            Message::ClientCount { request: named(data.request_id)?, count: data.client_count.ok_or(Error::Shape)? }
        }
        kind::BROADCAST_ACK => {
            Message::Acked { request: named(data.request_id)?, value: Value { json: json.to_owned(), attachments } }
        }
        _ => return Err(Error::Shape),
    })
}

/// How a message is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON, or MessagePack if something in it is binary: the sharded adapter.
    TextIfPossible,
    /// MessagePack in any case: the streams adapter's pub/sub.
    Packed,
}

/// Writes a message for a channel. `None` for what these adapters do not know.
///
/// # Errors
/// What is in it is not JSON that every reader takes.
pub fn write(uid: &str, namespace: &str, message: &Message, form: Form) -> Result<Option<Vec<u8>>, Error> {
    let Some((kind, data, attachments)) = data(message) else { return Ok(None) };
    let mut out = b"{".to_vec();
    out.extend_from_slice(b"\"type\":");
    push_number(&mut out, u64::from(kind));
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(&data);
    out.push(b',');
    push_member(&mut out, "uid", uid);
    out.push(b',');
    push_member(&mut out, "nsp", namespace);
    out.push(b'}');
    if form == Form::TextIfPossible && attachments.is_empty() {
        return Ok(Some(out));
    }
    packed(&out, attachments).map(Some)
}

/// Writes the fields of an entry of the stream. `None` for what these adapters do not know.
///
/// # Errors
/// As [`write`].
pub fn write_entry(uid: &str, namespace: &str, message: &Message) -> Result<Option<[(&'static str, Bytes); 4]>, Error> {
    use base64::Engine as _;
    let Some((kind, data, attachments)) = data(message) else { return Ok(None) };
    let data = if attachments.is_empty() {
        data
    } else {
        base64::engine::general_purpose::STANDARD.encode(packed(&data, attachments)?).into_bytes()
    };
    Ok(Some([
        ("uid", uid.to_owned().into()),
        ("nsp", namespace.to_owned().into()),
        ("type", kind.to_string().into()),
        ("data", data.into()),
    ]))
}

fn packed(json: &[u8], attachments: &[Bytes]) -> Result<Vec<u8>, Error> {
    let json = std::str::from_utf8(json).map_err(|_| Error::Encoding)?;
    let mut out = Vec::with_capacity(json.len() + attachments.iter().map(Bytes::len).sum::<usize>());
    msgpack::from_json(json, attachments, &mut out)?;
    Ok(out)
}

/// The type and the `data` of a message.
fn data(message: &Message) -> Option<(u8, Vec<u8>, &[Bytes])> {
    let mut out = b"{".to_vec();
    let options = |out: &mut Vec<u8>, of: &Selection, flags: &dyn Fn(&mut Vec<u8>)| {
        out.extend_from_slice(b"\"opts\":{");
        push_selection(out, of);
        out.push(b',');
        flags(out);
        out.push(b'}');
    };
    let no_flags: &dyn Fn(&mut Vec<u8>) = &|out| out.extend_from_slice(b"\"flags\":{}");
    let rooms_of = |out: &mut Vec<u8>, rooms: &Names| {
        out.extend_from_slice(b",\"rooms\":");
        rooms.push(out);
    };
    let value = |out: &mut Vec<u8>, value: &Value| {
        out.extend_from_slice(b",\"packet\":");
        out.extend_from_slice(value.json.as_bytes());
    };
    let mut attachments: &[Bytes] = &[];
    let kind = match message {
        Message::Broadcast(broadcast) => {
            out.extend_from_slice(b"\"packet\":");
            push_packet(&mut out, &broadcast.event, None);
            out.push(b',');
            options(&mut out, &broadcast.to, &|out| push_flags(out, broadcast));
            if let Some(ack) = &broadcast.ack {
                out.push(b',');
                push_member(&mut out, "requestId", &ack.request);
            }
            attachments = &broadcast.event.attachments;
            kind::BROADCAST
        }
        Message::Join { of, rooms } => {
            options(&mut out, of, no_flags);
            rooms_of(&mut out, rooms);
            kind::SOCKETS_JOIN
        }
        Message::Leave { of, rooms } => {
            options(&mut out, of, no_flags);
            rooms_of(&mut out, rooms);
            kind::SOCKETS_LEAVE
        }
        Message::Disconnect { of, close } => {
            options(&mut out, of, no_flags);
            out.extend_from_slice(if *close { b",\"close\":true" } else { b",\"close\":false" });
            kind::DISCONNECT_SOCKETS
        }
        Message::Fetch { request, of } => {
            options(&mut out, of, no_flags);
            out.push(b',');
            push_member(&mut out, "requestId", request);
            kind::FETCH_SOCKETS
        }
        Message::ServerSide { request, event } => {
            out.extend_from_slice(b"\"packet\":");
            out.extend_from_slice(event.payload.as_bytes());
            if let Some(request) = request {
                out.push(b',');
                push_member(&mut out, "requestId", request);
            }
            attachments = &event.attachments;
            kind::SERVER_SIDE_EMIT
        }
        Message::Found { request, sockets } => {
            push_member(&mut out, "requestId", request);
            out.extend_from_slice(b",\"sockets\":");
            out.extend_from_slice(sockets.as_bytes());
            kind::FETCH_SOCKETS_RESPONSE
        }
        Message::ServerSideAnswer { request, value: answer } => {
            push_member(&mut out, "requestId", request);
            value(&mut out, answer);
            attachments = &answer.attachments;
            kind::SERVER_SIDE_EMIT_RESPONSE
        }
        Message::ClientCount { request, count } => {
            push_member(&mut out, "requestId", request);
            out.extend_from_slice(b",\"clientCount\":");
            push_number(&mut out, *count);
            kind::BROADCAST_CLIENT_COUNT
        }
        Message::Acked { request, value: answer } => {
            push_member(&mut out, "requestId", request);
            value(&mut out, answer);
            attachments = &answer.attachments;
            kind::BROADCAST_ACK
        }
        Message::Ids { .. } | Message::AllRooms { .. } | Message::Rooms { .. } | Message::Nothing => return None,
    };
    out.push(b'}');
    Some((kind, out, attachments))
}
