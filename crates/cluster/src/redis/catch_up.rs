//! What is done when a space is heard again: what its rooms missed is read from their logs, before anything newer is told.

use std::sync::Arc;

use tidegate_hub::{CaughtUp, RoomHead};
use tidegate_types::{Epoch, NodeId, RoomName};

use super::answer::RoomAnswer;
use super::follow::{Do, Known, Space, Stage, Touch};
use crate::Heard;

/// Bytes of missed messages that one comeback hands over. Rooms beyond it are told that there is a gap.
const MOST_MISSED: usize = 64 << 20;
/// Rooms that are read at once: answers are large, and others use the same connection.
const MOST_READS: usize = 64;

/// A comeback under way.
pub(super) struct Reading {
    pub(super) epoch: Epoch,
    as_of: u64,
    /// Rooms that have not been asked for yet, and how many have been and are not answered.
    waiting: Vec<RoomName>,
    asked: usize,
    bytes: usize,
    found: Vec<(CaughtUp, u64)>,
}

impl Space {
    pub(super) fn begin_reading(&mut self, epoch: Epoch, as_of: u64, out: &mut Vec<Do>) {
        let known = self.rooms.iter().filter(|(_, room)| room.known.is_some());
        let waiting = known.map(|(name, _)| name.clone()).collect();
        self.touch = Touch::Reading(Reading { epoch, as_of, waiting, asked: 0, bytes: 0, found: Vec::new() });
        self.read_on(out);
    }

    /// Asks for the next rooms; if there are none left, the space is in touch again.
    fn read_on(&mut self, out: &mut Vec<Do>) {
        let Touch::Reading(reading) = &mut self.touch else { return };
        while reading.asked < MOST_READS
            && let Some(name) = reading.waiting.pop()
        {
            let Some(known) = self.rooms.get(&name).and_then(|room| room.known) else { continue };
            reading.asked += 1;
            // In another life nothing that was missed has a place; what is newer than this comes over the channel.
            let after = if self.epoch == Some(reading.epoch) { known.seq } else { reading.as_of };
            out.push(Do::Read { room: name, after, attempt: self.attempt });
        }
        if reading.asked == 0 {
            self.finish_reading(out);
        }
    }

    /// A room's messages since it was last heard. `None`: it could not be read.
    pub(super) fn read(&mut self, name: &RoomName, attempt: u64, answer: Option<RoomAnswer>, out: &mut Vec<Do>) {
        if attempt != self.attempt {
            return;
        }
        let Touch::Reading(reading) = &mut self.touch else { return };
        let Some(answer) = answer.filter(|answer| answer.epoch == reading.epoch) else {
            self.attempt += 1;
            self.touch = Touch::Touching;
            out.push(Do::Touch { attempt: self.attempt, later: true });
            return;
        };
        reading.asked = reading.asked.saturating_sub(1);
        if let Some(known) = self.rooms.get(name).and_then(|room| room.known) {
            let goes_on = self.epoch == Some(reading.epoch);
            let version = answer.version;
            let own = answer.kept.iter().filter(|(node, ..)| *node == self.node);
            let kept = own.map(|(_, user, json)| (user.clone(), json.clone())).collect();
            out.push(Do::OwnLeases { room: name.clone(), kept });
            let room = missed(name, &known, answer, reading, goes_on, self.node);
            reading.found.push((room, version));
        }
        self.read_on(out);
    }

    fn finish_reading(&mut self, out: &mut Vec<Do>) {
        let Touch::Reading(reading) = &mut self.touch else { return };
        let (epoch, as_of) = (reading.epoch, reading.as_of);
        let found = std::mem::take(&mut reading.found);
        let mut rooms = Vec::with_capacity(found.len());
        for (caught_up, version) in found {
            // Who left the room meanwhile, or left it and came again, is not told of what was missed.
            let Some(room) = self.rooms.get_mut(&caught_up.room).filter(|room| room.known.is_some()) else { continue };
            let RoomHead { offset, seq, .. } = caught_up.head;
            room.known = Some(Known { offset, last_seq: seq, seq: as_of, version });
            room.stage = Stage::Following;
            rooms.push(caught_up);
        }
        self.heard = if self.epoch == Some(epoch) { self.heard.max(as_of) } else { as_of };
        self.epoch = Some(epoch);
        self.touch = Touch::In;
        out.push(Do::Heard(Heard::CaughtUp { space: Arc::clone(&self.key), epoch, as_of, rooms }));
        self.advance(out);
        self.drain(out);
    }
}

/// What was missed in a room: all of it, in order and without a hole, or nothing and that there is a gap.
fn missed(
    name: &RoomName,
    known: &Known,
    answer: RoomAnswer,
    reading: &mut Reading,
    goes_on: bool,
    node: NodeId,
) -> CaughtUp {
    let newer = answer.messages.iter().filter(|(head, _)| head.seq > reading.as_of).count() as u64;
    let mut head = answer.head;
    head.offset = head.offset.saturating_sub(newer);
    if head.seq > reading.as_of {
        let last = answer.messages.iter().rev().find(|(head, _)| head.seq <= reading.as_of);
        head.seq = last.map_or(if goes_on { known.last_seq } else { reading.as_of }, |(head, _)| head.seq);
    }
    let mut next = known.offset;
    let mut bytes = 0;
    let complete = goes_on
        && !answer.damaged
        && answer.messages.iter().all(|(head, publication)| {
            next += 1;
            bytes += publication.payload_bytes() + 256;
            head.offset == next
        })
        && next == answer.state.offset
        && reading.bytes + bytes <= MOST_MISSED;
    let mut missed = Vec::new();
    if complete {
        reading.bytes += bytes;
        missed.extend(answer.messages.into_iter().filter(|(head, _)| head.seq <= reading.as_of).map(|(_, it)| it));
    }
    let leases = answer.leases.into_iter().filter(|lease| lease.node != node).collect();
    CaughtUp { room: name.clone(), head, missed, gap: !complete, leases }
}
