//! Hash slots: which part of a Redis Cluster a key belongs to. Without a cluster one server has them all.

use std::fmt;

/// How many slots there are.
pub(super) const SLOTS: u16 = 16_384;

/// A hash slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(super) u16);

impl Slot {
    /// The slot of a key, or of a sharded channel: that of its hash tag, what stands in the first braces
    /// (Redis Cluster specification, "Hash tags").
    pub fn of(key: &[u8]) -> Self {
        Self(crc16(tag(key)) % SLOTS)
    }

    /// As a number, below 16384.
    pub fn index(self) -> u16 {
        self.0
    }
}

fn tag(key: &[u8]) -> &[u8] {
    let inside = key.splitn(2, |byte| *byte == b'{').nth(1);
    let tag = inside.and_then(|rest| rest.iter().position(|byte| *byte == b'}').and_then(|end| rest.get(..end)));
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

/// A set of slots: ranges with both ends, in order.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Slots(Vec<(u16, u16)>);

impl Slots {
    /// All there are.
    pub fn all() -> Self {
        Self(vec![(0, SLOTS - 1)])
    }

    /// Those that `keep` says, of all.
    pub(super) fn filter(mut keep: impl FnMut(u16) -> bool) -> Self {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for slot in 0..SLOTS {
            if !keep(slot) {
                continue;
            }
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == slot => *last = slot,
                _ => ranges.push((slot, slot)),
            }
        }
        Self(ranges)
    }

    /// Whether the slot is one of them.
    pub fn contains(&self, slot: Slot) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= slot.0);
        after.checked_sub(1).and_then(|index| self.0.get(index)).is_some_and(|(_, last)| slot.0 <= *last)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Slot> for Slots {
    fn from(slot: Slot) -> Self {
        Self(vec![(slot.0, slot.0)])
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(first, last)| format!("{first}-{last}"))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // CLUSTER KEYSLOT of Redis 7.0 says so.
        for (key, slot) in [
            ("foo", 12182),
            ("{user1000}.following", 3443),
            ("user1000", 3443),
            ("foo{}{bar}", 8363),
            ("{{bar}}", 4015),
        ] {
            assert_eq!(Slot::of(key.as_bytes()).index(), slot, "{key}");
        }
        assert_eq!(Slot::of(b""), Slot(0));
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn a_set_has_what_was_kept() {
        let slots = Slots::filter(|slot| slot < 3 || slot == 7 || slot > 16_380);
        assert_eq!(format!("{slots:?}"), r#"["0-2", "7-7", "16381-16383"]"#);
        for slot in 0..SLOTS {
            assert_eq!(slots.contains(Slot(slot)), slot < 3 || slot == 7 || slot > 16_380);
        }
        assert!(!Slots::default().contains(Slot(0)) && Slots::all().contains(Slot(16_383)));
    }
}
