//! The sample backend of `tidegate dev`: what the gateway proxies to when there is no application yet.
//!
//! - `GET /api/hello` answers with what a backend sees of a proxied request; `POST /api/echo` streams the body back;
//!   `GET /api/slow?ms=` answers late; `GET /api/status/{code}` answers with that status.
//! - `POST /api/projects/{id}/initial-report` starts a report run (202), and
//!   `GET /api/projects/{id}/initial-report-status/stream` streams its progress as server-sent events: the present state
//!   first (event `status`), then `progress`, then `complete`; a comment every 30 s keeps intermediaries from hanging up.
//! - `GET /echo` is a WebSocket that sends back each message as it came.
//!
//! It keeps at most [`MAX_PROJECTS`] runs, and runs on one thread: [`start`] makes that thread.

mod echo;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet, spawn_local};

/// Runs that are remembered; the oldest is forgotten first.
pub const MAX_PROJECTS: usize = 256;

/// Connections served at once; further ones wait in the accept queue.
const MAX_CONNECTIONS: usize = 2048;
const HEARTBEAT: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(120);
const LONGEST_WAIT_MS: u64 = 60_000;
/// Events a slow reader may be behind before the run's task waits for it.
const EVENTS_AHEAD: usize = 8;

const STAGES: [&str; 5] = ["collecting sources", "reading", "linking", "writing", "checking"];

type Body = BoxBody<Bytes, hyper::Error>;

/// Where a report run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Status {
    status: &'static str,
    /// Percent, 0 to 100.
    progress: u8,
    step: &'static str,
}

impl Status {
    const IDLE: Self = Self { status: "idle", progress: 0, step: "not started" };

    fn at(progress: u8) -> Self {
        if progress >= 100 {
            return Self { status: "completed", progress: 100, step: "done" };
        }
        let stage = STAGES.get(usize::from(progress) * STAGES.len() / 100).copied().unwrap_or("running");
        Self { status: "running", progress, step: stage }
    }

    fn done(&self) -> bool {
        self.progress >= 100
    }

    fn event(&self, name: &str, project: &str) -> Bytes {
        let data = json!({ "projectId": project, "status": self.status, "progress": self.progress, "step": self.step });
        Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
    }
}

/// The runs by project; a list, because there are few and it forgets in order.
#[derive(Default)]
struct Reports {
    runs: VecDeque<(String, watch::Sender<Status>)>,
}

impl Reports {
    fn of(&mut self, project: &str) -> watch::Sender<Status> {
        if let Some((_, run)) = self.runs.iter().find(|(name, _)| name == project) {
            return run.clone();
        }
        if self.runs.len() >= MAX_PROJECTS {
            self.runs.pop_front();
        }
        let run = watch::Sender::new(Status::IDLE);
        self.runs.push_back((project.to_owned(), run.clone()));
        run
    }
}

/// Serves on `listener` from a thread of its own until the process ends.
///
/// # Errors
/// When the listener cannot be made non-blocking, or the thread or its runtime cannot be made.
pub fn start(listener: std::net::TcpListener) -> io::Result<std::thread::JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("sample".to_owned()).spawn(move || {
        runtime.block_on(LocalSet::new().run_until(async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => serve(listener).await,
                Err(error) => tracing::error!(%error, "the sample backend cannot listen"),
            }
        }));
    })
}

/// Serves on `listener` for ever. Must run inside a [`LocalSet`]; dropping the future ends all of its connections.
pub async fn serve(listener: TcpListener) {
    let reports = Rc::new(RefCell::new(Reports::default()));
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or the peer is gone already: let others finish before the next try.
                tracing::warn!(%error, "the sample backend could not accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let reports = Rc::clone(&reports);
        connections.spawn_local(async move {
            let service = service_fn(move |request| {
                let reports = Rc::clone(&reports);
                async move { Ok::<_, Infallible>(answer(request, &reports).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "sample connection ended");
            }
        });
    }
}

async fn answer(request: Request<Incoming>, reports: &RefCell<Reports>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["api", "hello"]) => hello(request.uri().to_string(), request.headers()),
        (&Method::POST | &Method::PUT, ["api", "echo"]) => echo_body(request),
        (&Method::GET, ["api", "slow"]) => slow(request.uri().query()).await,
        (_, ["api", "status", code]) => with_status(code),
        (&Method::POST, ["api", "projects", project, "initial-report"]) => start_report(project, reports),
        (&Method::GET, ["api", "projects", project, "initial-report-status", "stream"]) => {
            watch_report(project, reports)
        }
        (&Method::GET, ["echo"]) => echo::upgrade(request),
        _ => json_response(
            StatusCode::NOT_FOUND,
            &json!({ "error": "the sample backend has no such path", "path": path }),
        ),
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

fn json_response(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn hello(uri: String, headers: &HeaderMap) -> Response<Body> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    json_response(
        StatusCode::OK,
        &json!({
            "message": "hello from the sample backend", "uri": uri, "host": text(HOST.as_str()),
            "forwardedFor": text("x-forwarded-for"), "forwardedProto": text("x-forwarded-proto"), "requestId": text("x-request-id"),
        }),
    )
}

fn echo_body(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body.boxed());
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    response
}

async fn slow(query: Option<&str>) -> Response<Body> {
    let asked = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("ms=")?.parse::<u64>().ok());
    let wait = asked.unwrap_or(1000).min(LONGEST_WAIT_MS);
    tokio::time::sleep(Duration::from_millis(wait)).await;
    json_response(StatusCode::OK, &json!({ "waitedMs": wait }))
}

fn with_status(code: &str) -> Response<Body> {
    // 1xx are not final answers, and hyper rightly refuses to send them as such.
    match code.parse::<u16>().ok().filter(|code| *code >= 200).and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(status) if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED => {
            let mut response = Response::new(full(Bytes::new()));
            *response.status_mut() = status;
            response
        }
        Some(status) => json_response(status, &json!({ "status": status.as_u16() })),
        None => json_response(StatusCode::BAD_REQUEST, &json!({ "error": "not a status from 200 to 999" })),
    }
}

/// Starts a run, or joins the one that is under way.
fn start_report(project: &str, reports: &RefCell<Reports>) -> Response<Body> {
    let run = reports.borrow_mut().of(project);
    let now = run.borrow().clone();
    if now == Status::IDLE || now.done() {
        run.send_replace(Status::at(0));
        let run = run.clone();
        spawn_local(async move {
            let mut beat = tokio::time::interval(STEP);
            // Steps are for being watched: after a delay they must not come all at once.
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for progress in (0..=100_u8).step_by(4) {
                beat.tick().await;
                run.send_replace(Status::at(progress));
            }
        });
    }
    let now = run.borrow().clone();
    json_response(
        StatusCode::ACCEPTED,
        &json!({ "projectId": project, "status": now.status, "progress": now.progress }),
    )
}

fn watch_report(project: &str, reports: &RefCell<Reports>) -> Response<Body> {
    let mut run = reports.borrow_mut().of(project).subscribe();
    let project = project.to_owned();
    let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
    spawn_local(async move {
        let mut heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
        let first = run.borrow_and_update().clone();
        if sender.send(first.event("status", &project)).await.is_err() {
            return;
        }
        loop {
            let event = tokio::select! {
                // Without this a reader that left would only be noticed at the next change.
                () = sender.closed() => return,
                _ = heartbeat.tick() => Bytes::from_static(b": keep-alive\n\n"),
                changed = run.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = run.borrow_and_update().clone();
                    now.event(if now.done() { "complete" } else { "progress" }, &project)
                }
            };
            if sender.send(event).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(BodyExt::boxed(Events(receiver)));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

/// A body that is fed from a task.
struct Events(mpsc::Receiver<Bytes>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.poll_recv(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_through_its_stages_in_order_and_ends_completed() {
        let seen: Vec<_> = (0..=100).step_by(4).map(Status::at).collect();
        assert!(seen.windows(2).all(|pair| pair[0].progress < pair[1].progress));
        assert_eq!(seen.first().map(|first| first.step), Some(STAGES[0]));
        assert_eq!(seen.last(), Some(&Status { status: "completed", progress: 100, step: "done" }));
    }

    #[test]
    fn the_oldest_project_is_forgotten_when_there_are_too_many() {
        let mut reports = Reports::default();
        reports.of("first").send_replace(Status::at(100));
        for number in 0..MAX_PROJECTS {
            reports.of(&format!("project {number}"));
        }
        assert_eq!(reports.runs.len(), MAX_PROJECTS);
        assert_eq!(*reports.of("first").borrow(), Status::IDLE);
    }

    #[test]
    fn statuses_that_are_no_final_answer_are_refused() {
        for code in ["100", "101", "abc", "1000", "-1", ""] {
            assert_eq!(with_status(code).status(), StatusCode::BAD_REQUEST, "{code}");
        }
        assert_eq!(with_status("418").status(), StatusCode::IM_A_TEAPOT);
    }
}
