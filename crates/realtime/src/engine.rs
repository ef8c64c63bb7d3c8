//! Engine.IO over HTTP: handshakes, polls, posts, and the opening of WebSockets.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use smallvec::SmallVec;
use tidegate_session::{NodeTag, Sid, Transport};
use tidegate_transport as transport;
use tidegate_types::ShardId;
use tidegate_wire::engine_io::{HttpError, OpenPacket};
use tidegate_wire::websocket;
use tokio::task::spawn_local;

use crate::api::come_in;
use crate::body::Body;
use crate::call::Call;
use crate::connection::{Conn, Io, OnEnd, WebSocket};
use crate::credentials::Shown;
use crate::heartbeat::new_session;
use crate::http::{self as answers, Answer, BodyFailure, Client, Streams, TakeBack, engine_error, header, parameter};
use crate::id;
use crate::mailbox::Item;
use crate::polling::{self, PollReply, PollState};
use crate::shard::Shard;
use crate::websocket::{adopt, run};

pub(crate) async fn serve(shard: &Rc<Shard>, request: Request<Incoming>, client: Client) -> Answer {
    let query = request.uri().query();
    if parameter(query, "EIO").as_deref() != Some("4") {
        return refuse(&request, HttpError::UnsupportedProtocolVersion);
    }
    let transport = parameter(query, "transport");
    let sid = parameter(query, "sid").map(|sid| shard.node.sid_key.verify(&sid));
    match (transport.as_deref(), sid) {
        (Some("polling" | "websocket"), Some(Err(_))) => refuse(&request, HttpError::SessionIdUnknown),
        (Some("polling"), Some(Ok((sid, owner)))) => poll(shard, request, sid, owner).await,
        (Some("polling"), None) if request.method() != Method::GET => engine_error(HttpError::BadHandshakeMethod),
        (Some("polling"), None) if is_upgrade(request.headers()) => engine_error(HttpError::BadRequest),
        (Some("polling"), None) => open_polling(shard, &request, client),
        (Some("websocket"), sid) => open_websocket(shard, request, client, sid.and_then(Result::ok)),
        _ => refuse(&request, HttpError::TransportUnknown),
    }
}

/// A refused WebSocket handshake is answered in plain words, everything else in JSON, as the reference server does.
fn refuse(request: &Request<Incoming>, error: HttpError) -> Answer {
    if is_upgrade(request.headers()) {
        return answers::full(StatusCode::BAD_REQUEST, "text/html", error.message());
    }
    engine_error(error)
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    header(headers, &UPGRADE).is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
        && header(headers, &CONNECTION)
            .is_some_and(|connection| connection.split(',').any(|one| one.trim().eq_ignore_ascii_case("upgrade")))
}

async fn poll(shard: &Rc<Shard>, request: Request<Incoming>, sid: Sid, owner: NodeTag) -> Answer {
    if owner.node != shard.node.settings.node {
        return engine_error(HttpError::SessionIdUnknown);
    }
    let body = match *request.method() {
        Method::GET => None,
        Method::POST => {
            let most = shard.node.settings.session.max_payload_bytes;
            match answers::read_body(request.into_body(), most).await {
                Ok(body) => Some(body),
                Err(BodyFailure::TooLarge) => {
                    return payload_too_large();
                }
                Err(BodyFailure::Broken) => return engine_error(HttpError::BadRequest),
            }
        }
        _ => return engine_error(HttpError::BadRequest),
    };
    match polling::ask(shard, ShardId(owner.shard), sid, body).await {
        PollReply::Payload(payload) => answers::full(StatusCode::OK, "text/plain; charset=UTF-8", payload),
        PollReply::Taken => answers::full(StatusCode::OK, "text/html", "ok"),
        PollReply::Refused(error) => engine_error(error),
    }
}

fn payload_too_large() -> Answer {
    answers::full(StatusCode::PAYLOAD_TOO_LARGE, "text/html", "")
}

fn mint(shard: &Rc<Shard>) -> Sid {
    shard.node.sid_key.mint(id::random(), NodeTag { node: shard.node.settings.node, shard: shard.id.0 })
}

fn open_packet(shard: &Rc<Shard>, sid: &Sid, upgrades: &[&str]) -> String {
    let session = &shard.node.settings.session;
    let sid = sid.to_string();
    let open = OpenPacket {
        sid: &sid,
        upgrades,
        ping_interval_ms: session.ping_interval_ms,
        ping_timeout_ms: session.ping_timeout_ms,
        max_payload: session.max_payload_bytes as u64,
    };
    format!("0{}", open.to_json())
}

/// Parts of a connection that come from its first request.
struct Origin {
    address: IpAddr,
    shown: Option<Box<Shown>>,
    on_end: OnEnd,
}

fn enter(shard: &Rc<Shard>, sid: Option<Sid>, origin: Origin, transport: Transport, io: Io) -> Rc<Conn> {
    let conn = shard.open(|id| Conn {
        id,
        address: origin.address,
        sid: sid.map(Box::new),
        io: RefCell::new(io),
        session: RefCell::new(new_session(transport)),
        sockets: RefCell::new(SmallVec::new()),
        shown: origin.shown,
        traffic: Cell::default(),
        in_flight: Cell::new(0),
        activity: Cell::default(),
        waker: RefCell::new(None),
        on_end: RefCell::new(Some(origin.on_end)),
    });
    shard.wheel.borrow_mut().enter(conn.id);
    conn
}

fn open_polling(shard: &Rc<Shard>, request: &Request<Incoming>, client: Client) -> Answer {
    if let Err(refused) = come_in(shard, client.address) {
        return refused.into_answer(&client.request_id);
    }
    let sid = mint(shard);
    let origin = Origin {
        address: client.address,
        shown: Shown::by(request.headers(), request.uri(), &shard.node.settings),
        on_end: client.on_end,
    };
    enter(shard, Some(sid), origin, Transport::Polling, Io::Polling(PollState::default()));
    answers::full(StatusCode::OK, "text/plain; charset=UTF-8", open_packet(shard, &sid, &["websocket"]))
}

fn open_websocket(
    shard: &Rc<Shard>,
    mut request: Request<Incoming>,
    client: Client,
    session: Option<(Sid, NodeTag)>,
) -> Answer {
    let headers = request.headers();
    let key = header(headers, &SEC_WEBSOCKET_KEY).filter(|key| websocket::is_valid_key(key));
    let (true, true, Some(key)) = (request.method() == Method::GET, is_upgrade(headers), key) else {
        return engine_error(HttpError::BadRequest);
    };
    if header(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
        let mut answer = answers::full(StatusCode::UPGRADE_REQUIRED, "text/html", "");
        answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return answer;
    }
    let accept = websocket::accept_key(key);
    let take_back = client.take_back;
    let origin = Origin {
        address: client.address,
        shown: Shown::by(headers, request.uri(), &shard.node.settings),
        on_end: client.on_end,
    };
    match session {
        Some((sid, owner)) => {
            if owner.node != shard.node.settings.node || (owner.shard == shard.id.0 && shard.conn_of(&sid).is_none()) {
                return refuse(&request, HttpError::SessionIdUnknown);
            }
            let opening = Opening { upgrade: hyper::upgrade::on(&mut request), take_back };
            spawn_local(upgrade_session(shard.clone(), opening, sid, owner));
        }
        None => {
            if let Err(refused) = come_in(shard, client.address) {
                return refused.into_answer(&client.request_id);
            }
            let opening = Opening { upgrade: hyper::upgrade::on(&mut request), take_back };
            spawn_local(open_session(shard.clone(), opening, origin));
        }
    }
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response.extensions_mut().insert(Streams);
    response
}

/// A WebSocket on its way: the 101 has been answered, but not yet sent.
struct Opening {
    upgrade: OnUpgrade,
    take_back: TakeBack,
}

impl Opening {
    async fn stream(self) -> Option<(transport::Transport, Bytes)> {
        Some((self.take_back)(self.upgrade.await.ok()?))
    }
}

async fn open_session(shard: Rc<Shard>, opening: Opening, origin: Origin) {
    let Some((stream, read)) = opening.stream().await else {
        shard.node.door.leave(origin.address);
        return;
    };
    let sid = mint(&shard);
    let socket = WebSocket::new(stream, shard.node.settings.session.max_payload_bytes, Vec::new());
    let conn = enter(&shard, None, origin, Transport::WebSocket, Io::WebSocket(socket));
    let open = open_packet(&shard, &sid, &[]);
    shard.send(&conn, &[], |packet| packet.extend_from_slice(open.as_bytes()));
    // The handshake's large future ends here; what goes on is as small as an idle connection may be.
    // Its read buffer must end too: the bytes are copied out of it, if there are any.
    let early = read.to_vec();
    drop(read);
    spawn_local(async move {
        crate::websocket::resume(&shard, &conn, early).await;
        run(shard, conn).await;
    });
}

async fn upgrade_session(shard: Rc<Shard>, opening: Opening, sid: Sid, owner: NodeTag) {
    let Some((stream, read)) = opening.stream().await else { return };
    if owner.shard == shard.id.0 {
        adopt(&shard, &sid, stream, read);
    } else if let Some(mailbox) = shard.node.mailbox(ShardId(owner.shard))
        && let Ok(stream) = stream.into_portable()
    {
        mailbox.push(Item::Call(Box::new(Call::Upgrade { sid, stream, read })));
    }
}
