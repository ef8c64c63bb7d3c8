//! Keys. Every name is its own part, preceded by its length in two bytes: `("a/b", "c")` and `("a", "b/c")` differ in
//! their first two bytes, whatever the names hold. Numbers are big-endian, so that keys sort as numbers do.

use tidegate_types::{Namespace, RoomKey, RoomName, SpaceKey, TenantId};

use crate::fields::Reader;

/// `meta`, in the `state` keyspace.
pub(super) const META: &[u8] = b"m";
/// Written and removed again by the probe of a store that has failed.
pub(super) const PROBE: &[u8] = b"p";
/// Prefix of the spaces' records, in `state`.
pub(super) const SPACES: &[u8] = b"s";
/// Prefix of the saved rings, in `state`.
pub(super) const RINGS: &[u8] = b"r";

fn push(key: &mut Vec<u8>, part: &str) {
    // Names are at most 256 bytes long, by their types.
    let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
    key.extend_from_slice(&length.to_be_bytes());
    key.extend_from_slice(part.as_bytes());
}

/// The prefix of everything of a room.
pub(super) fn room_into(key: &mut Vec<u8>, space: &SpaceKey, room: &RoomName) {
    key.clear();
    push(key, space.tenant.as_str());
    push(key, space.namespace.as_str());
    push(key, room.as_str());
}

pub(super) fn room(key: &RoomKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, key.tenant.as_str());
    push(&mut bytes, key.namespace.as_str());
    push(&mut bytes, key.room.as_str());
    bytes
}

/// Where the room's message with this offset lies. `room` is the room's prefix.
pub(super) fn message(room: &[u8], offset: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(room.len() + 8);
    key.extend_from_slice(room);
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

/// The offset of a message's key.
pub(super) fn offset(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Where a space's record lies (`prefix` = [`SPACES`]), or the prefix of its ring ([`RINGS`]).
pub(super) fn space(prefix: &[u8], key: &SpaceKey) -> Vec<u8> {
    let mut bytes = prefix.to_vec();
    push(&mut bytes, key.tenant.as_str());
    push(&mut bytes, key.namespace.as_str());
    bytes
}

/// Reads the space out of a key, and what stands behind it.
fn parse_space<'a>(reader: &mut Reader<'a>) -> Option<SpaceKey> {
    let mut part = || -> Option<&'a str> {
        let length = reader.u16_be()?;
        std::str::from_utf8(reader.take(usize::from(length))?).ok()
    };
    let tenant = TenantId::try_from(part()?).ok()?;
    let namespace = Namespace::try_from(part()?).ok()?;
    Some(SpaceKey { tenant, namespace })
}

pub(super) fn parse_space_record(key: &[u8]) -> Option<SpaceKey> {
    let mut reader = Reader::new(key.strip_prefix(SPACES)?);
    let space = parse_space(&mut reader)?;
    reader.is_empty().then_some(space)
}

pub(super) fn parse_room(key: &[u8]) -> Option<(SpaceKey, RoomName)> {
    let mut reader = Reader::new(key);
    let space = parse_space(&mut reader)?;
    let length = reader.u16_be()?;
    let room = RoomName::try_from(std::str::from_utf8(reader.take(usize::from(length))?).ok()?).ok()?;
    reader.is_empty().then_some((space, room))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: &str, namespace: &str, name: &str) -> RoomKey {
        RoomKey {
            tenant: tenant.try_into().unwrap(),
            namespace: namespace.try_into().unwrap(),
            room: name.try_into().unwrap(),
        }
    }

    #[test]
    fn names_that_join_to_the_same_text_have_different_keys() {
        let keys = [
            key("a", "/b", "c"),
            key("a/b", "/", "c"),
            key("a", "/", "b/c"),
            key("a", "/b/c", "c"),
            key("a", "/b", "/c"),
            key("ä", "/b", "c"),
        ];
        let mut bytes: Vec<_> = keys.iter().map(room).collect();
        bytes.sort();
        // Not only different: none is the beginning of another, so that a range never reaches into another room.
        for pair in bytes.windows(2) {
            assert!(!pair[1].starts_with(&pair[0]), "{pair:?}");
        }
    }

    #[test]
    fn a_room_survives_its_key() {
        let wanted = key("tenant-1", "/chat", "räume/1 - \u{1F600}");
        let (space, name) = parse_room(&room(&wanted)).unwrap();
        assert_eq!(RoomKey { tenant: space.tenant, namespace: space.namespace, room: name }, wanted);
    }

    #[test]
    fn a_damaged_key_is_refused() {
        let good = room(&key("t", "/", "r"));
        for cut in 0..good.len() {
            assert!(parse_room(&good[..cut]).is_none());
        }
        assert!(parse_room(&[good, vec![0]].concat()).is_none());
    }
}
