use super::{MAX_CONTROL_BYTES, Opcode};

/// Appends the header of an unmasked frame with `len` bytes of payload, as servers send them. The payload is appended
/// by the caller.
pub fn encode_header(out: &mut Vec<u8>, opcode: Opcode, fin: bool, len: u64) {
    header(out, opcode, fin, len, 0);
}

/// How many bytes the header of an unmasked frame has.
pub fn header_bytes(len: usize) -> usize {
    match len {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    }
}

/// Appends the header of an unmasked frame that is a whole compressed message (RFC 7692 section 6).
pub fn encode_compressed_header(out: &mut Vec<u8>, opcode: Opcode, len: u64) {
    let start = out.len();
    header(out, opcode, true, len, 0);
    if let Some(first) = out.get_mut(start) {
        *first |= 0x40;
    }
}

/// Appends a whole masked frame, as clients send them. The mask is the caller's: it must be unpredictable where a
/// hostile page chooses the payload (section 10.3).
pub fn encode_masked(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    header(out, opcode, true, payload.len() as u64, 0x80);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(masked) = out.get_mut(start..) {
        apply_mask(masked, mask);
    }
}

fn header(out: &mut Vec<u8>, opcode: Opcode, fin: bool, len: u64, masked: u8) {
    let first = opcode as u8 | if fin { 0x80 } else { 0 };
    if let Ok(short @ 0..=125) = u8::try_from(len) {
        out.extend_from_slice(&[first, masked | short]);
    } else if let Ok(medium) = u16::try_from(len) {
        let [high, low] = medium.to_be_bytes();
        out.extend_from_slice(&[first, masked | 126, high, low]);
    } else {
        out.extend_from_slice(&[first, masked | 127]);
        out.extend_from_slice(&len.to_be_bytes());
    }
}

/// The payload of a close frame. A reason that does not fit a control frame is cut, at a character.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let fits = (0..=MAX_CONTROL_BYTES - 2).rev().find_map(|end| reason.get(..end.min(reason.len())));
    let reason = fits.unwrap_or_default();
    let mut payload = Vec::with_capacity(2 + reason.len());
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(reason.as_bytes());
    payload
}

/// Masks or unmasks in place (section 5.3), eight bytes a step, which the compiler widens further.
pub(super) fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}
