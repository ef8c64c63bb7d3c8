//! Events to many clients, now: to whoever is there. What has to reach those who come later is published instead.

use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use tidegate_cluster::Audience;
use tidegate_hub::RoomId;
use tidegate_metrics::DropReason;
use tidegate_types::{Class, CloseReason, ConnId, EventName, Publication, RoomName, ShardId, ShardSet};
use tidegate_wire::node_adapter::{Message, Names, Selection};
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
    pub(super) node: Arc<Node>,
    pub(super) space: Arc<SpaceCell>,
    pub(super) rooms: SmallVec<[RoomName; 1]>,
    /// A name that no room can have was asked for: such a room is empty.
    nobody: bool,
    but: SmallVec<[RoomName; 1]>,
    except: Option<ConnId>,
    pub(super) volatile: bool,
}

/// What a worker does to its clients.
pub(crate) enum Deed {
    Emit(Arc<Encoded>),
    Disconnect,
}

/// A deed for the clients of one worker.
pub(crate) struct Order {
    targets: Targets,
    deed: Deed,
}

/// Who is meant, as the workers know them.
#[derive(Clone)]
pub(crate) struct Targets {
    space: u32,
    /// `None`: everybody in the namespace.
    rooms: Option<Rooms>,
    /// Beside the rooms' members.
    conns: SmallVec<[ConnId; 1]>,
    but: Rooms,
    but_conns: SmallVec<[ConnId; 1]>,
    except: Option<ConnId>,
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
        if let Some(bridge) = &self.space.bridge {
            bridge.broadcast(&publication, self.selection(), self.volatile);
        }
        self.far(|| FarDeed::Emit { said: Said::of(&publication), volatile: self.volatile });
        self.reach().carry_out(&self.node, &self.space, || Deed::Emit(Arc::new(Encoded::broadcast(publication))));
    }

    /// Takes them all out of the namespace.
    pub fn disconnect(&self) {
        if let Some(bridge) = &self.space.bridge {
            bridge.say(&Message::Disconnect { of: self.selection(), close: false });
        }
        self.far(|| FarDeed::Disconnect);
        self.reach().carry_out(&self.node, &self.space, || Deed::Disconnect);
    }

    /// Whom that is to Node servers. A client that is passed over is none of theirs.
    pub(super) fn selection(&self) -> Selection {
        let mut rooms: Names = self.rooms.iter().map(RoomName::as_str).collect();
        if self.nobody && rooms.is_empty() {
            // No room at all would be everybody.
            rooms = Names::from_iter([""]);
        }
        Selection { rooms, except: self.but.iter().map(RoomName::as_str).collect() }
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
    /// Who that is, and on which workers they are.
    pub fn find(&self, node: &Node, cell: &SpaceCell) -> (Targets, ShardSet) {
        let mut targets = Targets {
            space: cell.index,
            rooms: None,
            conns: SmallVec::new(),
            but: SmallVec::new(),
            but_conns: SmallVec::new(),
            except: self.except,
        };
        // Beside Node servers, the id of a socket names it as if it were a room.
        if let Some(bridge) = &cell.bridge {
            targets.conns = bridge.sockets(self.rooms.unwrap_or_default());
            targets.but_conns = bridge.sockets(self.but);
        }
        let space = cell.lock();
        targets.but = self.but.iter().filter_map(|room| Some(space.find(room)?.0)).collect();
        let Some(rooms) = self.rooms else { return (targets, all(node)) };
        let found: SmallVec<[(RoomId, ShardSet); 2]> = rooms.iter().filter_map(|room| space.find(room)).collect();
        let mut shards = ShardSet(found.iter().fold(0, |shards, (_, on)| shards | on.0));
        targets.conns.iter().for_each(|conn| shards.insert(conn.shard));
        targets.rooms = Some(found.into_iter().map(|(room, _)| room).collect());
        (targets, shards)
    }

    pub fn carry_out(&self, node: &Node, cell: &SpaceCell, deed: impl FnOnce() -> Deed) {
        let (targets, shards) = self.find(node, cell);
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
            mailbox.push(match (&deed, targets.only_room()) {
                // The way of every message of a room, which costs least.
                (Deed::Emit(encoded), Some(room)) => Item::Deliver(Delivery {
                    space: cell.index,
                    room,
                    encoded: encoded.clone(),
                    except: self.except.map(Except::Conn),
                }),
                (deed, _) => Item::Order(Box::new(Order {
                    targets: targets.clone(),
                    deed: match deed {
                        Deed::Emit(encoded) => Deed::Emit(encoded.clone()),
                        Deed::Disconnect => Deed::Disconnect,
                    },
                })),
            });
        }
    }
}

impl Targets {
    /// The room whose members these are, if that is all there is to say.
    fn only_room(&self) -> Option<RoomId> {
        match self.rooms.as_deref() {
            Some([room]) if self.but.is_empty() && self.but_conns.is_empty() && self.conns.is_empty() => Some(*room),
            _ => None,
        }
    }

    /// Those of one worker.
    pub fn here(&self, shard: &Shard) -> Vec<ConnId> {
        let members = |rooms: &Rooms| -> FxHashSet<ConnId> {
            rooms.iter().flat_map(|room| shard.members((self.space, *room))).collect()
        };
        let mut but = members(&self.but);
        but.extend(self.but_conns.iter().copied().chain(self.except));
        let mut targets: Vec<ConnId> = match &self.rooms {
            Some(rooms) => {
                let mut found = members(rooms);
                found.extend(self.conns.iter().filter(|conn| conn.shard == shard.id));
                found.into_iter().collect()
            }
            None => shard.conn_ids(),
        };
        targets.retain(|conn| !but.contains(conn));
        targets
    }

    /// The connection, if it is still in the namespace.
    pub fn conn(&self, shard: &Shard, id: ConnId) -> Option<Rc<Conn>> {
        shard.conn(id).filter(|conn| is_in(conn, self.space))
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
        let targets = &self.targets;
        for chunk in targets.here(shard).chunks(CHUNK) {
            for conn in chunk.iter().filter_map(|id| targets.conn(shard, *id)) {
                self.deed.carry_out(shard, &conn, targets.space);
            }
            tokio::task::yield_now().await;
        }
    }
}

fn is_in(conn: &Conn, space: u32) -> bool {
    conn.sockets.borrow().iter().any(|socket| socket.space.index == space)
}

impl Deed {
    /// Does it to one client, on its worker.
    pub fn carry_out(&self, shard: &Rc<Shard>, conn: &Rc<Conn>, space: u32) {
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
