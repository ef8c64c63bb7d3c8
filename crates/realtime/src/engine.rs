//! Engine.IO over HTTP: handshakes, polls, posts, and the opening of WebSockets.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use smallvec::SmallVec;
use tidegate_session::{NodeTag, Sid, Transport};
use tidegate_transport as transport;
use tidegate_types::ShardId;
use tidegate_wire::engine_io::{HttpError, OpenPacket};
use tokio::task::spawn_local;

use crate::api::come_in;
use crate::app::{self, Endpoint, Head, LinkState};
use crate::call::Call;
use crate::compression::Compression;
use crate::connection::{Conn, Io, OnEnd, Protocol, WebSocket};
use crate::credentials::Shown;
use crate::handshake::{Handshake, NoHandshake, is_upgrade, other_version};
use crate::heartbeat::new_session;
use crate::http::{self as answers, Answer, BodyFailure, Client, TakeBack, engine_error, parameter};
use crate::id;
use crate::mailbox::Item;
use crate::node::now_ms;
use crate::polling::{self, PollReply, PollState};
use crate::shard::Shard;
use crate::upgrade::adopt;
use crate::websocket::run;

/// Serves Engine.IO, for Socket.IO or for an endpoint of the application.
pub(crate) async fn serve(
    shard: &Rc<Shard>,
    request: Request<Incoming>,
    client: Client,
    endpoint: Option<Endpoint>,
) -> Answer {
    let query = request.uri().query();
    if parameter(query, "EIO").as_deref() != Some("4") {
        return refuse(&request, HttpError::UnsupportedProtocolVersion);
    }
    let transport = parameter(query, "transport");
    let sid = parameter(query, "sid").filter(|sid| !sid.is_empty()).map(|sid| shard.node.sid_key.verify(&sid));
    // A page that asks for a script (JSONP) is of the time before CORS; its answer could be read by any page.
    if transport.as_deref() == Some("polling") && parameter(query, "j").is_some() {
        return refuse(&request, HttpError::BadRequest);
    }
    match (transport.as_deref(), sid) {
        (Some("polling" | "websocket"), Some(Err(_))) => refuse(&request, HttpError::SessionIdUnknown),
        (Some("polling"), Some(Ok((sid, owner)))) => poll(shard, request, sid, owner).await,
        (Some("polling"), None) if request.method() != Method::GET => engine_error(HttpError::BadHandshakeMethod),
        (Some("polling"), None) if is_upgrade(request.headers()) => engine_error(HttpError::BadRequest),
        (Some("polling"), None) => open_polling(shard, &request, client, endpoint),
        (Some("websocket"), sid) => {
            let speaks = endpoint.map_or(Speaks::SocketIo, Speaks::Engine);
            open_websocket(shard, request, client, sid.and_then(Result::ok), speaks)
        }
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

async fn poll(shard: &Rc<Shard>, request: Request<Incoming>, sid: Sid, owner: NodeTag) -> Answer {
    if owner.node != shard.node.number() {
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
    shard.node.sid_key.mint(id::random(), NodeTag { node: shard.node.number(), shard: shard.id.0 })
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
    head: Option<Rc<Head>>,
    protocol: Protocol,
}

/// What a WebSocket that opens is to speak.
pub(crate) enum Speaks {
    SocketIo,
    Engine(Endpoint),
    WebSocket(Endpoint),
    Lines,
}

impl Origin {
    fn of(shard: &Shard, request: &Request<Incoming>, address: IpAddr, on_end: OnEnd, speaks: Speaks) -> Self {
        let link = |endpoint| Rc::new(LinkState::new(endpoint, Head::of(request)));
        let (protocol, head) = match speaks {
            // Nobody but an application asks for them.
            Speaks::SocketIo => {
                let head = shard.node.settings.app.is_some().then(|| Rc::new(Head::of(request)));
                (Protocol::SocketIo, head)
            }
            Speaks::Lines => (Protocol::Lines, shard.node.settings.app.is_some().then(|| Rc::new(Head::of(request)))),
            Speaks::Engine(endpoint) => (Protocol::Engine(link(endpoint)), None),
            Speaks::WebSocket(endpoint) => (Protocol::WebSocket(link(endpoint)), None),
        };
        let shown = Shown::by(request.headers(), request.uri(), &shard.node.settings);
        Self { address, shown, on_end, head, protocol }
    }
}

fn enter(shard: &Rc<Shard>, sid: Option<Sid>, origin: Origin, transport: Transport, io: Io) -> Rc<Conn> {
    let conn = shard.open(|id| Conn {
        id,
        address: origin.address,
        since: now_ms(),
        sid: sid.map(Box::new),
        protocol: origin.protocol,
        head: origin.head,
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
    if conn.protocol.link().is_some() {
        // There is no CONNECT to wait for.
        conn.session.borrow_mut().greet();
    }
    let pinged = match &conn.protocol {
        Protocol::SocketIo | Protocol::Engine(_) | Protocol::Lines => true,
        Protocol::WebSocket(link) => link.endpoint.is_pinged(),
    };
    if pinged {
        shard.wheel.borrow_mut().enter(conn.id);
    }
    conn
}

fn open_polling(shard: &Rc<Shard>, request: &Request<Incoming>, client: Client, endpoint: Option<Endpoint>) -> Answer {
    if let Err(refused) = come_in(shard, client.address) {
        return refused.into_answer(&client.request_id);
    }
    let sid = mint(shard);
    let speaks = endpoint.map_or(Speaks::SocketIo, Speaks::Engine);
    let origin = Origin::of(shard, request, client.address, client.on_end, speaks);
    let conn = enter(shard, Some(sid), origin, Transport::Polling, Io::Polling(PollState::default()));
    app::opened(shard, &conn);
    answers::full(StatusCode::OK, "text/plain; charset=UTF-8", open_packet(shard, &sid, &["websocket"]))
}

/// Opens a WebSocket: for a new session, for one that polls, or for an endpoint that has no sessions.
pub(crate) fn open_websocket(
    shard: &Rc<Shard>,
    mut request: Request<Incoming>,
    client: Client,
    session: Option<(Sid, NodeTag)>,
    speaks: Speaks,
) -> Answer {
    let threshold = shard.node.settings.compression_threshold;
    let handshake = match Handshake::read(&request, threshold.is_some()) {
        Ok(handshake) => handshake,
        Err(NoHandshake::Version) => return other_version(),
        Err(NoHandshake::Malformed) => return refuse(&request, HttpError::BadRequest),
    };
    let compression = Compression::new(handshake.deflate, threshold.unwrap_or(0));
    let take_back = client.take_back;
    match session {
        Some((sid, owner)) => {
            if owner.node != shard.node.number() || (owner.shard == shard.id.0 && shard.conn_of(&sid).is_none()) {
                return refuse(&request, HttpError::SessionIdUnknown);
            }
            let opening = Opening { upgrade: hyper::upgrade::on(&mut request), take_back, compression };
            spawn_local(upgrade_session(shard.clone(), opening, sid, owner));
        }
        None => {
            if let Err(refused) = come_in(shard, client.address) {
                return refused.into_answer(&client.request_id);
            }
            let origin = Origin::of(shard, &request, client.address, client.on_end, speaks);
            let opening = Opening { upgrade: hyper::upgrade::on(&mut request), take_back, compression };
            spawn_local(open_session(shard.clone(), opening, origin));
        }
    }
    handshake.answer()
}

/// A WebSocket on its way: the 101 has been answered, but not yet sent.
struct Opening {
    upgrade: OnUpgrade,
    take_back: TakeBack,
    compression: Compression,
}

impl Opening {
    async fn stream(self) -> Option<(transport::Transport, Bytes)> {
        Some((self.take_back)(self.upgrade.await.ok()?))
    }
}

async fn open_session(shard: Rc<Shard>, opening: Opening, origin: Origin) {
    let compression = opening.compression;
    let Some((stream, read)) = opening.stream().await else {
        shard.node.door.leave(origin.address);
        return;
    };
    let socket = WebSocket::new(stream, shard.node.settings.session.max_payload_bytes, Vec::new(), compression);
    let conn = enter(&shard, None, origin, Transport::WebSocket, Io::WebSocket(socket));
    match &conn.protocol {
        Protocol::SocketIo | Protocol::Engine(_) => {
            let open = open_packet(&shard, &mint(&shard), &[]);
            shard.send(&conn, &[], |packet| packet.extend_from_slice(open.as_bytes()));
        }
        Protocol::Lines => {
            if let Io::WebSocket(socket) = &mut *conn.io.borrow_mut() {
                socket.sink.speak_lines();
            }
        }
        Protocol::WebSocket(_) => {}
    }
    app::opened(&shard, &conn);
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
    let compression = opening.compression;
    let Some((stream, read)) = opening.stream().await else { return };
    if owner.shard == shard.id.0 {
        adopt(&shard, &sid, stream, read, compression);
    } else if let Some(mailbox) = shard.node.mailbox(ShardId(owner.shard))
        && let Ok(stream) = stream.into_portable()
    {
        mailbox.push(Item::Call(Box::new(Call::Upgrade { sid, stream, read, compression })));
    }
}
