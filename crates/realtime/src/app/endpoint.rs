//! Endpoints without Socket.IO: bare Engine.IO, and plain WebSocket.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;

use tidegate_types::CloseReason;

use super::guard::calmly;
use super::handshake::Head;
use crate::connection::{Conn, Io, Protocol};
use crate::input::Handled;
use crate::shard::Shard;

/// RFC 6455 section 7.4.1: the purpose is fulfilled.
const NORMAL: NonZeroU16 = NonZeroU16::MIN.saturating_add(999);

/// A message of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

type OnOpen = dyn Fn(&Link) + Send + Sync;
type OnMessage = dyn Fn(&Link, Message<'_>) + Send + Sync;
type OnClose = dyn Fn(&Link, CloseReason) + Send + Sync;

#[derive(Default)]
struct Table {
    open: Option<Box<OnOpen>>,
    message: Option<Box<OnMessage>>,
    close: Option<Box<OnClose>>,
    unpinged: bool,
}

/// What an application does with the connections of a path: bare Engine.IO ([`super::App::engine`]) or plain WebSocket
/// ([`super::App::websocket`]). Handlers run as those of a [`super::Namespace`] do. Who is let in is up to them: no token is
/// asked for.
#[derive(Clone, Default)]
pub struct Endpoint(Arc<Table>);

impl Endpoint {
    /// An endpoint that opens connections and does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn set(mut self, change: impl FnOnce(&mut Table)) -> Self {
        // Nobody else holds it while it is being built.
        if let Some(table) = Arc::get_mut(&mut self.0) {
            change(table);
        }
        self
    }

    /// Called when a connection is open.
    #[must_use]
    pub fn on_open(self, handle: impl Fn(&Link) + Send + Sync + 'static) -> Self {
        self.set(|table| table.open = Some(Box::new(handle)))
    }

    /// Called for each message.
    #[must_use]
    pub fn on_message(self, handle: impl Fn(&Link, Message<'_>) + Send + Sync + 'static) -> Self {
        self.set(|table| table.message = Some(Box::new(handle)))
    }

    /// Called when a connection has ended.
    #[must_use]
    pub fn on_close(self, handle: impl Fn(&Link, CloseReason) + Send + Sync + 'static) -> Self {
        self.set(|table| table.close = Some(Box::new(handle)))
    }

    /// Plain WebSocket connections are not pinged. Otherwise they are, once per `ping_interval`, and closed when no pong
    /// comes within `ping_timeout`. Engine.IO always pings.
    #[must_use]
    pub fn without_pings(self) -> Self {
        self.set(|table| table.unpinged = true)
    }

    pub(crate) fn is_pinged(&self) -> bool {
        !self.0.unpinged
    }

    pub(crate) fn opened(&self, link: &Link) {
        if let Some(open) = &self.0.open
            && calmly("on_open", || open(link)).is_none()
        {
            link.shard.end(&link.conn, CloseReason::InternalError);
        }
    }

    pub(crate) fn closed(&self, link: &Link, reason: CloseReason) {
        if let Some(close) = &self.0.close {
            // The connection has ended already, so there is nothing to close after a panic.
            let _ = calmly("on_close", || close(link, reason));
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

/// What is kept of a connection of an endpoint.
pub(crate) struct LinkState {
    pub endpoint: Endpoint,
    head: Head,
    data: RefCell<Option<Box<dyn Any>>>,
}

impl LinkState {
    pub fn new(endpoint: Endpoint, head: Head) -> Self {
        Self { endpoint, head, data: RefCell::new(None) }
    }
}

/// A connection of an endpoint. Cheap to clone; it stays on the worker that owns the connection.
#[derive(Clone)]
pub struct Link {
    shard: Rc<Shard>,
    conn: Rc<Conn>,
    state: Rc<LinkState>,
}

impl Link {
    /// `None` for a connection of Socket.IO.
    pub(crate) fn of(shard: &Rc<Shard>, conn: &Rc<Conn>) -> Option<Self> {
        let state = conn.protocol.link()?.clone();
        Some(Self { shard: shard.clone(), conn: conn.clone(), state })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.state.endpoint
    }

    /// Sends a message. A client that does not read is closed as a slow consumer once `outbox_bytes` wait for it.
    pub fn send(&self, message: Message<'_>) {
        if self.conn.is_closed() {
            return;
        }
        match message {
            Message::Binary(bytes) => self.shard.send_binary(&self.conn, bytes),
            Message::Text(text) => {
                let engine = matches!(self.conn.protocol, Protocol::Engine(_));
                self.shard.send(&self.conn, &[], |packet| {
                    if engine {
                        packet.push(b'4');
                    }
                    packet.extend_from_slice(text.as_bytes());
                });
            }
        }
    }

    /// Closes the connection. `code` is what a WebSocket is closed with: 1000, or one from 3000 to 4999; anything else
    /// becomes 1000.
    pub fn close(&self, code: u16) {
        let code = NonZeroU16::new(code).filter(|code| (3000..5000).contains(&code.get())).unwrap_or(NORMAL);
        if let Io::WebSocket(socket) = &mut *self.conn.io.borrow_mut() {
            socket.sink.answer_close(code);
        }
        self.shard.end(&self.conn, CloseReason::Kicked);
    }

    /// Whether the connection is open.
    pub fn is_open(&self) -> bool {
        !self.conn.is_closed()
    }

    /// A header of the connection's first request, the first of that name. `Authorization` and `Cookie` are not kept.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.state.head.header(name)
    }

    /// A parameter of the connection's first request, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        self.state.head.query(name)
    }

    /// The client's address.
    pub fn address(&self) -> IpAddr {
        self.conn.address
    }

    /// Keeps a value with the connection, in place of any other.
    pub fn set_data<T: 'static>(&self, value: T) {
        self.state.data.replace(Some(Box::new(value)));
    }

    /// Looks at the value kept with the connection; `None` if there is none of that type.
    pub fn with_data<T: 'static, R>(&self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut data = self.state.data.take()?;
        let result = data.downcast_mut::<T>().map(look);
        self.state.data.borrow_mut().get_or_insert(data);
        result
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("conn", &self.conn.id).finish_non_exhaustive()
    }
}

/// Handles a message of an endpoint's connection.
pub(crate) fn message(shard: &Rc<Shard>, conn: &Rc<Conn>, message: Message<'_>) -> Handled {
    let Some(link) = Link::of(shard, conn) else { return Handled::Close(CloseReason::ProtocolError) };
    let Some(handle) = &link.state.endpoint.0.message else { return Handled::Done };
    match calmly("on_message", || handle(&link, message)) {
        Some(()) => Handled::Done,
        None => Handled::Close(CloseReason::InternalError),
    }
}
