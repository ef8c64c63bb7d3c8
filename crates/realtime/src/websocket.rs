//! Engine.IO over WebSocket: the way of almost every message. The connection's task waits for readiness and owns no
//! buffer meanwhile; reads go through the thread's buffer, and only an incomplete frame is kept.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tidegate_session::{ProbeStep, Sid};
use tidegate_transport::Transport;
use tidegate_types::CloseReason;
use tidegate_wire::engine_io::{self, Packet};
use tidegate_wire::websocket::{self, Decoder, Message, Opcode, Role};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::connection::{Conn, Io, WebSocket, leftover};
use crate::input::{self, Handled};
use crate::shard::{READ_BYTES, Shard};

/// How long a closed connection may take to read the rest and close its side.
const GOODBYE: Duration = Duration::from_secs(2);

enum Turn {
    /// So many bytes are in the buffer, counted from its start.
    Read(Vec<u8>, usize),
    Writable,
    Closed(CloseReason),
    Ended,
}

/// Serves a WebSocket session until it ends.
pub(crate) async fn run(shard: Rc<Shard>, conn: Rc<Conn>) {
    loop {
        match poll_fn(|cx| turn(&shard, &conn, cx)).await {
            Turn::Read(buffer, filled) => {
                if let Some(rest) = read(&shard, &conn, buffer, filled) {
                    rest.await;
                }
            }
            Turn::Writable => flush(&shard, &conn),
            Turn::Closed(reason) => shard.end(&conn, reason),
            Turn::Ended => break,
        }
    }
}

pub(crate) fn flush(shard: &Rc<Shard>, conn: &Rc<Conn>) {
    let broken = match &mut *conn.io.borrow_mut() {
        Io::WebSocket(socket) => {
            socket.sink.uncork();
            socket.sink.flush(&socket.stream) != crate::outbox::Sent::Taken
        }
        Io::Polling(_) | Io::Events(_) | Io::Closed => false,
    };
    if broken {
        shard.end(conn, CloseReason::TransportClosed);
    }
}

fn turn(shard: &Rc<Shard>, conn: &Rc<Conn>, cx: &mut Context<'_>) -> Poll<Turn> {
    {
        let mut waker = conn.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
    let mut io = conn.io.borrow_mut();
    let Io::WebSocket(socket) = &mut *io else { return Poll::Ready(Turn::Ended) };
    if socket.sink.is_blocked() && socket.stream.poll_write_ready(cx).is_ready() {
        return Poll::Ready(Turn::Writable);
    }
    let kept = socket.partial.len();
    let mut buffer = shard.buffer.take();
    if buffer.len() < kept + READ_BYTES {
        buffer.resize(kept + READ_BYTES, 0);
    }
    let mut target = ReadBuf::new(buffer.get_mut(kept..).unwrap_or_default());
    let polled = Pin::new(&mut socket.stream).poll_read(cx, &mut target);
    let count = target.filled().len();
    match polled {
        Poll::Pending => {
            shard.buffer.set(buffer);
            Poll::Pending
        }
        Poll::Ready(Err(_)) => {
            shard.buffer.set(buffer);
            Poll::Ready(Turn::Closed(CloseReason::TransportClosed))
        }
        Poll::Ready(Ok(())) if count == 0 => {
            shard.buffer.set(buffer);
            Poll::Ready(Turn::Closed(CloseReason::TransportClosed))
        }
        Poll::Ready(Ok(())) => {
            if let Some(front) = buffer.get_mut(..kept) {
                front.copy_from_slice(&socket.partial);
            }
            socket.partial = Vec::new();
            Poll::Ready(Turn::Read(buffer, kept + count))
        }
    }
}

/// Handles the messages in the buffer. What has to wait for something else comes back as a future, with the rest of the
/// bytes in it.
fn read(shard: &Rc<Shard>, conn: &Rc<Conn>, mut buffer: Vec<u8>, filled: usize) -> Option<input::Later> {
    let Some(mut decoder) = take_decoder(shard, conn) else {
        give_back(shard, buffer);
        return None;
    };
    let mut from = 0;
    let mut later = None;
    let mut close = None;
    let mut messages = 0;
    while let Some(bytes) = buffer.get_mut(from..filled).filter(|bytes| !bytes.is_empty()) {
        let decoded = match decoder.decode(bytes) {
            Ok(decoded) => decoded,
            Err(error) => {
                close = Some(match error.close_code() {
                    1007 => CloseReason::InvalidText,
                    1009 => CloseReason::MessageTooLarge,
                    _ => CloseReason::ProtocolError,
                });
                break;
            }
        };
        if decoded.consumed == 0 {
            break;
        }
        let consumed = decoded.consumed;
        let handled = decoded.message.map(|message| {
            messages += 1;
            take(shard, conn, message)
        });
        from += consumed;
        match handled {
            None | Some(Handled::Done) => {}
            Some(Handled::Later(rest)) => {
                later = Some(rest);
                break;
            }
            Some(Handled::Close(reason)) => {
                close = Some(reason);
                break;
            }
        }
    }
    conn.count_in(messages, from);
    let mut rest = buffer.get(from..filled).unwrap_or_default().to_vec();
    give_back(shard, buffer);
    if let Some(reason) = close {
        shard.end(conn, reason);
        return None;
    }
    let mut io = conn.io.borrow_mut();
    let Io::WebSocket(socket) = &mut *io else { return None };
    decoder.release();
    socket.decoder = decoder;
    let answers = socket.sink.has_queued();
    if !answers {
        socket.sink.uncork();
    }
    if later.is_none() {
        socket.partial = std::mem::take(&mut rest);
    }
    drop(io);
    if answers {
        shard.flush_soon(conn);
    }
    let later = later?;
    let (shard, conn) = (shard.clone(), conn.clone());
    Some(Box::pin(async move {
        later.await;
        resume(&shard, &conn, rest).await;
    }))
}

/// Goes on with bytes that were read before something had to be waited for.
pub(crate) async fn resume(shard: &Rc<Shard>, conn: &Rc<Conn>, rest: Vec<u8>) {
    if rest.is_empty() {
        return;
    }
    let filled = rest.len();
    if let Some(later) = read(shard, conn, rest, filled) {
        later.await;
    }
}

fn take_decoder(shard: &Rc<Shard>, conn: &Rc<Conn>) -> Option<Decoder> {
    match &mut *conn.io.borrow_mut() {
        Io::WebSocket(socket) => {
            // Answers of one turn leave in one write.
            socket.sink.cork();
            let fresh = Decoder::new(Role::Server, shard.node.settings.session.max_payload_bytes);
            Some(std::mem::replace(&mut socket.decoder, fresh))
        }
        Io::Polling(_) | Io::Events(_) | Io::Closed => None,
    }
}

fn give_back(shard: &Rc<Shard>, buffer: Vec<u8>) {
    if (READ_BYTES..=4 * READ_BYTES).contains(&buffer.len()) {
        shard.buffer.set(buffer);
    }
}

fn take(shard: &Rc<Shard>, conn: &Rc<Conn>, message: Message<'_>) -> Handled {
    match message {
        Message::Text(text) => match engine_io::decode_text(text) {
            Ok(packet) => input::packet(shard, conn, packet),
            Err(_) => Handled::Close(CloseReason::ProtocolError),
        },
        Message::Binary(bytes) => input::packet(shard, conn, Packet::Binary(Bytes::copy_from_slice(bytes))),
        Message::Ping(payload) => {
            let mut pong = Vec::with_capacity(payload.len() + 4);
            websocket::encode_header(&mut pong, Opcode::Pong, true, payload.len() as u64);
            pong.extend_from_slice(payload);
            if let Io::WebSocket(socket) = &mut *conn.io.borrow_mut() {
                let limit = shard.node.settings.outbox_bytes;
                if socket.sink.send(&socket.stream, &pong, limit) != crate::outbox::Sent::Taken {
                    return Handled::Close(CloseReason::SlowConsumer);
                }
            }
            Handled::Done
        }
        Message::Pong(_) => Handled::Done,
        // Going away and no status at all are what a vanishing page sends: such a session may come back.
        Message::Close(None | Some((1000 | 1001 | 1005, _))) => Handled::Close(CloseReason::TransportClosed),
        Message::Close(Some(_)) => Handled::Close(CloseReason::TransportClosed),
    }
}

/// Sends what waits and a close frame, then lets the peer close first, so that nothing sent is lost to a reset.
pub(crate) fn say_goodbye(socket: WebSocket, reason: CloseReason) {
    let (stream, outbox) = leftover(socket);
    let mut frame = Vec::with_capacity(16);
    let payload = websocket::close_payload(reason.websocket_code(), "");
    websocket::encode_header(&mut frame, Opcode::Close, true, payload.len() as u64);
    frame.extend_from_slice(payload.as_ref());
    let mut outbox = outbox.unwrap_or_default();
    outbox.push(frame.into());
    if reason == CloseReason::SlowConsumer {
        // Whoever does not read gets nothing more; the kernel's buffer is full anyway.
        return;
    }
    spawn_local(async move {
        let mut stream = stream;
        let _ = timeout(GOODBYE, async {
            while let Some(bytes) = outbox.pop() {
                stream.write_all(&bytes).await?;
            }
            stream.shutdown().await?;
            let mut rest = [0; 512];
            while stream.read(&mut rest).await? > 0 {}
            Ok::<_, io::Error>(())
        })
        .await;
    });
}

/// Takes a WebSocket that has opened for a polling session, probes it, and moves the session to it.
pub(crate) fn adopt(shard: &Rc<Shard>, sid: &Sid, stream: Transport, read: Bytes) {
    let Some(conn) = shard.conn_of(sid) else { return };
    if conn.session.borrow_mut().probe_started().is_err() {
        // A second WebSocket of the same session: it is closed, the session lives on.
        return;
    }
    let shard = shard.clone();
    // The bytes are copied out of the handshake's buffer, which would otherwise live as long as the session.
    let early = read.to_vec();
    drop(read);
    spawn_local(async move {
        let limit = Duration::from_millis(shard.node.settings.session.upgrade_timeout_ms);
        let mut socket = WebSocket::new(stream, shard.node.settings.session.max_payload_bytes, early);
        match timeout(limit, probe(&conn, &mut socket)).await {
            Ok(Ok(())) => {
                switch(&shard, &conn, socket);
                // Frames that came right behind the upgrade packet have been read already.
                let early = match &mut *conn.io.borrow_mut() {
                    Io::WebSocket(socket) => std::mem::take(&mut socket.partial),
                    Io::Polling(_) | Io::Events(_) | Io::Closed => return,
                };
                resume(&shard, &conn, early).await;
                run(shard, conn).await;
            }
            Ok(Err(_)) | Err(_) => conn.session.borrow_mut().probe_failed(),
        }
    });
}

/// The upgrade's dialogue: `2probe`, `3probe`, `5`.
async fn probe(conn: &Rc<Conn>, socket: &mut WebSocket) -> io::Result<()> {
    let refused = || io::Error::from(io::ErrorKind::InvalidData);
    loop {
        let mut bytes = std::mem::take(&mut socket.partial);
        let (consumed, step) = {
            let decoded = socket.decoder.decode(&mut bytes).map_err(|_| refused())?;
            let step = match &decoded.message {
                Some(Message::Text(text)) => {
                    let packet = engine_io::decode_text(text).map_err(|_| refused())?;
                    Some(conn.session.borrow_mut().probe_packet(&packet).map_err(|_| refused())?)
                }
                Some(Message::Ping(_) | Message::Pong(_)) | None => None,
                Some(Message::Binary(_) | Message::Close(_)) => return Err(refused()),
            };
            (decoded.consumed, step)
        };
        bytes.drain(..consumed);
        socket.partial = bytes;
        match step {
            Some(ProbeStep::Pong) => {
                let mut frame = Vec::with_capacity(16);
                websocket::encode_header(&mut frame, Opcode::Text, true, 6);
                frame.extend_from_slice(b"3probe");
                socket.stream.write_all(&frame).await?;
                conn.release_poll();
                continue;
            }
            Some(ProbeStep::Upgraded) => return Ok(()),
            None if consumed > 0 => continue,
            None => {}
        }
        if conn.is_closed() || socket.partial.len() > 1_024 {
            return Err(refused());
        }
        if socket.stream.read_buf(&mut socket.partial).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// From here on the WebSocket is the transport; what waited for the next poll goes first.
fn switch(shard: &Rc<Shard>, conn: &Rc<Conn>, mut socket: WebSocket) {
    conn.release_poll();
    let mut io = conn.io.borrow_mut();
    let Io::Polling(poll) = &mut *io else { return };
    let mut frames = Vec::new();
    for payload in poll.take_packets() {
        let text = std::str::from_utf8(&payload).unwrap_or_default();
        for packet in text.split('\x1e') {
            match packet.strip_prefix('b').map(base64_decode) {
                Some(bytes) => {
                    websocket::encode_header(&mut frames, Opcode::Binary, true, bytes.len() as u64);
                    frames.extend_from_slice(&bytes);
                }
                None => {
                    websocket::encode_header(&mut frames, Opcode::Text, true, packet.len() as u64);
                    frames.extend_from_slice(packet.as_bytes());
                }
            }
        }
    }
    let sent = socket.sink.send(&socket.stream, &frames, usize::MAX);
    *io = Io::WebSocket(socket);
    drop(io);
    if sent == crate::outbox::Sent::Broken {
        shard.end(conn, CloseReason::TransportClosed);
    }
}

fn base64_decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    // The text was encoded by this process.
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
}
