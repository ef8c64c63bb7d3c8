//! Members of rooms by way of other nodes.
//!
//! Per room and user a node holds one lease, however many connections it has; it counts as one more lease of the user in
//! the room. What a user is like elsewhere is kept once per node, and merged with what holds here.

use rustc_hash::FxHashSet;
use tidegate_types::{Millis, NodeId, PresenceInfo, RoomName, UserId};

use crate::elsewhere::{has_said, looks_alike};
use crate::presence::Looks;
use crate::space::Space;
use crate::users::UserKey;
use crate::{Effect, Effects, Lease, RoomId};

impl Space {
    /// A member of a followed room by way of another node came, changed or (`None`) went.
    pub fn leased(
        &mut self,
        room: &RoomName,
        node: NodeId,
        user: &UserId,
        info: Option<PresenceInfo>,
        now: Millis,
        fx: &mut Effects,
    ) {
        let Some(id) = self.rooms.id(room).filter(|_| self.config.follows) else { return };
        match info {
            Some(info) => _ = self.hold_elsewhere(id, node, user, info, true, now, fx),
            None => {
                if let Some(key) = self.users.key(user) {
                    self.end_elsewhere(id, node, key, now, fx);
                }
            }
        }
    }

    /// All that a node held in a room ends: it has died or left.
    pub fn leases_ended(&mut self, room: &RoomName, node: NodeId, now: Millis, fx: &mut Effects) {
        let Some(id) = self.rooms.id(room) else { return };
        let Some(room) = self.rooms.get(id) else { return };
        let held: Vec<UserKey> =
            room.presence.users().filter(|key| self.users.nodes_holding(*key, id).any(|of| of == node)).collect();
        for key in held {
            self.end_elsewhere(id, node, key, now, fx);
        }
    }

    /// These are all the members of the room by way of other nodes. Who has only changed the node neither leaves nor joins.
    pub(crate) fn lease_all(&mut self, id: RoomId, leases: Vec<Lease>, now: Millis, fx: &mut Effects) {
        let Some(room) = self.rooms.get(id) else { return };
        let mut gone: FxHashSet<(UserKey, NodeId)> = FxHashSet::default();
        for key in room.presence.users() {
            gone.extend(self.users.nodes_holding(key, id).map(|node| (key, node)));
        }
        for Lease { node, info } in leases {
            let user = info.user_id.clone();
            if let Some(key) = self.hold_elsewhere(id, node, &user, info, false, now, fx) {
                gone.remove(&(key, node));
            }
        }
        for (key, node) in gone {
            self.end_elsewhere(id, node, key, now, fx);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn hold_elsewhere(
        &mut self,
        id: RoomId,
        node: NodeId,
        user: &UserId,
        info: PresenceInfo,
        is_news: bool,
        now: Millis,
        fx: &mut Effects,
    ) -> Option<UserKey> {
        let before = self.users.key(user).and_then(|key| self.look_elsewhere(id, key));
        let held = self.users.hold_elsewhere(user, node, info, id, is_news)?;
        if held.is_new {
            self.add_lease(id, held.user, None, now, fx);
        }
        self.show_look(id, held.user, before, now, fx);
        for other in held.changed {
            if other != id {
                self.show_snapshot(other, now, fx);
            }
        }
        Some(held.user)
    }

    fn end_elsewhere(&mut self, id: RoomId, node: NodeId, key: UserKey, now: Millis, fx: &mut Effects) {
        if !self.users.nodes_holding(key, id).any(|of| of == node) {
            return;
        }
        self.end_lease(id, key, Some(node), now, fx);
        self.users.settle(key);
    }

    /// The room is not followed any more: what was known of its members elsewhere goes with it.
    pub(crate) fn forget_elsewhere(&mut self, id: RoomId, users: impl Iterator<Item = UserKey>) {
        for key in users {
            let nodes: Vec<NodeId> = self.users.nodes_holding(key, id).collect();
            for node in nodes {
                self.users.end_elsewhere(key, node, id);
            }
            self.users.settle(key);
        }
    }

    /// The other nodes are to be told how present the user is here, in this room.
    pub(crate) fn mark_lease(&mut self, id: RoomId, key: UserKey) {
        if !self.config.follows {
            return;
        }
        let (Some(room), Some(user)) = (self.rooms.get(id), self.users.get(key)) else { return };
        self.following.leases.push((room.name.clone(), user.id.clone()));
    }

    /// Tells the other nodes what has changed since the last tick, each user once in each room.
    pub(crate) fn flush_leases(&mut self, fx: &mut Effects) {
        let mut changed = std::mem::take(&mut self.following.leases);
        changed.sort_unstable();
        changed.dedup();
        for (room, user) in changed {
            let key = self.users.key(&user);
            let is_in = key.is_some_and(|key| self.rooms.id(&room).is_some_and(|id| self.leases_here(id, key) > 0));
            let info = key.filter(|_| is_in).and_then(|key| self.users.get(key)).map(|user| user.info_here());
            fx.push(Effect::Lease { room, user, info });
        }
    }

    /// How a user who is in the room by way of another node looks there.
    pub(crate) fn look_elsewhere(&self, id: RoomId, key: UserKey) -> Option<PresenceInfo> {
        let user = self.users.get(key).filter(|user| !user.elsewhere.is_empty())?;
        (self.rooms.get(id)?.presence.leases_of(key) > 0).then(|| user.info_in(id, self.leases_here(id, key) > 0))
    }

    /// Shows the room a user who looks otherwise than before, and is still there.
    pub(crate) fn show_look(
        &mut self,
        id: RoomId,
        key: UserKey,
        before: Option<PresenceInfo>,
        now: Millis,
        fx: &mut Effects,
    ) {
        let differs = |before| self.info_in(id, key).is_some_and(|is| !looks_alike(&before, &is));
        if before.is_some_and(differs) {
            self.show_snapshot(id, now, fx);
        }
    }

    /// What the room remembers of how the user looks.
    pub(crate) fn looks_in(&self, id: RoomId, key: UserKey) -> Option<Looks> {
        let user = self.users.get(key)?;
        if user.elsewhere.is_empty() {
            return Some(user.looks_here());
        }
        let info = user.info_in(id, self.leases_here(id, key) > 0);
        Some(Looks { status: info.status, has_said: has_said(&info) })
    }

    /// How the user looks in the room.
    pub(crate) fn info_in(&self, id: RoomId, key: UserKey) -> Option<PresenceInfo> {
        let user = self.users.get(key)?;
        // Nearly always: nobody else has to be asked.
        if user.elsewhere.is_empty() {
            return Some(user.info_here());
        }
        Some(user.info_in(id, self.leases_here(id, key) > 0))
    }

    /// How many connections to this node the user has in the room.
    pub(crate) fn leases_here(&self, id: RoomId, key: UserKey) -> u32 {
        let all = self.rooms.get(id).map_or(0, |room| room.presence.leases_of(key));
        all.saturating_sub(u32::try_from(self.users.nodes_holding(key, id).count()).unwrap_or(u32::MAX))
    }
}
