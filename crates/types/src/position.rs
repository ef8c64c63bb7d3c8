use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{push_hex, push_number};

/// Names one life of a counter. It changes when the counter's history is lost, so that a number of one life is never
/// taken for a number of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A position in one room: offsets are contiguous, so a hole is a loss. Text form `<epoch hex>-<offset>`; it is the SSE
/// event id and the history cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The life of the counter.
    pub epoch: Epoch,
    /// 1 for a room's first message; 0 means "before the first".
    pub offset: u64,
}

/// What a stock Socket.IO client sends back to recover: the last sequence number of its (tenant, namespace) that it saw.
/// Text form `<epoch hex>.<seq>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionOffset {
    /// The life of the counter.
    pub epoch: Epoch,
    /// The last sequence number seen; 0 means none.
    pub seq: u64,
}

/// How far a client has read a room: whichever of the two numbers it has at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bookmark {
    /// The room's own position.
    Room(Position),
    /// The offset that came with the last message, of whichever room of the namespace.
    Session(SessionOffset),
}

/// A position or offset that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPosition;

impl fmt::Display for InvalidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a position of the form <epoch>-<offset>")
    }
}

impl std::error::Error for InvalidPosition {}

fn split(text: &str, separator: char) -> Result<(Epoch, u64), InvalidPosition> {
    let (epoch, number) = text.split_once(separator).ok_or(InvalidPosition)?;
    if epoch.starts_with('+') || number.starts_with('+') {
        return Err(InvalidPosition);
    }
    let epoch = u64::from_str_radix(epoch, 16).map_err(|_| InvalidPosition)?;
    let number = number.parse().map_err(|_| InvalidPosition)?;
    Ok((Epoch(epoch), number))
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;
    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (epoch, offset) = split(text, '-')?;
        Ok(Self { epoch, offset })
    }
}

impl SessionOffset {
    /// Appends the text form; it is part of every recoverable message.
    pub fn push(&self, out: &mut Vec<u8>) {
        push_hex(out, self.epoch.0, 0);
        out.push(b'.');
        push_number(out, self.seq);
    }
}

impl fmt::Display for SessionOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

impl FromStr for SessionOffset {
    type Err = InvalidPosition;
    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (epoch, seq) = split(text, '.')?;
        Ok(Self { epoch, seq })
    }
}

impl fmt::Display for Bookmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room(position) => position.fmt(f),
            Self::Session(offset) => offset.fmt(f),
        }
    }
}

impl FromStr for Bookmark {
    type Err = InvalidPosition;
    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        text.parse().map(Self::Room).or_else(|_| text.parse().map(Self::Session))
    }
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
text_serde!(Position);
text_serde!(SessionOffset);
text_serde!(Bookmark);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn positions_survive_their_text(epoch: u64, offset: u64) {
            let position = Position { epoch: Epoch(epoch), offset };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
            let offset = SessionOffset { epoch: Epoch(epoch), seq: offset };
            prop_assert_eq!(offset.to_string().parse(), Ok(offset));
            let mut text = Vec::new();
            offset.push(&mut text);
            prop_assert_eq!(text, offset.to_string().into_bytes());
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = text.parse::<Position>();
            let _ = text.parse::<SessionOffset>();
        }
    }

    #[test]
    fn a_bookmark_is_told_by_its_separator() {
        let position = Position { epoch: Epoch(0xa1), offset: 7 };
        let offset = SessionOffset { epoch: Epoch(0xa1), seq: 7 };
        assert_eq!("a1-7".parse(), Ok(Bookmark::Room(position)));
        assert_eq!("a1.7".parse(), Ok(Bookmark::Session(offset)));
        assert_eq!(Bookmark::Room(position).to_string(), "a1-7");
        assert_eq!(Bookmark::Session(offset).to_string(), "a1.7");
        for text in ["", "7", "a1_7", "a1-7.1", "a1.-7"] {
            assert_eq!(text.parse::<Bookmark>(), Err(InvalidPosition), "{text}");
        }
    }

    #[test]
    fn a_sign_or_a_missing_half_is_refused() {
        for text in ["", "-", "1", "1-", "-1", "+1-2", "1-+2", "1--2", "g-1", "1.2"] {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text}");
        }
    }
}
