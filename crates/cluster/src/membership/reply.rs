//! What the scripts answer.

use bytes::Bytes;
use tidegate_types::{NodeId, NodeNumber};

/// The answer to a request for membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// It is one, under this number.
    Member(NodeNumber),
    /// Not yet: what it held before is being taken back.
    Wait,
    /// There are as many nodes as there are numbers.
    Full,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The node is no member (any more).
    Gone,
    /// It is.
    Member(Box<Beaten>),
}

/// What a heartbeat told.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Beaten {
    /// The node's number.
    pub number: u16,
    /// Counts the changes of members.
    pub version: u64,
    /// How long ago the longest silent member was heard, ms.
    pub silence_ms: u64,
    /// Whether `changed` are all members there are.
    pub whole: bool,
    /// Dead nodes that are this node's now: what they held is to be taken back.
    pub claimed: Vec<NodeId>,
    /// Members by their id, with their entries; an empty one is a member that is gone.
    pub changed: Vec<(Bytes, Bytes)>,
}

/// Not an answer of our scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer that no script of ours gives")]
pub struct InvalidReply;

impl Registered {
    /// Reads the script's answer.
    ///
    /// # Errors
    /// [`InvalidReply`].
    pub fn read(reply: &[Bytes]) -> Result<Self, InvalidReply> {
        match reply {
            [word] if **word == *b"wait" => Ok(Self::Wait),
            [word] if **word == *b"full" => Ok(Self::Full),
            [word, number] if **word == *b"member" => {
                let number = read_number(number)?;
                Ok(Self::Member(NodeNumber(u16::try_from(number).map_err(|_| InvalidReply)?)))
            }
            _ => Err(InvalidReply),
        }
    }
}

impl Beat {
    /// Reads the script's answer.
    ///
    /// # Errors
    /// [`InvalidReply`].
    pub fn read(reply: &[Bytes]) -> Result<Self, InvalidReply> {
        let [word, number, version, silence, extent, rest @ ..] = reply else {
            return if matches!(reply, [word] if **word == *b"gone") { Ok(Self::Gone) } else { Err(InvalidReply) };
        };
        if **word != *b"member" {
            return Err(InvalidReply);
        }
        let mut rest = rest.iter();
        let mut claimed = Vec::new();
        loop {
            match rest.next() {
                Some(end) if end.is_empty() => break,
                // An id that is none stands there for no node: nobody holds anything by it.
                Some(id) => claimed.extend(std::str::from_utf8(id).ok().and_then(|id| id.parse::<NodeId>().ok())),
                None => return Err(InvalidReply),
            }
        }
        let mut changed = Vec::with_capacity(rest.len() / 2);
        while let Some(id) = rest.next() {
            changed.push((id.clone(), rest.next().ok_or(InvalidReply)?.clone()));
        }
        Ok(Self::Member(Box::new(Beaten {
            number: u16::try_from(read_number(number)?).map_err(|_| InvalidReply)?,
            version: read_number(version)?,
            silence_ms: read_number(silence)?,
            whole: **extent == *b"whole",
            claimed,
            changed,
        })))
    }
}

fn read_number(text: &[u8]) -> Result<u64, InvalidReply> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(InvalidReply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(words: &[&str]) -> Vec<Bytes> {
        words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }

    #[test]
    fn answers_are_read() {
        assert_eq!(Registered::read(&reply(&["member", "9"])), Ok(Registered::Member(NodeNumber(9))));
        assert_eq!(Beat::read(&reply(&["gone"])), Ok(Beat::Gone));
        let words = ["member", "9", "12", "250", "part", "00000000000000aa", "", "00000000000000bb", ""];
        let Ok(Beat::Member(beaten)) = Beat::read(&reply(&words)) else { panic!() };
        assert_eq!((beaten.number, beaten.version, beaten.silence_ms, beaten.whole), (9, 12, 250, false));
        assert_eq!(beaten.claimed, [NodeId(0xaa)]);
        assert_eq!(beaten.changed, [(Bytes::from_static(b"00000000000000bb"), Bytes::new())]);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(words in proptest::collection::vec("[a-z0-9:]{0,16}", 0..12)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let _ = Registered::read(&reply(&words));
            let _ = Beat::read(&reply(&[&["member", "1", "2", "3", "part"], &words[..]].concat()));
        }
    }
}
