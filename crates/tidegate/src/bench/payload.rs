//! The body of a measured message: `~b~<number>.<microseconds>~xxxx…`, findable without parsing what is around it.

const MARK: &[u8] = b"~b~";

/// Writes a body of `size` bytes (at least the stamp's own length, about 30).
pub fn write(out: &mut Vec<u8>, number: u64, sent_us: u64, size: usize) {
    let start = out.len();
    out.extend_from_slice(MARK);
    push_number(out, number);
    out.push(b'.');
    push_number(out, sent_us);
    out.push(b'~');
    out.resize(out.len().max(start + size), b'x');
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend(digits.iter().skip(20 - used));
}

/// The stamp of a message: its number and the time it was sent, in microseconds of the sender's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Counted from 0 by the sender.
    pub number: u64,
    /// When it was sent.
    pub sent_us: u64,
}

/// Finds the stamp in `bytes`. `hint` is where the mark was the last time: messages of a room look alike, so it is
/// mostly there again.
pub fn find(bytes: &[u8], hint: &mut usize) -> Option<Stamp> {
    let at = match bytes.get(*hint..*hint + MARK.len()) {
        Some(found) if found == MARK => *hint,
        _ => bytes.windows(MARK.len()).position(|window| window == MARK)?,
    };
    *hint = at;
    let mut rest = bytes.get(at + MARK.len()..)?.iter();
    let number = number(&mut rest, b'.')?;
    let sent_us = self::number(&mut rest, b'~')?;
    Some(Stamp { number, sent_us })
}

fn number(bytes: &mut std::slice::Iter<'_, u8>, end: u8) -> Option<u64> {
    let mut number = 0u64;
    for &byte in bytes {
        match byte {
            b'0'..=b'9' => number = number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?,
            byte if byte == end => return Some(number),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_wherever_it_stands() {
        let mut out = b"[\"room:message\",{\"payload\":\"".to_vec();
        write(&mut out, 42, 1_700_000_000_123_456, 128);
        out.extend_from_slice(b"\"}]");
        let mut hint = 0;
        let stamp = Stamp { number: 42, sent_us: 1_700_000_000_123_456 };
        assert_eq!(find(&out, &mut hint), Some(stamp));
        assert_eq!(hint, 28);
        assert_eq!(find(&out, &mut hint), Some(stamp));
        assert_eq!(out.len(), 28 + 128 + 3);
    }

    #[test]
    fn a_cut_or_foreign_stamp_is_none() {
        for text in
            ["", "~b~", "~b~12", "~b~12.", "~b~12.9", "~b~x.9~", "no mark at all", "~b~99999999999999999999999.1~"]
        {
            assert_eq!(find(text.as_bytes(), &mut 0), None, "{text}");
        }
    }
}
