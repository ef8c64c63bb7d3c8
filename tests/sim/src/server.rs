//! The server's process: hub, sessions, shards with mailboxes. What `tidegate-realtime` does with sockets and threads is
//! done here with lists.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use tidegate_hub::{Effect, Effects, NewSession, Pid, PresenceChange, Resume, RoomId, Space, SpaceConfig, Who};
use tidegate_session::{Input, PollRefused, ProbeStep, Session, Settings, Transport};
use tidegate_types::{
    Class, ConnId, Namespace, Publication, RoomName, SessionOffset, ShardId, SpaceKey, TenantId, UserId,
};
use tidegate_wire::engine_io::{self, Packet};
use tidegate_wire::socket_io;

use crate::ground::{Ground, Sabotage};
use crate::link::{Kind, Up};
use crate::store::{KEPT_MESSAGES, Write, Written};

mod requests;

pub use requests::REPEAT_MS;

const SHARDS: usize = 3;

pub fn config() -> SpaceConfig {
    SpaceConfig {
        ring_window_ms: 4_000,
        ring_bytes: 48 << 10,
        session_window_ms: 12_000,
        durable: true,
        reserve_block: 16,
        store_messages: KEPT_MESSAGES,
        ..SpaceConfig::default()
    }
}

fn settings() -> Settings {
    Settings { ping_interval_ms: 2_000, ping_timeout_ms: 1_500, connect_timeout_ms: 3_000, ..Settings::default() }
}

pub fn class_name(class: Class) -> &'static str {
    match class {
        Class::Volatile => "volatile",
        Class::Recoverable => "recoverable",
        Class::Persistent => "persistent",
    }
}

fn class_of(name: &str) -> Class {
    match name {
        "persistent" => Class::Persistent,
        "volatile" => Class::Volatile,
        _ => Class::Recoverable,
    }
}

struct Conn {
    id: ConnId,
    tenant: usize,
    user: Option<UserId>,
    session: Session,
    /// Packets for the next poll.
    outbox: Vec<String>,
    pinged_at: u64,
}

#[derive(Clone)]
enum Mail {
    Message(RoomId, Arc<Publication>),
    Presence(RoomId, String, Option<ConnId>),
}

#[derive(Default)]
struct Shard {
    mailbox: VecDeque<(usize, Mail)>,
    paused_until: u64,
}

/// A reply that waits until the session's record is stored, and the room whose members are shown behind it.
struct SavedAck {
    tenant: usize,
    ticket: u64,
    link: usize,
    text: String,
    show: Option<RoomName>,
}

/// A resume that waits for a read of the store.
struct Reading {
    due: u64,
    link: usize,
    pid: Pid,
    offset: SessionOffset,
    user: UserId,
    stored: Vec<Arc<Publication>>,
}

#[derive(Default)]
pub struct Server {
    spaces: Vec<Space>,
    shards: Vec<Shard>,
    conns: BTreeMap<usize, Conn>,
    /// Connections of a room, with the number after which each gets live messages.
    members: BTreeMap<(usize, RoomId), Vec<(usize, u64)>>,
    /// Senders to be told when the message is stored.
    durable_acks: BTreeMap<(usize, u64), (usize, u64)>,
    /// Replies that wait until the session's record is stored.
    saved_acks: Vec<SavedAck>,
    /// By tenant, the last session write known to be stored.
    saved: Vec<u64>,
    readings: Vec<Reading>,
    born: u64,
    ground_generation: u64,
}

impl Server {
    /// A start of the process on what the stores hold.
    pub fn start(g: &mut Ground, tenants: &[String], generation: u64) -> Self {
        let mut server = Self { ground_generation: generation, ..Self::default() };
        server.shards.resize_with(SHARDS, Shard::default);
        for (index, tenant) in tenants.iter().enumerate() {
            let Ok(tenant) = TenantId::try_from(tenant.as_str()) else { continue };
            let Some(store) = g.stores.get_mut(index) else { continue };
            server.saved.push(store.ticket());
            let mut start = store.open();
            if g.sabotage == Sabotage::ReservationForgotten && !start.clean {
                start.reserved_seq = 0;
            }
            let key = Arc::new(SpaceKey { tenant, namespace: Namespace::root() });
            server.spaces.push(Space::new(key, config(), start));
        }
        server
    }

    pub fn step(&mut self, g: &mut Ground) {
        self.read_links(g);
        self.read_stores(g);
        self.finish_readings(g);
        self.run_shards(g);
        self.answer_polls(g);
        if g.now.is_multiple_of(50) {
            for tenant in 0..self.spaces.len() {
                let (now, mut fx) = (g.wall(), Effects::new());
                if let Some(space) = self.spaces.get_mut(tenant) {
                    space.tick(now, &mut fx);
                }
                self.carry_out(g, tenant, fx);
            }
            self.heartbeat(g);
        }
    }

    fn heartbeat(&mut self, g: &mut Ground) {
        let settings = settings();
        let links: Vec<usize> = self.conns.keys().copied().collect();
        for link in links {
            let Some(conn) = self.conns.get_mut(&link) else { continue };
            if conn.session.expired(g.now, &settings).is_some_and(|reason| reason.recoverable()) {
                self.close(g, link, true);
            } else if g.now - conn.pinged_at >= settings.ping_interval_ms {
                conn.pinged_at = g.now;
                if conn.session.ping_turn(g.now) {
                    self.send_packet(g, link, "2".to_owned());
                }
            }
        }
    }

    fn read_links(&mut self, g: &mut Ground) {
        for link in 0..g.links.len() {
            while let Some(up) = g.links.get_mut(link).and_then(|of| of.take_up(g.now)) {
                self.greet(g, link);
                match up {
                    Up::Get => {
                        let Some(conn) = self.conns.get_mut(&link) else { continue };
                        if conn.session.poll_started(g.now, &settings()).is_err() {
                            self.close(g, link, false);
                        }
                    }
                    Up::Payload(payload) => self.payload(g, link, &payload),
                }
            }
            while let Some(payload) = g.links.get_mut(link).and_then(|of| of.take_ws_up(g.now)) {
                self.websocket(g, link, &payload);
            }
            let learnt = g.links.get_mut(link).is_some_and(|of| of.server_learns.take_if(|at| *at <= g.now).is_some());
            if learnt {
                self.close(g, link, true);
            }
        }
    }

    /// The first bytes of a link make its session.
    fn greet(&mut self, g: &Ground, link: usize) {
        let Some(of) = g.links.get(link).filter(|of| !of.is_cut() || of.server_learns.is_some()) else { return };
        let transport = match of.kind {
            Kind::WebSocket => Transport::WebSocket,
            Kind::Polling => Transport::Polling,
        };
        let id = ConnId { shard: ShardId((link % SHARDS) as u16), slot: link as u32, generation: 0 };
        self.conns.entry(link).or_insert_with(|| Conn {
            id,
            tenant: 0,
            user: None,
            session: Session::open(transport, g.now),
            outbox: Vec::new(),
            pinged_at: g.now,
        });
    }

    /// A frame on a WebSocket that a polling session is being upgraded to.
    fn websocket(&mut self, g: &mut Ground, link: usize, payload: &str) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        if conn.session.transport() == Transport::WebSocket {
            return self.payload(g, link, payload);
        }
        if conn.session.transport() == Transport::Polling && conn.session.probe_started().is_err() {
            return;
        }
        let Ok(packet) = engine_io::decode_text(payload) else { return };
        match conn.session.probe_packet(&packet) {
            Ok(ProbeStep::Pong) => {
                // An open poll is released, so that the client can stop polling.
                conn.outbox.push("6".to_owned());
                if let Some((of, rng, now)) = g.link(link) {
                    of.send_ws_down("3probe".to_owned(), now, rng);
                }
            }
            Ok(ProbeStep::Upgraded) => {
                g.report.upgrades += 1;
                let outbox = std::mem::take(&mut conn.outbox);
                outbox.into_iter().for_each(|packet| self.send_packet(g, link, packet));
            }
            Err(_) => conn.session.probe_failed(),
        }
    }

    fn payload(&mut self, g: &mut Ground, link: usize, payload: &str) {
        for packet in engine_io::decode_payload(payload, 100) {
            let Ok(packet) = packet else { return self.close(g, link, false) };
            self.packet(g, link, packet);
        }
    }

    fn packet(&mut self, g: &mut Ground, link: usize, packet: Packet<'_>) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        match conn.session.receive(packet, &settings()) {
            Ok(Input::Connect { namespace, auth }) => self.connect(g, link, namespace, auth),
            Ok(Input::Event { ack_id, payload, .. }) => {
                if let Ok((name, args)) = socket_io::event_parts(&payload) {
                    let args = serde_json::from_str(args).unwrap_or(Value::Null);
                    self.event(g, link, &name, &args, ack_id.unwrap_or(0));
                }
            }
            Ok(Input::Nothing | Input::Ack { .. }) => {}
            Ok(Input::Disconnect { .. } | Input::Close) | Err(_) => self.close(g, link, false),
        }
    }

    fn connect(&mut self, g: &mut Ground, link: usize, namespace: Namespace, auth: &str) {
        let auth: Value = serde_json::from_str(auth).unwrap_or(Value::Null);
        let text = |key: &str| auth.get(key).and_then(Value::as_str).unwrap_or_default();
        let tenant = auth.get("tenant").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let Ok(user) = UserId::try_from(text("user")) else { return self.close(g, link, false) };
        let Some(conn) = self.conns.get_mut(&link) else { return };
        conn.session.accept(namespace);
        conn.tenant = tenant;
        conn.user = Some(user.clone());
        let (pid, offset) = (text("pid"), text("offset").parse::<SessionOffset>());
        if let (false, Ok(offset)) = (pid.is_empty(), offset) {
            return self.resume(g, link, Pid::from(pid), offset, user, None);
        }
        self.welcome(g, link);
    }

    fn resume(
        &mut self,
        g: &mut Ground,
        link: usize,
        pid: Pid,
        offset: SessionOffset,
        user: UserId,
        stored: Option<Vec<Arc<Publication>>>,
    ) {
        let Some((id, tenant)) = self.conns.get(&link).map(|conn| (conn.id, conn.tenant)) else { return };
        let (Some(space), Some(store)) = (self.spaces.get_mut(tenant), g.stores.get(tenant)) else { return };
        if !space.session_known(&pid)
            && let Some(record) = store.session(&pid)
        {
            space.import_session(record, g.wall());
        }
        let mut fx = Effects::new();
        let who = Who { user: user.clone(), username: None };
        let answer = match stored {
            None => space.resume(&pid, offset, &user, id, who, None, g.wall(), &mut fx),
            Some(stored) => space.resume_with(&pid, offset, &user, id, who, None, stored, g.wall(), &mut fx),
        };
        self.resumed(g, link, pid, offset, user, answer, fx);
    }

    #[allow(clippy::too_many_arguments)]
    fn resumed(
        &mut self,
        g: &mut Ground,
        link: usize,
        pid: Pid,
        offset: SessionOffset,
        user: UserId,
        answer: Resume,
        fx: Effects,
    ) {
        let Some(tenant) = self.conns.get(&link).map(|conn| conn.tenant) else { return };
        match answer {
            Resume::Recovered { socket_id, rooms, mut missed, seq } => {
                for of in &rooms {
                    self.members.entry((tenant, of.room_id)).or_default().push((link, of.after_seq));
                }
                if g.sabotage == Sabotage::ReplaySkipsOne && !missed.is_empty() {
                    missed.remove(0);
                }
                let reply = json!({ "sid": socket_id.as_str(), "pid": pid.as_str() });
                let mut text = Vec::new();
                socket_io::connect(&mut text, "/", &reply.to_string());
                // CONNECT first. Before it the stock client buffers events, without noting their offsets, and does not
                // clear the buffer when it is cut: the next replay would repeat them.
                let early = g.sabotage == Sabotage::ReplayBeforeConnect;
                if !early {
                    self.send(g, link, std::mem::take(&mut text));
                }
                for publication in missed {
                    self.send_publication(g, link, &publication);
                }
                if early {
                    self.send(g, link, text);
                }
                self.send_ready(g, link, SessionOffset { epoch: offset.epoch, seq });
                self.carry_out(g, tenant, fx);
                if g.sabotage != Sabotage::PresenceNotShown {
                    rooms.iter().for_each(|of| self.show(g, tenant, link, &of.room));
                }
            }
            Resume::NeedHistory { reads } => {
                g.report.store_reads += 1;
                let Some(store) = g.stores.get(tenant) else { return };
                let stored: Vec<_> = reads.iter().flat_map(|(room, after)| store.read_seq(room, *after)).collect();
                let due = g.now + g.rng.below(60);
                self.readings.push(Reading { due, link, pid, offset, user, stored });
                self.carry_out(g, tenant, fx);
            }
            Resume::Failed(_) => {
                self.carry_out(g, tenant, fx);
                self.welcome(g, link);
            }
        }
    }

    fn finish_readings(&mut self, g: &mut Ground) {
        let now = g.now;
        let (ready, waiting) = std::mem::take(&mut self.readings).into_iter().partition(|reading| reading.due <= now);
        self.readings = waiting;
        let ready: Vec<Reading> = ready;
        for Reading { link, pid, offset, user, stored, .. } in ready {
            self.resume(g, link, pid, offset, user, Some(stored));
        }
    }

    /// A new session.
    fn welcome(&mut self, g: &mut Ground, link: usize) {
        self.born += 1;
        let Some(conn) = self.conns.get(&link) else { return };
        let (id, tenant, Some(user)) = (conn.id, conn.tenant, conn.user.clone()) else { return };
        let name = format!("{}-{}-{link}", self.ground_generation, self.born);
        let session = NewSession { pid: name.as_str().into(), socket_id: name.as_str().into(), token_expires_at: None };
        let Some(space) = self.spaces.get_mut(tenant) else { return };
        let mut fx = Effects::new();
        space.connect(id, Who { user, username: None }, session, g.wall(), &mut fx);
        let offset = SessionOffset { epoch: space.epoch(), seq: space.head_seq() };
        let mut text = Vec::new();
        socket_io::connect(&mut text, "/", &json!({ "sid": name, "pid": name }).to_string());
        self.send(g, link, text);
        self.send_ready(g, link, offset);
        self.carry_out(g, tenant, fx);
    }

    /// Gives the client an offset, so that it can recover even if nothing is ever said in its rooms.
    fn send_ready(&mut self, g: &mut Ground, link: usize, offset: SessionOffset) {
        let mut text = Vec::new();
        socket_io::event(&mut text, "/", None, "connected", "{}", Some(&offset.to_string()));
        self.send(g, link, text);
    }

    fn carry_out(&mut self, g: &mut Ground, tenant: usize, fx: Effects) {
        for effect in fx {
            match effect {
                Effect::Deliver { room_id, shards, publication } => {
                    for shard in shards.iter() {
                        if let Some(shard) = self.shards.get_mut(usize::from(shard.0)) {
                            shard.mailbox.push_back((tenant, Mail::Message(room_id, publication.clone())));
                        }
                    }
                }
                Effect::Presence { room_id, room, shards, change, except } => {
                    let (kind, users): (_, Vec<String>) = match &change {
                        PresenceChange::Join(info) => ("join", vec![info.user_id.to_string()]),
                        PresenceChange::Leave(user) => ("leave", vec![user.to_string()]),
                        PresenceChange::Update { listed, .. } => {
                            ("update", listed.iter().map(|info| info.user_id.to_string()).collect())
                        }
                    };
                    let args = json!({ "room": room.as_str(), "kind": kind, "users": users }).to_string();
                    for shard in shards.iter() {
                        if let Some(shard) = self.shards.get_mut(usize::from(shard.0)) {
                            shard.mailbox.push_back((tenant, Mail::Presence(room_id, args.clone(), except)));
                        }
                    }
                }
                Effect::Append(publication) => submit(g, tenant, Write::Append(publication)),
                Effect::Reserve { upto } => submit(g, tenant, Write::Reserve(upto)),
                Effect::SaveSession(record) => {
                    if let Some(store) = g.stores.get_mut(tenant) {
                        store.save_session(record);
                    }
                }
                Effect::DropSession(pid) => submit(g, tenant, Write::Drop(pid)),
                // Of a space that follows.
                Effect::Follow { .. } | Effect::Unfollow { .. } | Effect::Lease { .. } | Effect::Renewed => {}
            }
        }
    }

    fn read_stores(&mut self, g: &mut Ground) {
        for tenant in 0..self.spaces.len() {
            let may_fail = !g.healed;
            if (g.healed || g.rng.chance(300))
                && let Some(store) = g.stores.get_mut(tenant)
            {
                store.commit(&mut g.rng, may_fail);
            }
            if g.healed || g.rng.chance(400) {
                while let Some(written) = g.stores.get_mut(tenant).and_then(|store| store.report()) {
                    self.written(g, tenant, &written);
                    // A report may come twice.
                    if g.rng.chance(50) && !matches!(written, Written::Saved(_)) {
                        self.written(g, tenant, &written);
                    }
                }
            }
        }
    }

    fn written(&mut self, g: &mut Ground, tenant: usize, written: &Written) {
        let Some(space) = self.spaces.get_mut(tenant) else { return };
        let mut fx = Effects::new();
        match written {
            Written::Appended(seq) => space.appended(*seq, &mut fx),
            Written::Failed(seq) => {
                space.append_failed(*seq, &mut fx);
                g.report.refused += 1;
                if let Some(truth) = g.truths.get_mut(tenant) {
                    truth.withdrawn(*seq);
                }
            }
            Written::Reserved(upto) => space.reserved(*upto, &mut fx),
            Written::Saved(_) => {}
        }
        if let Some(truth) = g.truths.get_mut(tenant) {
            truth.released_up_to(space.head_seq());
        }
        self.carry_out(g, tenant, fx);
        match written {
            Written::Appended(seq) => self.durable(g, tenant, *seq, true),
            Written::Failed(seq) => self.durable(g, tenant, *seq, false),
            Written::Reserved(_) => {}
            Written::Saved(ticket) => {
                if let Some(saved) = self.saved.get_mut(tenant) {
                    *saved = *ticket;
                }
                let due = |ack: &SavedAck| ack.tenant == tenant && ack.ticket <= *ticket;
                let (ready, waiting) = std::mem::take(&mut self.saved_acks).into_iter().partition(due);
                self.saved_acks = waiting;
                let ready: Vec<_> = ready;
                for SavedAck { link, text, show, .. } in ready {
                    self.send(g, link, text.into_bytes());
                    show.iter().for_each(|room| self.show(g, tenant, link, room));
                }
            }
        }
    }

    fn run_shards(&mut self, g: &mut Ground) {
        for index in 0..self.shards.len() {
            let Some(shard) = self.shards.get_mut(index) else { continue };
            if !g.healed && g.rng.chance(10) {
                shard.paused_until = g.now + g.rng.below(400);
            }
            if g.now < shard.paused_until && !g.healed {
                continue;
            }
            if g.sabotage == Sabotage::MailboxReordered && shard.mailbox.len() > 1 {
                shard.mailbox.rotate_left(1);
            }
            for (tenant, mail) in std::mem::take(&mut shard.mailbox) {
                self.deliver(g, index, tenant, &mail);
            }
        }
    }

    fn deliver(&mut self, g: &mut Ground, shard: usize, tenant: usize, mail: &Mail) {
        let room_id = match mail {
            Mail::Message(room_id, _) | Mail::Presence(room_id, _, _) => *room_id,
        };
        let key = |of: &usize| *of == tenant || g.sabotage == Sabotage::TenantsMixed;
        let members: Vec<(usize, u64)> = self
            .members
            .iter()
            .filter(|((of, room), _)| key(of) && *room == room_id)
            .flat_map(|(_, members)| members.iter().copied())
            .filter(|(link, _)| link % SHARDS == shard)
            .collect();
        for (link, since) in members {
            match mail {
                Mail::Message(_, publication) => {
                    let live = publication.seq == 0 || publication.seq > since;
                    if live || g.sabotage == Sabotage::SeamIgnored {
                        self.send_publication(g, link, publication);
                    }
                }
                Mail::Presence(_, args, except) => {
                    if self.conns.get(&link).is_some_and(|conn| Some(conn.id) != *except) {
                        let mut text = Vec::new();
                        socket_io::event(&mut text, "/", None, "presence", args, None);
                        self.send(g, link, text);
                    }
                }
            }
        }
    }

    fn send_publication(&mut self, g: &mut Ground, link: usize, publication: &Publication) {
        let data = std::str::from_utf8(&publication.data).unwrap_or_default();
        let offset = publication.session_offset().map(|offset| offset.to_string());
        let place = publication.position.map_or(0, |position| position.offset);
        let args = format!("{data},{{\"offset\":{place},\"room\":{}}}", json!(publication.room.as_str()));
        let mut text = Vec::new();
        socket_io::event(&mut text, "/", None, publication.event.as_str(), &args, offset.as_deref());
        self.send(g, link, text);
    }

    fn send(&mut self, g: &mut Ground, link: usize, text: Vec<u8>) {
        let text = String::from_utf8(text).unwrap_or_default();
        let mut packet = Vec::new();
        engine_io::encode_text(&mut packet, &Packet::Message(&text));
        self.send_packet(g, link, String::from_utf8(packet).unwrap_or_default());
    }

    fn send_packet(&mut self, g: &mut Ground, link: usize, packet: String) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        let Some((of, rng, now)) = g.link(link) else { return };
        match (conn.session.transport(), of.kind) {
            (Transport::WebSocket, Kind::WebSocket) => of.send_down(packet, now, rng),
            (Transport::WebSocket, Kind::Polling) => of.send_ws_down(packet, now, rng),
            (Transport::Polling | Transport::Probing, _) => conn.outbox.push(packet),
        }
        if of.is_slow() || conn.outbox.len() > 150 {
            self.close(g, link, true);
        }
    }

    /// Answers each open poll with what waits.
    fn answer_polls(&mut self, g: &mut Ground) {
        let mut polled = Vec::new();
        for (link, conn) in &mut self.conns {
            // Only an open poll refuses another one.
            let is_open = conn.session.transport() != Transport::WebSocket && {
                let started = conn.session.poll_started(g.now, &settings());
                if started.is_ok() {
                    conn.session.poll_ended();
                }
                started == Err(PollRefused::Overlap)
            };
            if is_open && !conn.outbox.is_empty() {
                conn.session.poll_ended();
                polled.push((*link, std::mem::take(&mut conn.outbox).join("\u{1e}")));
            }
        }
        for (link, payload) in polled {
            if let Some((of, rng, now)) = g.link(link) {
                of.send_down(payload, now, rng);
            }
        }
    }

    fn close(&mut self, g: &mut Ground, link: usize, keep: bool) {
        let Some(conn) = self.conns.remove(&link) else { return };
        for members in self.members.values_mut() {
            members.retain(|(of, _)| *of != link);
        }
        if let Some((of, _, now)) = g.link(link) {
            of.close(now);
        }
        let mut fx = Effects::new();
        if let Some(space) = self.spaces.get_mut(conn.tenant) {
            space.disconnect(conn.id, keep, g.wall(), &mut fx);
        }
        self.carry_out(g, conn.tenant, fx);
    }

    /// A clean stop: the stores are drained, mailboxes delivered, everybody is told, everything is saved.
    pub fn stop(mut self, g: &mut Ground) {
        for tenant in 0..self.spaces.len() {
            // What waits for a reservation asks for it now.
            for _ in 0..3 {
                if let Some(store) = g.stores.get_mut(tenant) {
                    store.drain();
                }
                while let Some(written) = g.stores.get_mut(tenant).and_then(|store| store.report()) {
                    self.written(g, tenant, &written);
                }
            }
        }
        if g.rng.chance(500) {
            for shard in &mut self.shards {
                shard.paused_until = 0;
            }
            self.run_shards(g);
            self.answer_polls(g);
        }
        let links: Vec<usize> = self.conns.keys().copied().collect();
        for link in links {
            self.close(g, link, true);
        }
        for (tenant, space) in self.spaces.iter().enumerate() {
            if let Some(store) = g.stores.get_mut(tenant) {
                store.close(space.save());
            }
        }
    }

    /// Shows a client who is in a room that it has just entered.
    fn show(&mut self, g: &mut Ground, tenant: usize, link: usize, room: &RoomName) {
        let users = self.present(tenant, room);
        let args = json!({ "room": room.as_str(), "kind": "update", "users": users }).to_string();
        let mut text = Vec::new();
        socket_io::event(&mut text, "/", None, "presence", &args, None);
        self.send(g, link, text);
    }

    /// Users in the room, as the hub says.
    pub fn present(&mut self, tenant: usize, room: &RoomName) -> Vec<String> {
        let listed = self.spaces.get_mut(tenant).map(|space| space.presence(room, 1_000).0).unwrap_or_default();
        let mut users: Vec<String> = listed.into_iter().map(|info| info.user_id.to_string()).collect();
        users.sort();
        users
    }
}

fn submit(g: &mut Ground, tenant: usize, write: Write) {
    if let Some(store) = g.stores.get_mut(tenant) {
        store.submit(write);
    }
}
