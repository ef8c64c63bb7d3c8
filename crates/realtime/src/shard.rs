use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use slab::Slab;
use smallvec::SmallVec;
use tidegate_hub::RoomId;
use tidegate_metrics::{DropReason, EventLabel, TenantMetrics};
use tidegate_outbound::Outbound;
use tidegate_session::Sid;
use tidegate_types::{CloseReason, ConnId, Phase, ShardId};
use tokio::task::spawn_local;

use crate::across::PeerClients;
use crate::activity::Activity;
use crate::app;
use crate::call::Call;
use crate::connection::{Conn, Io, Membership, NamespaceSocket, Protocol};
use crate::dialect_api;
use crate::encoded::{Encoded, Kind, Replay, ReplayTransport};
use crate::expiry::Expiries;
use crate::mailbox::{Delivery, Except, Item, Mailbox};
use crate::namespaces::Behaviour;
use crate::node::{Node, now_ms};
use crate::outbox::Sent;
use crate::room::{LocalRoom, Member};
use crate::wheel::Wheel;
use crate::{drain, expiry, goodbye, heartbeat, polling, upgrade, webhooks, websocket};

/// Publications taken from the mailbox at once; several for one member leave in one system call.
const BATCH: usize = 64;
/// Members written to before other tasks of the worker have their turn.
pub(crate) const CHUNK: usize = 128;
/// One read takes at most so much, bytes.
pub(crate) const READ_BYTES: usize = 64 << 10;

type RoomKey = (u32, RoomId);

/// What one worker owns of the realtime server: its connections, and which of them are in which room.
///
/// Nothing in it is locked; other threads reach it through its mailbox.
pub struct Shard {
    pub(crate) node: Arc<Node>,
    pub(crate) id: ShardId,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) wheel: RefCell<Wheel>,
    pub(crate) event_wheel: RefCell<Wheel>,
    /// Turns of the ping wheel so far.
    pub(crate) turn: Cell<u32>,
    /// Tokens that end soon.
    pub(crate) expiries: RefCell<Expiries>,
    /// WebSockets that have been answered in this turn and not been written to yet.
    pub(crate) unflushed: RefCell<Vec<Rc<Conn>>>,
    /// Those of the webhooks, in their order.
    pub(crate) webhook_clients: Box<[Outbound]>,
    /// Those of the other nodes of the cluster.
    pub(crate) peer_clients: PeerClients,
    /// The thread's read buffer; taken while in use.
    pub(crate) buffer: Cell<Vec<u8>>,
    conns: RefCell<Slab<Rc<Conn>>>,
    generation: Cell<u32>,
    sids: RefCell<FxHashMap<Sid, ConnId>>,
    rooms: RefCell<FxHashMap<RoomKey, LocalRoom>>,
    /// Metrics of the spaces delivered to, by index.
    tenants: RefCell<FxHashMap<u32, Arc<TenantMetrics>>>,
    packet: Cell<Vec<u8>>,
    frames: Cell<Vec<u8>>,
}

impl Shard {
    pub(crate) fn start(node: Arc<Node>, id: ShardId) -> Rc<Self> {
        let mailbox = node.mailbox(id).cloned().unwrap_or_default();
        let shard = Rc::new(Self {
            webhook_clients: node.webhooks.clients(),
            peer_clients: PeerClients::default(),
            node,
            id,
            mailbox,
            wheel: RefCell::new(Wheel::new()),
            event_wheel: RefCell::new(Wheel::new()),
            turn: Cell::new(0),
            expiries: RefCell::default(),
            unflushed: RefCell::default(),
            buffer: Cell::default(),
            conns: RefCell::default(),
            generation: Cell::new(0),
            sids: RefCell::default(),
            rooms: RefCell::default(),
            tenants: RefCell::default(),
            packet: Cell::default(),
            frames: Cell::default(),
        });
        spawn_local(read_mailbox(shard.clone()));
        heartbeat::start(&shard);
        expiry::start(&shard);
        drain::start(&shard);
        shard
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.node.phase.borrow()
    }

    /// Enters a connection into the shard's table.
    pub(crate) fn open(&self, make: impl FnOnce(ConnId) -> Conn) -> Rc<Conn> {
        let mut conns = self.conns.borrow_mut();
        let entry = conns.vacant_entry();
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let slot = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let conn = Rc::new(make(ConnId { shard: self.id, slot, generation }));
        conn.activity.set(Activity { at: self.turn.get(), away: false });
        entry.insert(conn.clone());
        if let Some(sid) = conn.sid.as_deref() {
            self.sids.borrow_mut().insert(*sid, conn.id);
        }
        conn
    }

    pub(crate) fn conn(&self, id: ConnId) -> Option<Rc<Conn>> {
        self.conns.borrow().get(id.slot as usize).filter(|conn| conn.id == id).cloned()
    }

    pub(crate) fn conn_of(&self, sid: &Sid) -> Option<Rc<Conn>> {
        let id = self.sids.borrow().get(sid).copied()?;
        self.conn(id)
    }

    /// The connections from a place in the table on, at most `most` of them, and the place to go on from.
    pub(crate) fn conns_from(&self, slot: u32, most: usize) -> (Vec<Rc<Conn>>, Option<u32>) {
        let conns = self.conns.borrow();
        let mut from = conns.iter().skip_while(|(at, _)| *at < slot as usize);
        let found = from.by_ref().take(most).map(|(_, conn)| conn.clone()).collect();
        (found, from.next().map(|(_, conn)| conn.id.slot))
    }

    pub(crate) fn conn_ids(&self) -> Vec<ConnId> {
        self.conns.borrow().iter().map(|(_, conn)| conn.id).collect()
    }

    /// Ends a connection: it leaves everything at once; what is queued for it is still sent.
    pub(crate) fn end(self: &Rc<Self>, conn: &Rc<Conn>, reason: CloseReason) {
        let io = conn.take_io();
        let transport = match &io {
            Io::WebSocket(_) => "websocket",
            Io::Polling(_) => "polling",
            Io::Events(_) => "sse",
            Io::Closed => return,
        };
        let summary = conn.summary(reason, transport);
        // Not in the loop's head, where it would stay borrowed.
        let sockets = std::mem::take(&mut *conn.sockets.borrow_mut());
        for socket in sockets {
            let listening = transport == "sse";
            app::gone(self, conn, &socket, reason);
            if !listening {
                webhooks::disconnected(conn, &socket, reason);
            }
            let keep_session = reason.recoverable() && socket.space.settings.recovery;
            self.forget_socket(conn, &socket, listening, keep_session);
            socket.space.metrics.disconnected(reason);
        }
        if let Some(sid) = conn.sid.as_deref() {
            self.sids.borrow_mut().remove(sid);
        }
        {
            let mut conns = self.conns.borrow_mut();
            if conns.get(conn.id.slot as usize).is_some_and(|known| known.id == conn.id) {
                conns.remove(conn.id.slot as usize);
            }
            if conns.is_empty() {
                conns.shrink_to_fit();
            }
        }
        match io {
            Io::WebSocket(socket) => goodbye::say_goodbye(socket, reason),
            Io::Polling(poll) => poll.end(reason),
            Io::Events(events) => events.end(),
            Io::Closed => {}
        }
        app::closed(self, conn, reason);
        if let Some(on_end) = conn.on_end.borrow_mut().take() {
            on_end(summary);
        }
        conn.wake();
        self.node.door.leave(conn.address);
    }

    /// Takes one socket (namespace) out of its rooms and its space.
    pub(crate) fn forget_socket(&self, conn: &Conn, socket: &NamespaceSocket, listening: bool, keep_session: bool) {
        let space = socket.space.index;
        if let (Behaviour::Dialect(dialect), false) = (&socket.space.settings.behaviour, listening) {
            dialect_api::disconnecting(self, conn, socket, dialect);
        }
        for membership in &socket.rooms {
            self.remove_member(space, *membership);
        }
        socket.space.asked.forget(conn.id);
        if let Some(bridge) = &socket.space.bridge {
            bridge.left(socket.socket_id.as_str(), conn.id);
            if bridge.follows_rooms() && !listening {
                let rooms = socket.space.lock().rooms_of(conn.id);
                rooms.iter().for_each(|room| bridge.parted(room));
            }
        }
        let metrics = &socket.space.metrics;
        if listening {
            metrics.listening.dec()
        } else {
            metrics.connected.dec()
        };
        metrics.room_subscriptions.dec_by(socket.rooms.len() as i64);
        let now = now_ms();
        let keep = keep_session && socket.space.settings.recovery;
        // A listener, too: what is not taken out of its rooms keeps them for ever.
        self.node.with_space(&socket.space, |space, effects| space.disconnect(conn.id, keep, now, effects));
    }

    /// Makes a connection a local member of a room that its space has just let it into. Messages up to `after_seq` are
    /// not delivered to it.
    pub(crate) fn add_member(&self, conn: &Conn, socket: &mut NamespaceSocket, room: RoomId, after_seq: u64) {
        let mut rooms = self.rooms.borrow_mut();
        let local = rooms.entry((socket.space.index, room)).or_default();
        let index = local.add(Member { slot: conn.id.slot, after_seq });
        socket.rooms.push(Membership { room, index });
        socket.space.metrics.room_subscriptions.inc();
    }

    /// Takes a member out of its local room. The caller drops the membership.
    pub(crate) fn remove_member(&self, space: u32, membership: Membership) {
        let key = (space, membership.room);
        let mut rooms = self.rooms.borrow_mut();
        let Some(local) = rooms.get_mut(&key) else { return };
        let moved = local.remove(membership.index);
        if local.is_empty() {
            rooms.remove(&key);
        }
        drop(rooms);
        if let Some(member) = moved {
            self.moved(key, member, membership.index);
        }
    }

    fn moved(&self, (space, room): RoomKey, member: Member, index: u32) {
        let conns = self.conns.borrow();
        let Some(conn) = conns.get(member.slot as usize) else { return };
        for socket in conn.sockets.borrow_mut().iter_mut().filter(|socket| socket.space.index == space) {
            for membership in socket.rooms.iter_mut().filter(|membership| membership.room == room) {
                membership.index = index;
            }
        }
    }

    /// Sends one Engine.IO message packet built by `write` (which appends to the buffer), with its attachments.
    pub(crate) fn send(self: &Rc<Self>, conn: &Rc<Conn>, attachments: &[Bytes], write: impl FnOnce(&mut Vec<u8>)) {
        let mut packet = self.packet.take();
        let mut frames = self.frames.take();
        packet.clear();
        write(&mut packet);
        let sent = conn.send_packet(&mut frames, &packet, attachments, self.node.settings.outbox_bytes);
        keep_small(&mut packet);
        keep_small(&mut frames);
        self.packet.set(packet);
        self.frames.set(frames);
        conn.flush_poll();
        self.settle(conn, sent);
    }

    /// Sends one binary message by itself.
    pub(crate) fn send_binary(self: &Rc<Self>, conn: &Rc<Conn>, bytes: &[u8]) {
        let mut frames = self.frames.take();
        let sent = conn.send_binary(&mut frames, bytes, self.node.settings.outbox_bytes);
        keep_small(&mut frames);
        self.frames.set(frames);
        conn.flush_poll();
        self.settle(conn, sent);
    }

    /// Sends a WebSocket ping.
    pub(crate) fn send_ping(self: &Rc<Self>, conn: &Rc<Conn>) {
        let mut frame = Vec::with_capacity(2);
        tidegate_wire::websocket::encode_header(&mut frame, tidegate_wire::websocket::Opcode::Ping, true, 0);
        let sent = match &mut *conn.io.borrow_mut() {
            Io::WebSocket(socket) => socket.sink.send(&socket.stream, &frame, self.node.settings.outbox_bytes),
            Io::Polling(_) | Io::Events(_) | Io::Closed => Sent::Taken,
        };
        if conn.is_blocked() {
            conn.wake();
        }
        self.settle(conn, sent);
    }

    /// The connections that are members of a room here.
    pub(crate) fn members(&self, key: RoomKey) -> Vec<ConnId> {
        let mut rooms = self.rooms.borrow_mut();
        let Some(local) = rooms.get_mut(&key) else { return Vec::new() };
        let conns = self.conns.borrow();
        local.slots().filter_map(|slot| conns.get(slot as usize).map(|conn| conn.id)).collect()
    }

    /// Sends a JSON line.
    pub(crate) fn send_line(self: &Rc<Self>, conn: &Rc<Conn>, line: &str) {
        let mut frames = self.frames.take();
        let sent = conn.send_text(&mut frames, line.as_bytes(), &[], self.node.settings.outbox_bytes);
        keep_small(&mut frames);
        self.frames.set(frames);
        self.settle(conn, sent);
    }

    /// Queues a CONNECT reply (or nothing) and what a client has missed behind it; [`Shard::let_go`] sends both with one
    /// write. CONNECT goes first: stock clients keep events that come before it even if the connection breaks off between
    /// the two, and would show them twice.
    pub(crate) fn hold_back(&self, conn: &Conn, replay: impl FnOnce(&mut Replay)) {
        let transport = match &*conn.io.borrow() {
            Io::WebSocket(_) if matches!(conn.protocol, Protocol::Lines) => ReplayTransport::Lines,
            Io::WebSocket(socket) => ReplayTransport::WebSocket(socket.sink.compression()),
            Io::Polling(_) => ReplayTransport::Polling,
            Io::Events(_) | Io::Closed => return,
        };
        let mut packets = Replay::new(transport);
        replay(&mut packets);
        let pieces = packets.finish();
        match &mut *conn.io.borrow_mut() {
            Io::WebSocket(socket) => pieces.into_iter().for_each(|piece| socket.sink.hold(piece)),
            Io::Polling(poll) => pieces.into_iter().for_each(|piece| poll.hold(piece)),
            Io::Events(_) | Io::Closed => {}
        }
    }

    /// Sends what was held back.
    pub(crate) fn let_go(self: &Rc<Self>, conn: &Rc<Conn>) {
        conn.flush_poll();
        websocket::flush(self, conn);
        conn.wake();
    }

    /// Sends an event to one connection alone. False if the connection did not take it.
    pub(crate) fn tell(self: &Rc<Self>, conn: &Rc<Conn>, event: &Arc<Encoded>) -> bool {
        let (taken, sent) = conn.deliver(&[event], self.node.settings.outbox_bytes);
        if sent == Sent::Taken {
            conn.flush_poll();
        }
        self.settle(conn, sent);
        taken > 0
    }

    pub(crate) fn settle(self: &Rc<Self>, conn: &Rc<Conn>, sent: Sent) {
        match sent {
            Sent::Taken => {}
            Sent::Full => {
                if let Some(socket) = conn.sockets.borrow().first() {
                    socket.space.metrics.dropped(DropReason::SlowConsumer).inc();
                }
                self.end(conn, CloseReason::SlowConsumer);
            }
            Sent::Broken => self.end(conn, CloseReason::TransportClosed),
        }
    }

    /// Delivers a run of messages of one room to its local members, in chunks.
    async fn deliver(self: &Rc<Self>, key: RoomKey, run: &[Arc<Encoded>], except: Option<Except>) {
        let mut from = 0;
        let mut delivered = 0;
        let mut troubled: Vec<(Rc<Conn>, Sent)> = Vec::new();
        let limit = self.node.settings.outbox_bytes;
        let messages: SmallVec<[&Arc<Encoded>; BATCH]> = run.iter().collect();
        let last_of_all = run.iter().map(|encoded| encoded.seq()).max().unwrap_or(0);
        loop {
            let finished = {
                let mut rooms = self.rooms.borrow_mut();
                let Some(local) = rooms.get_mut(&key) else { return };
                let conns = self.conns.borrow();
                let members = local.walk(from, CHUNK);
                from += members.len();
                for member in members {
                    if member.is_gone() {
                        continue;
                    }
                    let Some(conn) = conns.get(member.slot as usize) else { continue };
                    if except.as_ref().is_some_and(|except| except.is(conn, key.0)) {
                        continue;
                    }
                    let fresh = member.after_seq == 0 || run.iter().all(|encoded| is_new(encoded, member));
                    let (taken, sent) = if fresh {
                        conn.deliver(&messages, limit)
                    } else if last_of_all == 0 || last_of_all > member.after_seq {
                        let rest: SmallVec<[&Arc<Encoded>; BATCH]> =
                            run.iter().filter(|encoded| is_new(encoded, member)).collect();
                        conn.deliver(&rest, limit)
                    } else {
                        continue;
                    };
                    delivered += taken;
                    if sent != Sent::Taken {
                        troubled.push((conn.clone(), sent));
                    } else if taken > 0 {
                        conn.flush_poll();
                    }
                }
                members.len() < CHUNK
            };
            for (conn, sent) in troubled.drain(..) {
                self.settle(&conn, sent);
            }
            if finished {
                break;
            }
            self.flush_answers();
            tokio::task::yield_now().await;
        }
        self.walked(key);
        self.count_delivered(key.0, run, delivered);
    }

    fn walked(&self, key: RoomKey) {
        let moved = {
            let mut rooms = self.rooms.borrow_mut();
            let Some(local) = rooms.get_mut(&key) else { return };
            let moved = local.walked();
            if local.is_empty() {
                rooms.remove(&key);
            }
            moved
        };
        for (member, index) in moved {
            self.moved(key, member, index);
        }
    }

    fn count_delivered(&self, space: u32, run: &[Arc<Encoded>], delivered: usize) {
        let Some(first) = run.first() else { return };
        let publication = first.publication();
        let mut tenants = self.tenants.borrow_mut();
        let metrics = tenants.entry(space).or_insert_with(|| self.node.metrics.tenant(&publication.space.tenant));
        metrics.sent(EventLabel::of(publication.event.as_str())).inc_by(delivered as u64);
    }

    /// The connection has answers in its queue: they are written when the mailbox has had its turn, because what the
    /// client's packets have caused for the client itself is in there.
    pub(crate) fn flush_soon(&self, conn: &Rc<Conn>) {
        self.unflushed.borrow_mut().push(conn.clone());
        self.mailbox.nudge();
    }

    /// From now on the connection's packets wait until the mailbox has had its turn.
    pub(crate) fn cork(&self, conn: &Rc<Conn>) {
        let corked = match &mut *conn.io.borrow_mut() {
            Io::WebSocket(socket) => socket.sink.cork(),
            Io::Polling(_) | Io::Events(_) | Io::Closed => return,
        };
        if corked {
            self.flush_soon(conn);
        }
    }

    fn flush_answers(self: &Rc<Self>) {
        let waiting = std::mem::take(&mut *self.unflushed.borrow_mut());
        for conn in &waiting {
            websocket::flush(self, conn);
            if conn.is_blocked() {
                conn.wake();
            }
        }
        let mut kept = self.unflushed.borrow_mut();
        if kept.is_empty() {
            *kept = waiting;
            kept.clear();
        }
    }

    async fn take(self: &Rc<Self>, items: &mut Vec<Item>) {
        let mut run: Vec<Arc<Encoded>> = Vec::new();
        let mut run_key = None;
        for item in items.drain(..) {
            match item {
                Item::Deliver(Delivery { space, room, encoded, except }) => {
                    let key = ((space, room), except, encoded.kind());
                    if run_key.as_ref() != Some(&key) {
                        self.finish_run(&mut run, run_key.replace(key)).await;
                    }
                    run.push(encoded);
                }
                Item::Call(call) => {
                    self.finish_run(&mut run, run_key.take()).await;
                    self.answer(*call);
                }
                Item::Order(order) => {
                    self.finish_run(&mut run, run_key.take()).await;
                    order.carry_out(self).await;
                }
            }
        }
        self.finish_run(&mut run, run_key).await;
    }

    async fn finish_run(self: &Rc<Self>, run: &mut Vec<Arc<Encoded>>, key: Option<(RoomKey, Option<Except>, Kind)>) {
        if let (Some((key, except, _)), false) = (key, run.is_empty()) {
            self.deliver(key, run, except).await;
        }
        run.clear();
    }

    fn answer(self: &Rc<Self>, call: Call) {
        match call {
            Call::Poll { sid, reply } => polling::poll(self, &sid, reply),
            Call::PollAborted { sid } => polling::aborted(self, &sid),
            Call::Post { sid, body, reply } => polling::post(self, &sid, body, reply),
            Call::Upgrade { sid, stream, read, compression } => {
                if let Ok(stream) = stream.into_transport() {
                    upgrade::adopt(self, &sid, stream, read, compression);
                }
            }
            Call::Supersede { conn } => {
                if let Some(conn) = self.conn(conn) {
                    self.end(&conn, CloseReason::Kicked);
                }
            }
            Call::Renewed { space } => {
                let mut rooms = self.rooms.borrow_mut();
                let of_space = rooms.iter_mut().filter(|((of, _), _)| *of == space);
                of_space.for_each(|(_, room)| room.renew());
            }
            Call::Revoke(revocation) => expiry::revoked(self, &revocation),
            Call::Run(run) => run(self),
            #[cfg(test)]
            Call::Nothing => {}
        }
    }
}

fn is_new(encoded: &Encoded, member: &Member) -> bool {
    encoded.seq() == 0 || encoded.seq() > member.after_seq
}

fn keep_small(buffer: &mut Vec<u8>) {
    if buffer.capacity() > 4 * READ_BYTES {
        *buffer = Vec::new();
    }
}

async fn read_mailbox(shard: Rc<Shard>) {
    let mut items = Vec::with_capacity(BATCH);
    loop {
        shard.mailbox.arrived().await;
        shard.mailbox.take(&mut items, BATCH);
        shard.take(&mut items).await;
        // Answers come after deliveries, so that an ack and the sender's own message leave together.
        shard.flush_answers();
        // Reads of the worker's other connections must not starve under a full mailbox.
        tokio::task::yield_now().await;
    }
}

/// How often a worker looks at a tenth of a second's work.
pub(crate) const TICK: Duration = Duration::from_millis(100);
