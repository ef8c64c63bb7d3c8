//! Compressed WebSocket messages (RFC 7692). A connection that has agreed to them keeps two small numbers; the compressor
//! and the decompressor are the thread's.

use std::cell::Cell;

use bytes::Bytes;
use tidegate_types::Publication;
use tidegate_wire::websocket::{self, Deflate, Deflater, Inflater, Opcode, WsError};

/// The largest scratch space that a thread keeps, bytes.
const KEPT_BYTES: usize = 256 << 10;

#[derive(Default)]
struct Codec {
    deflater: Deflater,
    inflater: Inflater,
    deflated: Vec<u8>,
    inflated: Vec<u8>,
    saved: u64,
}

thread_local! {
    /// Made by the first compressed message of the thread; taken while in use.
    static CODEC: Cell<Option<Box<Codec>>> = const { Cell::new(None) };
}

fn with_codec<T>(work: impl FnOnce(&mut Codec) -> T) -> T {
    let mut codec = CODEC.take().unwrap_or_default();
    let result = work(&mut codec);
    CODEC.set(Some(codec));
    result
}

/// Which messages to a connection are compressed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Compression {
    /// Messages of at least so many bytes; 0 for none.
    from: u32,
    /// Messages of at most two to the power of so many bytes; 0 for all.
    bits: u8,
}

impl Compression {
    /// None at all.
    pub const NONE: Self = Self { from: 0, bits: 0 };

    /// What was agreed in a handshake, for messages of at least so many bytes.
    pub fn new(agreed: Option<Deflate>, threshold: usize) -> Self {
        let Some(agreed) = agreed else { return Self::NONE };
        let from = u32::try_from(threshold).unwrap_or(u32::MAX).max(1);
        Self { from, bits: agreed.message_bits().unwrap_or(0) }
    }

    /// Whether the connection takes compressed messages.
    pub fn is_agreed(self) -> bool {
        self.from > 0
    }

    fn takes(self, bytes: usize) -> bool {
        self.from > 0 && bytes >= self.from as usize && (self.bits == 0 || bytes <= 1 << self.bits)
    }

    /// Whether the frames of a broadcast, so many bytes, are to be compressed for this connection.
    pub fn takes_broadcast(self, bytes: usize) -> bool {
        self.takes(bytes)
    }

    /// Appends a message as one frame, compressed if that is agreed and pays.
    pub fn push_frame(self, out: &mut Vec<u8>, opcode: Opcode, message: &[u8]) {
        if self.takes(message.len()) {
            let start = out.len();
            if push_deflated(out, opcode, message) {
                count_saved(websocket::header_bytes(message.len()) + message.len(), out.len() - start);
                return;
            }
        }
        websocket::encode_header(out, opcode, true, message.len() as u64);
        out.extend_from_slice(message);
    }

    /// A broadcast's frames for everybody who has agreed, whatever their window: none if no frame of it shrinks.
    pub fn broadcast(self, packet: &[u8], publication: &Publication) -> Option<Bytes> {
        let all = Self { bits: 0, ..self };
        let mut out = Vec::new();
        let mut shrunk = false;
        let attachments = publication.attachments.iter().map(|bytes| (Opcode::Binary, &**bytes));
        for (opcode, message) in std::iter::once((Opcode::Text, packet)).chain(attachments) {
            if all.takes(message.len()) && push_deflated(&mut out, opcode, message) {
                shrunk = true;
            } else {
                websocket::encode_header(&mut out, opcode, true, message.len() as u64);
                out.extend_from_slice(message);
            }
        }
        out.shrink_to_fit();
        shrunk.then(|| out.into())
    }
}

fn push_deflated(out: &mut Vec<u8>, opcode: Opcode, message: &[u8]) -> bool {
    with_codec(|codec| {
        codec.deflated.clear();
        let pays = codec.deflater.deflate(message, &mut codec.deflated);
        if pays {
            websocket::encode_compressed_header(out, opcode, codec.deflated.len() as u64);
            out.extend_from_slice(&codec.deflated);
        }
        keep_small(&mut codec.deflated);
        pays
    })
}

/// Bytes that were not sent, for the metric.
pub(crate) fn count_saved(plain: usize, sent: usize) {
    with_codec(|codec| codec.saved += plain.saturating_sub(sent) as u64);
}

/// What the thread has saved since the last call, bytes.
pub(crate) fn take_saved() -> u64 {
    let Some(mut codec) = CODEC.take() else { return 0 };
    let saved = std::mem::take(&mut codec.saved);
    CODEC.set(Some(codec));
    saved
}

/// Inflates a message of at most `most` bytes into the thread's scratch space, to be given back by [`give_back`].
pub(crate) fn inflate(payload: &[u8], most: usize) -> Result<Vec<u8>, WsError> {
    with_codec(|codec| {
        let mut message = std::mem::take(&mut codec.inflated);
        message.clear();
        codec.inflater.inflate(payload, most, &mut message).map(|()| message)
    })
}

pub(crate) fn give_back(mut message: Vec<u8>) {
    keep_small(&mut message);
    with_codec(|codec| codec.inflated = message);
}

fn keep_small(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    }
}
