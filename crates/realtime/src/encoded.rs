use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tidegate_hub::GAP_EVENT;
use tidegate_types::{Class, Publication};
use tidegate_wire::{socket_io, sse, websocket};

use crate::compression::{self, Compression};
use crate::lines;

/// The most bytes of a frame's header without a mask (RFC 6455 section 5.2).
const MOST_HEADER: usize = 10;

/// Room for a header, and the Engine.IO packet type "message".
const FRAME_START: [u8; MOST_HEADER + 1] = {
    let mut start = [0; MOST_HEADER + 1];
    start[MOST_HEADER] = b'4';
    start
};

/// A publication with its bytes for each transport, each encoded once, by whoever needs it first.
pub(crate) struct Encoded {
    publication: Arc<Publication>,
    kind: Kind,
    /// Whether who is behind goes without it.
    volatile: bool,
    /// Whether its packets carry the offset that recovery needs.
    offset: bool,
    /// The number that clients answer with, where their answers are wanted.
    ack_id: Option<u64>,
    frames: OnceLock<Bytes>,
    /// The same, compressed, if that makes it smaller.
    deflated: OnceLock<Option<Bytes>>,
    payload: OnceLock<Bytes>,
    event: OnceLock<Bytes>,
    /// One frame of JSON lines.
    line: OnceLock<Bytes>,
    /// The same, with the session offset as id.
    event_of_several: OnceLock<Bytes>,
}

/// What is told to a room's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Message,
    /// Who came and went. Event streams get it if they ask for it.
    Presence,
    /// For Socket.IO members only.
    Broadcast,
}

/// What stands as id in an event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventId {
    /// The position, in a stream of one room.
    Position,
    /// The session offset, in a stream of several.
    SessionOffset,
}

impl Encoded {
    pub fn message(publication: Arc<Publication>, offset: bool) -> Self {
        Self {
            kind: Kind::Message,
            // Not whatever has no place: that something is missing is told without one, and must not be missing too.
            volatile: publication.class == Class::Volatile,
            publication,
            offset,
            ack_id: None,
            frames: OnceLock::new(),
            deflated: OnceLock::new(),
            payload: OnceLock::new(),
            event: OnceLock::new(),
            line: OnceLock::new(),
            event_of_several: OnceLock::new(),
        }
    }

    pub fn presence(publication: Arc<Publication>) -> Self {
        Self { kind: Kind::Presence, ..Self::message(publication, false) }
    }

    /// What an application sends to those who are there: of its own class, for Socket.IO members only.
    pub fn broadcast(publication: Arc<Publication>) -> Self {
        let volatile = publication.class == Class::Volatile;
        Self { kind: Kind::Broadcast, volatile, ..Self::message(publication, false) }
    }

    /// As [`Encoded::broadcast`], for clients that are to answer with that number.
    pub fn question(publication: Arc<Publication>, ack_id: u64) -> Self {
        Self { ack_id: Some(ack_id), ..Self::broadcast(publication) }
    }

    pub fn publication(&self) -> &Arc<Publication> {
        &self.publication
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn is_volatile(&self) -> bool {
        self.volatile
    }

    pub fn seq(&self) -> u64 {
        self.publication.seq
    }

    pub fn payload_bytes(&self) -> usize {
        self.publication.payload_bytes()
    }

    fn packet(&self, prefix: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(self.publication.data.len() + 96);
        packet.extend_from_slice(prefix);
        push_packet(&mut packet, &self.publication, self.offset, self.ack_id);
        packet
    }

    /// Complete WebSocket frames: the packet, then its attachments.
    pub fn frames(&self) -> &Bytes {
        self.frames.get_or_init(|| {
            // The packet is built where it stays: behind room for its header, whose size depends on its own.
            let mut out = self.packet(&FRAME_START);
            let mut header = Vec::with_capacity(MOST_HEADER);
            let length = (out.len() - MOST_HEADER) as u64;
            websocket::encode_header(&mut header, websocket::Opcode::Text, true, length);
            let start = MOST_HEADER - header.len();
            if let Some(place) = out.get_mut(start..MOST_HEADER) {
                place.copy_from_slice(&header);
            }
            for attachment in self.publication.attachments.iter() {
                websocket::encode_header(&mut out, websocket::Opcode::Binary, true, attachment.len() as u64);
                out.extend_from_slice(attachment);
            }
            Bytes::from(out).slice(start..)
        })
    }

    /// The frames for a connection that takes compressed ones. They are compressed once for all of them.
    pub fn frames_for(&self, compression: Compression) -> &Bytes {
        let plain = self.frames();
        if !compression.takes_broadcast(plain.len()) {
            return plain;
        }
        let deflated = self.deflated.get_or_init(|| compression.broadcast(&self.packet(b"4"), &self.publication));
        let Some(deflated) = deflated else { return plain };
        compression::count_saved(plain.len(), deflated.len());
        deflated
    }

    /// A WebSocket frame for clients that speak JSON lines.
    pub fn line(&self) -> &Bytes {
        self.line.get_or_init(|| {
            let mut frame = Vec::new();
            if let Some(line) = lines::of_packet(&self.packet(b"4"), &self.publication.attachments) {
                Compression::NONE.push_frame(&mut frame, websocket::Opcode::Text, line.as_bytes());
            }
            frame.into()
        })
    }

    /// Engine.IO packets as they stand in a polling payload, joined by `\x1e`.
    pub fn payload(&self) -> &Bytes {
        self.payload.get_or_init(|| {
            let mut out = self.packet(b"4");
            for attachment in self.publication.attachments.iter() {
                out.extend_from_slice(b"\x1eb");
                out.extend_from_slice(STANDARD.encode(attachment).as_bytes());
            }
            out.into()
        })
    }

    /// One SSE event. Messages have no name, so that `onmessage` gets them; what is volatile has no id.
    pub fn event(&self, id: EventId) -> &Bytes {
        let encode = |id: Option<String>| {
            let publication = &*self.publication;
            let name = match self.kind {
                Kind::Presence => Some(publication.event.as_str()),
                // What is lost to all who listen; one with a place stands for a message of the room.
                _ if publication.position.is_none() && publication.event.as_str() == GAP_EVENT => Some("gap"),
                Kind::Message | Kind::Broadcast => None,
            };
            let mut data = String::with_capacity(publication.data.len());
            push_json_data(&mut data, publication);
            let mut out = Vec::with_capacity(data.len() + 64);
            sse::encode_event(&mut out, id.as_deref(), name, &data);
            out.into()
        };
        let publication = &self.publication;
        match id {
            EventId::Position => {
                self.event.get_or_init(|| encode(publication.position.map(|position| position.to_string())))
            }
            EventId::SessionOffset => self
                .event_of_several
                .get_or_init(|| encode(publication.session_offset().map(|offset| offset.to_string()))),
        }
    }
}

/// Appends the Socket.IO packet of a publication, with the offset that recovery needs or without.
fn push_packet(out: &mut Vec<u8>, publication: &Publication, offset: bool, ack_id: Option<u64>) {
    let offset = publication.session_offset().filter(|_| offset).map(|offset| {
        let mut text = Vec::with_capacity(40);
        offset.push(&mut text);
        String::from_utf8(text).unwrap_or_default()
    });
    let data = std::str::from_utf8(&publication.data).unwrap_or_default();
    let namespace = publication.space.namespace.as_str();
    let name = publication.event.as_str();
    if publication.attachments.is_empty() {
        socket_io::event(out, namespace, ack_id, name, data, offset.as_deref());
    } else {
        let count = publication.attachments.len();
        socket_io::binary_event(out, count, namespace, ack_id, name, data, offset.as_deref());
    }
}

/// What one client gets of a replay: packets one behind the other in pieces of this size or a little more, because a
/// piece per message would cost more than the message.
const REPLAY_PIECE: usize = 64 << 10;

/// The packets of a replay for one client.
pub(crate) struct Replay {
    pieces: Vec<Bytes>,
    piece: Vec<u8>,
    packet: Vec<u8>,
    transport: ReplayTransport,
}

/// How packets follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReplayTransport {
    /// Frame by frame.
    WebSocket(Compression),
    /// Joined by `\x1e`.
    Polling,
    /// Frame by frame, each with a JSON line.
    Lines,
}

impl Replay {
    /// Nothing yet.
    pub fn new(transport: ReplayTransport) -> Self {
        Self { pieces: Vec::new(), piece: Vec::new(), packet: Vec::new(), transport }
    }

    /// Adds a text packet, without Engine.IO's type.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.packet.clear();
        self.packet.push(b'4');
        write(&mut self.packet);
        self.push_packet(&[]);
        if self.piece.len() >= REPLAY_PIECE {
            self.finish_piece();
        }
    }

    fn push_packet(&mut self, attachments: &[Bytes]) {
        match self.transport {
            ReplayTransport::Lines => {
                if let Some(line) = lines::of_packet(&self.packet, attachments) {
                    Compression::NONE.push_frame(&mut self.piece, websocket::Opcode::Text, line.as_bytes());
                }
            }
            ReplayTransport::WebSocket(compression) => {
                compression.push_frame(&mut self.piece, websocket::Opcode::Text, &self.packet);
            }
            ReplayTransport::Polling => {
                if !self.piece.is_empty() {
                    self.piece.push(b'\x1e');
                }
                self.piece.extend_from_slice(&self.packet);
            }
        }
    }

    /// Adds a message, with the offset that recovery needs or without.
    pub fn push_message(&mut self, publication: &Publication, offset: bool) {
        if self.piece.capacity() == 0 {
            self.piece.reserve(publication.payload_bytes() + 128);
        }
        self.packet.clear();
        self.packet.push(b'4');
        push_packet(&mut self.packet, publication, offset, None);
        self.push_packet(&publication.attachments);
        for attachment in publication.attachments.iter() {
            match self.transport {
                ReplayTransport::Lines => {}
                ReplayTransport::WebSocket(compression) => {
                    compression.push_frame(&mut self.piece, websocket::Opcode::Binary, attachment);
                }
                ReplayTransport::Polling => {
                    if !self.piece.is_empty() {
                        self.piece.push(b'\x1e');
                    }
                    self.piece.push(b'b');
                    self.piece.extend_from_slice(STANDARD.encode(attachment).as_bytes());
                }
            }
        }
        if self.piece.len() >= REPLAY_PIECE {
            self.finish_piece();
        }
    }

    fn finish_piece(&mut self) {
        if !self.piece.is_empty() {
            self.pieces.push(std::mem::take(&mut self.piece).into());
            self.piece.reserve(REPLAY_PIECE + REPLAY_PIECE / 8);
        }
    }

    /// The pieces, in order.
    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.piece.is_empty() {
            self.piece.shrink_to_fit();
            self.pieces.push(self.piece.into());
        }
        self.pieces
    }
}

/// Appends the publication's data for readers that know JSON only: binary values stand in it as `{"base64":"…"}`.
pub(crate) fn push_json_data(out: &mut String, publication: &Publication) {
    let data = std::str::from_utf8(&publication.data).unwrap_or_default();
    if publication.attachments.is_empty() {
        out.push_str(data);
    } else {
        out.push_str(&socket_io::inline_attachments(data, &publication.attachments));
    }
}
