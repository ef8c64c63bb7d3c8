//! Presence: what everybody should know, and what they have been told.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use tidegate_hub::{PresenceChange, PresenceUpdate};
use tidegate_types::{ConnId, PresenceInfo, RoomName, ShardSet, Status, UserId};

use super::{World, room_name, user_id};

/// A user with a connection.
#[derive(Default)]
pub(super) struct Person {
    pub(super) by_hand: Option<Status>,
    pub(super) metadata: Map<String, Value>,
    pub(super) activity: String,
    pub(super) custom: String,
    pub(super) last_seen: u64,
}

/// What one member believes about the presence of one room.
#[derive(Default)]
pub(super) struct View {
    pub(super) users: BTreeMap<UserId, PresenceInfo>,
    /// The view began after the room's last presence message, so a leave that was under way then may come for somebody
    /// it never saw.
    pub(super) young: bool,
}

impl World {
    /// At rest, everybody knows exactly who is there.
    pub fn settle(&mut self) {
        self.tick(2_000);
        self.check_effects();
        self.check_views();
    }

    pub(super) fn check_views(&self) {
        for ((slot, room), view) in &self.views {
            // Of what others know only this may be old: it is not worth a message.
            let known = |(id, info): (&UserId, &PresenceInfo)| {
                (id.clone(), PresenceInfo { last_seen: 0, active_connections: 1, ..info.clone() })
            };
            let view: BTreeMap<UserId, PresenceInfo> = view.users.iter().map(known).collect();
            let there: BTreeMap<UserId, PresenceInfo> = self.present(*room).iter().map(known).collect();
            assert_eq!(view, there, "what {slot} knows of room {room}");
        }
    }

    /// Who is in the room, as the list says.
    pub(super) fn present(&self, room: usize) -> BTreeMap<UserId, PresenceInfo> {
        self.members(room).map(|conn| (user_id(conn.user), self.info(conn.user))).collect()
    }

    pub(super) fn info(&self, user: usize) -> PresenceInfo {
        let person = &self.people[&user];
        let conns = || self.conns.values().filter(|conn| conn.user == user);
        let merged = if conns().any(|conn| !conn.idle) { Status::Online } else { Status::Away };
        let text = |text: &String| Some(Arc::from(text.as_str())).filter(|_| !text.is_empty());
        PresenceInfo {
            user_id: user_id(user),
            username: None,
            status: person.by_hand.unwrap_or(merged),
            last_seen: person.last_seen,
            metadata: Some(Arc::new(person.metadata.clone())).filter(|metadata| !metadata.is_empty()),
            active_connections: conns().count() as u32,
            current_activity: text(&person.activity),
            custom_status: text(&person.custom),
        }
    }

    pub(super) fn came(&mut self, user: usize) {
        self.people.entry(user).or_default().last_seen = self.now;
    }

    pub(super) fn see(&mut self, slot: usize, room: usize) {
        let (listed, count) = self.space.presence(&room_name(room), 1_000);
        let there = self.present(room);
        let users: BTreeMap<UserId, PresenceInfo> =
            listed.into_iter().map(|info| (info.user_id.clone(), info)).collect();
        assert_eq!((&users, count), (&there, there.len()));
        self.views.insert((slot, room), View { users, young: true });
    }

    pub(super) fn idle(&mut self, slot: usize, idle: bool) {
        let Some(conn) = self.conns.get_mut(&slot) else { return };
        let (changed, seen_at) = (conn.idle != idle, if idle { self.now - 500 } else { self.now });
        conn.idle = idle;
        if idle {
            self.space.idle(conn.id, seen_at, self.now, &mut self.fx);
        } else {
            self.space.active(conn.id, self.now, &mut self.fx);
        }
        let person = self.people.get_mut(&conn.user).unwrap();
        if changed {
            person.last_seen = person.last_seen.max(seen_at);
        }
    }

    pub(super) fn say(&mut self, slot: usize, status: Option<u8>, mood: u8, activity: u8, custom: u8) {
        let Some(conn) = self.conns.get(&slot) else { return };
        let person = self.people.get_mut(&conn.user).unwrap();
        let mut update = PresenceUpdate::default();
        if let Some(status) = status {
            let status = [Status::Offline, Status::Away, Status::Busy, Status::Online][usize::from(status)];
            update.status = Some(status);
            person.by_hand = Some(status).filter(|status| *status != Status::Online);
        }
        if mood > 0 {
            let said = Map::from_iter([(format!("mood-{mood}"), Value::from(activity))]);
            person.metadata.extend(said.clone());
            update.metadata = Some(said);
        }
        if activity > 0 {
            // The last one takes it back.
            let text = "tea".repeat(usize::from(activity - 1));
            person.activity.clone_from(&text);
            update.current_activity = Some(text.into());
        }
        let mut accepted = true;
        if custom > 0 {
            let text = "x".repeat(usize::from(custom - 1) * 130);
            accepted = text.len() <= 256;
            if accepted {
                person.custom.clone_from(&text);
            }
            update.custom_status = Some(text.into());
        }
        person.last_seen = self.now;
        assert_eq!(self.space.update_presence(conn.id, update, self.now, &mut self.fx), accepted);
    }

    pub(super) fn presence(
        &mut self,
        room: &RoomName,
        shards: ShardSet,
        change: PresenceChange,
        except: Option<ConnId>,
    ) {
        let room: usize = room.as_str()["room-".len()..].parse().unwrap();
        // A connection that resumes may change its user's status. The rooms are told of that before it enters them: it is
        // given a snapshot of its own.
        let entering = self.resuming.filter(|_| matches!(change, PresenceChange::Update { .. }));
        assert_eq!(shards, self.shards_without(room, entering));
        for ((slot, of), view) in &mut self.views {
            if *of != room || self.conns.get(slot).is_some_and(|conn| Some(conn.id) == except) {
                continue;
            }
            match &change {
                PresenceChange::Join(info) => {
                    let new = view.users.insert(info.user_id.clone(), info.clone()).is_none();
                    assert!(new || view.young, "a second join of {:?}", info.user_id);
                }
                PresenceChange::Leave(user) => {
                    let known = view.users.remove(user).is_some();
                    assert!(known || view.young, "a leave of {user:?} without a join");
                }
                PresenceChange::Update { listed, count } => {
                    view.users = listed.iter().map(|info| (info.user_id.clone(), info.clone())).collect();
                    assert_eq!(view.users.len(), *count);
                }
            }
        }
    }
}
