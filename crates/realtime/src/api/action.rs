//! What a backend does: each action alone by an endpoint of its own, or several by a batch.

use std::rc::Rc;

use ::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use tidegate_types::IdempotencyKey;

use super::broadcast::Broadcast;
use super::caller::Caller;
use super::disconnect::{DisconnectConnection, DisconnectUser};
use super::far::Far;
use super::members::Membership;
use super::publish::Publish;
use super::refused::Refused;
use super::revocations::Revoke;
use crate::http::{Answer, json};
use crate::shard::Shard;

/// What has been done.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub status: StatusCode,
    /// JSON.
    pub body: String,
}

impl Done {
    pub fn ok(body: &Value) -> Self {
        Self { status: StatusCode::OK, body: body.to_string() }
    }

    pub fn into_answer(self) -> Answer {
        json(self.status, self.body)
    }
}

/// As it stands in a batch: an object whose only key says what to do.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Action<'a> {
    #[serde(borrow)]
    Publish(Publish<'a>),
    #[serde(borrow)]
    Broadcast(Broadcast<'a>),
    Join(Membership),
    Leave(Membership),
    DisconnectUser(DisconnectUser),
    DisconnectConnection(DisconnectConnection),
    Revoke(Revoke),
}

impl Action<'_> {
    /// Does it, in a cluster on all nodes. `key`: what the caller calls a message, if it may send it again.
    pub async fn perform(
        self,
        shard: &Rc<Shard>,
        caller: &Caller,
        key: Option<&IdempotencyKey>,
    ) -> Result<Done, Refused> {
        let far = if caller.asks_all(shard) { Far::of(&self, shard, caller) } else { None };
        let Some(far) = far else { return self.perform_here(shard, caller, key).await };
        // What is wrong with it is wrong everywhere, and is found here first.
        let here = self.perform_here(shard, caller, key).await;
        far.perform(shard, caller, here).await
    }

    async fn perform_here(
        self,
        shard: &Rc<Shard>,
        caller: &Caller,
        key: Option<&IdempotencyKey>,
    ) -> Result<Done, Refused> {
        match self {
            Self::Publish(publish) => Box::pin(publish.perform(shard, caller, key)).await,
            Self::Broadcast(broadcast) => Box::pin(broadcast.perform(shard, caller, key)).await,
            Self::Join(membership) => membership.join(shard, caller).await,
            Self::Leave(membership) => membership.leave(shard, caller).await,
            Self::DisconnectUser(user) => user.perform(shard, caller).await,
            Self::DisconnectConnection(connection) => connection.perform(shard, caller).await,
            Self::Revoke(revoke) => revoke.perform(shard, caller).await,
        }
    }
}
