//! What an application does in one namespace.

use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tidegate_auth::Principal;
use tidegate_metrics::EventLabel;
use tidegate_types::{CloseReason, Namespace as Name};
use tidegate_wire::socket_io;
use tokio::task::spawn_local;

use super::args::Args;
use super::event::{Ack, Event};
use super::guard::{Calmly, Local, calmly};
use super::handshake::Handshake;
use super::io::Io;
use super::socket::Socket;
use crate::connection::Conn;
use crate::input::{Handled, Later};
use crate::limits::{self, Limits};
use crate::namespaces::{Behaviour, Entrance, NamespaceSettings};
use crate::node::{SpaceCell, now_ms};
use crate::shard::Shard;

/// Async handlers of one client that may be under way before its next packet waits.
const MOST_RUNNING: u16 = 64;

/// Who asks to be let in.
#[derive(Debug)]
pub struct Applicant {
    /// From its token, or a stranger of the default tenant where none is asked for.
    pub principal: Arc<Principal>,
    /// What it says.
    pub handshake: Handshake,
}

/// Why somebody is not let in: what `connect_error` shows.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// `error.message`.
    pub message: String,
    /// `error.data`.
    pub data: Option<serde_json::Value>,
}

impl Refusal {
    /// A refusal with a message alone.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), data: None }
    }

    /// A refusal with something for the client's program to read.
    #[must_use]
    pub fn with_data(self, data: serde_json::Value) -> Self {
        Self { data: Some(data), ..self }
    }

    pub(crate) fn to_json(&self) -> String {
        let mut error = serde_json::json!({ "message": self.message });
        if let (Some(data), Some(fields)) = (&self.data, error.as_object_mut()) {
            fields.insert("data".to_owned(), data.clone());
        }
        error.to_string()
    }
}

type Admit = dyn Fn(&Applicant) -> Result<(), Refusal> + Send + Sync;
type AdmitLater = dyn Fn(Rc<Applicant>) -> Local<Result<(), Refusal>> + Send + Sync;
type OnConnect = dyn Fn(&Socket) + Send + Sync;
type OnConnectLater = dyn Fn(Socket) -> Local + Send + Sync;
type OnEvent = dyn Fn(&Socket, Event<'_>) + Send + Sync;
type OnEventLater = dyn Fn(Socket, Event<'static>) -> Local + Send + Sync;
type OnAny = dyn Fn(&Socket, &mut Event<'_>) + Send + Sync;
type OnServerEvent = dyn Fn(&Io, Args<'static>) -> Option<Args<'static>> + Send + Sync;
type OnDisconnect = dyn Fn(&Socket, CloseReason) + Send + Sync;

enum Gate {
    Now(Box<Admit>),
    Later(Box<AdmitLater>),
}

enum Greeting {
    Now(Box<OnConnect>),
    Later(Box<OnConnectLater>),
}

enum Handler {
    Now(Box<OnEvent>),
    Later(Box<OnEventLater>),
}

#[derive(Default)]
struct Table {
    gate: Option<Gate>,
    greeting: Option<Greeting>,
    events: FxHashMap<Box<str>, Handler>,
    any: Option<Box<OnAny>>,
    gone: Option<Box<OnDisconnect>>,
    server_events: FxHashMap<Box<str>, Box<OnServerEvent>>,
}

/// What an application does in one namespace: handlers by event.
///
/// Handlers run on the worker that owns the client's connection, and everything else of that worker waits while one
/// computes: long work belongs into `tokio::task::spawn_blocking` from an async handler. One that panics closes its
/// connection, with a line in the log.
///
/// Without further ado, clients have to show a token as in the rooms API, and sessions do not recover.
pub struct Namespace {
    entrance: Entrance,
    recovery: bool,
    limits: Option<Limits>,
    table: Table,
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Namespace {
    /// A namespace that lets in who shows a token, and does nothing.
    pub fn new() -> Self {
        Self { entrance: Entrance::Token, recovery: false, limits: None, table: Table::default() }
    }

    /// Lets everybody in and looks at no token; every client is a stranger of the default tenant. Who is let in is then up
    /// to [`Namespace::admit`].
    #[must_use]
    pub fn without_auth(mut self) -> Self {
        self.entrance = Entrance::Unchecked;
        self
    }

    /// Cut sessions of stock clients recover: they come back with their id, into their rooms, and get what was published
    /// ([`super::Io::publish`]) meanwhile. Published events then have the offset as one more argument.
    #[must_use]
    pub fn with_recovery(mut self) -> Self {
        self.recovery = true;
        self
    }

    /// What users and tenants may do, instead of what the config says. Events over the budget are not refused: the client's
    /// packets wait.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Decides who is let in, before CONNECT is answered.
    #[must_use]
    pub fn admit(mut self, decide: impl Fn(&Applicant) -> Result<(), Refusal> + Send + Sync + 'static) -> Self {
        self.table.gate = Some(Gate::Now(Box::new(decide)));
        self
    }

    /// As [`Namespace::admit`], with time to ask somebody else. What the client sends meanwhile waits.
    #[must_use]
    pub fn admit_async<F>(mut self, decide: impl Fn(Rc<Applicant>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), Refusal>> + 'static,
    {
        self.table.gate = Some(Gate::Later(Box::new(move |applicant| Box::pin(decide(applicant)))));
        self
    }

    /// Called when a client is in, right after the answer to its CONNECT.
    #[must_use]
    pub fn on_connect(mut self, greet: impl Fn(&Socket) + Send + Sync + 'static) -> Self {
        self.table.greeting = Some(Greeting::Now(Box::new(greet)));
        self
    }

    /// As [`Namespace::on_connect`]. What the client sends waits until it has ended, its answers to
    /// [`Socket::emit_with_ack`] too: to ask it something, spawn a task (`tokio::task::spawn_local`).
    #[must_use]
    pub fn on_connect_async<F>(mut self, greet: impl Fn(Socket) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        self.table.greeting = Some(Greeting::Later(Box::new(move |socket| Box::pin(greet(socket)))));
        self
    }

    /// Called for each event of that name.
    #[must_use]
    pub fn on(mut self, event: &str, handle: impl Fn(&Socket, Event<'_>) + Send + Sync + 'static) -> Self {
        self.table.events.insert(event.into(), Handler::Now(Box::new(handle)));
        self
    }

    /// As [`Namespace::on`]. Handlers of one client run side by side; while 64 of them are under way, its next packet
    /// waits.
    #[must_use]
    pub fn on_async<F>(
        mut self,
        event: &str,
        handle: impl Fn(Socket, Event<'static>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let handle: Box<OnEventLater> = Box::new(move |socket, event| Box::pin(handle(socket, event)));
        self.table.events.insert(event.into(), Handler::Later(handle));
        self
    }

    /// Called for every event, before the handler of its name. It may answer; an event without another handler has then
    /// had its answer.
    #[must_use]
    pub fn on_any(mut self, handle: impl Fn(&Socket, &mut Event<'_>) + Send + Sync + 'static) -> Self {
        self.table.any = Some(Box::new(handle));
        self
    }

    /// Called when a client has left or was lost, before it is taken out of its rooms.
    #[must_use]
    pub fn on_disconnect(mut self, handle: impl Fn(&Socket, CloseReason) + Send + Sync + 'static) -> Self {
        self.table.gone = Some(Box::new(handle));
        self
    }

    /// Called for each event of that name that another server sends to the servers (`io.serverSideEmit` in Node), where the
    /// namespace is shared with Node servers. What comes back is the answer, if one is wanted; of several arguments the
    /// first.
    #[must_use]
    pub fn on_server_event(
        mut self,
        event: &str,
        handle: impl Fn(&Io, Args<'static>) -> Option<Args<'static>> + Send + Sync + 'static,
    ) -> Self {
        self.table.server_events.insert(event.into(), Box::new(handle));
        self
    }

    pub(crate) fn limits(&self) -> Option<Limits> {
        self.limits
    }

    pub(crate) fn settings(self) -> NamespaceSettings {
        NamespaceSettings {
            entrance: self.entrance,
            recovery: self.recovery,
            ..NamespaceSettings::new(Behaviour::Handlers(Handlers(Arc::new(self.table))))
        }
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace").field("events", &self.table.events.keys()).finish_non_exhaustive()
    }
}

/// An application's handlers for one namespace.
#[derive(Clone)]
pub struct Handlers(Arc<Table>);

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.events.keys()).finish()
    }
}

impl PartialEq for Handlers {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Handlers {}

impl Handlers {
    /// Asks the application whether the applicant is let in.
    pub(crate) fn admit(&self, applicant: &Rc<Applicant>) -> Admission {
        match &self.0.gate {
            None => Admission::Decided(Some(Ok(()))),
            Some(Gate::Now(decide)) => Admission::Decided(calmly("admit", || decide(applicant))),
            Some(Gate::Later(decide)) => match calmly("admit", || decide(applicant.clone())) {
                Some(decision) => Admission::Asked(Calmly::new("admit", decision)),
                None => Admission::Decided(None),
            },
        }
    }

    /// Tells the application of a new client. What comes back is to be waited for before the client's next packet.
    pub(crate) fn greet(&self, socket: &Socket) -> Option<Later> {
        match self.0.greeting.as_ref()? {
            Greeting::Now(greet) => {
                if calmly("on_connect", || greet(socket)).is_none() {
                    socket.shard().end(socket.conn(), CloseReason::InternalError);
                }
                None
            }
            Greeting::Later(greet) => {
                let future = calmly("on_connect", || greet(socket.clone()));
                Some(Box::pin(run(socket.clone(), "on_connect", future)))
            }
        }
    }

    /// Has the application hear an event of another server.
    pub(crate) fn server_event(&self, io: &Io, event: &str, args: Args<'static>) -> Option<Args<'static>> {
        let handle = self.0.server_events.get(event)?;
        calmly("on_server_event", || handle(io, args)).flatten()
    }

    /// Tells the application that a client is gone.
    pub(crate) fn gone(&self, socket: &Socket, reason: CloseReason) {
        // First, so that the handler cannot send into a namespace that the client has left.
        socket.own().leave();
        if let Some(gone) = &self.0.gone {
            // The client is out already, so there is nothing to close after a panic.
            let _ = calmly("on_disconnect", || gone(socket, reason));
        }
    }
}

/// Whether somebody is let in.
pub(crate) enum Admission {
    /// `None`: the handler panicked.
    Decided(Option<Result<(), Refusal>>),
    Asked(Calmly<Result<(), Refusal>>),
}

/// Waits for a handler, and closes the connection of one that panics.
async fn run(socket: Socket, place: &'static str, future: Option<Local>) {
    let ended = match future {
        Some(future) => Calmly::new(place, future).await,
        None => None,
    };
    if ended.is_none() {
        socket.shard().end(socket.conn(), CloseReason::InternalError);
    }
}

/// Handles an event of a client.
pub(crate) fn event(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: Arc<SpaceCell>,
    handlers: &Handlers,
    ack_id: Option<u64>,
    payload: &str,
    attachments: Vec<Bytes>,
) -> Handled {
    let own = conn.with_socket(space.key.namespace.as_str(), |socket| socket.app.clone()).flatten();
    let Some(own) = own else { return Handled::Close(CloseReason::ProtocolError) };
    let wait = limits::admit(&shard.node, conn, &space, now_ms()).err();
    let socket = Socket::new(shard.clone(), conn.clone(), space, own);
    let Some(wait) = wait else { return handle(socket, handlers, ack_id, payload, attachments) };
    // Nothing is lost: the client's packets wait until its user may send again.
    let (handlers, payload) = (handlers.clone(), payload.to_owned());
    Handled::Later(Box::pin(async move {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        match handle(socket.clone(), &handlers, ack_id, &payload, attachments) {
            Handled::Done => {}
            Handled::Later(rest) => rest.await,
            Handled::Close(reason) => socket.shard().end(socket.conn(), reason),
        }
    }))
}

fn handle(socket: Socket, handlers: &Handlers, ack_id: Option<u64>, payload: &str, attachments: Vec<Bytes>) -> Handled {
    let Ok((name, args)) = socket_io::event_parts(payload) else {
        return Handled::Close(CloseReason::ProtocolError);
    };
    let table = &handlers.0;
    socket.count(EventLabel::of(&name));
    let ack = ack_id.map(|id| Ack::new(socket.clone(), id));
    let handler = table.events.get(&*name);
    let mut event = Event::new(name, args, attachments, ack);
    if let Some(any) = &table.any
        && calmly("on_any", || any(&socket, &mut event)).is_none()
    {
        return Handled::Close(CloseReason::InternalError);
    }
    match handler {
        // As in the reference server, an event nobody listens to is nobody's error.
        None => {}
        Some(Handler::Now(handle)) => match calmly("on", || handle(&socket, event)) {
            Some(()) => {}
            None => return Handled::Close(CloseReason::InternalError),
        },
        Some(Handler::Later(handle)) => {
            let Some(future) = calmly("on_async", || handle(socket.clone(), event.into_owned())) else {
                return Handled::Close(CloseReason::InternalError);
            };
            if let Some(rest) = start(&socket, future) {
                return Handled::Later(rest);
            }
        }
    }
    // A handler may have sent more than the workers can take: then this client waits for them.
    let node = &socket.shard().node;
    if node.can_publish() {
        return Handled::Done;
    }
    let node = node.clone();
    Handled::Later(Box::pin(async move { node.publishable().await }))
}

/// Lets an async handler run beside the others of its client; one too many is to be waited for.
fn start(socket: &Socket, future: Local) -> Option<Later> {
    let running = socket.own().running.get() + 1;
    socket.own().running.set(running);
    let socket = socket.clone();
    let task = async move {
        run(socket.clone(), "on_async", Some(future)).await;
        let running = &socket.own().running;
        running.set(running.get().saturating_sub(1));
    };
    if running >= MOST_RUNNING {
        return Some(Box::pin(task));
    }
    spawn_local(task);
    None
}

/// The client has answered an event of the application.
pub(crate) fn answered(conn: &Conn, namespace: &Name, ack_id: u64, payload: &str, attachments: Vec<Bytes>) {
    let own = conn.with_socket(namespace.as_str(), |socket| socket.app.clone()).flatten();
    if let Some(own) = own {
        own.answered(ack_id, payload, attachments);
    }
}
