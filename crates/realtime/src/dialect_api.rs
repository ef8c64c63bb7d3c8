//! Namespaces that speak a declared dialect: its steps, carried out. This file is about events; `moments.rs` about connects,
//! disconnects and presence.

mod asking;
mod moments;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_auth::{Principal, RoomAction};
use tidegate_dialect::{Dialect, Emit, Event, Facts, Payload, PresenceStep, Reason, Refusal, Step, Text};
use tidegate_hub::{Idempotency, Message, PresenceUpdate, Published, SocketId};
use tidegate_metrics::EventLabel;
use tidegate_types::{Class, CloseReason, IdempotencyKey, Millis, Namespace, RoomName, Status};
use tidegate_wire::socket_io;
use tokio::task::spawn_local;

use crate::connection::{Conn, NamespaceSocket};
use crate::emit::{ack, emit};
use crate::input::{Handled, Later};
use crate::limits;
use crate::node::{NotPublished, Pending, Publishing, SpaceCell, now_ms};
use crate::opening::Settling;
use crate::operations::{self, Entered, JoinRefused, Saved, SendRefused, Senders};
use crate::shard::Shard;

use asking::{Asked, Said};
pub(crate) use moments::{connected, disconnecting, presence_event, refuse_connection, send_snapshot};

/// Handles an event of a client that is connected to the space.
pub(crate) fn event(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: Arc<SpaceCell>,
    dialect: &Arc<Dialect>,
    ack_id: Option<u64>,
    payload: &str,
    attachments: Vec<Bytes>,
) -> Handled {
    let Ok((name, args)) = socket_io::event_parts(payload) else {
        return Handled::Close(CloseReason::ProtocolError);
    };
    let label = EventLabel::of(&name);
    space.metrics.received(label).inc();
    let Some(mut run) = Run::new(shard, conn, space, dialect, label, ack_id) else {
        return Handled::Close(CloseReason::ProtocolError);
    };
    run.attachments = attachments;
    let declared = dialect.event(&name);
    if let Err(wait_ms) = limits::admit(&shard.node, conn, &run.space, run.now) {
        let refusal = dialect.refuse(Reason::RateLimit, "Rate limit exceeded");
        run.refuse(declared, None, &Refusal { retry_after_s: Some(wait_ms.div_ceil(1_000)), ..refusal });
        return Handled::Done;
    }
    let Some(declared) = declared else { return run.ask_backend(&name, args) };
    if declared.needs_id() {
        run.id = shard.node.message_ids.next(run.now);
    }
    go(run, declared, args, 0)
}

/// An event in progress: who sent it, and how to answer.
struct Run {
    shard: Rc<Shard>,
    conn: Rc<Conn>,
    space: Arc<SpaceCell>,
    dialect: Arc<Dialect>,
    principal: Arc<Principal>,
    socket_id: SocketId,
    ack_id: Option<u64>,
    label: EventLabel,
    started: Instant,
    now: Millis,
    id: String,
    attachments: Vec<Bytes>,
    /// The room of the last step that named one.
    room: Option<RoomName>,
    /// Rooms whose snapshot the client is sent behind the answer.
    joined: SmallVec<[RoomName; 1]>,
    /// What backends have said about the step that is tried again now.
    said: Said,
}

/// What became of a step.
enum Stepped {
    Done,
    /// The rest waits for this.
    Wait(Later),
    /// The step is to be tried again after this.
    Again(Later),
    /// The rest waits until the client is in a room, or cannot be.
    Enter(RoomName, Settling),
    /// The rest waits until it is known what has become of a message.
    Settle(Pending),
}

/// Carries out the steps of an event from one of them on. `args` have been read before if it is not the first: they are
/// read again, because what they say is borrowed from them, and waiting is rare.
fn go(mut run: Run, event: &Event, args: &str, from: usize) -> Handled {
    let dialect = run.dialect.clone();
    let attached: usize = run.attachments.iter().map(Bytes::len).sum();
    let (payload, refusal) = dialect.read(event, args, attached as u64);
    let refusal = refusal.or_else(|| {
        let foreign = !event.is_for(run.principal.kind.as_str());
        foreign.then(|| dialect.refuse(Reason::Forbidden, "Unauthorized"))
    });
    if let Some(refusal) = refusal {
        run.refuse(Some(event), Some(&payload), &refusal);
        return Handled::Done;
    }
    for (index, step) in event.steps().iter().enumerate().skip(from) {
        let stepped = match run.step(step, &payload) {
            Ok(stepped) => stepped,
            Err(refusal) => {
                run.refuse(Some(event), Some(&payload), &refusal);
                return Handled::Done;
            }
        };
        let rest = |from| Rest { event: event.name().into(), args: args.into(), from };
        let (wait, rest) = match stepped {
            Stepped::Done => continue,
            Stepped::Wait(wait) => (wait, rest(index + 1)),
            Stepped::Enter(room, settling) => {
                let rest = rest(index + 1);
                return Handled::Later(Box::pin(async move {
                    match settling.settled().await {
                        Ok(()) => run.entered(room),
                        Err(refused) => return rest.refused(&run, &run.join_refused(refused)),
                    }
                    if let Handled::Later(later) = rest.go(run) {
                        later.await;
                    }
                }));
            }
            Stepped::Again(wait) => (wait, rest(index)),
            Stepped::Settle(pending) => {
                let (shard, conn, space, rest) =
                    (run.shard.clone(), run.conn.clone(), run.space.clone(), rest(index + 1));
                let settle = move |settled| rest.settled(run, settled);
                let settled = operations::when_settled(&shard, &conn, &space, pending, settle);
                return settled.map_or(Handled::Done, Handled::Later);
            }
        };
        return Handled::Later(Box::pin(async move {
            wait.await;
            if let Handled::Later(later) = rest.go(run) {
                later.await;
            }
        }));
    }
    run.finish(event, &payload);
    Handled::Done
}

/// What is left of an event that waits.
struct Rest {
    event: Box<str>,
    args: Box<str>,
    from: usize,
}

impl Rest {
    fn go(self, run: Run) -> Handled {
        if run.conn.is_closed() {
            return Handled::Done;
        }
        let dialect = run.dialect.clone();
        dialect.event(&self.event).map_or(Handled::Done, |event| go(run, event, &self.args, self.from))
    }

    fn settled(self, mut run: Run, settled: Result<Published, NotPublished>) {
        let refused = match settled {
            Ok(published) => {
                run.adopt(&published);
                if let Handled::Later(later) = self.go(run) {
                    spawn_local(later);
                }
                return;
            }
            Err(refused) => refused,
        };
        self.refused(&run, &run.send_refused(refused.into()));
    }

    fn refused(&self, run: &Run, refusal: &Refusal) {
        let dialect = run.dialect.clone();
        let Some(event) = dialect.event(&self.event) else { return };
        let (payload, _) = dialect.read(event, &self.args, 0);
        run.refuse(Some(event), Some(&payload), refusal);
    }
}

impl Run {
    /// `None` if the socket has gone.
    fn new(
        shard: &Rc<Shard>,
        conn: &Rc<Conn>,
        space: Arc<SpaceCell>,
        dialect: &Arc<Dialect>,
        label: EventLabel,
        ack_id: Option<u64>,
    ) -> Option<Self> {
        let who = |socket: &NamespaceSocket| (socket.principal.clone(), socket.socket_id.clone());
        let (principal, socket_id) = conn.with_socket(space.key.namespace.as_str(), who)?;
        Some(Self {
            shard: shard.clone(),
            conn: conn.clone(),
            space,
            dialect: dialect.clone(),
            principal,
            socket_id,
            ack_id,
            label,
            started: Instant::now(),
            now: now_ms(),
            id: String::new(),
            attachments: Vec::new(),
            room: None,
            joined: SmallVec::new(),
            said: Said::default(),
        })
    }

    fn facts<'a>(&'a self, payload: Option<&'a Payload<'a>>) -> Facts<'a> {
        Facts {
            user: self.principal.user.as_str(),
            username: self.principal.username.as_deref(),
            tenant: self.principal.tenant.as_str(),
            kind: self.principal.kind.as_str(),
            socket: self.socket_id.as_str(),
            now: self.now,
            id: &self.id,
            payload,
            ..Facts::default()
        }
    }

    fn namespace(&self) -> &Namespace {
        &self.space.key.namespace
    }

    /// Connections and listeners in the room.
    fn count(&self, room: &RoomName) -> u64 {
        participants(&self.space, room, self.now)
    }

    fn step(&mut self, step: &Step, payload: &Payload<'_>) -> Result<Stepped, Refusal> {
        match step {
            Step::Join(room) => {
                let room = self.room_name(room, payload)?;
                self.may(RoomAction::Join, &room)?;
                if let Some(asking) = self.ask_to_join(&room)? {
                    return Ok(Stepped::Again(asking));
                }
                Ok(match self.join(&room)?.0 {
                    Some(settling) => Stepped::Enter(room, settling),
                    None => {
                        self.entered(room);
                        Stepped::Done
                    }
                })
            }
            Step::Leave(room) => {
                let room = self.room_name(room, payload)?;
                let saved = operations::leave(&self.shard, &self.conn, &self.space, &room, self.now);
                self.room = Some(room);
                Ok(when_saved(saved))
            }
            Step::Presence(presence) => self.presence(presence, payload).map(|()| Stepped::Done),
            Step::Emit(Emit { room: None, event, data, .. }) => {
                let data = data.as_ref().map(|data| data.text(&self.facts(Some(payload)))).unwrap_or_default();
                let data = if self.attachments.is_empty() {
                    data
                } else {
                    socket_io::inline_attachments(&data, &self.attachments)
                };
                emit(&self.shard, &self.conn, self.namespace(), event.as_str(), &data, None);
                Ok(Stepped::Done)
            }
            Step::Emit(step @ Emit { room: Some(room), .. }) => self.emit(step, room, payload),
        }
    }

    fn room_name(&self, room: &Text, payload: &Payload<'_>) -> Result<RoomName, Refusal> {
        let name = self.dialect.room(room, &self.facts(Some(payload)));
        let name = name.ok_or_else(|| self.dialect.refuse(Reason::Forbidden, "Unauthorized"))?;
        RoomName::try_from(name)
            .map_err(|fault| self.dialect.refuse(Reason::Invalid, format!("the name of the room {fault}")))
    }

    fn may(&self, action: RoomAction, room: &RoomName) -> Result<(), Refusal> {
        if self.principal.may(action, room) {
            return Ok(());
        }
        Err(self.dialect.refuse(Reason::Forbidden, "Unauthorized"))
    }

    fn join(&self, room: &RoomName) -> Result<Entered, Refusal> {
        let joined = operations::join(&self.shard, &self.conn, &self.space, room, self.now);
        joined.map_err(|refused| self.join_refused(refused))
    }

    fn join_refused(&self, refused: JoinRefused) -> Refusal {
        let rooms = match refused {
            JoinRefused::NotConnected | JoinRefused::Unavailable => {
                return self.dialect.refuse(Reason::Unavailable, refused.to_string());
            }
            JoinRefused::TooManyRooms => {
                self.conn.with_socket(self.namespace().as_str(), |socket| socket.rooms.len()).unwrap_or(0)
            }
            JoinRefused::TooManyRoomsOfUser { current } => current,
        };
        let refusal = self.dialect.refuse(Reason::RoomLimit, "Too many rooms");
        // Rooms that every client is put into on connect are not the user's doing.
        let rooms = rooms.saturating_sub(self.dialect.rooms_on_connect());
        Refusal { room_count: Some(rooms as u64), ..refusal }
    }

    /// The client is in a room.
    fn entered(&mut self, room: RoomName) {
        if self.dialect.presence().tells(room.as_str()) {
            self.joined.push(room.clone());
        }
        self.room = Some(room);
    }

    fn presence(&self, presence: &PresenceStep, payload: &Payload<'_>) -> Result<(), Refusal> {
        let PresenceStep { status, metadata, current_activity, custom_status } = presence;
        let facts = self.facts(Some(payload));
        let status = status.render(&facts);
        let status = (!status.is_empty()).then(|| status.parse::<Status>()).transpose();
        let status = status.map_err(|fault| self.dialect.refuse(Reason::Invalid, fault.to_string()))?;
        let metadata = metadata.as_ref().map(|metadata| metadata.text(&facts)).filter(|metadata| metadata != "null");
        let metadata = metadata.map(|metadata| serde_json::from_str(&metadata)).transpose();
        let metadata = metadata.map_err(|_| self.dialect.refuse(Reason::Invalid, "metadata must be an object"))?;
        let text = |text: &Option<Text>| text.as_ref().and_then(|text| text.value(&facts)).map(Arc::from);
        let update = PresenceUpdate {
            status,
            metadata,
            current_activity: text(current_activity),
            custom_status: text(custom_status),
        };
        let node = &self.shard.node;
        if node.with_space(&self.space, |hub, fx| hub.update_presence(self.conn.id, update, self.now, fx)) {
            return Ok(());
        }
        Err(self.dialect.refuse(Reason::TooLarge, "The presence has become too large"))
    }

    fn emit(&mut self, step: &Emit, room: &Text, payload: &Payload<'_>) -> Result<Stepped, Refusal> {
        let room = self.room_name(room, payload)?;
        self.may(RoomAction::Send, &room)?;
        if step.class != Class::Volatile && !self.shard.node.can_publish() {
            let shard = self.shard.clone();
            return Ok(Stepped::Again(Box::pin(async move { shard.node.publishable().await })));
        }
        let message = self.message(step, room.clone(), payload)?;
        self.room = Some(room);
        let senders = if step.members_only { Senders::Members } else { Senders::Anybody };
        let (shard, conn, space) = (&self.shard, &self.conn, &self.space);
        if step.others {
            operations::tell_others(shard, conn, space, message, senders, self.now)
                .map_err(|refused| self.send_refused(refused))?;
            return Ok(Stepped::Done);
        }
        let message = match self.ask_to_publish(message, senders)? {
            Asked::Allowed(message) => message,
            Asked::Asking(asking) => return Ok(Stepped::Again(asking)),
        };
        let (shard, conn, space) = (&self.shard, &self.conn, &self.space);
        let publishing = operations::begin(shard, conn, space, message, senders, self.now)
            .map_err(|refused| self.send_refused(refused))?;
        Ok(match publishing {
            Publishing::Now(published) => {
                self.adopt(&published);
                Stepped::Done
            }
            Publishing::Later(pending) => Stepped::Settle(pending),
        })
    }

    /// What follows is about the message as it was sent first.
    fn adopt(&mut self, published: &Published) {
        if let Some(first) = &published.duplicate {
            self.id = first.to_string();
        }
    }

    fn message(&self, step: &Emit, room: RoomName, payload: &Payload<'_>) -> Result<Message, Refusal> {
        let count = step.needs_count.then(|| self.count(&room));
        let facts = Facts { count, ..self.facts(Some(payload)) };
        let data = step.data.as_ref().map(|data| data.text(&facts)).unwrap_or_default();
        let attachments = if self.attachments.is_empty() || !socket_io::may_have_placeholders(&data) {
            Arc::default()
        } else if socket_io::check_placeholders(&data, self.attachments.len()).is_ok() {
            Arc::from(self.attachments.as_slice())
        } else {
            return Err(self.dialect.refuse(Reason::Invalid, "a binary value can be sent once in an event"));
        };
        let nonce = step.nonce.as_ref().map(|nonce| nonce.text.render(&facts)).filter(|nonce| !nonce.is_empty());
        let key = nonce.map(IdempotencyKey::try_from).transpose();
        let key = key.map_err(|fault| self.dialect.refuse(Reason::Invalid, format!("the nonce {fault}")))?;
        let idempotency = key.zip(step.nonce.as_ref()).map(|(key, nonce)| {
            let message_id = Arc::from(self.id.as_str());
            Box::new(Idempotency { sender: self.principal.user.clone(), key, message_id, window_ms: nonce.window_ms })
        });
        Ok(Message { room, event: step.event.clone(), data: data.into(), attachments, class: step.class, idempotency })
    }

    fn send_refused(&self, refused: SendRefused) -> Refusal {
        let reason = match refused {
            SendRefused::NotInRoom => Reason::NotInRoom,
            SendRefused::NotPublished(_) => Reason::Unavailable,
            SendRefused::Refused(_) => Reason::Forbidden,
        };
        self.dialect.refuse(reason, refused.to_string())
    }

    fn finish(&self, event: &Event, payload: &Payload<'_>) {
        self.observe();
        if let (Some(template), Some(_)) = (event.ack(), self.ack_id) {
            let count = self.room.as_ref().map(|room| self.count(room));
            let facts = Facts { count, ..self.facts(Some(payload)) };
            let data = template.text(&facts);
            ack(&self.shard, &self.conn, self.namespace(), self.ack_id, &data);
        }
        for room in &self.joined {
            send_snapshot(&self.shard, &self.conn, &self.space, &self.dialect, room);
        }
    }

    fn refuse(&self, event: Option<&Event>, payload: Option<&Payload<'_>>, refusal: &Refusal) {
        self.observe();
        self.shard.node.metrics.error(&self.space.metrics, "client", refusal.reason.as_str());
        let facts = Facts { refusal: Some(refusal), ..self.facts(payload) };
        if let Some((name, data)) = self.dialect.refusal_event(event, &facts) {
            emit(&self.shard, &self.conn, self.namespace(), name.as_str(), &data, None);
        }
        if self.ack_id.is_some() {
            let data = self.dialect.refusal_ack(event, &facts);
            ack(&self.shard, &self.conn, self.namespace(), self.ack_id, &data);
        }
    }

    fn observe(&self) {
        self.space.metrics.latency_ms(self.label).observe(self.started.elapsed().as_secs_f64() * 1_000.0);
    }
}

fn when_saved(saved: Saved) -> Stepped {
    saved.map_or(Stepped::Done, |saved| {
        Stepped::Wait(Box::pin(async move {
            // A record that is lost is not waited for: its client starts afresh after a kill.
            let _ = saved.await;
        }))
    })
}

fn participants(space: &SpaceCell, room: &RoomName, now: Millis) -> u64 {
    space.lock().room_summary(room, now).map_or(0, |summary| summary.connections as u64)
}
