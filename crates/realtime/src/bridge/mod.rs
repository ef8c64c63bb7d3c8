//! Socket.IO servers in Node beside this one: on the same Redis, by their own adapters, so that `io.to(room).emit()`
//! reaches clients wherever they are connected, in both directions.
//!
//! A bridge belongs to one namespace of one tenant. What it promises is what these adapters promise each other: at most
//! once, in order, to whoever is there. Nothing of it has a place in a room's order; therefore sessions of a bridged
//! namespace do not recover: a message from Node would be missing without anybody being told.
//!
//! Nodes of one Tidegate cluster know each other by their uids, and take broadcasts of each other from their own broker
//! alone. Two that are not in one cluster are to each other what Node servers are.
//!
//! Where to start reading: `wires` (what comes in), `hear` (what is done about it), [`Bridge::say`] (what goes out).

mod adapter;
mod asked;
mod hear;
mod locals;
mod placed;
mod requests;
mod wires;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tidegate_cluster::redis::RedisSettings;
use tidegate_cluster::redis::interop::{Put, Tap};
use tidegate_metrics::{Interop, InteropLabels, Metrics};
use tidegate_types::{Class, ConnId, Namespace, Publication, RoomName, SpaceKey, TenantId, hex};
use tidegate_wire::node_adapter::{Broadcast, Error, Event, Message, Names, Selection};

use adapter::Adapter;
pub(crate) use asked::{Asked, Asker};
pub(crate) use locals::{fetch, join, leave, question};
use placed::Placed;
pub(crate) use requests::Question;
use requests::Requests;
pub(crate) use wires::start;

/// Node servers that this one works beside.
#[derive(Clone, Debug)]
pub struct InteropSettings {
    /// The Redis that they talk through.
    pub redis: RedisSettings,
    /// What all nodes of this one's cluster have in common; `None` if it is alone.
    pub family: Option<String>,
    /// The namespaces, each once.
    pub bridges: Vec<BridgeSettings>,
}

impl InteropSettings {
    /// One for each namespace.
    pub(crate) fn bridges(&self, metrics: &Arc<Metrics>) -> Vec<Arc<Bridge>> {
        let family = self.family.as_deref();
        self.bridges.iter().map(|settings| Arc::new(Bridge::new(settings, family, metrics))).collect()
    }
}

/// A namespace that is served by Node servers, too.
#[derive(Clone, Debug)]
pub struct BridgeSettings {
    /// Whose clients here they are; Node knows no tenants.
    pub tenant: TenantId,
    /// The namespace.
    pub namespace: Namespace,
    /// How the Node servers talk to each other.
    pub adapter: AdapterSettings,
}

/// An adapter, and what it calls its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterSettings {
    /// `@socket.io/redis-adapter`: `createAdapter`.
    Redis {
        /// Its option `key`.
        key: String,
    },
    /// `@socket.io/redis-adapter`: `createShardedAdapter`.
    Sharded {
        /// Its option `channelPrefix`.
        prefix: String,
    },
    /// `@socket.io/redis-streams-adapter`.
    Streams {
        /// Its option `streamName`.
        stream: String,
        /// Its option `channelPrefix`.
        prefix: String,
        /// Its option `maxLen`.
        most: u64,
    },
}

/// One namespace's way to Node servers.
pub(crate) struct Bridge {
    pub key: SpaceKey,
    adapter: Adapter,
    /// What this server is called among the others.
    uid: String,
    /// What the uids of this cluster's nodes begin with.
    family: Option<String>,
    wire: OnceLock<Tap>,
    metrics: Arc<Metrics>,
    /// Who is connected here, by the id that is a room of its own in Node.
    sockets: Mutex<FxHashMap<Box<str>, ConnId>>,
    /// Members here by room, where each room is a channel.
    rooms: Mutex<FxHashMap<RoomName, u32>>,
    placed: Placed,
    requests: Requests,
}

impl Bridge {
    pub fn new(settings: &BridgeSettings, family: Option<&str>, metrics: &Arc<Metrics>) -> Self {
        let family = family.map(|family| format!("tidegate-{family}-"));
        let random = String::from_utf8(hex::<16>(u64::from_ne_bytes(crate::id::random())).to_vec()).unwrap_or_default();
        let uid = format!("{}{random}", family.as_deref().unwrap_or("tidegate-"));
        Self {
            key: SpaceKey { tenant: settings.tenant.clone(), namespace: settings.namespace.clone() },
            adapter: Adapter::new(&settings.adapter, settings.namespace.as_str(), &uid),
            uid,
            family,
            wire: OnceLock::new(),
            metrics: metrics.clone(),
            sockets: Mutex::default(),
            rooms: Mutex::default(),
            placed: Placed::default(),
            requests: Requests::default(),
        }
    }

    fn sockets_here(&self) -> MutexGuard<'_, FxHashMap<Box<str>, ConnId>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client is in the namespace.
    pub fn entered(&self, socket: &str, conn: ConnId) {
        if !socket.is_empty() {
            self.sockets_here().insert(socket.into(), conn);
        }
    }

    /// A client has left the namespace.
    pub fn left(&self, socket: &str, conn: ConnId) {
        let mut sockets = self.sockets_here();
        // A session that has come back may have its id already on another connection.
        if sockets.get(socket) == Some(&conn) {
            sockets.remove(socket);
        }
    }

    /// Those of the rooms that are the ids of sockets here.
    pub fn sockets(&self, rooms: &[RoomName]) -> SmallVec<[ConnId; 1]> {
        if rooms.is_empty() {
            return SmallVec::new();
        }
        let sockets = self.sockets_here();
        rooms.iter().filter_map(|room| sockets.get(room.as_str()).copied()).collect()
    }

    /// A client here is in one more room.
    pub fn joined(&self, room: &RoomName) {
        if let Some(source) = self.adapter.room(room.as_str()) {
            let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
            let members = rooms.entry(room.clone()).or_default();
            *members += 1;
            if let (1, Some(wire)) = (*members, self.wire.get()) {
                wire.listen(source);
            }
        }
    }

    /// A client here is in one room less.
    pub fn parted(&self, room: &RoomName) {
        if let Some(source) = self.adapter.room(room.as_str()) {
            let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(members) = rooms.get_mut(room) else { return };
            *members = members.saturating_sub(1);
            if *members == 0 {
                rooms.remove(room);
                if let Some(wire) = self.wire.get() {
                    wire.ignore(source);
                }
            }
        }
    }

    /// Whether rooms come one by one into the bridge.
    pub fn follows_rooms(&self) -> bool {
        self.adapter.follows_rooms()
    }

    /// A message that this node has given its place, in the order of the calls. One that waits for the store goes on its
    /// way once the store has it, and what is behind it waits, too.
    pub fn place(&self, publication: &Arc<Publication>, stored: bool) {
        self.placed.push(publication, stored, |publication| self.publication(publication));
    }

    /// The store has the message, or refused it.
    pub fn settled(&self, seq: u64, stored: bool) {
        self.placed.settled(seq, stored, |publication| self.publication(publication));
    }

    /// A message that is for the members of its room.
    pub fn publication(&self, publication: &Publication) {
        let rooms = Names::from_iter([publication.room.as_str()]);
        let to = Selection { rooms, except: Names::default() };
        self.broadcast(publication, to, publication.class == Class::Volatile);
    }

    /// An event for clients of the other servers.
    pub fn broadcast(&self, publication: &Publication, to: Selection, volatile: bool) {
        let args = std::str::from_utf8(&publication.data).unwrap_or_default();
        let event = Event::new(publication.event.as_str(), args, publication.attachments.to_vec());
        self.say(&Message::Broadcast(Broadcast { event, to, volatile, ack: None }));
    }

    /// Says something to all other servers. Returns at once.
    pub fn say(&self, message: &Message) {
        self.put(self.adapter.say(&self.uid, self.key.namespace.as_str(), message));
    }

    /// Answers another server.
    pub fn answer(&self, to: Option<&str>, message: &Message) {
        self.put(self.adapter.answer(&self.uid, self.key.namespace.as_str(), to, message));
    }

    fn put(&self, put: Result<Option<Put>, Error>) {
        match (put, self.wire.get()) {
            (Ok(Some(put)), Some(wire)) => {
                // What is dropped is counted where that is known.
                if wire.put(put) {
                    self.count(Interop::Sent);
                }
            }
            (Ok(_), _) => {}
            (Err(error), _) => {
                self.count(Interop::Unwritten);
                tracing::debug!(%error, "something cannot be said to Node servers");
            }
        }
    }

    fn count(&self, outcome: Interop) {
        self.metrics.interop_messages.get_or_create(&InteropLabels { outcome }).inc();
    }
}
