//! Fields in a row: numbers are LEB128, texts and bytes are preceded by their length. Whatever the bytes hold, reading
//! answers with a value or with `None`.

use bytes::Bytes;

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, length: bytes.len() }
    }

    /// Reads `whole` from a place on.
    pub(crate) fn within(whole: &'a [u8], place: usize) -> Option<Self> {
        Some(Self { bytes: whole.get(place..)?, length: whole.len() })
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn position(&self) -> usize {
        self.length - self.bytes.len()
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.bytes.split_at_checked(length)?;
        self.bytes = tail;
        Some(head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    pub(crate) fn u16_be(&mut self) -> Option<u16> {
        let (head, tail) = self.bytes.split_first_chunk::<2>()?;
        self.bytes = tail;
        Some(u16::from_be_bytes(*head))
    }

    pub(crate) fn u48_be(&mut self) -> Option<u64> {
        let (&[a, b, c, d, e, f], tail) = self.bytes.split_first_chunk::<6>()?;
        self.bytes = tail;
        Some(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    pub(crate) fn u64_be(&mut self) -> Option<u64> {
        let (head, tail) = self.bytes.split_first_chunk::<8>()?;
        self.bytes = tail;
        Some(u64::from_be_bytes(*head))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn optional(&mut self) -> Option<Option<u64>> {
        if self.bool()? { self.u64().map(Some) } else { Some(None) }
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u64()?).ok()?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// Like [`Self::bytes`], but shares `whole`, which this reader reads.
    pub(crate) fn shared(&mut self, whole: &Bytes) -> Option<Bytes> {
        let length = usize::try_from(self.u64()?).ok()?;
        let from = self.position();
        self.take(length)?;
        Some(whole.slice(from..from + length))
    }

    pub(crate) fn end<T>(&self, value: T) -> Option<T> {
        self.is_empty().then_some(value)
    }
}

pub(crate) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_optional(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put_u64(out, value);
    }
}
