//! The rooms API: the events of namespace `/`, their payloads, and what the server answers.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_auth::RoomAction;
use tidegate_hub::{Idempotency, Message, PresenceChange, PresenceUpdate};
use tidegate_metrics::EventLabel;
use tidegate_types::{
    Bookmark, Class, CloseReason, EventName, IdempotencyKey, Millis, Namespace, Position, PresenceInfo, RoomName,
    Status, push_number,
};
use tidegate_wire::{socket_io, write_string};

use crate::catch_up::{self, CaughtUp};
use crate::connection::{Conn, NamespaceSocket};
use crate::emit::{ack, emit, quoted};
use crate::history;
use crate::input::Handled;
use crate::limits;
use crate::node::{SpaceCell, event_name, now_ms};
use crate::opening::{Closed, Reading};
use crate::operations::{self, SendRefused, Senders, when_in, when_saved};
use crate::shard::Shard;
use crate::webhooks;

/// Members listed in a snapshot after a join; `query:presence` lists more.
pub(crate) const LISTED: usize = 256;
/// Members listed by `query:presence`.
const MOST_LISTED: usize = 10_000;
/// Messages in one reply of `room:history`, unless the client asks for fewer or more.
const HISTORY: usize = 100;
/// The most messages in one reply of `room:history`.
const MOST_HISTORY: usize = 1_000;

/// An event in progress: who sent it, and how to answer.
struct Context<'a> {
    shard: &'a Rc<Shard>,
    conn: &'a Rc<Conn>,
    space: Arc<SpaceCell>,
    ack_id: Option<u64>,
    label: EventLabel,
    started: Instant,
    now: Millis,
}

/// What an event is refused with: the code of `system:error`, and the text.
struct Refusal {
    code: &'static str,
    message: Cow<'static, str>,
    retry_after_ms: Option<Millis>,
}

impl Refusal {
    fn new(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }
}

#[derive(Deserialize)]
struct Heartbeat<'a> {
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SetStatus<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(borrow)]
    current_activity: Option<Cow<'a, str>>,
    #[serde(borrow)]
    custom_status: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Join<'a> {
    #[serde(borrow)]
    room: Cow<'a, str>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    since: Option<Bookmark>,
}

#[derive(Deserialize)]
struct InRoom<'a> {
    #[serde(borrow)]
    room: Cow<'a, str>,
}

#[derive(Deserialize)]
struct SendMessage<'a> {
    #[serde(borrow)]
    room: Cow<'a, str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    persistent: bool,
    #[serde(default)]
    volatile: bool,
    #[serde(borrow, rename = "clientMessageId")]
    client_message_id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct History<'a> {
    #[serde(borrow)]
    room: Cow<'a, str>,
    since: Option<Position>,
    limit: Option<usize>,
}

/// Handles an event of a client that is connected to the space.
pub(crate) fn event(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: Arc<SpaceCell>,
    ack_id: Option<u64>,
    payload: &str,
    attachments: Vec<Bytes>,
) -> Handled {
    let Ok((name, args)) = socket_io::event_parts(payload) else {
        return Handled::Close(CloseReason::ProtocolError);
    };
    let label = EventLabel::of(&name);
    space.metrics.received(label).inc();
    let context = Context { shard, conn, space, ack_id, label, started: Instant::now(), now: now_ms() };
    if let Err(retry_after_ms) = limits::admit(&shard.node, conn, &context.space, context.now) {
        let refusal = Refusal::new("RATE_LIMIT_EXCEEDED", "Rate limit exceeded");
        context.refuse(&Refusal { retry_after_ms: Some(retry_after_ms), ..refusal });
        return Handled::Done;
    }
    let handled = match &*name {
        "room:send" => room_send(&context, args, attachments),
        "room:join" => room_join(&context, args),
        "room:leave" => room_leave(&context, args),
        "room:history" => room_history(&context, args),
        "presence:heartbeat" => presence_heartbeat(&context, args),
        "presence:status" => presence_status(&context, args),
        "query:presence" => query_presence(&context, args),
        "query:rooms" => query_rooms(&context),
        _ => ask_backend(&context, &name, args, &attachments),
    };
    handled.unwrap_or_else(|refusal| {
        context.refuse(&refusal);
        Handled::Done
    })
}

/// An event that is not of this API may be one that a backend answers.
fn ask_backend(context: &Context<'_>, name: &str, args: &str, attachments: &[Bytes]) -> Result<Handled, Refusal> {
    let question = webhooks::question(context.conn, &context.space, name, args, attachments, context.ack_id);
    // As in the reference server, an event nobody listens to is nobody's error.
    let Some(question) = question else { return Ok(Handled::Done) };
    let answer = context.answer(String::new());
    Ok(Handled::Later(Box::pin(async move {
        match webhooks::settle(&answer.shard, &answer.conn, &answer.space, question).await {
            Ok(()) => observe(&answer.space, answer.label, answer.started),
            Err(error) => answer.refused(&Refusal::new("EVENT_FAILED", error)),
        }
    })))
}

/// Counts the time from an event to its answer.
fn observe(space: &SpaceCell, label: EventLabel, started: Instant) {
    space.metrics.latency_ms(label).observe(started.elapsed().as_secs_f64() * 1_000.0);
}

/// Reads an event's first argument.
fn argument<'a, T: Deserialize<'a>>(args: &'a str, code: &'static str) -> Result<T, Refusal> {
    let mut values = serde_json::Deserializer::from_str(args).into_iter::<T>();
    match values.next() {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(Refusal::new(code, format!("Invalid payload: {error}"))),
        None => Err(Refusal::new(code, "Invalid payload: an object is expected")),
    }
}

fn room_name(name: &str, code: &'static str) -> Result<RoomName, Refusal> {
    RoomName::try_from(name).map_err(|error| Refusal::new(code, format!("Invalid room: it {error}")))
}

impl Context<'_> {
    fn socket<T>(&self, read: impl FnOnce(&NamespaceSocket) -> T) -> Option<T> {
        self.conn.with_socket(self.space.key.namespace.as_str(), read)
    }

    fn ack(&self, data: &str) {
        observe(&self.space, self.label, self.started);
        ack(self.shard, self.conn, &self.space.key.namespace, self.ack_id, data);
    }

    fn refuse(&self, refusal: &Refusal) {
        observe(&self.space, self.label, self.started);
        refuse(self.shard, self.conn, &self.space, self.ack_id, refusal);
    }

    /// For an answer that comes later.
    fn answer(&self, id: String) -> Answer {
        Answer {
            shard: self.shard.clone(),
            conn: self.conn.clone(),
            space: self.space.clone(),
            ack_id: self.ack_id,
            label: self.label,
            started: self.started,
            id,
        }
    }

    fn allowed(&self, action: RoomAction, room: &RoomName) -> bool {
        self.socket(|socket| socket.principal.may(action, room)).unwrap_or(false)
    }
}

fn refuse(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &SpaceCell, ack_id: Option<u64>, refusal: &Refusal) {
    shard.node.metrics.error(&space.metrics, "client", refusal.code);
    let mut error = serde_json::json!({ "code": refusal.code, "message": refusal.message });
    if let (Some(wait), Some(fields)) = (refusal.retry_after_ms, error.as_object_mut()) {
        fields.insert("retryAfter".to_owned(), wait.div_ceil(1_000).into());
    }
    let namespace = &space.key.namespace;
    emit(shard, conn, namespace, "system:error", &error.to_string(), None);
    let answer = serde_json::json!({ "success": false, "error": refusal.message });
    ack(shard, conn, namespace, ack_id, &answer.to_string());
}

pub(crate) fn established(socket: &NamespaceSocket) -> String {
    let tenant = quoted(socket.principal.tenant.as_str());
    format!(r#"{{"connectionId":"{}","tenantId":{tenant}}}"#, socket.socket_id.as_str())
}

/// Says that the server is going away and when to come back.
pub(crate) fn announce_restart(shard: &Rc<Shard>, conn: &Rc<Conn>, reconnect_in_ms: Millis) {
    let data = format!(r#"{{"reason":"Server shutting down","reconnectIn":{reconnect_in_ms}}}"#);
    let namespaces: Vec<Namespace> = conn.session.borrow().namespaces().to_vec();
    for namespace in namespaces {
        emit(shard, conn, &namespace, "system:restart", &data, None);
    }
}

/// The event that tells a room's members of a change of its presence.
pub(crate) fn presence_event(room: &RoomName, change: &PresenceChange) -> (EventName, String) {
    let room = quoted(room.as_str());
    match change {
        PresenceChange::Join(user) => {
            let user = serde_json::to_string(user).unwrap_or_default();
            (event_name("presence:join"), format!(r#"{{"room":{room},"user":{user}}}"#))
        }
        PresenceChange::Leave(user) => {
            let user = quoted(user.as_str());
            (event_name("presence:leave"), format!(r#"{{"room":{room},"userId":{user}}}"#))
        }
        PresenceChange::Update { listed, count } => (event_name("presence:update"), snapshot(&room, listed, *count)),
    }
}

fn snapshot(quoted_room: &str, listed: &[PresenceInfo], count: usize) -> String {
    let presence = serde_json::to_string(listed).unwrap_or_default();
    if count > listed.len() {
        return format!(r#"{{"room":{quoted_room},"presence":{presence},"count":{count},"truncated":true}}"#);
    }
    format!(r#"{{"room":{quoted_room},"presence":{presence}}}"#)
}

/// Sends one client who is in a room now.
pub(crate) fn send_snapshot(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &SpaceCell, room: &RoomName) {
    let (listed, count) = space.lock().presence(room, LISTED);
    let data = snapshot(&quoted(room.as_str()), &listed, count);
    emit(shard, conn, &space.key.namespace, "presence:update", &data, None);
}

/// Tells a client that it has been put into a room by a backend.
pub(crate) fn tell_joined(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &SpaceCell, room: &RoomName) {
    let data = format!(r#"{{"room":{}}}"#, quoted(room.as_str()));
    emit(shard, conn, &space.key.namespace, "room:joined", &data, None);
    send_snapshot(shard, conn, space, room);
}

/// Tells a client that it has been taken out of a room by a backend.
pub(crate) fn tell_left(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &SpaceCell, room: &RoomName) {
    let data = format!(r#"{{"room":{}}}"#, quoted(room.as_str()));
    emit(shard, conn, &space.key.namespace, "room:left", &data, None);
}

fn room_join(context: &Context<'_>, args: &str) -> Result<Handled, Refusal> {
    const FAILED: &str = "ROOM_JOIN_FAILED";
    let join: Join<'_> = argument(args, FAILED)?;
    let room = room_name(&join.room, FAILED)?;
    if !context.allowed(RoomAction::Join, &room) {
        return Err(Refusal::new(FAILED, "Unauthorized"));
    }
    // From a cursor of its own choice a client reads the past.
    if join.since.is_some() && !context.allowed(RoomAction::History, &room) {
        return Err(Refusal::new(FAILED, "Unauthorized"));
    }
    let mut data = format!(r#"{{"room":{}"#, quoted(room.as_str()));
    if let Some(metadata) = join.metadata {
        data.push_str(r#","metadata":"#);
        data.push_str(metadata.get());
    }
    let answer = context.answer(String::new());
    let (since, now) = (join.since, context.now);
    let (shard, conn, space) = (context.shard, context.conn, &context.space);
    Ok(operations::ask_to_join(shard, conn, space, room.clone(), move |allowed| match (allowed, since) {
        (Ok(()), None) => join_now(answer, room, data, now),
        (Ok(()), Some(since)) => join_since(answer, room, data, since, now),
        (Err(message), _) => answer.join_refused(message.into()),
    }))
}

/// `data` is that of `room:joined` without its last brace.
fn join_now(answer: Answer, room: RoomName, mut data: String, now: Millis) -> Handled {
    match operations::join(&answer.shard, &answer.conn, &answer.space, &room, now) {
        Ok(entered) => {
            data.push('}');
            when_in(entered, move |settled| {
                if let Err(refused) = settled {
                    return drop(answer.join_refused(refused.to_string()));
                }
                answer.emit("room:joined", &data);
                answer.succeeded();
                send_snapshot(&answer.shard, &answer.conn, &answer.space, &room);
            })
        }
        Err(refused) => answer.join_refused(refused.to_string()),
    }
}

fn join_since(answer: Answer, room: RoomName, data: String, since: Bookmark, now: Millis) -> Handled {
    let (shard, conn, space) = (answer.shard.clone(), answer.conn.clone(), answer.space.clone());
    catch_up::join_since(&shard, &conn, &space, room.clone(), since, now, move |joined| match joined {
        Ok(CaughtUp { recovered, position }) => {
            let standing = format!(r#""recovered":{recovered},"position":"{position}"}}"#);
            answer.emit("room:joined", &format!("{data},{standing}"));
            answer.ack(&format!(r#"{{"success":true,{standing}"#));
            send_snapshot(&answer.shard, &answer.conn, &answer.space, &room);
        }
        Err(refused) => _ = answer.join_refused(refused.to_string()),
    })
}

/// Tells a client that it is in a room without having asked.
pub(crate) fn joined(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &Arc<SpaceCell>, room: &RoomName) {
    let data = format!(r#"{{"room":{}}}"#, quoted(room.as_str()));
    emit(shard, conn, &space.key.namespace, "room:joined", &data, None);
    send_snapshot(shard, conn, space, room);
}

fn room_leave(context: &Context<'_>, args: &str) -> Result<Handled, Refusal> {
    const FAILED: &str = "ROOM_LEAVE_FAILED";
    let leave: InRoom<'_> = argument(args, FAILED)?;
    let room = room_name(&leave.room, FAILED)?;
    let saved = operations::leave(context.shard, context.conn, &context.space, &room, context.now);
    let data = format!(r#"{{"room":{}}}"#, quoted(room.as_str()));
    let answer = context.answer(String::new());
    Ok(when_saved(saved, move || {
        answer.emit("room:left", &data);
        answer.succeeded();
    }))
}

/// The JSON of `room:message`.
pub(crate) fn message_data(id: &str, room: &RoomName, from: &str, payload: &str, now: Millis) -> Bytes {
    let mut data = Vec::with_capacity(payload.len() + 160);
    data.extend_from_slice(br#"{"id":""#);
    data.extend_from_slice(id.as_bytes());
    data.extend_from_slice(br#"","room":"#);
    write_string(&mut data, room.as_str());
    data.extend_from_slice(br#","from":"#);
    write_string(&mut data, from);
    data.extend_from_slice(br#","payload":"#);
    data.extend_from_slice(payload.as_bytes());
    data.extend_from_slice(br#","timestamp":"#);
    push_number(&mut data, now);
    data.push(b'}');
    data.into()
}

fn room_send(context: &Context<'_>, args: &str, attachments: Vec<Bytes>) -> Result<Handled, Refusal> {
    const FAILED: &str = "MESSAGE_SEND_FAILED";
    let send: SendMessage<'_> = argument(args, FAILED)?;
    let room = room_name(&send.room, FAILED)?;
    if !context.allowed(RoomAction::Send, &room) {
        return Err(Refusal::new(FAILED, "Unauthorized"));
    }
    let from = context.socket(|socket| socket.principal.user.clone());
    let from = from.ok_or_else(|| Refusal::new(FAILED, "Not connected"))?;
    let key = send.client_message_id.map(|id| IdempotencyKey::try_from(&*id)).transpose();
    let key = key.map_err(|error| Refusal::new(FAILED, format!("Invalid clientMessageId: it {error}")))?;
    let id = context.shard.node.message_ids.next(context.now);
    let payload = send.payload.map_or("null", RawValue::get);
    let class = match (send.persistent, send.volatile) {
        (true, _) => Class::Persistent,
        (false, true) => Class::Volatile,
        (false, false) => Class::Recoverable,
    };
    let data = message_data(&id, &room, from.as_str(), payload, context.now);
    let attachments = if attachments.is_empty() { no_attachments() } else { Arc::from(attachments) };
    let idempotency = key.map(|key| {
        let window_ms = context.shard.node.settings.idempotency_window_ms;
        Box::new(Idempotency { sender: from, key, message_id: Arc::from(id.as_str()), window_ms })
    });
    let message = Message { room, event: event_name("room:message"), data, attachments, class, idempotency };
    let answer = context.answer(id);
    let (shard, conn, space) = (context.shard, context.conn, &context.space);
    Ok(operations::send(shard, conn, space, message, Senders::Members, context.now, move |sent| match sent {
        Ok(sent) => answer.sent(sent.duplicate.as_deref()),
        Err(refused) => answer.send_refused(refused),
    }))
}

thread_local! {
    static NO_ATTACHMENTS: Arc<[Bytes]> = Arc::from([]);
}

fn no_attachments() -> Arc<[Bytes]> {
    NO_ATTACHMENTS.with(Arc::clone)
}

/// Whom to tell what became of a message.
struct Answer {
    shard: Rc<Shard>,
    conn: Rc<Conn>,
    space: Arc<SpaceCell>,
    ack_id: Option<u64>,
    label: EventLabel,
    started: Instant,
    id: String,
}

impl Answer {
    fn emit(&self, event: &'static str, data: &str) {
        emit(&self.shard, &self.conn, &self.space.key.namespace, event, data, None);
    }

    fn ack(&self, data: &str) {
        observe(&self.space, self.label, self.started);
        ack(&self.shard, &self.conn, &self.space.key.namespace, self.ack_id, data);
    }

    fn succeeded(&self) {
        self.ack(r#"{"success":true}"#);
    }

    fn presence(&self, room: &RoomName) {
        let (listed, _) = self.space.lock().presence(room, MOST_LISTED);
        let presence = serde_json::to_string(&listed).unwrap_or_default();
        self.ack(&format!(r#"{{"presence":{presence}}}"#));
    }

    /// `duplicate`: the id that the message was given when it came first.
    fn sent(&self, duplicate: Option<&str>) {
        let mut data = String::with_capacity(64);
        data.push_str(r#"{"success":true,"messageId":""#);
        data.push_str(duplicate.unwrap_or(&self.id));
        data.push_str(if duplicate.is_some() { r#"","duplicate":true}"# } else { r#""}"# });
        self.ack(&data);
    }

    fn refused(&self, refusal: &Refusal) {
        observe(&self.space, self.label, self.started);
        refuse(&self.shard, &self.conn, &self.space, self.ack_id, refusal);
    }

    fn join_refused(&self, message: String) -> Handled {
        self.refused(&Refusal::new("ROOM_JOIN_FAILED", message));
        Handled::Done
    }

    fn send_refused(&self, refused: SendRefused) {
        let code = match refused {
            SendRefused::NotInRoom => "NOT_IN_ROOM",
            SendRefused::NotPublished(_) | SendRefused::Refused(_) => "MESSAGE_SEND_FAILED",
        };
        self.refused(&Refusal::new(code, refused.to_string()));
    }
}

fn room_history(context: &Context<'_>, args: &str) -> Result<Handled, Refusal> {
    const FAILED: &str = "ROOM_HISTORY_FAILED";
    let query: History<'_> = argument(args, FAILED)?;
    let room = room_name(&query.room, FAILED)?;
    if !context.allowed(RoomAction::History, &room) {
        return Err(Refusal::new(FAILED, "Unauthorized"));
    }
    let limit = query.limit.unwrap_or(HISTORY).clamp(1, MOST_HISTORY);
    let since = query.since;
    let answer = context.answer(String::new());
    Ok(Handled::Later(Box::pin(async move {
        match history::page(&answer.shard, &answer.space, &room, since, limit, history::push_data).await {
            Ok(page) => answer.ack(&page),
            Err(error) => {
                tracing::error!(%error, "the history cannot be read");
                answer.refused(&Refusal::new(FAILED, "The history cannot be read now"));
            }
        }
    })))
}

fn presence_heartbeat(context: &Context<'_>, args: &str) -> Result<Handled, Refusal> {
    const FAILED: &str = "PRESENCE_UPDATE_FAILED";
    // The payload is optional here.
    let status = if args.trim().is_empty() || args.trim_start().starts_with("null") {
        None
    } else {
        let heartbeat: Heartbeat<'_> = argument(args, FAILED)?;
        heartbeat.status.map(|status| parse_status(&status, FAILED)).transpose()?
    };
    let (conn, now) = (context.conn, context.now);
    let update = PresenceUpdate { status, ..PresenceUpdate::default() };
    context.shard.node.with_space(&context.space, |hub, fx| hub.update_presence(conn.id, update, now, fx));
    context.ack(r#"{"success":true}"#);
    Ok(Handled::Done)
}

fn parse_status(status: &str, code: &'static str) -> Result<Status, Refusal> {
    status.parse().map_err(|error| Refusal::new(code, format!("Invalid payload: {error}")))
}

fn presence_status(context: &Context<'_>, args: &str) -> Result<Handled, Refusal> {
    const FAILED: &str = "PRESENCE_UPDATE_FAILED";
    let update: SetStatus<'_> = argument(args, FAILED)?;
    let status = parse_status(&update.status, FAILED)?;
    let (conn, now) = (context.conn, context.now);
    let update = PresenceUpdate {
        status: Some(status),
        metadata: update.metadata,
        current_activity: update.current_activity.map(Arc::from),
        custom_status: update.custom_status.map(Arc::from),
    };
    context.shard.node.with_space(&context.space, |hub, fx| hub.update_presence(conn.id, update, now, fx));
    context.ack(r#"{"success":true}"#);
    Ok(Handled::Done)
}

fn query_presence(context: &Context<'_>, args: &str) -> Result<Handled, Refusal> {
    const FAILED: &str = "PRESENCE_QUERY_FAILED";
    let query: InRoom<'_> = argument(args, FAILED)?;
    let room = room_name(&query.room, FAILED)?;
    if !context.allowed(RoomAction::Join, &room) {
        return Err(Refusal::new(FAILED, "Unauthorized"));
    }
    let answer = context.answer(String::new());
    if context.space.lock().is_open(&room) {
        answer.presence(&room);
        return Ok(Handled::Done);
    }
    Ok(Handled::Later(Box::pin(async move {
        let space = answer.space.clone();
        match Reading::begin(&answer.shard.node, &space, &room).await {
            Ok(_reading) => answer.presence(&room),
            Err(Closed) => answer.refused(&Refusal::new(FAILED, "The presence cannot be read now")),
        }
    })))
}

fn query_rooms(context: &Context<'_>) -> Result<Handled, Refusal> {
    let rooms = context.space.lock().rooms_of(context.conn.id);
    let rooms = serde_json::to_string(&rooms).unwrap_or_default();
    context.ack(&format!(r#"{{"rooms":{rooms}}}"#));
    Ok(Handled::Done)
}
