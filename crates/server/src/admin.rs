//! Health, stats and metrics, in the shapes of the rooms API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use serde_json::{Map, Value, json};
use tidegate_metrics::Metrics;
use tidegate_realtime::Node;
use tidegate_types::ErrorCode;

use crate::cluster::Cluster;
use crate::process;
use crate::realtime_status;
use crate::status::Status;

/// What the admin endpoints show. Shared by the admin listener and, in `dev`, by the workers.
pub(crate) struct Admin {
    metrics: Arc<Metrics>,
    node: Option<Arc<Node>>,
    status: Arc<Status>,
    cluster: Option<Arc<Cluster>>,
    ready: AtomicBool,
    started_seconds: f64,
}

impl Admin {
    pub fn new(
        metrics: Arc<Metrics>,
        node: Option<Arc<Node>>,
        status: Arc<Status>,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        let started_seconds = process::now_seconds();
        Self { metrics, node, status, cluster, ready: AtomicBool::new(false), started_seconds }
    }

    /// The process's metrics.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Whether balancers should send clients here.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Answers an admin path; `None` for any other.
    pub fn answer(&self, method: &Method, path: &str) -> Option<Response<Bytes>> {
        let known = match path {
            "/health" | "/health/ready" | "/health/live" | "/stats" | "/metrics" | "/nginx_status" => true,
            "/websocket/metrics" | "/websocket/health" => self.node.is_some(),
            _ => false,
        };
        if !known {
            return None;
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = error(ErrorCode::MethodNotAllowed, "Only GET and HEAD are allowed here");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(response);
        }
        let response = match path {
            "/health" => self.health(),
            "/health/ready" => self.readiness(),
            "/health/live" => json_response(StatusCode::OK, &json!({ "alive": true })),
            "/nginx_status" => respond(StatusCode::OK, "text/plain", self.status.page()),
            "/stats" => json_response(StatusCode::OK, &realtime_status::stats(self.node.as_deref())),
            "/websocket/metrics" => self.of_realtime(realtime_status::metrics),
            "/websocket/health" => self.of_realtime(realtime_status::health),
            _ => self.exposition(),
        };
        Some(response)
    }

    /// Answers what is about the whole cluster; `None` for any other request. For a process that is alone, what is its own
    /// is all there is.
    pub async fn answer_for_cluster(&self, method: &Method, uri: &Uri) -> Option<Response<Bytes>> {
        let is_asked = uri.path() == "/stats"
            && matches!(*method, Method::GET | Method::HEAD)
            && uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "scope=cluster"));
        let (Some(node), Some(cluster), true) = (&self.node, &self.cluster, is_asked) else { return None };
        let name = cluster.members().map(|members| members.watch().borrow().me.name.clone()).unwrap_or_default();
        Some(json_response(StatusCode::OK, &realtime_status::stats_of_cluster(node, &name).await))
    }

    fn of_realtime(&self, shown: impl Fn(&Node, f64) -> Value) -> Response<Bytes> {
        let shown = self.node.as_deref().map_or(Value::Null, |node| shown(node, self.started_seconds));
        json_response(StatusCode::OK, &shown)
    }

    fn readiness(&self) -> Response<Bytes> {
        let ready = self.ready.load(Ordering::Relaxed);
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json_response(status, &json!({ "ready": ready }))
    }

    fn health(&self) -> Response<Bytes> {
        let process = process::stats(self.started_seconds);
        let total = process::memory_total();
        let percentage = if total > 0 { process.resident_bytes as f64 / total as f64 * 100.0 } else { 0.0 };
        let now = process::now_seconds();
        let realtime = self.node.as_ref().map(|node| node.health());
        let (mut connections, mut by_tenant, mut status) = (0, Map::new(), "healthy");
        if let Some(realtime) = realtime {
            connections = realtime.connections;
            by_tenant.extend(realtime.by_tenant.into_iter().map(|(tenant, open)| (tenant.into(), open.into())));
            // Without its store the realtime server still serves everything that is not persistent.
            status = if realtime.store { "healthy" } else { "degraded" };
        }
        // Alone, no Redis is used, which is no fault. Without the one of the cluster, what is local goes on.
        let redis = self.cluster.as_ref().is_some_and(|cluster| cluster.in_touch());
        if self.cluster.is_some() && !redis {
            status = "degraded";
        }
        let body = json!({
            "status": status,
            "timestamp": (now * 1_000.0) as u64,
            "uptime": round(now - self.started_seconds, 1_000.0),
            "connections": { "total": connections, "byTenant": by_tenant },
            "redis": { "connected": redis },
            "memory": { "used": process.resident_bytes, "total": total, "percentage": round(percentage, 100.0) },
        });
        // 503 is for "unhealthy" only; a process that is that ill does not get to answer here.
        json_response(StatusCode::OK, &body)
    }

    fn exposition(&self) -> Response<Bytes> {
        self.metrics.set_process(process::stats(self.started_seconds));
        respond(StatusCode::OK, tidegate_metrics::CONTENT_TYPE, self.metrics.encode())
    }
}

fn round(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

fn json_response(status: StatusCode, body: &Value) -> Response<Bytes> {
    respond(status, "application/json", body.to_string())
}

/// The JSON error of an admin path, without a request id: such requests are not logged.
pub(crate) fn error(code: ErrorCode, message: &str) -> Response<Bytes> {
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(status, "application/json", code.body(message, ""))
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin() -> Admin {
        let metrics = Metrics::new();
        Admin::new(metrics.clone(), None, Arc::new(Status::new(metrics, 1)), None)
    }

    fn get(admin: &Admin, path: &str) -> (u16, Value) {
        let response = admin.answer(&Method::GET, path).unwrap();
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }

    #[test]
    fn the_shapes_are_those_of_the_rooms_api() {
        let admin = admin();
        let (status, health) = get(&admin, "/health");
        assert_eq!(status, 200, "no Redis is no fault: {health}");
        assert_eq!(health["status"], "healthy");
        assert_eq!(health["redis"], json!({ "connected": false }));
        assert!(health["uptime"].is_number() && health["timestamp"].is_u64());
        assert!(health["connections"]["total"].is_u64() && health["connections"]["byTenant"].is_object());
        assert!(health["memory"]["used"].as_u64() > Some(0) && health["memory"]["percentage"].is_number());
        let (_, stats) = get(&admin, "/stats");
        for field in ["totalRooms", "totalSubscriptions", "avgSubscriptionsPerRoom", "largestRoom"] {
            assert!(stats["rooms"][field].is_number(), "{stats}");
        }
        assert_eq!(get(&admin, "/health/live"), (200, json!({ "alive": true })));
    }

    #[test]
    fn readiness_follows_the_process() {
        let admin = admin();
        assert_eq!(get(&admin, "/health/ready"), (503, json!({ "ready": false })));
        admin.set_ready(true);
        assert_eq!(get(&admin, "/health/ready"), (200, json!({ "ready": true })));
    }

    #[test]
    fn other_methods_and_paths_are_refused() {
        let admin = admin();
        let response = admin.answer(&Method::POST, "/health").unwrap();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "GET, HEAD");
        assert!(admin.answer(&Method::GET, "/healthz").is_none());
    }

    #[test]
    fn metrics_say_what_the_process_uses() {
        let admin = admin();
        let response = admin.answer(&Method::GET, "/metrics").unwrap();
        let text = std::str::from_utf8(response.body()).unwrap();
        assert!(text.ends_with("# EOF\n"));
        let rss = text.lines().find(|line| line.starts_with("tidegate_process_resident_bytes ")).unwrap();
        assert!(!rss.ends_with(" 0"), "{rss}");
    }
}
