//! Empties a part of the gateway, or takes it into use again.

use std::sync::Arc;

use serde::Deserialize;
use tidegate_proxy::{Leave, LiveFilter};
use tidegate_types::ErrorCode;
use tokio::sync::oneshot;

use super::answer::{Answer, Refusal};
use super::{Api, connections};
use crate::control::Order;
use crate::leave;
use crate::plan::Part;

/// What is to be emptied; the process if nothing is named.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Target {
    listener: Option<Arc<str>>,
    route: Option<Arc<str>>,
    /// Streams per second; by default as `[drain]` says.
    rate: Option<u32>,
}

impl Api {
    /// New clients are not let in any more, streams are asked to go.
    pub(super) async fn drain(&self, target: Target) -> Answer {
        let Target { listener, route, rate } = target;
        let filter = LiveFilter { listener: listener.clone(), route: route.clone(), ..LiveFilter::default() };
        match part(listener, route)? {
            Some(part) => self.use_part(part, false).await?,
            None => {
                self.orders.send(Order::Drain).await.map_err(|_| ends())?;
                return Ok(connections::asked(self.live.list(&filter, usize::MAX).await.len()));
            }
        }
        let drain = &self.plan().config.drain;
        Ok(connections::asked(leave::ask(&self.live, &filter, Leave::Drain, rate, drain).await))
    }

    /// New clients are let in again, and streams that have not gone yet may stay.
    pub(super) async fn undrain(&self, target: Target) -> Answer {
        let Target { listener, route, rate: _ } = target;
        let filter = LiveFilter { listener: listener.clone(), route: route.clone(), ..LiveFilter::default() };
        let Some(part) = part(listener, route)? else {
            return Err(Refusal::new(ErrorCode::BadRequest, "A process that drains ends; name a listener or a route"));
        };
        self.use_part(part, true).await?;
        Ok(super::answer::json(
            http::StatusCode::OK,
            &serde_json::json!({ "stay": self.live.keep(&filter, Leave::Drain).await }),
        ))
    }

    async fn use_part(&self, part: Part, in_use: bool) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Use(part, in_use, Box::new(move |result| drop(answer.send(result))));
        self.orders.send(order).await.map_err(|_| ends())?;
        let result = answered.await.map_err(|_| ends())?;
        result.map(drop).map_err(|problem| Refusal::new(ErrorCode::NotFound, problem))
    }
}

fn part(listener: Option<Arc<str>>, route: Option<Arc<str>>) -> Result<Option<Part>, Refusal> {
    match (listener, route) {
        (Some(name), None) => Ok(Some(Part::Listener(name))),
        (None, Some(name)) => Ok(Some(Part::Route(name))),
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Refusal::new(ErrorCode::BadRequest, "Name a listener or a route, not both")),
    }
}

fn ends() -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "The process ends")
}
