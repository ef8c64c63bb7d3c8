//! Who is connected.

use std::rc::Rc;

use ::http::Method;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use smallvec::SmallVec;
use tidegate_auth::Scope;
use tidegate_hub::SocketId;
use tidegate_types::{ConnId, Millis, Namespace, NodeId, RoomName, ShardId, TenantId, UserId};

use super::action::Done;
use super::caller::Caller;
use super::pages::{self, Page, bad_cursor};
use super::refused::Refused;
use super::request::{self, Parameters, name};
use crate::across;
use crate::ask;
use crate::connection::{Conn, Io, NamespaceSocket};
use crate::shard::Shard;

/// Connections of one answer, by default and at most.
const LIMIT: usize = 100;
const MOST: usize = 1_000;
/// Places in a worker's table looked at for one answer: one with many strangers may therefore be short.
const MOST_LOOKED_AT: usize = 10_000;
/// Rooms named of one socket; their number is told in full.
const MOST_ROOMS: usize = 100;

/// One connection, as a backend sees it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    id: String,
    tenant: TenantId,
    user: UserId,
    transport: &'static str,
    address: String,
    since: Millis,
    messages_in: u32,
    messages_out: u32,
    bytes_in: u64,
    bytes_out: u64,
    namespaces: Vec<Socket>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Socket {
    namespace: Namespace,
    /// As the client knows itself; event streams have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<String>,
    rooms: Vec<RoomName>,
    room_count: usize,
}

/// Which connections are meant.
#[derive(Clone, Debug)]
pub(super) enum Whom {
    All(Option<TenantId>),
    User(TenantId, UserId),
    Conn(ConnId),
    Socket(SocketId),
}

impl Whom {
    /// A connection by the id of the listing, or by the one that its client knows.
    pub fn connection(id: &str, node: Option<NodeId>) -> Self {
        match place_of(id) {
            Some((of, id)) if of == node => Self::Conn(id),
            // Another node's: nobody here has that id.
            Some(_) | None => Self::Socket(SocketId::from(id)),
        }
    }

    pub fn is(&self, conn: &Conn) -> bool {
        let sockets = conn.sockets.borrow();
        match self {
            Self::All(None) => true,
            Self::All(Some(tenant)) => sockets.iter().any(|socket| socket.principal.tenant == *tenant),
            Self::User(tenant, user) => sockets.iter().any(|socket| self::user(socket, tenant, user)),
            Self::Conn(id) => conn.id == *id,
            Self::Socket(id) => !id.as_str().is_empty() && sockets.iter().any(|socket| socket.socket_id == *id),
        }
    }
}

fn user(socket: &NamespaceSocket, tenant: &TenantId, user: &UserId) -> bool {
    socket.principal.user == *user && socket.principal.tenant == *tenant
}

/// `worker.place.use`, in a cluster with the node before it: no id of Socket.IO has a dot.
fn write_id(node: Option<NodeId>, id: ConnId) -> String {
    let node = node.map_or_else(String::new, |node| format!("{node}."));
    format!("{node}{}.{}.{}", id.shard.0, id.slot, id.generation)
}

/// The node and the connection of an id that [`write_id`] wrote.
pub(super) fn place_of(text: &str) -> Option<(Option<NodeId>, ConnId)> {
    let parts: SmallVec<[&str; 4]> = text.split('.').take(5).collect();
    let (node, [shard, slot, generation]) = match parts[..] {
        [shard, slot, generation] => (None, [shard, slot, generation]),
        [node, shard, slot, generation] => (Some(node.parse().ok()?), [shard, slot, generation]),
        _ => return None,
    };
    let shard = ShardId(shard.parse().ok()?);
    Some((node, ConnId { shard, slot: slot.parse().ok()?, generation: generation.parse().ok()? }))
}

fn describe(shard: &Shard, conn: &Conn, caller: &Caller, whom: &Whom) -> Option<Connection> {
    let sockets = conn.sockets.borrow();
    let wanted = |socket: &&NamespaceSocket| {
        caller.sees(socket)
            && match whom {
                Whom::All(tenant) => tenant.as_ref().is_none_or(|tenant| socket.principal.tenant == *tenant),
                Whom::User(tenant, name) => user(socket, tenant, name),
                Whom::Conn(_) | Whom::Socket(_) => true,
            }
    };
    let seen: Vec<&NamespaceSocket> = sockets.iter().filter(wanted).collect();
    let principal = seen.first()?.principal.clone();
    let transport = match &*conn.io.borrow() {
        Io::WebSocket(_) => "websocket",
        Io::Polling(_) => "polling",
        Io::Events(_) => "sse",
        Io::Closed => return None,
    };
    let traffic = conn.traffic.get();
    Some(Connection {
        id: write_id(shard.node.id(), conn.id),
        tenant: principal.tenant.clone(),
        user: principal.user.clone(),
        transport,
        address: conn.address.to_string(),
        since: conn.since,
        messages_in: traffic.messages_in,
        messages_out: traffic.messages_out,
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
        namespaces: seen.into_iter().map(|socket| describe_socket(conn, caller, socket, transport == "sse")).collect(),
    })
}

fn describe_socket(conn: &Conn, caller: &Caller, socket: &NamespaceSocket, listens: bool) -> Socket {
    let space = socket.space.lock();
    let mut rooms = if listens { space.rooms_of_listener(conn.id) } else { space.rooms_of(conn.id) };
    drop(space);
    rooms.retain(|room| caller.key.opens_room(room));
    let room_count = rooms.len();
    rooms.truncate(MOST_ROOMS);
    let connection_id = Some(socket.socket_id.as_str().to_owned()).filter(|id| !id.is_empty());
    Socket { namespace: socket.space.key.namespace.clone(), connection_id, rooms, room_count }
}

/// All connections of a user.
pub(super) async fn of_user(
    shard: &Rc<Shard>,
    caller: &Caller,
    names: &[String],
    query: Option<&str>,
) -> Result<Done, Refused> {
    caller.needs(Scope::Connections)?;
    let user: UserId = name("user", names.first().map_or("", String::as_str))?;
    let mut parameters = Parameters::read(query)?;
    let tenant = caller.tenant(parameters.take_name("tenant")?)?;
    let limit = parameters.take_limit(LIMIT, MOST)?;
    parameters.end()?;
    let path = format!(
        "/users/{}/connections{}",
        request::encode(user.as_str()),
        request::query(&[("tenant", Some(tenant.as_str())), ("limit", Some(&limit.to_string()))])
    );
    let (asking, whom) = (caller.clone(), Whom::User(tenant, user));
    let found = ask::all(shard, move |shard| {
        let (caller, whom) = (asking.clone(), whom.clone());
        Box::pin(async move {
            let mut found = Vec::new();
            ask::walk(&shard, |conn| {
                if found.len() <= limit && whom.is(conn) {
                    found.extend(describe(&shard, conn, &caller, &whom));
                }
            })
            .await;
            found
        })
    });
    let found = found.await.map_err(|late| Refused::unavailable(late.to_string()))?;
    let mut found: Vec<Value> = found.into_iter().flatten().map(|connection| json!(connection)).collect();
    let mut more = found.len() > limit;
    let mut missing = Vec::new();
    if caller.asks_all(shard) {
        let answers = across::all(shard, &caller.question(Method::GET, path, Bytes::new())).await;
        for (_, mut answer) in answers.given {
            more |= answer.get("more").and_then(Value::as_bool).unwrap_or(false);
            let theirs = answer.get_mut("connections").and_then(Value::as_array_mut);
            found.append(theirs.unwrap_or(&mut Vec::new()));
        }
        more |= found.len() > limit;
        missing = answers.missing;
    }
    found.truncate(limit);
    let mut answer = json!({ "connections": found, "more": more });
    across::mark(&mut answer, &missing);
    Ok(Done::ok(&answer))
}

/// A part of all connections.
pub(super) async fn list(shard: &Rc<Shard>, caller: &Caller, query: Option<&str>) -> Result<Done, Refused> {
    caller.needs(Scope::Connections)?;
    let mut parameters = Parameters::read(query)?;
    let tenant: Option<TenantId> = caller.tenants(parameters.take_name("tenant")?)?;
    let limit = parameters.take_limit(LIMIT, MOST)?;
    let cursor = parameters.take("cursor");
    parameters.end()?;
    let whom = Whom::All(tenant.clone());
    let cursor = cursor.as_deref();
    let here = async |cursor: Option<&str>, limit: usize| page(shard, caller, &whom, cursor, limit).await;
    let own = shard.node.id().filter(|_| caller.asks_all(shard));
    let Some(own) = own else {
        let page = here(cursor, limit).await?;
        return Ok(Done::ok(&json!({ "connections": page.items, "cursor": page.next })));
    };
    let path = |cursor: Option<&str>, limit: usize| {
        let tenant = tenant.as_ref().map(TenantId::as_str);
        let query = [("tenant", tenant), ("limit", Some(&*limit.to_string())), ("cursor", cursor)];
        format!("/connections{}", request::query(&query))
    };
    let whole = pages::walk(shard, caller, own, (cursor, limit), "connections", here, path).await?;
    let found: Vec<Value> = whole.items.into_iter().map(|(_, connection)| connection).collect();
    let mut answer = json!({ "connections": found, "cursor": whole.next });
    across::mark(&mut answer, &whole.missing);
    Ok(Done::ok(&answer))
}

/// A page of this node's own connections.
async fn page(
    shard: &Rc<Shard>,
    caller: &Caller,
    whom: &Whom,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Page, Refused> {
    let from = cursor.map(place).transpose()?.unwrap_or((0, 0));
    let mut found: Vec<Value> = Vec::new();
    let mut next = None;
    let (first, mut slot) = from;
    for of in ask::shards(shard).filter(|of| of.0 >= first) {
        let wanted = limit - found.len();
        if wanted == 0 {
            next = Some((of.0, 0));
            break;
        }
        let (caller, whom) = (caller.clone(), whom.clone());
        let part = ask::one(shard, of, move |shard| {
            Box::pin(async move {
                let (conns, mut next) = shard.conns_from(slot, MOST_LOOKED_AT);
                let mut part = Vec::new();
                for conn in conns {
                    if part.len() == wanted {
                        next = Some(conn.id.slot);
                        break;
                    }
                    part.extend(describe(&shard, &conn, &caller, &whom));
                }
                (part, next)
            })
        });
        let (part, rest) = part.await.map_err(|late| Refused::unavailable(late.to_string()))?;
        found.extend(part.into_iter().map(|connection| json!(connection)));
        if let Some(rest) = rest {
            next = Some((of.0, rest));
            break;
        }
        slot = 0;
    }
    Ok(Page { items: found, next: next.map(|(shard, slot)| format!("{shard}.{slot}")) })
}

fn place(cursor: &str) -> Result<(u16, u32), Refused> {
    let read = cursor.split_once('.').and_then(|(shard, slot)| Some((shard.parse().ok()?, slot.parse().ok()?)));
    read.ok_or_else(bad_cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written() {
        let id = ConnId { shard: ShardId(3), slot: 17, generation: u32::MAX };
        for node in [None, Some(NodeId(7))] {
            assert_eq!(place_of(&write_id(node, id)), Some((node, id)));
        }
        for wrong in ["", "1.2", "1.2.3.4", "a.b.c", "70000.1.1", "1..2", "1.2.3.4.5", "oaK8_w-3nq2Yz0AAAB01"] {
            assert_eq!(place_of(wrong), None, "{wrong}");
        }
        assert!(place("3.17").is_ok() && place("3").is_err() && place("3.x").is_err());
    }
}
