//! The rooms API for those who speak HTTP: a room as an event stream, publishing by backends, one-time tickets.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::SmallVec;
use tidegate_auth::{ApiKey, AuthError, Principal, RoomAction};
use tidegate_hub::{Message, Pid, Since, SocketId};
use tidegate_session::Transport;
use tidegate_types::{
    Class, ErrorCode, Namespace, Phase, Position, Publication, RoomKey, RoomName, SpaceKey, TenantId, UserId,
};
use tokio::task::spawn_blocking;

use crate::body::Body;
use crate::connect;
use crate::connection::{Conn, Io, NamespaceSocket};
use crate::heartbeat::new_session;
use crate::http::{Answer, BodyFailure, Client, Streams, bearer, decode, error, header, json, parameter, read_body};
use crate::id;
use crate::node::{SpaceCell, event_name, now_ms};
use crate::rooms_api::message_data;
use crate::shard::Shard;
use crate::sse::EventQueue;
use crate::tickets::TICKET_LIFE_MS;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The cookie that `EventSource` may bring its token in.
const COOKIE_NAME: &str = "tidegate_token";
/// As many stored messages are replayed to a stream that resumes.
const MOST_REPLAYED: usize = 10_000;
/// A client that lost its stream waits so long, ms; jittered, so that not all come back at once.
const RETRY_MS: u64 = 2_000;

/// What a request cannot have, and why.
struct Refused(ErrorCode, String);

type Outcome = Result<Answer, Refused>;

fn refused(code: ErrorCode, message: impl Into<String>) -> Refused {
    Refused(code, message.into())
}

pub(crate) async fn serve(shard: &Rc<Shard>, request: Request<Incoming>, client: Client) -> Answer {
    let request_id = client.request_id.clone();
    let outcome = route(shard, request, client).await;
    outcome.unwrap_or_else(|Refused(code, message)| error(code, &message, &request_id))
}

async fn route(shard: &Rc<Shard>, request: Request<Incoming>, client: Client) -> Outcome {
    let path = request.uri().path().to_owned();
    let rest = path.strip_prefix(shard.node.settings.api_path.as_str()).unwrap_or_default();
    let segments: SmallVec<[&str; 4]> = rest.trim_start_matches('/').split('/').collect();
    let method = request.method().clone();
    match (&*segments, method) {
        (["tickets"], Method::POST) => ticket(shard, &request),
        (["rooms", room, "events"], Method::GET) => events(shard, request, &room_name(room)?, client).await,
        (["rooms", room, "messages"], Method::POST) => publish(shard, request, room_name(room)?).await,
        (["tickets"] | ["rooms", _, "events" | "messages"], _) => {
            Err(refused(ErrorCode::MethodNotAllowed, "This method is not supported here"))
        }
        _ => Err(refused(ErrorCode::NotFound, "No such endpoint")),
    }
}

fn room_name(segment: &str) -> Result<RoomName, Refused> {
    RoomName::try_from(&*decode(segment, false))
        .map_err(|error| refused(ErrorCode::BadRequest, format!("Invalid room: it {error}")))
}

fn unauthorized(shard: &Rc<Shard>, error: AuthError) -> Refused {
    connect::count_failure(&shard.node, error);
    refused(ErrorCode::Unauthorized, error.to_string())
}

fn ticket(shard: &Rc<Shard>, request: &Request<Incoming>) -> Outcome {
    let principal =
        connect::verify(&shard.node, bearer(request.headers())).map_err(|error| unauthorized(shard, error))?;
    let ticket = id::secret_id();
    if !shard.node.tickets.put(&ticket, Arc::new(principal), now_ms()) {
        return Err(refused(ErrorCode::Unavailable, "Too many tickets are waiting to be used"));
    }
    let seconds = TICKET_LIFE_MS / 1_000;
    Ok(json(StatusCode::CREATED, format!(r#"{{"ticket":"{ticket}","expiresIn":{seconds}}}"#)))
}

/// Who wants to listen: by header, by one-time ticket, or by cookie.
fn listener(shard: &Rc<Shard>, request: &Request<Incoming>) -> Result<Arc<Principal>, Refused> {
    let headers = request.headers();
    if let Some(ticket) = parameter(request.uri().query(), "ticket") {
        return shard
            .node
            .tickets
            .take(&ticket, now_ms())
            .ok_or_else(|| refused(ErrorCode::Unauthorized, "The ticket is unknown, used or expired"));
    }
    let token = bearer(headers).or_else(|| cookie(headers));
    connect::verify(&shard.node, token).map(Arc::new).map_err(|error| unauthorized(shard, error))
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';')).find_map(
        |pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == COOKIE_NAME).then_some(value)
        },
    )
}

async fn events(shard: &Rc<Shard>, request: Request<Incoming>, room: &RoomName, client: Client) -> Outcome {
    if shard.phase() != Phase::Serving {
        return Err(refused(ErrorCode::Unavailable, "The server is shutting down"));
    }
    let principal = listener(shard, &request)?;
    if !principal.may(RoomAction::Join, room) {
        return Err(refused(ErrorCode::Forbidden, "This token does not open the room"));
    }
    let query = request.uri().query();
    let namespace = namespace(shard, parameter(query, "namespace").as_deref())?;
    let since = header(request.headers(), &LAST_EVENT_ID)
        .map(str::to_owned)
        .or_else(|| parameter(query, "since").or_else(|| parameter(query, "lastEventId")).map(String::from))
        .filter(|since| !since.is_empty());
    let space = open_space(shard, principal.tenant.clone(), namespace)?;
    if !shard.node.connection_opened() {
        return Err(refused(ErrorCode::Unavailable, "Too many connections"));
    }
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

fn namespace(shard: &Shard, name: Option<&str>) -> Result<Namespace, Refused> {
    let namespace = Namespace::try_from(name.unwrap_or("/"));
    let namespace = namespace.ok().filter(|namespace| shard.node.settings.namespaces.get(namespace).is_some());
    namespace.ok_or_else(|| refused(ErrorCode::NotFound, "Invalid namespace"))
}

fn open_space(shard: &Rc<Shard>, tenant: TenantId, namespace: Namespace) -> Result<Arc<SpaceCell>, Refused> {
    shard.node.space(&SpaceKey { tenant, namespace }).map_err(|error| {
        tracing::error!(%error, "a namespace cannot be opened");
        refused(ErrorCode::Unavailable, "The history store does not answer")
    })
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
        sid: None,
        io: RefCell::new(Io::Events(EventQueue::new())),
        session: RefCell::new(new_session(Transport::Polling)),
        sockets: RefCell::new(SmallVec::new()),
        bearer: RefCell::new(None),
        limit: RefCell::new(None),
        traffic: Cell::default(),
        in_flight: Cell::new(0),
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
        rooms: SmallVec::new(),
    };
    shard.add_member(&conn, &mut socket, joined.room_id, joined.seq);
    conn.sockets.borrow_mut().push(socket);
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

#[derive(Deserialize)]
struct NewMessage<'a> {
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default)]
    persistent: bool,
    #[serde(default)]
    volatile: bool,
    from: Option<String>,
    tenant: Option<String>,
    namespace: Option<String>,
}

fn api_key<'a>(shard: &'a Rc<Shard>, headers: &HeaderMap) -> Result<&'a ApiKey, Refused> {
    let secret = header(headers, &API_KEY).or_else(|| bearer(headers));
    let secret = secret.ok_or_else(|| {
        refused(ErrorCode::Unauthorized, "An API key is required: Authorization: Bearer KEY, or X-Api-Key: KEY")
    })?;
    shard.node.settings.api_keys.find(secret).ok_or_else(|| refused(ErrorCode::Unauthorized, "Invalid API key"))
}

async fn publish(shard: &Rc<Shard>, request: Request<Incoming>, room: RoomName) -> Outcome {
    let key = api_key(shard, request.headers())?.clone();
    let most = shard.node.settings.session.max_payload_bytes;
    let body = read_body(request.into_body(), most).await.map_err(|failure| match failure {
        BodyFailure::TooLarge => {
            refused(ErrorCode::PayloadTooLarge, format!("The message is larger than {most} bytes"))
        }
        BodyFailure::Broken => refused(ErrorCode::BadRequest, "The body broke off"),
    })?;
    let body: NewMessage<'_> = serde_json::from_slice(&body)
        .map_err(|error| refused(ErrorCode::BadRequest, format!("The body is not as expected: {error}")))?;
    let named = body.tenant.as_deref().map(TenantId::try_from).transpose();
    let named = named.map_err(|error| refused(ErrorCode::BadRequest, format!("Invalid tenant: it {error}")))?;
    let tenant = match (key.tenant(), named) {
        (Some(bound), Some(named)) if *bound != named => {
            return Err(refused(ErrorCode::Forbidden, "This API key belongs to another tenant"));
        }
        (Some(bound), _) => bound.clone(),
        (None, named) => named.unwrap_or_else(TenantId::default_tenant),
    };
    let namespace = namespace(shard, body.namespace.as_deref())?;
    let from = body.from.unwrap_or_else(|| key.id().to_owned());
    let from = UserId::try_from(from)
        .map_err(|error| refused(ErrorCode::BadRequest, format!("Invalid sender: it {error}")))?;
    let space = open_space(shard, tenant, namespace)?;
    shard.node.publishable().await;
    let now = now_ms();
    let id = shard.node.message_ids.next(now);
    let class = match (body.persistent, body.volatile) {
        (true, _) => Class::Persistent,
        (false, true) => Class::Volatile,
        (false, false) => Class::Recoverable,
    };
    let data = message_data(&id, &room, from.as_str(), body.payload.get(), now);
    let message = Message { room, event: event_name("room:message"), data, attachments: Arc::from([]), class };
    let published = shard.node.publish(&space, message, now);
    let (published, durable) =
        published.ok_or_else(|| refused(ErrorCode::Unavailable, "The history store is behind; send it again"))?;
    if let Some(durable) = durable
        && durable.await != Ok(true)
    {
        return Err(refused(ErrorCode::Unavailable, "The message could not be stored; send it again"));
    }
    let position = published.publication.position.map(|position| position.to_string());
    let answer = serde_json::json!({ "success": true, "messageId": id, "position": position });
    Ok(json(StatusCode::OK, answer.to_string()))
}
