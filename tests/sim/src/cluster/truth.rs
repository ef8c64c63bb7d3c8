//! What the broker really accepted, in the order in which it did, and what of it the broker has lost since.

use std::collections::BTreeMap;

use tidegate_types::{Epoch, NodeId, RoomName};

use crate::truth::Broken;

#[derive(Clone, Debug)]
pub struct Accepted {
    pub number: u64,
    pub room: RoomName,
    pub epoch: Epoch,
    pub seq: u64,
    pub offset: u64,
    /// How much the broker had written after it.
    pub writes: u64,
    /// The broker has lost it.
    pub lost: bool,
    /// The node that has told somebody that it is kept, while it lives to remember.
    pub acked: Option<NodeId>,
}

/// One space's messages.
#[derive(Default)]
pub struct Truth {
    all: Vec<Accepted>,
    by_number: BTreeMap<u64, Vec<usize>>,
}

impl Truth {
    pub fn accepted(&mut self, message: Accepted) -> Result<(), Broken> {
        let index = self.all.len();
        let before = self.by_number.entry(message.number).or_default();
        if let Some(first) = before.iter().filter_map(|at| self.all.get(*at)).find(|first| !first.lost) {
            return Err(format!("message {} was published twice: {first:?}, {message:?}", message.number));
        }
        before.push(index);
        let same = |of: &&Accepted| !of.lost && of.epoch == message.epoch;
        let clash = self
            .all
            .iter()
            .rev()
            .filter(same)
            .find(|of| of.seq >= message.seq || (of.room == message.room && of.offset >= message.offset));
        let clash = clash.map(|of| format!("numbers went back: {of:?}, then {message:?}"));
        self.all.push(message);
        clash.map_or(Ok(()), Err)
    }

    /// The broker is another life of itself, and has only its first so many writes.
    pub fn lost_after(&mut self, writes: u64) -> u64 {
        let lost = self.all.iter_mut().filter(|of| of.writes > writes && !of.lost);
        lost.map(|of| of.lost = true).count() as u64
    }

    pub fn acked(&mut self, by: NodeId, epoch: Epoch, seq: u64) {
        if let Some(of) = self.all.iter_mut().rev().find(|of| of.epoch == epoch && of.seq == seq && !of.lost) {
            of.acked = Some(by);
        }
    }

    /// The node has died, and with it what it knew. What the broker loses before somebody else has seen it, nobody misses.
    pub fn forgotten_with(&mut self, node: NodeId) {
        self.all.iter_mut().filter(|of| of.acked == Some(node)).for_each(|of| of.acked = None);
    }

    /// Where the message with these numbers and this content stands.
    pub fn find(&self, number: u64, epoch: Epoch, seq: u64, offset: u64, room: &RoomName) -> Option<usize> {
        let is = |of: &Accepted| {
            of.number == number && of.epoch == epoch && of.seq == seq && of.offset == offset && of.room == *room
        };
        self.all.iter().rposition(is)
    }

    /// The last message up to these numbers. Epochs are handed out in the order of their numbers here.
    pub fn last_up_to(&self, epoch: Epoch, seq: u64) -> Option<usize> {
        self.all.iter().rposition(|of| of.seq <= seq && (of.epoch == epoch || (of.epoch < epoch && !of.lost)))
    }

    /// The message with these numbers.
    pub fn at(&self, epoch: Epoch, seq: u64) -> Option<usize> {
        self.all.iter().rposition(|of| of.epoch == epoch && of.seq == seq)
    }

    pub fn is_lost(&self, at: usize) -> bool {
        self.all.get(at).is_some_and(|of| of.lost)
    }

    /// As [`Truth::last_up_to`], by the room's offset.
    pub fn last_of_room_up_to(&self, room: &RoomName, offset: u64) -> Option<usize> {
        self.all.iter().rposition(|of| !of.lost && of.room == *room && of.offset <= offset)
    }

    /// The room's first message after `from` and before `to` that is not lost.
    pub fn next_in(&self, room: &RoomName, from: Option<usize>, to: Option<usize>) -> Option<&Accepted> {
        let from = from.map_or(0, |from| from + 1);
        let between = self.all.iter().take(to.unwrap_or(usize::MAX)).skip(from);
        between.into_iter().find(|of| !of.lost && of.room == *room)
    }

    /// What somebody was told is kept, and is lost, and whose number nobody knows to be of another life.
    pub fn lost_in_silence(&self, epoch: Epoch) -> Option<&Accepted> {
        self.all.iter().find(|of| of.acked.is_some() && of.lost && of.epoch == epoch)
    }
}
