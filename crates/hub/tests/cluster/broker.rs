//! What a broker is, as a list: every message ever published, what is kept of it, who follows what.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_hub::{CaughtUp, Lease, Pid, RoomHead, SessionRecord};
use tidegate_types::{
    Class, Epoch, EventName, NodeId, Position, PresenceInfo, Publication, RoomName, SessionOffset, SpaceKey, UserId,
};

/// What a node hears, in order.
#[derive(Clone, Debug)]
pub enum Heard {
    Followed { room: RoomName, epoch: Epoch, as_of: u64, head: RoomHead, leases: Vec<Lease> },
    Published(Arc<Publication>),
    Leased { room: RoomName, node: NodeId, user: UserId, info: Option<PresenceInfo> },
    OutOfTouch,
    CaughtUp { epoch: Epoch, as_of: u64, rooms: Vec<CaughtUp> },
    LeasesEnded(RoomName, NodeId),
}

#[derive(Default)]
pub struct Line {
    pub heard: VecDeque<Heard>,
    pub cut: bool,
    /// The rooms followed, and the last `seq` of each that went into `heard`; `None` if not even [`Heard::Followed`] did.
    pub follows: BTreeMap<RoomName, Option<u64>>,
}

#[derive(Default)]
struct Log {
    kept: Vec<Arc<Publication>>,
    head: u64,
    head_seq: u64,
    trimmed_seq: u64,
}

pub struct Broker {
    pub key: Arc<SpaceKey>,
    pub epoch: Epoch,
    pub seq: u64,
    rooms: BTreeMap<RoomName, Log>,
    leases: BTreeMap<(RoomName, NodeId, UserId), PresenceInfo>,
    sessions: BTreeMap<Pid, (SessionRecord, NodeId)>,
    pub lines: BTreeMap<NodeId, Line>,
    /// Everything of all lives of the counters, kept or not.
    pub ever: Vec<Arc<Publication>>,
}

impl Broker {
    pub fn new(key: Arc<SpaceKey>) -> Self {
        Self {
            key,
            epoch: Epoch(1),
            seq: 0,
            rooms: BTreeMap::new(),
            leases: BTreeMap::new(),
            sessions: BTreeMap::new(),
            lines: BTreeMap::new(),
            ever: Vec::new(),
        }
    }

    fn log(&mut self, room: &RoomName) -> &mut Log {
        let seq = self.seq;
        // What a room of the same name had before it was forgotten is not known.
        let fresh = || Log { head: seq, head_seq: 0, trimmed_seq: seq, kept: Vec::new() };
        self.rooms.entry(room.clone()).or_insert_with(fresh)
    }

    pub fn head(&self, room: &RoomName) -> RoomHead {
        let log = &self.rooms[room];
        RoomHead { offset: log.head, seq: log.head_seq, trimmed_seq: log.trimmed_seq, began: 0 }
    }

    pub fn publish(&mut self, room: &RoomName, class: Class) {
        self.log(room);
        self.seq += 1;
        let (space, seq, epoch) = (self.key.clone(), self.seq, self.epoch);
        let log = self.log(room);
        log.head += 1;
        log.head_seq = seq;
        let publication = Arc::new(Publication {
            space,
            room: room.clone(),
            event: EventName::try_from("m").unwrap(),
            data: Bytes::from(seq.to_string()),
            attachments: Arc::from([]),
            class,
            position: Some(Position { epoch, offset: log.head }),
            seq,
            // Another clock than any node's.
            timestamp_ms: 77_000_000 + seq,
        });
        log.kept.push(publication.clone());
        self.ever.push(publication.clone());
        for line in self.lines.values_mut().filter(|line| !line.cut) {
            if let Some(last) = line.follows.get_mut(room) {
                *last = Some(seq);
                line.heard.push_back(Heard::Published(publication.clone()));
            }
        }
    }

    /// Keeps the newest of a room.
    pub fn trim(&mut self, room: &RoomName, keep: usize) {
        let log = self.log(room);
        while log.kept.len() > keep {
            log.trimmed_seq = log.kept.remove(0).seq;
        }
    }

    /// Loses everything after `seq`, as a Redis that comes back does, or all that it had. Every node finds out.
    pub fn lose(&mut self, last: u64, wiped: bool) {
        self.epoch.0 += 1;
        self.seq = if wiped { 0 } else { self.seq.min(last) };
        let seq = self.seq;
        if wiped {
            self.rooms.clear();
            self.sessions.clear();
        }
        for log in self.rooms.values_mut() {
            log.kept.retain(|publication| publication.seq <= seq);
            log.head = log.kept.last().map_or(log.head.min(seq), |last| last.position.unwrap().offset);
            log.head_seq = log.kept.last().map_or(0, |last| last.seq);
            log.trimmed_seq = log.trimmed_seq.min(seq);
        }
        let nodes: Vec<NodeId> = self.lines.keys().copied().collect();
        nodes.into_iter().for_each(|node| self.cut(node));
    }

    pub fn cut(&mut self, node: NodeId) {
        let line = self.lines.get_mut(&node).unwrap();
        if !std::mem::replace(&mut line.cut, true) {
            line.heard.push_back(Heard::OutOfTouch);
        }
    }

    fn leases_for(&self, node: NodeId, room: &RoomName) -> Vec<Lease> {
        let others = self.leases.iter().filter(|((of, by, _), _)| of == room && *by != node);
        others.map(|((_, by, _), info)| Lease { node: *by, info: info.clone() }).collect()
    }

    /// What the node finds when it is back.
    pub fn catch_up(&mut self, node: NodeId) {
        let follows = self.lines[&node].follows.clone();
        for room in follows.keys() {
            self.log(room);
        }
        let rooms = follows.iter().map(|(room, last)| {
            let log = &self.rooms[room];
            let last = last.unwrap_or(u64::MAX);
            let missed: Vec<_> = log.kept.iter().filter(|publication| publication.seq > last).cloned().collect();
            let gap = log.trimmed_seq > last;
            let (room, head, missed) = (room.clone(), self.head(room), if gap { Vec::new() } else { missed });
            let leases = self.leases_for(node, &room);
            CaughtUp { room, head, missed, gap, leases }
        });
        let heard = Heard::CaughtUp { epoch: self.epoch, as_of: self.seq, rooms: rooms.collect() };
        let seq = self.seq;
        let line = self.lines.get_mut(&node).unwrap();
        if !line.cut {
            line.heard.push_back(Heard::OutOfTouch);
        }
        line.cut = false;
        line.heard.push_back(heard);
        line.follows.values_mut().for_each(|last| *last = Some(seq));
    }

    pub fn follow(&mut self, node: NodeId, room: &RoomName) {
        self.log(room);
        let (epoch, as_of, head) = (self.epoch, self.seq, self.head(room));
        let leases = self.leases_for(node, room);
        let line = self.lines.get_mut(&node).unwrap();
        if line.follows.contains_key(room) {
            return;
        }
        line.follows.insert(room.clone(), (!line.cut).then_some(as_of));
        if !line.cut {
            line.heard.push_back(Heard::Followed { room: room.clone(), epoch, as_of, head, leases });
        }
    }

    pub fn unfollow(&mut self, node: NodeId, room: &RoomName) {
        assert!(self.lines.get_mut(&node).unwrap().follows.remove(room).is_some(), "{room} was not followed");
    }

    pub fn lease(&mut self, node: NodeId, room: RoomName, user: UserId, info: Option<PresenceInfo>) {
        let key = (room.clone(), node, user.clone());
        match info.clone() {
            Some(info) => _ = self.leases.insert(key, info),
            None => _ = self.leases.remove(&key),
        }
        for (of, line) in &mut self.lines {
            if *of != node && !line.cut && line.follows.contains_key(&room) {
                let (room, user, info) = (room.clone(), user.clone(), info.clone());
                line.heard.push_back(Heard::Leased { room, node, user, info });
            }
        }
    }

    pub fn node_gone(&mut self, node: NodeId) {
        self.lines.remove(&node);
        self.leases.retain(|(_, by, _), _| *by != node);
        for line in self.lines.values_mut() {
            // Who was cut finds the leases gone.
            if !line.cut {
                let ended = line.follows.keys().map(|room| Heard::LeasesEnded(room.clone(), node));
                line.heard.extend(ended);
            }
        }
    }

    pub fn save(&mut self, node: NodeId, record: SessionRecord) {
        let owner = self.sessions.get(&record.pid).map_or(node, |(_, owner)| *owner);
        if owner == node {
            self.sessions.insert(record.pid.clone(), (record, node));
        }
    }

    pub fn drop_session(&mut self, node: NodeId, pid: &Pid) {
        if self.sessions.get(pid).is_some_and(|(_, owner)| *owner == node) {
            self.sessions.remove(pid);
        }
    }

    pub fn claim(&mut self, node: NodeId, pid: &Pid) -> Option<(SessionRecord, SessionOffset)> {
        let (record, owner) = self.sessions.get_mut(pid)?;
        *owner = node;
        Some((record.clone(), SessionOffset { epoch: self.epoch, seq: self.seq }))
    }

    /// As the history's read by `seq`: `None` unless all is there.
    pub fn read_seq(&self, room: &RoomName, after: u64) -> Option<Vec<Arc<Publication>>> {
        let log = self.rooms.get(room).filter(|log| log.trimmed_seq <= after)?;
        Some(log.kept.iter().filter(|publication| publication.seq > after).cloned().collect())
    }
}
