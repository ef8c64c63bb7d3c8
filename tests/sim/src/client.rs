//! A client like the stock one with connection state recovery: it keeps `pid` and the last argument of each event that
//! is a string, sends both on reconnect, and believes `recovered` if the pid it gets is the one it had. It writes and
//! reads its packets by itself, not with the server's codec.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tidegate_types::RoomName;

use crate::ground::Ground;
use crate::link::{Kind, Up};
use crate::truth::Broken;

/// Where the client stands in a room, as far as it can know.
#[derive(Clone, Debug)]
enum Standing {
    /// Asked to join; messages may come before the answer.
    Joining { early: Vec<u64> },
    /// In. Nothing after `last` may be missing, unless `loose`: then the first message says where it begins.
    In { last: u64, loose: bool },
    /// Asked to leave; messages may still come.
    Leaving,
}

#[derive(Clone, Debug)]
enum Asked {
    Join(RoomName),
    Leave(RoomName),
    Send(Unanswered),
}

/// A message whose answer has not come: it is sent again after a cut.
#[derive(Clone, Debug)]
struct Unanswered {
    room: RoomName,
    class: String,
    number: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    No,
    Probing,
    /// `3probe` has come; polling must end first.
    Wanted,
    Done,
}

pub struct Client {
    index: usize,
    tenant: usize,
    pub tenant_name: String,
    pub user: String,
    link: Option<usize>,
    connected: bool,
    poll_open: bool,
    upgrade: Upgrade,
    pid: Option<String>,
    offset: Option<String>,
    rooms: BTreeMap<RoomName, Standing>,
    /// What the application wants.
    pub wanted: Vec<RoomName>,
    acks: BTreeMap<u64, Asked>,
    next_ack: u64,
    again: Vec<Unanswered>,
    /// Who is in which room, as far as it has been told.
    present: BTreeMap<RoomName, BTreeSet<String>>,
    /// Events that came before CONNECT. As in the stock client a disconnect does not clear it.
    early_events: Vec<String>,
    reconnect_at: u64,
    paused_until: u64,
    /// The server has died since this client was last connected.
    pub after_kill: bool,
}

impl Client {
    pub fn new(index: usize, tenant: usize, tenant_name: &str, wanted: Vec<RoomName>) -> Self {
        Self {
            index,
            tenant,
            tenant_name: tenant_name.to_owned(),
            user: format!("{tenant_name}/user-{}", index % 3),
            link: None,
            connected: false,
            poll_open: false,
            upgrade: Upgrade::No,
            pid: None,
            offset: None,
            rooms: BTreeMap::new(),
            wanted,
            acks: BTreeMap::new(),
            next_ack: 0,
            again: Vec::new(),
            present: BTreeMap::new(),
            early_events: Vec::new(),
            reconnect_at: 0,
            paused_until: 0,
            after_kill: false,
        }
    }

    pub fn link(&self) -> Option<usize> {
        self.link
    }

    pub fn is_in(&self, room: &RoomName) -> bool {
        self.connected && matches!(self.rooms.get(room), Some(Standing::In { .. }))
    }

    pub fn is_settled(&self) -> bool {
        self.connected && self.rooms.len() == self.wanted.len() && self.wanted.iter().all(|room| self.is_in(room))
    }

    /// The network is well again: no more waiting.
    pub fn hurry(&mut self, now: u64) {
        self.reconnect_at = self.reconnect_at.min(now + 100);
    }

    pub fn pause(&mut self, until: u64) {
        self.paused_until = until;
    }

    pub fn step(&mut self, g: &mut Ground) {
        if g.now < self.paused_until && !g.healed {
            return;
        }
        let Some(link) = self.link else {
            if g.now >= self.reconnect_at {
                self.open(g);
            }
            return;
        };
        while let Some(payload) = g.links.get_mut(link).and_then(|of| of.take_down(g.now)) {
            self.poll_open = false;
            payload.split('\u{1e}').for_each(|packet| self.packet(g, packet));
            self.poll(g);
        }
        while let Some(packet) = g.links.get_mut(link).and_then(|of| of.take_ws_down(g.now)) {
            if packet == "3probe" {
                self.upgrade = Upgrade::Wanted;
            } else {
                self.packet(g, &packet);
            }
        }
        self.finish_upgrade(g, link);
        if g.links.get_mut(link).is_some_and(|of| of.client_learns.take_if(|at| *at <= g.now).is_some()) {
            self.lost(g);
        } else if self.connected {
            self.pursue(g);
            self.send_again(g);
        }
    }

    fn open(&mut self, g: &mut Ground) {
        let link = g.open_link(false);
        self.link = Some(link);
        self.upgrade = Upgrade::No;
        self.poll_open = false;
        let mut auth = json!({ "tenant": self.tenant, "user": self.user });
        if let (Some(pid), Some(fields)) = (&self.pid, auth.as_object_mut()) {
            fields.insert("pid".to_owned(), json!(pid));
            if let Some(offset) = &self.offset {
                fields.insert("offset".to_owned(), json!(offset));
            }
        }
        let connect = format!("40{auth}");
        if self.pid.is_some() && !g.healed && g.rng.chance(60) {
            // The request is repeated on the way: two connections claim one session.
            let ghost = g.open_link(true);
            let now = g.now;
            if let Some((of, rng, _)) = g.link(ghost) {
                of.send_up(Up::Payload(connect.clone()), now, rng);
            }
        }
        self.send_packet(g, connect);
        self.poll(g);
        if self.kind(g) == Some(Kind::Polling) && g.rng.chance(600) {
            self.upgrade = Upgrade::Probing;
            if let Some((of, rng, now)) = g.link(link) {
                // The probe goes out once the session exists.
                of.send_ws_up("2probe".to_owned(), now + 60, rng);
            }
        }
    }

    fn kind(&self, g: &Ground) -> Option<Kind> {
        self.link.and_then(|link| g.links.get(link)).map(|link| link.kind)
    }

    fn poll(&mut self, g: &mut Ground) {
        let polls = self.kind(g) == Some(Kind::Polling) && matches!(self.upgrade, Upgrade::No | Upgrade::Probing);
        if let (true, false, Some(link)) = (polls, self.poll_open, self.link) {
            self.poll_open = true;
            if let Some((of, rng, now)) = g.link(link) {
                of.send_up(Up::Get, now, rng);
            }
        }
    }

    /// The stock client pauses polling (waits for its poll and its POSTs to end) before it sends `5`.
    fn finish_upgrade(&mut self, g: &mut Ground, link: usize) {
        let Some(of) = g.links.get(link) else { return };
        if self.upgrade == Upgrade::Wanted && !self.poll_open && of.is_up_idle() {
            self.upgrade = Upgrade::Done;
            if let Some((of, rng, now)) = g.link(link) {
                of.send_ws_up("5".to_owned(), now, rng);
            }
        }
    }

    fn send_packet(&mut self, g: &mut Ground, packet: String) {
        let Some(link) = self.link else { return };
        let Some((of, rng, now)) = g.link(link) else { return };
        if self.upgrade == Upgrade::Done {
            of.send_ws_up(packet, now, rng);
        } else {
            of.send_up(Up::Payload(packet), now, rng);
        }
    }

    fn lost(&mut self, g: &mut Ground) {
        self.link = None;
        self.connected = false;
        for asked in std::mem::take(&mut self.acks).into_values() {
            if let Asked::Send(unanswered) = asked {
                self.again.push(unanswered);
            }
        }
        let patience = if g.rng.chance(60) { 15_000 } else { 1_500 };
        self.reconnect_at = g.now + 100 + g.rng.below(if g.healed { 100 } else { patience });
    }

    fn packet(&mut self, g: &mut Ground, packet: &str) {
        match packet.as_bytes() {
            [b'2', ..] => self.send_packet(g, "3".to_owned()),
            [b'4', b'0', ..] => self.on_connect(g, packet.get(2..).unwrap_or_default()),
            [b'4', b'2', ..] => {
                let event = packet.get(2..).unwrap_or_default();
                if self.connected { self.emitted(g, event) } else { self.early_events.push(event.to_owned()) }
            }
            [b'4', b'3', ..] => {
                let outcome = self.on_ack(g, packet.get(2..).unwrap_or_default());
                g.check(outcome.map_err(|broken| format!("client {}: {broken}", self.index)));
            }
            _ => {}
        }
    }

    fn on_connect(&mut self, g: &mut Ground, body: &str) {
        let body: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        let pid = body.get("pid").and_then(Value::as_str).map(str::to_owned);
        let recovered = pid.is_some() && pid == self.pid;
        if recovered {
            g.report.recovered += 1;
            g.report.recovered_after_kill += u64::from(self.after_kill);
            // Questions whose answers were lost are asked again.
            self.rooms.retain(|_, standing| {
                !matches!(standing, Standing::Leaving) || {
                    *standing = Standing::Leaving;
                    true
                }
            });
        } else {
            g.report.afresh += u64::from(self.pid.is_some());
            self.rooms.clear();
            self.present.clear();
        }
        self.after_kill = false;
        self.pid = pid;
        self.connected = true;
        for event in std::mem::take(&mut self.early_events) {
            self.emitted(g, &event);
        }
    }

    fn emitted(&mut self, g: &mut Ground, event: &str) {
        let outcome = self.on_event(g, event);
        g.check(outcome.map_err(|broken| format!("client {}: {broken}", self.index)));
    }

    /// Joins what is wanted, leaves what is not, one question at a time.
    fn pursue(&mut self, g: &mut Ground) {
        let asked = |asked: &Asked| matches!(asked, Asked::Join(_) | Asked::Leave(_));
        if self.acks.values().any(asked) {
            return;
        }
        let wanted = self.wanted.iter().find(|room| !matches!(self.rooms.get(*room), Some(Standing::In { .. })));
        if let Some(room) = wanted.cloned() {
            match self.rooms.get(&room) {
                Some(Standing::Leaving) => self.ask(g, Asked::Leave(room)),
                Some(Standing::Joining { .. } | Standing::In { .. }) => self.ask(g, Asked::Join(room)),
                None => {
                    self.rooms.insert(room.clone(), Standing::Joining { early: Vec::new() });
                    self.ask(g, Asked::Join(room));
                }
            }
            return;
        }
        if let Some(room) = self.rooms.keys().find(|room| !self.wanted.contains(room)).cloned() {
            self.rooms.insert(room.clone(), Standing::Leaving);
            self.ask(g, Asked::Leave(room));
        }
    }

    fn ask(&mut self, g: &mut Ground, asked: Asked) {
        let (name, args) = match &asked {
            Asked::Join(room) => ("join", json!({ "room": room.as_str() })),
            Asked::Leave(room) => ("leave", json!({ "room": room.as_str() })),
            Asked::Send(_) => return,
        };
        self.emit(g, name, &args, asked);
    }

    fn emit(&mut self, g: &mut Ground, name: &str, args: &Value, asked: Asked) {
        self.next_ack += 1;
        self.acks.insert(self.next_ack, asked);
        let packet = format!("42{}{}", self.next_ack, json!([name, args]));
        self.send_packet(g, packet);
    }

    pub fn send_message(&mut self, g: &mut Ground, room: &RoomName, class: &str) {
        if !self.is_in(room) {
            return;
        }
        g.numbers += 1;
        self.send_unanswered(g, Unanswered { room: room.clone(), class: class.to_owned(), number: g.numbers });
    }

    fn send_unanswered(&mut self, g: &mut Ground, message: Unanswered) {
        let args = json!({ "room": message.room.as_str(), "class": message.class, "number": message.number });
        self.emit(g, "send", &args, Asked::Send(message));
    }

    /// Sends again what has had no answer, in rooms that it is in.
    fn send_again(&mut self, g: &mut Ground) {
        for message in std::mem::take(&mut self.again) {
            if self.is_in(&message.room) {
                self.send_unanswered(g, message);
            } else if self.wanted.contains(&message.room) {
                self.again.push(message);
            }
        }
    }

    fn on_ack(&mut self, g: &Ground, text: &str) -> Result<(), Broken> {
        let (id, body) = text.split_at_checked(text.find('[').unwrap_or(0)).unwrap_or_default();
        let body: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        let Some(asked) = id.parse().ok().and_then(|id: u64| self.acks.remove(&id)) else {
            return Err(format!("an ack {id:?} that nobody asked for"));
        };
        let field = |name: &str| body.get(0).and_then(|first| first.get(name)).cloned().unwrap_or(Value::Null);
        match asked {
            Asked::Send(_) => {}
            Asked::Leave(room) => {
                self.rooms.remove(&room);
            }
            Asked::Join(room) => {
                let seq = field("seq").as_u64().unwrap_or(0);
                let Some(Standing::Joining { early }) = self.rooms.get(&room) else { return Ok(()) };
                let standing = if field("already") == json!(true) {
                    // It joined earlier, without hearing so; what came meanwhile says where it stands.
                    Standing::In { last: early.last().copied().unwrap_or(0), loose: early.is_empty() }
                } else {
                    let mut last = seq;
                    for got in early.iter().filter(|got| **got > seq) {
                        self.expect(g, &room, last, *got)?;
                        last = *got;
                    }
                    Standing::In { last, loose: false }
                };
                self.rooms.insert(room, standing);
            }
        }
        Ok(())
    }

    fn expect(&self, g: &Ground, room: &RoomName, last: u64, got: u64) -> Result<(), Broken> {
        let Some(truth) = g.truths.get(self.tenant) else { return Ok(()) };
        if got <= last {
            return Err(format!("seq {got} of {room} again, or too late: it had {last}"));
        }
        match truth.next_in(room, last) {
            Some(next) if next == got => Ok(()),
            next => Err(format!("seq {got} of {room} after {last}, but {next:?} comes first")),
        }
    }

    fn on_event(&mut self, g: &mut Ground, text: &str) -> Result<(), Broken> {
        let args: Vec<Value> = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
        let offset = match args.last() {
            Some(Value::String(offset)) if args.len() > 1 => Some(offset.clone()),
            _ => None,
        };
        if let Some(offset) = &offset {
            self.offset = Some(offset.clone());
        }
        let name = args.first().and_then(Value::as_str).unwrap_or_default();
        let data = args.get(1).cloned().unwrap_or(Value::Null);
        if name == "presence" {
            let users = data.get("users").and_then(Value::as_array).cloned().unwrap_or_default();
            let ours =
                |user: &Value| user.as_str().is_some_and(|user| user.starts_with(&format!("{}/", self.tenant_name)));
            if !users.iter().all(ours) {
                return Err(format!("presence of another tenant: {data}"));
            }
            self.told_of(&data, users.iter().filter_map(Value::as_str).map(str::to_owned));
            return Ok(());
        }
        if name != "room:message" && name != "room:gap" {
            return Ok(());
        }
        let place = args.get(2).cloned().unwrap_or(Value::Null);
        let room = place.get("room").and_then(Value::as_str).unwrap_or_default();
        let room = RoomName::try_from(room).map_err(|error| error.to_string())?;
        if name == "room:message" && data.get("tenant") != Some(&json!(self.tenant_name)) {
            return Err(format!("a message of another tenant: {data}"));
        }
        let Some(offset) = offset else { return Ok(()) };
        let seq: u64 = offset.split_once('.').and_then(|(_, seq)| seq.parse().ok()).unwrap_or(0);
        self.received(g, &room, seq, name == "room:gap", &data, &place)?;
        g.report.delivered += 1;
        Ok(())
    }

    fn received(
        &mut self,
        g: &Ground,
        room: &RoomName,
        seq: u64,
        gap: bool,
        data: &Value,
        place: &Value,
    ) -> Result<(), Broken> {
        let Some(truth) = g.truths.get(self.tenant) else { return Ok(()) };
        let Some(entry) = truth.get(seq) else { return Err(format!("seq {seq} was never released")) };
        let number = data.get("number").and_then(Value::as_u64);
        let same = entry.room == *room
            && place.get("offset").and_then(Value::as_u64) == Some(entry.offset)
            && entry.withdrawn == gap
            && (gap || number == Some(entry.number));
        if !same {
            return Err(format!("seq {seq} is not what it was: {data} at {place}, was {entry:?}"));
        }
        match self.rooms.get(room) {
            None => return Err(format!("a message of {room}, which it has left")),
            Some(Standing::In { last, loose: false }) => self.expect(g, room, *last, seq)?,
            Some(Standing::In { .. } | Standing::Joining { .. } | Standing::Leaving) => {}
        }
        // One number stands for all rooms: nothing before it may be missing anywhere.
        for (other, standing) in &self.rooms {
            if let Standing::In { last, loose: false } = standing
                && let Some(next) = truth.next_in(other, *last).filter(|next| *next < seq)
            {
                return Err(format!("seq {seq} of {room}, but {next} of {other} is missing"));
            }
        }
        match self.rooms.get_mut(room) {
            Some(Standing::In { last, loose }) => (*last, *loose) = (seq, false),
            Some(Standing::Joining { early }) => early.push(seq),
            Some(Standing::Leaving) | None => {}
        }
        Ok(())
    }

    fn told_of(&mut self, data: &Value, users: impl Iterator<Item = String>) {
        let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
        let Ok(room) = RoomName::try_from(text("room")) else { return };
        let present = self.present.entry(room).or_default();
        match text("kind") {
            "join" => present.extend(users),
            "leave" => users.for_each(|user| _ = present.remove(&user)),
            _ => *present = users.collect(),
        }
    }

    /// Who else is in the room, as far as the client has been told. What was on its way to the room when the client
    /// entered it may lack the client itself, which is not told of its own coming.
    pub fn others_in(&self, room: &RoomName) -> BTreeSet<String> {
        let present = self.present.get(room).cloned().unwrap_or_default();
        present.into_iter().filter(|user| *user != self.user).collect()
    }

    /// At rest nothing may be missing.
    pub fn at_rest(&self, g: &Ground) -> Result<(), Broken> {
        if !self.is_settled() {
            return Err(format!(
                "client {} never came to rest: connected {}, link {:?}, wants {:?}, is {:?}, asked {:?}",
                self.index, self.connected, self.link, self.wanted, self.rooms, self.acks
            ));
        }
        let Some(truth) = g.truths.get(self.tenant) else { return Ok(()) };
        for (room, standing) in &self.rooms {
            if let Standing::In { last, .. } = standing
                && let Some(next) = truth.next_in(room, *last)
            {
                return Err(format!("client {}: seq {next} of {room} never came, it has {last}", self.index));
            }
        }
        Ok(())
    }
}
