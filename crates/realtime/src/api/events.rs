//! A room as an event stream.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use ::http::{HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tidegate_auth::{Principal, RoomAction};
use tidegate_hub::{Pid, Since, SocketId};
use tidegate_session::Transport;
use tidegate_types::{ErrorCode, Position, Publication, RoomKey, RoomName};
use tokio::task::spawn_blocking;

use super::refused::{Outcome, Refused, come_in};
use super::request::{namespace, space};
use super::ticket::unauthorized;
use crate::body::Body;
use crate::connection::{Conn, Io, NamespaceSocket, Protocol};
use crate::credentials::cookie;
use crate::heartbeat::new_session;
use crate::http::{Client, Streams, bearer, header, parameter};
use crate::node::{SpaceCell, now_ms};
use crate::shard::Shard;
use crate::sse::EventQueue;
use crate::webhooks;
use crate::{connect, expiry};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// As many stored messages are replayed to a stream that resumes.
const MOST_REPLAYED: usize = 10_000;
/// A client that lost its stream waits so long, ms; jittered, so that not all come back at once.
const RETRY_MS: u64 = 2_000;

/// Who wants to listen: by header, by one-time ticket, or by cookie.
fn listener(shard: &Rc<Shard>, request: &Request<Incoming>) -> Result<Arc<Principal>, Refused> {
    let headers = request.headers();
    if let Some(ticket) = parameter(request.uri().query(), "ticket") {
        let taken = connect::take_ticket(&shard.node, &ticket).map_err(|error| unauthorized(shard, error))?;
        return taken.ok_or_else(|| Refused::new(ErrorCode::Unauthorized, "The ticket is unknown, used or expired"));
    }
    let token = bearer(headers).or_else(|| cookie(headers, &shard.node.settings));
    connect::verify(&shard.node, token).map(Arc::new).map_err(|error| unauthorized(shard, error))
}

/// Opens the stream.
pub(super) async fn open(shard: &Rc<Shard>, request: Request<Incoming>, room: &RoomName, client: Client) -> Outcome {
    let principal = listener(shard, &request)?;
    let query = request.uri().query();
    let namespace = namespace(shard, parameter(query, "namespace").as_deref())?;
    let since = header(request.headers(), &LAST_EVENT_ID)
        .map(str::to_owned)
        .or_else(|| parameter(query, "since").or_else(|| parameter(query, "lastEventId")).map(String::from))
        .filter(|since| !since.is_empty());
    let space = space(shard, principal.tenant.clone(), namespace)?;
    let principal = match &space.webhooks {
        None => principal,
        Some(_) => Box::pin(ask_to_connect(shard, client.address, &space, principal)).await?,
    };
    if !principal.may(RoomAction::Join, room) {
        return Err(Refused::new(ErrorCode::Forbidden, "This token does not open the room"));
    }
    if space.webhooks.is_some() {
        let allowed = Box::pin(webhooks::may_join(shard, &space, &principal, None, room)).await;
        allowed.map_err(|message| Refused::new(ErrorCode::Forbidden, message))?;
    }
    come_in(shard, client.address)?;
    let (conn, incomplete) = subscribe(shard, &space, principal, room, client, since.as_deref());
    let body = match &*conn.io.borrow() {
        Io::Events(events) => Body::Events(events.stream(shard, &conn)),
        Io::WebSocket(_) | Io::Polling(_) | Io::Closed => Body::Empty,
    };
    if let Some(incomplete) = incomplete {
        fill_in(shard, &conn, &space, room, incomplete).await;
    }
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.extensions_mut().insert(Streams);
    Ok(response)
}

/// Asks the backends that want to be asked; who listens, with the grants that they add.
async fn ask_to_connect(
    shard: &Rc<Shard>,
    address: IpAddr,
    space: &SpaceCell,
    principal: Arc<Principal>,
) -> Result<Arc<Principal>, Refused> {
    let admitted = webhooks::may_connect(shard, address, "sse", space, principal).await;
    let admitted = admitted.map_err(|refused| Refused::new(ErrorCode::Forbidden, refused.message))?;
    Ok(admitted.principal)
}

/// A stream whose live messages wait for older ones from the store.
struct Incomplete {
    /// The last offset that the reader has.
    after: u64,
    /// The room's position when the live messages began.
    head: Position,
    /// What memory had of the room then.
    ring: Vec<Arc<Publication>>,
}

/// Enters a listener. What it missed is queued at once if memory reaches back; otherwise live messages wait for
/// [`fill_in`].
fn subscribe(
    shard: &Rc<Shard>,
    space: &Arc<SpaceCell>,
    principal: Arc<Principal>,
    room: &RoomName,
    client: Client,
    since: Option<&str>,
) -> (Rc<Conn>, Option<Incomplete>) {
    let conn = shard.open(|id| Conn {
        id,
        address: client.address,
        since: now_ms(),
        sid: None,
        protocol: Protocol::SocketIo,
        head: None,
        io: RefCell::new(Io::Events(EventQueue::new())),
        session: RefCell::new(new_session(Transport::Polling)),
        sockets: RefCell::new(SmallVec::new()),
        shown: None,
        traffic: Cell::default(),
        in_flight: Cell::new(0),
        activity: Cell::default(),
        waker: RefCell::new(None),
        on_end: RefCell::new(Some(client.on_end)),
    });
    shard.event_wheel.borrow_mut().enter(conn.id);
    let (joined, missed, ring) = shard.node.with_space(space, |hub, _| {
        let joined = hub.subscribe(conn.id, room, now_ms());
        let missed = since.map(|since| match since.parse::<Position>() {
            Ok(since) => hub.since(room, since),
            Err(_) => Since::Unknown,
        });
        let ring = if matches!(missed, Some(Since::Store { .. })) { hub.ring_of(room) } else { Vec::new() };
        (joined, missed, ring)
    });
    space.metrics.connections.inc();
    space.metrics.listening.inc();
    let mut socket = NamespaceSocket {
        space: space.clone(),
        principal,
        socket_id: SocketId::from(""),
        pid: Pid::from(""),
        limit: None,
        app: None,
        rooms: SmallVec::new(),
    };
    shard.add_member(&conn, &mut socket, joined.room_id, joined.seq);
    conn.sockets.borrow_mut().push(socket);
    expiry::watch(shard, &conn, now_ms());
    let mut incomplete = None;
    if let Io::Events(events) = &mut *conn.io.borrow_mut() {
        let retry = RETRY_MS + now_ms() % 1_000;
        match missed {
            None | Some(Since::UpToDate) => events.begin(retry, joined.position),
            Some(Since::Ring(publications)) => {
                events.retry(retry);
                let first = publications.first().and_then(|publication| publication.position);
                let from = first.map_or(joined.position.offset, |position| position.offset.saturating_sub(1));
                events.hold();
                events.release(room, from, joined.position, publications);
            }
            Some(Since::Store { after_offset }) => {
                events.retry(retry);
                events.hold();
                incomplete = Some(Incomplete { after: after_offset, head: joined.position, ring });
            }
            // A cursor of another life: everything up to now may be missing.
            Some(Since::Unknown) => {
                events.gap(room, 1, joined.position.offset);
                events.begin(retry, joined.position);
            }
        }
    }
    (conn, incomplete)
}

/// Reads from the store what memory no longer has, and merges it with what memory and the live room have.
async fn fill_in(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &Arc<SpaceCell>, room: &RoomName, incomplete: Incomplete) {
    let Incomplete { after, head, ring } = incomplete;
    let history = shard.node.history.clone();
    let key = RoomKey { tenant: space.key.tenant.clone(), namespace: space.key.namespace.clone(), room: room.clone() };
    let read = spawn_blocking(move || history.read(&key, after, MOST_REPLAYED)).await;
    let mut older = match read {
        Ok(Ok(stored)) => stored,
        Ok(Err(error)) => {
            tracing::error!(%error, "the history cannot be read for an event stream");
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    older.extend(ring);
    older.sort_by_key(|publication| publication.position.map(|position| position.offset));
    if let Io::Events(events) = &mut *conn.io.borrow_mut() {
        events.release(room, after, head, older);
    }
}
