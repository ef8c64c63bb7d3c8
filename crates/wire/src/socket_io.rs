//! Socket.IO v5: packets inside Engine.IO messages.
//!
//! Source: the Socket.IO protocol, revision 5; where it is silent, socket.io-parser 4.2.7. Payloads stay the JSON text
//! that they are: [`decode`] checks it, the encoders put it behind a header.

mod args;
mod encode;
mod placeholder;

pub use args::{Args, args, event_parts, values};
pub use encode::{ack, binary_ack, binary_event, connect, connect_error, disconnect, event};
pub use placeholder::{
    check_placeholders, defuse_placeholders, inline_attachments, may_have_placeholders, renumber_placeholders,
};

use crate::json::{Invalid, Scanner};

/// The most attachments a packet may announce, as in the reference parser.
pub const MAX_ATTACHMENTS: u32 = 10;

/// Names that mean something else on one of the sides, and must not be sent as events.
const RESERVED: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Whether a name means something else on one of the sides. Such an event is not to be sent: clients take it for a broken
/// packet.
pub fn is_reserved(event: &str) -> bool {
    RESERVED.contains(&event)
}

/// The type of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `0`: into a namespace.
    Connect,
    /// `1`: out of a namespace.
    Disconnect,
    /// `2`
    Event,
    /// `3`
    Ack,
    /// `4`: a CONNECT is refused.
    ConnectError,
    /// `5`: an event whose attachments follow as binary messages.
    BinaryEvent,
    /// `6`: an ack whose attachments follow as binary messages.
    BinaryAck,
}

/// A packet, without the attachments that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The packet's type.
    pub kind: Kind,
    /// `/` if the packet names none.
    pub namespace: &'a str,
    /// The number to acknowledge with, or of what is acknowledged.
    pub ack_id: Option<u64>,
    /// How many binary messages follow; at least 1 for the binary kinds, 0 for the others.
    pub attachments: u32,
    /// Checked JSON; empty if there is none.
    pub payload: &'a str,
}

/// Why text is no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first character names no packet type.
    #[error("unknown packet type")]
    UnknownKind,
    /// The number of attachments is missing or none, or a placeholder names none of them.
    #[error("illegal attachments")]
    IllegalAttachments,
    /// More attachments than allowed.
    #[error("too many attachments")]
    TooManyAttachments,
    /// The number to acknowledge with does not fit 64 bits.
    #[error("invalid ack id")]
    InvalidAckId,
    /// Not JSON, nested too deeply, or not what a packet of this type carries.
    #[error("invalid payload")]
    InvalidPayload,
}

impl From<Invalid> for Error {
    fn from(_: Invalid) -> Self {
        Self::InvalidPayload
    }
}

/// Decodes the text of a message with at most [`MAX_ATTACHMENTS`].
///
/// # Errors
/// As [`decode_with`].
pub fn decode(text: &str) -> Result<Header<'_>, Error> {
    decode_with(text, MAX_ATTACHMENTS)
}

/// Decodes the text of a message.
///
/// Stricter than the reference parser where that one takes what no encoder writes: numbers in other forms than digits,
/// white space before the payload, events and acks without a payload, nesting beyond 127 levels.
///
/// # Errors
/// [`Error`]; the session is to be closed.
pub fn decode_with(text: &str, max_attachments: u32) -> Result<Header<'_>, Error> {
    let kind = match text.as_bytes().first() {
        Some(b'0') => Kind::Connect,
        Some(b'1') => Kind::Disconnect,
        Some(b'2') => Kind::Event,
        Some(b'3') => Kind::Ack,
        Some(b'4') => Kind::ConnectError,
        Some(b'5') => Kind::BinaryEvent,
        Some(b'6') => Kind::BinaryAck,
        _ => return Err(Error::UnknownKind),
    };
    let rest = text.get(1..).unwrap_or_default();
    let (attachments, rest) = match kind {
        Kind::BinaryEvent | Kind::BinaryAck => attachments(rest, max_attachments)?,
        Kind::Connect | Kind::Disconnect | Kind::Event | Kind::Ack | Kind::ConnectError => (0, rest),
    };
    let (namespace, rest) = namespace(rest);
    let (ack_id, payload) = ack_id(rest)?;
    check_payload(kind, payload)?;
    Ok(Header { kind, namespace, ack_id, attachments, payload })
}

fn attachments(text: &str, max: u32) -> Result<(u32, &str), Error> {
    let (digits, rest) = split_digits(text);
    let rest = rest.strip_prefix('-').ok_or(Error::IllegalAttachments)?;
    if digits.is_empty() || digits.bytes().all(|digit| digit == b'0') {
        return Err(Error::IllegalAttachments);
    }
    match digits.parse() {
        Ok(count) if count <= max => Ok((count, rest)),
        _ => Err(Error::TooManyAttachments),
    }
}

fn namespace(text: &str) -> (&str, &str) {
    if !text.starts_with('/') {
        return ("/", text);
    }
    match memchr::memchr(b',', text.as_bytes()) {
        Some(comma) => (text.get(..comma).unwrap_or("/"), text.get(comma + 1..).unwrap_or_default()),
        None => (text, ""),
    }
}

fn ack_id(text: &str) -> Result<(Option<u64>, &str), Error> {
    let (digits, rest) = split_digits(text);
    if digits.is_empty() {
        return Ok((None, rest));
    }
    digits.parse().map(|id| (Some(id), rest)).map_err(|_| Error::InvalidAckId)
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or(("", text))
}

fn check_payload(kind: Kind, payload: &str) -> Result<(), Error> {
    let first = payload.as_bytes().first();
    let fits = match (kind, first) {
        (Kind::Connect | Kind::Disconnect, None) => return Ok(()),
        (Kind::Event | Kind::BinaryEvent, Some(b'[')) => return check_event(payload),
        (Kind::Connect, Some(b'{'))
        | (Kind::ConnectError, Some(b'{' | b'"'))
        | (Kind::Ack | Kind::BinaryAck, Some(b'[')) => true,
        (
            Kind::Connect
            | Kind::Disconnect
            | Kind::Event
            | Kind::Ack
            | Kind::ConnectError
            | Kind::BinaryEvent
            | Kind::BinaryAck,
            _,
        ) => false,
    };
    if !fits {
        return Err(Error::InvalidPayload);
    }
    let mut scanner = Scanner::new(payload);
    scanner.value(0)?;
    end(scanner)
}

pub(crate) fn check_event(payload: &str) -> Result<(), Error> {
    let mut scanner = Scanner::new(payload);
    scanner.eat(b'[');
    scanner.space();
    match scanner.peek() {
        Some(b'"') => {
            let name = scanner.string()?;
            if RESERVED.iter().any(|reserved| name.is(reserved)) {
                return Err(Error::InvalidPayload);
            }
        }
        Some(b'-' | b'0'..=b'9') => scanner.scalar()?,
        _ => return Err(Error::InvalidPayload),
    }
    loop {
        scanner.space();
        match scanner.next() {
            Some(b',') => scanner.value(1)?,
            Some(b']') => return end(scanner),
            _ => return Err(Error::InvalidPayload),
        }
    }
}

fn end(mut scanner: Scanner<'_>) -> Result<(), Error> {
    scanner.space();
    if scanner.rest().is_empty() { Ok(()) } else { Err(Error::InvalidPayload) }
}

#[cfg(test)]
mod tests;
