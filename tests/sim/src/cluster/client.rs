//! A client with connection state recovery that connects to whatever node it likes. It knows of each message it gets where
//! it stands in what the broker accepted, and says so if anything before it is missing.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_types::{Epoch, NodeId, Publication, RoomName, SessionOffset, UserId};

use super::ground::{Ground, ToClient, ToServer};
use super::truth::Truth;
use crate::truth::Broken;

/// Where the client stands in a room.
#[derive(Clone, Debug)]
enum Standing {
    /// Asked to join; messages may come before the answer, and that there was a gap up to `from`.
    Joining { early: Vec<usize>, from: Option<usize> },
    /// In. Nothing after `last` may be missing; nothing up to `got` comes again. (What it was told to be lost in a gap may
    /// still come, when its session is resumed.)
    In { last: Option<usize>, got: Option<usize> },
    /// Asked to leave; messages may still come.
    Leaving,
}

enum Asked {
    Join,
    Leave(RoomName),
    Send(Unanswered),
}

/// A message whose answer has not come: it is sent again.
#[derive(Clone)]
struct Unanswered {
    room: RoomName,
    number: u64,
    persistent: bool,
}

pub struct Client {
    index: usize,
    tenant: usize,
    pub user: UserId,
    link: Option<usize>,
    connected: bool,
    session: Option<String>,
    offset: Option<SessionOffset>,
    /// The message whose numbers those are.
    stands_at: Option<usize>,
    rooms: BTreeMap<RoomName, Standing>,
    pub wanted: BTreeSet<RoomName>,
    asked: BTreeMap<u64, Asked>,
    next_ask: u64,
    again: Vec<(u64, Unanswered)>,
    ask_not_before: u64,
    /// Who is in which room, as far as it has been told.
    present: BTreeMap<RoomName, BTreeSet<UserId>>,
    reconnect_at: u64,
}

impl Client {
    pub fn new(index: usize, tenant: usize, user: UserId, wanted: BTreeSet<RoomName>) -> Self {
        Self {
            index,
            tenant,
            user,
            link: None,
            connected: false,
            session: None,
            offset: None,
            stands_at: None,
            rooms: BTreeMap::new(),
            wanted,
            asked: BTreeMap::new(),
            next_ask: 0,
            again: Vec::new(),
            ask_not_before: 0,
            present: BTreeMap::new(),
            reconnect_at: 0,
        }
    }

    pub fn tenant(&self) -> usize {
        self.tenant
    }

    pub fn link(&self) -> Option<usize> {
        self.link
    }

    pub fn is_in(&self, room: &RoomName) -> bool {
        self.connected && matches!(self.rooms.get(room), Some(Standing::In { .. }))
    }

    pub fn step(&mut self, g: &mut Ground, nodes: &[NodeId]) {
        let Some(link) = self.link else {
            if g.now >= self.reconnect_at
                && let Some(node) = g.rng.pick(nodes).copied()
            {
                self.open(g, node);
            }
            return;
        };
        let now = g.now;
        while let Some(message) = g.links.get_mut(link).and_then(|of| of.down.take(now)) {
            let outcome = self.hear(g, message);
            g.check(outcome.map_err(|broken| format!("client {} ({}): {broken}", self.index, self.user.as_str())));
        }
        if g.links.get_mut(link).is_some_and(|of| of.client_learns.take_if(|at| *at <= now).is_some()) {
            self.lost(g);
        } else if self.connected {
            self.pursue(g);
            self.send_again(g);
        }
    }

    fn open(&mut self, g: &mut Ground, node: NodeId) {
        let link = g.open_link(node);
        self.link = Some(link);
        // A cursor at a message that the broker has lost may name another one by now, until a node that had heard of it comes
        // back and proves the loss. This is a known limit (docs/scaling.md); here such a client does not come back, so that
        // it does not hide what else there is.
        let truth = g.truths.get(self.tenant);
        let is_lost = self.stands_at.is_some_and(|at| truth.is_some_and(|truth| truth.is_lost(at)));
        g.report.lost_cursors += u64::from(is_lost);
        let session = self.session.clone().zip(self.offset).filter(|_| !is_lost);
        g.send_up(link, ToServer::Hello { tenant: self.tenant, user: self.user.clone(), session });
    }

    fn lost(&mut self, g: &mut Ground) {
        self.link = None;
        self.connected = false;
        for asked in std::mem::take(&mut self.asked).into_values() {
            if let Asked::Send(unanswered) = asked {
                self.again.push((0, unanswered));
            }
        }
        let patience = if g.rng.chance(60) { 15_000 } else { 1_500 };
        self.reconnect_at = g.now + 50 + g.rng.below(if g.healed { 100 } else { patience });
    }

    /// The network is well again: no more waiting.
    pub fn hurry(&mut self, now: u64) {
        self.reconnect_at = self.reconnect_at.min(now + 100);
    }

    fn hear(&mut self, g: &mut Ground, message: ToClient) -> Result<(), Broken> {
        match message {
            ToClient::Welcome { pid, recovered, elsewhere } => self.welcomed(g, pid, recovered, elsewhere),
            ToClient::Stands(offset) => {
                self.offset = Some(offset);
                let truth = g.truths.get(self.tenant);
                self.stands_at = truth.and_then(|truth| truth.at(offset.epoch, offset.seq));
            }
            ToClient::Joined { ask, room, epoch, seq, users } => {
                let Some(Asked::Join) = self.asked.remove(&ask) else { return Ok(()) };
                self.present.insert(room.clone(), users.into_iter().collect());
                return self.joined(g, room, epoch, seq);
            }
            ToClient::Left { ask } => {
                if let Some(Asked::Leave(room)) = self.asked.remove(&ask) {
                    self.rooms.remove(&room);
                }
            }
            ToClient::Refused { ask } => match self.asked.remove(&ask) {
                Some(Asked::Send(message)) => self.again.push((g.now + 200, message)),
                Some(Asked::Join | Asked::Leave(_)) => self.ask_not_before = g.now + 200,
                None => {}
            },
            ToClient::Acked { ask } => g.report.acked += u64::from(self.asked.remove(&ask).is_some()),
            ToClient::Message(publication) => return self.received(g, &publication),
            ToClient::Gap { room, offset } => {
                g.report.gaps += 1;
                let at = g.truths.get(self.tenant).and_then(|truth| truth.last_of_room_up_to(&room, offset));
                match self.rooms.get_mut(&room) {
                    Some(Standing::In { last, .. }) => *last = at.max(*last),
                    Some(Standing::Joining { early, from }) => {
                        early.clear();
                        *from = at;
                    }
                    Some(Standing::Leaving) | None => {}
                }
            }
            ToClient::Present { room, users } => {
                self.is_ours(users.iter())?;
                self.present.insert(room, users.into_iter().collect());
            }
            ToClient::Came { room, user } => {
                self.is_ours([&user.user_id].into_iter())?;
                self.present.entry(room).or_default().insert(user.user_id);
            }
            ToClient::Went { room, user } => {
                self.present.entry(room).or_default().remove(&user);
            }
        }
        Ok(())
    }

    fn is_ours<'a>(&self, mut users: impl Iterator<Item = &'a UserId>) -> Result<(), Broken> {
        let prefix = format!("{}/", self.tenant);
        match users.find(|user| !user.as_str().starts_with(&prefix)) {
            Some(other) => Err(format!("presence of another tenant: {}", other.as_str())),
            None => Ok(()),
        }
    }

    fn welcomed(&mut self, g: &mut Ground, pid: String, recovered: bool, elsewhere: bool) {
        if recovered {
            let here = self.offset.zip(g.truths.get(self.tenant));
            let here = here.and_then(|(offset, truth)| truth.last_up_to(offset.epoch, offset.seq));
            for standing in self.rooms.values_mut() {
                if let Standing::Joining { from, .. } = standing {
                    *from = (*from).max(here);
                }
            }
            g.report.recovered_elsewhere += u64::from(elsewhere);
            g.report.recovered_here += u64::from(!elsewhere);
            // What it had asked and heard no answer to is asked again.
        } else {
            g.report.afresh += u64::from(self.session.is_some());
            self.rooms.clear();
            self.present.clear();
        }
        self.session = Some(pid);
        self.connected = true;
    }

    fn joined(&mut self, g: &Ground, room: RoomName, epoch: Epoch, seq: u64) -> Result<(), Broken> {
        let Some(truth) = g.truths.get(self.tenant) else { return Ok(()) };
        let (early, gap) = match self.rooms.get(&room) {
            Some(Standing::Joining { early, from }) => (early.clone(), *from),
            // It is in already, or leaves again.
            Some(Standing::In { .. } | Standing::Leaving) | None => return Ok(()),
        };
        let from = gap.max(truth.last_up_to(epoch, seq));
        let mut last = from;
        for got in early.iter().filter(|got| from.is_none_or(|from| **got > from)) {
            Self::expect(truth, &room, last, *got)?;
            last = Some(*got);
        }
        let got = early.last().copied();
        self.rooms.insert(room, Standing::In { last, got });
        Ok(())
    }

    fn expect(truth: &Truth, room: &RoomName, last: Option<usize>, at: usize) -> Result<(), Broken> {
        match truth.next_in(room, last, Some(at)) {
            Some(missing) => Err(format!("message {at} of {room:?} after {last:?}, but {missing:?} is missing")),
            None => Ok(()),
        }
    }

    fn received(&mut self, g: &mut Ground, publication: &Publication) -> Result<(), Broken> {
        let text = String::from_utf8_lossy(&publication.data).into_owned();
        let (tenant, number) = text.split_once(':').unwrap_or_default();
        if tenant.parse() != Ok(self.tenant) {
            return Err(format!("a message of another tenant: {text}"));
        }
        let room = &publication.room;
        let Some(position) = publication.position else { return Ok(()) };
        let (epoch, offset, seq) = (position.epoch, position.offset, publication.seq);
        let number = number.parse().unwrap_or(0);
        let Some(truth) = g.truths.get(self.tenant) else { return Ok(()) };
        let Some(at) = truth.find(number, epoch, seq, offset, room) else {
            return Err(format!("message {number} at {epoch}.{seq} of {room:?} was never accepted as that"));
        };
        match self.rooms.get(room) {
            None => return Err(format!("a message of {room:?}, which it has left")),
            Some(Standing::In { got, .. }) if got.is_some_and(|got| at <= got) => {
                return Err(format!("message {at} of {room:?} again, or too late: it had {got:?}"));
            }
            Some(Standing::In { last, .. }) => Self::expect(truth, room, *last, at)?,
            Some(Standing::Joining { .. } | Standing::Leaving) => {}
        }
        // One number stands for all rooms: nothing before it may be missing anywhere.
        for (other, standing) in &self.rooms {
            if let Standing::In { last, .. } = standing
                && let Some(missing) = truth.next_in(other, *last, Some(at))
            {
                return Err(format!("message {at} of {room:?}, but {missing:?} is missing"));
            }
        }
        match self.rooms.get_mut(room) {
            Some(Standing::In { last, got }) => (*last, *got) = ((*last).max(Some(at)), Some(at)),
            Some(Standing::Joining { early, .. }) => early.push(at),
            Some(Standing::Leaving) | None => {}
        }
        self.offset = Some(SessionOffset { epoch, seq });
        self.stands_at = Some(at);
        g.report.delivered += 1;
        Ok(())
    }

    /// Joins what is wanted, leaves what is not, one question at a time.
    fn pursue(&mut self, g: &mut Ground) {
        let asks = |asked: &Asked| matches!(asked, Asked::Join | Asked::Leave(_));
        if g.now < self.ask_not_before || self.asked.values().any(asks) {
            return;
        }
        let wanted = self.wanted.iter().find(|room| !matches!(self.rooms.get(*room), Some(Standing::In { .. })));
        if let Some(room) = wanted.cloned() {
            if matches!(self.rooms.get(&room), Some(Standing::Leaving)) {
                return self.leave(g, room);
            }
            // Asked again after a cut: it may be in, and what came early still counts.
            self.rooms.entry(room.clone()).or_insert(Standing::Joining { early: Vec::new(), from: None });
            let ask = self.ask(Asked::Join);
            return self.send(g, ToServer::Join { ask, room });
        }
        if let Some(room) = self.rooms.keys().find(|room| !self.wanted.contains(*room)).cloned() {
            self.leave(g, room);
        }
    }

    fn leave(&mut self, g: &mut Ground, room: RoomName) {
        self.rooms.insert(room.clone(), Standing::Leaving);
        let ask = self.ask(Asked::Leave(room.clone()));
        self.send(g, ToServer::Leave { ask, room });
    }

    fn ask(&mut self, asked: Asked) -> u64 {
        self.next_ask += 1;
        self.asked.insert(self.next_ask, asked);
        self.next_ask
    }

    fn send(&self, g: &mut Ground, message: ToServer) {
        if let Some(link) = self.link {
            g.send_up(link, message);
        }
    }

    /// The application says something.
    pub fn say(&mut self, g: &mut Ground, room: &RoomName) {
        if self.is_in(room) {
            g.numbers += 1;
            let message = Unanswered { room: room.clone(), number: g.numbers, persistent: g.rng.chance(500) };
            self.send_message(g, message);
        }
    }

    fn send_message(&mut self, g: &mut Ground, message: Unanswered) {
        let Unanswered { room, number, persistent } = message.clone();
        let ask = self.ask(Asked::Send(message));
        self.send(g, ToServer::Send { ask, room, number, persistent });
    }

    fn send_again(&mut self, g: &mut Ground) {
        for (not_before, message) in std::mem::take(&mut self.again) {
            if g.now >= not_before && self.is_in(&message.room) {
                self.send_message(g, message);
            } else if self.wanted.contains(&message.room) {
                self.again.push((not_before, message));
            }
        }
    }

    /// Who else is in the room, as far as the client has been told.
    pub fn others_in(&self, room: &RoomName) -> BTreeSet<UserId> {
        let present = self.present.get(room).cloned().unwrap_or_default();
        present.into_iter().filter(|user| *user != self.user).collect()
    }

    /// At rest nothing may be missing.
    pub fn at_rest(&self, g: &Ground) -> Result<(), Broken> {
        let settled = self.connected
            && self.rooms.len() == self.wanted.len()
            && self.wanted.iter().all(|room| self.is_in(room))
            && self.again.is_empty();
        if !settled {
            return Err(format!(
                "client {} never came to rest: connected {}, link {:?}, wants {:?}, is {:?}, has {} to ask, {} to say",
                self.index,
                self.connected,
                self.link,
                self.wanted,
                self.rooms,
                self.asked.len(),
                self.again.len()
            ));
        }
        let Some(truth) = g.truths.get(self.tenant) else { return Ok(()) };
        for (room, standing) in &self.rooms {
            if let Standing::In { last, .. } = standing
                && let Some(missing) = truth.next_in(room, *last, None)
            {
                return Err(format!("client {}: {missing:?} never came, it has {last:?}", self.index));
            }
        }
        Ok(())
    }
}
