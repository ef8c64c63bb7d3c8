//! What Redis keeps of a room beside its messages: eleven numbers of six bytes, which the publish script writes as a whole.

use tidegate_hub::RoomHead;
use tidegate_types::Millis;

use super::message::Head;
use crate::fields::Reader;

/// A room's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoomState {
    /// The last offset.
    pub(super) offset: u64,
    /// The last message's seq; 0 if there was none since the record was made.
    pub(super) seq: u64,
    pub(super) log: LogState,
    pub(super) ring: LogState,
    /// The offset before its first message.
    pub(super) began: u64,
}

/// One of a room's two logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogState {
    /// The seq of its last message, or a number that no earlier message exceeds.
    pub(super) last: u64,
    /// Payload bytes ever put into it.
    pub(super) bytes: u64,
    /// What `bytes` was when a message was put in before which nothing is kept: a lower bound.
    first_bytes: u64,
    /// When it is looked through again for what is too old.
    due: Millis,
}

impl RoomState {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (offset, seq) = (reader.u48_be()?, reader.u48_be()?);
        let (log, ring) = (LogState::read(&mut reader)?, LogState::read(&mut reader)?);
        let began = reader.u48_be()?;
        reader.end(Self { offset, seq, log, ring, began })
    }

    /// Where the room stands. The first entries' heads tell what is missing before them.
    pub(super) fn head(&self, log: Option<&Head>, ring: Option<&Head>) -> RoomHead {
        let trimmed_seq = self.log.trimmed(log).max(self.ring.trimmed(ring));
        RoomHead { offset: self.offset, seq: self.seq, trimmed_seq, began: self.began }
    }
}

impl LogState {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            last: reader.u48_be()?,
            bytes: reader.u48_be()?,
            first_bytes: reader.u48_be()?,
            due: reader.u48_be()?,
        })
    }

    /// The highest seq of a message that is no longer in the log, given its first entry.
    pub(super) fn trimmed(&self, first: Option<&Head>) -> u64 {
        first.map_or(self.last, |first| first.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_eleven_numbers() {
        let bytes: Vec<u8> = (1..=11u64).flat_map(|number| u64::to_be_bytes(number)[2..].to_vec()).collect();
        let state = RoomState::decode(&bytes).unwrap();
        assert_eq!((state.offset, state.seq, state.log.last, state.ring.last, state.ring.due), (1, 2, 3, 7, 10));
        assert_eq!(state.head(None, None), RoomHead { offset: 1, seq: 2, trimmed_seq: 7, began: 11 });
        assert_eq!(RoomState::decode(&bytes[..65]), None);
        assert_eq!(RoomState::decode(&[&bytes[..], &[0]].concat()), None);
    }
}
