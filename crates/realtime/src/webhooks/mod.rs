//! Webhooks: a backend is asked before something happens (connect, join, publish, a client's own event), or told after it
//! has. docs/webhooks.md is what its author reads.
//!
//! Invariants:
//! - A question ends within the webhook's timeout. Meanwhile only the asking client waits: its next packet stays unread.
//! - Without a webhook nothing is asked, built or allocated: a space that no webhook concerns has none.
//! - What is to be told waits in a queue with a bound, which loses its oldest, and counts it.
//!
//! Start reading at `hooks.rs` for what happens where, at `calls.rs` for how a receiver is called.

mod answer;
mod calls;
mod client_event;
mod event;
mod hooks;
mod queue;
mod settings;
mod signature;

use std::sync::Arc;
use std::time::Duration;

use tidegate_metrics::Metrics;
use tidegate_outbound::Outbound;
use tidegate_types::SpaceKey;
use tokio::task::spawn_local;

pub(crate) use calls::Webhook;
pub(crate) use client_event::{question, settle};
pub(crate) use hooks::{
    Admitted, NotAdmitted, connected, disconnected, is_asked, may_connect, may_join, may_publish, published,
    room_changed,
};
pub use settings::{OnFailure, WebhookEvent, WebhookEvents, WebhookSettings};

/// How long the end of the process waits for what is still to be told.
const LAST: Duration = Duration::from_secs(3);

/// The webhooks that concern a space, with their places among all; `None` if none does.
pub(crate) type SpaceWebhooks = Option<Box<[(usize, Arc<Webhook>)]>>;

/// All webhooks of a node.
pub(crate) struct Webhooks {
    all: Box<[Arc<Webhook>]>,
}

impl Webhooks {
    pub fn new(settings: &[WebhookSettings], metrics: &Metrics) -> Self {
        let webhook =
            |settings: &WebhookSettings| Arc::new(Webhook::new(settings.clone(), metrics.webhook(&settings.name)));
        Self { all: settings.iter().map(webhook).collect() }
    }

    pub fn of(&self, space: &SpaceKey) -> SpaceWebhooks {
        let concerned: Box<[_]> =
            self.all.iter().cloned().enumerate().filter(|(_, webhook)| webhook.concerns(space)).collect();
        (!concerned.is_empty()).then_some(concerned)
    }

    /// A worker's clients, in the order of the webhooks.
    pub fn clients(&self) -> Box<[Outbound]> {
        self.all.iter().map(|webhook| webhook.client()).collect()
    }

    /// Tells what is to be told, until the process ends. Once `closing` has resolved, there are a few seconds more for
    /// connections to end, whose ends are to be told too, and for what waits then.
    pub async fn tell(&self, closing: impl Future<Output = ()>, ended: impl Future<Output = ()>) {
        if self.all.is_empty() {
            return;
        }
        let telling: Vec<_> = self.all.iter().map(|webhook| spawn_local(webhook.clone().tell_all())).collect();
        closing.await;
        let last = async {
            ended.await;
            self.all.iter().for_each(|webhook| webhook.close());
            for task in telling {
                let _ = task.await;
            }
        };
        if tokio::time::timeout(LAST, last).await.is_err() {
            tracing::warn!("the last events were not told: their receivers do not take them, or connections are left");
        }
    }
}
