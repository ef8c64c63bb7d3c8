//! How a node follows a space (`follow`), for simulations: what goes in and comes out is in the words of the
//! [`model`](crate::model), the decisions are the real ones.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_types::{Epoch, NodeId, Publication, RoomName, SpaceKey, UserId};

use super::answer::RoomAnswer;
use super::follow::{self, Channel, Do};
use super::message::{self, Frame, HEAD_BYTES, Head, LeaseFrame};
use super::state::RoomState;
use crate::Heard;
use crate::model::{Push, RoomLook};

/// One space as a node follows it.
pub struct Following {
    space: follow::Space,
    key: Arc<SpaceKey>,
}

/// What the space wants done.
#[derive(Debug)]
pub enum Step {
    /// Begin to listen to a room's channel, or (`None`) to that of this node's marks.
    Subscribe(Option<RoomName>),
    /// End it.
    Unsubscribe(Option<RoomName>),
    /// Look at the counters; if `later`, after a moment.
    Touch {
        /// To be told with the answer.
        attempt: u64,
        /// It has just failed.
        later: bool,
    },
    /// Look at a room, leaving this mark.
    Look {
        /// The room.
        room: RoomName,
        /// The mark.
        mark: u64,
    },
    /// Read a room's messages after this `seq`.
    Read {
        /// The room.
        room: RoomName,
        /// The number.
        after: u64,
        /// To be told with the answer.
        attempt: u64,
    },
    /// Tell the node.
    Heard(Heard),
    /// The broker keeps leases of this node for these users in the room.
    OwnLeases {
        /// The room.
        room: RoomName,
        /// The users.
        kept: Vec<UserId>,
    },
    /// Something came that cannot be.
    Corrupt,
}

/// What a look or a read found: the room, and the messages asked for, or `None` if they are not all kept.
pub type Found = (RoomLook, Option<Vec<Arc<Publication>>>);

impl Following {
    /// A space without a connection.
    pub fn new(key: Arc<SpaceKey>, node: NodeId) -> Self {
        Self { space: follow::Space::new(Arc::clone(&key), node), key }
    }

    fn step(&mut self, out: &mut Vec<Step>, step: impl FnOnce(&mut follow::Space, &mut Vec<Do>)) {
        let mut wanted = Vec::new();
        step(&mut self.space, &mut wanted);
        out.extend(wanted.into_iter().map(|what| match what {
            Do::Subscribe(channel) => Step::Subscribe(room_of(channel)),
            Do::Unsubscribe(channel) => Step::Unsubscribe(room_of(channel)),
            Do::Touch { attempt, later } => Step::Touch { attempt, later },
            Do::Look { room, mark } => Step::Look { room, mark },
            Do::Read { room, after, attempt } => Step::Read { room, after, attempt },
            Do::Heard(heard) => Step::Heard(heard),
            Do::OwnLeases { room, kept } => {
                Step::OwnLeases { room, kept: kept.into_iter().map(|(user, _)| user).collect() }
            }
            Do::Corrupt => Step::Corrupt,
        }));
    }

    /// The epoch that the node has been told.
    pub fn epoch(&self) -> Option<Epoch> {
        self.space.epoch()
    }

    /// The highest `seq` heard in it.
    pub fn heard(&self) -> u64 {
        self.space.heard()
    }

    /// The rooms that are followed, or will be.
    pub fn rooms(&self) -> impl Iterator<Item = &RoomName> {
        self.space.rooms()
    }

    /// Begins to follow a room.
    pub fn follow(&mut self, room: &RoomName, out: &mut Vec<Step>) {
        self.step(out, |space, out| space.follow(room, out));
    }

    /// Ends it.
    pub fn unfollow(&mut self, room: &RoomName, out: &mut Vec<Step>) {
        self.step(out, |space, out| space.unfollow(room, out));
    }

    /// The connection has ended.
    pub fn lost(&mut self, out: &mut Vec<Step>) {
        self.step(out, follow::Space::lost);
    }

    /// There is a connection, without subscriptions.
    pub fn found(&mut self, out: &mut Vec<Step>) {
        self.step(out, follow::Space::found);
    }

    /// What the node has heard does not fit: everything is read again.
    pub fn catch_up(&mut self, out: &mut Vec<Step>) {
        self.step(out, follow::Space::catch_up);
    }

    /// What was put off is tried again.
    pub fn again(&mut self, out: &mut Vec<Step>) {
        self.step(out, follow::Space::again);
    }

    /// A subscription has begun.
    pub fn confirmed(&mut self, room: Option<RoomName>, out: &mut Vec<Step>) {
        self.step(out, |space, out| space.confirmed(room.map_or(Channel::Marks, Channel::Room), out));
    }

    /// The counters.
    pub fn touched(&mut self, attempt: Option<u64>, counters: Option<(Epoch, u64)>, out: &mut Vec<Step>) {
        self.step(out, |space, out| space.touched(attempt, counters, out));
    }

    /// What a look found; `None`: it could not be taken.
    pub fn looked(&mut self, room: &RoomName, mark: u64, found: Option<Found>, out: &mut Vec<Step>) {
        let answer = found.and_then(answer);
        self.step(out, |space, out| space.looked(room, mark, answer, out));
    }

    /// What a read found; `None`: it could not be read.
    pub fn read(&mut self, room: &RoomName, attempt: u64, found: Option<Found>, out: &mut Vec<Step>) {
        let answer = found.and_then(answer);
        self.step(out, |space, out| space.read(room, attempt, answer, out));
    }

    /// Something came over a channel of the space.
    pub fn push(&mut self, push: Push, out: &mut Vec<Step>) {
        let (channel, frame, bytes) = match push {
            Push::Published(publication) => {
                let (head, value) = encode(&publication);
                let bytes = value.len();
                (Channel::Room(publication.room.clone()), Frame::Message(head, value), bytes)
            }
            Push::Leased { room, node, user, info, version, .. } => {
                (Channel::Room(room), Frame::Lease(LeaseFrame { version, node, user, info }), 64)
            }
            Push::LeasesEnded { room, node, version, .. } => {
                (Channel::Room(room), Frame::LeasesEnded { version, node }, 16)
            }
            Push::Mark { mark, .. } => (Channel::Marks, Frame::Mark(mark), 10),
            Push::Signal { .. } | Push::Gone(_) => return,
        };
        self.step(out, |space, out| space.frame(channel, frame, bytes, out));
    }

    /// The space.
    pub fn key(&self) -> &Arc<SpaceKey> {
        &self.key
    }
}

fn room_of(channel: Channel) -> Option<RoomName> {
    match channel {
        Channel::Marks => None,
        Channel::Room(room) => Some(room),
    }
}

/// The head of a message whose log begins with it.
fn head(publication: &Publication) -> Head {
    let position = publication.position;
    Head {
        class: publication.class,
        epoch: position.map_or(Epoch(0), |of| of.epoch),
        seq: publication.seq,
        offset: position.map_or(0, |of| of.offset),
        timestamp_ms: publication.timestamp_ms,
        previous: publication.seq.saturating_sub(1),
        end_bytes: 0,
    }
}

fn encode(publication: &Publication) -> (Head, Bytes) {
    let body = message::encode_body(&publication.event, &publication.data, &publication.attachments);
    let mut value = vec![0; HEAD_BYTES];
    value.extend_from_slice(&body);
    (head(publication), value.into())
}

fn answer((look, messages): Found) -> Option<RoomAnswer> {
    let tidegate_hub::RoomHead { offset, seq, trimmed_seq, began } = look.head;
    let numbers = [offset, seq, trimmed_seq, 0, 0, 0, trimmed_seq, 0, 0, 0, began];
    let state: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes().into_iter().skip(2)).collect();
    let damaged = messages.is_none();
    let messages = messages.unwrap_or_default();
    let kept = look.leases.iter().map(|lease| (lease.node, lease.info.user_id.clone(), Bytes::new()));
    Some(RoomAnswer {
        epoch: look.life.epoch,
        seq: look.life.seq,
        state: RoomState::decode(&state)?,
        head: look.head,
        now: 0,
        messages: messages.iter().map(|publication| (head(publication), Arc::clone(publication))).collect(),
        damaged,
        version: look.version,
        kept: kept.collect(),
        leases: look.leases,
        foreign: Vec::new(),
    })
}
