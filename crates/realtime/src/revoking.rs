//! Tokens that are made to count no more, on all nodes of a cluster.
//!
//! Each node decides by what it knows itself: no connect waits for the broker. A revocation is kept by the broker, for nodes
//! that start later or were out of touch, and signalled to those that listen. When the broker comes back, each node reads
//! what is kept, and stores again what the broker has lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tidegate_auth::{Revocation, TooManyRevocations};
use tidegate_cluster::{Audience, Kind, Name, Unavailable};
use tidegate_types::{Millis, ShardId};
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::ask;
use crate::call::Call;
use crate::mailbox::Item;
use crate::node::{Node, now_ms};
use crate::signals::{self, Signal};

/// Revocations read from the broker: as many of tokens and of users as a node keeps.
const MOST: usize = 200_000;
/// Between two tries to read them.
const PAUSE: Duration = Duration::from_secs(1);
/// Tries that may fail before it is told: a broker whose connection has just been made may still be busy with what else
/// comes first.
const QUIET_TRIES: u32 = 3;
/// How long one is kept that names no end, ms: ten years.
const FOR_GOOD_MS: u64 = 10 * 365 * 24 * 3_600_000;

/// Why a revocation does not hold everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRevoked {
    /// It holds nowhere.
    #[error(transparent)]
    TooMany(#[from] TooManyRevocations),
    /// It holds on this node, and becomes known to the others when the broker is back. If this node ends before, it is lost.
    #[error("the cluster's broker cannot be reached: the revocation holds on this node only until it is back")]
    HereOnly,
}

impl Node {
    /// Shuts a token or a user's older tokens out: refuses them from now on ("Token revoked") and ends the connections
    /// that they have opened, on every worker, and in a cluster on every node. It lasts until its own end, or until the
    /// process ends; in a cluster, longer than any node.
    ///
    /// # Errors
    /// [`NotRevoked`].
    pub async fn revoke(&self, revocation: Revocation) -> Result<(), NotRevoked> {
        // Known before the workers look: who connects in between is refused, or seen by them.
        self.revocations.add(&revocation, now_ms())?;
        self.part_revoked(revocation.clone());
        let Some(cluster) = &self.cluster else { return Ok(()) };
        cluster.signal(Audience::Nodes, &Signal::Revoke(revocation.clone()));
        self.keep_revocation(&revocation).await.map_err(|Unavailable| NotRevoked::HereOnly)
    }

    /// Shuts out whom another node has.
    pub(crate) fn shut_out(&self, revocation: Revocation) {
        match self.revocations.add(&revocation, now_ms()) {
            Ok(()) => self.part_revoked(revocation),
            Err(full) => tracing::error!(%full, "a revocation of another node does not count here"),
        }
    }

    fn part_revoked(&self, revocation: Revocation) {
        let revocation = Arc::new(revocation);
        for mailbox in self.mailboxes() {
            mailbox.push(Item::Call(Box::new(Call::Revoke(revocation.clone()))));
        }
    }

    async fn keep_revocation(&self, revocation: &Revocation) -> Result<(), Unavailable> {
        let cluster = self.cluster.as_ref().ok_or(Unavailable)?;
        // An earlier one of the same user may have asked for more.
        let whole = self.revocations.merged(revocation);
        let Some(value) = Signal::Revoke(whole.clone()).encode() else { return Ok(()) };
        let kept = cluster.broker.set(name(&whole), Some(value), ttl_ms(&whole, now_ms()));
        kept.await.unwrap_or(Err(Unavailable))
    }

    /// Reads what is kept by the broker, and stores there what it does not have. Takes its time, on a worker.
    pub(crate) fn exchange_revocations(self: &Arc<Self>) {
        let node = self.clone();
        ask::tell_one(self, ShardId(0), move |_| {
            spawn_local(async move {
                let mut failed = 0u32;
                // Without the broker it is done when that comes.
                while node.cluster.as_ref().is_some_and(|cluster| cluster.broker.is_connected())
                    && node.read_and_store_revocations().await.is_err()
                {
                    failed = failed.saturating_add(1);
                    if failed > QUIET_TRIES {
                        tracing::warn!("what the cluster has revoked cannot be read now; trying again");
                    }
                    sleep(PAUSE).await;
                }
            });
        });
    }

    async fn read_and_store_revocations(&self) -> Result<(), Unavailable> {
        let cluster = self.cluster.as_ref().ok_or(Unavailable)?;
        let kept = cluster.broker.list(Kind::Revocation, MOST).await.unwrap_or(Err(Unavailable))?;
        let kept: FxHashMap<Box<str>, Bytes> =
            kept.into_iter().map(|(name, value)| (name.into_boxed_str(), value)).collect();
        for value in kept.values() {
            match signals::revocation(value) {
                Ok(revocation) if !self.revocations.covers(&revocation) => self.shut_out(revocation),
                Ok(_) => {}
                Err(bad) => {
                    self.metrics.signals_refused.inc();
                    tracing::warn!(%bad, "a revocation kept by the cluster's broker cannot be read");
                }
            }
        }
        for own in self.revocations.all() {
            if !kept.contains_key(&*name(&own).text) {
                self.keep_revocation(&own).await?;
            }
        }
        Ok(())
    }
}

/// One per token and per user. The length tells where the tenant ends.
fn name(revocation: &Revocation) -> Name {
    let tenant = revocation.tenant().as_str();
    let (of, what): (&str, &str) = match revocation {
        Revocation::Token { id, .. } => ("token", id),
        Revocation::User { user, .. } => ("user", user.as_str()),
    };
    Name { kind: Kind::Revocation, text: format!("{of}:{}:{tenant}:{what}", tenant.len()).into() }
}

fn ttl_ms(revocation: &Revocation, now: Millis) -> u64 {
    match revocation {
        Revocation::Token { until, .. } | Revocation::User { until, .. } => {
            until.map_or(FOR_GOOD_MS, |until| until.saturating_sub(now).clamp(1, FOR_GOOD_MS))
        }
    }
}
