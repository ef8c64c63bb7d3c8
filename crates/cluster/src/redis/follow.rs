//! One space as this node follows it: which rooms, how far each has been heard, and what is done after a cut. Pure: what is
//! to be sent comes out as [`Do`]; what was answered comes in.
//!
//! Everything of a space comes over one connection, in the order in which the scripts ran. A look at a room leaves a mark in
//! that stream: what stands before the mark is in the look's answer, what stands after it is not. So a room begins exactly
//! once, and between the messages of the other rooms that it belongs between.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tidegate_types::{Epoch, NodeId, RoomName, SpaceKey, UserId};

use super::answer::RoomAnswer;
use super::catch_up::Reading;
use super::message::{Frame, Head, LeaseFrame, publication};
use crate::Heard;

use bytes::Bytes;

/// Bytes of frames that may wait for an answer. Beyond it the space is read again from the logs.
const MOST_HELD: usize = 8 << 20;
/// Looks that are taken at once: what waits behind them for the same connection is not to wait long.
const MOST_LOOKS: usize = 256;
/// What the space wants done.
#[derive(Debug, PartialEq)]
pub(super) enum Do {
    Subscribe(Channel),
    Unsubscribe(Channel),
    /// Ask for the counters; if `later`, after a moment.
    Touch {
        attempt: u64,
        later: bool,
    },
    /// Look at a room, leaving this mark.
    Look {
        room: RoomName,
        mark: u64,
    },
    /// Read a room's messages after this seq.
    Read {
        room: RoomName,
        after: u64,
        attempt: u64,
    },
    Heard(Heard),
    /// What Redis keeps of this node's own leases in the room: to be put right if it is not so.
    OwnLeases {
        room: RoomName,
        kept: Vec<(UserId, Bytes)>,
    },
    /// A frame could not be read as a message of its room.
    Corrupt,
}

/// A channel of the space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Channel {
    /// This node's marks.
    Marks,
    Room(RoomName),
}

/// One space.
pub(super) struct Space {
    pub(super) key: Arc<SpaceKey>,
    pub(super) node: NodeId,
    /// The life of the counters that the hub has been told.
    pub(super) epoch: Option<Epoch>,
    /// The highest seq of any message that has been heard, or passed by in a catch-up.
    pub(super) heard: u64,
    connected: bool,
    pub(super) rooms: FxHashMap<RoomName, Room>,
    /// Subscriptions that are not confirmed yet. One channel may have several, if it was left and joined again meanwhile.
    unconfirmed: FxHashMap<Channel, u32>,
    has_marks: bool,
    /// Known rooms that are not subscribed to again yet.
    cut_off: usize,
    /// Rooms that are subscribed to and have to be looked at.
    to_look: VecDeque<RoomName>,
    pub(super) touch: Touch,
    /// Frames behind one that waits for an answer, in order.
    held: VecDeque<(Channel, Frame, usize)>,
    held_bytes: usize,
    marks: FxHashMap<u64, RoomName>,
    next_mark: u64,
    /// Which comeback an answer belongs to.
    pub(super) attempt: u64,
}

#[derive(Default)]
pub(super) struct Room {
    pub(super) stage: Stage,
    /// How far it has been heard; `None` until the hub has been told that it is followed.
    pub(super) known: Option<Known>,
}

#[derive(Default)]
pub(super) enum Stage {
    #[default]
    Subscribing,
    Subscribed,
    Looking(u64, Option<Box<RoomAnswer>>),
    Following,
}

#[derive(Clone, Copy)]
pub(super) struct Known {
    /// The last offset.
    pub(super) offset: u64,
    /// The last message's seq, 0 if there was none.
    pub(super) last_seq: u64,
    /// Everything up to this seq has been heard or need not be.
    pub(super) seq: u64,
    /// Of the leases.
    pub(super) version: u64,
}

pub(super) enum Touch {
    In,
    /// Until every channel is confirmed on the new connection.
    Waiting,
    /// Until the counters are known.
    Touching,
    Reading(Reading),
}

impl Space {
    pub(super) fn new(key: Arc<SpaceKey>, node: NodeId) -> Self {
        Self {
            key,
            node,
            epoch: None,
            heard: 0,
            connected: false,
            rooms: FxHashMap::default(),
            unconfirmed: FxHashMap::default(),
            has_marks: false,
            cut_off: 0,
            to_look: VecDeque::new(),
            touch: Touch::In,
            held: VecDeque::new(),
            held_bytes: 0,
            marks: FxHashMap::default(),
            next_mark: 0,
            attempt: 0,
        }
    }

    pub(super) fn rooms(&self) -> impl Iterator<Item = &RoomName> {
        self.rooms.keys()
    }

    pub(super) fn follows(&self) -> bool {
        !self.rooms.is_empty()
    }

    /// The life of the counters that the hub has been told.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The highest seq heard in the epoch that the hub knows.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    pub(super) fn follow(&mut self, name: &RoomName, out: &mut Vec<Do>) {
        if self.rooms.contains_key(name) {
            return;
        }
        self.rooms.insert(name.clone(), Room::default());
        if self.connected {
            if self.rooms.len() == 1 && !self.has_marks && !self.unconfirmed.contains_key(&Channel::Marks) {
                self.subscribe(Channel::Marks, out);
            }
            self.subscribe(Channel::Room(name.clone()), out);
        }
    }

    pub(super) fn unfollow(&mut self, name: &RoomName, out: &mut Vec<Do>) {
        let Some(room) = self.rooms.remove(name) else { return };
        if room.known.is_some() && matches!(room.stage, Stage::Subscribing) {
            self.cut_off = self.cut_off.saturating_sub(1);
        }
        if self.connected {
            out.push(Do::Unsubscribe(Channel::Room(name.clone())));
        }
        self.advance(out);
        self.drain(out);
    }

    fn subscribe(&mut self, channel: Channel, out: &mut Vec<Do>) {
        *self.unconfirmed.entry(channel.clone()).or_default() += 1;
        out.push(Do::Subscribe(channel));
    }

    /// The connection over which the space is heard has gone.
    pub(super) fn lost(&mut self, out: &mut Vec<Do>) {
        self.connected = false;
        self.has_marks = false;
        self.unconfirmed.clear();
        self.to_look.clear();
        for room in self.rooms.values_mut() {
            room.stage = Stage::Subscribing;
        }
        self.cut_off = self.rooms.values().filter(|room| room.known.is_some()).count();
        self.out_of_touch(Touch::Waiting, out);
    }

    /// There is a connection again, without any subscription.
    pub(super) fn found(&mut self, out: &mut Vec<Do>) {
        if self.connected {
            self.lost(out);
        }
        self.connected = true;
        if self.rooms.is_empty() {
            return;
        }
        self.subscribe(Channel::Marks, out);
        let rooms: Vec<RoomName> = self.rooms.keys().cloned().collect();
        for room in rooms {
            self.subscribe(Channel::Room(room), out);
        }
    }

    /// Reads everything again, although the connection holds: what was heard does not fit.
    pub(super) fn catch_up(&mut self, out: &mut Vec<Do>) {
        self.to_look.clear();
        for (name, room) in &mut self.rooms {
            if matches!(room.stage, Stage::Subscribing) {
                continue;
            }
            room.stage = Stage::Subscribed;
            if room.known.is_none() {
                self.to_look.push_back(name.clone());
            }
        }
        self.out_of_touch(Touch::Waiting, out);
        self.advance(out);
    }

    fn out_of_touch(&mut self, touch: Touch, out: &mut Vec<Do>) {
        self.attempt += 1;
        self.held.clear();
        self.held_bytes = 0;
        self.marks.clear();
        if self.rooms.values().any(|room| room.known.is_some()) {
            if matches!(self.touch, Touch::In) {
                out.push(Do::Heard(Heard::OutOfTouch { space: Arc::clone(&self.key) }));
            }
            self.touch = touch;
        } else if matches!(self.touch, Touch::In) {
            // Nothing is followed yet that could be missed.
        } else {
            self.touch = touch;
        }
    }

    /// The server has confirmed a subscription.
    pub(super) fn confirmed(&mut self, channel: Channel, out: &mut Vec<Do>) {
        match self.unconfirmed.get_mut(&channel) {
            Some(count) if *count > 1 => {
                *count -= 1;
                return;
            }
            Some(_) => drop(self.unconfirmed.remove(&channel)),
            None => return,
        }
        match channel {
            Channel::Marks => self.has_marks = true,
            Channel::Room(name) => match self.rooms.get_mut(&name) {
                Some(room) if matches!(room.stage, Stage::Subscribing) => {
                    room.stage = Stage::Subscribed;
                    if room.known.is_some() {
                        self.cut_off = self.cut_off.saturating_sub(1);
                    } else {
                        self.to_look.push_back(name);
                    }
                }
                _ => {}
            },
        }
        self.advance(out);
    }

    /// Takes whatever step has become possible.
    pub(super) fn advance(&mut self, out: &mut Vec<Do>) {
        if !self.connected {
            return;
        }
        match &self.touch {
            Touch::Waiting => {
                if self.has_marks && self.cut_off == 0 || self.rooms.is_empty() {
                    self.touch = Touch::Touching;
                    out.push(Do::Touch { attempt: self.attempt, later: false });
                }
            }
            Touch::In if self.has_marks => {
                while self.marks.len() < MOST_LOOKS
                    && let Some(name) = self.to_look.pop_front()
                {
                    let Some(room) = self.rooms.get_mut(&name) else { continue };
                    if matches!(room.stage, Stage::Subscribed) && room.known.is_none() {
                        self.next_mark += 1;
                        room.stage = Stage::Looking(self.next_mark, None);
                        self.marks.insert(self.next_mark, name.clone());
                        out.push(Do::Look { room: name, mark: self.next_mark });
                    }
                }
            }
            Touch::In | Touch::Touching | Touch::Reading(_) => {}
        }
    }

    /// The counters: of a comeback if `attempt` is its, else of a look now and then.
    pub(super) fn touched(&mut self, attempt: Option<u64>, counters: Option<(Epoch, u64)>, out: &mut Vec<Do>) {
        let is_mine = attempt == Some(self.attempt) && matches!(self.touch, Touch::Touching);
        match counters {
            Some((epoch, seq)) if is_mine => self.begin_reading(epoch, seq, out),
            None if is_mine => out.push(Do::Touch { attempt: self.attempt, later: true }),
            Some((epoch, _)) if matches!(self.touch, Touch::In) && self.epoch.is_some_and(|told| told != epoch) => {
                self.other_epoch(epoch, out);
            }
            Some((epoch, _)) if self.epoch.is_none() => self.epoch = Some(epoch),
            _ => {}
        }
    }

    /// The counters have begun another life.
    fn other_epoch(&mut self, epoch: Epoch, out: &mut Vec<Do>) {
        if self.rooms.values().any(|room| room.known.is_some()) {
            self.catch_up(out);
        } else {
            self.epoch = Some(epoch);
            self.heard = 0;
            let space = Arc::clone(&self.key);
            out.push(Do::Heard(Heard::OutOfTouch { space: Arc::clone(&space) }));
            out.push(Do::Heard(Heard::CaughtUp { space, epoch, as_of: 0, rooms: Vec::new() }));
        }
    }

    /// What a look found. `None`: it could not be taken.
    pub(super) fn looked(&mut self, name: &RoomName, mark: u64, answer: Option<RoomAnswer>, out: &mut Vec<Do>) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let Stage::Looking(current, place) = &mut room.stage else { return };
        if *current != mark {
            return;
        }
        match answer {
            Some(answer) => *place = Some(Box::new(answer)),
            None => {
                room.stage = Stage::Subscribed;
                self.marks.remove(&mark);
                self.to_look.push_back(name.clone());
            }
        }
        self.drain(out);
    }

    /// Rooms that could not be looked at are tried again.
    pub(super) fn again(&mut self, out: &mut Vec<Do>) {
        self.advance(out);
    }

    /// Something came over a channel.
    pub(super) fn frame(&mut self, channel: Channel, frame: Frame, bytes: usize, out: &mut Vec<Do>) {
        if let Channel::Room(name) = &channel
            && !self.rooms.contains_key(name)
        {
            return;
        }
        if matches!(self.touch, Touch::In) && self.held.is_empty() {
            if let Some(frame) = self.take(&channel, frame, out) {
                self.hold(channel, frame, bytes, out);
            }
        } else {
            self.hold(channel, frame, bytes, out);
        }
    }

    fn hold(&mut self, channel: Channel, frame: Frame, bytes: usize, out: &mut Vec<Do>) {
        let bytes = bytes + 96;
        if self.held_bytes + bytes > MOST_HELD {
            self.catch_up(out);
            return;
        }
        self.held_bytes += bytes;
        self.held.push_back((channel, frame, bytes));
    }

    pub(super) fn drain(&mut self, out: &mut Vec<Do>) {
        while matches!(self.touch, Touch::In) {
            let Some((channel, frame, bytes)) = self.held.pop_front() else { return };
            self.held_bytes = self.held_bytes.saturating_sub(bytes);
            if let Some(frame) = self.take(&channel, frame, out) {
                self.held_bytes += bytes;
                self.held.push_front((channel, frame, bytes));
                return;
            }
        }
    }

    /// Takes a frame in its turn; gives it back if its turn has not come.
    fn take(&mut self, channel: &Channel, frame: Frame, out: &mut Vec<Do>) -> Option<Frame> {
        match (channel, frame) {
            (Channel::Marks, Frame::Mark(mark)) => return self.mark(mark, out),
            (Channel::Room(name), Frame::Message(head, value)) => self.message(name, &head, &value, out),
            (Channel::Room(name), Frame::Lease(lease)) => self.lease(name, lease, out),
            (Channel::Room(name), Frame::LeasesEnded { version, node }) => self.leases_ended(name, version, node, out),
            // Signals pass by the order; nothing else belongs on these channels.
            (Channel::Marks | Channel::Room(_), _) => out.push(Do::Corrupt),
        }
        None
    }

    fn mark(&mut self, mark: u64, out: &mut Vec<Do>) -> Option<Frame> {
        let name = self.marks.get(&mark)?;
        let room = self.rooms.get_mut(name)?;
        let answer = match &mut room.stage {
            Stage::Looking(current, place) if *current == mark => match place.take() {
                Some(answer) => answer,
                None => return Some(Frame::Mark(mark)),
            },
            Stage::Looking(..) | Stage::Subscribing | Stage::Subscribed | Stage::Following => return None,
        };
        let name = name.clone();
        self.marks.remove(&mark);
        if self.epoch.is_some_and(|told| told != answer.epoch) {
            room.stage = Stage::Subscribed;
            self.to_look.push_back(name);
            self.other_epoch(answer.epoch, out);
            self.advance(out);
            return None;
        }
        let RoomAnswer { epoch, seq, head, version, leases, .. } = *answer;
        self.epoch = Some(epoch);
        room.stage = Stage::Following;
        room.known = Some(Known { offset: head.offset, last_seq: head.seq, seq, version });
        self.heard = self.heard.max(seq);
        let leases = leases.into_iter().filter(|lease| lease.node != self.node).collect();
        out.push(Do::Heard(Heard::Followed {
            space: Arc::clone(&self.key),
            room: name,
            epoch,
            as_of: seq,
            head,
            leases,
        }));
        self.advance(out);
        None
    }

    fn message(&mut self, name: &RoomName, head: &Head, value: &Bytes, out: &mut Vec<Do>) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let (Stage::Following, Some(known)) = (&room.stage, &mut room.known) else {
            // Before the mark of its look: the look's answer has it.
            return;
        };
        if self.epoch != Some(head.epoch) {
            self.catch_up(out);
            return;
        }
        if head.offset <= known.offset && head.seq <= known.seq {
            return;
        }
        if head.offset != known.offset + 1 || head.seq <= self.heard {
            // A hole, or numbers that run backwards: the logs say what is so.
            self.catch_up(out);
            return;
        }
        let Some(publication) = publication(head, value, &self.key, name) else {
            // Its place is taken, and what it was nobody can read: the log has the same, and makes it a gap.
            out.push(Do::Corrupt);
            self.catch_up(out);
            return;
        };
        (known.offset, known.last_seq, known.seq) = (head.offset, head.seq, head.seq);
        self.heard = self.heard.max(head.seq);
        out.push(Do::Heard(Heard::Published(Arc::new(publication))));
    }

    fn leases_ended(&mut self, name: &RoomName, version: u64, node: NodeId, out: &mut Vec<Do>) {
        let Some(known) = self.rooms.get_mut(name).and_then(|room| room.known.as_mut()) else { return };
        if version <= known.version {
            return;
        }
        known.version = version;
        // This node lives: what it holds is said again when it is a member again.
        if node != self.node {
            out.push(Do::Heard(Heard::LeasesEnded { space: Arc::clone(&self.key), room: name.clone(), node }));
        }
    }

    fn lease(&mut self, name: &RoomName, lease: LeaseFrame, out: &mut Vec<Do>) {
        let Some(known) = self.rooms.get_mut(name).and_then(|room| room.known.as_mut()) else { return };
        if lease.version <= known.version {
            return;
        }
        known.version = lease.version;
        if lease.node == self.node {
            return;
        }
        let LeaseFrame { node, user, info, .. } = lease;
        out.push(Do::Heard(Heard::Leased { space: Arc::clone(&self.key), room: name.clone(), node, user, info }));
    }
}
