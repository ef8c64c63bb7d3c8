use std::collections::HashMap;
use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// For keys that clients choose (names of rooms and users, ids of messages). Without a secret seed anybody can compute
/// names that fall into one bucket, and thousands of those make each look-up walk them all, under the space's lock.
pub(crate) type SeededMap<K, V> = HashMap<K, V, Seed>;

/// The secret of the hash tables, drawn by the caller at the start of the process.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seed(pub [u64; 2]);

impl BuildHasher for Seed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        let [first, second] = self.0;
        SipHasher13::new_with_keys(first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_types::RoomName;

    #[test]
    fn nobody_without_the_seed_knows_where_a_name_lies() {
        let name = RoomName::try_from("quay").unwrap();
        let hash = |seed| Seed(seed).hash_one(&name);
        assert_eq!(hash([1, 2]), hash([1, 2]));
        assert_ne!(hash([1, 2]), hash([1, 3]));
        assert_ne!(hash([1, 2]), hash([2, 2]));
    }
}
