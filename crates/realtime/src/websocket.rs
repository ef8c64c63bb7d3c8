//! Engine.IO over WebSocket: the way of almost every message. The connection's task waits for readiness and owns no
//! buffer meanwhile; reads go through the thread's buffer, and only an incomplete frame is kept.

use std::future::poll_fn;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tidegate_types::CloseReason;
use tidegate_wire::engine_io::{self, Packet};
use tidegate_wire::websocket::{Decoder, Message, Opcode, Role, WsError};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::yield_now;

use crate::app;
use crate::compression::{self, Compression};
use crate::connection::{Conn, Io, Protocol};
use crate::goodbye::NO_CODE;
use crate::input::{self, Handled};
use crate::lines;
use crate::outbox::Sent;
use crate::shard::{READ_BYTES, Shard};

/// Messages that one connection may have handled before the worker's other tasks have their turn.
const MESSAGES_A_TURN: u32 = 256;

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
            socket.sink.flush(&socket.stream) != Sent::Taken
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
    let mut buffer = shard.buffer.take();
    if buffer.len() < READ_BYTES {
        buffer.resize(READ_BYTES, 0);
    }
    let mut target = ReadBuf::new(&mut buffer);
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
        Poll::Ready(Ok(())) if socket.partial.is_empty() => Poll::Ready(Turn::Read(buffer, count)),
        // What is there of a frame stays where it is, so that one that comes byte by byte is not copied for each byte.
        Poll::Ready(Ok(())) => {
            let mut whole = std::mem::take(&mut socket.partial);
            whole.extend_from_slice(buffer.get(..count).unwrap_or_default());
            shard.buffer.set(buffer);
            let filled = whole.len();
            Poll::Ready(Turn::Read(whole, filled))
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
                close = Some(reason_of(error));
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
        if messages >= MESSAGES_A_TURN && from < filled {
            later = Some(Box::pin(yield_now()));
            break;
        }
    }
    conn.count_in(messages, from);
    let mut rest = if from == 0 && later.is_none() && buffer.len() == filled {
        // The frame is still incomplete, and the buffer is its own.
        buffer
    } else {
        let rest = buffer.get(from..filled).unwrap_or_default().to_vec();
        give_back(shard, buffer);
        rest
    };
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

fn reason_of(error: WsError) -> CloseReason {
    match error.close_code() {
        1007 => CloseReason::InvalidText,
        1009 => CloseReason::MessageTooLarge,
        _ => CloseReason::ProtocolError,
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
    if let Protocol::WebSocket(_) = &conn.protocol {
        match &message {
            Message::Text(text) => return app::message(shard, conn, app::Message::Text(text)),
            Message::Binary(bytes) => return app::message(shard, conn, app::Message::Binary(bytes)),
            Message::Pong(_) => conn.session.borrow_mut().pong(),
            Message::Close(_) | Message::Ping(_) | Message::Compressed { .. } => {}
        }
    }
    if let Protocol::Lines = &conn.protocol {
        match &message {
            Message::Text(text) => return lines::take(shard, conn, text),
            Message::Pong(_) => conn.session.borrow_mut().pong(),
            Message::Binary(_) | Message::Close(_) | Message::Ping(_) | Message::Compressed { .. } => {}
        }
    }
    match message {
        Message::Text(text) => match engine_io::decode_text(text) {
            Ok(packet) => input::packet(shard, conn, packet),
            Err(_) => Handled::Close(CloseReason::ProtocolError),
        },
        // There are no binary values in JSON.
        Message::Binary(_) if matches!(conn.protocol, Protocol::Lines) => Handled::Close(CloseReason::ProtocolError),
        Message::Binary(bytes) => input::packet(shard, conn, Packet::Binary(Bytes::copy_from_slice(bytes))),
        Message::Compressed { opcode, payload } => {
            let inflated = match compression::inflate(payload, shard.node.settings.session.max_payload_bytes) {
                Ok(inflated) => inflated,
                Err(error) => return Handled::Close(reason_of(error)),
            };
            let handled = match (opcode, std::str::from_utf8(&inflated)) {
                (Opcode::Text, Ok(text)) => take(shard, conn, Message::Text(text)),
                (Opcode::Text, Err(_)) => Handled::Close(CloseReason::InvalidText),
                _ => take(shard, conn, Message::Binary(&inflated)),
            };
            compression::give_back(inflated);
            handled
        }
        Message::Ping(payload) => {
            let mut pong = Vec::with_capacity(payload.len() + 4);
            Compression::NONE.push_frame(&mut pong, Opcode::Pong, payload);
            if let Io::WebSocket(socket) = &mut *conn.io.borrow_mut() {
                let limit = shard.node.settings.outbox_bytes;
                if socket.sink.send(&socket.stream, &pong, limit) != Sent::Taken {
                    return Handled::Close(CloseReason::SlowConsumer);
                }
            }
            Handled::Done
        }
        Message::Pong(_) => Handled::Done,
        // Whatever the code, such a session may come back: a page that vanishes says the same as one that goes away.
        Message::Close(said) => {
            if let Io::WebSocket(socket) = &mut *conn.io.borrow_mut() {
                socket.sink.answer_close(said.and_then(|(code, _)| NonZeroU16::new(code)).unwrap_or(NO_CODE));
            }
            Handled::Close(match conn.protocol {
                Protocol::SocketIo | Protocol::Engine(_) | Protocol::Lines => CloseReason::TransportClosed,
                Protocol::WebSocket(_) => CloseReason::ClientClosed,
            })
        }
    }
}
