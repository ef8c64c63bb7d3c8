use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tidegate_types::Publication;
use tidegate_wire::{socket_io, sse, websocket};

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
    /// Presence goes to Socket.IO members only.
    presence: bool,
    /// Whether its packets carry the offset that recovery needs.
    offset: bool,
    frames: OnceLock<Bytes>,
    payload: OnceLock<Bytes>,
    event: OnceLock<Bytes>,
}

impl Encoded {
    pub fn message(publication: Arc<Publication>, offset: bool) -> Self {
        Self {
            publication,
            presence: false,
            offset,
            frames: OnceLock::new(),
            payload: OnceLock::new(),
            event: OnceLock::new(),
        }
    }

    pub fn presence(publication: Arc<Publication>) -> Self {
        Self { presence: true, ..Self::message(publication, false) }
    }

    pub fn publication(&self) -> &Arc<Publication> {
        &self.publication
    }

    pub fn is_presence(&self) -> bool {
        self.presence
    }

    pub fn is_volatile(&self) -> bool {
        self.publication.position.is_none()
    }

    pub fn seq(&self) -> u64 {
        self.publication.seq
    }

    pub fn payload_bytes(&self) -> usize {
        self.publication.payload_bytes()
    }

    fn packet(&self, prefix: &[u8]) -> Vec<u8> {
        let publication = &*self.publication;
        let offset = publication.session_offset().filter(|_| self.offset).map(|offset| {
            let mut text = Vec::with_capacity(40);
            offset.push(&mut text);
            String::from_utf8(text).unwrap_or_default()
        });
        let data = std::str::from_utf8(&publication.data).unwrap_or_default();
        let mut packet = Vec::with_capacity(data.len() + 96);
        packet.extend_from_slice(prefix);
        let namespace = publication.space.namespace.as_str();
        let name = publication.event.as_str();
        if publication.attachments.is_empty() {
            socket_io::event(&mut packet, namespace, None, name, data, offset.as_deref());
        } else {
            let count = publication.attachments.len();
            socket_io::binary_event(&mut packet, count, namespace, None, name, data, offset.as_deref());
        }
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

    /// One SSE event.
    pub fn event(&self) -> &Bytes {
        self.event.get_or_init(|| {
            let publication = &*self.publication;
            let id = publication.position.map(|position| position.to_string());
            let data = json_data(publication);
            let mut out = Vec::with_capacity(data.len() + 64);
            sse::encode_event(&mut out, id.as_deref(), None, &data);
            out.into()
        })
    }
}

/// The publication's data for readers that know JSON only: binary values stand in it as `{"base64":"…"}`.
pub(crate) fn json_data(publication: &Publication) -> String {
    let data = std::str::from_utf8(&publication.data).unwrap_or_default();
    if publication.attachments.is_empty() {
        return data.to_owned();
    }
    socket_io::inline_attachments(data, &publication.attachments)
}
