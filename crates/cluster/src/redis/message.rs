//! What lies in the logs and goes over the channels, as bytes: a version, a kind, then the fields in order. Channels carry
//! bytes of anybody who may write there: whatever they hold, reading answers with a value or says what is wrong.
//!
//! A message's head is written by the publish script (big-endian, six bytes each): epoch, seq, offset, time, the seq of the
//! message before it in its log, and the payload bytes of its log up to and with it. So the first entry of a log tells what
//! is missing before it, and no counter has to be kept in step when entries are removed.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_types::{
    Class, Epoch, EventName, Millis, NodeId, Position, PresenceInfo, Publication, RoomName, SpaceKey, UserId,
};

use crate::fields::{Reader, put_bytes, put_u64};

/// The version of everything in this file.
pub(super) const VERSION: u8 = 1;
const RECOVERABLE: u8 = 1;
const PERSISTENT: u8 = 2;
const LEASE: u8 = 3;
const SIGNAL: u8 = 4;
const NODE_GONE: u8 = 5;
const MARK: u8 = 6;
const LEASES_ENDED: u8 = 7;

/// The bytes of a message's head.
pub(super) const HEAD_BYTES: usize = 38;

/// Why bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Another version of this program wrote them, or another program.
    Version,
    /// They are damaged, or not ours.
    Corrupt,
}

/// What a channel carries.
#[derive(Debug)]
pub(super) enum Frame {
    Message(Head, Bytes),
    Lease(LeaseFrame),
    Signal {
        from: NodeId,
        body: Bytes,
    },
    NodeGone(NodeId),
    /// A dead node's leases in the room have been taken back; `version` is that of the room's leases after it.
    LeasesEnded {
        version: u64,
        node: NodeId,
    },
    /// Stands in the stream of a space where a look at one of its rooms was taken.
    Mark(u64),
}

/// A lease that came, changed or (`None`) went.
#[derive(Debug)]
pub(super) struct LeaseFrame {
    /// Of the room's leases.
    pub(super) version: u64,
    pub(super) node: NodeId,
    pub(super) user: UserId,
    pub(super) info: Option<PresenceInfo>,
}

/// A message's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) class: Class,
    pub(super) epoch: Epoch,
    pub(super) seq: u64,
    pub(super) offset: u64,
    pub(super) timestamp_ms: Millis,
    /// The seq of the message before it in its log (or ring).
    pub(super) previous: u64,
    /// Payload bytes of its log (or ring) up to and with it, removed ones included.
    pub(super) end_bytes: u64,
}

impl Head {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Foreign> {
        let mut reader = Reader::new(bytes);
        if reader.u8() != Some(VERSION) {
            return Err(Foreign::Version);
        }
        let class = match reader.u8() {
            Some(RECOVERABLE) => Class::Recoverable,
            Some(PERSISTENT) => Class::Persistent,
            _ => return Err(Foreign::Corrupt),
        };
        Self::numbers(&mut reader, class).ok_or(Foreign::Corrupt)
    }

    fn numbers(reader: &mut Reader<'_>, class: Class) -> Option<Self> {
        let head = Self {
            class,
            epoch: Epoch(reader.u48_be()?),
            seq: reader.u48_be()?,
            offset: reader.u48_be()?,
            timestamp_ms: reader.u48_be()?,
            previous: reader.u48_be()?,
            end_bytes: reader.u48_be()?,
        };
        // What holds for every message that the script has placed.
        (head.offset > 0 && head.offset <= head.seq && head.previous < head.seq).then_some(head)
    }

    /// Its place.
    pub(super) fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.offset }
    }
}

/// What a sender gives to the publish script: all but the head.
pub(super) fn encode_body(event: &EventName, data: &[u8], attachments: &[Bytes]) -> Vec<u8> {
    let payload: usize = attachments.iter().map(|attachment| attachment.len() + 5).sum();
    let mut out = Vec::with_capacity(event.as_str().len() + data.len() + payload + 8);
    put_bytes(&mut out, event.as_str().as_bytes());
    put_bytes(&mut out, data);
    put_u64(&mut out, attachments.len() as u64);
    for attachment in attachments {
        put_bytes(&mut out, attachment);
    }
    out
}

/// The whole message; `value` is what `head` was read from, and is shared.
pub(super) fn publication(head: &Head, value: &Bytes, space: &Arc<SpaceKey>, room: &RoomName) -> Option<Publication> {
    let mut reader = Reader::within(value, HEAD_BYTES)?;
    let event = EventName::try_from(reader.text()?).ok()?;
    let data = reader.shared(value)?;
    let count = usize::try_from(reader.u64()?).ok()?;
    // No capacity is taken from the count: a damaged one would ask for all memory.
    let attachments = (0..count).map(|_| reader.shared(value)).collect::<Option<Arc<[Bytes]>>>()?;
    reader.end(Publication {
        space: Arc::clone(space),
        room: room.clone(),
        event,
        data,
        attachments,
        class: head.class,
        position: Some(head.position()),
        seq: head.seq,
        timestamp_ms: head.timestamp_ms,
    })
}

/// A message of a log.
pub(super) fn decode_entry(
    value: &Bytes,
    space: &Arc<SpaceKey>,
    room: &RoomName,
) -> Result<(Head, Publication), Foreign> {
    let head = Head::decode(value)?;
    let publication = publication(&head, value, space, room).ok_or(Foreign::Corrupt)?;
    Ok((head, publication))
}

/// What came over a channel.
pub(super) fn decode_frame(value: &Bytes) -> Result<Frame, Foreign> {
    let mut reader = Reader::new(value);
    if reader.u8() != Some(VERSION) {
        return Err(Foreign::Version);
    }
    let frame = match reader.u8() {
        Some(RECOVERABLE | PERSISTENT) => Head::decode(value).ok().map(|head| Frame::Message(head, value.clone())),
        Some(LEASE) => lease(&mut reader).map(Frame::Lease),
        Some(SIGNAL) => reader.u64_be().map(|from| Frame::Signal { from: NodeId(from), body: value.slice(10..) }),
        Some(LEASES_ENDED) => reader.u48_be().and_then(|version| {
            let node = NodeId(reader.u64_be()?);
            reader.end(Frame::LeasesEnded { version, node })
        }),
        Some(NODE_GONE) => reader.u64_be().and_then(|node| reader.end(Frame::NodeGone(NodeId(node)))),
        Some(MARK) => reader.u64_be().and_then(|mark| reader.end(Frame::Mark(mark))),
        // A kind that a later program of the same version may have added.
        _ => return Err(Foreign::Version),
    };
    frame.ok_or(Foreign::Corrupt)
}

fn lease(reader: &mut Reader<'_>) -> Option<LeaseFrame> {
    let version = reader.u48_be()?;
    let node = NodeId(reader.u64_be()?);
    let user = UserId::try_from(reader.text()?).ok()?;
    let info = match reader.rest() {
        [] => None,
        json => Some(presence(json, &user)?),
    };
    Some(LeaseFrame { version, node, user, info })
}

/// A user's presence as it is kept. It must be that of the user under whose name it was found.
pub(super) fn presence(json: &[u8], user: &UserId) -> Option<PresenceInfo> {
    serde_json::from_slice::<PresenceInfo>(json).ok().filter(|info| info.user_id == *user)
}

/// A lease's frame: what goes before and what goes after the version, which the script knows.
pub(super) fn encode_lease(node: NodeId, user: &UserId, info: &[u8]) -> ([u8; 2], Vec<u8>) {
    let mut rest = node.0.to_be_bytes().to_vec();
    put_bytes(&mut rest, user.as_str().as_bytes());
    rest.extend_from_slice(info);
    ([VERSION, LEASE], rest)
}

pub(super) fn encode_signal(from: NodeId, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(10 + body.len());
    out.extend_from_slice(&[VERSION, SIGNAL]);
    out.extend_from_slice(&from.0.to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// What goes before and what goes after the version, which the script knows.
pub(super) fn encode_leases_ended(node: NodeId) -> ([u8; 2], [u8; 8]) {
    ([VERSION, LEASES_ENDED], node.0.to_be_bytes())
}

pub(super) fn encode_node_gone(node: NodeId) -> Vec<u8> {
    let mut out = vec![VERSION, NODE_GONE];
    out.extend_from_slice(&node.0.to_be_bytes());
    out
}

pub(super) fn encode_mark(mark: u64) -> Vec<u8> {
    let mut out = vec![VERSION, MARK];
    out.extend_from_slice(&mark.to_be_bytes());
    out
}

/// Reads anything that a channel or a log could hold: for the fuzzer.
#[doc(hidden)]
pub fn read_anything(value: &Bytes) {
    let space = Arc::new(SpaceKey {
        tenant: tidegate_types::TenantId::default_tenant(),
        namespace: tidegate_types::Namespace::root(),
    });
    let Ok(room) = RoomName::try_from("room") else { return };
    if let Ok((head, publication)) = decode_entry(value, &space, &room) {
        let body = encode_body(&publication.event, &publication.data, &publication.attachments);
        let again = [value.slice(..HEAD_BYTES), Bytes::from(body)].concat();
        let read = decode_entry(&again.into(), &space, &room);
        assert!(read.is_ok_and(|read| read == (head, publication)), "what was written is what is read");
    }
    if let Ok(Frame::Lease(lease)) = decode_frame(value) {
        assert!(lease.info.is_none_or(|info| info.user_id == lease.user), "one user's presence for another's");
    }
    let _ = super::state::RoomState::decode(value);
    let _ = super::sessions::decode(&tidegate_hub::Pid::from("pid"), value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::redis) fn head(class: Class, seq: u64, offset: u64) -> Vec<u8> {
        let kind = if class == Class::Persistent { PERSISTENT } else { RECOVERABLE };
        let mut out = vec![VERSION, kind];
        for number in [0x1234_5678_9abc, seq, offset, 1_700_000_000_000, seq - 1, 10] {
            out.extend_from_slice(&u64::to_be_bytes(number)[2..]);
        }
        out
    }

    fn space() -> Arc<SpaceKey> {
        Arc::new(SpaceKey { tenant: "t".try_into().unwrap(), namespace: "/".try_into().unwrap() })
    }

    fn whole(data: &'static [u8], attachments: &[Bytes]) -> Bytes {
        let mut value = head(Class::Persistent, 9, 4);
        value.extend(encode_body(&"room:message".try_into().unwrap(), data, attachments));
        value.into()
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let attachments = [Bytes::from_static(b"\0\xff"), Bytes::new()];
        let value = whole(br#"{"text":"hello"}"#, &attachments);
        let (head, publication) = decode_entry(&value, &space(), &"r".try_into().unwrap()).unwrap();
        assert_eq!((head.seq, head.offset, head.previous, head.end_bytes), (9, 4, 8, 10));
        assert_eq!(publication.position, Some(Position { epoch: Epoch(0x1234_5678_9abc), offset: 4 }));
        assert_eq!((publication.class, publication.seq), (Class::Persistent, 9));
        assert_eq!(publication.event.as_str(), "room:message");
        assert_eq!(&publication.data[..], br#"{"text":"hello"}"#);
        assert_eq!(&publication.attachments[..], attachments);
    }

    #[test]
    fn another_version_and_damage_are_told_apart() {
        let value = whole(b"1", &[]);
        let mut newer = value.to_vec();
        newer[0] = 2;
        assert_eq!(decode_frame(&newer.into()).err(), Some(Foreign::Version));
        assert_eq!(decode_frame(&Bytes::from_static(b"hello")).err(), Some(Foreign::Version));
        assert_eq!(decode_frame(&Bytes::new()).err(), Some(Foreign::Version));
        for length in 2..value.len() {
            let cut = value.slice(..length);
            assert_eq!(
                decode_entry(&cut, &space(), &"r".try_into().unwrap()).err(),
                Some(Foreign::Corrupt),
                "{length}"
            );
        }
        let mut impossible = head(Class::Recoverable, 3, 2);
        impossible[19] = 4;
        assert_eq!(Head::decode(&impossible).err(), Some(Foreign::Corrupt), "an offset above its seq");
    }

    #[test]
    fn leases_and_signals_are_read_as_they_were_written() {
        let user = UserId::try_from("alice").unwrap();
        let (before, after) = encode_lease(NodeId(7), &user, br#"{"userId":"alice","status":"online","lastSeen":5}"#);
        let frame = |after: &[u8]| -> Bytes { [&before[..], &[0, 0, 0, 0, 0, 3], after].concat().into() };
        let Ok(Frame::Lease(lease)) = decode_frame(&frame(&after)) else { panic!("no lease") };
        assert_eq!((lease.version, lease.node, lease.user.as_str()), (3, NodeId(7), "alice"));
        assert_eq!(lease.info.unwrap().last_seen, 5);
        let (_, gone) = encode_lease(NodeId(7), &user, b"");
        assert!(matches!(decode_frame(&frame(&gone)), Ok(Frame::Lease(lease)) if lease.info.is_none()));
        let (_, other) = encode_lease(NodeId(7), &user, br#"{"userId":"bob","status":"online","lastSeen":5}"#);
        assert_eq!(decode_frame(&frame(&other)).err(), Some(Foreign::Corrupt), "bob's presence as alice's");
        let signal = decode_frame(&encode_signal(NodeId(9), b"hi").into());
        assert!(matches!(signal, Ok(Frame::Signal { from: NodeId(9), body }) if &body[..] == b"hi"));
        let (before, after) = encode_leases_ended(NodeId(9));
        let ended: Bytes = [&before[..], &[0, 0, 0, 0, 0, 4], &after].concat().into();
        assert!(matches!(decode_frame(&ended), Ok(Frame::LeasesEnded { version: 4, node: NodeId(9) })));
        let gone = decode_frame(&encode_node_gone(NodeId(9)).into());
        assert!(matches!(gone, Ok(Frame::NodeGone(NodeId(9)))));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..8) {
            read_anything(&bytes.clone().into());
            if let [version, second, ..] = bytes.as_mut_slice() {
                (*version, *second) = (VERSION, kind);
            }
            read_anything(&bytes.into());
        }
    }
}
