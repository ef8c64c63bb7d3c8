//! Engine.IO over HTTP long polling. A GET waits for packets, a POST brings them; both may reach any worker and are
//! answered by the one that owns the session.

use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tidegate_session::{PollRefused, Sid, Transport};
use tidegate_types::{CloseReason, ShardId};
use tidegate_wire::engine_io::{self, HttpError};
use tokio::sync::oneshot;
use tokio::task::{spawn_local, yield_now};

use crate::call::Call;
use crate::connection::{Conn, Io};
use crate::encoded::Encoded;
use crate::input::{self, Handled};
use crate::mailbox::Item;
use crate::node::steady_ms;
use crate::outbox::{Outbox, Sent};
use crate::shard::Shard;

/// The most packets in one POST; the reference client sends what it has buffered in one.
const MAX_PACKETS: usize = 16_384;

/// Packets that one POST may have handled before the worker's other tasks have their turn.
const PACKETS_A_TURN: usize = 256;

/// What a polling request is answered with.
#[derive(Debug)]
pub(crate) enum PollReply {
    /// Packets for a GET.
    Payload(Bytes),
    /// A POST was taken.
    Taken,
    /// The request is refused.
    Refused(HttpError),
}

/// A polling session's outgoing half.
#[derive(Default)]
pub(crate) struct PollState {
    outbox: Outbox,
    waiting: Option<oneshot::Sender<PollReply>>,
}

impl PollState {
    pub fn push_packet(&mut self, packet: &[u8], attachments: &[Bytes], limit: usize) -> Sent {
        let encoded: usize = attachments.iter().map(|attachment| attachment.len() / 3 * 4 + 5).sum();
        if !self.outbox.fits(packet.len() + encoded, limit) {
            return Sent::Full;
        }
        self.outbox.push(Bytes::copy_from_slice(packet));
        for attachment in attachments {
            self.outbox.push(base64_packet(attachment).into());
        }
        Sent::Taken
    }

    pub fn push_binary(&mut self, bytes: &[u8], limit: usize) -> Sent {
        if !self.outbox.fits(bytes.len(), limit) {
            return Sent::Full;
        }
        self.outbox.push(base64_packet(bytes).into());
        Sent::Taken
    }

    /// Whether a GET waits.
    pub fn is_open(&self) -> bool {
        self.waiting.is_some()
    }

    pub fn push_run(&mut self, run: &[&Arc<Encoded>], limit: usize) -> Sent {
        let total: usize = run.iter().map(|encoded| encoded.payload().len()).sum();
        if !self.outbox.fits(total, limit) {
            return Sent::Full;
        }
        run.iter().for_each(|encoded| self.outbox.push(encoded.payload().clone()));
        Sent::Taken
    }

    /// Queues a replayed message; see [`Outbox::push_replayed`].
    pub fn hold(&mut self, packets: Bytes) {
        self.outbox.push_replayed(packets);
    }

    /// Packets that wait, as they stand in a payload.
    pub fn take_packets(&mut self) -> impl Iterator<Item = Bytes> + use<> {
        self.outbox.take().into_iter()
    }

    fn payload(&mut self) -> Option<Bytes> {
        let mut packets = self.outbox.take();
        if packets.len() == 1 {
            return packets.pop_front();
        }
        let mut payload = Vec::with_capacity(packets.iter().map(|packet| packet.len() + 1).sum());
        for packet in packets {
            if !payload.is_empty() {
                payload.push(b'\x1e');
            }
            payload.extend_from_slice(&packet);
        }
        (!payload.is_empty()).then(|| payload.into())
    }

    /// The session has ended: an open GET is told.
    pub fn end(mut self, reason: CloseReason) {
        let mut payload = self.payload().map(|payload| payload.to_vec()).unwrap_or_default();
        if let Some(waiting) = self.waiting.take() {
            if !payload.is_empty() {
                payload.push(b'\x1e');
            }
            // Who closed the session itself gets a noop (Engine.IO), everybody else a close packet.
            payload.push(if reason == CloseReason::ClientClosed { b'6' } else { b'1' });
            let _ = waiting.send(PollReply::Payload(payload.into()));
        }
    }
}

/// A binary message as it stands in a payload.
fn base64_packet(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 4 / 3 + 5);
    text.push('b');
    STANDARD.encode_string(bytes, &mut text);
    text
}

impl Conn {
    /// Answers the open GET of a polling session if there is something to say.
    pub fn flush_poll(&self) {
        let mut io = self.io.borrow_mut();
        let Io::Polling(poll) = &mut *io else { return };
        if poll.waiting.is_none() || poll.outbox.is_empty() {
            return;
        }
        self.answer_poll(poll, None);
    }

    /// Whether it is a polling session without an open GET: nothing can be told now.
    pub fn is_between_polls(&self) -> bool {
        matches!(&*self.io.borrow(), Io::Polling(poll) if poll.waiting.is_none())
    }

    /// Answers the open GET, if any, with a noop when nothing waits: the client shall stop polling.
    pub fn release_poll(&self) {
        if let Io::Polling(poll) = &mut *self.io.borrow_mut() {
            self.answer_poll(poll, Some(Bytes::from_static(b"6")));
        }
    }

    fn answer_poll(&self, poll: &mut PollState, otherwise: Option<Bytes>) {
        let Some(waiting) = poll.waiting.take() else { return };
        let Some(payload) = poll.payload().or(otherwise) else {
            poll.waiting = Some(waiting);
            return;
        };
        self.session.borrow_mut().poll_ended();
        // When the GET has gone, its guard ends the session; nothing is lost unnoticed.
        let _ = waiting.send(PollReply::Payload(payload));
    }
}

/// A GET has come for a session of this shard.
pub(crate) fn poll(shard: &Rc<Shard>, sid: &Sid, reply: oneshot::Sender<PollReply>) {
    let Some(conn) = shard.conn_of(sid) else {
        let _ = reply.send(PollReply::Refused(HttpError::SessionIdUnknown));
        return;
    };
    let started = conn.session.borrow_mut().poll_started(steady_ms(), &shard.node.settings.session);
    match started {
        Err(refused) => {
            let _ = reply.send(PollReply::Refused(HttpError::BadRequest));
            match refused {
                PollRefused::Overlap => shard.end(&conn, CloseReason::ProtocolError),
                PollRefused::TimedOut => shard.end(&conn, CloseReason::PingTimeout),
                PollRefused::NotPolling => {}
            }
        }
        Ok(()) => {
            if let Io::Polling(poll) = &mut *conn.io.borrow_mut() {
                poll.waiting = Some(reply);
            }
            conn.flush_poll();
            if conn.session.borrow().transport() == Transport::Probing {
                conn.release_poll();
            }
        }
    }
}

/// The client has gone away from its open GET.
pub(crate) fn aborted(shard: &Rc<Shard>, sid: &Sid) {
    if let Some(conn) = shard.conn_of(sid) {
        let polling = matches!(&*conn.io.borrow(), Io::Polling(_));
        if polling {
            shard.end(&conn, CloseReason::TransportClosed);
        }
    }
}

/// A POST has come for a session of this shard. Its packets are handled in order, then it is answered.
pub(crate) fn post(shard: &Rc<Shard>, sid: &Sid, body: Bytes, reply: oneshot::Sender<PollReply>) {
    let Some(conn) = shard.conn_of(sid) else {
        let _ = reply.send(PollReply::Refused(HttpError::SessionIdUnknown));
        return;
    };
    if conn.session.borrow().transport() == Transport::WebSocket {
        let _ = reply.send(PollReply::Refused(HttpError::BadRequest));
        return;
    }
    spawn_local(take_post(shard.clone(), conn, body, reply));
}

async fn take_post(shard: Rc<Shard>, conn: Rc<Conn>, body: Bytes, reply: oneshot::Sender<PollReply>) {
    let taken = take_packets(&shard, &conn, &body).await;
    let answer = match taken {
        Ok(()) => PollReply::Taken,
        Err(reason) => {
            shard.end(&conn, reason);
            if reason == CloseReason::ClientClosed {
                PollReply::Taken
            } else {
                PollReply::Refused(HttpError::BadRequest)
            }
        }
    };
    let _ = reply.send(answer);
}

async fn take_packets(shard: &Rc<Shard>, conn: &Rc<Conn>, body: &Bytes) -> Result<(), CloseReason> {
    let text = std::str::from_utf8(body).map_err(|_| CloseReason::ProtocolError)?;
    for (taken, packet) in engine_io::decode_payload(text, MAX_PACKETS).enumerate() {
        if taken % PACKETS_A_TURN == PACKETS_A_TURN - 1 {
            yield_now().await;
        }
        let packet = packet.map_err(|_| CloseReason::ProtocolError)?;
        match input::packet(shard, conn, packet) {
            Handled::Done => {}
            Handled::Later(rest) => rest.await,
            Handled::Close(reason) => return Err(reason),
        }
        if conn.is_closed() {
            break;
        }
    }
    Ok(())
}

/// Asks the owner of the session, which may be another worker of this process.
pub(crate) async fn ask(shard: &Rc<Shard>, owner: ShardId, sid: Sid, body: Option<Bytes>) -> PollReply {
    let (reply, answer) = oneshot::channel();
    let is_poll = body.is_none();
    if owner == shard.id {
        match body {
            None => poll(shard, &sid, reply),
            Some(body) => post(shard, &sid, body, reply),
        }
    } else {
        let Some(mailbox) = shard.node.mailbox(owner) else {
            return PollReply::Refused(HttpError::SessionIdUnknown);
        };
        let call = match body {
            None => Call::Poll { sid, reply },
            Some(body) => Call::Post { sid, body, reply },
        };
        mailbox.push(Item::Call(Box::new(call)));
    }
    let mut guard = AbortGuard { shard, owner, sid, armed: is_poll };
    let answer = answer.await;
    guard.armed = false;
    answer.unwrap_or(PollReply::Refused(HttpError::SessionIdUnknown))
}

/// Tells the owner when the client drops its GET: Engine.IO ends such a session.
struct AbortGuard<'a> {
    shard: &'a Rc<Shard>,
    owner: ShardId,
    sid: Sid,
    armed: bool,
}

impl Drop for AbortGuard<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if self.owner == self.shard.id {
            aborted(self.shard, &self.sid);
        } else if let Some(mailbox) = self.shard.node.mailbox(self.owner) {
            mailbox.push(Item::Call(Box::new(Call::PollAborted { sid: self.sid })));
        }
    }
}
