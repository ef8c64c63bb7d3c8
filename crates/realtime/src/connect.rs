//! The way into a namespace: who is it, and is it a session that was cut and comes back?

use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;
use smallvec::SmallVec;
use tidegate_auth::{AuthError, Principal, PrincipalKind};
use tidegate_cluster::Unavailable;
use tidegate_dialect::Reason;
use tidegate_hub::{NewSession, Pid, PresenceUpdate, SocketId, Who};
use tidegate_metrics::{AuthFailure, AuthFailureLabels, RateLimit, Recovery};
use tidegate_types::{InvalidPosition, Namespace, Publication, SessionOffset, SpaceKey, TenantId, UserId};
use tidegate_wire::socket_io;

use crate::app::{self, Applicant, Own};
use crate::comeback;
use crate::connection::{Conn, NamespaceSocket};
use crate::dialect_api;
use crate::emit::emit;
use crate::input::{Handled, Later};
use crate::limits::{self, Crowded};
use crate::namespaces::{Behaviour, Entrance, NamespaceSettings};
use crate::node::{Node, SpaceCell, now_ms};
use crate::operations;
use crate::rooms_api;
use crate::seats::Seated;
use crate::shard::Shard;
use crate::webhooks::{self, Admitted, NotAdmitted, WebhookEvent};
use crate::{expiry, id};

/// The longest auth payload read, bytes: a token, a pid and an offset fit many times.
const MAX_AUTH_BYTES: usize = 64 << 10;

/// The part of the auth payload that concerns the server. What an application adds is its own business.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    token: Option<String>,
    #[serde(deserialize_with = "text_or_nothing")]
    ticket: Option<String>,
    #[serde(deserialize_with = "text_or_nothing")]
    pid: Option<String>,
    #[serde(deserialize_with = "text_or_nothing")]
    offset: Option<String>,
}

/// An application may use these names for something else; that must not look like a bad token.
fn text_or_nothing<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().map(str::to_owned))
}

pub(crate) fn connect(shard: &Rc<Shard>, conn: &Rc<Conn>, namespace: Namespace, auth: &str) -> Handled {
    let Some(settings) = shard.node.settings.namespaces.get(&namespace).cloned() else {
        refuse(shard, conn, &namespace, "Invalid namespace");
        return Handled::Done;
    };
    let text = auth;
    let auth = if auth.is_empty() {
        Some(Auth::default())
    } else {
        Some(auth).filter(|auth| auth.len() <= MAX_AUTH_BYTES).and_then(|auth| serde_json::from_str(auth).ok())
    };
    let verified = match auth.as_ref() {
        _ if settings.entrance == Entrance::Unchecked => stranger(),
        None => Err(AuthError::Invalid),
        Some(given) => {
            let token = token(given, conn, settings.token_in_query);
            match (token, given.ticket.as_deref(), settings.entrance) {
                (None, Some(ticket), _) => {
                    let (ticket, text) = (Box::<str>::from(ticket), Box::<str>::from(text));
                    let (shard, conn) = (shard.clone(), conn.clone());
                    return Handled::Later(Box::pin(by_ticket(shard, conn, namespace, settings, ticket, text, auth)));
                }
                (None, None, Entrance::Open) => stranger(),
                (token, _, Entrance::Token | Entrance::Open | Entrance::Unchecked) => verify(&shard.node, token),
            }
        }
    };
    checked(shard, conn, namespace, settings, verified, text, auth)
}

async fn by_ticket(
    shard: Rc<Shard>,
    conn: Rc<Conn>,
    namespace: Namespace,
    settings: Arc<NamespaceSettings>,
    ticket: Box<str>,
    text: Box<str>,
    auth: Option<Auth>,
) {
    let taken = take_ticket(&shard.node, &ticket).await;
    if conn.is_closed() {
        return;
    }
    match taken {
        Ok(taken) => {
            let verified = taken.and_then(|taken| taken.ok_or(AuthError::Invalid));
            let rest = checked(&shard, &conn, namespace, settings, verified, &text, auth);
            operations::follow(&shard, &conn, rest).await;
        }
        Err(unavailable) => {
            let message = unavailable.to_string();
            refuse_as(&shard, &conn, &namespace, &settings.behaviour, Reason::Unavailable, &message);
        }
    }
}

/// It is known whether the client's credential is good.
fn checked(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    namespace: Namespace,
    settings: Arc<NamespaceSettings>,
    verified: Result<Principal, AuthError>,
    text: &str,
    auth: Option<Auth>,
) -> Handled {
    let principal = match verified {
        Ok(principal) => Arc::new(principal),
        Err(error) => {
            count_failure(&shard.node, error);
            refuse_as(shard, conn, &namespace, &settings.behaviour, Reason::AuthFailed, &error.to_string());
            return Handled::Done;
        }
    };
    let key = SpaceKey { tenant: principal.tenant.clone(), namespace };
    if shard.node.has_to_learn(&key) {
        let (shard, conn, text) = (shard.clone(), conn.clone(), Box::<str>::from(text));
        return Handled::Later(Box::pin(async move {
            shard.node.learn(&key).await;
            if !conn.is_closed() {
                operations::follow(&shard, &conn, arrive(&shard, &conn, &key, &settings, principal, &text, auth)).await;
            }
        }));
    }
    arrive(shard, conn, &key, &settings, principal, text, auth)
}

/// Somebody with a valid credential comes into a namespace. `text` is the auth payload, `auth` what it says.
fn arrive(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    key: &SpaceKey,
    settings: &NamespaceSettings,
    principal: Arc<Principal>,
    text: &str,
    auth: Option<Auth>,
) -> Handled {
    let space = match shard.node.space(key) {
        Ok(space) => space,
        Err(error) => {
            tracing::error!(%error, "a namespace cannot be opened");
            let message = AuthError::Failed.to_string();
            refuse_as(shard, conn, &key.namespace, &settings.behaviour, Reason::Unavailable, &message);
            return Handled::Done;
        }
    };
    if let Some(crowded) = crowded(&space, auth.as_ref().and_then(|auth| auth.pid.as_deref()), &principal) {
        space.metrics.limited(RateLimit::Connection).inc();
        refuse_crowded(shard, conn, &space, crowded);
        return Handled::Done;
    }
    let comeback = auth
        .filter(|_| settings.recovery)
        .and_then(|auth| Some((Pid::from(auth.pid?), auth.offset?.parse::<SessionOffset>())));
    if !webhooks::is_asked(&space, WebhookEvent::Connect) {
        return proceed(shard, conn, &space, principal, text, comeback);
    }
    let (shard, conn, text) = (shard.clone(), conn.clone(), Box::<str>::from(text));
    Handled::Later(Box::pin(async move {
        match webhooks::may_connect(&shard, conn.address, conn.transport(), &space, principal).await {
            _ if conn.is_closed() => {}
            Ok(admitted) => proceed_with(&shard, &conn, &space, admitted, &text, comeback).await,
            Err(refused) => {
                count_failure(&shard.node, AuthError::Failed);
                refuse_for_backend(&shard, &conn, &space, &refused);
            }
        }
    }))
}

/// Somebody with a valid credential has nothing against them here but what an application may have. `text` is the auth
/// payload.
fn proceed(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    principal: Arc<Principal>,
    text: &str,
    comeback: Comeback,
) -> Handled {
    if let Behaviour::Handlers(handlers) = &space.settings.behaviour {
        let text = if text.is_empty() || text.len() > MAX_AUTH_BYTES { "{}" } else { text };
        return app::connect(shard, conn, space, principal, handlers, text, comeback);
    }
    let_in(shard, conn, space, principal, None, comeback)
}

/// In the backend's words, or in those of the namespace if it has none.
fn refuse_for_backend(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &SpaceCell, refused: &NotAdmitted) {
    let namespace = &space.key.namespace;
    match &refused.code {
        Some(code) => {
            let error = serde_json::json!({ "message": refused.message, "data": { "code": code } });
            refuse_with(shard, conn, namespace, &error.to_string());
        }
        None => refuse_as(shard, conn, namespace, &space.settings.behaviour, Reason::Forbidden, &refused.message),
    }
}

/// The session that a client wants back, and what it has of it.
pub(crate) type Comeback = Option<(Pid, Result<SessionOffset, InvalidPosition>)>;

/// Lets somebody in whom nothing speaks against. `applicant` is who it is to the application whose namespace it is.
pub(crate) fn let_in(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    principal: Arc<Principal>,
    applicant: Option<Rc<Applicant>>,
    comeback: Comeback,
) -> Handled {
    let comeback = match comeback {
        Some((pid, Ok(offset))) => Some((pid, offset)),
        Some((_, Err(_))) => {
            space.metrics.recovery(Recovery::OtherEpoch);
            None
        }
        None => None,
    };
    let is_counted = shard.node.cluster.as_ref().is_some_and(|cluster| cluster.counts_connections(space));
    if comeback.is_none() && !is_counted {
        return enter(shard, conn, space, principal, applicant, None).map_or(Handled::Done, Handled::Later);
    }
    let (shard, conn, space) = (shard.clone(), conn.clone(), space.clone());
    Handled::Later(Box::pin(async move {
        let recovered = match comeback {
            Some((pid, offset)) => {
                comeback::come_back(&shard, &conn, &space, &principal, applicant.clone(), pid, offset).await
            }
            None => false,
        };
        if !recovered && !conn.is_closed() {
            match seat(&shard, &space, &principal).await {
                _ if conn.is_closed() => {}
                Ok(seated) => {
                    if let Some(rest) = enter(&shard, &conn, &space, principal, applicant, seated) {
                        rest.await;
                    }
                }
                Err(crowded) => {
                    space.metrics.limited(RateLimit::Connection).inc();
                    refuse_crowded(&shard, &conn, &space, crowded);
                }
            }
        }
        // The workers may have looked for its like while others were asked.
        expiry::part_if_revoked(&shard, &conn);
    }))
}

/// The connection's places among those of all nodes; nothing where they are not counted.
async fn seat(shard: &Shard, space: &SpaceCell, principal: &Principal) -> Result<Option<Box<Seated>>, Crowded> {
    let seat = shard.node.cluster.as_ref().and_then(|cluster| cluster.seat(space, &principal.user, false));
    match seat {
        Some(seat) => seat.await.map(|seated| Some(Box::new(seated))),
        None => Ok(None),
    }
}

/// As [`proceed`], with what backends give to the client.
async fn proceed_with(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    admitted: Admitted,
    text: &str,
    comeback: Comeback,
) {
    // Others of the user may have come in while the backend was asked.
    let pid = comeback.as_ref().map(|(pid, _)| pid.as_str());
    if let Some(crowded) = crowded(space, pid, &admitted.principal) {
        space.metrics.limited(RateLimit::Connection).inc();
        return refuse_crowded(shard, conn, space, crowded);
    }
    if let Handled::Later(rest) = proceed(shard, conn, space, admitted.principal, text, comeback) {
        rest.await;
    }
    // The workers may have looked for its like meanwhile, too.
    expiry::part_if_revoked(shard, conn);
    let now = now_ms();
    if let Some(presence) = admitted.presence {
        let update = PresenceUpdate { metadata: Some(presence), ..PresenceUpdate::default() };
        shard.node.with_space(space, |hub, fx| hub.update_presence(conn.id, update, now, fx));
    }
    for room in &admitted.rooms {
        match operations::join(shard, conn, space, room, now) {
            Ok(entered) => {
                if let Err(error) = entered.settled().await {
                    tracing::warn!(room = room.as_str(), %error, "a client is not in a room that a webhook names");
                    continue;
                }
                match &space.settings.behaviour {
                    Behaviour::Rooms => rooms_api::joined(shard, conn, space, room),
                    Behaviour::Dialect(dialect) => dialect_api::send_snapshot(shard, conn, space, dialect, room),
                    Behaviour::Handlers(_) => {}
                }
            }
            Err(error) => {
                tracing::debug!(room = room.as_str(), %error, "a client cannot join a room that a webhook names")
            }
        }
    }
}

/// Somebody who shows no token where none is needed.
fn stranger() -> Result<Principal, AuthError> {
    let user = UserId::try_from(format!("anonymous:{}", id::socket_id())).map_err(|_| AuthError::Failed)?;
    Ok(Principal { kind: PrincipalKind::Anonymous, ..Principal::new(TenantId::default_tenant(), user) })
}

/// The token that counts: the packet's, then the handshake's.
fn token<'a>(auth: &'a Auth, conn: &'a Conn, in_query: bool) -> Option<&'a str> {
    let shown = conn.shown.as_deref();
    auth.token
        .as_deref()
        .filter(|token| !token.is_empty())
        .or_else(|| shown?.token.as_deref())
        .or_else(|| shown?.in_query.as_deref().filter(|_| in_query))
}

/// Checks a token, if there is one.
pub(crate) fn verify(node: &Node, token: Option<&str>) -> Result<Principal, AuthError> {
    let token = token.filter(|token| !token.is_empty()).ok_or(AuthError::Missing)?;
    let principal = node.keys.verify(token, now_ms())?;
    if node.revocations.is_revoked(&principal) { Err(AuthError::Revoked) } else { Ok(principal) }
}

/// Whom a ticket lets in; `None` if there is no such ticket. Its token must count still.
///
/// # Errors
/// Tickets are the cluster's broker's to give out, and it cannot be reached.
pub(crate) async fn take_ticket(
    node: &Node,
    ticket: &str,
) -> Result<Result<Option<Principal>, AuthError>, Unavailable> {
    let taken = node.take_ticket(ticket).await?;
    Ok(match taken {
        None => Ok(None),
        Some(principal) if principal.expired(now_ms()) => Err(AuthError::Expired),
        Some(principal) if node.revocations.is_revoked(&principal) => Err(AuthError::Revoked),
        Some(principal) => Ok(Some(principal)),
    })
}

pub(crate) fn count_failure(node: &Node, error: AuthError) {
    let reason = match error {
        AuthError::Missing => AuthFailure::Missing,
        AuthError::Expired => AuthFailure::Expired,
        AuthError::Invalid => AuthFailure::Invalid,
        AuthError::Revoked => AuthFailure::Revoked,
        AuthError::Failed => AuthFailure::Failed,
    };
    node.metrics.auth_failures.get_or_create(&AuthFailureLabels { reason }).inc();
}

fn refuse(shard: &Rc<Shard>, conn: &Rc<Conn>, namespace: &Namespace, message: &str) {
    refuse_with(shard, conn, namespace, &serde_json::json!({ "message": message }).to_string());
}

/// Answers CONNECT with an error, a JSON object.
pub(crate) fn refuse_with(shard: &Rc<Shard>, conn: &Rc<Conn>, namespace: &Namespace, error: &str) {
    shard.send(conn, &[], |packet| {
        packet.push(b'4');
        socket_io::connect_error(packet, namespace.as_str(), error);
    });
}

/// Which limit of connections is reached. A connection that takes the place of one not yet known to be dead is no more
/// than there was.
fn crowded(space: &SpaceCell, pid: Option<&str>, principal: &Principal) -> Option<Crowded> {
    let hub = space.lock();
    let crowded = limits::crowded(space, &hub, &principal.user)?;
    let replaces = pid.is_some_and(|pid| hub.live_holder(&Pid::from(pid), &principal.user).is_some());
    (!replaces).then_some(crowded)
}

fn refuse_crowded(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &SpaceCell, crowded: Crowded) {
    let namespace = &space.key.namespace;
    match &space.settings.behaviour {
        Behaviour::Rooms | Behaviour::Handlers(_) => {
            let error = serde_json::json!({
                "message": "Rate limit exceeded",
                "data": { "code": crowded.code(), "message": crowded.message() },
            });
            refuse_with(shard, conn, namespace, &error.to_string());
        }
        Behaviour::Dialect(dialect) => {
            let reason = match crowded {
                Crowded::Tenant => Reason::ConnectionLimit,
                Crowded::User => Reason::UserConnectionLimit,
            };
            let refusal = dialect.refuse(reason, crowded.message());
            dialect_api::refuse_connection(shard, conn, namespace, dialect, &refusal);
        }
    }
}

/// In the words of the namespace.
fn refuse_as(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    namespace: &Namespace,
    behaviour: &Behaviour,
    reason: Reason,
    message: &str,
) {
    match behaviour {
        Behaviour::Rooms | Behaviour::Handlers(_) => refuse(shard, conn, namespace, message),
        Behaviour::Dialect(dialect) => {
            let refusal = dialect.refuse(reason, message.to_owned());
            dialect_api::refuse_connection(shard, conn, namespace, dialect, &refusal);
        }
    }
}

pub(crate) fn who(principal: &Principal) -> Who {
    Who { user: principal.user.clone(), username: principal.username.clone() }
}

/// Lets a client in with a new session. What comes back is to be waited for before its next packet.
fn enter(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    principal: Arc<Principal>,
    applicant: Option<Rc<Applicant>>,
    seated: Option<Box<Seated>>,
) -> Option<Later> {
    let pid = Pid::from(id::secret_id());
    let socket_id = SocketId::from(id::socket_id());
    let session = NewSession { pid: pid.clone(), socket_id: socket_id.clone(), token_expires_at: principal.expires_at };
    let now = now_ms();
    let offset = shard.node.with_space(space, |hub, effects| {
        hub.connect(conn.id, who(&principal), session, now, effects);
        SessionOffset { epoch: hub.epoch(), seq: hub.head_seq() }
    });
    let app = applicant.map(|applicant| Rc::new(Own::new(socket_id.clone(), applicant, false)));
    let socket = NamespaceSocket {
        space: space.clone(),
        principal,
        socket_id,
        pid,
        app,
        limit: None,
        seated,
        rooms: SmallVec::new(),
    };
    welcome(shard, conn, socket, offset, None);
    greet(shard, conn, space)
}

/// Tells the application of a new client.
pub(crate) fn greet(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &Arc<SpaceCell>) -> Option<Later> {
    let own = conn.with_socket(space.key.namespace.as_str(), |socket| socket.app.clone()).flatten()?;
    app::greet(shard, conn, space, own)
}

/// Answers CONNECT, replays what a client that has come back has missed, and says hello. The hello carries an offset, so
/// that a client that hears nothing else can recover.
pub(crate) fn welcome(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    socket: NamespaceSocket,
    offset: SessionOffset,
    missed: Option<&[Arc<Publication>]>,
) {
    let namespace = socket.space.key.namespace.clone();
    let settings = socket.space.settings.clone();
    let reply = if settings.recovery {
        format!(r#"{{"sid":"{}","pid":"{}"}}"#, socket.socket_id.as_str(), socket.pid.as_str())
    } else {
        format!(r#"{{"sid":"{}"}}"#, socket.socket_id.as_str())
    };
    let space = socket.space.clone();
    let hello = match &settings.behaviour {
        Behaviour::Rooms => rooms_api::established(&socket),
        Behaviour::Dialect(_) | Behaviour::Handlers(_) => String::new(),
    };
    conn.session.borrow_mut().accept(namespace.clone());
    socket.space.metrics.connections.inc();
    socket.space.metrics.connected.inc();
    webhooks::connected(conn, &socket, missed.is_some());
    if let Some(bridge) = &socket.space.bridge {
        bridge.entered(socket.socket_id.as_str(), conn.id);
    }
    conn.sockets.borrow_mut().push(socket);
    let replay = missed.unwrap_or_default();
    let held_back = !replay.is_empty();
    if held_back {
        shard.hold_back(conn, |held| {
            held.push(|packet| socket_io::connect(packet, namespace.as_str(), &reply));
            replay.iter().for_each(|publication| held.push_message(publication, settings.recovery));
        });
    } else {
        shard.send(conn, &[], |packet| {
            packet.push(b'4');
            socket_io::connect(packet, namespace.as_str(), &reply);
        });
    }
    let offset = settings.recovery.then(|| offset.to_string());
    match &settings.behaviour {
        Behaviour::Rooms => emit(shard, conn, &namespace, "connection:established", &hello, offset.as_deref()),
        Behaviour::Dialect(dialect) => {
            dialect_api::connected(shard, conn, &space, dialect, offset.as_deref(), missed.is_some());
        }
        // It is told of its client when all of this is done.
        Behaviour::Handlers(_) => {}
    }
    if held_back {
        shard.let_go(conn);
    }
    expiry::begin(shard, conn, &namespace);
}
