//! The HTTP requests of the realtime server: which is which, and what each is answered with.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use tidegate_types::ErrorCode;
use tidegate_wire::engine_io::HttpError;

use crate::app::{Endpoint, Kind};
use crate::body::Body;
use crate::connection::OnEnd;
use crate::lines;
use crate::shard::Shard;
use crate::{api, engine};

/// See [`Client::take_back`].
pub type TakeBack = fn(hyper::upgrade::Upgraded) -> (tidegate_transport::Transport, Bytes);

/// Who sent a request, as far as the listener knows.
pub struct Client {
    /// The client's address, as the listener believes it.
    pub address: IpAddr,
    /// The request's id, for error bodies.
    pub request_id: Box<str>,
    /// Whether it is another node of the cluster that has proven to be one: only then may it ask this node for its own part
    /// of an answer. Never true for what came in where clients come in.
    pub is_peer: bool,
    /// Gives the stream underneath an upgraded connection back, with the bytes that were read ahead: only the listener
    /// knows what it has wrapped the stream in.
    pub take_back: TakeBack,
    /// Called when the stream that the request opens has ended; not called for a request that opens none.
    pub on_end: OnEnd,
}

/// In a response's extensions: the request opened a stream, whose end is reported by [`Client::on_end`].
#[derive(Clone, Copy, Debug)]
pub struct Streams;

/// Every origin, in the config and in the answer.
const ANY_ORIGIN: &str = "*";

/// Answers of this crate.
pub(crate) type Answer = Response<Body>;

impl Shard {
    /// Whether a request with that path is the realtime server's.
    pub fn serves(&self, path: &str) -> bool {
        let settings = &self.node.settings;
        path == settings.path
            || settings.path.strip_suffix('/') == Some(path)
            || path
                .strip_prefix(settings.api_path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            || self.endpoint(path).is_some()
    }

    /// The application's endpoint at a path.
    fn endpoint(&self, path: &str) -> Option<(Kind, Endpoint)> {
        let (kind, endpoint) = self.node.settings.app.as_ref()?.endpoint_at(path)?;
        Some((kind, endpoint.clone()))
    }

    /// Serves a request of the realtime server.
    pub async fn serve(self: &Rc<Self>, request: Request<Incoming>, client: Client) -> Response<Body> {
        let origin = request.headers().get(ORIGIN).and_then(|origin| self.allowed_origin(origin));
        let mut response = if request.method() == Method::OPTIONS {
            preflight(origin.is_some())
        } else if lines::is_path(&self.node.settings, request.uri().path()) {
            engine::open_websocket(self, request, client, None, engine::Speaks::Lines)
        } else if request.uri().path().starts_with(self.node.settings.api_path.as_str()) {
            api::serve(self, request, client).await
        } else {
            match self.endpoint(request.uri().path()) {
                None => engine::serve(self, request, client, None).await,
                Some((Kind::Engine, endpoint)) => engine::serve(self, request, client, Some(endpoint)).await,
                Some((Kind::WebSocket, endpoint)) => {
                    engine::open_websocket(self, request, client, None, engine::Speaks::WebSocket(endpoint))
                }
            }
        };
        if let Some(origin) = origin {
            let headers = response.headers_mut();
            // "*" lets every page in with a token of its own, but with nobody's cookies.
            if origin != ANY_ORIGIN {
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
                headers.insert(VARY, HeaderValue::from_static("Origin"));
            }
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        response
    }

    fn allowed_origin(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        let text = origin.to_str().ok()?;
        let allowed = |one: &String| (one == ANY_ORIGIN).then(|| HeaderValue::from_static(ANY_ORIGIN));
        let named = |one: &String| one.eq_ignore_ascii_case(text).then(|| origin.clone());
        self.node.settings.cors_origins.iter().find_map(|one| allowed(one).or_else(|| named(one)))
    }
}

fn preflight(allowed: bool) -> Answer {
    let mut response = empty(StatusCode::NO_CONTENT);
    if allowed {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
        let names = "authorization, content-type, last-event-id, x-api-key, x-request-id, cache-control";
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

pub(crate) fn full(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Body::Full(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(crate) fn json(status: StatusCode, body: String) -> Answer {
    full(status, "application/json", body)
}

/// An error in the gateway's shape.
pub(crate) fn error(code: ErrorCode, message: &str, request_id: &str) -> Answer {
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(status, code.body(message, request_id))
}

/// An error in Engine.IO's shape: `{"code","message"}`.
pub(crate) fn engine_error(error: HttpError) -> Answer {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    json(status, format!(r#"{{"code":{},"message":"{}"}}"#, error.code(), error.message()))
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The bearer token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    header(headers, &AUTHORIZATION).and_then(tidegate_auth::bearer)
}

/// A query parameter, decoded. The first of the name counts.
pub(crate) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decode(value, true))
    })
}

/// Undoes percent-encoding (RFC 3986 section 2.1); bytes that are no UTF-8 become U+FFFD.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> Cow<'_, str> {
    let encoded = text.contains('%') || (plus_is_space && text.contains('+'));
    if !encoded {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let pair = tail.first_chunk::<2>().and_then(|pair| {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
        });
        match (first, pair) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) if plus_is_space => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Why a body was not read.
pub(crate) enum BodyFailure {
    TooLarge,
    Broken,
}

/// Reads a whole body of bounded size. One that announces itself as too large is refused before it is sent.
pub(crate) async fn read_body(body: Incoming, most: usize) -> Result<Bytes, BodyFailure> {
    if body.size_hint().lower() > u64::try_from(most).unwrap_or(u64::MAX) {
        return Err(BodyFailure::TooLarge);
    }
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(BodyFailure::TooLarge),
        Err(_) => Err(BodyFailure::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_and_path_segments_are_decoded() {
        let query = Some("a=1&room=caf%C3%A9+x&flag");
        assert_eq!(parameter(query, "room").as_deref(), Some("café x"));
        assert_eq!(parameter(query, "flag").as_deref(), Some(""));
        assert_eq!(parameter(query, "none"), None);
        assert_eq!(decode("a+b%2", false), "a+b%2");
        assert_eq!(decode("%ff%zz", false), "\u{fffd}%zz");
    }
}
