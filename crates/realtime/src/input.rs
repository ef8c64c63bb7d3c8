//! From an Engine.IO packet to whoever handles it.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use tidegate_session::{Bare, Input};
use tidegate_types::{CloseReason, Namespace};
use tidegate_wire::engine_io::Packet;

use crate::app;
use crate::bridge::Asked;
use crate::connect;
use crate::connection::{Conn, Protocol};
use crate::dialect_api;
use crate::expiry;
use crate::namespaces::Behaviour;
use crate::node::now_ms;
use crate::rooms_api;
use crate::shard::Shard;
use crate::webhooks;

/// What could not be done at once. Boxed, so that an idle connection does not carry its size.
pub(crate) type Later = Pin<Box<dyn Future<Output = ()>>>;

/// What became of a packet.
pub(crate) enum Handled {
    Done,
    /// The connection's next packet waits for this.
    Later(Later),
    Close(CloseReason),
}

/// Handles one packet of a session on its current transport.
pub(crate) fn packet(shard: &Rc<Shard>, conn: &Rc<Conn>, packet: Packet<'_>) -> Handled {
    if let Protocol::Engine(_) = &conn.protocol {
        return bare_packet(shard, conn, packet);
    }
    let input = conn.session.borrow_mut().receive(packet, &shard.node.settings.session);
    if matches!(input, Ok(Input::Connect { .. } | Input::Event { .. } | Input::Ack { .. })) {
        shard.touch(conn, now_ms);
    }
    match input {
        Err(reason) => Handled::Close(reason),
        Ok(Input::Nothing) => Handled::Done,
        Ok(Input::Close) => Handled::Close(CloseReason::ClientClosed),
        Ok(Input::Connect { namespace, auth }) => connect::connect(shard, conn, namespace, auth),
        Ok(Input::Event { namespace, ack_id, payload, attachments }) => {
            let Some(space) = conn.with_socket(namespace.as_str(), |socket| socket.space.clone()) else {
                return Handled::Close(CloseReason::ProtocolError);
            };
            if expiry::is_refresh(&payload) {
                return expiry::refresh(shard, conn, &space, ack_id, &payload);
            }
            match &space.settings.behaviour {
                Behaviour::Rooms => rooms_api::event(shard, conn, space, ack_id, &payload, attachments),
                Behaviour::Dialect(dialect) => {
                    let dialect = dialect.clone();
                    dialect_api::event(shard, conn, space, &dialect, ack_id, &payload, attachments)
                }
                Behaviour::Handlers(handlers) => {
                    let handlers = handlers.clone();
                    app::event(shard, conn, space, &handlers, ack_id, &payload, attachments)
                }
            }
        }
        Ok(Input::Ack { namespace, ack_id, payload, attachments }) => {
            if Asked::is_of(ack_id) {
                answered_one_of_many(conn, &namespace, ack_id, &payload, attachments);
            } else {
                app::answered(conn, &namespace, ack_id, &payload, attachments);
            }
            Handled::Done
        }
        Ok(Input::Disconnect { namespace }) => {
            disconnect(shard, conn, &namespace, CloseReason::ClientClosed);
            Handled::Done
        }
    }
}

/// The client has answered a question that was asked of many.
fn answered_one_of_many(conn: &Conn, namespace: &Namespace, ack_id: u64, payload: &str, attachments: Vec<Bytes>) {
    let Some(space) = conn.with_socket(namespace.as_str(), |socket| socket.space.clone()) else { return };
    let answer = space.asked.answered(conn.id, ack_id, payload, attachments);
    if let (Some((to, message)), Some(bridge)) = (answer, &space.bridge) {
        bridge.answer(to.as_deref(), &message);
    }
}

/// A packet of bare Engine.IO.
fn bare_packet(shard: &Rc<Shard>, conn: &Rc<Conn>, packet: Packet<'_>) -> Handled {
    let input = conn.session.borrow_mut().receive_bare(packet);
    match input {
        Err(reason) => Handled::Close(reason),
        Ok(Bare::Nothing) => Handled::Done,
        Ok(Bare::Close) => Handled::Close(CloseReason::ClientClosed),
        Ok(Bare::Text(text)) => app::message(shard, conn, app::Message::Text(text)),
        Ok(Bare::Binary(bytes)) => app::message(shard, conn, app::Message::Binary(&bytes)),
    }
}

/// The client has left a namespace on purpose, or was put out of it: its session there cannot be recovered.
pub(crate) fn disconnect(shard: &Rc<Shard>, conn: &Rc<Conn>, namespace: &Namespace, reason: CloseReason) {
    let socket = {
        let mut sockets = conn.sockets.borrow_mut();
        let index = sockets.iter().position(|socket| socket.space.key.namespace == *namespace);
        index.map(|index| sockets.remove(index))
    };
    if let Some(socket) = socket {
        app::gone(shard, conn, &socket, reason);
        webhooks::disconnected(conn, &socket, reason);
        shard.forget_socket(conn, &socket, false, false);
        socket.space.metrics.disconnected(reason);
    }
}
