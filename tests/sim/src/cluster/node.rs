//! One node: the hub's spaces in following mode, and what `tidegate-realtime` and the broker's engine do around them with
//! sockets and threads, done here with lists.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidegate_cluster::model::{Push, Pushes, RunId, Seen, Subscriber};
use tidegate_cluster::redis::Following;
use tidegate_hub::{Effects, Pid, Space, SpaceConfig};
use tidegate_types::{ConnId, Epoch, NodeId, PresenceInfo, RoomName, SessionOffset, ShardId, UserId};

use super::comeback::Comeback;
use super::ground::{BEGIN, Ground, ToServer};
use super::pipe::Pipe;
use super::redis::{Answer, KEPT, Redis, Request, own_channels};

/// How long it takes until a broken connection to the broker is made again, ms.
const RECONNECT_MS: u64 = 200;
const BEAT_MS: u64 = 2_000;

pub fn config() -> SpaceConfig {
    SpaceConfig {
        ring_window_ms: 4_000,
        ring_bytes: 48 << 10,
        session_window_ms: 12_000,
        store_messages: KEPT,
        follows: true,
        ..SpaceConfig::default()
    }
}

/// A connection of the node to the broker: calls and what is published come by two streams that nobody orders against each
/// other. They break together.
pub struct BrokerLink {
    pub life: Subscriber,
    pub run: RunId,
    pub calls: Pipe<(u64, Request)>,
    pub answers: Pipe<(u64, Answer)>,
    /// Subscriptions to begin (true) or to end.
    pub wishes: Pipe<(usize, Option<RoomName>, bool)>,
    pub pushes: Pipe<FromChannel>,
    pub is_cut: bool,
    pub node_learns: Option<u64>,
}

pub enum FromChannel {
    Confirmed(usize, Option<RoomName>),
    Push(Push),
}

impl BrokerLink {
    pub fn cut(&mut self, g: &mut Ground) {
        if !self.is_cut {
            self.is_cut = true;
            g.report.cuts += 1;
            self.calls.cut(&mut g.rng);
            self.wishes.clear();
            self.answers.cut(&mut g.rng);
            self.pushes.cut(&mut g.rng);
            self.node_learns = Some(g.now + g.rng.below(1_000));
        }
    }
}

/// What a call was made for.
pub enum Purpose {
    Nothing,
    Touch { space: usize, attempt: Option<u64> },
    Look { space: usize, room: RoomName, mark: u64 },
    Read { space: usize, room: RoomName, attempt: u64 },
    Publish { link: usize, ask: u64, again: Box<Request>, tries: u32 },
    Lease { space: usize, room: RoomName, user: UserId },
    Save,
    Claim { pid: Pid },
    Log { pid: Pid },
    Beat,
}

/// One tenant's.
pub struct NodeSpace {
    pub hub: Option<Space>,
    pub following: Following,
    pub seen: Option<Seen>,
    /// The counters were looked at over this connection.
    pub touched: bool,
    pub touch_at: Option<(u64, u64)>,
    pub touch_next: u64,
    /// Who is in a room, with the `seq` up to which each has seen it.
    pub members: BTreeMap<tidegate_hub::RoomId, Vec<(usize, u64)>>,
    pub leases: BTreeMap<(RoomName, UserId), PresenceInfo>,
    /// Leases that the broker may not have as they are here.
    pub dirty: BTreeSet<(RoomName, UserId)>,
    /// Who has asked to join a room that is not open yet.
    pub joining: Vec<(usize, u64, RoomName)>,
}

/// An answer to a join or (without a room) a leave that waits for a write of a session.
pub struct SavedAck {
    pub write: u64,
    pub link: usize,
    pub ask: u64,
    pub room: Option<RoomName>,
}

/// A client that is connected here.
pub struct ServerConn {
    pub tenant: usize,
    pub user: UserId,
    pub pid: Option<Pid>,
}

pub struct Node {
    pub id: NodeId,
    pub skew: i64,
    pub frozen_until: u64,
    pub link: Option<BrokerLink>,
    reconnect_at: u64,
    pub spaces: Vec<NodeSpace>,
    pub conns: BTreeMap<usize, ServerConn>,
    pub comebacks: Vec<Comeback>,
    pub purposes: BTreeMap<u64, Purpose>,
    next_call: u64,
    /// Writes of sessions that are not known to be stored, the first with its number.
    pub unsaved: VecDeque<Request>,
    pub saved: u64,
    /// Answers that wait for the session's record to be stored.
    pub acks: Vec<SavedAck>,
    /// It is a member, as far as it was told over this connection.
    pub is_member: bool,
    pub was_member: bool,
    beat_at: u64,
    pub born: u64,
}

impl Node {
    pub fn new(g: &Ground, id: NodeId) -> Self {
        let spaces = g.keys.iter().map(|key| NodeSpace {
            hub: None,
            following: Following::new(Arc::clone(key), id),
            seen: None,
            touched: false,
            touch_at: None,
            touch_next: g.now + 5_000,
            members: BTreeMap::new(),
            leases: BTreeMap::new(),
            dirty: BTreeSet::new(),
            joining: Vec::new(),
        });
        Self {
            id,
            skew: 0,
            frozen_until: 0,
            link: None,
            reconnect_at: g.now,
            spaces: spaces.collect(),
            conns: BTreeMap::new(),
            comebacks: Vec::new(),
            purposes: BTreeMap::new(),
            next_call: 0,
            unsaved: VecDeque::new(),
            saved: 0,
            acks: Vec::new(),
            is_member: false,
            was_member: false,
            beat_at: g.now,
            born: 0,
        }
    }

    /// The time as this node has it.
    pub fn wall(&self, g: &Ground) -> u64 {
        (BEGIN + g.now).saturating_add_signed(self.skew)
    }

    pub fn step(&mut self, g: &mut Ground, redis: &mut Redis) {
        if g.now < self.frozen_until && !g.healed {
            return;
        }
        self.hear_broker(g, redis);
        self.hear_clients(g);
        self.advance_comebacks(g);
        if g.now.is_multiple_of(50) {
            self.tick(g);
        }
    }

    fn tick(&mut self, g: &mut Ground) {
        let now = self.wall(g);
        for space in 0..self.spaces.len() {
            let mut fx = Effects::new();
            if let Some(hub) = self.hub(space) {
                hub.tick(now, &mut fx);
            }
            self.carry_out(g, space, fx);
            let Some(of) = self.spaces.get_mut(space) else { continue };
            if let Some((_, attempt)) = of.touch_at.filter(|(at, _)| *at <= g.now) {
                of.touch_at = None;
                self.touch(g, space, Some(attempt));
            } else if of.touch_next <= g.now {
                of.touch_next = g.now + 5_000;
                self.touch(g, space, None);
            }
            if g.now.is_multiple_of(250) {
                self.following(g, space, Following::again);
            }
        }
        if self.link.is_some() && g.now >= self.beat_at {
            self.beat_at = g.now + if self.is_member { BEAT_MS } else { 500 };
            self.call(g, Request::Beat { first: !self.was_member }, Purpose::Beat);
        }
    }

    pub fn hub(&mut self, space: usize) -> Option<&mut Space> {
        self.spaces.get_mut(space)?.hub.as_mut()
    }

    /// Sends a call; what it is for comes back at once if there is no connection.
    pub fn call(&mut self, g: &mut Ground, request: Request, purpose: Purpose) {
        let Some(link) = self.link.as_mut() else { return self.failed(g, purpose) };
        self.next_call += 1;
        if !link.is_cut {
            link.calls.send((self.next_call, request), g.now, &mut g.rng);
        }
        self.purposes.insert(self.next_call, purpose);
    }

    fn hear_broker(&mut self, g: &mut Ground, redis: &mut Redis) {
        if self.link.is_none() {
            if g.now >= self.reconnect_at && redis.is_up() {
                self.connect(g, redis);
            }
            return;
        }
        let now = g.now;
        loop {
            // Which of the two streams comes first is chance.
            let answer_first = g.rng.chance(500);
            let Some(link) = self.link.as_mut() else { return };
            let answer = if answer_first { link.answers.take(now) } else { None };
            if let Some((call, answer)) = answer {
                self.answered(g, call, answer);
                continue;
            }
            if let Some(push) = link.pushes.take(now) {
                self.pushed(g, push);
                continue;
            }
            match link.answers.take(now) {
                Some((call, answer)) => self.answered(g, call, answer),
                None => break,
            }
        }
        if self.link.as_ref().is_some_and(|link| link.node_learns.is_some_and(|at| at <= now)) {
            self.link = None;
            self.reconnect_at = now + RECONNECT_MS;
            self.disconnected(g);
        }
    }

    fn connect(&mut self, g: &mut Ground, redis: &mut Redis) {
        self.born += 1;
        let life = Subscriber((self.id.0 << 20) | self.born);
        for channel in own_channels(self.id) {
            redis.server.subscribe(life, channel);
        }
        self.link = Some(BrokerLink {
            life,
            run: redis.server.run(),
            calls: Pipe::new(),
            answers: Pipe::new(),
            wishes: Pipe::new(),
            pushes: Pipe::new(),
            is_cut: false,
            node_learns: None,
        });
        self.beat_at = g.now;
        self.connected(g);
    }

    /// The broker's end of the node's connection.
    pub fn serve(&mut self, g: &mut Ground, redis: &mut Redis, out: &mut Pushes) {
        let id = self.id;
        let Some(link) = self.link.as_mut() else { return };
        while let Some((space, room, begins)) = link.wishes.take(g.now) {
            let Some(key) = g.keys.get(space) else { continue };
            let channel = super::redis::channel(key, id, room.as_ref());
            if begins {
                redis.server.subscribe(link.life, channel);
                link.pushes.send(FromChannel::Confirmed(space, room), g.now, &mut g.rng);
            } else {
                redis.server.unsubscribe(link.life, &channel);
            }
        }
        while let Some((call, request)) = link.calls.take(g.now) {
            let answer = redis.call(g, id, request, out);
            if !link.is_cut {
                link.answers.send((call, answer), g.now, &mut g.rng);
            }
        }
        if link.is_cut {
            redis.server.hang_up(link.life);
        }
    }

    /// What is published to this node.
    pub fn deliver(&mut self, g: &mut Ground, to: Subscriber, push: &Push) -> bool {
        match self.link.as_mut().filter(|link| link.life == to) {
            Some(link) => {
                if !link.is_cut {
                    link.pushes.send(FromChannel::Push(push.clone()), g.now, &mut g.rng);
                }
                true
            }
            None => false,
        }
    }

    fn hear_clients(&mut self, g: &mut Ground) {
        for link in 0..g.links.len() {
            let now = g.now;
            if g.links.get(link).is_none_or(|of| of.node != self.id) {
                continue;
            }
            while let Some(message) = g.links.get_mut(link).and_then(|of| of.up.take(now)) {
                self.client_says(g, link, message);
            }
            let learnt = g.links.get_mut(link).is_some_and(|of| of.server_learns.take_if(|at| *at <= now).is_some());
            if learnt {
                self.close(g, link, true);
            }
        }
    }

    fn client_says(&mut self, g: &mut Ground, link: usize, message: ToServer) {
        match message {
            ToServer::Hello { tenant, user, session } => {
                let session = session.map(|(pid, offset)| (Pid::from(pid), offset));
                self.hello(g, link, tenant, user, session);
            }
            ToServer::Join { ask, room } => self.join(g, link, ask, &room),
            ToServer::Leave { ask, room } => self.leave(g, link, ask, &room),
            ToServer::Send { ask, room, number, persistent } => self.publish(g, link, ask, room, number, persistent),
        }
    }

    /// The counters' numbers that this node has seen.
    pub fn see(&mut self, space: usize, epoch: Epoch, seq: u64) {
        let run = self.link.as_ref().map_or(RunId(0), |link| link.run);
        let Some(of) = self.spaces.get_mut(space) else { return };
        match &mut of.seen {
            Some(seen) if seen.epoch == epoch => seen.seq = seen.seq.max(seq),
            Some(seen) => (seen.epoch, seen.seq) = (epoch, seq),
            None => of.seen = Some(Seen { epoch, seq, run }),
        }
    }
}

pub fn conn_id(link: usize) -> ConnId {
    ConnId { shard: ShardId((link % 3) as u16), slot: link as u32, generation: 0 }
}

/// Where a client stands that has seen everything up to here.
pub fn standing(hub: &Space) -> SessionOffset {
    SessionOffset { epoch: hub.epoch(), seq: hub.head_seq() }
}
