//! What of an action concerns clients of other nodes, and how it gets there: as an operation of a batch, so that what became
//! of it can be told. A node that cannot be asked is told by a signal, where being told twice does no harm.

use std::rc::Rc;

use ::http::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tidegate_cluster::Audience;
use tidegate_types::ErrorCode;

use super::action::{Action, Done};
use super::caller::Caller;
use super::connections::place_of;
use super::members::Membership;
use super::refused::Refused;
use crate::across::{self, Answers, Missing};
use crate::peers::PeerAddress;
use crate::shard::Shard;
use crate::signals::{Close, Closed, Move, Signal};

/// The part of an action that other nodes have to do.
pub(super) struct Far {
    /// As it stands in a batch.
    operation: Value,
    /// What the answer counts.
    counted: &'static str,
    /// The node that alone can do it; else it is for all.
    only: Option<PeerAddress>,
    /// For who cannot be asked.
    signal: Option<Signal>,
    /// Whether hearing of it twice does no harm.
    is_repeatable: bool,
}

fn operation(name: &str, what: &impl Serialize) -> Value {
    json!({ name: what })
}

impl Far {
    /// `None` for what concerns no other node, or reaches them by itself.
    pub fn of(action: &Action<'_>, shard: &Rc<Shard>, caller: &Caller) -> Option<Self> {
        let far =
            |operation, counted, signal| Some(Self { operation, counted, only: None, signal, is_repeatable: true });
        match action {
            Action::Publish(_) | Action::Revoke(_) => None,
            // Each room's message goes by the broker.
            Action::Broadcast(broadcast) if broadcast.rooms.is_some() => None,
            Action::Broadcast(broadcast) => {
                let signal = broadcast.signal(shard, caller);
                let far = far(operation("broadcast", broadcast), "connections", signal);
                far.map(|far| Self { is_repeatable: false, ..far })
            }
            Action::Join(membership) => {
                far(operation("join", membership), "connections", moved(membership, shard, caller, true))
            }
            Action::Leave(membership) => {
                far(operation("leave", membership), "connections", moved(membership, shard, caller, false))
            }
            Action::DisconnectUser(user) => {
                let whom = caller.tenant(user.tenant.clone()).ok().map(|of| Closed::User(of, user.user.clone()));
                let signal = closed(whom, user.terms(), caller);
                far(operation("disconnectUser", user), "disconnected", signal)
            }
            Action::DisconnectConnection(connection) => {
                let (node, whom) = match place_of(&connection.connection) {
                    Some((None, _)) => return None,
                    Some((node, _)) if node == shard.node.id() => return None,
                    Some((node, conn)) => (node, Closed::Conn(conn)),
                    None => (None, Closed::Socket(connection.connection.as_str().into())),
                };
                let only = match node {
                    Some(node) => Some(shard.node.peers.living().iter().find(|peer| peer.id == node)?.clone()),
                    None => None,
                };
                let signal = closed(Some(whom), connection.terms(), caller);
                let far = far(operation("disconnectConnection", connection), "disconnected", signal);
                far.map(|far| Self { only, ..far })
            }
        }
    }

    /// Has the others do it. `here`: what became of it on this node.
    pub async fn perform(
        self,
        shard: &Rc<Shard>,
        caller: &Caller,
        here: Result<Done, Refused>,
    ) -> Result<Done, Refused> {
        let mut count = match &here {
            Ok(done) => self.count(&serde_json::from_str(&done.body).unwrap_or_default()),
            // There is nothing to be done here; there may be elsewhere.
            Err(refused) if matches!(refused.code, ErrorCode::NotFound | ErrorCode::Conflict) => 0,
            Err(_) => return here,
        };
        let body = json!({ "operations": [&self.operation] }).to_string();
        let question = caller.question(Method::POST, "/batch", body);
        let Answers { given, mut missing } = match &self.only {
            None => across::all(shard, &question).await,
            Some(peer) => match across::one(shard, peer, &question).await {
                Ok(answer) => Answers { given: vec![(peer.clone(), answer)], missing: Vec::new() },
                Err(missing) => Answers { given: Vec::new(), missing: vec![missing] },
            },
        };
        let mut is_done = here.is_ok();
        let mut conflict = None;
        for (peer, answer) in given {
            let result = answer.pointer("/results/0");
            match result.and_then(|result| result.get("status")).and_then(Value::as_u64) {
                Some(200) => {
                    is_done = true;
                    count += result.and_then(|result| result.get("body")).map_or(0, |body| self.count(body));
                }
                Some(404) => {}
                Some(409) => {
                    let message = result.and_then(|result| result.pointer("/error/message")).and_then(Value::as_str);
                    conflict = Some(Refused::new(ErrorCode::Conflict, message.unwrap_or("Conflict")));
                }
                Some(_) | None => missing.push(Missing { peer, is_untold: false }),
            }
        }
        self.signal(shard, &missing);
        if !is_done && missing.is_empty() {
            return match (here, conflict) {
                (Err(refused), Some(conflict)) if refused.code == ErrorCode::NotFound => Err(conflict),
                (here, _) => here,
            };
        }
        let mut answer = json!({ "success": true, self.counted: count });
        across::mark(&mut answer, &missing);
        Ok(Done::ok(&answer))
    }

    fn count(&self, answer: &Value) -> u64 {
        answer.get(self.counted).and_then(Value::as_u64).unwrap_or(0)
    }

    fn signal(&self, shard: &Shard, missing: &[Missing]) {
        let (Some(signal), Some(cluster)) = (&self.signal, &shard.node.cluster) else { return };
        for missing in missing.iter().filter(|missing| missing.is_untold || self.is_repeatable) {
            cluster.signal(Audience::Node(missing.peer.id), signal);
        }
    }
}

fn moved(membership: &Membership, shard: &Rc<Shard>, caller: &Caller, join: bool) -> Option<Signal> {
    let space = caller.space(shard, membership.tenant.clone(), membership.namespace.as_deref()).ok()?;
    let Membership { user, room, .. } = membership;
    Some(Signal::Move(Move { space: (*space.key).clone(), user: user.clone(), room: room.clone(), join }))
}

/// A signal does not say what a key opens: it goes out only for one that opens everything.
fn closed(whom: Option<Closed>, terms: Result<crate::parting::Terms, Refused>, caller: &Caller) -> Option<Signal> {
    let terms = Some(terms.ok()?);
    let whom = whom.filter(|_| caller.key.tenant().is_none() && caller.key.opens_all_namespaces())?;
    Some(Signal::Close(Close { whom, terms }))
}
