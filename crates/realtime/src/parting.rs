//! The last words to a client whose connection, or whose place in a namespace, the server ends.

use std::rc::Rc;

use tidegate_types::{CloseReason, Namespace};
use tidegate_wire::{socket_io, sse};

use crate::connection::{Conn, Io};
use crate::emit::emit;
use crate::shard::Shard;

/// How a connection is to end that is ended from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub reason: Option<String>,
    /// Its client comes back by itself.
    pub reconnect: bool,
    /// And finds its rooms again, and what it has missed.
    pub recover: bool,
}

impl Terms {
    /// The reason of the end. A client whose transport just ends comes back by itself.
    pub fn close_reason(&self) -> CloseReason {
        if self.recover { CloseReason::Moved } else { CloseReason::Kicked }
    }
}

/// How somebody is parted from a namespace.
pub(crate) struct Parting<'a> {
    /// The event that says why.
    pub event: &'a str,
    /// Its data, JSON.
    pub data: &'a str,
    pub reason: CloseReason,
    /// Whether the client is to come back by itself. Told to go by packet, stock clients do not.
    pub comes_back: bool,
}

impl Parting<'_> {
    /// Says it in these namespaces. `is_last`: nothing else will be said on the connection.
    pub fn say(&self, shard: &Rc<Shard>, conn: &Rc<Conn>, namespaces: &[Namespace], is_last: bool) {
        let is_polling = match &*conn.io.borrow() {
            Io::Events(events) => {
                let mut event = Vec::new();
                sse::encode_event(&mut event, None, Some(self.event), self.data);
                return events.tell(event.into());
            }
            Io::Polling(_) => true,
            Io::WebSocket(_) | Io::Closed => false,
        };
        if is_polling && is_last {
            // The first packet answers the open GET, and there will be no other one: all in one payload.
            shard.send(conn, &[], |packets| {
                for namespace in namespaces {
                    if !packets.is_empty() {
                        packets.push(b'\x1e');
                    }
                    packets.push(b'4');
                    socket_io::event(packets, namespace.as_str(), None, self.event, self.data, None);
                    if !self.comes_back {
                        packets.extend_from_slice(b"\x1e4");
                        socket_io::disconnect(packets, namespace.as_str());
                    }
                }
            });
            return;
        }
        for namespace in namespaces {
            emit(shard, conn, namespace, self.event, self.data, None);
            if !self.comes_back {
                shard.send(conn, &[], |packet| {
                    packet.push(b'4');
                    socket_io::disconnect(packet, namespace.as_str());
                });
            }
        }
    }
}
