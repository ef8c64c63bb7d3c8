//! What a dialect does when a client connects or goes, how rooms hear who is in them, and how a connection is refused.

use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;
use tidegate_dialect::{ConnectRefused, Dialect, Emit, Facts, Payload, Refusal, Step};
use tidegate_hub::{Message, PresenceChange};
use tidegate_metrics::EventLabel;
use tidegate_types::{Class, EventName, Namespace, PresenceInfo, RoomName};
use tidegate_wire::socket_io;

use super::{Run, participants};
use crate::connection::{Conn, NamespaceSocket};
use crate::emit::{emit, quoted};
use crate::id;
use crate::mailbox::Except;
use crate::node::{SpaceCell, now_ms};
use crate::operations;
use crate::rooms_api::LISTED;
use crate::shard::Shard;

/// Carries out what a dialect does on connect. A session that has come back is in its rooms already and is only told.
/// `offset` goes with the first event to the client, so that one that hears nothing else can recover.
pub(crate) fn connected(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    dialect: &Arc<Dialect>,
    offset: Option<&str>,
    recovered: bool,
) {
    let Some(run) = Run::new(shard, conn, space.clone(), dialect, EventLabel::Other, None) else { return };
    let nothing = Payload::default();
    let mut offset = offset;
    for step in dialect.on_connect() {
        match step {
            Step::Emit(Emit { room: None, event, data, .. }) => {
                let data = data.as_ref().map(|data| data.text(&run.facts(None))).unwrap_or_default();
                emit(shard, conn, run.namespace(), event.as_str(), &data, offset.take());
            }
            // In a cluster the session does not know of a room that was not open yet when it was cut.
            Step::Join(_) if recovered && shard.node.cluster.is_none() => {}
            Step::Leave(_) | Step::Presence(_) | Step::Emit(_) if recovered => {}
            // Nobody waits for the record of these: who lost it starts afresh and comes here again.
            Step::Join(room) => {
                if let Ok(room) = run.room_name(room, &nothing) {
                    let _ = run.join(&room);
                }
            }
            Step::Leave(room) => {
                if let Ok(room) = run.room_name(room, &nothing) {
                    let _ = operations::leave(shard, conn, space, &room, run.now);
                }
            }
            Step::Presence(presence) => {
                let _ = run.presence(presence, &nothing);
            }
            Step::Emit(step @ Emit { room: Some(room), others, .. }) => {
                let Ok(room) = run.room_name(room, &nothing) else { continue };
                if let Ok(message) = run.message(step, room, &nothing) {
                    shard.node.tell(space, message, run.now, others.then_some(&Except::Conn(conn.id)));
                }
            }
        }
    }
}

/// Carries out what a dialect does on disconnect; the socket is still in its rooms.
pub(crate) fn disconnecting(shard: &Shard, conn: &Conn, socket: &NamespaceSocket, dialect: &Dialect) {
    if dialect.on_disconnect().is_empty() {
        return;
    }
    let (space, principal, now) = (&socket.space, &socket.principal, now_ms());
    let rooms = space.lock().rooms_of(conn.id);
    for step in dialect.on_disconnect() {
        let Step::Emit(Emit { event, room, data, .. }) = step else { continue };
        let facts = Facts {
            user: principal.user.as_str(),
            username: principal.username.as_deref(),
            tenant: principal.tenant.as_str(),
            kind: principal.kind.as_str(),
            socket: socket.socket_id.as_str(),
            now,
            ..Facts::default()
        };
        let own = room.as_ref().and_then(|room| RoomName::try_from(room.render(&facts)).ok());
        let told = if room.is_some() { own.as_slice() } else { &rooms };
        for room in told {
            let left = participants(space, room, now).saturating_sub(u64::from(rooms.contains(room)));
            let facts = Facts { room: Some(room.as_str()), count: Some(left), ..facts };
            let message = Message {
                room: room.clone(),
                event: event.clone(),
                data: data.as_ref().map(|data| data.text(&facts)).unwrap_or_default().into(),
                attachments: Arc::default(),
                class: Class::Volatile,
                idempotency: None,
            };
            shard.node.tell(space, message, now, Some(&Except::Conn(conn.id)));
        }
    }
}

/// The event that tells a room's members of a change of its presence; `None` if the dialect tells nothing.
pub(crate) fn presence_event(
    dialect: &Dialect,
    room: &RoomName,
    change: &PresenceChange,
) -> Option<(EventName, String)> {
    let presence = dialect.presence();
    if !presence.tells(room.as_str()) {
        return None;
    }
    let facts = Facts { room: Some(room.as_str()), now: now_ms(), ..Facts::default() };
    let (told, data) = match change {
        PresenceChange::Join(user) => {
            let told = presence.join.as_ref()?;
            let member = member(user).to_string();
            (told, told.data.text(&Facts { member: Some(&member), member_id: Some(user.user_id.as_str()), ..facts }))
        }
        PresenceChange::Leave(user) => {
            let told = presence.leave.as_ref()?;
            (told, told.data.text(&Facts { member_id: Some(user.as_str()), ..facts }))
        }
        PresenceChange::Update { listed, count } => {
            let told = presence.update.as_ref()?;
            let members = Value::from_iter(listed.iter().map(member)).to_string();
            (told, told.data.text(&Facts { members: Some(&members), count: Some(*count as u64), ..facts }))
        }
    };
    Some((told.event.clone(), data))
}

/// A member as a dialect's clients see it: the number of connections stands there even if it is 1, as the cases API has it.
fn member(user: &PresenceInfo) -> Value {
    let mut member = serde_json::to_value(user).unwrap_or_default();
    if let Some(member) = member.as_object_mut() {
        member.insert("activeConnections".to_owned(), user.active_connections.into());
    }
    member
}

/// Tells one client who is in a room now.
pub(crate) fn send_snapshot(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &SpaceCell, dialect: &Dialect, room: &RoomName) {
    if dialect.presence().update.is_none() || !dialect.presence().tells(room.as_str()) {
        return;
    }
    let (listed, count) = space.lock().presence(room, LISTED);
    if let Some((event, data)) = presence_event(dialect, room, &PresenceChange::Update { listed, count }) {
        emit(shard, conn, &space.key.namespace, event.as_str(), &data, None);
    }
}

/// Tells a client that it is not let into a namespace.
pub(crate) fn refuse_connection(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    namespace: &Namespace,
    dialect: &Dialect,
    refusal: &Refusal,
) {
    let facts = Facts { refusal: Some(refusal), now: now_ms(), ..Facts::default() };
    let namespace = namespace.as_str();
    let send = |write: &dyn Fn(&mut Vec<u8>)| {
        shard.send(conn, &[], |packet| {
            packet.push(b'4');
            write(packet);
        });
    };
    let by_event = dialect.refusal_event(None, &facts).filter(|_| match dialect.connect_refused() {
        ConnectRefused::Event => true,
        ConnectRefused::ConnectError => false,
    });
    if let Some((event, data)) = by_event {
        // Let in for as long as it takes to tell it: there is no session, and nothing that it sends is heard.
        let reply = format!(r#"{{"sid":"{}"}}"#, id::socket_id());
        send(&|packet| socket_io::connect(packet, namespace, &reply));
        send(&|packet| socket_io::event(packet, namespace, None, event.as_str(), &data, None));
        send(&|packet| socket_io::disconnect(packet, namespace));
        return;
    }
    let message = quoted(&refusal.message);
    let data = dialect.refusal_data(&facts);
    let error = format!(r#"{{"message":{message},"data":{data}}}"#);
    send(&|packet| socket_io::connect_error(packet, namespace, &error));
}
