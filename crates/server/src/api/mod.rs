//! The admin API: what an operator asks of a running gateway and changes in it. On the admin listener only, under `/api/v1/`.
//!
//! Nothing in here is on the way of a client's request. Described in `docs/admin-api.yaml` (OpenAPI 3.1).

mod answer;
mod cluster;
mod connections;
mod drain;
mod gate;
mod upstreams;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tidegate_proxy::LiveStreams;
use tidegate_realtime::Node;
use tidegate_types::ErrorCode;
use tokio::sync::{mpsc, oneshot, watch};

use crate::cluster::Cluster;
use crate::control::{Order, Reload};
use crate::plan::Plan;
use crate::realtime_status;
use crate::reload::Reloaded;
use answer::{Answer, Refusal};
pub(crate) use gate::Gate;

/// Where the API begins.
const ROOT: &str = "/api/v1/";
/// The path that the cases API has for it.
const CLEANUP: &str = "/websocket/cleanup";

/// What the API reads and whom it tells.
pub(crate) struct Api {
    gate: Gate,
    plan: watch::Receiver<Arc<Plan>>,
    orders: mpsc::Sender<Order>,
    live: LiveStreams,
    realtime: Option<Arc<Node>>,
    cluster: Option<Arc<Cluster>>,
}

impl Api {
    pub fn new(
        gate: Gate,
        plan: watch::Receiver<Arc<Plan>>,
        orders: mpsc::Sender<Order>,
        live: LiveStreams,
        realtime: Option<Arc<Node>>,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        Self { gate, plan, orders, live, realtime, cluster }
    }

    /// Answers a request below [`ROOT`], or to [`CLEANUP`]; `None` for any other path.
    pub async fn answer(&self, request: Request<Incoming>) -> Option<Response<Bytes>> {
        if let (CLEANUP, Some(node)) = (request.uri().path(), &self.realtime) {
            let answer = self.gate.admit(&request).and_then(|()| cleanup(node, request.method()));
            return Some(answer.unwrap_or_else(Refusal::into_response));
        }
        let path = request.uri().path().strip_prefix(ROOT)?.to_owned();
        Some(match self.gate.admit(&request) {
            Ok(()) => self.route(&path, request).await.unwrap_or_else(Refusal::into_response),
            Err(refusal) => refusal.into_response(),
        })
    }

    async fn route(&self, path: &str, request: Request<Incoming>) -> Answer {
        let path = answer::segments(path)?;
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let method = request.method().clone();
        match (path.as_slice(), &method) {
            (["config"], &Method::GET) => Ok(answer::text("application/toml", self.plan().config.effective())),
            (["reload"], &Method::POST) => self.reload().await,
            (["openapi.yaml"], &Method::GET) => Ok(answer::text("application/yaml", OPENAPI.to_owned())),
            (["connections"], &Method::GET) => connections::list(&self.live, &request).await,
            (["connections"], &Method::DELETE) => {
                connections::close_many(&self.live, answer::body(request).await?, &self.plan().config.drain).await
            }
            (["connections", id], &Method::DELETE) => {
                connections::close_one(&self.live, id, &self.plan().config.drain).await
            }
            (["cluster"], &Method::GET) => cluster::list(self.cluster.as_deref()).await,
            (["upstreams"], &Method::GET) => upstreams::list(&self.plan(), &self.live).await,
            (["upstreams", name], &Method::GET) => upstreams::one(&self.plan(), &self.live, name).await,
            (["upstreams", name, "servers", server], &Method::PATCH) => {
                upstreams::change(&self.plan(), &self.live, name, server, answer::body(request).await?).await
            }
            (["upstreams"] | ["upstreams", _], _) => Err(Refusal::method("GET")),
            (["upstreams", _, "servers", _], _) => Err(Refusal::method("PATCH")),
            (["drain"], &Method::POST) => self.drain(answer::body(request).await?).await,
            (["drain"], &Method::DELETE) => self.undrain(answer::body(request).await?).await,
            (["connections"], _) => Err(Refusal::method("GET, DELETE")),
            (["connections", _], _) => Err(Refusal::method("DELETE")),
            (["drain"], _) => Err(Refusal::method("POST, DELETE")),
            (["config" | "openapi.yaml" | "cluster"], _) => Err(Refusal::method("GET")),
            (["reload"], _) => Err(Refusal::method("POST")),
            _ => Err(Refusal::new(ErrorCode::NotFound, "No such thing; GET /api/v1/openapi.yaml says what there is")),
        }
    }

    fn plan(&self) -> Arc<Plan> {
        self.plan.borrow().clone()
    }

    async fn reload(&self) -> Answer {
        let (answer, answered) = oneshot::channel();
        // Nobody may wait for the answer any more.
        let order = Order::Reload(Reload::Reread, Box::new(move |result| drop(answer.send(result))));
        let ends = || Refusal::new(ErrorCode::Unavailable, "The process ends");
        self.orders.send(order).await.map_err(|_| ends())?;
        match answered.await.map_err(|_| ends())? {
            Ok(Reloaded { generation, waiting }) => {
                Ok(answer::json(StatusCode::OK, &json!({ "generation": generation, "waitingForRestart": waiting })))
            }
            Err(problems) => Err(Refusal::new(ErrorCode::BadRequest, problems)),
        }
    }
}

fn cleanup(node: &Node, method: &Method) -> Answer {
    match *method {
        Method::POST => Ok(answer::json(StatusCode::OK, &realtime_status::cleanup(node))),
        _ => Err(Refusal::method("POST")),
    }
}

const OPENAPI: &str = include_str!("../../../../docs/admin-api.yaml");
