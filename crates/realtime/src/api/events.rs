//! Rooms as event streams: here one, in [`several`] more than one.

mod several;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use ::http::{HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tidegate_auth::{Principal, RoomAction};
use tidegate_hub::{Pid, PresenceChange, RoomId, Since, SocketId};
use tidegate_session::Transport;
use tidegate_types::{ErrorCode, Position, Publication, RoomKey, RoomName};
use tokio::task::spawn_blocking;

use super::refused::{Outcome, Refused, come_in};
use super::request::{flag, namespace, space};
use super::ticket::unauthorized;
use crate::body::Body;
use crate::connection::{Conn, Io, NamespaceSocket, Protocol};
use crate::credentials::cookie;
use crate::encoded::EventId;
use crate::heartbeat::new_session;
use crate::http::{Answer, Client, Streams, bearer, header, parameter};
use crate::node::{SpaceCell, now_ms};
use crate::opening::{self, Opened};
use crate::rooms_api::LISTED;
use crate::shard::Shard;
use crate::sse::EventQueue;
use crate::webhooks;
use crate::{connect, expiry};

pub(super) use several::open as open_several;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// As many stored messages are replayed to a stream that resumes.
const MOST_REPLAYED: usize = 10_000;
/// A client that lost its stream waits so long, ms; jittered, so that not all come back at once.
const RETRY_MS: u64 = 2_000;

/// Who wants to listen: by header, by one-time ticket, or by cookie.
async fn listener(shard: &Rc<Shard>, request: &Request<Incoming>) -> Result<Arc<Principal>, Refused> {
    let headers = request.headers();
    if let Some(ticket) = parameter(request.uri().query(), "ticket") {
        let taken = connect::take_ticket(&shard.node, &ticket).await;
        let taken = taken.map_err(|away| Refused::unavailable(away.to_string()).later(RETRY_MS))?;
        let taken = taken.map_err(|error| unauthorized(shard, error))?;
        let unknown = || Refused::new(ErrorCode::Unauthorized, "The ticket is unknown, used or expired");
        return taken.map(Arc::new).ok_or_else(unknown);
    }
    let token = bearer(headers).or_else(|| cookie(headers, &shard.node.settings));
    connect::verify(&shard.node, token).map(Arc::new).map_err(|error| unauthorized(shard, error))
}

/// Opens the stream.
pub(super) async fn open(shard: &Rc<Shard>, request: Request<Incoming>, room: &RoomName, client: Client) -> Outcome {
    let query = request.uri().query();
    let presence = flag("presence", parameter(query, "presence").as_deref())?.unwrap_or(false);
    let principal = listener(shard, &request).await?;
    let namespace = namespace(shard, parameter(query, "namespace").as_deref())?;
    let since = last_read(&request);
    let space = space(shard, principal.tenant.clone(), namespace)?;
    let principal = admit(shard, client.address, &space, principal, std::slice::from_ref(room)).await?;
    come_in(shard, client.address)?;
    let conn = enter(shard, &space, principal, client, EventQueue::new(EventId::Position, presence));
    let answer = answer(shard, &conn);
    open_rooms(shard, &conn, &space, std::slice::from_ref(room)).await?;
    if let Some(incomplete) = subscribe(shard, &conn, &space, room, since.as_deref()) {
        fill_in(shard, &conn, &space, room, incomplete).await;
    }
    show_presence(&conn, &space, room);
    Ok(answer)
}

/// Where the reader has stopped, as it says.
fn last_read(request: &Request<Incoming>) -> Option<String> {
    let query = request.uri().query();
    header(request.headers(), &LAST_EVENT_ID)
        .map(str::to_owned)
        .or_else(|| parameter(query, "since").or_else(|| parameter(query, "lastEventId")).map(String::from))
        .filter(|since| !since.is_empty())
}

/// As soon as it is dropped the stream ends.
fn answer(shard: &Rc<Shard>, conn: &Rc<Conn>) -> Answer {
    let body = match &*conn.io.borrow() {
        Io::Events(events) => Body::Events(events.stream(shard, conn)),
        Io::WebSocket(_) | Io::Polling(_) | Io::Closed => Body::Empty,
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.extensions_mut().insert(Streams);
    response
}

/// How long a client that loses the stream waits, ms.
fn retry_ms() -> u64 {
    RETRY_MS + now_ms() % 1_000
}

/// Tells the reader who is in a room, if it wants to know.
fn show_presence(conn: &Rc<Conn>, space: &SpaceCell, room: &RoomName) {
    let Io::Events(events) = &*conn.io.borrow() else { return };
    if !events.tells_presence() {
        return;
    }
    let (listed, count) = space.lock().presence(room, LISTED);
    if let Some(presence) = space.encode_presence(room.clone(), &PresenceChange::Update { listed, count }) {
        events.snapshot(&presence);
    }
}

/// Lets a listener into the rooms, if its token and the backends that want to be asked do; who listens, with the grants
/// that they add.
async fn admit(
    shard: &Rc<Shard>,
    address: IpAddr,
    space: &SpaceCell,
    principal: Arc<Principal>,
    rooms: &[RoomName],
) -> Result<Arc<Principal>, Refused> {
    let principal = match &space.webhooks {
        None => principal,
        Some(_) => Box::pin(ask_to_connect(shard, address, space, principal)).await?,
    };
    if let Some(closed) = rooms.iter().find(|room| !principal.may(RoomAction::Join, room)) {
        let message = format!("room {:?}: this token does not open it", closed.as_str());
        return Err(Refused::new(ErrorCode::Forbidden, message));
    }
    if space.webhooks.is_some() {
        for room in rooms {
            let allowed = Box::pin(webhooks::may_join(shard, space, &principal, None, room)).await;
            allowed.map_err(|why| Refused::new(ErrorCode::Forbidden, format!("room {:?}: {why}", room.as_str())))?;
        }
    }
    Ok(principal)
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

/// Enters a listener that is in no room yet.
fn enter(
    shard: &Rc<Shard>,
    space: &Arc<SpaceCell>,
    principal: Arc<Principal>,
    client: Client,
    events: EventQueue,
) -> Rc<Conn> {
    let conn = shard.open(|id| Conn {
        id,
        address: client.address,
        since: now_ms(),
        sid: None,
        protocol: Protocol::SocketIo,
        head: None,
        io: RefCell::new(Io::Events(events)),
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
    space.metrics.connections.inc();
    space.metrics.listening.inc();
    conn.sockets.borrow_mut().push(NamespaceSocket {
        space: space.clone(),
        principal,
        socket_id: SocketId::from(""),
        pid: Pid::from(""),
        limit: None,
        seated: None,
        app: None,
        rooms: SmallVec::new(),
    });
    expiry::watch(shard, &conn, now_ms());
    conn
}

/// In a cluster, waits until this node hears the rooms. The listener is subscribed to them from then on.
async fn open_rooms(shard: &Shard, conn: &Conn, space: &SpaceCell, rooms: &[RoomName]) -> Result<(), Refused> {
    if shard.node.cluster.is_none() {
        return Ok(());
    }
    let opening: Vec<Opened> = shard.node.with_space(space, |hub, effects| {
        let mut open = |room| hub.subscribe(conn.id, room, now_ms(), effects).opening;
        rooms.iter().filter(|room| open(room)).map(|room| space.opening.wait(room)).collect()
    });
    if opening::are_opened(opening).await {
        return Ok(());
    }
    Err(Refused::unavailable("The rooms cannot be opened now; ask again").later(RETRY_MS))
}

/// From now on the listener gets what comes after `seq` in a room that it is subscribed to.
fn go_live(shard: &Shard, conn: &Conn, room: RoomId, seq: u64) {
    if let Some(socket) = conn.sockets.borrow_mut().first_mut() {
        shard.add_member(conn, socket, room, seq);
    }
}

/// Subscribes a listener to a room. What it missed is queued at once if memory reaches back; otherwise live messages wait
/// for [`fill_in`].
fn subscribe(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    room: &RoomName,
    since: Option<&str>,
) -> Option<Incomplete> {
    // Who may not read what was sent before may not read it by coming back either.
    let may_read = conn.sockets.borrow().first().is_some_and(|of| of.principal.may(RoomAction::History, room));
    let (joined, missed, ring) = shard.node.with_space(space, |hub, effects| {
        let joined = hub.subscribe(conn.id, room, now_ms(), effects);
        let missed = since.map(|since| match since.parse::<Position>() {
            Ok(since) if may_read => hub.since(room, since),
            Ok(_) | Err(_) => Since::Unknown,
        });
        let ring = if matches!(missed, Some(Since::Store { .. })) { hub.ring_of(room) } else { Vec::new() };
        (joined, missed, ring)
    });
    go_live(shard, conn, joined.room_id, joined.seq);
    let Io::Events(events) = &mut *conn.io.borrow_mut() else { return None };
    match missed {
        None | Some(Since::UpToDate) => events.begin(retry_ms(), joined.position),
        Some(Since::Ring(publications)) => {
            events.retry(retry_ms());
            let first = publications.first().and_then(|publication| publication.position);
            let from = first.map_or(joined.position.offset, |position| position.offset.saturating_sub(1));
            events.hold();
            events.release(room, from, joined.position, publications);
        }
        Some(Since::Store { after_offset }) => {
            events.retry(retry_ms());
            events.hold();
            return Some(Incomplete { after: after_offset, head: joined.position, ring });
        }
        // A cursor of another life: everything up to now may be missing.
        Some(Since::Unknown) => {
            events.gap(room, 1, joined.position.offset);
            events.begin(retry_ms(), joined.position);
        }
    }
    None
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
