//! What other nodes say of the users who are connected to them, merged with what holds here.

use std::collections::BTreeMap;

use smallvec::SmallVec;
use tidegate_types::{NodeId, PresenceInfo, UserId};

use crate::users::{User, UserKey, Users};
use crate::{Lease, RoomId};

/// What one other node says of a user.
pub(crate) struct Elsewhere {
    node: NodeId,
    pub info: PresenceInfo,
    /// The rooms in which the node holds a lease of the user. Never none.
    rooms: SmallVec<[RoomId; 2]>,
}

/// Whether the user has said something about themselves beside a status.
pub(crate) fn has_said(info: &PresenceInfo) -> bool {
    info.metadata.is_some() || info.current_activity.is_some() || info.custom_status.is_some()
}

/// A lease of another node.
pub(crate) struct Held {
    pub user: UserKey,
    /// The node has not held it before.
    pub is_new: bool,
    /// The rooms in which the user looks otherwise now.
    pub changed: SmallVec<[RoomId; 2]>,
}

impl User {
    /// All connections that are known, merged into one: as present as the most present of them, and what was said last.
    pub fn info(&self) -> PresenceInfo {
        self.info_of(!self.conns.is_empty(), |_| true)
    }

    /// As [`User::info`], of those nodes that have the user in the room: all nodes know of these, so that the user looks
    /// the same in the room from everywhere.
    pub fn info_in(&self, room: RoomId, is_in_here: bool) -> PresenceInfo {
        self.info_of(is_in_here, |elsewhere| elsewhere.rooms.contains(&room))
    }

    fn info_of(&self, here: bool, counts: impl Fn(&Elsewhere) -> bool) -> PresenceInfo {
        let mut elsewhere =
            self.elsewhere.iter().filter(|elsewhere| counts(elsewhere)).map(|elsewhere| &elsewhere.info);
        let first = if here { None } else { elsewhere.next().cloned() };
        elsewhere.fold(first.unwrap_or_else(|| self.info_here()), merged)
    }

    /// Whether the user is there at all.
    pub fn is_anywhere(&self) -> bool {
        !self.conns.is_empty() || !self.elsewhere.is_empty()
    }
}

/// The users who hold leases, each merged into one, by their names.
pub fn merge_leases(leases: impl IntoIterator<Item = Lease>) -> Vec<PresenceInfo> {
    let mut users: BTreeMap<UserId, PresenceInfo> = BTreeMap::new();
    for Lease { info, .. } in leases {
        match users.remove(&info.user_id) {
            Some(known) => users.insert(info.user_id.clone(), merged(known, &info)),
            None => users.insert(info.user_id.clone(), info),
        };
    }
    users.into_values().collect()
}

/// Of what two nodes say each part that was said, by the one that saw the user last.
fn merged(one: PresenceInfo, other: &PresenceInfo) -> PresenceInfo {
    let (status, active_connections) =
        (one.status.max(other.status), one.active_connections.saturating_add(other.active_connections));
    // Of equals the same one everywhere, whoever was heard first.
    let key = |info: &PresenceInfo| (info.last_seen, info.status);
    let (newer, older) = if key(&one) >= key(other) { (one, other.clone()) } else { (other.clone(), one) };
    PresenceInfo {
        username: newer.username.or(older.username),
        status,
        metadata: newer.metadata.or(older.metadata),
        active_connections,
        current_activity: newer.current_activity.or(older.current_activity),
        custom_status: newer.custom_status.or(older.custom_status),
        user_id: newer.user_id,
        last_seen: newer.last_seen,
    }
}

/// Whether others see a difference worth telling. Who is seen again looks the same.
pub(crate) fn looks_alike(one: &PresenceInfo, other: &PresenceInfo) -> bool {
    let part = |info: &PresenceInfo| {
        (info.status, info.username.clone(), info.current_activity.clone(), info.custom_status.clone())
    };
    part(one) == part(other) && one.metadata == other.metadata
}

impl Users {
    /// Another node holds a lease of the user in the room. What is no news does not replace what was heard later.
    pub fn hold_elsewhere(
        &mut self,
        id: &UserId,
        node: NodeId,
        info: PresenceInfo,
        room: RoomId,
        is_news: bool,
    ) -> Option<Held> {
        let key = self.open(id, info.last_seen);
        let user = self.get_mut(key)?;
        let mut changed = SmallVec::new();
        let info = PresenceInfo { user_id: user.id.clone(), ..info };
        let is_new = match user.elsewhere.iter_mut().find(|elsewhere| elsewhere.node == node) {
            Some(held) => {
                if is_news || info.last_seen >= held.info.last_seen {
                    if !looks_alike(&held.info, &info) {
                        changed.clone_from(&held.rooms);
                    }
                    held.info = info;
                }
                let is_new = !held.rooms.contains(&room);
                if is_new {
                    held.rooms.push(room);
                }
                is_new
            }
            None => {
                user.elsewhere.push(Elsewhere { node, info, rooms: SmallVec::from_slice(&[room]) });
                true
            }
        };
        Some(Held { user: key, is_new, changed })
    }

    /// Another node holds it no more.
    pub fn end_elsewhere(&mut self, key: UserKey, node: NodeId, room: RoomId) {
        let Some(user) = self.get_mut(key) else { return };
        let Some(held) = user.elsewhere.iter_mut().find(|elsewhere| elsewhere.node == node) else { return };
        held.rooms.retain(|of| *of != room);
        user.elsewhere.retain(|elsewhere| !elsewhere.rooms.is_empty());
    }

    /// To be called when a user may be nowhere any more.
    pub fn settle(&mut self, key: UserKey) {
        if self.get(key).is_some_and(|user| !user.is_anywhere())
            && let Some(user) = self.slots.try_remove(key as usize)
        {
            self.by_id.remove(&user.id);
        }
    }

    /// The other nodes that hold a lease of the user in the room.
    pub fn nodes_holding(&self, key: UserKey, room: RoomId) -> impl Iterator<Item = NodeId> {
        let elsewhere = self.get(key).map_or(&[][..], |user| &user.elsewhere);
        elsewhere.iter().filter(move |elsewhere| elsewhere.rooms.contains(&room)).map(|elsewhere| elsewhere.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_types::Status;

    #[test]
    fn a_user_on_two_nodes_is_one_and_as_present_as_the_most_present_of_them() {
        let lease = |node, user: &str, status, last_seen| {
            let info = PresenceInfo {
                user_id: UserId::try_from(user).unwrap(),
                username: None,
                status,
                last_seen,
                metadata: None,
                active_connections: 2,
                current_activity: None,
                custom_status: None,
            };
            Lease { node: NodeId(node), info }
        };
        let leases =
            [lease(2, "bob", Status::Away, 5), lease(1, "ada", Status::Away, 9), lease(2, "ada", Status::Online, 7)];
        let merged = merge_leases(leases);
        let seen: Vec<_> = merged
            .iter()
            .map(|info| (info.user_id.as_str(), info.status, info.last_seen, info.active_connections))
            .collect();
        assert_eq!(seen, [("ada", Status::Online, 9, 4), ("bob", Status::Away, 5, 2)]);
    }
}
