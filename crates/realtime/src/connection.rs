use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_auth::Principal;
use tidegate_hub::{Pid, RoomId, SocketId};
use tidegate_session::{Session, Sid};
use tidegate_transport::Transport;
use tidegate_types::{CloseReason, ConnId, Millis, TenantId, UserId};
use tidegate_wire::websocket::{self, Decoder};

use crate::activity::Activity;
use crate::app::{Head, LinkState, Own};
use crate::compression::Compression;
use crate::credentials::Shown;
use crate::encoded::Encoded;
use crate::limits::UserLimit;
use crate::lines;
use crate::node::SpaceCell;
use crate::outbox::{FrameSink, Sent};
use crate::polling::PollState;
use crate::seats::Seated;
use crate::sse::EventQueue;

/// What a stream did in its life, for the access log.
#[derive(Clone, Debug)]
pub struct StreamSummary {
    /// `socketio`, `sse`, `lines`, `engineio` or `websocket`.
    pub kind: &'static str,
    /// The transport at the end: `websocket`, `polling` or `sse`.
    pub transport: &'static str,
    /// The tenant, once known.
    pub tenant: Option<TenantId>,
    /// The user, once known.
    pub user: Option<UserId>,
    /// Packets or events from the client.
    pub messages_in: u64,
    /// Packets or events to the client.
    pub messages_out: u64,
    /// Payload bytes from the client.
    pub bytes_in: u64,
    /// Payload bytes to the client.
    pub bytes_out: u64,
    /// Why it ended.
    pub reason: CloseReason,
}

/// Called once when a stream has ended.
pub type OnEnd = Box<dyn FnOnce(StreamSummary)>;

/// How a connection's bytes travel.
pub(crate) enum Io {
    WebSocket(WebSocket),
    Polling(PollState),
    Events(EventQueue),
    Closed,
}

pub(crate) struct WebSocket {
    pub stream: Transport,
    pub sink: FrameSink,
    pub decoder: Decoder,
    /// The start of a frame whose rest has not come.
    pub partial: Vec<u8>,
}

impl WebSocket {
    pub fn new(stream: Transport, max_message: usize, read: Vec<u8>, compression: Compression) -> Self {
        let mut decoder = Decoder::new(websocket::Role::Server, max_message);
        if compression.is_agreed() {
            decoder.allow_deflate();
        }
        Self { stream, sink: FrameSink::new(compression), decoder, partial: read }
    }
}

/// One Socket.IO socket (a namespace of a session), or an SSE stream's subscription.
pub(crate) struct NamespaceSocket {
    pub space: Arc<SpaceCell>,
    pub principal: Arc<Principal>,
    pub socket_id: SocketId,
    pub pid: Pid,
    /// The user's budget, once something was sent.
    pub limit: Option<Arc<UserLimit>>,
    /// Its places among the connections of the user and of the tenant, where a cluster limits them.
    pub seated: Option<Box<Seated>>,
    /// What the embedding API keeps of it, where the namespace is an application's.
    pub app: Option<Rc<Own>>,
    pub rooms: SmallVec<[Membership; 1]>,
}

/// A connection's place in a room of its shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub room: RoomId,
    /// Index into the local room's members.
    pub index: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub messages_in: u32,
    pub messages_out: u32,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// What is spoken above the transport.
pub(crate) enum Protocol {
    SocketIo,
    /// Bare Engine.IO, for an endpoint of the application.
    Engine(Rc<LinkState>),
    /// WebSocket messages as they are, for an endpoint of the application.
    WebSocket(Rc<LinkState>),
    /// JSON lines over WebSocket: Socket.IO in other words.
    Lines,
}

/// One client connection of a shard: a Socket.IO session or an SSE stream.
///
/// Everything that a hand-over to another process would need is in `io`, `session` and `sockets`; nothing else may be
/// attached to it.
pub(crate) struct Conn {
    pub id: ConnId,
    pub address: IpAddr,
    /// When it began, ms since the Unix epoch.
    pub since: Millis,
    pub sid: Option<Box<Sid>>,
    pub protocol: Protocol,
    /// Headers and query of its first request, where an application may ask for them.
    pub head: Option<Rc<Head>>,
    pub io: RefCell<Io>,
    pub session: RefCell<Session>,
    pub sockets: RefCell<SmallVec<[NamespaceSocket; 1]>>,
    /// The tokens of the handshake, for the namespaces that name none.
    pub shown: Option<Box<Shown>>,
    pub traffic: Cell<Traffic>,
    /// Persistent messages whose ack is outstanding.
    pub in_flight: Cell<u16>,
    /// When the client last did something.
    pub activity: Cell<Activity>,
    pub waker: RefCell<Option<Waker>>,
    pub on_end: RefCell<Option<OnEnd>>,
}

impl Conn {
    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        matches!(*self.io.borrow(), Io::Closed)
    }

    /// How its bytes travel now, for people.
    pub fn transport(&self) -> &'static str {
        match &*self.io.borrow() {
            Io::WebSocket(_) | Io::Closed => "websocket",
            Io::Polling(_) => "polling",
            Io::Events(_) => "sse",
        }
    }

    /// Whether something waits for the socket to take it.
    pub fn is_blocked(&self) -> bool {
        matches!(&*self.io.borrow(), Io::WebSocket(socket) if socket.sink.is_blocked())
    }

    /// Whether it is a Socket.IO session, not an event stream.
    pub fn is_session(&self) -> bool {
        matches!(*self.io.borrow(), Io::WebSocket(_) | Io::Polling(_))
    }

    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    pub fn count_in(&self, messages: u32, bytes: usize) {
        let mut traffic = self.traffic.get();
        traffic.messages_in = traffic.messages_in.saturating_add(messages);
        traffic.bytes_in += bytes as u64;
        self.traffic.set(traffic);
    }

    fn count_out(&self, messages: usize, bytes: usize) {
        let mut traffic = self.traffic.get();
        traffic.messages_out = traffic.messages_out.saturating_add(u32::try_from(messages).unwrap_or(u32::MAX));
        traffic.bytes_out += bytes as u64;
        self.traffic.set(traffic);
    }

    /// Sends Engine.IO text packets (without framing), each with its attachments behind it.
    pub fn send_packet(&self, scratch: &mut Vec<u8>, packet: &[u8], attachments: &[Bytes], limit: usize) -> Sent {
        if let Protocol::Lines = self.protocol {
            return lines::of_packet(packet, attachments)
                .map_or(Sent::Taken, |line| self.send_text(scratch, line.as_bytes(), &[], limit));
        }
        self.send_text(scratch, packet, attachments, limit)
    }

    /// Sends a text message as it is, and its attachments.
    pub fn send_text(&self, scratch: &mut Vec<u8>, packet: &[u8], attachments: &[Bytes], limit: usize) -> Sent {
        let mut io = self.io.borrow_mut();
        let sent = match &mut *io {
            Io::WebSocket(socket) => {
                scratch.clear();
                let compression = socket.sink.compression();
                compression.push_frame(scratch, websocket::Opcode::Text, packet);
                for attachment in attachments {
                    compression.push_frame(scratch, websocket::Opcode::Binary, attachment);
                }
                let was_blocked = socket.sink.is_blocked();
                let sent = socket.sink.send(&socket.stream, scratch, limit);
                let queued = !was_blocked && socket.sink.is_blocked();
                drop(io);
                if queued {
                    self.wake();
                }
                sent
            }
            Io::Polling(poll) => poll.push_packet(packet, attachments, limit),
            Io::Events(_) => Sent::Taken,
            Io::Closed => Sent::Broken,
        };
        self.count_out(1, packet.len());
        sent
    }

    /// Sends a binary message by itself.
    pub fn send_binary(&self, scratch: &mut Vec<u8>, bytes: &[u8], limit: usize) -> Sent {
        let mut io = self.io.borrow_mut();
        let sent = match &mut *io {
            Io::WebSocket(socket) => {
                scratch.clear();
                socket.sink.compression().push_frame(scratch, websocket::Opcode::Binary, bytes);
                let was_blocked = socket.sink.is_blocked();
                let sent = socket.sink.send(&socket.stream, scratch, limit);
                let queued = !was_blocked && socket.sink.is_blocked();
                drop(io);
                if queued {
                    self.wake();
                }
                sent
            }
            Io::Polling(poll) => poll.push_binary(bytes, limit),
            Io::Events(_) => Sent::Taken,
            Io::Closed => Sent::Broken,
        };
        self.count_out(1, bytes.len());
        sent
    }

    /// Whether the client takes what is sent now: its socket is not blocked, or its poll is open.
    pub fn is_ready(&self) -> bool {
        match &*self.io.borrow() {
            Io::WebSocket(socket) => !socket.sink.is_blocked(),
            Io::Polling(poll) => poll.is_open(),
            Io::Events(_) | Io::Closed => false,
        }
    }

    /// Delivers a run of room messages in order, with one system call where the transport has one. Volatile messages are
    /// dropped first when the outbox is full. Returns how many were taken.
    pub fn deliver(&self, run: &[&Arc<Encoded>], limit: usize) -> (usize, Sent) {
        let (taken, sent) = self.try_deliver(run, limit);
        if sent != Sent::Full {
            return (taken, sent);
        }
        let kept: SmallVec<[&Arc<Encoded>; 64]> =
            run.iter().copied().filter(|encoded| !encoded.is_volatile()).collect();
        if kept.is_empty() {
            return (0, Sent::Taken);
        }
        if kept.len() == run.len() {
            return (0, Sent::Full);
        }
        self.try_deliver(&kept, limit)
    }

    fn try_deliver(&self, run: &[&Arc<Encoded>], limit: usize) -> (usize, Sent) {
        let mut io = self.io.borrow_mut();
        let (taken, sent) = match &mut *io {
            Io::WebSocket(socket) => {
                let was_blocked = socket.sink.is_blocked();
                let sent = socket.sink.send_run(&socket.stream, run, limit);
                let queued = !was_blocked && socket.sink.is_blocked();
                drop(io);
                if queued {
                    self.wake();
                }
                (run.len(), sent)
            }
            Io::Polling(poll) => (run.len(), poll.push_run(run, limit)),
            Io::Events(events) => events.push_run(run, limit),
            Io::Closed => (0, Sent::Taken),
        };
        if sent == Sent::Taken {
            self.count_out(taken, run.iter().map(|encoded| encoded.payload_bytes()).sum());
            return (taken, sent);
        }
        (0, sent)
    }

    /// Takes the transport away; what was queued comes along, to be sent before the end.
    pub fn take_io(&self) -> Io {
        std::mem::replace(&mut *self.io.borrow_mut(), Io::Closed)
    }

    /// The socket of a namespace, if connected.
    pub fn with_socket<T>(&self, namespace: &str, read: impl FnOnce(&NamespaceSocket) -> T) -> Option<T> {
        self.sockets.borrow().iter().find(|socket| socket.space.key.namespace.as_str() == namespace).map(read)
    }

    pub fn summary(&self, reason: CloseReason, transport: &'static str) -> StreamSummary {
        let traffic = self.traffic.get();
        let sockets = self.sockets.borrow();
        let principal = sockets.first().map(|socket| &socket.principal);
        StreamSummary {
            kind: match (&self.protocol, transport) {
                (_, "sse") => "sse",
                (Protocol::SocketIo, _) => "socketio",
                (Protocol::Lines, _) => "lines",
                (Protocol::Engine(_), _) => "engineio",
                (Protocol::WebSocket(_), _) => "websocket",
            },
            transport,
            tenant: principal.map(|principal| principal.tenant.clone()),
            user: principal.map(|principal| principal.user.clone()),
            messages_in: u64::from(traffic.messages_in),
            messages_out: u64::from(traffic.messages_out),
            bytes_in: traffic.bytes_in,
            bytes_out: traffic.bytes_out,
            reason,
        }
    }
}
