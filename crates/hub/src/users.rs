//! The users of a space, each with all their connections merged into one.

use std::sync::Arc;

use serde_json::{Map, Value};
use slab::Slab;
use smallvec::SmallVec;
use tidegate_types::{ConnId, Millis, PresenceInfo, Status, UserId};

use crate::PresenceUpdate;
use crate::elsewhere::Elsewhere;
use crate::presence::Looks;
use crate::seeded::{Seed, SeededMap};
use crate::session::Who;

/// What a user may say about themselves, in all: a merge that would exceed it is refused as a whole.
const METADATA_KEYS: usize = 64;
const METADATA_BYTES: usize = 8 * 1024;
/// The longest `currentActivity` and `customStatus`, bytes.
const TEXT_BYTES: usize = 256;

/// Index of a user in [`Users`]; valid while the user has a connection.
pub(crate) type UserKey = u32;

/// What users say about themselves. Most say nothing: boxed, so that those pay a pointer.
#[derive(Clone, Default, PartialEq)]
struct Said {
    metadata: Option<Arc<Map<String, Value>>>,
    activity: Option<Arc<str>>,
    custom: Option<Arc<str>>,
}

pub(crate) struct User {
    pub id: UserId,
    username: Option<Arc<str>>,
    /// Set by the user; outranks what the connections say, until the last of them has gone.
    by_hand: Option<Status>,
    /// Connections without activity for a while.
    idle: u32,
    last_seen: Millis,
    said: Option<Box<Said>>,
    pub conns: SmallVec<[ConnId; 1]>,
    /// What other nodes say of their connections.
    pub elsewhere: Vec<Elsewhere>,
    /// Rooms in which at least one of the connections is.
    pub rooms: u32,
}

impl User {
    fn status_here(&self) -> Status {
        let present = (self.idle as usize) < self.conns.len();
        self.by_hand.unwrap_or(if present { Status::Online } else { Status::Away })
    }

    /// As [`User::info_here`], without what is not remembered.
    pub fn looks_here(&self) -> Looks {
        Looks { status: self.status_here(), has_said: self.said.is_some() }
    }

    /// What holds for the connections here.
    pub fn info_here(&self) -> PresenceInfo {
        let said = self.said.as_deref();
        PresenceInfo {
            user_id: self.id.clone(),
            username: self.username.clone(),
            status: self.status_here(),
            last_seen: self.last_seen,
            metadata: said.and_then(|said| said.metadata.clone()),
            active_connections: u32::try_from(self.conns.len()).unwrap_or(u32::MAX),
            current_activity: said.and_then(|said| said.activity.clone()),
            custom_status: said.and_then(|said| said.custom.clone()),
        }
    }

    /// Takes what the user says about themselves. Whether what others see is another now, and whether all was accepted.
    pub fn say(&mut self, update: PresenceUpdate, now: Millis) -> (bool, bool) {
        let before = self.status_here();
        self.last_seen = now;
        match update.status {
            // Who is online says no more than that their connections speak for themselves again.
            Some(Status::Online) => self.by_hand = None,
            Some(status) => self.by_hand = Some(status),
            None => {}
        }
        let mut said = self.said.as_deref().cloned().unwrap_or_default();
        let mut accepted = true;
        if let Some(metadata) = update.metadata {
            match merge(said.metadata.as_deref(), metadata) {
                Merge::Same => {}
                Merge::Changed(merged) => said.metadata = Some(Arc::new(merged)),
                Merge::TooLarge => accepted = false,
            }
        }
        accepted &= set_text(&mut said.activity, update.current_activity);
        accepted &= set_text(&mut said.custom, update.custom_status);
        let same = self.said.as_deref().map_or_else(|| said == Said::default(), |old| *old == said);
        if !same {
            self.said = (said != Said::default()).then(|| Box::new(said));
        }
        (!same || before != self.status_here(), accepted)
    }

    /// One of the connections went idle, or came back; it was last active at `seen_at`. Whether the status is another.
    pub fn turn(&mut self, idle: bool, seen_at: Millis) -> bool {
        let before = self.status_here();
        self.last_seen = self.last_seen.max(seen_at);
        self.idle = if idle { self.idle.saturating_add(1) } else { self.idle.saturating_sub(1) };
        before != self.status_here()
    }
}

/// False: too long, left as it was.
fn set_text(text: &mut Option<Arc<str>>, new: Option<Arc<str>>) -> bool {
    match new {
        None => true,
        Some(new) if new.len() > TEXT_BYTES => false,
        Some(new) => {
            *text = Some(new).filter(|new| !new.is_empty());
            true
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

/// The users of a space who have a connection, here or elsewhere.
pub(crate) struct Users {
    pub slots: Slab<User>,
    pub by_id: SeededMap<UserId, UserKey>,
    /// How many have one here.
    here: usize,
}

impl Users {
    pub fn new(seed: Seed) -> Self {
        Self { slots: Slab::new(), by_id: SeededMap::with_hasher(seed), here: 0 }
    }

    /// How many have a connection here.
    pub fn len(&self) -> usize {
        self.here
    }

    pub fn key(&self, id: &UserId) -> Option<UserKey> {
        self.by_id.get(id).copied()
    }

    pub fn get(&self, key: UserKey) -> Option<&User> {
        self.slots.get(key as usize)
    }

    pub fn get_mut(&mut self, key: UserKey) -> Option<&mut User> {
        self.slots.get_mut(key as usize)
    }

    pub fn find(&self, id: &UserId) -> Option<&User> {
        self.by_id.get(id).and_then(|key| self.get(*key))
    }

    /// One more than the highest key in use.
    pub fn end(&self) -> usize {
        self.slots.capacity()
    }

    /// The user of that name, made if there is none.
    pub fn open(&mut self, id: &UserId, now: Millis) -> UserKey {
        let slots = &mut self.slots;
        *self.by_id.entry(id.clone()).or_insert_with_key(|id| {
            let user = User {
                id: id.clone(),
                username: None,
                by_hand: None,
                idle: 0,
                last_seen: now,
                said: None,
                conns: SmallVec::new(),
                elsewhere: Vec::new(),
                rooms: 0,
            };
            slots.insert(user) as UserKey
        })
    }

    /// Adds a connection, online at first.
    pub fn attach(&mut self, who: Who, conn: ConnId, now: Millis) -> Attached {
        let key = self.open(&who.user, now);
        let Some(user) = self.get_mut(key) else { return Attached { user: key, index: 0, changed: false } };
        let is_first = user.conns.is_empty();
        let before = (!is_first).then(|| user.status_here());
        user.username = who.username.or_else(|| user.username.take());
        user.last_seen = now;
        user.conns.push(conn);
        let index = user.conns.len().saturating_sub(1);
        let changed = before.is_some_and(|before| before != user.status_here());
        self.here += usize::from(is_first);
        Attached { user: key, index, changed }
    }

    /// Ends the connection at `index` of the user's.
    pub fn detach(&mut self, key: UserKey, index: usize, idle: bool) -> Detached {
        let Some(user) = self.get_mut(key) else { return Detached::default() };
        let before = user.status_here();
        user.idle = user.idle.saturating_sub(u32::from(idle));
        if index < user.conns.len() {
            user.conns.swap_remove(index);
        }
        let moved = user.conns.get(index).copied();
        if user.conns.is_empty() {
            // What they said goes with the last connection, also of a user who is there by way of other nodes.
            (user.said, user.by_hand, user.idle) = (None, None, 0);
            self.here = self.here.saturating_sub(1);
            self.settle(key);
            return Detached::default();
        }
        Detached { changed: before != user.status_here(), moved }
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
