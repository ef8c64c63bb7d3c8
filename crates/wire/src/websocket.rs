//! WebSocket frames, the handshake's key (RFC 6455), and compressed messages (RFC 7692).

mod decode;
mod deflate;
mod encode;
mod extension;
mod scan;
mod utf8;

pub use decode::{Decoded, Decoder, Message, Role, WsError};
pub use deflate::{Deflater, Inflater};
pub use encode::{close_payload, encode_compressed_header, encode_header, encode_masked, header_bytes};
pub use extension::{BadExtensions, Deflate};
pub use scan::{Boundaries, Rules, Scanned, Scanner, Seen};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// The most bytes a frame's header can have.
pub const MAX_HEADER_BYTES: usize = 14;

/// The most bytes a control frame can carry (section 5.5).
pub const MAX_CONTROL_BYTES: usize = 125;

/// What a frame is (section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// The last frame of its sender.
    Close = 8,
    /// Asks for a pong with the same payload.
    Ping = 9,
    /// Answers a ping, or comes unasked as a heartbeat.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }

    /// Whether it is a control frame: short, never fragmented, allowed between the fragments of a message.
    pub fn is_control(self) -> bool {
        match self {
            Self::Close | Self::Ping | Self::Pong => true,
            Self::Continuation | Self::Text | Self::Binary => false,
        }
    }
}

/// The answer to a `Sec-WebSocket-Key` (section 4.2.2), for `Sec-WebSocket-Accept`.
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// A `Sec-WebSocket-Key` (section 4.1) of these random bytes.
pub fn encode_key(random: [u8; 16]) -> String {
    STANDARD.encode(random)
}

/// Whether a `Sec-WebSocket-Key` is what it must be: base64 of 16 bytes.
pub fn is_valid_key(key: &str) -> bool {
    let mut bytes = [0; 18];
    key.len() == 24 && STANDARD.decode_slice(key, &mut bytes) == Ok(16)
}

#[cfg(test)]
mod scan_tests;
#[cfg(test)]
mod tests;
