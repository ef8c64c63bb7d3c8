//! Values: a version byte, then the fields in order (see `fields`). Whatever the bytes hold, decoding answers with a value
//! or with `None`.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_hub::{Pid, RoomStart, SessionRecord, SocketId};
use tidegate_types::{
    Class, Epoch, EventName, Millis, Namespace, Position, Publication, RoomName, SpaceKey, TenantId, UserId,
};

use crate::fields::{Reader, put_bytes, put_optional, put_u64};

/// The version of the values below, unless they say otherwise. Another one is a corrupt value: the store's format number,
/// in `meta`, is what keeps an older program from reading what a newer one wrote.
const VERSION: u8 = 1;
/// Messages, rooms and spaces that also count bytes and remember what was removed.
const COUNTING: u8 = 2;

/// A value that has only one version.
fn versioned(bytes: &[u8]) -> Option<Reader<'_>> {
    let mut reader = Reader::new(bytes);
    (reader.u8()? == VERSION).then_some(reader)
}

/// A value that has two, and whether it is of the one that counts.
fn one_of_two(bytes: &[u8]) -> Option<(Reader<'_>, bool)> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        VERSION => Some((reader, false)),
        COUNTING => Some((reader, true)),
        _ => None,
    }
}

/// A stored message: what its key does not say.
pub(super) struct Message {
    /// Counts the persistent messages of the room without holes: how a read knows what is over the cap.
    pub(super) ordinal: u64,
    pub(super) seq: u64,
    pub(super) timestamp_ms: Millis,
    /// Payload bytes of the room's persistent messages up to and with this one, as the ordinal counts them. 0 if it was
    /// written before bytes were counted.
    pub(super) end_bytes: u64,
    /// Where the rest begins.
    body: usize,
}

impl Message {
    /// Reads the beginning of the value only.
    pub(super) fn head(value: &[u8]) -> Option<Self> {
        let (mut reader, counts) = one_of_two(value)?;
        let (ordinal, seq, timestamp_ms) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let end_bytes = if counts { reader.u64()? } else { 0 };
        Some(Self { ordinal, seq, timestamp_ms, end_bytes, body: reader.position() })
    }

    /// The whole publication; `value` is what [`Message::head`] was read from.
    pub(super) fn publication(
        &self,
        value: &Bytes,
        space: &Arc<SpaceKey>,
        room: &RoomName,
        position: Position,
    ) -> Option<Publication> {
        let mut reader = Reader::within(value, self.body)?;
        let class = match reader.u8()? {
            1 => Class::Recoverable,
            2 => Class::Persistent,
            _ => return None,
        };
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
            class,
            position: Some(position),
            seq: self.seq,
            timestamp_ms: self.timestamp_ms,
        })
    }
}

pub(super) fn encode_message(publication: &Publication, ordinal: u64, end_bytes: u64) -> Vec<u8> {
    let event = publication.event.as_str();
    let mut out = Vec::with_capacity(56 + event.len() + publication.payload_bytes());
    out.push(COUNTING);
    put_u64(&mut out, ordinal);
    put_u64(&mut out, publication.seq);
    put_u64(&mut out, publication.timestamp_ms);
    put_u64(&mut out, end_bytes);
    out.push(match publication.class {
        // A volatile message has no position and never comes here.
        Class::Volatile | Class::Recoverable => 1,
        Class::Persistent => 2,
    });
    put_bytes(&mut out, event.as_bytes());
    put_bytes(&mut out, &publication.data);
    put_u64(&mut out, publication.attachments.len() as u64);
    for attachment in publication.attachments.iter() {
        put_bytes(&mut out, attachment);
    }
    out
}

/// A saved ring's entry: room and offset, then the message.
pub(super) fn encode_ring_entry(publication: &Publication) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, publication.room.as_str().as_bytes());
    put_u64(&mut out, publication.position.map_or(0, |position| position.offset));
    out.extend_from_slice(&encode_message(publication, 0, 0));
    out
}

pub(super) fn decode_ring_entry(value: &[u8], space: &Arc<SpaceKey>, epoch: Epoch) -> Option<Publication> {
    let mut reader = Reader::new(value);
    let room = RoomName::try_from(reader.text()?).ok()?;
    let offset = reader.u64()?;
    // A copy: the hub keeps the message for minutes, and the value is a piece of a larger block.
    let rest = Bytes::copy_from_slice(reader.rest());
    Message::head(&rest)?.publication(&rest, space, &room, Position { epoch, offset })
}

/// What is remembered of a room apart from its messages. On append only the message is written; the counters that count
/// are the larger of these and the last message's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RoomHead {
    /// No message below this offset is stored: where scans begin, so that they do not walk over what was removed.
    pub(super) first_offset: u64,
    pub(super) last_offset: u64,
    /// Of persistent messages.
    pub(super) last_seq: u64,
    pub(super) last_ordinal: u64,
    pub(super) floor_seq: u64,
    /// When the room's youngest message was accepted.
    pub(super) last_timestamp_ms: Millis,
    /// See [`Message::end_bytes`].
    pub(super) last_bytes: u64,
    /// The highest `seq` of a persistent message that has been removed: a read from below it is not complete.
    pub(super) removed_seq: u64,
}

impl RoomHead {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![COUNTING];
        for number in [
            self.first_offset,
            self.last_offset,
            self.last_seq,
            self.last_ordinal,
            self.floor_seq,
            self.last_timestamp_ms,
            self.last_bytes,
            self.removed_seq,
        ] {
            put_u64(&mut out, number);
        }
        out
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (mut reader, counts) = one_of_two(value)?;
        let mut head = Self {
            first_offset: reader.u64()?,
            last_offset: reader.u64()?,
            last_seq: reader.u64()?,
            last_ordinal: reader.u64()?,
            floor_seq: reader.u64()?,
            last_timestamp_ms: reader.u64()?,
            last_bytes: 0,
            removed_seq: 0,
        };
        if counts {
            (head.last_bytes, head.removed_seq) = (reader.u64()?, reader.u64()?);
        } else {
            // It did not say.
            head.removed_seq = head.last_seq;
        }
        reader.end(head)
    }

    pub(super) fn start(&self, room: RoomName) -> RoomStart {
        RoomStart { room, last_offset: self.last_offset, last_persistent_seq: self.last_seq, floor_seq: self.floor_seq }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpaceRecord {
    pub(super) epoch: Epoch,
    pub(super) reserved_seq: u64,
    /// At the last clean stop, or of a room that was forgotten since.
    pub(super) last_seq: u64,
    /// The highest `seq` of a persistent message of a room that was forgotten.
    pub(super) forgotten_seq: u64,
}

impl SpaceRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![COUNTING];
        put_u64(&mut out, self.epoch.0);
        put_u64(&mut out, self.reserved_seq);
        put_u64(&mut out, self.last_seq);
        put_u64(&mut out, self.forgotten_seq);
        out
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (mut reader, counts) = one_of_two(value)?;
        let (epoch, reserved_seq, last_seq) = (Epoch(reader.u64()?), reader.u64()?, reader.u64()?);
        let forgotten_seq = if counts { reader.u64()? } else { last_seq };
        reader.end(Self { epoch, reserved_seq, last_seq, forgotten_seq })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) format: u64,
    /// How often the store has been opened.
    pub(super) generation: u64,
    pub(super) clean: bool,
    /// The kernel's id of the boot under which it was open.
    pub(super) boot_id: String,
}

impl Meta {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u64(&mut out, self.format);
        put_u64(&mut out, self.generation);
        out.push(u8::from(self.clean));
        put_bytes(&mut out, self.boot_id.as_bytes());
        out
    }

    /// The format alone is read first: what follows it may mean something else in another format.
    pub(super) fn format(value: &[u8]) -> Option<u64> {
        Reader::new(value).u64()
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let meta = Self {
            format: reader.u64()?,
            generation: reader.u64()?,
            clean: reader.bool()?,
            boot_id: reader.text()?.to_owned(),
        };
        reader.end(meta)
    }
}

/// A session's record, with the generation of the store that wrote it: a session that was connected then is cut now.
pub(super) fn encode_session(record: &SessionRecord, generation: u64) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_u64(&mut out, generation);
    put_optional(&mut out, record.expires_at);
    put_optional(&mut out, record.token_expires_at);
    for text in [record.socket_id.as_str(), record.tenant.as_str(), record.namespace.as_str(), record.user.as_str()] {
        put_bytes(&mut out, text.as_bytes());
    }
    put_u64(&mut out, record.rooms.len() as u64);
    for (room, seq) in &record.rooms {
        put_bytes(&mut out, room.as_str().as_bytes());
        put_u64(&mut out, *seq);
    }
    out
}

/// The generation and the expiry, without the rest: for the sweep.
pub(super) fn decode_session_expiry(value: &[u8]) -> Option<(u64, Option<Millis>)> {
    let mut reader = versioned(value)?;
    Some((reader.u64()?, reader.optional()?))
}

pub(super) fn decode_session(pid: &Pid, value: &[u8]) -> Option<SessionRecord> {
    let mut reader = versioned(value)?;
    let _generation = reader.u64()?;
    let expires_at = reader.optional()?;
    let token_expires_at = reader.optional()?;
    let socket_id = SocketId::from(reader.text()?);
    let tenant = TenantId::try_from(reader.text()?).ok()?;
    let namespace = Namespace::try_from(reader.text()?).ok()?;
    let user = UserId::try_from(reader.text()?).ok()?;
    let count = reader.u64()?;
    let mut rooms = Vec::new();
    for _ in 0..count {
        rooms.push((RoomName::try_from(reader.text()?).ok()?, reader.u64()?));
    }
    reader.end(SessionRecord {
        pid: pid.clone(),
        socket_id,
        tenant,
        namespace,
        user,
        rooms,
        token_expires_at,
        expires_at,
    })
}
