use std::sync::Arc;

use bytes::Bytes;

use crate::{EventName, Millis, Position, RoomName, SessionOffset, SpaceKey};

/// What is promised for a message; see docs/delivery.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// At most once; dropped first; has no position.
    Volatile,
    /// In order; replayed after a short cut from memory.
    Recoverable,
    /// In order; appended to the store before the sender's ack.
    Persistent,
}

/// One event to one room, with its place in the room's order. Immutable and shared by reference everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Tenant and namespace.
    pub space: Arc<SpaceKey>,
    /// The room.
    pub room: RoomName,
    /// The event's name, e.g. `room:message`.
    pub event: EventName,
    /// The event's arguments as JSON, comma-separated, without the enclosing brackets: usually one object. Binary values
    /// stand in it as `{"_placeholder":true,"num":k}`.
    pub data: Bytes,
    /// The binary values, in the order of their placeholders.
    pub attachments: Arc<[Bytes]>,
    /// What is promised.
    pub class: Class,
    /// The room's position of this message; `None` for volatile messages.
    pub position: Option<Position>,
    /// The space's sequence number, assigned together with the position; 0 for volatile messages.
    pub seq: u64,
    /// When it was accepted, ms since the Unix epoch.
    pub timestamp_ms: Millis,
}

impl Publication {
    /// What a stock client must name to continue after this message; `None` for volatile messages.
    pub fn session_offset(&self) -> Option<SessionOffset> {
        self.position.map(|position| SessionOffset { epoch: position.epoch, seq: self.seq })
    }

    /// Bytes of payload held, for caps and counters.
    pub fn payload_bytes(&self) -> usize {
        self.data.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }
}
