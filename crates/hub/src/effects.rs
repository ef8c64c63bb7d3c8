use std::sync::Arc;

use tidegate_types::{ConnId, PresenceInfo, Publication, RoomName, ShardSet, UserId};

use crate::{Pid, RoomId, SessionRecord};

/// What the caller has to do, in this order.
pub type Effects = Vec<Effect>;

/// One thing to do after a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Put the publication into the mailboxes of these shards, for every member and listener of the room. A member whose
    /// join reported a `seq` at or above the publication's own has seen it already (or joined after it): skip it there.
    Deliver {
        /// The room.
        room_id: RoomId,
        /// Exactly the shards with a member or listener.
        shards: ShardSet,
        /// What to deliver.
        publication: Arc<Publication>,
    },
    /// Tell the room's members about presence. Volatile: it has no position and may be dropped under pressure.
    Presence {
        /// The room.
        room_id: RoomId,
        /// The room's name, which the client events carry.
        room: RoomName,
        /// Exactly the shards with a member or listener.
        shards: ShardSet,
        /// What changed.
        change: PresenceChange,
        /// The connection that caused it and need not be told.
        except: Option<ConnId>,
    },
    /// Append to the store, then call [`Space::appended`](crate::Space::appended) or
    /// [`Space::append_failed`](crate::Space::append_failed).
    Append(Arc<Publication>),
    /// Store that numbers up to and including `upto` may be handed out, then call
    /// [`Space::reserved`](crate::Space::reserved).
    Reserve {
        /// The highest number that may be handed out.
        upto: u64,
    },
    /// Store the record under its pid, replacing an older one.
    SaveSession(SessionRecord),
    /// Remove the record.
    DropSession(Pid),
    /// Begin to hear the room's messages, then call [`Space::followed`](crate::Space::followed). Only of a space that
    /// follows, as all below.
    Follow {
        /// The room.
        room: RoomName,
    },
    /// Nobody needs the room's messages any more.
    Unfollow {
        /// The room.
        room: RoomName,
    },
    /// Tell the other nodes how present the user is in the room by way of this one; `None`: no more.
    Lease {
        /// The room.
        room: RoomName,
        /// The user.
        user: UserId,
        /// What holds for the user's connections to this node.
        info: Option<PresenceInfo>,
    },
    /// The counters begin another life: numbers may go back. Before anything that comes after it, in the same mailboxes,
    /// each shard forgets up to which `seq` its members have seen their rooms.
    Renewed,
}

/// A change of a room's presence.
#[derive(Clone, Debug, PartialEq)]
pub enum PresenceChange {
    /// A user came: the first of their connections joined.
    Join(PresenceInfo),
    /// A user went: the last of their connections left. A receiver that joined while the leave was being coalesced may
    /// not have seen the user at all and ignores it.
    Leave(UserId),
    /// A snapshot that replaces what the receiver knew.
    Update {
        /// At most `presence_listed` of the users.
        listed: Vec<PresenceInfo>,
        /// All users of the room.
        count: usize,
    },
}
