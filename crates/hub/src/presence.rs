//! Who is in a room, and how the room is told.
//!
//! A member is a user; each connection of the user in the room holds one lease. The first lease is a join, the end of
//! the last a leave. What the room is told is coalesced: a quiet room hears of a change at once, a busy one gets a
//! batch per window, and a batch that is large, or any in a large room, becomes one snapshot. So a storm of n joins costs
//! O(n) deliveries instead of n².

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::{Map, Value};
use slab::Slab;
use smallvec::SmallVec;
use tidegate_types::{ConnId, Millis, PresenceInfo, RoomName, Status, UserId};

use crate::session::Who;
use crate::space::Space;
use crate::{Effect, Effects, PresenceChange, RoomId};

/// What a user may say about themselves, in all: a merge that would exceed it is refused as a whole.
const METADATA_KEYS: usize = 64;
const METADATA_BYTES: usize = 8 * 1024;

/// Index of a user in [`Users`]; valid while the user has a connection.
pub(crate) type UserKey = u32;

pub(crate) struct User {
    pub id: UserId,
    username: Option<Arc<str>>,
    /// Set by the user; outranks what the connections say, until the last of them has gone.
    by_hand: Option<Status>,
    /// Connections by status, indexed as `Status` is ordered.
    by_status: [u32; 4],
    last_seen: Millis,
    metadata: Option<Arc<Map<String, Value>>>,
    pub conns: SmallVec<[ConnId; 1]>,
}

impl User {
    fn status(&self) -> Status {
        self.by_hand.unwrap_or_else(|| {
            let ranked = [Status::Online, Status::Busy, Status::Away, Status::Offline];
            let most = ranked.into_iter().find(|status| self.by_status.get(*status as usize).is_some_and(|n| *n > 0));
            most.unwrap_or(Status::Offline)
        })
    }

    fn info(&self) -> PresenceInfo {
        PresenceInfo {
            user_id: self.id.clone(),
            username: self.username.clone(),
            status: self.status(),
            last_seen: self.last_seen,
            metadata: self.metadata.clone(),
        }
    }

    fn count(&mut self, status: Status, step: i32) {
        if let Some(count) = self.by_status.get_mut(status as usize) {
            *count = count.saturating_add_signed(step);
        }
    }
}

pub(crate) struct Attached {
    pub user: UserKey,
    /// Where the connection stands among the user's, so that its end costs no search.
    pub index: usize,
    /// The merged status is another.
    pub changed: bool,
}

#[derive(Default)]
pub(crate) struct Detached {
    /// The merged status of the connections that remain is another.
    pub changed: bool,
    /// The connection that now stands where the ended one stood.
    pub moved: Option<ConnId>,
}

/// The users of a space who have a connection.
#[derive(Default)]
pub(crate) struct Users {
    slots: Slab<User>,
    by_id: FxHashMap<UserId, UserKey>,
}

impl Users {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn get(&self, key: UserKey) -> Option<&User> {
        self.slots.get(key as usize)
    }

    fn get_mut(&mut self, key: UserKey) -> Option<&mut User> {
        self.slots.get_mut(key as usize)
    }

    /// Adds a connection, online at first.
    pub fn attach(&mut self, who: Who, conn: ConnId, now: Millis) -> Attached {
        let slots = &mut self.slots;
        let key = *self.by_id.entry(who.user).or_insert_with_key(|id| {
            let user = User {
                id: id.clone(),
                username: None,
                by_hand: None,
                by_status: [0; 4],
                last_seen: now,
                metadata: None,
                conns: SmallVec::new(),
            };
            slots.insert(user) as UserKey
        });
        let Some(user) = self.get_mut(key) else { return Attached { user: key, index: 0, changed: false } };
        let before = (!user.conns.is_empty()).then(|| user.status());
        user.username = who.username.or_else(|| user.username.take());
        user.last_seen = now;
        user.count(Status::Online, 1);
        user.conns.push(conn);
        let index = user.conns.len().saturating_sub(1);
        Attached { user: key, index, changed: before.is_some_and(|before| before != user.status()) }
    }

    /// Ends the connection at `index` of the user's.
    pub fn detach(&mut self, key: UserKey, index: usize, status: Status) -> Detached {
        let Some(user) = self.get_mut(key) else { return Detached::default() };
        let before = user.status();
        user.count(status, -1);
        if index < user.conns.len() {
            user.conns.swap_remove(index);
        }
        let moved = user.conns.get(index).copied();
        if user.conns.is_empty() {
            let user = self.slots.try_remove(key as usize);
            if let Some(user) = user {
                self.by_id.remove(&user.id);
            }
            return Detached::default();
        }
        Detached { changed: before != user.status(), moved }
    }
}

#[derive(Debug)]
pub(crate) enum Diff {
    Join { user: UserKey, except: ConnId },
    Leave { user: UserId, was: Status, had_metadata: bool },
}

/// Diffs that wait for the room's next window.
#[derive(Default)]
struct Batch {
    /// Each with the value of `entered` after it.
    diffs: Vec<(Diff, u32)>,
    snapshot: bool,
    /// How many connections have entered the room, and so been given a snapshot, since the batch began.
    entered: u32,
}

/// Presence of one room.
#[derive(Default)]
pub(crate) struct RoomPresence {
    leases: FxHashMap<UserKey, u32>,
    /// Nothing is sent before this time.
    next_at: Millis,
    batch: Option<Box<Batch>>,
    /// Whether the room stands in the space's list of rooms with a batch.
    queued: bool,
}

impl RoomPresence {
    pub fn forget_batch(&mut self) {
        self.batch = None;
    }
}

impl Space {
    /// Updates the presence of the connection's user: `None` leaves a part as it is, `metadata` is merged key by key.
    /// A status is taken as set by hand: it holds for the user, whatever other connections say, until their last
    /// connection ends. Also the heartbeat (`lastSeen`). False: unknown connection, or the metadata would grow beyond
    /// 64 keys or 8 KiB and were left as they are.
    pub fn set_presence(
        &mut self,
        conn: ConnId,
        status: Option<Status>,
        metadata: Option<Map<String, Value>>,
        now: Millis,
        fx: &mut Effects,
    ) -> bool {
        let Some(key) = self.conns.get(&conn).map(|connection| connection.user) else { return false };
        let Some(user) = self.users.get_mut(key) else { return false };
        let before = user.status();
        user.last_seen = user.last_seen.max(now);
        user.by_hand = status.or(user.by_hand);
        let mut changed = before != user.status();
        let mut accepted = true;
        if let Some(metadata) = metadata {
            match merge(user.metadata.as_deref(), metadata) {
                Merge::Same => {}
                Merge::Changed(merged) => {
                    user.metadata = Some(Arc::new(merged));
                    changed = true;
                }
                Merge::TooLarge => accepted = false,
            }
        }
        if changed {
            self.user_changed(key, now, fx);
        }
        accepted
    }

    /// Sets what one connection says without its user's doing, e.g. `away` after a time without activity. The user's
    /// status is that of the most present connection, unless set by hand.
    pub fn set_idle(&mut self, conn: ConnId, status: Status, now: Millis, fx: &mut Effects) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let old = std::mem::replace(&mut connection.status, status);
        let key = connection.user;
        let Some(user) = self.users.get_mut(key) else { return };
        let before = user.status();
        user.count(old, -1);
        user.count(status, 1);
        if before != user.status() {
            self.user_changed(key, now, fx);
        }
    }

    /// At most `limit` users of the room, and how many there are.
    pub fn presence(&self, room: &RoomName, limit: usize) -> (Vec<PresenceInfo>, usize) {
        self.rooms.id(room).map_or_else(Default::default, |id| self.snapshot(id, limit))
    }

    fn snapshot(&self, id: RoomId, limit: usize) -> (Vec<PresenceInfo>, usize) {
        let Some(room) = self.rooms.get(id) else { return Default::default() };
        let leases = &room.presence.leases;
        let listed = leases.keys().filter_map(|key| self.users.get(*key)).take(limit).map(User::info).collect();
        (listed, leases.len())
    }

    /// One more lease of the user in the room.
    pub(crate) fn add_lease(&mut self, id: RoomId, user: UserKey, conn: ConnId, now: Millis, fx: &mut Effects) {
        let Some(room) = self.rooms.get_mut(id) else { return };
        if let Some(batch) = &mut room.presence.batch {
            batch.entered = batch.entered.wrapping_add(1);
        }
        let leases = room.presence.leases.entry(user).or_insert(0);
        *leases += 1;
        if *leases == 1 {
            self.note(id, Diff::Join { user, except: conn }, now, fx);
        }
    }

    /// One lease less. Called after the connection has left the room, so that the room's shards are those that remain.
    pub(crate) fn end_lease(&mut self, id: RoomId, user: UserKey, now: Millis, fx: &mut Effects) {
        let Some(room) = self.rooms.get_mut(id) else { return };
        let Some(leases) = room.presence.leases.get_mut(&user) else { return };
        *leases = leases.saturating_sub(1);
        if *leases > 0 {
            return;
        }
        room.presence.leases.remove(&user);
        if room.presence.leases.is_empty() {
            room.presence.leases = FxHashMap::default();
        }
        let Some(gone) = self.users.get(user) else { return };
        let diff = Diff::Leave { user: gone.id.clone(), was: gone.status(), had_metadata: gone.metadata.is_some() };
        self.note(id, diff, now, fx);
    }

    /// Status or metadata of a user changed: every room of theirs gets a snapshot.
    pub(crate) fn user_changed(&mut self, key: UserKey, now: Millis, fx: &mut Effects) {
        let Some(user) = self.users.get(key) else { return };
        let conns = user.conns.iter().filter_map(|conn| self.conns.get(conn));
        let mut ids: Vec<RoomId> = conns.flat_map(|conn| conn.rooms.iter().map(|membership| membership.room)).collect();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let Some(room) = self.rooms.get_mut(id) else { continue };
            let at_once = room.presence.batch.is_none() && now >= room.presence.next_at;
            room.presence.batch.get_or_insert_default().snapshot = true;
            if at_once { self.flush(id, now, fx) } else { self.queue_batch(id) }
        }
    }

    fn note(&mut self, id: RoomId, diff: Diff, now: Millis, fx: &mut Effects) {
        let burst = self.config.presence_burst;
        let large = self.config.presence_listed;
        let users = &self.users;
        let Some(room) = self.rooms.get_mut(id) else { return };
        let alone = match &diff {
            Diff::Join { .. } => room.subscribers <= 1,
            Diff::Leave { .. } => room.subscribers == 0,
        };
        let presence = &mut room.presence;
        if alone {
            // Nobody else is there to be told, and whoever comes gets a snapshot.
            presence.batch = None;
            return;
        }
        let at_once = presence.batch.is_none() && now >= presence.next_at;
        let is_large = presence.leases.len() > large;
        let batch = presence.batch.get_or_insert_default();
        if !batch.snapshot {
            match opposite(&batch.diffs, &diff, users) {
                Some(index) => {
                    let (cancelled, at) = batch.diffs.remove(index);
                    let own = u32::from(matches!(diff, Diff::Join { .. }));
                    // Somebody who came in between was given a snapshot of what is undone now.
                    let seen = batch.entered != at.wrapping_add(own);
                    batch.snapshot = seen || differs(&cancelled, &diff, users);
                }
                None => batch.diffs.push((diff, batch.entered)),
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
        let pause = if members > listed { coalesce.max(members as u64) } else { coalesce };
        room.presence.next_at = now.saturating_add(pause);
        let (name, shards) = (room.name.clone(), room.shards);
        if batch.snapshot {
            let (listed, count) = self.snapshot(id, listed);
            let change = PresenceChange::Update { listed, count };
            fx.push(Effect::Presence { room_id: id, room: name, shards, change, except: None });
            return;
        }
        for (diff, _) in batch.diffs {
            let (change, except) = match diff {
                Diff::Join { user, except } => match self.users.get(user) {
                    Some(user) => (PresenceChange::Join(user.info()), Some(except)),
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
            if now < room.presence.next_at && room.presence.batch.is_some() {
                self.batched.push(id);
                continue;
            }
            room.presence.queued = false;
            self.flush(id, now, fx);
        }
    }
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
fn differs(cancelled: &Diff, diff: &Diff, users: &Users) -> bool {
    match (cancelled, diff) {
        (Diff::Leave { was, had_metadata, .. }, Diff::Join { user, .. }) => {
            users.get(*user).is_some_and(|user| user.status() != *was || *had_metadata || user.metadata.is_some())
        }
        (Diff::Join { .. }, _) | (Diff::Leave { .. }, Diff::Leave { .. }) => false,
    }
}

enum Merge {
    Same,
    Changed(Map<String, Value>),
    TooLarge,
}

fn merge(old: Option<&Map<String, Value>>, new: Map<String, Value>) -> Merge {
    if new.iter().all(|(key, value)| old.and_then(|old| old.get(key)) == Some(value)) {
        return Merge::Same;
    }
    let mut merged = old.cloned().unwrap_or_default();
    merged.extend(new);
    let bytes: usize = merged.iter().map(|(key, value)| key.len() + size(value)).sum();
    if merged.len() > METADATA_KEYS || bytes > METADATA_BYTES { Merge::TooLarge } else { Merge::Changed(merged) }
}

/// Roughly the length as JSON. Depth is bounded by the parser that made the value.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| 1 + size(item)).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(key, value)| key.len() + 4 + size(value)).sum::<usize>(),
    }
}
