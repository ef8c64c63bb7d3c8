//! Events and acks to one client.

use std::rc::Rc;

use tidegate_metrics::EventLabel;
use tidegate_types::Namespace;
use tidegate_wire::socket_io;

use crate::connection::Conn;
use crate::shard::Shard;

/// Sends an event to one client. `trailing` is the offset that recovery needs.
pub(crate) fn emit(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    namespace: &Namespace,
    event: &str,
    data: &str,
    trailing: Option<&str>,
) {
    shard.send(conn, &[], |packet| {
        packet.push(b'4');
        socket_io::event(packet, namespace.as_str(), None, event, data, trailing);
    });
    count_sent(conn, namespace, EventLabel::of(event));
}

/// Answers an event of the client, if it wants an answer.
pub(crate) fn ack(shard: &Rc<Shard>, conn: &Rc<Conn>, namespace: &Namespace, ack_id: Option<u64>, data: &str) {
    let Some(ack_id) = ack_id else { return };
    shard.send(conn, &[], |packet| {
        packet.push(b'4');
        socket_io::ack(packet, namespace.as_str(), ack_id, data);
    });
    count_sent(conn, namespace, EventLabel::Ack);
}

fn count_sent(conn: &Conn, namespace: &Namespace, label: EventLabel) {
    let _ = conn.with_socket(namespace.as_str(), |socket| socket.space.metrics.sent(label).inc());
}

/// A text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
