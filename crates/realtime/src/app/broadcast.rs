//! Events to many clients, now: to whoever is there. What has to reach those who come later is published instead.

use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use tidegate_cluster::Audience;
use tidegate_hub::RoomId;
use tidegate_metrics::DropReason;
use tidegate_types::{Class, CloseReason, ConnId, EventName, Publication, RoomName, ShardId, ShardSet};
use tidegate_wire::socket_io;

use super::args::Args;
use crate::connection::Conn;
use crate::encoded::Encoded;
use crate::mailbox::{Delivery, Except, Item};
use crate::node::{Node, SpaceCell, now_ms};
use crate::shard::{CHUNK, Shard};
use crate::signals::{Far, FarDeed, Said, Signal};

type Rooms = SmallVec<[RoomId; 2]>;

/// Whom an event goes to, and then the event: `socket.to("room").except("others").emit("name", &value)`.
///
/// In a cluster, clients of other nodes are reached as well, unless the broker that connects them cannot be reached just
/// then. Clients on one worker get what one sender emits in order. The sender is not waited for: one that sends in a loop from
/// its own thread asks [`super::Io::ready`] in between.
#[derive(Clone)]
#[must_use = "nothing is sent without `emit`"]
pub struct Broadcast {
    node: Arc<Node>,
    space: Arc<SpaceCell>,
    rooms: SmallVec<[RoomName; 1]>,
    /// A name that no room can have was asked for: such a room is empty.
    nobody: bool,
    but: SmallVec<[RoomName; 1]>,
    except: Option<ConnId>,
    volatile: bool,
}

/// What a worker does to its clients.
pub(crate) enum Deed {
    Emit(Arc<Encoded>),
    Disconnect,
}

/// A deed for the clients of one worker.
pub(crate) struct Order {
    space: u32,
    /// `None`: everybody in the namespace.
    rooms: Option<Rooms>,
    but: Rooms,
    except: Option<ConnId>,
    deed: Deed,
}

impl Broadcast {
    pub(crate) fn new(node: Arc<Node>, space: Arc<SpaceCell>, except: Option<ConnId>) -> Self {
        let (rooms, but) = (SmallVec::new(), SmallVec::new());
        Self { node, space, rooms, nobody: false, but, except, volatile: false }
    }

    /// To the room's members, beside those of other rooms named before.
    pub fn to(mut self, room: &str) -> Self {
        match RoomName::try_from(room) {
            Ok(room) => self.rooms.push(room),
            Err(_) => self.nobody = true,
        }
        self
    }

    /// Not to the room's members.
    pub fn except(mut self, room: &str) -> Self {
        self.but.extend(RoomName::try_from(room));
        self
    }

    /// Not to those who are behind.
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// Sends the event.
    pub fn emit<'a>(&self, event: &str, args: impl Into<Args<'a>>) {
        let name = EventName::try_from(event).ok().filter(|_| !socket_io::is_reserved(event));
        let Some(name) = name else {
            tracing::error!(event, "an event with a name that no event can have is not sent");
            return;
        };
        let (json, attachments) = args.into().into_parts();
        let room = self.rooms.first().cloned().or_else(|| RoomName::try_from("*").ok());
        let Some(room) = room else { return };
        let publication = Arc::new(Publication {
            space: self.space.key.clone(),
            room,
            event: name,
            data: json.into_owned().into(),
            attachments: attachments.into(),
            class: if self.volatile { Class::Volatile } else { Class::Recoverable },
            position: None,
            seq: 0,
            timestamp_ms: now_ms(),
        });
        self.far(|| FarDeed::Emit { said: Said::of(&publication), volatile: self.volatile });
        self.reach().carry_out(&self.node, &self.space, || Deed::Emit(Arc::new(Encoded::broadcast(publication))));
    }

    /// Takes them all out of the namespace.
    pub fn disconnect(&self) {
        self.far(|| FarDeed::Disconnect);
        self.reach().carry_out(&self.node, &self.space, || Deed::Disconnect);
    }

    fn reach(&self) -> Reach<'_> {
        let rooms = Some(&self.rooms[..]).filter(|rooms| !rooms.is_empty() || self.nobody);
        Reach { rooms, but: &self.but, except: self.except, volatile: self.volatile }
    }

    /// Has the other nodes of a cluster do it to their clients.
    fn far(&self, deed: impl FnOnce() -> FarDeed) {
        let (Some(cluster), false) = (&self.node.cluster, self.nobody && self.rooms.is_empty()) else { return };
        let to = match &self.rooms[..] {
            // Only those with members of it need hear it. Whoever is in several rooms is to get it once.
            [room] => Audience::Room(self.space.key.clone(), room.clone()),
            [] | [..] => Audience::Nodes,
        };
        let rooms = Some(self.rooms.to_vec()).filter(|rooms| !rooms.is_empty());
        let far = Far { space: (*self.space.key).clone(), rooms, but: self.but.to_vec(), deed: deed() };
        cluster.signal(to, &Signal::Far(far));
    }
}

/// Whom of a namespace's clients on this node something is done to.
pub(crate) struct Reach<'a> {
    /// `None`: everybody.
    pub rooms: Option<&'a [RoomName]>,
    /// But not the members of these.
    pub but: &'a [RoomName],
    pub except: Option<ConnId>,
    /// Not to those who are behind.
    pub volatile: bool,
}

impl Reach<'_> {
    pub fn carry_out(&self, node: &Node, cell: &SpaceCell, deed: impl FnOnce() -> Deed) {
        let (rooms, but, shards) = {
            let space = cell.lock();
            let find = |room: &RoomName| space.find(room);
            let but: Rooms = self.but.iter().filter_map(|room| Some(find(room)?.0)).collect();
            match self.rooms {
                None => (None, but, all(node)),
                Some(rooms) => {
                    let found: SmallVec<[(RoomId, ShardSet); 2]> = rooms.iter().filter_map(find).collect();
                    let shards = ShardSet(found.iter().fold(0, |shards, (_, on)| shards | on.0));
                    (Some(found.into_iter().map(|(room, _)| room).collect::<Rooms>()), but, shards)
                }
            }
        };
        if shards.is_empty() {
            return;
        }
        let deed = deed();
        for shard in shards.iter() {
            let Some(mailbox) = node.mailbox(shard) else { continue };
            if self.volatile && !mailbox.has_room() {
                cell.metrics.dropped(DropReason::MailboxFull).inc();
                continue;
            }
            mailbox.push(match (&deed, rooms.as_deref()) {
                // The way of every message of a room, which costs least.
                (Deed::Emit(encoded), Some([room])) if but.is_empty() => Item::Deliver(Delivery {
                    space: cell.index,
                    room: *room,
                    encoded: encoded.clone(),
                    except: self.except.map(Except::Conn),
                }),
                (deed, _) => Item::Order(Box::new(Order {
                    space: cell.index,
                    rooms: rooms.clone(),
                    but: but.clone(),
                    except: self.except,
                    deed: match deed {
                        Deed::Emit(encoded) => Deed::Emit(encoded.clone()),
                        Deed::Disconnect => Deed::Disconnect,
                    },
                })),
            });
        }
    }
}

impl std::fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broadcast").field("rooms", &self.rooms).field("except", &self.but).finish_non_exhaustive()
    }
}

fn all(node: &Node) -> ShardSet {
    let mut set = ShardSet::EMPTY;
    (0..node.settings.shards).for_each(|shard| set.insert(ShardId(shard)));
    set
}

impl Order {
    pub fn bytes(&self) -> usize {
        match &self.deed {
            Deed::Emit(encoded) => encoded.payload_bytes(),
            Deed::Disconnect => 0,
        }
    }

    /// Does it to the worker's own clients, in chunks.
    pub async fn carry_out(self, shard: &Rc<Shard>) {
        let members = |rooms: &Rooms| -> FxHashSet<ConnId> {
            rooms.iter().flat_map(|room| shard.members((self.space, *room))).collect()
        };
        let but = members(&self.but);
        let targets: Vec<ConnId> = match &self.rooms {
            Some(rooms) => members(rooms).into_iter().collect(),
            None => shard.conn_ids(),
        };
        for chunk in targets.chunks(CHUNK) {
            for id in chunk.iter().filter(|id| Some(**id) != self.except && !but.contains(*id)) {
                if let Some(conn) = shard.conn(*id).filter(|conn| is_in(conn, self.space)) {
                    self.deed.carry_out(shard, &conn, self.space);
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

fn is_in(conn: &Conn, space: u32) -> bool {
    conn.sockets.borrow().iter().any(|socket| socket.space.index == space)
}

impl Deed {
    fn carry_out(&self, shard: &Rc<Shard>, conn: &Rc<Conn>, space: u32) {
        match self {
            Self::Emit(encoded) => {
                let (_, sent) = conn.deliver(&[encoded], shard.node.settings.outbox_bytes);
                conn.flush_poll();
                shard.settle(conn, sent);
            }
            Self::Disconnect => {
                let namespace = conn
                    .sockets
                    .borrow()
                    .iter()
                    .find(|socket| socket.space.index == space)
                    .map(|socket| socket.space.key.namespace.clone());
                let Some(namespace) = namespace else { return };
                shard.send(conn, &[], |packet| {
                    packet.push(b'4');
                    socket_io::disconnect(packet, namespace.as_str());
                });
                conn.session.borrow_mut().remove(&namespace);
                crate::input::disconnect(shard, conn, &namespace, CloseReason::Kicked);
            }
        }
    }
}
