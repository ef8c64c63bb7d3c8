//! Engine.IO v4: packets, polling payloads, the handshake and the errors of its HTTP side.
//!
//! Source: the Engine.IO protocol, revision 4; where it is silent, engine.io-parser 5.2.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::Bytes;

/// Stands between the packets of a polling payload (ASCII "record separator").
pub const SEPARATOR: u8 = 0x1e;

/// Clients differ in whether they pad.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One packet. What the protocol gives no data to (close, upgrade, noop) loses data that came with it, as in the
/// reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0`: the handshake, JSON of an [`OpenPacket`].
    Open(&'a str),
    /// `1`
    Close,
    /// `2`: sent by the server; a client sends it as `2probe` only.
    Ping(&'a str),
    /// `3`
    Pong(&'a str),
    /// `4`
    Message(&'a str),
    /// A binary WebSocket frame, or `b` and base64 in text.
    Binary(Bytes),
    /// `5`
    Upgrade,
    /// `6`
    Noop,
}

/// Why text is no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing where a packet should be.
    #[error("empty packet")]
    Empty,
    /// The first character names no packet type.
    #[error("unknown packet type")]
    UnknownType,
    /// What follows `b` is not base64.
    #[error("invalid base64")]
    Base64,
    /// More packets in one payload than allowed.
    #[error("too many packets in one payload")]
    TooManyPackets,
}

/// Decodes a packet from a text frame, or one packet of a payload.
///
/// # Errors
/// [`Error`], but for `TooManyPackets`.
pub fn decode_text(text: &str) -> Result<Packet<'_>, Error> {
    let kind = text.as_bytes().first().ok_or(Error::Empty)?;
    // Every type is one ASCII byte, hence what follows starts at a character.
    let data = text.get(1..).unwrap_or_default();
    match kind {
        b'0' => Ok(Packet::Open(data)),
        b'1' => Ok(Packet::Close),
        b'2' => Ok(Packet::Ping(data)),
        b'3' => Ok(Packet::Pong(data)),
        b'4' => Ok(Packet::Message(data)),
        b'5' => Ok(Packet::Upgrade),
        b'6' => Ok(Packet::Noop),
        b'b' => LENIENT.decode(data).map(|bytes| Packet::Binary(bytes.into())).map_err(|_| Error::Base64),
        _ => Err(Error::UnknownType),
    }
}

/// Decodes the packets of a polling payload, one by one; ends after the first error. `max_packets` bounds what one
/// request can cost.
pub fn decode_payload(payload: &str, max_packets: usize) -> Payload<'_> {
    Payload { rest: Some(payload), left: max_packets }
}

/// The packets of a payload; see [`decode_payload`].
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    rest: Option<&'a str>,
    left: usize,
}

impl<'a> Iterator for Payload<'a> {
    type Item = Result<Packet<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let payload = self.rest.take()?;
        if self.left == 0 {
            return Some(Err(Error::TooManyPackets));
        }
        self.left -= 1;
        let (packet, rest) = match memchr::memchr(SEPARATOR, payload.as_bytes()) {
            Some(end) => (payload.get(..end).unwrap_or_default(), payload.get(end + 1..)),
            None => (payload, None),
        };
        let packet = decode_text(packet);
        if packet.is_ok() {
            self.rest = rest;
        }
        Some(packet)
    }
}

impl std::iter::FusedIterator for Payload<'_> {}

/// Appends a packet in its text form (binary as `b` and base64).
pub fn encode_text(out: &mut Vec<u8>, packet: &Packet<'_>) {
    let (kind, data) = match packet {
        Packet::Open(data) => (b'0', *data),
        Packet::Close => (b'1', ""),
        Packet::Ping(data) => (b'2', *data),
        Packet::Pong(data) => (b'3', *data),
        Packet::Message(data) => (b'4', *data),
        Packet::Upgrade => (b'5', ""),
        Packet::Noop => (b'6', ""),
        Packet::Binary(bytes) => return encode_binary(out, bytes),
    };
    out.push(kind);
    out.extend_from_slice(data.as_bytes());
}

fn encode_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'b');
    let start = out.len();
    let Some(encoded) = base64::encoded_len(bytes.len(), true) else { return };
    out.resize(start + encoded, 0);
    if let Some(room) = out.get_mut(start..) {
        // The room is exactly what base64 needs, so this cannot fail.
        let written = STANDARD.encode_slice(bytes, room).unwrap_or(0);
        out.truncate(start + written);
    }
}

/// Writes the packets of one polling payload behind what is already in the buffer.
#[derive(Debug)]
pub struct PayloadWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> PayloadWriter<'a> {
    /// A payload that starts at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self { out, start }
    }

    /// The payload's size so far, bytes.
    pub fn len(&self) -> usize {
        self.out.len().saturating_sub(self.start)
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a packet.
    pub fn packet(&mut self, packet: &Packet<'_>) {
        self.separate();
        encode_text(self.out, packet);
    }

    /// Appends a message packet.
    pub fn message(&mut self, text: &str) {
        self.packet(&Packet::Message(text));
    }

    /// Appends a binary message, as base64.
    pub fn binary(&mut self, bytes: &[u8]) {
        self.separate();
        encode_binary(self.out, bytes);
    }

    /// Appends what is already encoded: one packet, or several with separators between them.
    pub fn encoded(&mut self, packets: &[u8]) {
        self.separate();
        self.out.extend_from_slice(packets);
    }

    fn separate(&mut self) {
        if !self.is_empty() {
            self.out.push(SEPARATOR);
        }
    }
}

/// The handshake, sent as packet `0`.
#[derive(Clone, Copy, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenPacket<'a> {
    /// The session's id.
    pub sid: &'a str,
    /// Transports to upgrade to: `["websocket"]` on polling, none on WebSocket.
    pub upgrades: &'a [&'a str],
    /// Time between two pings of the server.
    #[serde(rename = "pingInterval")]
    pub ping_interval_ms: u64,
    /// Time that a pong may take.
    #[serde(rename = "pingTimeout")]
    pub ping_timeout_ms: u64,
    /// The most bytes of one payload that the client may send.
    pub max_payload: u64,
}

impl OpenPacket<'_> {
    /// The packet's data: keys in the reference server's order. The `0` is not part of it.
    pub fn to_json(&self) -> String {
        // Strings and numbers always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The errors of the HTTP side, as clients know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HttpError {
    /// No such transport.
    #[error("Transport unknown")]
    TransportUnknown,
    /// No such session, or no longer.
    #[error("Session ID unknown")]
    SessionIdUnknown,
    /// A handshake by another method than GET.
    #[error("Bad handshake method")]
    BadHandshakeMethod,
    /// Anything else that breaks the protocol.
    #[error("Bad request")]
    BadRequest,
    /// Not allowed by the server's own rules.
    #[error("Forbidden")]
    Forbidden,
    /// `EIO` is not 4.
    #[error("Unsupported protocol version")]
    UnsupportedProtocolVersion,
}

impl HttpError {
    /// Every error, by code.
    pub const ALL: [Self; 6] = [
        Self::TransportUnknown,
        Self::SessionIdUnknown,
        Self::BadHandshakeMethod,
        Self::BadRequest,
        Self::Forbidden,
        Self::UnsupportedProtocolVersion,
    ];

    /// The number in the error's body.
    pub fn code(self) -> u8 {
        match self {
            Self::TransportUnknown => 0,
            Self::SessionIdUnknown => 1,
            Self::BadHandshakeMethod => 2,
            Self::BadRequest => 3,
            Self::Forbidden => 4,
            Self::UnsupportedProtocolVersion => 5,
        }
    }

    /// The words in the error's body.
    pub fn message(self) -> &'static str {
        match self {
            Self::TransportUnknown => "Transport unknown",
            Self::SessionIdUnknown => "Session ID unknown",
            Self::BadHandshakeMethod => "Bad handshake method",
            Self::BadRequest => "Bad request",
            Self::Forbidden => "Forbidden",
            Self::UnsupportedProtocolVersion => "Unsupported protocol version",
        }
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            Self::TransportUnknown
            | Self::SessionIdUnknown
            | Self::BadHandshakeMethod
            | Self::BadRequest
            | Self::UnsupportedProtocolVersion => 400,
        }
    }

    /// The body: `{"code":…,"message":"…"}`.
    pub fn to_json(self) -> String {
        format!(r#"{{"code":{},"message":"{}"}}"#, self.code(), self.message())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_handshake_has_its_keys_in_the_order_of_the_reference() {
        let open = OpenPacket {
            sid: "abc",
            upgrades: &["websocket"],
            ping_interval_ms: 25_000,
            ping_timeout_ms: 20_000,
            max_payload: 1_000_000,
        };
        let json =
            r#"{"sid":"abc","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
        assert_eq!(open.to_json(), json);
    }

    #[test]
    fn a_payload_ends_at_its_first_error() {
        let packets: Vec<_> = decode_payload("4a\u{1e}x\u{1e}4b", 10).collect();
        assert_eq!(packets, [Ok(Packet::Message("a")), Err(Error::UnknownType)]);
    }

    #[test]
    fn a_payload_of_more_packets_than_allowed_is_refused() {
        let packets: Vec<_> = decode_payload("4a\u{1e}4b\u{1e}4c", 2).collect();
        assert_eq!(packets, [Ok(Packet::Message("a")), Ok(Packet::Message("b")), Err(Error::TooManyPackets)]);
        assert_eq!(decode_payload("4a\u{1e}4b", 2).filter(Result::is_ok).count(), 2);
    }

    #[test]
    fn a_written_payload_is_read_back() {
        let packets = [
            Packet::Open("{}"),
            Packet::Ping(""),
            Packet::Pong("probe"),
            Packet::Message("2[\"é\"]"),
            Packet::Binary(Bytes::from_static(&[1, 2, 3, 4])),
            Packet::Binary(Bytes::new()),
            Packet::Upgrade,
            Packet::Noop,
            Packet::Close,
        ];
        let mut out = b"before".to_vec();
        let mut writer = PayloadWriter::new(&mut out);
        assert!(writer.is_empty());
        packets.iter().for_each(|packet| writer.packet(packet));
        let text = String::from_utf8(out).unwrap();
        let text = text.strip_prefix("before").unwrap();
        assert!(text.starts_with("0{}\u{1e}2\u{1e}"));
        let read: Vec<_> = decode_payload(text, 100).map(Result::unwrap).collect();
        assert_eq!(read, packets);
    }

    #[test]
    fn base64_is_read_with_and_without_padding_but_not_with_rubbish() {
        let binary = |bytes: &'static [u8]| Ok(Packet::Binary(Bytes::from_static(bytes)));
        assert_eq!(decode_text("bAQIDBA=="), binary(&[1, 2, 3, 4]));
        assert_eq!(decode_text("bAQIDBA"), binary(&[1, 2, 3, 4]));
        assert_eq!(decode_text("bAQ*D"), Err(Error::Base64));
    }

    #[test]
    fn http_errors_are_numbered_from_zero_and_only_forbidden_is_403() {
        for (code, error) in (0u8..).zip(HttpError::ALL) {
            assert_eq!(error.code(), code);
            assert_eq!(error.status(), if code == 4 { 403 } else { 400 });
            assert_eq!(error.to_string(), error.message());
        }
        assert_eq!(HttpError::BadRequest.to_json(), r#"{"code":3,"message":"Bad request"}"#);
    }

    proptest! {
        #[test]
        fn any_payload_gives_packets_or_one_error_at_its_end(
            text in prop_oneof![any::<String>(), "([0-7b]?[a-zA-Z0-9+/=]{0,4}\u{1e}?){0,8}"],
            max in 0usize..6,
        ) {
            let packets: Vec<_> = decode_payload(&text, max).collect();
            let good = packets.iter().take_while(|packet| packet.is_ok()).count();
            prop_assert!(good <= max && packets.len() <= good + 1);
            // What was read can be written and read again.
            let mut out = Vec::new();
            let mut writer = PayloadWriter::new(&mut out);
            packets.iter().flatten().for_each(|packet| writer.packet(packet));
            let again = String::from_utf8(out).unwrap();
            let again: Vec<_> = decode_payload(&again, max).take(good).flatten().collect();
            let packets: Vec<_> = packets.into_iter().flatten().collect();
            prop_assert_eq!(again, packets);
        }
    }
}
