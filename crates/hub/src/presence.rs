//! Who is in a room, and how the room is told.
//!
//! A member is a user; each connection of the user in the room holds one lease. The first lease is a join, the end of
//! the last a leave. What the room is told is coalesced: a quiet room hears of a change at once, a busy one gets a
//! batch per window, and a batch that is large, or any in a large room, becomes one snapshot. So a storm of n joins costs
//! O(n) deliveries instead of n².

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::{Map, Value};
use tidegate_types::{ConnId, Millis, NodeId, PresenceInfo, RoomName, Status, UserId};

use crate::space::Space;
use crate::start::is_over;
use crate::users::{User, UserKey, Users};
use crate::{Effect, Effects, PresenceChange, RoomId};

/// Presence entries that snapshots may send in one room, per second.
const SNAPSHOT_ENTRIES_PER_SECOND: u64 = 200_000;

/// What a user says about themselves; `None` leaves a part as it is.
#[derive(Clone, Debug, Default)]
pub struct PresenceUpdate {
    /// Holds for the user, whatever their connections do, until the last of them ends or `Online` is set: then the
    /// connections speak for themselves again.
    pub status: Option<Status>,
    /// Merged key by key, up to 64 keys and 8 KiB.
    pub metadata: Option<Map<String, Value>>,
    /// What the user is doing, up to 256 bytes; an empty text takes it back.
    pub current_activity: Option<Arc<str>>,
    /// As `current_activity`.
    pub custom_status: Option<Arc<str>>,
}

/// What a room remembers of how a user looks in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Looks {
    pub status: Status,
    /// Whether the user has said something about themselves beside a status.
    pub has_said: bool,
}

#[derive(Debug)]
pub(crate) enum Diff {
    Join { user: UserKey, looks: Looks, except: Option<ConnId> },
    Leave { user: UserId, looks: Looks },
}

/// Diffs that wait for the room's next window.
#[derive(Default)]
struct Batch {
    /// Each with the value of `shown` after it.
    diffs: Vec<(Diff, u32)>,
    snapshot: bool,
    /// How often the room has been shown to somebody since the batch began; whoever enters is shown it.
    shown: u32,
}

/// Presence of one room.
#[derive(Default)]
pub(crate) struct RoomPresence {
    leases: FxHashMap<UserKey, u32>,
    /// When something was last sent, and for how long after that nothing is.
    sent_at: Millis,
    pause: u32,
    batch: Option<Box<Batch>>,
    /// Whether the room stands in the space's list of rooms with a batch.
    queued: bool,
}

impl RoomPresence {
    pub fn forget_batch(&mut self) {
        self.batch = None;
    }

    /// How many users are in the room.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// How many leases the user has in the room.
    pub fn leases_of(&self, user: UserKey) -> u32 {
        self.leases.get(&user).copied().unwrap_or(0)
    }

    /// The users in the room, in no order.
    pub fn users(&self) -> impl Iterator<Item = UserKey> {
        self.leases.keys().copied()
    }

    /// A clock that is set back must not silence the room until it has caught up.
    fn may_send(&self, now: Millis) -> bool {
        is_over(u64::from(self.pause), self.sent_at, now)
    }
}

impl Space {
    /// Updates the presence of the connection's user. Also the heartbeat (`lastSeen`). False: unknown connection, or a
    /// part would be too large and was left as it was.
    pub fn update_presence(&mut self, conn: ConnId, update: PresenceUpdate, now: Millis, fx: &mut Effects) -> bool {
        let Some(key) = self.conns.get(&conn).map(|connection| connection.user) else { return false };
        let Some(user) = self.users.get_mut(key) else { return false };
        let (changed, accepted) = user.say(update, now);
        if changed {
            self.user_changed(key, now, fx);
        }
        accepted
    }

    /// The connection has had no activity since `seen_at`. A user all of whose connections are idle is away.
    pub fn idle(&mut self, conn: ConnId, seen_at: Millis, now: Millis, fx: &mut Effects) {
        self.turn(conn, true, seen_at, now, fx);
    }

    /// The connection is active again.
    pub fn active(&mut self, conn: ConnId, now: Millis, fx: &mut Effects) {
        self.turn(conn, false, now, now, fx);
    }

    fn turn(&mut self, conn: ConnId, idle: bool, seen_at: Millis, now: Millis, fx: &mut Effects) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if std::mem::replace(&mut connection.idle, idle) == idle {
            return;
        }
        let key = connection.user;
        if self.users.get_mut(key).is_some_and(|user| user.turn(idle, seen_at)) {
            self.user_changed(key, now, fx);
        }
    }

    /// The presence of a user who has a connection, or is in a followed room by way of another node; everybody else is
    /// offline, as far as is known here.
    pub fn presence_of(&self, user: &UserId) -> Option<PresenceInfo> {
        self.users.find(user).map(User::info)
    }

    /// At most `limit` users of the room, and how many there are. Whoever is shown this and hears of the changes from then
    /// on stays right: what is undone within a batch after it is told all the same.
    pub fn presence(&mut self, room: &RoomName, limit: usize) -> (Vec<PresenceInfo>, usize) {
        let Some(id) = self.rooms.id(room) else { return Default::default() };
        if let Some(batch) = self.rooms.get_mut(id).and_then(|room| room.presence.batch.as_mut()) {
            batch.shown = batch.shown.wrapping_add(1);
        }
        self.snapshot(id, limit)
    }

    fn snapshot(&self, id: RoomId, limit: usize) -> (Vec<PresenceInfo>, usize) {
        let Some(room) = self.rooms.get(id) else { return Default::default() };
        let leases = &room.presence.leases;
        let listed = leases.keys().filter_map(|key| self.info_in(id, *key)).take(limit).collect();
        (listed, leases.len())
    }

    /// One more lease of the user in the room: that of the connection, or of another node.
    pub(crate) fn add_lease(&mut self, id: RoomId, user: UserKey, conn: Option<ConnId>, now: Millis, fx: &mut Effects) {
        let before = self.look_elsewhere(id, user);
        if conn.is_some() {
            if self.leases_here(id, user) == 0
                && let Some(user) = self.users.get_mut(user)
            {
                user.rooms += 1;
            }
            self.mark_lease(id, user);
        }
        let Some(room) = self.rooms.get_mut(id) else { return };
        if let Some(batch) = &mut room.presence.batch {
            batch.shown = batch.shown.wrapping_add(1);
        }
        let leases = room.presence.leases.entry(user).or_insert(0);
        *leases += 1;
        if *leases == 1 {
            let Some(looks) = self.looks_in(id, user) else { return };
            self.note(id, Diff::Join { user, looks, except: conn }, now, fx);
        } else {
            self.show_look(id, user, before, now, fx);
        }
    }

    /// One lease less, that of a connection here or of another node. Called after the connection has left the room, so that
    /// the room's shards are those that remain.
    pub(crate) fn end_lease(&mut self, id: RoomId, user: UserKey, node: Option<NodeId>, now: Millis, fx: &mut Effects) {
        let before = self.look_elsewhere(id, user);
        let Some(looks) = self.looks_in(id, user) else { return };
        if node.is_none() {
            if self.leases_here(id, user) == 1
                && let Some(user) = self.users.get_mut(user)
            {
                user.rooms = user.rooms.saturating_sub(1);
            }
            self.mark_lease(id, user);
        }
        let Some(room) = self.rooms.get_mut(id) else { return };
        let Some(leases) = room.presence.leases.get_mut(&user) else { return };
        *leases = leases.saturating_sub(1);
        let is_left = *leases == 0;
        if is_left {
            room.presence.leases.remove(&user);
            if room.presence.leases.is_empty() {
                room.presence.leases = FxHashMap::default();
            }
        }
        if let Some(node) = node {
            self.users.end_elsewhere(user, node, id);
        }
        if is_left {
            let Some(gone) = self.users.get(user) else { return };
            let diff = Diff::Leave { user: gone.id.clone(), looks };
            self.note(id, diff, now, fx);
        } else {
            self.show_look(id, user, before, now, fx);
        }
    }

    /// Status or metadata of a user changed here: every room of their connections gets a snapshot, and the other nodes are
    /// told.
    pub(crate) fn user_changed(&mut self, key: UserKey, now: Millis, fx: &mut Effects) {
        let Some(user) = self.users.get(key) else { return };
        let conns = user.conns.iter().filter_map(|conn| self.conns.get(conn));
        let mut ids: Vec<RoomId> = conns.flat_map(|conn| conn.rooms.iter().map(|membership| membership.room)).collect();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            self.mark_lease(id, key);
            self.show_snapshot(id, now, fx);
        }
    }

    /// The room gets a snapshot.
    pub(crate) fn show_snapshot(&mut self, id: RoomId, now: Millis, fx: &mut Effects) {
        let Some(room) = self.rooms.get_mut(id) else { return };
        let at_once = room.presence.batch.is_none() && room.presence.may_send(now);
        room.presence.batch.get_or_insert_default().snapshot = true;
        if at_once { self.flush(id, now, fx) } else { self.queue_batch(id) }
    }

    fn note(&mut self, id: RoomId, diff: Diff, now: Millis, fx: &mut Effects) {
        let burst = self.config.presence_burst;
        let large = self.config.presence_listed;
        let users = &self.users;
        let Some(room) = self.rooms.get_mut(id) else { return };
        let alone = match &diff {
            Diff::Join { except, .. } => room.subscribers <= u32::from(except.is_some()),
            Diff::Leave { .. } => room.subscribers == 0,
        };
        let presence = &mut room.presence;
        if alone {
            // Nobody else is there to be told, and whoever comes gets a snapshot.
            presence.batch = None;
            return;
        }
        let at_once = presence.batch.is_none() && presence.may_send(now);
        let is_large = presence.leases.len() > large;
        let batch = presence.batch.get_or_insert_default();
        if !batch.snapshot {
            match opposite(&batch.diffs, &diff, users) {
                Some(index) => {
                    let (cancelled, at) = batch.diffs.remove(index);
                    let own = u32::from(matches!(diff, Diff::Join { .. }));
                    // Somebody who came in between was given a snapshot of what is undone now.
                    let seen = batch.shown != at.wrapping_add(own);
                    batch.snapshot = seen || differs(&cancelled, &diff);
                }
                None => batch.diffs.push((diff, batch.shown)),
            }
        }
        if is_large || batch.diffs.len() > burst {
            batch.snapshot = true;
        }
        if batch.snapshot {
            batch.diffs = Vec::new();
        }
        if at_once { self.flush(id, now, fx) } else { self.queue_batch(id) }
    }

    fn queue_batch(&mut self, id: RoomId) {
        let Some(room) = self.rooms.get_mut(id) else { return };
        if !room.presence.queued {
            room.presence.queued = true;
            self.batched.push(id);
        }
    }

    /// Sends the room's batch.
    fn flush(&mut self, id: RoomId, now: Millis, fx: &mut Effects) {
        let coalesce = self.config.presence_coalesce_ms;
        let listed = self.config.presence_listed;
        let Some(room) = self.rooms.get_mut(id) else { return };
        let Some(batch) = room.presence.batch.take() else { return };
        if room.subscribers == 0 || (batch.diffs.is_empty() && !batch.snapshot) {
            return;
        }
        let members = room.presence.leases.len();
        let pause = if batch.snapshot { coalesce.max(pause_after(members, listed)) } else { coalesce };
        room.presence.sent_at = now;
        room.presence.pause = u32::try_from(pause).unwrap_or(u32::MAX);
        let (name, shards) = (room.name.clone(), room.shards);
        if batch.snapshot {
            let (listed, count) = self.snapshot(id, listed);
            let change = PresenceChange::Update { listed, count };
            fx.push(Effect::Presence { room_id: id, room: name, shards, change, except: None });
            return;
        }
        for (diff, _) in batch.diffs {
            let (change, except) = match diff {
                Diff::Join { user, except, .. } => match self.info_in(id, user) {
                    Some(info) => (PresenceChange::Join(info), except),
                    None => continue,
                },
                Diff::Leave { user, .. } => (PresenceChange::Leave(user), None),
            };
            fx.push(Effect::Presence { room_id: id, room: name.clone(), shards, change, except });
        }
    }

    /// Sends the batches whose window has come.
    pub(crate) fn flush_batches(&mut self, now: Millis, fx: &mut Effects) {
        let queued = std::mem::take(&mut self.batched);
        for id in queued {
            let Some(room) = self.rooms.get_mut(id) else { continue };
            if !room.presence.may_send(now) && room.presence.batch.is_some() {
                self.batched.push(id);
                continue;
            }
            room.presence.queued = false;
            self.flush(id, now, fx);
        }
    }
}

/// How long a room is quiet after a snapshot, ms. One costs members × listed entries: when everybody's status changes, as
/// when a whole room goes idle, the room gets so many entries a second and not members² of them.
fn pause_after(members: usize, listed: usize) -> u64 {
    (members * members.min(listed)) as u64 * 1_000 / SNAPSHOT_ENTRIES_PER_SECOND
}

/// The waiting diff that this one undoes.
fn opposite(diffs: &[(Diff, u32)], diff: &Diff, users: &Users) -> Option<usize> {
    diffs.iter().position(|(waiting, _)| match (waiting, diff) {
        (Diff::Join { user: waiting, .. }, Diff::Leave { user, .. }) => {
            users.get(*waiting).is_some_and(|w| w.id == *user)
        }
        (Diff::Leave { user: waiting, .. }, Diff::Join { user, .. }) => {
            users.get(*user).is_some_and(|u| u.id == *waiting)
        }
        (Diff::Join { .. }, Diff::Join { .. }) | (Diff::Leave { .. }, Diff::Leave { .. }) => false,
    })
}

/// Whether a user who left and came back within one batch came back otherwise than the room remembers them.
fn differs(cancelled: &Diff, diff: &Diff) -> bool {
    match (cancelled, diff) {
        (Diff::Leave { looks: before, .. }, Diff::Join { looks, .. }) => {
            looks.status != before.status || before.has_said || looks.has_said
        }
        (Diff::Join { .. }, _) | (Diff::Leave { .. }, Diff::Leave { .. }) => false,
    }
}
