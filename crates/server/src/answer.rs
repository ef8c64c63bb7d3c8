//! Answers of the gateway itself: redirects, fixed responses, preflights, refusals.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use tidegate_auth::AuthError;
use tidegate_proxy::{RouteMetrics, error_response};
use tidegate_rules::{Cors, Facts};
use tidegate_types::ErrorCode;

use crate::access_log::{Entry, Kept};
use crate::admission::Refusal;
use crate::body::Body;
use crate::line::Line;
use crate::request_id::X_REQUEST_ID;
use crate::route::{Redirect, Route};
use crate::visit::Visit;
use crate::worker::Worker;

/// An answer, for a route or for want of one.
pub(crate) struct Answer {
    request_id: Rc<str>,
    route: Option<Arc<Route>>,
    response: Response<Body>,
    error: Option<ErrorCode>,
    /// Where it is counted, if not with its route.
    counted: Option<Arc<RouteMetrics>>,
    /// For its line; `None` is what is known without a route.
    kept: Option<Box<Kept>>,
    /// What a limit makes the client wait.
    pub delay: Option<Duration>,
}

impl Answer {
    /// A response that a route makes.
    pub fn new(request_id: Rc<str>, route: Option<&Arc<Route>>, mut response: Response<Bytes>) -> Self {
        set_request_id(&mut response, &request_id);
        Self {
            request_id,
            route: route.cloned(),
            response: response.map(Body::Full),
            error: None,
            counted: None,
            kept: None,
            delay: None,
        }
    }

    /// A response that is whole.
    pub fn ready(request_id: Rc<str>, route: Option<&Arc<Route>>, response: Response<Body>) -> Self {
        let route = route.cloned();
        Self { request_id, route, response, error: None, counted: None, kept: None, delay: None }
    }

    /// A refusal, with the JSON error body.
    pub fn error(request_id: Rc<str>, route: Option<&Arc<Route>>, code: ErrorCode, message: &str) -> Self {
        let response = error_response(code, message, &request_id).map(Body::Proxy);
        Self { request_id, route: route.cloned(), response, error: Some(code), counted: None, kept: None, delay: None }
    }

    /// 405; `allow` are the methods that the path takes (RFC 9110 section 15.5.6).
    pub fn method_not_allowed(request_id: Rc<str>, route: Option<&Arc<Route>>, allow: HeaderValue) -> Self {
        let message = "No route of this path takes this method";
        let mut answer = Self::error(request_id, route, ErrorCode::MethodNotAllowed, message);
        answer.response.headers_mut().insert(ALLOW, allow);
        answer
    }

    /// 401, saying what is wanted (RFC 6750 section 3). Nothing of the token is told.
    pub fn unauthorized(request_id: Rc<str>, route: &Arc<Route>, error: AuthError) -> Self {
        let challenge = match error {
            AuthError::Missing => "Bearer realm=\"gateway\"",
            AuthError::Expired => {
                "Bearer realm=\"gateway\", error=\"invalid_token\", error_description=\"Token expired\""
            }
            AuthError::Invalid | AuthError::Revoked | AuthError::Failed => {
                "Bearer realm=\"gateway\", error=\"invalid_token\", error_description=\"Invalid token\""
            }
        };
        let mut answer = Self::error(request_id, Some(route), ErrorCode::Unauthorized, &error.to_string());
        answer.response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        answer
    }

    /// Given only after a limit's delay.
    pub fn after(mut self, delay: Option<Duration>) -> Self {
        self.delay = delay;
        self
    }

    /// With what the route's log keeps.
    pub fn keeping(mut self, kept: Option<Box<Kept>>) -> Self {
        self.kept = kept;
        self
    }

    /// Counted there, for want of a route.
    pub fn counted(mut self, metrics: &Arc<RouteMetrics>) -> Self {
        self.counted = Some(metrics.clone());
        self
    }

    /// What the gate refuses.
    pub fn refused(request_id: Rc<str>, route: Option<&Arc<Route>>, refusal: &Refusal) -> Self {
        let mut answer = Self::error(request_id, route, refusal.code, refusal.message);
        *answer.response.status_mut() = refusal.status;
        refusal.write_headers(answer.response.headers_mut());
        answer
    }

    /// Counts it, logs it and gives the response away.
    pub fn give(self, visit: Visit<'_>) -> Response<Body> {
        let Visit { worker, held, .. } = visit;
        let status = self.response.status().as_u16();
        let bytes_out = http_body::Body::size_hint(self.response.body()).exact().unwrap_or(0);
        let error = self.error.map(ErrorCode::as_str);
        let route = self.route.as_deref();
        let line = match self.kept {
            Some(kept) => Line::keeping(visit, route, Some(kept)),
            None => Line::of(visit, route, || visit.facts(&self.request_id)),
        };
        line.write(worker, &Entry { bytes_out, error, ..line.entry(&self.request_id, "http", status) });
        let of_route = self.route.as_ref().map(|route| &route.metrics);
        self.counted.as_ref().or(of_route).unwrap_or(&worker.unrouted).answered(status);
        held.idle();
        self.response
    }
}

/// The process's own answer, apart from any route.
pub(crate) fn here(visit: Visit<'_>, mut response: Response<Bytes>) -> Response<Body> {
    let Visit { worker, held, request, .. } = visit;
    let start = Instant::now();
    let id = worker.ids.of(request.headers());
    set_request_id(&mut response, &id);
    let line = Line::of(visit, None, || visit.facts(&id));
    let status = response.status().as_u16();
    let bytes_out = response.body().len() as u64;
    line.write(worker, &Entry { bytes_out, duration: start.elapsed(), ..line.entry(&id, "http", status) });
    held.idle();
    response.map(Body::Full)
}

fn set_request_id(response: &mut Response<Bytes>, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
}

/// Sends the client elsewhere; the error is for the client.
pub(crate) fn redirect(redirect: &Redirect, facts: &Facts<'_>) -> Result<Response<Bytes>, &'static str> {
    if redirect.needs_host && facts.host.is_empty() {
        // Only HTTP/1.0 may leave it out. "https:///x" would name the host x.
        return Err("The request names no host");
    }
    let location = HeaderValue::from_bytes(&redirect.to.text(facts)).map_err(|_| "There is nowhere to go")?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = redirect.status;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// A response that the config holds.
pub(crate) fn fixed(status: StatusCode, body: Vec<u8>, content_type: &HeaderValue) -> Response<Bytes> {
    // RFC 9110 sections 15.3.5 and 15.4.5: no content whatever the config says.
    let empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let mut response = Response::new(if empty { Bytes::new() } else { body.into() });
    *response.status_mut() = status;
    if !response.body().is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
    }
    response
}

/// nginx's status page.
pub(crate) fn stub_status(worker: &Worker) -> Response<Bytes> {
    let page = crate::status::stub_status(worker);
    fixed(StatusCode::OK, page.into_bytes(), &HeaderValue::from_static("text/plain"))
}

/// What a page of another origin may.
pub(crate) fn preflight(cors: &Cors, request: &HeaderMap) -> Response<Bytes> {
    let answer = cors.preflight(request);
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = if answer.allowed { StatusCode::NO_CONTENT } else { StatusCode::FORBIDDEN };
    *response.headers_mut() = answer.headers;
    response
}
