//! What other servers want of the clients here: who they are, that they join or leave rooms, that they go.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use smallvec::SmallVec;
use tidegate_types::{CloseReason, Publication, RoomName};
use tidegate_wire::node_adapter::Selection;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::app::{Deed, Reach, Targets};
use crate::ask;
use crate::connection::Conn;
use crate::encoded::Encoded;
use crate::node::{Node, SpaceCell, now_ms};
use crate::operations;
use crate::shard::Shard;

/// A worker has so long for its part.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rooms of one page of a listing.
const PAGE: usize = 1_000;

/// Rooms by name. Those that no room can have are empty, and so is everything if there are only such.
pub(super) struct Named {
    rooms: Option<SmallVec<[RoomName; 2]>>,
    but: SmallVec<[RoomName; 2]>,
}

impl Named {
    pub fn new(of: &Selection) -> Self {
        let names = |names: &tidegate_wire::node_adapter::Names| {
            names.iter().filter_map(|name| RoomName::try_from(name).ok()).collect()
        };
        Self { rooms: (!of.rooms.is_empty()).then(|| names(&of.rooms)), but: names(&of.except) }
    }

    pub fn reach(&self, volatile: bool) -> Reach<'_> {
        Reach { rooms: self.rooms.as_deref(), but: &self.but, except: None, volatile }
    }
}

/// Has each worker with such clients do something to them; what it has done comes later.
fn begin<T: Send + 'static>(
    node: &Arc<Node>,
    cell: &Arc<SpaceCell>,
    of: &Selection,
    work: impl Fn(&Rc<Shard>, &Rc<Conn>) -> Option<T> + Clone + Send + 'static,
) -> Begun<T> {
    let (targets, shards) = Named::new(of).reach(false).find(node, cell);
    let begin = |shard| {
        let (answer, answered) = oneshot::channel();
        let (targets, work) = (targets.clone(), work.clone());
        ask::tell_one(node, shard, move |shard| {
            let done: Vec<T> = here(&targets, shard).filter_map(|conn| work(shard, &conn)).collect();
            // Who asked may have gone.
            let _ = answer.send(done);
        });
        answered
    };
    shards.iter().map(begin).collect()
}

/// Waits until all workers have done it.
pub(crate) async fn done<T>(begun: Begun<T>) -> Vec<T> {
    let mut all = Vec::new();
    for answered in begun {
        if let Ok(Ok(part)) = timeout(PATIENCE, answered).await {
            all.extend(part);
        }
    }
    all
}

type Begun<T> = Vec<oneshot::Receiver<Vec<T>>>;

/// The Socket.IO clients among those meant, on their worker.
fn here<'a>(targets: &'a Targets, shard: &'a Rc<Shard>) -> impl Iterator<Item = Rc<Conn>> + 'a {
    targets.here(shard).into_iter().filter_map(|id| targets.conn(shard, id)).filter(|conn| conn.is_session())
}

/// Puts clients into rooms.
pub(crate) fn join(node: &Arc<Node>, cell: &Arc<SpaceCell>, of: &Selection, rooms: Vec<RoomName>) -> Begun<()> {
    let space = cell.clone();
    begin(node, cell, of, move |shard, conn| {
        for room in &rooms {
            // Over a limit, the client stays out: nobody asks whether it is in.
            let _ = operations::join(shard, conn, &space, room, now_ms());
        }
        None
    })
}

/// Takes clients out of rooms.
pub(crate) fn leave(node: &Arc<Node>, cell: &Arc<SpaceCell>, of: &Selection, rooms: Vec<RoomName>) -> Begun<()> {
    let space = cell.clone();
    begin(node, cell, of, move |shard, conn| {
        for room in &rooms {
            drop(operations::leave(shard, conn, &space, room, now_ms()));
        }
        None
    })
}

/// Takes clients out of the namespace.
pub(super) fn disconnect(node: &Arc<Node>, cell: &Arc<SpaceCell>, of: &Selection, close: bool) -> Begun<()> {
    let index = cell.index;
    begin(node, cell, of, move |shard, conn| {
        Deed::Disconnect.carry_out(shard, conn, index);
        if close {
            shard.end(conn, CloseReason::Kicked);
        }
        None
    })
}

/// The sockets as Node describes them to each other, a JSON array. Nothing secret of the handshake is in it.
pub(crate) async fn fetch(node: &Arc<Node>, cell: &Arc<SpaceCell>, of: &Selection) -> String {
    let space = cell.clone();
    let found = done(begin(node, cell, of, move |_, conn| describe(conn, &space))).await;
    format!("[{}]", found.join(","))
}

fn describe(conn: &Conn, space: &SpaceCell) -> Option<String> {
    let (id, principal) = conn.with_socket(space.key.namespace.as_str(), |socket| {
        (socket.socket_id.as_str().to_owned(), socket.principal.clone())
    })?;
    let rooms: Vec<String> = std::iter::once(id.clone())
        .chain(space.lock().rooms_of(conn.id).iter().map(|room| room.as_str().to_owned()))
        .collect();
    let socket = json!({
        "id": id,
        "handshake": {
            "headers": {},
            "address": conn.address.to_string(),
            "xdomain": false,
            "secure": false,
            "issued": conn.since,
            "url": "",
            "query": {},
            "auth": {},
        },
        "rooms": rooms,
        "data": { "userId": principal.user.as_str(), "username": principal.username.as_deref() },
    });
    Some(socket.to_string())
}

/// The ids of sockets, a JSON array.
pub(super) async fn ids(node: &Arc<Node>, cell: &Arc<SpaceCell>, of: &Selection) -> String {
    let namespace = cell.key.namespace.clone();
    let id = move |_: &Rc<Shard>, conn: &Rc<Conn>| {
        conn.with_socket(namespace.as_str(), |socket| socket.socket_id.as_str().to_owned())
    };
    serde_json::Value::from(done(begin(node, cell, of, id)).await).to_string()
}

/// The rooms that somebody here is in.
pub(super) fn rooms(cell: &SpaceCell) -> Vec<String> {
    let mut names = Vec::new();
    let mut from = None;
    loop {
        let page = cell.lock().rooms_page(from, PAGE, now_ms());
        names.extend(page.items.into_iter().map(|room| room.room.as_str().to_owned()));
        match page.next {
            Some(next) => from = Some(next),
            None => return names,
        }
    }
}

/// Asks clients something; how many.
pub(crate) async fn question(
    node: &Arc<Node>,
    cell: &Arc<SpaceCell>,
    of: &Selection,
    publication: Arc<Publication>,
    ack_id: u64,
) -> usize {
    let space = cell.clone();
    let event = Arc::new(Encoded::question(publication, ack_id));
    let asked = begin(node, cell, of, move |shard, conn| {
        space.asked.expect(ack_id, conn.id);
        shard.tell(conn, &event).then_some(())
    });
    let asked = done(asked).await.len();
    cell.asked.all_asked(ack_id);
    asked
}
