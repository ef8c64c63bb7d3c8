//! The client's side of WebSocket framing (RFC 6455 section 5), as far as a load generator needs it.
//!
//! Not the server's codec: the generator also judges the server, so it does not share its code.

use anyhow::bail;

/// Opcodes of section 5.2.
pub const TEXT: u8 = 1;
/// Binary data.
pub const BINARY: u8 = 2;
/// Closing handshake.
pub const CLOSE: u8 = 8;
/// Keep-alive question.
pub const PING: u8 = 9;
/// Keep-alive answer.
pub const PONG: u8 = 10;

/// One frame as it lies in the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// See the constants.
    pub opcode: u8,
    /// The payload, as sent (servers never mask).
    pub payload: &'a [u8],
    /// Header and payload together, in bytes.
    pub length: usize,
}

/// The first frame of `bytes`; `None` when it is not complete yet.
pub fn first(bytes: &[u8]) -> anyhow::Result<Option<Frame<'_>>> {
    let (Some(&head), Some(&second)) = (bytes.first(), bytes.get(1)) else { return Ok(None) };
    if head & 0x70 != 0 {
        bail!("the server set reserved bits without an extension (first byte {head:#04x})");
    }
    if second & 0x80 != 0 {
        bail!("the server masked a frame; only clients may");
    }
    let (header, length) = match second & 0x7f {
        126 => match bytes.get(2..4).and_then(|raw| <[u8; 2]>::try_from(raw).ok()) {
            Some(raw) => (4, u64::from(u16::from_be_bytes(raw))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|raw| <[u8; 8]>::try_from(raw).ok()) {
            Some(raw) => (10, u64::from_be_bytes(raw)),
            None => return Ok(None),
        },
        short => (2, u64::from(short)),
    };
    if length > 16 * 1024 * 1024 {
        bail!("the server announced a frame of {length} bytes");
    }
    let length = header + length as usize;
    Ok(bytes.get(header..length).map(|payload| Frame { opcode: head & 0x0f, payload, length }))
}

/// Appends one final masked frame. The mask is fixed: it exists against confused proxies (section 10.3), not secrecy.
pub fn push_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    const MASK: [u8; 4] = [0x3a, 0x91, 0x5c, 0xe7];
    out.push(0x80 | opcode);
    push_length(out, payload.len(), 0x80);
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends one final unmasked frame (the measuring upstream's side).
pub fn push_plain(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    push_length(out, payload.len(), 0);
    out.extend_from_slice(payload);
}

fn push_length(out: &mut Vec<u8>, length: usize, flag: u8) {
    match length {
        0..126 => out.push(flag | length as u8),
        126..65_536 => {
            out.push(flag | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(flag | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// The client's masked frame at the start of `bytes`, unmasked in place: opcode, payload range end to end.
pub fn first_masked(bytes: &mut [u8]) -> anyhow::Result<Option<Frame<'_>>> {
    let (Some(&head), Some(&second)) = (bytes.first(), bytes.get(1)) else { return Ok(None) };
    if second & 0x80 == 0 {
        bail!("the client did not mask a frame");
    }
    let (header, length) = match second & 0x7f {
        126 => match bytes.get(2..4).and_then(|raw| <[u8; 2]>::try_from(raw).ok()) {
            Some(raw) => (4, usize::from(u16::from_be_bytes(raw))),
            None => return Ok(None),
        },
        127 => bail!("larger than the measuring upstream takes"),
        short => (2, usize::from(short)),
    };
    let start = header + 4;
    let Some(mask) = bytes.get(header..start).and_then(|raw| <[u8; 4]>::try_from(raw).ok()) else { return Ok(None) };
    let Some(payload) = bytes.get_mut(start..start + length) else { return Ok(None) };
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok(Some(Frame { opcode: head & 0x0f, payload, length: start + length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_form_come_back_as_they_were() {
        for length in [0, 1, 125, 126, 127, 65_535] {
            let payload = vec![b'a'; length];
            let mut bytes = Vec::new();
            push_masked(&mut bytes, TEXT, &payload);
            let total = bytes.len();
            assert_eq!(
                first_masked(&mut bytes).unwrap(),
                Some(Frame { opcode: TEXT, payload: &payload, length: total })
            );
            let mut bytes = Vec::new();
            push_plain(&mut bytes, BINARY, &payload);
            let total = bytes.len();
            assert_eq!(first(&bytes).unwrap(), Some(Frame { opcode: BINARY, payload: &payload, length: total }));
            (0..total.min(200)).for_each(|cut| assert_eq!(first(&bytes[..cut]).unwrap(), None));
        }
    }

    #[test]
    fn a_masked_or_reserved_or_giant_server_frame_is_an_error() {
        assert!(first(&[0x81, 0x80]).is_err());
        assert!(first(&[0xc1, 0x00]).is_err());
        assert!(first(&[0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
