//! JSON lines over WebSocket, for clients without Socket.IO: what comes in is turned into a Socket.IO packet and takes its
//! way, what goes out is turned into a line. So every namespace, limit and promise is the same for both.

use std::rc::Rc;

use bytes::Bytes;
use tidegate_types::CloseReason;
use tidegate_wire::engine_io::Packet;
use tidegate_wire::lines::{self, Line, PONG};

use crate::connection::Conn;
use crate::input::{self, Handled};
use crate::settings::Settings;
use crate::shard::Shard;

/// Where clients connect, below `api_path`.
const PATH: &str = "/ws";

/// Whether the path is where JSON lines are spoken.
pub(crate) fn is_path(settings: &Settings, path: &str) -> bool {
    path.strip_prefix(settings.api_path.as_str()) == Some(PATH)
}

/// Handles a client's line. What is no line is answered with the reason, then the connection is closed: its client and we
/// do not speak the same language.
pub(crate) fn take(shard: &Rc<Shard>, conn: &Rc<Conn>, line: &str) -> Handled {
    match lines::read(line) {
        Ok(Line::Packet(packet)) => input::packet(shard, conn, Packet::Message(&packet)),
        Ok(Line::Ping) => {
            shard.send_line(conn, PONG);
            Handled::Done
        }
        Err(error) => {
            shard.send_line(conn, &lines::error(&error));
            Handled::Close(CloseReason::ProtocolError)
        }
    }
}

/// An Engine.IO text packet as a line; `None` for those that say nothing to such a client, such as heartbeats.
pub(crate) fn of_packet(packet: &[u8], attachments: &[Bytes]) -> Option<String> {
    let packet = packet.strip_prefix(b"4")?;
    lines::write(std::str::from_utf8(packet).ok()?, attachments)
}
