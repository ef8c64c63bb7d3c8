//! What really happened in each space, and what a client may therefore see.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_types::{Class, RoomName};

/// A promise that was broken, in words.
pub type Broken = String;

#[derive(Clone, Debug)]
pub struct Entry {
    pub room: RoomName,
    pub offset: u64,
    pub class: Class,
    /// Which message of the run this is: the content.
    pub number: u64,
    /// Handed out, or certain to be.
    pub released: bool,
    /// The store refused it: a named gap has its place.
    pub withdrawn: bool,
}

/// One space's messages by `seq`.
#[derive(Default)]
pub struct Truth {
    entries: BTreeMap<u64, Entry>,
    /// Persistent messages whose sender was told so.
    acked: BTreeSet<u64>,
    offsets: BTreeSet<(RoomName, u64)>,
    /// Messages of clients that may be sent again, and are not to be published again.
    numbers: BTreeMap<u64, u64>,
}

impl Truth {
    pub fn published(&mut self, seq: u64, entry: Entry) -> Result<(), Broken> {
        if let Some(first) = self.numbers.insert(entry.number, seq) {
            return Err(format!("message {} was published twice, as {first} and as {seq}", entry.number));
        }
        let place = (entry.room.clone(), entry.offset);
        if !self.offsets.insert(place) {
            return Err(format!("offset {} of {} was given out twice", entry.offset, entry.room));
        }
        match self.entries.insert(seq, entry) {
            Some(old) => Err(format!("seq {seq} was given out twice, first for message {}", old.number)),
            None => Ok(()),
        }
    }

    pub fn withdrawn(&mut self, seq: u64) {
        if let Some(entry) = self.entries.get_mut(&seq) {
            entry.withdrawn = true;
            // Sending it again is a new try.
            if self.numbers.get(&entry.number) == Some(&seq) {
                self.numbers.remove(&entry.number);
            }
        }
    }

    /// What was sent before is not known any more: the process is another, or its clock has jumped over the window.
    pub fn repeats_forgotten(&mut self) {
        self.numbers.clear();
    }

    pub fn released_up_to(&mut self, head: u64) {
        for (_, entry) in self.entries.range_mut(..=head).rev().take_while(|(_, entry)| !entry.released) {
            entry.released = true;
        }
    }

    /// The message with the number has been told to its sender as durable.
    pub fn acked(&mut self, seq: u64) {
        self.acked.insert(seq);
    }

    /// The process died. What nobody had seen is history if the store has it, and otherwise never was.
    pub fn killed(&mut self, has: impl Fn(&RoomName, u64) -> bool) -> Result<(), Broken> {
        for seq in &self.acked {
            if let Some(entry) = self.entries.get(seq).filter(|entry| !has(&entry.room, *seq)) {
                return Err(format!("message {} (seq {seq}) was acknowledged and is lost", entry.number));
            }
        }
        let offsets = &mut self.offsets;
        self.entries.retain(|seq, entry| {
            entry.released |= entry.class == Class::Persistent && !entry.withdrawn && has(&entry.room, *seq);
            if !entry.released {
                offsets.remove(&(entry.room.clone(), entry.offset));
            }
            entry.released
        });
        Ok(())
    }

    pub fn get(&self, seq: u64) -> Option<&Entry> {
        self.entries.get(&seq).filter(|entry| entry.released)
    }

    /// The room's first released message after `seq`.
    pub fn next_in(&self, room: &RoomName, seq: u64) -> Option<u64> {
        let after = self.entries.range(seq.saturating_add(1)..);
        after.take_while(|(_, entry)| entry.released).find(|(_, entry)| entry.room == *room).map(|(seq, _)| *seq)
    }
}
