//! What is done about a message of another server.

use std::sync::Arc;

use tidegate_metrics::Interop;
use tidegate_types::{Class, EventName, Publication, RoomName};
use tidegate_wire::node_adapter::{Broadcast, Event, Heard, Message, Names, Selection, Value};
use tidegate_wire::socket_io;

use super::{Asker, Bridge, locals};
use crate::app::{Args, Deed, Io};
use crate::encoded::Encoded;
use crate::namespaces::Behaviour;
use crate::node::{Node, SpaceCell, now_ms};

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// This server itself: it hears what it publishes.
    Self_,
    /// Another node of this cluster, whose broadcasts come by the cluster's own broker.
    Family,
    /// Another server, or a process that only emits.
    Other,
}

impl Bridge {
    fn from(&self, uid: Option<&str>) -> From {
        match (uid, &self.family) {
            (Some(uid), _) if uid == self.uid => From::Self_,
            (Some(uid), Some(family)) if uid.starts_with(family.as_str()) => From::Family,
            _ => From::Other,
        }
    }
}

pub(super) async fn hear(node: &Arc<Node>, cell: &Arc<SpaceCell>, bridge: &Arc<Bridge>, heard: Heard) {
    let Heard { uid, namespace, message } = heard;
    if namespace.is_some_and(|namespace| namespace != bridge.key.namespace.as_str()) {
        return;
    }
    let (uid, from) = (uid.as_deref(), bridge.from(uid.as_deref()));
    match message {
        _ if from == From::Self_ => return,
        Message::Broadcast(Broadcast { ack: None, .. }) | Message::Disconnect { .. } if from == From::Family => return,
        Message::Broadcast(Broadcast { event, to, volatile, ack: None }) => {
            let Some(publication) = publication(cell, event, &to, volatile) else {
                return bridge.count(Interop::Invalid);
            };
            node.publishable().await;
            let named = locals::Named::new(&to);
            named.reach(volatile).carry_out(node, cell, || Deed::Emit(Arc::new(Encoded::broadcast(publication))));
        }
        Message::Broadcast(Broadcast { event, to, volatile, ack: Some(ack) }) => {
            let asker = Asker::Server(uid.map(str::to_owned));
            let asked = publication(cell, event, &to, volatile)
                .and_then(|publication| Some((publication, cell.asked.open(&ack.request, asker, ack.timeout_ms)?)));
            let count = match asked {
                Some((publication, id)) => locals::question(node, cell, &to, publication, id).await,
                None => 0,
            };
            // Whoever asks counts on the answer of each server.
            bridge.answer(uid, &Message::ClientCount { request: ack.request, count: count as u64 });
        }
        Message::Join { of, rooms } => _ = locals::done(locals::join(node, cell, &of, names(&rooms))).await,
        Message::Leave { of, rooms } => _ = locals::done(locals::leave(node, cell, &of, names(&rooms))).await,
        Message::Disconnect { of, close } => _ = locals::done(locals::disconnect(node, cell, &of, close)).await,
        Message::Fetch { request, of } => {
            let sockets = locals::fetch(node, cell, &of).await;
            bridge.answer(uid, &Message::Found { request, sockets });
        }
        Message::Ids { request, rooms } => {
            let sockets = locals::ids(node, cell, &Selection { rooms, except: Names::default() }).await;
            bridge.answer(uid, &Message::Found { request, sockets });
        }
        Message::AllRooms { request } => {
            let mut rooms = locals::rooms(cell);
            rooms.extend(bridge.sockets_here().keys().map(|id| String::from(&**id)));
            bridge.answer(uid, &Message::Rooms { request, rooms: Names(rooms) });
        }
        Message::ServerSide { request, event } => {
            let answer = server_side(node, cell, event);
            if let Some(request) = request {
                // Without a handler as well: the other side waits for every server.
                let value = answer.unwrap_or_else(|| Value::json("null"));
                bridge.answer(uid, &Message::ServerSideAnswer { request, value });
            }
        }
        Message::Found { .. }
        | Message::Rooms { .. }
        | Message::ServerSideAnswer { .. }
        | Message::ClientCount { .. }
        | Message::Acked { .. } => {
            bridge.requests.answered(message);
            return;
        }
        Message::Nothing => return,
    }
    bridge.count(Interop::Received);
}

fn names(rooms: &Names) -> Vec<RoomName> {
    rooms.iter().filter_map(|room| RoomName::try_from(room).ok()).collect()
}

/// An event as clients here get it; `None` if it has a name that no event can have here.
fn publication(cell: &SpaceCell, event: Event, to: &Selection, volatile: bool) -> Option<Arc<Publication>> {
    let (name, args) = socket_io::event_parts(&event.payload).ok()?;
    let room = to.rooms.iter().next().and_then(|room| RoomName::try_from(room).ok());
    Some(Arc::new(Publication {
        space: cell.key.clone(),
        room: room.or_else(|| RoomName::try_from("*").ok())?,
        event: EventName::try_from(&*name).ok()?,
        data: args.to_owned().into(),
        attachments: event.attachments.into(),
        class: if volatile { Class::Volatile } else { Class::Recoverable },
        position: None,
        seq: 0,
        timestamp_ms: now_ms(),
    }))
}

/// Has the application hear an event for servers, and takes its answer.
fn server_side(node: &Arc<Node>, cell: &Arc<SpaceCell>, event: Event) -> Option<Value> {
    let Behaviour::Handlers(handlers) = &cell.settings.behaviour else { return None };
    let (name, args) = socket_io::event_parts(&event.payload).ok()?;
    let io = Io::of_space(node.clone(), cell.clone());
    let answer = handlers.server_event(&io, &name, Args::checked(args.to_owned(), event.attachments))?;
    let json = answer.values().next().unwrap_or("null").to_owned();
    Some(Value { json, attachments: answer.attachments().to_vec() })
}
