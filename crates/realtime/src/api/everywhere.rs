//! Rooms as all nodes of a cluster see them: each node knows the connections of its own, and all together know the room.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use ::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_auth::Scope;
use tidegate_types::{Namespace, NodeId, RoomName, SpaceKey, TenantId};

use super::action::Done;
use super::caller::Caller;
use super::refused::Refused;
use super::rooms::summary;
use crate::across::{self, Missing};
use crate::node::{SpaceCell, now_ms};
use crate::shard::Shard;

/// Where peers have their part of some rooms; below `api_path`, for nodes only.
pub(super) const PATH: &str = "/peer/rooms";
/// Rooms asked for at once.
const MOST: usize = 1_000;

/// Rooms that another node wants to know this node's part of.
#[derive(Deserialize, Serialize)]
pub(super) struct Wanted {
    tenant: TenantId,
    namespace: Namespace,
    rooms: Vec<RoomName>,
}

impl Wanted {
    /// This node's part of them. Those that nobody is in by way of it are left out.
    pub fn answer(self, shard: &Rc<Shard>, caller: &Caller) -> Result<Done, Refused> {
        caller.needs(Scope::Rooms)?;
        let tenant = caller.tenant(Some(self.tenant))?;
        let namespace = caller.namespace(shard, Some(self.namespace.as_str()))?;
        // A space that was never opened here has nobody in it, and need not be opened for that.
        let Some(space) = shard.node.known(&SpaceKey { tenant, namespace }) else {
            return Ok(Done::ok(&json!({ "rooms": [] })));
        };
        let now = now_ms();
        let rooms = self.rooms.iter().take(MOST).filter(|room| caller.key.opens_room(room));
        let rooms: Vec<Value> =
            rooms.filter_map(|room| space.lock().room_summary(room, now).as_ref().map(summary)).collect();
        Ok(Done::ok(&json!({ "rooms": rooms })))
    }
}

/// Completes rooms, each with the node that has told of it (if one has), with what the others know. A room that a node
/// before that one has too is taken out: it stands where that node's rooms do.
pub(super) async fn add_up(
    shard: &Rc<Shard>,
    caller: &Caller,
    space: &Arc<SpaceCell>,
    own: NodeId,
    rooms: &mut Vec<(Option<NodeId>, Value)>,
) -> Vec<Missing> {
    if rooms.is_empty() {
        return Vec::new();
    }
    let mut names: Vec<RoomName> = rooms.iter().filter_map(|(_, room)| name(room)?.try_into().ok()).collect();
    names.sort_unstable();
    names.dedup();
    let now = now_ms();
    let here: Vec<Value> = {
        let space = space.lock();
        names.iter().filter_map(|room| space.room_summary(room, now).as_ref().map(summary)).collect()
    };
    let (tenant, namespace) = (space.key.tenant.clone(), space.key.namespace.clone());
    let body = json!(Wanted { tenant, namespace, rooms: names }).to_string();
    let answers = across::all(shard, &caller.question(Method::POST, PATH, body)).await;
    let mut parts: HashMap<String, Vec<(NodeId, Value)>> = HashMap::new();
    let theirs = answers.given.into_iter().flat_map(|(peer, mut answer)| {
        let rooms = answer.get_mut("rooms").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
        rooms.into_iter().map(move |room| (peer.id, room))
    });
    for (node, room) in here.into_iter().map(|room| (own, room)).chain(theirs) {
        if let Some(name) = name(&room).map(str::to_owned) {
            parts.entry(name).or_default().push((node, room));
        }
    }
    rooms.retain_mut(|(node, room)| {
        let Some(parts) = name(room).and_then(|name| parts.get(name)) else { return true };
        if node.is_some_and(|node| parts.iter().any(|(other, _)| *other < node)) {
            return false;
        }
        parts.iter().filter(|(other, _)| Some(*other) != *node).for_each(|(_, part)| add(room, part));
        true
    });
    answers.missing
}

fn name(room: &Value) -> Option<&str> {
    room.get("room").and_then(Value::as_str)
}

/// Connections are each one node's. Users and messages are those of the whole room at every node that is in it, as far as
/// it has heard: who knows more is right.
fn add(room: &mut Value, part: &Value) {
    let number = |of: &Value, name: &str| of.get(name).and_then(Value::as_u64).unwrap_or(0);
    let connections = number(room, "connections") + number(part, "connections");
    let users = number(room, "users").max(number(part, "users"));
    let rate = |of: &Value| of.get("messagesPerSecond").and_then(Value::as_f64).unwrap_or(0.0);
    let rate = rate(room).max(rate(part));
    if let Some(room) = room.as_object_mut() {
        room.insert("connections".to_owned(), connections.into());
        room.insert("users".to_owned(), users.into());
        room.insert("messagesPerSecond".to_owned(), rate.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_add_up_and_users_do_not() {
        let mut room = json!({ "room": "r", "users": 2, "connections": 3, "messagesPerSecond": 0.5 });
        add(&mut room, &json!({ "room": "r", "users": 3, "connections": 1, "messagesPerSecond": 0.4 }));
        assert_eq!(room, json!({ "room": "r", "users": 3, "connections": 4, "messagesPerSecond": 0.5 }));
    }
}
