//! What a signal does to this node's clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tidegate_cluster::Audience;
use tidegate_types::{Class, NodeId, Publication, RoomName, SpaceKey};
use tokio::task::spawn_local;

use super::codec::BadSignal;
use super::{Close, Far, FarDeed, Move, Said, Signal, Supersede, Tell, ToUsers};
use crate::api;
use crate::app::{Deed, Reach};
use crate::ask;
use crate::call::Call;
use crate::encoded::Encoded;
use crate::mailbox::Item;
use crate::node::{Node, now_ms, steady_ms};

/// A refused signal is told of at most so often, ms: whoever sends one may send thousands.
const TOLD_EVERY_MS: u64 = 10_000;

/// Does what another node tells. Called on the broker's thread.
pub(crate) fn heard(node: &Arc<Node>, from: NodeId, to: Audience, body: &Bytes) {
    match (Signal::decode(body), to) {
        (Ok(Signal::Tell(tell)), Audience::Room(space, room)) => self::tell(node, space, room, tell),
        // A message without its room.
        (Ok(Signal::Tell(_)), Audience::Nodes | Audience::Node(_)) => refuse(node, from, BadSignal::Field),
        (Ok(Signal::Far(far)), _) => self::far(node, far),
        (Ok(Signal::ToUsers(to)), _) => to_users(node, to),
        (Ok(Signal::Close(close)), _) => self::close(node, close),
        (Ok(Signal::Supersede(superseded)), _) => supersede(node, &superseded),
        (Ok(Signal::Revoke(revocation)), _) => node.shut_out(revocation),
        (Ok(Signal::Move(moved)), _) => move_user(node, moved),
        (Err(bad), _) => refuse(node, from, bad),
    }
}

fn refuse(node: &Node, from: NodeId, bad: BadSignal) {
    static TOLD_AT: AtomicU64 = AtomicU64::new(0);
    node.metrics.signals_refused.inc();
    let now = steady_ms().max(1);
    let told = TOLD_AT.load(Ordering::Relaxed);
    if (told == 0 || now.saturating_sub(told) >= TOLD_EVERY_MS)
        && TOLD_AT.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    {
        tracing::warn!(%from, %bad, "a signal of another node is refused; all are counted in tidegate_cluster_signals_refused_total");
    }
}

fn publication(space: Arc<SpaceKey>, room: RoomName, said: Said, class: Class, now: u64) -> Publication {
    let Said { event, data, attachments } = said;
    Publication { space, room, event, data, attachments, class, position: None, seq: 0, timestamp_ms: now }
}

fn tell(node: &Node, space: Arc<SpaceKey>, room: RoomName, tell: Tell) {
    let publication = publication(space, room, tell.said, Class::Volatile, tell.timestamp_ms);
    node.deliver_volatile(publication, tell.except.as_ref());
}

/// A room that none is: for what goes to no room. It is not shown.
fn nowhere() -> Option<RoomName> {
    RoomName::try_from("*").ok()
}

fn far(node: &Node, far: Far) {
    // Nobody is in a space that was never opened here.
    let Some(cell) = node.known(&far.space) else { return };
    let volatile = matches!(far.deed, FarDeed::Emit { volatile: true, .. });
    let deed = match far.deed {
        FarDeed::Disconnect => Deed::Disconnect,
        FarDeed::Emit { said, volatile } => {
            let class = if volatile { Class::Volatile } else { Class::Recoverable };
            let first = far.rooms.as_deref().and_then(|rooms| rooms.first().cloned());
            let Some(room) = first.or_else(nowhere) else { return };
            let publication = publication(cell.key.clone(), room, said, class, now_ms());
            Deed::Emit(Arc::new(Encoded::broadcast(Arc::new(publication))))
        }
    };
    let reach = Reach { rooms: far.rooms.as_deref(), but: &far.but, except: None, volatile };
    reach.carry_out(node, &cell, || deed);
}

fn to_users(node: &Node, to: ToUsers) {
    let (Some(cell), Some(room)) = (node.known(&to.space), nowhere()) else { return };
    let publication = publication(cell.key.clone(), room, to.said, Class::Volatile, now_ms());
    let event = Arc::new(cell.encode(Arc::new(publication)));
    let users = to.users.map(|users| Arc::new(users.into_iter().collect()));
    ask::tell_all(node, move |shard| {
        let (shard, event, users, except) = (shard.clone(), event.clone(), users.clone(), to.except.clone());
        let index = cell.index;
        spawn_local(async move { api::tell_users(&shard, index, &event, users.as_deref(), except.as_ref()).await });
    });
}

pub(crate) fn close(node: &Node, close: Close) {
    let close = Arc::new(close);
    ask::tell_all(node, move |shard| {
        let (shard, close) = (shard.clone(), close.clone());
        spawn_local(async move { api::close(&shard, &close).await });
    });
}

/// Closes connections of this node and of all others.
pub(crate) fn close_everywhere(node: &Node, close: Close) {
    let signal = Signal::Close(close.clone());
    if let Some(cluster) = &node.cluster {
        cluster.signal(Audience::Nodes, &signal);
    }
    self::close(node, close);
}

/// The session is the other node's now: nothing of it is kept here.
fn supersede(node: &Node, Supersede { space, pid, user }: &Supersede) {
    let Some(cell) = node.known(space) else { return };
    let old = node.with_space(&cell, |hub, effects| {
        let old = hub.live_holder(pid, user)?;
        hub.disconnect(old, false, now_ms(), effects);
        Some(old)
    });
    let Some(old) = old else { return };
    if let Some(mailbox) = node.mailbox(old.shard) {
        mailbox.push(Item::Call(Box::new(Call::Supersede { conn: old })));
    }
}

fn move_user(node: &Node, moved: Move) {
    let Some(cell) = node.known(&moved.space) else { return };
    let conns: Arc<[_]> = cell.lock().connections_of(&moved.user).into();
    if conns.is_empty() {
        return;
    }
    ask::tell_all(node, move |shard| {
        let (shard, cell, conns, room) = (shard.clone(), cell.clone(), conns.clone(), moved.room.clone());
        spawn_local(async move { api::move_here(&shard, &cell, &conns, &room, moved.join).await });
    });
}
