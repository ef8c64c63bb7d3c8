use super::encode::apply_mask;
use super::utf8::Utf8;
use super::{MAX_CONTROL_BYTES, Opcode};

/// Which side decodes: a server's peer must mask its frames, a client's must not (section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Expects masked frames.
    Server,
    /// Expects unmasked frames.
    Client,
}

/// A complete message or control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Valid UTF-8.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
    /// To be answered by a pong with the same payload.
    Ping(&'a [u8]),
    /// An answer to a ping, or unasked.
    Pong(&'a [u8]),
    /// The last message; the code and reason if there are any.
    Close(Option<(u16, &'a str)>),
    /// A message that is to be inflated first, and checked then (RFC 7692). Only after [`Decoder::allow_deflate`].
    Compressed {
        /// Text or Binary.
        opcode: Opcode,
        /// As sent.
        payload: &'a [u8],
    },
}

/// What one call of [`Decoder::decode`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// Bytes of the input that are done with; 0 if the frame at its start is incomplete.
    pub consumed: usize,
    /// The message, if one ended with this frame. A fragment gives none.
    pub message: Option<Message<'a>>,
}

/// Why the connection must be closed. Nothing may be decoded after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WsError {
    /// Reserved bits without an extension.
    #[error("reserved bits are set")]
    ReservedBits,
    /// An opcode that means nothing.
    #[error("reserved opcode")]
    ReservedOpcode,
    /// A control frame without its final bit.
    #[error("fragmented control frame")]
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    #[error("control frame is too long")]
    LongControl,
    /// A length that has a shorter form, or its highest bit set.
    #[error("frame length is not in its shortest form")]
    Length,
    /// A client's frame without a mask, or a server's with one.
    #[error("wrong masking")]
    Masking,
    /// A continuation of nothing.
    #[error("continuation without a message")]
    UnexpectedContinuation,
    /// A new message inside a fragmented one.
    #[error("a message inside a fragmented message")]
    ExpectedContinuation,
    /// A close frame of one byte, or with a code that must not be sent.
    #[error("invalid close frame")]
    InvalidClose,
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    InvalidUtf8,
    /// A compressed message that cannot be inflated.
    #[error("bad compressed data")]
    InvalidDeflate,
    /// A message larger than allowed, as sent or inflated.
    #[error("message is too large")]
    TooLarge,
}

impl WsError {
    /// The code to close with (section 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::ReservedBits
            | Self::ReservedOpcode
            | Self::FragmentedControl
            | Self::LongControl
            | Self::Length
            | Self::Masking
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::InvalidClose => 1002,
            // RFC 7692 names no code for data that does not inflate; this is what other servers close with.
            Self::InvalidUtf8 | Self::InvalidDeflate => 1007,
            Self::TooLarge => 1009,
        }
    }
}

/// Decodes the frames of one direction of a connection.
///
/// Incomplete frames stay with the caller: it keeps the bytes that were not consumed, as the call has left them, and
/// comes back with more behind them. Only the fragments of an unfinished message are kept here.
#[derive(Debug)]
pub struct Decoder {
    max_message: u32,
    /// Bytes of the incomplete frame, header included; 0 if not known.
    needed: u32,
    /// Bytes of the incomplete frame's payload that are unmasked and checked already.
    clear: u32,
    fragments: Option<Box<Fragments>>,
    /// The text under way, as far as it is not checked in one go.
    utf8: Utf8,
    role: Role,
    deflate: bool,
    /// The fragments are a message that has been handed out, and can be freed.
    delivered: bool,
}

#[derive(Debug)]
struct Fragments {
    data: Vec<u8>,
    text: bool,
    compressed: bool,
}

struct Header {
    opcode: Opcode,
    fin: bool,
    compressed: bool,
    mask: Option<[u8; 4]>,
    /// Bytes of the header.
    size: usize,
    payload: usize,
}

impl Decoder {
    /// A decoder that refuses messages of more than `max_message` bytes (4 GiB at most), by the length that their frames
    /// declare.
    pub fn new(role: Role, max_message: usize) -> Self {
        const MOST: u32 = u32::MAX - super::MAX_HEADER_BYTES as u32;
        Self {
            max_message: u32::try_from(max_message).unwrap_or(MOST).min(MOST),
            needed: 0,
            clear: 0,
            fragments: None,
            utf8: Utf8::default(),
            role,
            deflate: false,
            delivered: false,
        }
    }

    /// permessage-deflate was negotiated (RFC 7692): a message's first frame may have RSV1, and comes out as
    /// [`Message::Compressed`].
    pub fn allow_deflate(&mut self) {
        self.deflate = true;
    }

    /// After an incomplete frame: how many bytes it has, header and payload, once that is known. At most the size of
    /// a message plus [`super::MAX_HEADER_BYTES`].
    pub fn needed(&self) -> Option<usize> {
        (self.needed > 0).then_some(self.needed as usize)
    }

    /// Frees a message that was put together from fragments and has been handed out. The next call of
    /// [`Self::decode`] does so too; this is for a connection that becomes idle.
    pub fn release(&mut self) {
        if self.delivered {
            self.fragments = None;
            self.delivered = false;
        }
    }

    /// Decodes the frame at the start of `buf`, unmasking it in place as far as it is there. The message borrows from
    /// `buf`, or from here if it came in fragments.
    ///
    /// # Errors
    /// [`WsError`]: the connection is to be closed with [`WsError::close_code`].
    pub fn decode<'a>(&'a mut self, buf: &'a mut [u8]) -> Result<Decoded<'a>, WsError> {
        const NOTHING: Decoded<'static> = Decoded { consumed: 0, message: None };
        self.release();
        self.needed = 0;
        let Some(header) = self.header(buf)? else { return Ok(NOTHING) };
        let consumed = header.size + header.payload;
        let whole = buf.len() >= consumed;
        let end = consumed.min(buf.len());
        let payload = buf.get_mut(header.size..end).unwrap_or_default();
        self.clear(&header, payload, whole)?;
        if !whole {
            // Neither is cut: a message and its header fit 32 bits.
            self.needed = u32::try_from(consumed).unwrap_or(u32::MAX);
            self.clear = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            return Ok(NOTHING);
        }
        self.clear = 0;
        Ok(Decoded { consumed, message: self.finish(&header, payload)? })
    }

    /// Unmasks what is new of a payload, and checks it as far as [`Self::finish`] will not: a text is refused at its first
    /// bad byte, not when its frame or its message has come as a whole (section 8.1).
    fn clear(&mut self, header: &Header, payload: &mut [u8], whole: bool) -> Result<(), WsError> {
        let known = self.clear as usize;
        let fresh = payload.get_mut(known..).unwrap_or_default();
        if let Some(mut mask) = header.mask {
            mask.rotate_left(known % 4);
            apply_mask(fresh, mask);
        }
        let begins = header.opcode == Opcode::Text && known == 0;
        if begins {
            self.utf8 = Utf8::default();
        }
        let in_one_go = begins && whole && header.fin;
        let text = match header.opcode {
            Opcode::Text => !header.compressed && !in_one_go,
            Opcode::Continuation => self.fragments.as_ref().is_some_and(|message| message.text && !message.compressed),
            Opcode::Binary | Opcode::Close | Opcode::Ping | Opcode::Pong => false,
        };
        if text { self.utf8.feed(fresh) } else { Ok(()) }
    }

    /// What a whole frame means.
    fn finish<'a>(&'a mut self, header: &Header, payload: &'a [u8]) -> Result<Option<Message<'a>>, WsError> {
        let Header { opcode, fin, compressed, .. } = *header;
        Ok(match opcode {
            Opcode::Ping => Some(Message::Ping(payload)),
            Opcode::Pong => Some(Message::Pong(payload)),
            Opcode::Close => Some(Message::Close(close(payload)?)),
            Opcode::Text | Opcode::Binary if fin => Some(message(opcode, compressed, payload)?),
            Opcode::Text | Opcode::Binary => {
                let text = opcode == Opcode::Text;
                self.fragments = Some(Box::new(Fragments { data: payload.to_vec(), text, compressed }));
                None
            }
            Opcode::Continuation => {
                let fragments = self.fragments.as_mut().ok_or(WsError::UnexpectedContinuation)?;
                fragments.data.extend_from_slice(payload);
                if !fin {
                    return Ok(None);
                }
                self.delivered = true;
                let opcode = if fragments.text { Opcode::Text } else { Opcode::Binary };
                Some(message(opcode, fragments.compressed, &fragments.data)?)
            }
        })
    }

    /// Reads and checks the header as far as it is there, so that a frame that will be refused is never waited for.
    fn header(&self, buf: &[u8]) -> Result<Option<Header>, WsError> {
        let Some(([first, second], rest)) = buf.split_first_chunk() else { return Ok(None) };
        let opcode = Opcode::from_bits(first & 0x0f);
        let begins = matches!(opcode, Some(Opcode::Text | Opcode::Binary));
        // RSV1 is the first frame's alone (RFC 7692 section 6).
        let allowed = if self.deflate && begins { 0x40 } else { 0 };
        if first & 0x70 & !allowed != 0 {
            return Err(WsError::ReservedBits);
        }
        let compressed = first & 0x40 != 0;
        let opcode = opcode.ok_or(WsError::ReservedOpcode)?;
        let fin = first & 0x80 != 0;
        let masked = second & 0x80 != 0;
        if masked != (self.role == Role::Server) {
            return Err(WsError::Masking);
        }
        let short = second & 0x7f;
        if opcode.is_control() {
            if !fin {
                return Err(WsError::FragmentedControl);
            }
            if usize::from(short) > MAX_CONTROL_BYTES {
                return Err(WsError::LongControl);
            }
        } else if opcode == Opcode::Continuation {
            if self.fragments.is_none() {
                return Err(WsError::UnexpectedContinuation);
            }
        } else if self.fragments.is_some() {
            return Err(WsError::ExpectedContinuation);
        }
        let (length, rest, size) = match short {
            126 => {
                let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(*bytes));
                if length < 126 {
                    return Err(WsError::Length);
                }
                (length, rest, 4)
            }
            127 => {
                let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let length = u64::from_be_bytes(*bytes);
                if length <= u64::from(u16::MAX) || length >> 63 != 0 {
                    return Err(WsError::Length);
                }
                (length, rest, 10)
            }
            short => (u64::from(short), rest, 2),
        };
        let room = if opcode.is_control() {
            MAX_CONTROL_BYTES
        } else {
            let kept = self.fragments.as_ref().map_or(0, |fragments| fragments.data.len());
            (self.max_message as usize).saturating_sub(kept)
        };
        let payload = usize::try_from(length).ok().filter(|length| *length <= room).ok_or(WsError::TooLarge)?;
        if !masked {
            return Ok(Some(Header { opcode, fin, compressed, mask: None, size, payload }));
        }
        let Some((mask, _)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some(Header { opcode, fin, compressed, mask: Some(*mask), size: size + 4, payload }))
    }
}

/// A data message. A text that was checked as it came is checked once more: a string without a check would need unsafe
/// code, and few messages come in pieces.
fn message(opcode: Opcode, compressed: bool, payload: &[u8]) -> Result<Message<'_>, WsError> {
    if compressed {
        return Ok(Message::Compressed { opcode, payload });
    }
    if opcode == Opcode::Text {
        return std::str::from_utf8(payload).map(Message::Text).map_err(|_| WsError::InvalidUtf8);
    }
    Ok(Message::Binary(payload))
}

pub(super) fn close(payload: &[u8]) -> Result<Option<(u16, &str)>, WsError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(WsError::InvalidClose) };
    };
    let code = u16::from_be_bytes(*code);
    // Sections 7.4.1 and 7.4.2, and the codes registered since (1012 to 1014). 1004 to 1006 and 1015 are never sent.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(WsError::InvalidClose);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| WsError::InvalidUtf8)?;
    Ok(Some((code, reason)))
}
