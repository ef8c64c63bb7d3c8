//! What the room script answers, taken apart.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_hub::{Lease, RoomHead};
use tidegate_types::{Epoch, Millis, NodeId, Publication, RoomName, SpaceKey, UserId};

use super::message::{self, Foreign, Head};
use super::resp::Value;
use super::state::RoomState;

/// A room at one moment, as Redis has it.
#[derive(Clone, Debug)]
pub(super) struct RoomAnswer {
    pub(super) epoch: Epoch,
    /// The space's.
    pub(super) seq: u64,
    pub(super) state: RoomState,
    pub(super) head: RoomHead,
    pub(super) now: Millis,
    /// What was asked for, of both logs, in the order of `seq`.
    pub(super) messages: Vec<(Head, Arc<Publication>)>,
    /// Some of what was asked for could not be read, or there is more than was asked for.
    pub(super) damaged: bool,
    /// Of the leases.
    pub(super) version: u64,
    pub(super) leases: Vec<Lease>,
    /// What cannot be read was skipped: so often, for this reason.
    pub(super) foreign: Vec<Foreign>,
    /// The values of the leases, as they are kept.
    pub(super) kept: Vec<(NodeId, UserId, Bytes)>,
}

/// Whether a script answers that the space was last written under another server: it must be looked at again first.
pub(super) fn is_other_run(value: &Value) -> bool {
    value.bytes().is_some_and(|bytes| &**bytes == b"run")
}

fn number(value: Option<&Value>) -> Option<u64> {
    u64::try_from(value?.int()?).ok()
}

/// The touch script's answer.
pub(super) fn counters(value: &Value) -> Option<(Epoch, u64)> {
    let [epoch, seq] = value.array()? else { return None };
    Some((Epoch(number(Some(epoch))?), number(Some(seq))?))
}

/// The first entry's head of a log. What cannot be read proves nothing about what was before it: nothing is complete then.
fn first(value: Option<&Value>, foreign: &mut Vec<Foreign>) -> Option<Option<Head>> {
    let bytes = value?.bytes()?;
    if bytes.is_empty() {
        return Some(None);
    }
    match Head::decode(bytes) {
        Ok(head) => Some(Some(head)),
        Err(kind) => {
            foreign.push(kind);
            None
        }
    }
}

impl RoomAnswer {
    /// `None`: not an answer of our script. `most` is how many messages of each log were asked for.
    pub(super) fn read(value: Value, space: &Arc<SpaceKey>, room: &RoomName, most: usize) -> Option<Self> {
        let parts = value.into_array()?;
        let mut foreign = Vec::new();
        let epoch = Epoch(number(parts.first())?);
        let seq = number(parts.get(1))?;
        let state = RoomState::decode(parts.get(2)?.bytes()?)?;
        let (log, ring) = (first(parts.get(3), &mut foreign), first(parts.get(4), &mut foreign));
        let mut damaged = log.is_none() || ring.is_none();
        let mut head = state.head(log.flatten().as_ref(), ring.flatten().as_ref());
        if damaged {
            head.trimmed_seq = seq;
        }
        let now = number(parts.get(5))?;
        let mut messages = Vec::new();
        for values in [parts.get(6)?, parts.get(7)?] {
            let values = values.array()?;
            damaged |= values.len() >= most;
            for value in values {
                match value.bytes().ok_or(Foreign::Corrupt).and_then(|value| message::decode_entry(value, space, room))
                {
                    Ok((head, publication)) => messages.push((head, Arc::new(publication))),
                    Err(kind) => {
                        foreign.push(kind);
                        damaged = true;
                    }
                }
            }
        }
        messages.sort_unstable_by_key(|(head, _)| head.seq);
        let mut answer = Self {
            epoch,
            seq,
            state,
            head,
            now,
            messages,
            damaged,
            version: 0,
            leases: Vec::new(),
            foreign,
            kept: Vec::new(),
        };
        answer.damaged |= number(parts.get(9)) != Some(0);
        answer.who(parts.into_iter().nth(8)?)?;
        Some(answer)
    }

    fn who(&mut self, value: Value) -> Option<()> {
        for (field, value) in value.into_pairs()? {
            if field.text() == Some("v") {
                self.version = number(Some(&value)).unwrap_or(0);
                continue;
            }
            let lease = field.text().and_then(|field| {
                let (node, user) = field.split_once(':')?;
                let (node, user) = (node.parse::<NodeId>().ok()?, UserId::try_from(user).ok()?);
                let json = value.bytes()?;
                let info = message::presence(json, &user)?;
                Some((node, user, json.clone(), info))
            });
            match lease {
                Some((node, user, json, info)) => {
                    self.leases.push(Lease { node, info });
                    self.kept.push((node, user, json));
                }
                None => self.foreign.push(Foreign::Corrupt),
            }
        }
        Some(())
    }
}
