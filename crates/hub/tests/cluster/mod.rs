//! Several spaces fed by one list, with clients that remember all they are sent.

mod broker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_hub::{
    Effect, Effects, GAP_EVENT, NewSession, Pid, PresenceChange, PresenceUpdate, Received, Rejoined, Resume, RoomId,
    Space, SpaceConfig, SpaceStart, Who,
};
use tidegate_types::{
    Class, ConnId, Namespace, NodeId, Publication, RoomName, SessionOffset, ShardId, SpaceKey, Status, TenantId, UserId,
};

pub use broker::{Broker, Heard};

pub const NODES: usize = 3;
pub const CLIENTS: usize = 5;
pub const ROOMS: usize = 3;
pub const WINDOW_MS: u64 = 2_000;

#[derive(Clone, Debug)]
pub enum Command {
    Connect {
        client: usize,
        node: usize,
    },
    Join {
        client: usize,
        room: usize,
    },
    Leave {
        client: usize,
        room: usize,
    },
    /// The connection is cut, and the node notices.
    Cut {
        client: usize,
    },
    /// The client has left its connection, and the node has not noticed.
    Vanish {
        client: usize,
    },
    ComeBack {
        client: usize,
        node: usize,
    },
    Publish {
        room: usize,
        persistent: bool,
    },
    Hear {
        node: usize,
        most: usize,
    },
    LoseTouch {
        node: usize,
    },
    CatchUp {
        node: usize,
    },
    Trim {
        room: usize,
        keep: usize,
    },
    Lose {
        back: u64,
        wiped: bool,
    },
    Die {
        node: usize,
    },
    Say {
        client: usize,
        status: u8,
    },
    Tick {
        node: usize,
        ms: u64,
    },
}

pub fn room(n: usize) -> RoomName {
    RoomName::try_from(format!("room-{n}")).unwrap()
}

pub fn user(client: usize) -> UserId {
    // Two clients are one user's.
    UserId::try_from(format!("user-{}", client.saturating_sub(1))).unwrap()
}

/// What a client knows of a room that it has been told it is in.
#[derive(Clone, Debug, Default)]
struct Seen {
    offset: u64,
    /// Where it stood before it was told of a gap. If it is cut before the next message, it may get what was missed after
    /// all.
    before_gap: Option<u64>,
    /// What the client had seen of its other rooms when it joined this: nothing of this room up to there is missed.
    joined_seq: u64,
    users: BTreeSet<UserId>,
}

#[derive(Clone, Debug)]
struct Socket {
    node: usize,
    conn: ConnId,
    /// As the worker keeps it: rooms, and up to which `seq` nothing is sent.
    members: BTreeMap<RoomId, (RoomName, u64)>,
    /// Joins that are not answered yet.
    joining: BTreeSet<RoomName>,
}

#[derive(Default)]
struct Client {
    socket: Option<Socket>,
    pid: Option<Pid>,
    cursor: Option<SessionOffset>,
    rooms: BTreeMap<RoomName, Seen>,
    /// Its session is claimed there, and not resumed yet.
    coming_back: Option<(usize, ConnId)>,
}

pub struct Node {
    pub id: NodeId,
    pub space: Space,
    now: u64,
}

pub struct World {
    pub broker: Broker,
    pub nodes: Vec<Node>,
    clients: Vec<Client>,
    born: u64,
    pub recovered: usize,
    pub failed: usize,
    pub gaps: usize,
}

pub fn key() -> Arc<SpaceKey> {
    Arc::new(SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() })
}

pub fn new_space(broker: &Broker) -> Space {
    let config = SpaceConfig {
        follows: true,
        ring_window_ms: WINDOW_MS,
        ring_bytes: 12 * 260,
        session_window_ms: 60_000,
        ..SpaceConfig::default()
    };
    let start = SpaceStart { last_seq: broker.seq, ..SpaceStart::fresh(broker.epoch) };
    Space::new(broker.key.clone(), config, start)
}

impl World {
    pub fn new() -> Self {
        let mut world = Self {
            broker: Broker::new(key()),
            nodes: Vec::new(),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            born: 0,
            recovered: 0,
            failed: 0,
            gaps: 0,
        };
        for n in 0..NODES {
            let node = world.new_node(n);
            world.nodes.push(node);
        }
        world
    }

    fn new_node(&mut self, n: usize) -> Node {
        self.born += 1;
        let id = NodeId(self.born);
        self.broker.lines.insert(id, broker::Line::default());
        // No two clocks agree.
        Node { id, space: new_space(&self.broker), now: 1_000_000 + 700_000 * n as u64 }
    }

    pub fn apply(&mut self, command: Command) {
        match command {
            Command::Connect { client, node } => self.connect(client, node),
            Command::Join { client, room: n } => self.join(client, &room(n)),
            Command::Leave { client, room: n } => self.leave(client, &room(n)),
            Command::Cut { client } => self.end(client, true),
            Command::Vanish { client } => {
                self.give_up(client);
                self.clients[client].socket = None;
            }
            Command::ComeBack { client, node } => self.come_back(client, node),
            Command::Publish { room: n, persistent } => {
                let class = if persistent { Class::Persistent } else { Class::Recoverable };
                self.broker.publish(&room(n), class);
            }
            Command::Hear { node, most } => (0..most).for_each(|_| self.hear(node)),
            Command::LoseTouch { node } => self.broker.cut(self.nodes[node].id),
            Command::CatchUp { node } => self.broker.catch_up(self.nodes[node].id),
            Command::Trim { room: n, keep } => self.broker.trim(&room(n), keep),
            Command::Lose { back, wiped } => self.broker.lose(self.broker.seq.saturating_sub(back), wiped),
            Command::Die { node } => self.die(node),
            Command::Say { client, status } => self.say(client, status),
            Command::Tick { node, ms } => {
                let node_of = &mut self.nodes[node];
                node_of.now += ms;
                let now = node_of.now;
                self.change(node, |space, fx| space.tick(now, fx));
            }
        }
    }

    /// Changes a node's space and carries out what follows.
    fn change<T>(&mut self, node: usize, change: impl FnOnce(&mut Space, &mut Effects) -> T) -> T {
        let mut fx = Effects::new();
        let result = change(&mut self.nodes[node].space, &mut fx);
        let id = self.nodes[node].id;
        for effect in fx {
            match effect {
                Effect::Deliver { room_id, shards, publication } => {
                    assert!(shards.contains(ShardId(0)));
                    self.deliver(node, room_id, &publication);
                }
                Effect::Presence { room_id, room, change, except, .. } => {
                    self.show(node, room_id, &room, &change, except);
                }
                Effect::Append(_) | Effect::Reserve { .. } => panic!("numbers are the broker's"),
                Effect::SaveSession(record) => self.broker.save(id, record),
                Effect::DropSession(pid) => self.broker.drop_session(id, &pid),
                Effect::Follow { room } => self.broker.follow(id, &room),
                Effect::Unfollow { room } => self.broker.unfollow(id, &room),
                Effect::Lease { room, user, info } => self.broker.lease(id, room, user, info),
                Effect::Renewed => {
                    for socket in self.sockets_of(node) {
                        socket.members.values_mut().for_each(|(_, after)| *after = 0);
                    }
                }
            }
        }
        result
    }

    fn sockets_of(&mut self, node: usize) -> impl Iterator<Item = &mut Socket> {
        self.clients.iter_mut().filter_map(|client| client.socket.as_mut()).filter(move |socket| socket.node == node)
    }

    fn deliver(&mut self, node: usize, id: RoomId, publication: &Arc<Publication>) {
        for client in &mut self.clients {
            let Some(socket) = client.socket.as_ref().filter(|socket| socket.node == node) else { continue };
            let Some((_, after)) = socket.members.get(&id) else { continue };
            if publication.seq != 0 && publication.seq <= *after {
                continue;
            }
            let told_of_gap = publication.event.as_str() == GAP_EVENT;
            if told_of_gap {
                self.gaps += 1;
                if let Some(seen) = client.rooms.get_mut(&publication.room) {
                    seen.before_gap = seen.before_gap.or(Some(seen.offset));
                    seen.offset = self.nodes[node].space.position(&publication.room).offset;
                    seen.joined_seq = 0;
                }
                continue;
            }
            client.hear(publication, &self.broker.ever);
        }
    }

    fn show(&mut self, node: usize, id: RoomId, room: &RoomName, change: &PresenceChange, except: Option<ConnId>) {
        for client in &mut self.clients {
            let Some(socket) = client.socket.as_ref().filter(|socket| socket.node == node) else { continue };
            if !socket.members.contains_key(&id) || except == Some(socket.conn) {
                continue;
            }
            let Some(seen) = client.rooms.get_mut(room) else { continue };
            match change {
                PresenceChange::Join(info) => _ = seen.users.insert(info.user_id.clone()),
                PresenceChange::Leave(user) => _ = seen.users.remove(user),
                PresenceChange::Update { listed, count } => {
                    assert_eq!(listed.len(), *count);
                    seen.users = listed.iter().map(|info| info.user_id.clone()).collect();
                }
            }
        }
    }

    fn conn(&mut self, client: usize) -> ConnId {
        self.born += 1;
        ConnId { shard: ShardId(0), slot: client as u32, generation: self.born as u32 }
    }

    fn connect(&mut self, client: usize, node: usize) {
        self.end(client, true);
        self.give_up(client);
        let conn = self.conn(client);
        let pid = Pid::from(format!("pid-{}", self.born));
        let session = NewSession { pid: pid.clone(), socket_id: "socket".into(), token_expires_at: None };
        let (who, now) = (Who { user: user(client), username: None }, self.nodes[node].now);
        self.change(node, |space, fx| space.connect(conn, who, session, now, fx));
        let space = &self.nodes[node].space;
        let cursor = Some(SessionOffset { epoch: space.epoch(), seq: space.head_seq() });
        let socket = Some(Socket { node, conn, members: BTreeMap::new(), joining: BTreeSet::new() });
        self.clients[client] = Client { socket, pid: Some(pid), cursor, ..Client::default() };
    }

    fn join(&mut self, client: usize, room: &RoomName) {
        let Some(Socket { node, conn, .. }) = self.clients[client].socket.clone() else { return };
        let now = self.nodes[node].now;
        let joined = self.change(node, |space, fx| space.join(conn, room, now, fx)).unwrap();
        let socket = self.clients[client].socket.as_mut().unwrap();
        assert_eq!(joined.already, socket.members.contains_key(&joined.room_id));
        if !joined.already {
            socket.members.insert(joined.room_id, (room.clone(), joined.seq));
            socket.joining.insert(room.clone());
        }
        self.answer(node);
    }

    /// Tells clients that have waited that they are in their rooms, or back.
    fn answer(&mut self, node: usize) {
        for client in &mut self.clients {
            let Some(socket) = client.socket.as_mut().filter(|socket| socket.node == node) else { continue };
            for room in std::mem::take(&mut socket.joining) {
                let space = &mut self.nodes[node].space;
                let joined = space.joined(socket.conn, &room).unwrap();
                if joined.opening {
                    socket.joining.insert(room);
                    continue;
                }
                let users = space.presence(&room, 100).0.into_iter().map(|info| info.user_id).collect();
                let (offset, joined_seq) = (joined.position.offset, joined.joined_seq);
                client.rooms.insert(room, Seen { offset, joined_seq, users, before_gap: None });
            }
        }
        for client in 0..CLIENTS {
            let Some((_, conn)) = self.clients[client].coming_back.filter(|(of, _)| *of == node) else { continue };
            let pid = self.clients[client].pid.clone().unwrap();
            if self.nodes[node].space.is_ready(&pid) {
                self.resume(client, node, conn, &pid);
            }
        }
    }

    fn leave(&mut self, client: usize, room: &RoomName) {
        let Some(Socket { node, conn, .. }) = self.clients[client].socket.clone() else { return };
        let now = self.nodes[node].now;
        let left = self.change(node, |space, fx| space.leave(conn, room, now, fx));
        let client = &mut self.clients[client];
        let socket = client.socket.as_mut().unwrap();
        socket.joining.remove(room);
        client.rooms.remove(room);
        assert_eq!(left.is_some(), left.is_some_and(|id| socket.members.remove(&id).is_some()));
    }

    fn end(&mut self, client: usize, keep: bool) {
        self.give_up(client);
        let Some(Socket { node, conn, .. }) = self.clients[client].socket.take() else { return };
        let now = self.nodes[node].now;
        self.change(node, |space, fx| space.disconnect(conn, keep, now, fx));
    }

    /// The connection on which the client was coming back has gone.
    fn give_up(&mut self, client: usize) {
        let Some((node, _)) = self.clients[client].coming_back.take() else { return };
        let (pid, now) = (self.clients[client].pid.clone().unwrap(), self.nodes[node].now);
        self.change(node, |space, fx| space.release_claim(&pid, now, fx));
    }

    fn say(&mut self, client: usize, status: u8) {
        let Some(Socket { node, conn, .. }) = self.clients[client].socket.clone() else { return };
        let now = self.nodes[node].now;
        let status = Some([Status::Online, Status::Busy, Status::Away, Status::Offline][usize::from(status)]);
        let update = PresenceUpdate { status, ..PresenceUpdate::default() };
        self.change(node, |space, fx| space.update_presence(conn, update, now, fx));
    }
}

mod recovery;
mod settle;
