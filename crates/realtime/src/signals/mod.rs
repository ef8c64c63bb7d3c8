//! What nodes of a cluster tell each other that wants no answer and has no place in a room's order: what is said to clients
//! once, and what is to happen to clients wherever they are.
//!
//! A signal may be lost (the broker cannot be reached, a node is out of touch): nothing stays right because of one.
//! Start reading at [`Signal`]; its bytes are made in [`codec`], what it does is in [`carry_out`].

mod carry_out;
mod codec;

use std::sync::Arc;

use bytes::Bytes;
use tidegate_auth::Revocation;
use tidegate_hub::{Pid, SocketId};
use tidegate_types::{ConnId, EventName, Millis, Publication, RoomName, SpaceKey, TenantId, UserId};

use crate::mailbox::Except;
use crate::parting::Terms;

pub(crate) use carry_out::{close_everywhere, heard};
#[cfg(fuzzing)]
pub use codec::fuzz_signal;
pub(crate) use codec::revocation;

/// What a node tells others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Signal {
    /// For the members of the room that the signal is for: a volatile message.
    Tell(Tell),
    /// For the clients of a namespace by rooms: what an application does to them.
    Far(Far),
    /// For users, or everybody, wherever they are in a namespace: what a backend says to them.
    ToUsers(ToUsers),
    /// Connections end.
    Close(Close),
    /// A session has gone on elsewhere.
    Supersede(Supersede),
    /// A token, or a user's older ones, count no more.
    Revoke(Revocation),
    /// All connections of a user are put into a room, or taken out of it.
    Move(Move),
}

/// A volatile message for other nodes' members of its room; `None` if it is larger than any message may be.
pub(crate) fn volatile(publication: &Publication, except: Option<&Except>) -> Option<Bytes> {
    let (said, timestamp_ms) = (Said::of(publication), publication.timestamp_ms);
    Signal::Tell(Tell { said, except: except.cloned(), timestamp_ms }).encode()
}

/// An event with what it carries.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    pub event: EventName,
    /// As [`Publication::data`].
    pub data: Bytes,
    /// As [`Publication::attachments`].
    pub attachments: Arc<[Bytes]>,
}

impl Said {
    pub fn of(publication: &Publication) -> Self {
        let Publication { event, data, attachments, .. } = publication;
        Self { event: event.clone(), data: data.clone(), attachments: attachments.clone() }
    }
}

/// A volatile message to a room. The room is that of the signal's audience.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tell {
    pub said: Said,
    /// Who does not get it. A connection of the teller's node is none of another's.
    pub except: Option<Except>,
    /// By the teller's clock, ms since the Unix epoch.
    pub timestamp_ms: Millis,
}

/// What an application does to clients of a namespace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Far {
    pub space: SpaceKey,
    /// `None`: everybody in the namespace.
    pub rooms: Option<Vec<RoomName>>,
    /// But not the members of these.
    pub but: Vec<RoomName>,
    pub deed: FarDeed,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FarDeed {
    Emit {
        said: Said,
        volatile: bool,
    },
    /// Out of the namespace.
    Disconnect,
}

/// What a backend says to users.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToUsers {
    pub space: SpaceKey,
    /// `None`: everybody.
    pub users: Option<Vec<UserId>>,
    pub except: Option<Except>,
    pub said: Said,
}

/// Connections end, with all their namespaces.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Close {
    pub whom: Closed,
    /// `None`: at once and without a word.
    pub terms: Option<Terms>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Closed {
    /// All of a user.
    User(TenantId, UserId),
    /// Those of a user that are in a namespace.
    UserIn(SpaceKey, UserId),
    /// The one with that Socket.IO socket.
    Socket(SocketId),
    /// One of the node that the signal is for.
    Conn(ConnId),
}

/// The connection that still holds a session ends: its client has come back elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Supersede {
    pub space: SpaceKey,
    pub pid: Pid,
    pub user: UserId,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Move {
    pub space: SpaceKey,
    pub user: UserId,
    pub room: RoomName,
    /// Into the room; else out of it.
    pub join: bool,
}
