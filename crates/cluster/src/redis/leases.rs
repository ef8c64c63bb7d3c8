//! Who is in which room by way of this node: kept here as long as it holds, so that it can be said again when Redis has
//! forgotten it, and taken back for a node that is dead.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use tidegate_types::{NodeId, RoomName, UserId};
use tokio::sync::oneshot;

use super::call::Call;
use super::engine::Engine;
use super::error::LinkError;
use super::inbox::Item;
use super::keys::{Keys, space_of_tag};
use super::link::Link;
use super::links::Links;
use super::message;
use super::resp::Value;
use super::script;
use super::slot::Slot;
use crate::Unavailable;

/// How many leases are said at once.
const AT_ONCE: usize = 1_000;

/// A lease of this node.
pub(super) type Key = (RoomName, UserId);

/// The leases of this node.
#[derive(Default)]
pub(super) struct Leases {
    spaces: FxHashMap<usize, OfSpace>,
}

#[derive(Default)]
struct OfSpace {
    /// Presence as JSON, by room and user.
    held: FxHashMap<RoomName, FxHashMap<UserId, Bytes>>,
    /// What Redis is to be told.
    dirty: FxHashSet<Key>,
    /// Whether Redis knows that this node has leases in the space: told before the first one, so that none can be left over.
    index: Index,
}

#[derive(Default, PartialEq)]
enum Index {
    #[default]
    Missing,
    Asked,
    There,
}

impl Engine {
    pub(super) fn lease(&mut self, index: usize, room: RoomName, user: UserId, info: Option<Bytes>) {
        let of = self.leases.spaces.entry(index).or_default();
        match info {
            Some(json) => drop(of.held.entry(room.clone()).or_default().insert(user.clone(), json)),
            None => {
                if let Some(users) = of.held.get_mut(&room) {
                    users.remove(&user);
                    if users.is_empty() {
                        of.held.remove(&room);
                    }
                }
            }
        }
        of.dirty.insert((room, user));
        self.pump_leases_of(index, AT_ONCE);
    }

    /// What Redis keeps of this node's leases in a room is compared with what they are.
    pub(super) fn own_leases(&mut self, index: usize, room: &RoomName, kept: &[(UserId, Bytes)]) {
        let of = self.leases.spaces.entry(index).or_default();
        let before = of.dirty.len();
        let held = of.held.get(room);
        for (user, json) in kept {
            if held.and_then(|held| held.get(user)) != Some(json) {
                of.dirty.insert((room.clone(), user.clone()));
            }
        }
        for user in held.into_iter().flat_map(FxHashMap::keys) {
            if !kept.iter().any(|(there, _)| there == user) {
                of.dirty.insert((room.clone(), user.clone()));
            }
        }
        if of.dirty.len() > before && of.index == Index::There {
            // What has lost these may have lost the index too.
            of.index = Index::Missing;
        }
        // Said at the next tick: the nodes do not come back at one moment.
    }

    /// Says all leases of this node again: another node has taken it to be dead and ended them. They stand behind that in
    /// each room's channel.
    pub(super) fn come_back(&mut self) {
        for of in self.leases.spaces.values_mut() {
            let held = of.held.iter().flat_map(|(room, users)| users.keys().map(|user| (room.clone(), user.clone())));
            of.dirty.extend(held);
            if of.index == Index::There {
                of.index = Index::Missing;
            }
        }
        self.pump_leases();
    }

    pub(super) fn pump_leases(&mut self) {
        let spaces: Vec<usize> = self.leases.spaces.keys().copied().collect();
        for index in spaces {
            self.pump_leases_of(index, AT_ONCE);
        }
    }

    fn pump_leases_of(&mut self, index: usize, most: usize) {
        let Some(entry) = self.spaces.get(index) else { return };
        let Some(of) = self.leases.spaces.get_mut(&index).filter(|of| !of.dirty.is_empty()) else { return };
        let Ok(link) = self.links.link(entry.slot) else { return };
        match of.index {
            Index::Asked => return,
            Index::Missing => {
                let name = self.keys.spaces_of(self.shared.node);
                let Ok(other) = self.links.link(Slot::of(name.as_bytes())) else { return };
                of.index = Index::Asked;
                drop(other.call(Call::new("PEXPIRE").arg(&name).int(self.shared.settings.room_ttl_ms())));
                let answer = other.call(Call::new("SADD").arg(&name).arg(entry.keys.tag()));
                drop(other.call(Call::new("PEXPIRE").arg(&name).int(self.shared.settings.room_ttl_ms())));
                let inbox = Rc::clone(&self.inbox);
                tokio::task::spawn_local(async move {
                    let result = answer.await;
                    inbox.put(Item::Indexed { space: index, result });
                });
                return;
            }
            Index::There => {}
        }
        let now: Vec<Key> = of.dirty.iter().take(most).cloned().collect();
        for key in now {
            of.dirty.remove(&key);
            let json = of.held.get(&key.0).and_then(|users| users.get(&key.1)).cloned().unwrap_or_default();
            let node = self.shared.node;
            let (before, after) = message::encode_lease(node, &key.1, &json);
            let keys = &entry.keys;
            let call = Call::script(&script::LEASE, &[keys.who(&key.0), keys.held(node), keys.channel(&key.0)])
                .arg(node.to_string())
                .arg(key.1.as_str())
                .arg(&json)
                .int(self.shared.settings.room_ttl_ms())
                .arg(key.0.as_str())
                .arg(before)
                .arg(after);
            let (inbox, answer) = (Rc::clone(&self.inbox), link.call(call));
            tokio::task::spawn_local(async move {
                let result = answer.await;
                if result.is_err() {
                    inbox.put(Item::Leased { space: index, key, result });
                }
            });
        }
    }

    pub(super) fn leased(&mut self, index: usize, key: Key, result: Result<Value, LinkError>) {
        if let Err(error) = &result {
            self.refused(error);
            if let Some(of) = self.leases.spaces.get_mut(&index) {
                of.dirty.insert(key);
            }
        }
    }

    pub(super) fn indexed(&mut self, index: usize, result: Result<Value, LinkError>) {
        let Some(of) = self.leases.spaces.get_mut(&index) else { return };
        match result {
            Ok(_) => {
                of.index = Index::There;
                self.pump_leases_of(index, AT_ONCE);
            }
            Err(error) => {
                of.index = Index::Missing;
                self.refused(&error);
            }
        }
    }

    pub(super) fn end_leases(&mut self, dead: NodeId, answer: oneshot::Sender<Result<(), Unavailable>>) {
        let name = self.keys.spaces_of(dead);
        let all = self.keys.all();
        let (Ok(index), Ok(announcing)) =
            (self.links.link(Slot::of(name.as_bytes())), self.links.link(Slot::of(all.as_bytes())))
        else {
            let _ = answer.send(Err(Unavailable));
            return;
        };
        let links = Rc::clone(&self.links);
        let keys = self.keys.clone();
        tokio::task::spawn_local(async move {
            let ended = end(&links, &keys, &index, &name, dead).await;
            let told = match ended {
                Some(()) => {
                    let call = Call::new("SPUBLISH").arg(&all).arg(message::encode_node_gone(dead));
                    announcing.call(call).await.map_err(|_| Unavailable).map(drop)
                }
                None => Err(Unavailable),
            };
            let _ = answer.send(told);
        });
    }
}

/// Ends all leases of the node. `None`: not all could be ended, the rest is for the next try.
async fn end(links: &Links, keys: &Keys, index: &Rc<Link>, name: &str, dead: NodeId) -> Option<()> {
    let spaces = index.call(Call::new("SMEMBERS").arg(name)).await.ok()?.into_array()?;
    for tag in spaces.iter().filter_map(Value::text) {
        if let Some(space) = space_of_tag(tag) {
            let of = keys.space(&Arc::new(space));
            let held = of.held(dead);
            let link = links.link(Slot::of(held.as_bytes())).ok()?;
            let rooms = link.call(Call::new("HKEYS").arg(&held)).await.ok()?.into_array()?;
            for batch in rooms.chunks(256) {
                let rooms = batch.iter().filter_map(|room| RoomName::try_from(room.text()?).ok());
                let ending = rooms.map(|room| {
                    let keys = [of.who(&room), held.clone(), of.channel(&room)];
                    let call = Call::script(&script::END_LEASES, &keys).arg(dead.to_string()).arg(room.as_str());
                    let (before, after) = message::encode_leases_ended(dead);
                    link.call(call.arg(before).arg(after))
                });
                for ended in ending.collect::<Vec<_>>() {
                    ended.await.ok()?;
                }
            }
            super::limits::free_seats(links, &of, dead).await?;
        }
        index.call(Call::new("SREM").arg(name).arg(tag)).await.ok()?;
    }
    Some(())
}
