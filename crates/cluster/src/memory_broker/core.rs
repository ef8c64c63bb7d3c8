use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidegate_hub::{CaughtUp, Lease};
use tidegate_types::{Epoch, Millis, NodeId, PresenceInfo, RoomName, SpaceKey, UserId};

use super::Lane;
use crate::model::{Channel, Life, Limits, Loss, Push, Pushes, RoomLook, RunId, Seen, Server, Subscriber};
use crate::{Heard, OnHeard, OnWritten, Pause, PublishError, Write};

/// How many of its last writes a broker may lose.
const REMEMBERED_WRITES: usize = 256;

/// Something that a node hears or is answered.
pub(super) type Due = Box<dyn FnOnce() -> Option<Pause> + Send>;

/// The broker and what each node has of it.
pub(super) struct Core {
    pub now: Millis,
    pub server: Server,
    pub nodes: BTreeMap<NodeId, Node>,
    pub closed: bool,
    /// Something is being delivered now.
    pub delivering: bool,
    numbers: u64,
}

pub(super) struct Node {
    on_heard: OnHeard,
    pub on_written: OnWritten,
    /// The subscription connection, while there is one.
    pub link: Option<Subscriber>,
    is_dead: bool,
    spaces: BTreeMap<Arc<SpaceKey>, Followed>,
    leases: BTreeMap<(Arc<SpaceKey>, RoomName, UserId), PresenceInfo>,
    heard: Stream,
    answers: Stream,
    loses_answers: bool,
    pub refuses: Option<PublishError>,
    /// Session records that wait for the broker.
    pub unsaved: VecDeque<Write>,
}

#[derive(Default)]
struct Stream {
    due: VecDeque<(u64, Due)>,
    is_held: bool,
    /// The node cannot take more now.
    is_paused: bool,
}

/// What a node knows of a space.
#[derive(Default)]
struct Followed {
    /// Each with whether it has been looked at: one that was asked for without a connection has not.
    rooms: BTreeMap<RoomName, bool>,
    seen: Option<Seen>,
    /// Everything up to here has been heard.
    heard_seq: u64,
    /// The epoch that the node believes in.
    epoch: Option<Epoch>,
}

impl Stream {
    fn next(&self) -> Option<u64> {
        self.due.front().filter(|_| !self.is_held && !self.is_paused).map(|(number, _)| *number)
    }
}

impl Followed {
    fn saw(&mut self, epoch: Epoch, seq: u64, run: RunId) {
        match &mut self.seen {
            Some(seen) if seen.epoch == epoch && seen.run == run => seen.seq = seen.seq.max(seq),
            // What was seen in the life before says whether this one has lost something, until that is decided.
            Some(seen) if seen.epoch == epoch => {}
            Some(_) | None => self.seen = Some(Seen { epoch, seq, run }),
        }
    }
}

impl Core {
    pub fn new(limits: Limits) -> Self {
        Self {
            now: 0,
            server: Server::new(RunId(1), limits, REMEMBERED_WRITES),
            nodes: BTreeMap::new(),
            closed: false,
            delivering: false,
            numbers: 1,
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// An epoch that has not been before.
    pub fn fresh_epoch(&mut self) -> Epoch {
        Epoch(0x1_0000 + self.number())
    }

    pub fn arrive(&mut self, id: NodeId, on_heard: OnHeard, on_written: OnWritten) {
        let node = Node {
            on_heard,
            on_written,
            link: None,
            is_dead: false,
            spaces: BTreeMap::new(),
            leases: BTreeMap::new(),
            heard: Stream::default(),
            answers: Stream::default(),
            loses_answers: false,
            refuses: None,
            unsaved: VecDeque::new(),
        };
        self.nodes.insert(id, node);
        self.mend(id);
    }

    pub fn is_linked(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|of| of.link.is_some())
    }

    pub fn cut(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(link) = node.link.take() else { return };
        let followed = node.spaces.iter().filter(|(_, of)| of.rooms.values().any(|looked| *looked));
        let spaces: Vec<_> = followed.map(|(space, _)| space.clone()).collect();
        self.server.hang_up(link);
        spaces.into_iter().for_each(|space| self.tell(id, Heard::OutOfTouch { space }));
        self.tell(id, Heard::Connected(false));
    }

    pub fn mend(&mut self, id: NodeId) {
        let link = Subscriber(self.number());
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.is_dead || node.link.is_some() {
            return;
        }
        node.link = Some(link);
        let spaces: Vec<_> = node.spaces.keys().cloned().collect();
        let rooms =
            node.spaces.iter().flat_map(|(space, of)| of.rooms.keys().map(|room| (space.clone(), room.clone())));
        let channels = rooms.map(|(space, room)| Channel::Room(space, room));
        for channel in channels.chain([Channel::Nodes, Channel::Node(id)]) {
            self.server.subscribe(link, channel);
        }
        self.tell(id, Heard::Connected(true));
        self.repeat_leases(id);
        spaces.iter().for_each(|space| _ = self.touch(id, space));
        spaces.iter().for_each(|space| self.catch_up(id, space));
        let spaces = self.nodes.get(&id).into_iter().flat_map(|node| &node.spaces);
        let asked = spaces.flat_map(|(space, of)| {
            of.rooms.iter().filter(|(_, looked)| !**looked).map(|(room, _)| (space.clone(), room.clone()))
        });
        let asked: Vec<_> = asked.collect();
        asked.iter().for_each(|(space, room)| self.begin(id, space, room));
        let waiting = self.nodes.get_mut(&id).map(|node| std::mem::take(&mut node.unsaved)).unwrap_or_default();
        waiting.into_iter().for_each(|write| self.save(id, write));
    }

    pub fn stop(&mut self) {
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.cut(id));
    }

    pub fn restart(&mut self, loss: Loss) {
        let run = RunId(self.number());
        self.server.restart(run, loss);
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.mend(id));
    }

    pub fn kill(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.is_dead = true;
        node.heard.due.clear();
        node.answers.due.clear();
        node.unsaved.clear();
        if let Some(link) = node.link.take() {
            self.server.hang_up(link);
        }
    }

    pub fn bury(&mut self, id: NodeId) {
        let mut out = Pushes::new();
        self.server.leave(id, &mut out);
        self.spread(out);
    }

    pub fn hold(&mut self, id: NodeId, lane: Lane, held: bool) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        match lane {
            Lane::Heard => node.heard.is_held = held,
            Lane::Answers => node.answers.is_held = held,
        }
    }

    pub fn pause(&mut self, id: NodeId, paused: bool) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.heard.is_paused = paused;
        }
    }

    pub fn loses_answers(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.loses_answers)
    }

    pub fn lose_answers(&mut self, id: NodeId, lost: bool) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.loses_answers = lost;
        }
    }

    pub fn refuse(&mut self, id: NodeId, why: Option<PublishError>) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.refuses = why;
        }
    }

    pub fn follow(&mut self, id: NodeId, space: &Arc<SpaceKey>, room: &RoomName) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let of = node.spaces.entry(Arc::clone(space)).or_default();
        if of.rooms.contains_key(room) {
            return;
        }
        of.rooms.insert(room.clone(), false);
        // Without a connection it begins when there is one.
        let Some(link) = node.link else { return };
        self.server.subscribe(link, Channel::Room(Arc::clone(space), room.clone()));
        self.begin(id, space, room);
    }

    /// Says where a room stands that the node has just begun to follow.
    fn begin(&mut self, id: NodeId, space: &Arc<SpaceKey>, room: &RoomName) {
        self.touch(id, space);
        let Some(look) = self.look(space, room) else { return };
        self.believe(id, space, &look.life);
        if let Some(looked) = self.followed(id, space).and_then(|of| of.rooms.get_mut(room)) {
            *looked = true;
        }
        let leases = others(&look.leases, id);
        self.tell(
            id,
            Heard::Followed {
                space: Arc::clone(space),
                room: room.clone(),
                epoch: look.life.epoch,
                as_of: look.life.seq,
                head: look.head,
                leases,
            },
        );
    }

    pub fn unfollow(&mut self, id: NodeId, space: &Arc<SpaceKey>, room: &RoomName) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if let Some(of) = node.spaces.get_mut(space) {
            of.rooms.remove(room);
        }
        if let Some(link) = node.link {
            self.server.unsubscribe(link, &Channel::Room(Arc::clone(space), room.clone()));
        }
    }

    pub fn lease(
        &mut self,
        id: NodeId,
        space: &Arc<SpaceKey>,
        room: &RoomName,
        user: &UserId,
        info: Option<PresenceInfo>,
    ) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let key = (Arc::clone(space), room.clone(), user.clone());
        match &info {
            Some(info) => drop(node.leases.insert(key, info.clone())),
            None => drop(node.leases.remove(&key)),
        }
        if node.link.is_some() {
            self.put_lease(id, space, room, user, info);
        }
    }

    fn put_lease(
        &mut self,
        id: NodeId,
        space: &Arc<SpaceKey>,
        room: &RoomName,
        user: &UserId,
        info: Option<PresenceInfo>,
    ) {
        let mut out = Pushes::new();
        self.server.lease(space, room, id, user, info, &mut out);
        self.spread(out);
    }

    /// Makes the broker's leases of the node those that it holds: some began or ended while it was cut off, and the broker
    /// may have lost others.
    fn repeat_leases(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let held = node.leases.clone();
        for (space, room, user) in self.server.leases_of(id) {
            if !held.contains_key(&(space.clone(), room.clone(), user.clone())) {
                self.put_lease(id, &space, &room, &user, None);
            }
        }
        for ((space, room, user), info) in held {
            self.put_lease(id, &space, &room, &user, Some(info));
        }
    }

    fn look(&mut self, space: &Arc<SpaceKey>, room: &RoomName) -> Option<RoomLook> {
        let now = self.now;
        self.server.look(space, room, None, now, &mut Pushes::new()).ok()
    }

    /// The node has seen this number in this life of the broker.
    pub fn saw(&mut self, id: NodeId, space: &Arc<SpaceKey>, epoch: Epoch, seq: u64) {
        let run = self.server.run();
        if let Some(node) = self.nodes.get_mut(&id) {
            node.spaces.entry(Arc::clone(space)).or_default().saw(epoch, seq, run);
        }
    }

    fn followed(&mut self, id: NodeId, space: &Arc<SpaceKey>) -> Option<&mut Followed> {
        self.nodes.get_mut(&id)?.spaces.get_mut(space)
    }

    /// The node has looked: whatever is up to here it has heard, or is told now.
    fn believe(&mut self, id: NodeId, space: &Arc<SpaceKey>, life: &Life) {
        let Some(of) = self.followed(id, space) else { return };
        of.epoch = Some(life.epoch);
        of.heard_seq = life.seq;
        of.seen = Some(Seen { epoch: life.epoch, seq: life.seq, run: life.run });
    }

    /// Looks at the space's counters with what this node has seen. If that proves that the broker has lost something, they
    /// begin another life, and everybody who follows the space is told.
    pub fn touch(&mut self, id: NodeId, space: &Arc<SpaceKey>) -> Life {
        let fresh = self.fresh_epoch();
        let seen = self.followed(id, space).and_then(|of| of.seen);
        let life = self.server.touch(space, seen, fresh);
        if seen.is_none_or(|seen| seen.epoch == life.epoch) {
            self.saw(id, space, life.epoch, life.seq);
            if let Some(seen) = self.followed(id, space).and_then(|of| of.seen.as_mut()) {
                seen.run = life.run;
            }
            return life;
        }
        let renewed = Seen { epoch: life.epoch, seq: life.seq, run: life.run };
        if let Some(of) = self.followed(id, space) {
            of.seen = Some(renewed);
        }
        let linked = self.nodes.iter().filter(|(_, node)| node.link.is_some());
        let behind = linked.filter(|(_, node)| node.spaces.get(space).is_some_and(|of| of.epoch.is_some()));
        let behind: Vec<_> = behind.map(|(of, _)| *of).collect();
        behind.into_iter().for_each(|node| self.catch_up(node, space));
        life
    }

    pub fn start_over(&mut self, id: NodeId, space: &Arc<SpaceKey>) {
        // One that is cut off has been told, and catches up anyhow.
        if self.is_linked(id) && self.followed(id, space).is_some() {
            self.tell(id, Heard::OutOfTouch { space: Arc::clone(space) });
            self.catch_up(id, space);
        }
    }

    fn catch_up(&mut self, id: NodeId, space: &Arc<SpaceKey>) {
        let (fresh, now) = (self.fresh_epoch(), self.now);
        let life = self.server.touch(space, None, fresh);
        let Some(of) = self.followed(id, space) else { return };
        let (is_same_life, after) = (of.epoch == Some(life.epoch), of.heard_seq);
        let names: Vec<_> = of.rooms.iter().filter(|(_, looked)| **looked).map(|(room, _)| room.clone()).collect();
        let mut rooms = Vec::new();
        for room in names {
            let Some(look) = self.look(space, &room) else { continue };
            let log = || self.server.log_by_seq(space, &room, after, life.seq, usize::MAX, now);
            let missed = if is_same_life { log() } else { None };
            let (head, leases) = (look.head, others(&look.leases, id));
            rooms.push(CaughtUp { room, head, gap: missed.is_none(), missed: missed.unwrap_or_default(), leases });
        }
        self.believe(id, space, &life);
        if !rooms.is_empty() {
            let space = Arc::clone(space);
            self.tell(id, Heard::CaughtUp { space, epoch: life.epoch, as_of: life.seq, rooms });
        }
    }

    /// Brings what was published to those it was published to.
    pub fn spread(&mut self, pushes: Pushes) {
        for (who, push) in pushes {
            let Some(id) = self.nodes.iter().find(|(_, node)| node.link == Some(who)).map(|(id, _)| *id) else {
                continue;
            };
            let heard = match push {
                Push::Published(publication) => {
                    let epoch = publication.position.map(|position| position.epoch);
                    self.heard_message(id, &publication.space, epoch, publication.seq);
                    Heard::Published(publication)
                }
                Push::Leased { node, .. } if node == id => continue,
                Push::Leased { space, room, node, user, info, version: _ } => {
                    Heard::Leased { space, room, node, user, info }
                }
                Push::Mark { .. } => continue,
                Push::Signal { from, to, body } => Heard::Signal { from, to, body },
                Push::LeasesEnded { node, .. } | Push::Gone(node) if node == id => continue,
                Push::LeasesEnded { space, room, node, .. } => Heard::LeasesEnded { space, room, node },
                Push::Gone(node) => Heard::NodeGone(node),
            };
            self.tell(id, heard);
        }
    }

    fn heard_message(&mut self, id: NodeId, space: &Arc<SpaceKey>, epoch: Option<Epoch>, seq: u64) {
        let Some(epoch) = epoch else { return };
        self.saw(id, space, epoch, seq);
        if let Some(of) = self.followed(id, space) {
            of.heard_seq = of.heard_seq.max(seq);
        }
    }

    pub fn tell(&mut self, id: NodeId, heard: Heard) {
        let number = self.number();
        let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.is_dead) else { return };
        let on_heard = Arc::clone(&node.on_heard);
        node.heard.due.push_back((number, Box::new(move || on_heard(heard))));
    }

    pub fn answer(&mut self, id: NodeId, teller: impl FnOnce() + Send + 'static) {
        let number = self.number();
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.is_dead) {
            let due = move || {
                teller();
                None
            };
            node.answers.due.push_back((number, Box::new(due)));
        }
    }

    /// What is to be delivered next, and to whom.
    pub fn next_due(&mut self) -> Option<(NodeId, Due)> {
        let streams = self.nodes.iter_mut().flat_map(|(id, node)| [(*id, &mut node.heard), (*id, &mut node.answers)]);
        let ready = streams.filter_map(|(id, stream)| stream.next().map(|number| (number, id, stream)));
        let (_, id, stream) = ready.min_by_key(|(number, ..)| *number)?;
        let (_, due) = stream.due.pop_front()?;
        self.delivering = true;
        Some((id, due))
    }

    pub fn is_busy(&self) -> bool {
        let streams = |node: &Node| node.heard.next().is_some() || node.answers.next().is_some();
        self.delivering || self.nodes.values().any(streams)
    }
}

fn others(leases: &[Lease], id: NodeId) -> Vec<Lease> {
    leases.iter().filter(|lease| lease.node != id).cloned().collect()
}
