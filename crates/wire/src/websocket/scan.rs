//! Watching frames that pass by: where they end, what they are, whether they follow the rules. Nothing of a data frame's
//! payload is kept or copied to the heap, however the stream is cut into chunks.

use super::decode::close;
use super::encode::apply_mask;
use super::utf8::Utf8;
use super::{MAX_CONTROL_BYTES, MAX_HEADER_BYTES, Opcode, Role, WsError};

/// Where the frames of one direction end, and nothing else: a few nanoseconds per frame.
///
/// Any bytes have an answer; those of a peer that does not speak the protocol only mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boundaries {
    /// Bytes of the frame that are still to come behind what is in `head`.
    left: u64,
    /// An incomplete header, without its mask.
    head: [u8; 10],
    have: u8,
}

impl Boundaries {
    /// At the start of a stream, which is a boundary.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the last byte ended a frame, so that another frame may be put behind it.
    pub fn at_boundary(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    /// Takes the chunk up to the end of the frame under way, and tells where in the chunk that is; 0 at a boundary, `None`
    /// if it does not end here.
    pub fn finish(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut at = 0;
        while !self.at_boundary() {
            at += self.step(chunk.get(at..).filter(|rest| !rest.is_empty())?);
        }
        Some(at)
    }

    /// Takes the next chunk. The result is the last place in it, 0 to its length, where a frame of one's own may be put
    /// in; `None` if it lies within one frame.
    pub fn feed(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut at = 0;
        let mut boundary = self.at_boundary().then_some(0);
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            at += self.step(rest);
            if self.at_boundary() {
                boundary = Some(at);
            }
        }
        boundary
    }

    /// Takes a header, a payload or a part of one; the result is how many bytes.
    #[inline]
    fn step(&mut self, rest: &[u8]) -> usize {
        if self.left > 0 {
            let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
            self.left -= step as u64;
            step
        } else if self.have == 0
            && let Some((head, size)) = rest.first_chunk().and_then(|start| whole_head(*start, rest))
        {
            self.left = size;
            head
        } else {
            self.collect(rest)
        }
    }

    /// Puts an incomplete header together; the result is how many bytes it took.
    fn collect(&mut self, rest: &[u8]) -> usize {
        for (taken, byte) in rest.iter().enumerate() {
            if let Some(place) = self.head.get_mut(usize::from(self.have)) {
                *place = *byte;
            }
            self.have += 1;
            let known = self.head.get(..usize::from(self.have)).unwrap_or_default();
            if let Some((_, size)) = known.first_chunk().and_then(|start| whole_head(*start, known)) {
                self.left = size;
                self.have = 0;
                return taken + 1;
            }
        }
        rest.len()
    }
}

/// The length of a header without its mask, and of what follows it, mask included.
fn whole_head([_, second]: [u8; 2], bytes: &[u8]) -> Option<(usize, u64)> {
    let (size, length) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        short => (2, u64::from(short)),
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    Some((size, length.saturating_add(mask)))
}

/// What a [`Scanner`] insists on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Nothing: it tells what it can make out.
    Light,
    /// RFC 6455.
    Strict {
        /// Who would decode this direction: what a client sends is for [`Role::Server`], hence masked.
        role: Role,
        /// permessage-deflate was negotiated (RFC 7692): the first frame of a message may have RSV1, and its text is not
        /// looked at.
        deflate: bool,
    },
}

/// What a [`Scanner`] has come across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// The header of a data frame. Nothing of its payload has been consumed.
    Frame {
        /// Text or Binary: what its message is.
        opcode: Opcode,
        /// The message begins with it.
        first: bool,
        /// Bytes of the message so far, with what this frame declares. As sent: compressed ones if it is compressed.
        size: u64,
    },
    /// A message has ended.
    Message {
        /// Text or Binary.
        opcode: Opcode,
        /// Bytes, as sent.
        size: u64,
    },
    /// A whole control frame.
    Control {
        /// Close, Ping or Pong.
        opcode: Opcode,
        /// Unmasked; at most [`MAX_CONTROL_BYTES`].
        payload: &'a [u8],
        /// Bytes of the whole frame, which ends here.
        frame: u64,
    },
}

/// The result of [`Scanner::scan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned<'a> {
    /// How many bytes are behind us; all of them if nothing was seen.
    pub consumed: usize,
    /// What was come across.
    pub seen: Option<Seen<'a>>,
}

/// Follows the frames of one direction through any chunks.
#[derive(Debug)]
pub struct Scanner {
    rules: Rules,
    /// The header of the current frame, as far as it has come.
    head: [u8; MAX_HEADER_BYTES],
    head_len: u8,
    /// The header is complete.
    inside: bool,
    opcode: Option<Opcode>,
    /// Payload of the current frame: all of it, and what is still to come.
    length: u64,
    left: u64,
    mask: [u8; 4],
    message: Option<Unfinished>,
    utf8: Utf8,
    /// Bytes of the stream up to the end of the last whole frame.
    boundary: u64,
    /// Payload of the current control frame, as it came.
    control: [u8; MAX_CONTROL_BYTES],
}

/// The message whose frames pass.
#[derive(Clone, Copy, Debug)]
struct Unfinished {
    opcode: Opcode,
    size: u64,
    /// Text that is to be checked.
    checked: bool,
}

impl Scanner {
    /// At the start of a stream.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            head: [0; MAX_HEADER_BYTES],
            head_len: 0,
            inside: false,
            opcode: None,
            length: 0,
            left: 0,
            mask: [0; 4],
            message: None,
            utf8: Utf8::default(),
            boundary: 0,
            control: [0; MAX_CONTROL_BYTES],
        }
    }

    /// Whether the last byte ended a frame.
    pub fn at_boundary(&self) -> bool {
        !self.inside && self.head_len == 0
    }

    /// The opcode of the incomplete frame, once it is known and if it means something.
    pub fn incomplete_opcode(&self) -> Option<Opcode> {
        if self.head_len == 0 { None } else { Opcode::from_bits(self.head.first()? & 0x0f) }
    }

    /// How many bytes of the stream belong to whole frames: the last place where a frame of one's own may be put in.
    /// After an error, that is where the bad frame begins.
    pub fn boundary(&self) -> u64 {
        self.boundary
    }

    /// Consumes bytes up to the next thing worth telling. To be called again with the rest until nothing is seen.
    ///
    /// # Errors
    /// [`WsError`], with strict rules only: the connection is to be closed with [`WsError::close_code`], and nothing of
    /// `bytes` may be passed on that this call would have consumed.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Scanned<'_>, WsError> {
        let mut at = 0;
        loop {
            if !self.inside {
                let (taken, whole) = self.read_head(bytes.get(at..).unwrap_or_default());
                at += taken;
                if matches!(self.rules, Rules::Strict { .. }) {
                    self.check_head()?;
                }
                if !whole {
                    return Ok(Scanned { consumed: at, seen: None });
                }
                if let Some(seen) = self.begin() {
                    return Ok(Scanned { consumed: at, seen: Some(seen) });
                }
            }
            at += self.read_payload(bytes.get(at..).unwrap_or_default())?;
            if self.left > 0 {
                return Ok(Scanned { consumed: at, seen: None });
            }
            match self.finish()? {
                End::Fragment => {}
                End::Message(opcode, size) => {
                    return Ok(Scanned { consumed: at, seen: Some(Seen::Message { opcode, size }) });
                }
                End::Control(opcode, len, frame) => {
                    let payload = self.control.get(..len).unwrap_or_default();
                    return Ok(Scanned { consumed: at, seen: Some(Seen::Control { opcode, payload, frame }) });
                }
            }
        }
    }

    /// Reads more of the header; whether it is complete.
    fn read_head(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut taken = 0;
        loop {
            let have = usize::from(self.head_len);
            let wanted = match self.head {
                _ if have < 2 => 2,
                [_, second, ..] => {
                    let extended = match second & 0x7f {
                        126 => 2,
                        127 => 8,
                        _ => 0,
                    };
                    2 + extended + if second & 0x80 == 0 { 0 } else { 4 }
                }
            };
            if have == wanted {
                return (taken, true);
            }
            let fresh = bytes.get(taken..).unwrap_or_default();
            let step = fresh.len().min(wanted - have);
            if step == 0 {
                return (taken, false);
            }
            if let (Some(place), Some(fresh)) = (self.head.get_mut(have..have + step), fresh.get(..step)) {
                place.copy_from_slice(fresh);
            }
            taken += step;
            #[expect(clippy::cast_possible_truncation, reason = "at most MAX_HEADER_BYTES")]
            {
                self.head_len = (have + step) as u8;
            }
        }
    }

    /// Checks the header as far as it has come, so that a frame that will be refused is never waited for.
    fn check_head(&self) -> Result<(), WsError> {
        let Rules::Strict { role, deflate } = self.rules else { return Ok(()) };
        let [first, second, ..] = self.head;
        if self.head_len < 2 {
            return Ok(());
        }
        let opcode = Opcode::from_bits(first & 0x0f);
        let begins = matches!(opcode, Some(Opcode::Text | Opcode::Binary));
        let allowed = if deflate && begins { 0x40 } else { 0 };
        if first & 0x70 & !allowed != 0 {
            return Err(WsError::ReservedBits);
        }
        let opcode = opcode.ok_or(WsError::ReservedOpcode)?;
        if (second & 0x80 != 0) != (role == Role::Server) {
            return Err(WsError::Masking);
        }
        let short = second & 0x7f;
        if opcode.is_control() {
            if first & 0x80 == 0 {
                return Err(WsError::FragmentedControl);
            }
            if usize::from(short) > MAX_CONTROL_BYTES {
                return Err(WsError::LongControl);
            }
        } else if begins == self.message.is_some() {
            return Err(if begins { WsError::ExpectedContinuation } else { WsError::UnexpectedContinuation });
        }
        let shortest = match (short, self.head_len) {
            (126, 4..) => self.declared() >= 126,
            (127, 10..) => {
                let length = self.declared();
                length > u64::from(u16::MAX) && length >> 63 == 0
            }
            _ => true,
        };
        if shortest { Ok(()) } else { Err(WsError::Length) }
    }

    /// The payload's length, if the header has come that far.
    fn declared(&self) -> u64 {
        let [_, second, a, b, c, d, e, f, g, h, ..] = self.head;
        match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([a, b])),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            short => u64::from(short),
        }
    }

    /// The header is complete.
    fn begin(&mut self) -> Option<Seen<'static>> {
        let [first, second, ..] = self.head;
        self.inside = true;
        self.length = self.declared();
        self.left = self.length;
        let masked = second & 0x80 != 0;
        let head = self.head.get(..usize::from(self.head_len)).unwrap_or_default();
        self.mask = if masked { head.last_chunk().copied().unwrap_or_default() } else { [0; 4] };
        self.opcode = Opcode::from_bits(first & 0x0f);
        let begins = match self.opcode? {
            Opcode::Close | Opcode::Ping | Opcode::Pong => return None,
            Opcode::Continuation => None,
            begins @ (Opcode::Text | Opcode::Binary) => Some(begins),
        };
        if let Some(opcode) = begins {
            let strict = matches!(self.rules, Rules::Strict { .. });
            let checked = strict && opcode == Opcode::Text && first & 0x40 == 0;
            self.message = Some(Unfinished { opcode, size: 0, checked });
            self.utf8 = Utf8::default();
        }
        let message = self.message.as_mut()?;
        message.size = message.size.saturating_add(self.length);
        Some(Seen::Frame { opcode: message.opcode, first: begins.is_some(), size: message.size })
    }

    /// Consumes payload of the current frame.
    fn read_payload(&mut self, bytes: &[u8]) -> Result<usize, WsError> {
        let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let fresh = bytes.get(..step).unwrap_or_default();
        if self.opcode.is_some_and(Opcode::is_control) {
            // Beyond what a control frame may have, light rules keep the beginning.
            let from = usize::try_from(self.length - self.left).unwrap_or(usize::MAX);
            if let Some(room) = self.control.get_mut(from..) {
                for (place, byte) in room.iter_mut().zip(fresh) {
                    *place = *byte;
                }
            }
        } else if let Some(Unfinished { checked: true, .. }) = self.message {
            let phase = (self.length - self.left) % 4;
            let mut mask = self.mask;
            mask.rotate_left(usize::try_from(phase).unwrap_or(0));
            // Unmasked in portions on the stack: the stream itself must pass as it is. A portion's length is a multiple
            // of four except the last one's, so the mask stays turned.
            let mut portion = [0; 1024];
            for masked in fresh.chunks(portion.len()) {
                let Some(clear) = portion.get_mut(..masked.len()) else { break };
                clear.copy_from_slice(masked);
                apply_mask(clear, mask);
                self.utf8.feed(clear)?;
            }
        }
        self.left -= step as u64;
        Ok(step)
    }

    /// The current frame is complete.
    fn finish(&mut self) -> Result<End, WsError> {
        let fin = self.head.first().is_some_and(|first| first & 0x80 != 0);
        let length = std::mem::take(&mut self.length);
        let frame = u64::from(self.head_len) + length;
        self.inside = false;
        self.head_len = 0;
        let Some(opcode) = self.opcode.take() else {
            self.boundary = self.boundary.saturating_add(frame);
            return Ok(End::Fragment);
        };
        if opcode.is_control() {
            let len = usize::try_from(length).unwrap_or(usize::MAX).min(MAX_CONTROL_BYTES);
            let payload = self.control.get_mut(..len).unwrap_or_default();
            apply_mask(payload, self.mask);
            if opcode == Opcode::Close && matches!(self.rules, Rules::Strict { .. }) {
                close(payload)?;
            }
            self.boundary = self.boundary.saturating_add(frame);
            return Ok(End::Control(opcode, len, frame));
        }
        if fin && self.message.is_some_and(|message| message.checked) && !self.utf8.is_whole() {
            return Err(WsError::InvalidUtf8);
        }
        self.boundary = self.boundary.saturating_add(frame);
        match self.message {
            Some(message) if fin => {
                self.message = None;
                Ok(End::Message(message.opcode, message.size))
            }
            Some(_) | None => Ok(End::Fragment),
        }
    }
}

/// What ended with a frame.
enum End {
    Fragment,
    Message(Opcode, u64),
    Control(Opcode, usize, u64),
}
