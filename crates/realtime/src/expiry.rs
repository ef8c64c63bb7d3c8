//! The end of tokens: clients are told before it, may send a new one on the same connection, and are parted from the
//! namespaces that the old one opened if they do not. Also the parting of those whose token was revoked.
//!
//! There is no timer per connection: each turn of the wheels enters those that end soon into an ordered set, which a clock
//! per worker looks at.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use smallvec::SmallVec;
use tidegate_auth::{AuthError, Principal, Revocation};
use tidegate_types::{CloseReason, ConnId, Millis, Namespace};
use tidegate_wire::socket_io;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

use crate::app;
use crate::connect;
use crate::connection::Conn;
use crate::emit::{ack, emit, quoted};
use crate::input::Handled;
use crate::limits;
use crate::node::{SpaceCell, now_ms};
use crate::parting::Parting;
use crate::shard::Shard;
use crate::webhooks;

/// How late an end may be noticed.
const LOOK: Duration = Duration::from_millis(250);
/// How long the end of a polling session waits for a GET that can take the news, ms.
const POLL_GRACE_MS: Millis = 5_000;
/// A connection is entered at least so many rounds of its wheel before its token ends: a late turn must not miss it.
const ROUNDS_AHEAD: Millis = 2;

/// What comes at the time it is entered for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Notice,
    End,
}

/// What comes soon, in order. A connection that has ended by then is passed over. Bounded by the tokens that end within
/// two rounds of the wheels.
#[derive(Default)]
pub(crate) struct Expiries(BTreeSet<(Millis, ConnId, Step)>);

impl Expiries {
    fn due(&mut self, now: Millis) -> Option<(Millis, ConnId, Step)> {
        self.0.first().filter(|(at, ..)| *at <= now)?;
        self.0.pop_first()
    }
}

pub(crate) fn start(shard: &Rc<Shard>) {
    spawn_local(run(shard.clone()));
}

async fn run(shard: Rc<Shard>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let now = now_ms();
        let mut between = Vec::new();
        loop {
            let due = shard.expiries.borrow_mut().due(now);
            let Some((at, id, step)) = due else { break };
            let Some(conn) = shard.conn(id) else { continue };
            match step {
                Step::Notice => notify(&shard, &conn, at, now),
                // Who polls is told at its next GET, if that comes soon.
                Step::End if conn.is_between_polls() && now < at.saturating_add(POLL_GRACE_MS) => {
                    between.push((at, id, step));
                }
                Step::End => {
                    part(&shard, &conn, |principal| principal.expired(now), &EXPIRED);
                }
            }
        }
        shard.expiries.borrow_mut().0.extend(between);
    }
}

/// Enters what comes soon for a connection. To be called at each of its turns, and when it has got a token.
pub(crate) fn watch(shard: &Shard, conn: &Conn, now: Millis) {
    let settings = &shard.node.settings;
    let round = settings.session.ping_interval_ms.max(settings.sse_heartbeat_ms);
    let horizon = now.saturating_add(round.saturating_mul(ROUNDS_AHEAD));
    for end in conn.sockets.borrow().iter().filter_map(|socket| socket.principal.expires_at) {
        if end <= horizon {
            shard.expiries.borrow_mut().0.insert((end, conn.id, Step::End));
        }
        let notice = notice_at(shard, end);
        if conn.is_session() && notice > now && notice <= horizon {
            shard.expiries.borrow_mut().0.insert((notice, conn.id, Step::Notice));
        }
    }
}

fn notice_at(shard: &Shard, end: Millis) -> Millis {
    match shard.node.settings.expiry_notice_ms {
        0 => Millis::MAX,
        notice => end.saturating_sub(notice),
    }
}

/// A client has got a token for a namespace: at the connect, or a new one.
pub(crate) fn begin(shard: &Rc<Shard>, conn: &Rc<Conn>, namespace: &Namespace) {
    let end = conn.with_socket(namespace.as_str(), |socket| socket.principal.expires_at).flatten();
    let Some(end) = end else { return };
    let now = now_ms();
    if notice_at(shard, end) <= now {
        tell(shard, conn, namespace, end.saturating_sub(now));
    }
    watch(shard, conn, now);
}

fn notify(shard: &Rc<Shard>, conn: &Rc<Conn>, at: Millis, now: Millis) {
    let told: SmallVec<[(Namespace, Millis); 1]> = conn
        .sockets
        .borrow()
        .iter()
        .filter_map(|socket| Some((socket.space.key.namespace.clone(), socket.principal.expires_at?)))
        // Another token may have come since.
        .filter(|(_, end)| notice_at(shard, *end) == at)
        .collect();
    for (namespace, end) in told {
        tell(shard, conn, &namespace, end.saturating_sub(now));
    }
}

fn tell(shard: &Rc<Shard>, conn: &Rc<Conn>, namespace: &Namespace, left_ms: Millis) {
    emit(shard, conn, namespace, "auth:expiring", &format!(r#"{{"expiresIn":{left_ms}}}"#), None);
}

const EXPIRED: Parting<'static> = Parting {
    event: "auth:expired",
    data: r#"{"code":"TOKEN_EXPIRED","message":"Token expired"}"#,
    reason: CloseReason::TokenExpired,
    comes_back: false,
};
const REVOKED: Parting<'static> = Parting {
    event: "auth:revoked",
    data: r#"{"code":"TOKEN_REVOKED","message":"Token revoked"}"#,
    reason: CloseReason::TokenRevoked,
    comes_back: false,
};

/// Parts a connection from the namespaces that those principals opened, and ends it if none is left.
fn part(shard: &Rc<Shard>, conn: &Rc<Conn>, concerned: impl Fn(&Principal) -> bool, how: &Parting<'_>) -> bool {
    let namespaces: SmallVec<[Namespace; 1]> = conn
        .sockets
        .borrow()
        .iter()
        .filter(|socket| concerned(&socket.principal))
        .map(|socket| socket.space.key.namespace.clone())
        .collect();
    if namespaces.is_empty() {
        return false;
    }
    let is_last = conn.sockets.borrow().len() == namespaces.len();
    how.say(shard, conn, &namespaces, is_last);
    // Its outbox may have been full.
    if conn.is_closed() {
        return true;
    }
    if is_last {
        shard.end(conn, how.reason);
        return true;
    }
    for namespace in &namespaces {
        let socket = {
            let mut sockets = conn.sockets.borrow_mut();
            let index = sockets.iter().position(|socket| socket.space.key.namespace == *namespace);
            index.map(|index| sockets.remove(index))
        };
        conn.session.borrow_mut().remove(namespace);
        if let Some(socket) = socket {
            app::gone(shard, conn, &socket, how.reason);
            webhooks::disconnected(conn, &socket, how.reason);
            shard.forget_socket(conn, &socket, false, how.reason.recoverable());
            socket.space.metrics.disconnected(how.reason);
        }
    }
    true
}

/// Whether an event is `auth:refresh`, which every namespace knows; looked for in each event, so in its first bytes only.
pub(crate) fn is_refresh(payload: &str) -> bool {
    payload.starts_with(r#"["auth:refresh","#)
}

#[derive(Deserialize)]
struct Refresh<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
}

/// Handles `auth:refresh {token}`, answered with `{success, expiresAt?, error?}`.
pub(crate) fn refresh(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &SpaceCell,
    ack_id: Option<u64>,
    payload: &str,
) -> Handled {
    let namespace = &space.key.namespace;
    let Ok((_, args)) = socket_io::event_parts(payload) else { return Handled::Close(CloseReason::ProtocolError) };
    let token = serde_json::Deserializer::from_str(args).into_iter::<Refresh<'_>>().next();
    let renewed = limits::admit(&shard.node, conn, space, now_ms()).map_err(Refused::TooOften);
    let renewed = renewed.and_then(|()| match token {
        Some(Ok(Refresh { token })) => renew(shard, conn, namespace, &token),
        Some(Err(_)) | None => Err(Refused::Credential(AuthError::Missing)),
    });
    let answer = match &renewed {
        Ok(Some(end)) => format!(r#"{{"success":true,"expiresAt":{end}}}"#),
        Ok(None) => r#"{"success":true,"expiresAt":null}"#.to_owned(),
        Err(refused) => {
            let retry =
                if let Refused::TooOften(wait) = refused { format!(r#","retryAfter":{wait}"#) } else { String::new() };
            format!(r#"{{"success":false,"error":{}{retry}}}"#, quoted(&refused.to_string()))
        }
    };
    ack(shard, conn, namespace, ack_id, &answer);
    if renewed.is_ok() && !conn.is_closed() {
        begin(shard, conn, namespace);
    }
    Handled::Done
}

/// Why a new token was not taken. The old one counts on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Credential(AuthError),
    /// A connection's messages and rooms are one user's.
    #[error("The token is of another user")]
    OtherSubject,
    /// The user's budget of events is used up for so long, ms.
    #[error("Rate limit exceeded")]
    TooOften(Millis),
}

/// Gives a connection a new token, in all namespaces of the user that it is in. Answers when it ends, ms since the epoch.
pub(crate) fn renew(shard: &Shard, conn: &Conn, namespace: &Namespace, token: &str) -> Result<Option<Millis>, Refused> {
    let verified = connect::verify(&shard.node, Some(token)).map_err(|error| {
        connect::count_failure(&shard.node, error);
        Refused::Credential(error)
    })?;
    let is_same = |other: &Principal| other.tenant == verified.tenant && other.user == verified.user;
    if conn.with_socket(namespace.as_str(), |socket| is_same(&socket.principal)) != Some(true) {
        return Err(Refused::OtherSubject);
    }
    for socket in conn.sockets.borrow_mut().iter_mut().filter(|socket| is_same(&socket.principal)) {
        // What was granted at the connect beside the token is the connection's.
        let grants = socket.principal.grants.clone();
        socket.principal = Arc::new(Principal { grants, ..verified.clone() });
    }
    Ok(verified.expires_at)
}

/// Parts the worker's connections that a revocation concerns.
pub(crate) fn revoked(shard: &Rc<Shard>, revocation: &Revocation) {
    for conn in shard.conn_ids().into_iter().filter_map(|id| shard.conn(id)) {
        part(shard, &conn, |principal| revocation.concerns(principal), &REVOKED);
    }
}

/// Parts a connection that came in while its token was revoked.
pub(crate) fn part_if_revoked(shard: &Rc<Shard>, conn: &Rc<Conn>) {
    part(shard, conn, |principal| shard.node.revocations.is_revoked(principal), &REVOKED);
}
