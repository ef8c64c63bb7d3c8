use super::encode::apply_mask;
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
    /// A message larger than allowed.
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
            Self::InvalidUtf8 => 1007,
            Self::TooLarge => 1009,
        }
    }
}

/// Decodes the frames of one direction of a connection.
///
/// Incomplete frames stay with the caller: it keeps the bytes that were not consumed and comes back with more behind
/// them. Only the fragments of an unfinished message are kept here.
#[derive(Debug)]
pub struct Decoder {
    max_message: usize,
    /// Bytes of the incomplete frame, header included; 0 if not known.
    needed: usize,
    fragments: Option<Box<Fragments>>,
    role: Role,
    /// The fragments are a message that has been handed out, and can be freed.
    delivered: bool,
}

#[derive(Debug)]
struct Fragments {
    data: Vec<u8>,
    text: bool,
    /// Bytes that are known to be whole characters.
    checked: usize,
}

struct Header {
    opcode: Opcode,
    fin: bool,
    mask: Option<[u8; 4]>,
    /// Bytes of the header.
    size: usize,
    payload: usize,
}

impl Decoder {
    /// A decoder that refuses messages of more than `max_message` bytes, by the length that their frames declare.
    pub fn new(role: Role, max_message: usize) -> Self {
        Self { max_message, needed: 0, fragments: None, role, delivered: false }
    }

    /// After an incomplete frame: how many bytes it has, header and payload, once that is known. At most the size of
    /// a message plus [`super::MAX_HEADER_BYTES`].
    pub fn needed(&self) -> Option<usize> {
        (self.needed > 0).then_some(self.needed)
    }

    /// Frees a message that was put together from fragments and has been handed out. The next call of
    /// [`Self::decode`] does so too; this is for a connection that becomes idle.
    pub fn release(&mut self) {
        if self.delivered {
            self.fragments = None;
            self.delivered = false;
        }
    }

    /// Decodes the frame at the start of `buf`, unmasking it in place. The message borrows from `buf`, or from here if
    /// it came in fragments.
    ///
    /// # Errors
    /// [`WsError`]: the connection is to be closed with [`WsError::close_code`].
    pub fn decode<'a>(&'a mut self, buf: &'a mut [u8]) -> Result<Decoded<'a>, WsError> {
        self.release();
        self.needed = 0;
        let Some(header) = self.header(buf)? else { return Ok(Decoded { consumed: 0, message: None }) };
        let consumed = header.size + header.payload;
        let Some(payload) = buf.get_mut(header.size..consumed) else {
            self.needed = consumed;
            return Ok(Decoded { consumed: 0, message: None });
        };
        if let Some(mask) = header.mask {
            apply_mask(payload, mask);
        }
        let payload = &*payload;
        let message = match header.opcode {
            Opcode::Ping => Some(Message::Ping(payload)),
            Opcode::Pong => Some(Message::Pong(payload)),
            Opcode::Close => Some(Message::Close(close(payload)?)),
            Opcode::Text if header.fin => {
                Some(Message::Text(std::str::from_utf8(payload).map_err(|_| WsError::InvalidUtf8)?))
            }
            Opcode::Binary if header.fin => Some(Message::Binary(payload)),
            Opcode::Text | Opcode::Binary => {
                let mut fragments =
                    Box::new(Fragments { data: Vec::new(), text: header.opcode == Opcode::Text, checked: 0 });
                fragments.append(payload, false)?;
                self.fragments = Some(fragments);
                None
            }
            Opcode::Continuation => {
                let fragments = self.fragments.as_mut().ok_or(WsError::UnexpectedContinuation)?;
                fragments.append(payload, header.fin)?;
                self.delivered = header.fin;
                if header.fin { Some(fragments.message()?) } else { None }
            }
        };
        Ok(Decoded { consumed, message })
    }

    /// Reads and checks the header as far as it is there, so that a frame that will be refused is never waited for.
    fn header(&self, buf: &[u8]) -> Result<Option<Header>, WsError> {
        let Some(([first, second], rest)) = buf.split_first_chunk() else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(WsError::ReservedBits);
        }
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(WsError::ReservedOpcode)?;
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
            self.max_message.saturating_sub(kept)
        };
        let payload = usize::try_from(length).ok().filter(|length| *length <= room).ok_or(WsError::TooLarge)?;
        if !masked {
            return Ok(Some(Header { opcode, fin, mask: None, size, payload }));
        }
        let Some((mask, _)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some(Header { opcode, fin, mask: Some(*mask), size: size + 4, payload }))
    }
}

impl Fragments {
    /// Adds a fragment. Text is checked as it comes, so that a bad message is refused without being collected.
    fn append(&mut self, payload: &[u8], last: bool) -> Result<(), WsError> {
        self.data.extend_from_slice(payload);
        if !self.text {
            return Ok(());
        }
        let fresh = self.data.get(self.checked..).unwrap_or_default();
        match std::str::from_utf8(fresh) {
            Ok(_) => self.checked = self.data.len(),
            // The last character goes on in the next fragment.
            Err(error) if error.error_len().is_none() && !last => self.checked += error.valid_up_to(),
            Err(_) => return Err(WsError::InvalidUtf8),
        }
        Ok(())
    }

    fn message(&self) -> Result<Message<'_>, WsError> {
        if !self.text {
            return Ok(Message::Binary(&self.data));
        }
        // Checked already, but a string without a check would need unsafe code; fragments are rare.
        std::str::from_utf8(&self.data).map(Message::Text).map_err(|_| WsError::InvalidUtf8)
    }
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
