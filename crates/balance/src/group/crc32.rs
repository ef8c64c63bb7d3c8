//! CRC-32 (IEEE 802.3), as zlib's and nginx's.

#[derive(Clone, Copy, Debug)]
pub(super) struct Crc32(u32);

const TABLE: [u32; 256] = table();

#[expect(clippy::indexing_slicing, reason = "the index is below 256; there are no iterators in constants")]
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

impl Crc32 {
    pub(super) fn new() -> Self {
        Self(u32::MAX)
    }

    pub(super) fn of(bytes: &[u8]) -> u32 {
        let mut crc = Self::new();
        crc.update(bytes);
        crc.value()
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let [low, ..] = self.0.to_le_bytes();
            #[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
            let entry = TABLE[usize::from(low ^ byte)];
            self.0 = entry ^ (self.0 >> 8);
        }
    }

    pub(super) fn value(self) -> u32 {
        self.0 ^ u32::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_standard_comes_out() {
        assert_eq!(Crc32::of(b"123456789"), 0xcbf4_3926);
    }
}
