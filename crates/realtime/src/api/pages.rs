//! Listings of a whole cluster, page by page: the entries of one node after the other, in the order of the nodes' ids. A
//! cursor names the node and the place there, so that a node that comes or goes between two pages moves no entry of
//! another.

use std::rc::Rc;

use ::http::Method;
use bytes::Bytes;
use serde_json::Value;
use tidegate_types::NodeId;
use tokio::time::Instant;

use super::caller::Caller;
use super::refused::Refused;
use crate::across::{self, Missing};
use crate::peers::PeerAddress;
use crate::shard::Shard;

/// A page of one node.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub items: Vec<Value>,
    /// Where that node goes on.
    pub next: Option<String>,
}

/// A page of all nodes.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// Each with the node that it is of.
    pub items: Vec<(NodeId, Value)>,
    pub next: Option<String>,
    /// Nodes that should have been in it.
    pub missing: Vec<Missing>,
}

/// A cursor: the node, and the place there unless it is the beginning.
fn read(cursor: &str) -> Option<(NodeId, Option<&str>)> {
    match cursor.split_once('.') {
        None => Some((cursor.parse().ok()?, None)),
        Some((node, place)) => Some((node.parse().ok()?, Some(place))),
    }
}

/// All living nodes by their ids; `None` is this one.
fn nodes(shard: &Shard, own: NodeId) -> Vec<(NodeId, Option<PeerAddress>)> {
    let peers = shard.node.peers.living();
    let mut nodes: Vec<_> = peers.iter().map(|peer| (peer.id, Some(peer.clone()))).collect();
    nodes.push((own, None));
    nodes.sort_by_key(|(id, _)| *id);
    nodes
}

/// Goes on from a cursor until there are `limit` entries, or a node's page was cut short. `here` is this node's own page;
/// `path` is where a peer has its own, in whose answer the entries stand under `name`.
pub(super) async fn walk(
    shard: &Rc<Shard>,
    caller: &Caller,
    own: NodeId,
    (cursor, limit): (Option<&str>, usize),
    name: &str,
    here: impl AsyncFn(Option<&str>, usize) -> Result<Page, Refused>,
    path: impl Fn(Option<&str>, usize) -> String,
) -> Result<Whole, Refused> {
    let from = cursor.map(|cursor| read(cursor).ok_or_else(bad_cursor)).transpose()?;
    let mut whole = Whole::default();
    let begun = Instant::now();
    for (id, peer) in nodes(shard, own) {
        let place = match from {
            Some((from, _)) if id < from => continue,
            Some((from, place)) if id == from => place,
            _ => None,
        };
        let wanted = limit.saturating_sub(whole.items.len());
        // Several nodes that hang must not add up: the page goes on here, which starts afresh.
        if wanted == 0 || (peer.is_some() && begun.elapsed() >= across::PATIENCE) {
            whole.next = Some(id.to_string());
            break;
        }
        let page = match &peer {
            None => here(place, wanted).await?,
            Some(peer) => {
                let question = caller.question(Method::GET, path(place, wanted), Bytes::new());
                match across::one(shard, peer, &question).await {
                    Ok(answer) => Page::of(answer, name),
                    Err(missing) => {
                        whole.missing.push(missing);
                        continue;
                    }
                }
            }
        };
        whole.items.extend(page.items.into_iter().map(|item| (id, item)));
        if let Some(next) = page.next {
            whole.next = Some(format!("{id}.{next}"));
            break;
        }
    }
    Ok(whole)
}

pub(super) fn bad_cursor() -> Refused {
    Refused::bad("cursor: it must be the cursor of the answer before")
}

impl Page {
    fn of(mut answer: Value, name: &str) -> Self {
        let items = answer.get_mut(name).and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
        let next = answer.get("cursor").and_then(Value::as_str).map(str::to_owned);
        Self { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_names_a_node_and_a_place_there() {
        assert_eq!(read("00000000000000ab"), Some((NodeId(0xab), None)));
        assert_eq!(read("00000000000000ab.3.17"), Some((NodeId(0xab), Some("3.17"))));
        for wrong in ["", "17", "3.17", "xyz.1", ".1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
