//! A polling session's move to a WebSocket (Engine.IO v4, "Upgrade").

use std::io;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tidegate_session::{ProbeStep, Sid};
use tidegate_transport::Transport;
use tidegate_types::CloseReason;
use tidegate_wire::engine_io;
use tidegate_wire::websocket::{Message, Opcode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::compression::{self, Compression};
use crate::connection::{Conn, Io, WebSocket};
use crate::goodbye::{NO_CODE, part};
use crate::outbox::{Outbox, Sent};
use crate::shard::Shard;
use crate::websocket::{resume, run};

/// The most bytes of an incomplete frame before the upgrade's last packet: those packets have six bytes at most.
const MOST_PARTIAL: usize = 1_024;

/// Takes a WebSocket that has opened for a polling session, probes it, and moves the session to it.
pub(crate) fn adopt(shard: &Rc<Shard>, sid: &Sid, stream: Transport, read: Bytes, compression: Compression) {
    let Some(conn) = shard.conn_of(sid) else {
        part(stream, Outbox::default(), NO_CODE);
        return;
    };
    if conn.session.borrow_mut().probe_started().is_err() {
        // A second WebSocket of the same session: it is closed, the session lives on.
        part(stream, Outbox::default(), NO_CODE);
        return;
    }
    let shard = shard.clone();
    // The bytes are copied out of the handshake's buffer, which would otherwise live as long as the session.
    let early = read.to_vec();
    drop(read);
    spawn_local(async move {
        let limit = Duration::from_millis(shard.node.settings.session.upgrade_timeout_ms);
        let mut socket = WebSocket::new(stream, shard.node.settings.session.max_payload_bytes, early, compression);
        match timeout(limit, probe(&conn, &mut socket)).await {
            Ok(Ok(())) => {
                if !switch(&shard, &conn, socket) {
                    return;
                }
                // Frames that came right behind the upgrade packet have been read already.
                let early = match &mut *conn.io.borrow_mut() {
                    Io::WebSocket(socket) => std::mem::take(&mut socket.partial),
                    Io::Polling(_) | Io::Events(_) | Io::Closed => return,
                };
                resume(&shard, &conn, early).await;
                run(shard, conn).await;
            }
            Ok(Err(refused)) => {
                conn.session.borrow_mut().probe_failed();
                if let Refused::Close(code) = refused {
                    part(socket.stream, Outbox::default(), code);
                }
            }
            Err(_) => {
                conn.session.borrow_mut().probe_failed();
                part(socket.stream, Outbox::default(), NO_CODE);
            }
        }
    });
}

/// Why a WebSocket did not become the session's. The session goes on polling.
enum Refused {
    Broken,
    /// To be closed with this code.
    Close(NonZeroU16),
}

impl From<io::Error> for Refused {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

const UNFIT: Refused = Refused::Close(NO_CODE);

/// One packet of the dialogue; whether it was the last.
fn step(conn: &Conn, text: &str, answer: &mut Vec<u8>) -> Result<bool, Refused> {
    let packet = engine_io::decode_text(text).map_err(|_| UNFIT)?;
    let step = conn.session.borrow_mut().probe_packet(&packet).map_err(|_| UNFIT)?;
    if step == ProbeStep::Pong {
        Compression::NONE.push_frame(answer, Opcode::Text, b"3probe");
    }
    Ok(step == ProbeStep::Upgraded)
}

/// The upgrade's dialogue: `2probe`, `3probe`, `5`.
async fn probe(conn: &Rc<Conn>, socket: &mut WebSocket) -> Result<(), Refused> {
    loop {
        let mut answer = Vec::new();
        let mut bytes = std::mem::take(&mut socket.partial);
        let (consumed, upgraded) = {
            let decoded = socket.decoder.decode(&mut bytes);
            let decoded = decoded.map_err(|error| NonZeroU16::new(error.close_code()).map_or(UNFIT, Refused::Close))?;
            let upgraded = match decoded.message {
                Some(Message::Text(text)) => step(conn, text, &mut answer)?,
                Some(Message::Compressed { payload, .. }) => {
                    let text = compression::inflate(payload, MOST_PARTIAL).map_err(|_| UNFIT)?;
                    let upgraded =
                        std::str::from_utf8(&text).map_err(|_| UNFIT).and_then(|text| step(conn, text, &mut answer));
                    compression::give_back(text);
                    upgraded?
                }
                Some(Message::Ping(payload)) => {
                    Compression::NONE.push_frame(&mut answer, Opcode::Pong, payload);
                    false
                }
                Some(Message::Pong(_)) | None => false,
                Some(Message::Close(code)) => {
                    return Err(Refused::Close(code.and_then(|(code, _)| NonZeroU16::new(code)).unwrap_or(NO_CODE)));
                }
                Some(Message::Binary(_)) => return Err(UNFIT),
            };
            (decoded.consumed, upgraded)
        };
        bytes.drain(..consumed);
        socket.partial = bytes;
        if upgraded {
            return Ok(());
        }
        if !answer.is_empty() {
            socket.stream.write_all(&answer).await?;
            if answer.ends_with(b"3probe") {
                conn.release_poll();
            }
        }
        if consumed > 0 {
            continue;
        }
        if conn.is_closed() || socket.partial.len() > MOST_PARTIAL {
            return Err(UNFIT);
        }
        if socket.stream.read_buf(&mut socket.partial).await? == 0 {
            return Err(Refused::Broken);
        }
    }
}

/// From here on the WebSocket is the transport; what waited for the next poll goes first. Whether it is: the session may
/// have ended meanwhile.
fn switch(shard: &Rc<Shard>, conn: &Rc<Conn>, mut socket: WebSocket) -> bool {
    conn.release_poll();
    let mut io = conn.io.borrow_mut();
    let Io::Polling(poll) = &mut *io else {
        part(socket.stream, Outbox::default(), NO_CODE);
        return false;
    };
    let mut frames = Vec::new();
    let compression = socket.sink.compression();
    for payload in poll.take_packets() {
        let text = std::str::from_utf8(&payload).unwrap_or_default();
        for packet in text.split('\x1e') {
            match packet.strip_prefix('b') {
                // The text was encoded by this process.
                Some(text) => {
                    let bytes = STANDARD.decode(text).unwrap_or_default();
                    compression.push_frame(&mut frames, Opcode::Binary, &bytes);
                }
                None => compression.push_frame(&mut frames, Opcode::Text, packet.as_bytes()),
            }
        }
    }
    let sent = socket.sink.send(&socket.stream, &frames, usize::MAX);
    *io = Io::WebSocket(socket);
    drop(io);
    if sent == Sent::Broken {
        shard.end(conn, CloseReason::TransportClosed);
    }
    true
}
