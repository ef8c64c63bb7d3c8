//! HTTP/2 with clients (RFC 9113), and WebSocket over it (RFC 8441).
//!
//! A request of HTTP/2 is put into the form that one of HTTP/1.1 has, so that the rest of the gateway knows only one. An extended
//! CONNECT becomes the handshake of a WebSocket, and the 101 that answers it a 200: tunnels and the realtime server alike
//! are reached without knowing that there is no connection of their own.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, HOST, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tidegate_transport::Transport;
use tidegate_types::ErrorCode;

use crate::body::Body;
use crate::slots::Held;
use crate::worker::{Door, Worker};

/// Streams that a client may have open at once; nginx's `http2_max_concurrent_streams`.
const MOST_STREAMS: u32 = 128;
/// Header lists beyond are refused with 431 by hyper; nginx's 4 buffers of 8 KiB.
const MOST_HEADER_BYTES: u32 = 32 * 1024;
/// What a client may send of one request, and of all requests, before it is read. More would be memory of ours that it fills
/// without anybody asking; less would slow uploads over long ways.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// What waits in a stream for the client's window to open.
const SEND_BUFFER: usize = 64 * 1024;
/// Resets of streams that nobody has looked at yet, and errors that we had to answer with resets: beyond, the connection ends
/// (CVE-2023-44487).
const MOST_RESETS: usize = 20;
/// A client that gives up so many requests, and most of those it makes, is no browser that somebody clicks in.
const MOST_GIVEN_UP: u32 = 100;
/// Is the client still there? Asked when it has sent nothing for so long; it has as long to answer.
const PING_AFTER: Duration = Duration::from_secs(60);
const PING_PATIENCE: Duration = Duration::from_secs(20);
/// How long a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// Runs hyper's tasks on the worker's thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnWorker;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnWorker {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move { drop(task.await) });
    }
}

/// How every connection is served.
pub(crate) fn settings() -> http2::Builder<OnWorker> {
    let mut http = http2::Builder::new(OnWorker);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(MOST_HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MOST_RESETS)
        .max_local_error_reset_streams(MOST_RESETS)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_PATIENCE)
        .enable_connect_protocol();
    http
}

/// What a connection's requests have come to.
#[derive(Debug, Default)]
struct Tally {
    requests: Cell<u64>,
    given_up: Cell<u32>,
}

impl Tally {
    /// Whether the client only makes work.
    fn is_abuse(&self) -> bool {
        let given_up = self.given_up.get();
        given_up > MOST_GIVEN_UP && u64::from(given_up) * 2 > self.requests.get()
    }
}

/// Counts a request as given up if it is dropped before its answer.
struct Unanswered(Option<Rc<Tally>>);

impl Unanswered {
    fn answered(&mut self) {
        self.0 = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(tally) = &self.0 {
            tally.given_up.set(tally.given_up.get().saturating_add(1));
        }
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve(worker: Rc<Worker>, stream: Transport, held: Rc<Held>, door: Rc<Door>) {
    let slot = held.slot.clone();
    let tally = Rc::new(Tally::default());
    let keepalive_requests = door.site().threshold.keepalive_requests;
    let service = {
        let (worker, door, tally) = (worker.clone(), door.clone(), tally.clone());
        service_fn(move |request: Request<Incoming>| {
            let (worker, held, door, tally) = (worker.clone(), held.clone(), door.clone(), tally.clone());
            tally.requests.set(tally.requests.get() + 1);
            let mut unanswered = Unanswered(Some(tally));
            async move {
                let response = answer(worker, held, door, request).await;
                unanswered.answered();
                Ok::<_, Infallible>(response)
            }
        })
    };
    let mut conn = pin!(worker.http2.serve_connection(TokioIo::new(stream), service));
    let mut leaving = false;
    let result = std::future::poll_fn(|cx| {
        if slot.is_cut() || tally.is_abuse() {
            return Poll::Ready(None);
        }
        slot.watch(cx);
        let asked = (worker.draining.get() || door.is_closed()) && slot.was_used();
        if (asked || tally.requests.get() >= keepalive_requests) && !std::mem::replace(&mut leaving, true) {
            conn.as_mut().graceful_shutdown();
        }
        conn.as_mut().poll(cx).map(Some)
    })
    .await;
    slot.unwatch();
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            // Streams that the client broke were counted; what ends the connection is its frames.
            if !error.is_closed() && std::error::Error::source(&error).is_some_and(|cause| cause.is::<h2::Error>()) {
                worker.refused("http2");
            }
            tracing::debug!(%error, "a connection of HTTP/2 ended");
        }
        None => {
            if tally.is_abuse() {
                worker.refused("http2_resets");
            }
            // Idle for too long, or told to go: a client should know that nothing it sent was lost.
            conn.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(GOODBYE, conn).await;
        }
    }
}

async fn answer(worker: Rc<Worker>, held: Rc<Held>, door: Rc<Door>, request: Request<Incoming>) -> Response<Body> {
    let site = door.site();
    let websocket = request.extensions().get::<Protocol>().is_some();
    let request = match translate(request) {
        Ok(request) => request,
        Err(bad) => {
            worker.refused(bad.reason());
            let mut response = tidegate_proxy::error_response(ErrorCode::BadRequest, bad.message(), &worker.ids.make());
            *response.version_mut() = Version::HTTP_2;
            return response.map(Body::Proxy);
        }
    };
    let Ok(mut response) = crate::dispatch::handle(worker, held, site, request).await;
    let opened = websocket && response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    // Fields of a connection (RFC 9113 section 8.2.2). hyper would take them out too, with a warning each.
    for name in [CONNECTION, UPGRADE, HeaderName::from_static("keep-alive"), http::header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if opened {
        headers.remove(SEC_WEBSOCKET_ACCEPT);
        *response.status_mut() = StatusCode::OK;
    }
    *response.version_mut() = Version::HTTP_2;
    response
}

/// Why a request of HTTP/2 has no meaning for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    /// Two hosts.
    Host,
    /// No or a strange path.
    Target,
    /// A tunnel to anywhere.
    Connect,
    /// The process has no random numbers.
    Key,
}

impl Bad {
    fn reason(self) -> &'static str {
        match self {
            Self::Host => "http2_host",
            Self::Target => "http2_target",
            Self::Connect => "http2_connect",
            Self::Key => "http2_key",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Host => "Host and :authority name different hosts",
            Self::Target => "The request has no path",
            Self::Connect => "CONNECT is only for WebSocket (RFC 8441)",
            Self::Key => "No WebSocket can be opened now",
        }
    }
}

/// Gives a request the form that it would have on a connection of HTTP/1.1: the host in `Host`, only the path in the target, one
/// line of cookies. A WebSocket becomes the handshake that it would be there.
fn translate<B>(mut request: Request<B>) -> Result<Request<B>, Bad> {
    let uri = std::mem::take(request.uri_mut());
    let parts = uri.into_parts();
    let headers = request.headers_mut();
    if let Some(authority) = &parts.authority {
        let named = headers.get(HOST).map(HeaderValue::as_bytes);
        if named.is_some_and(|host| !host.eq_ignore_ascii_case(authority.as_str().as_bytes())) {
            return Err(Bad::Host);
        }
        headers.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| Bad::Host)?);
    }
    join_cookies(headers);
    let target = parts.path_and_query.ok_or(Bad::Target)?;
    let websocket = match request.extensions().get::<Protocol>() {
        Some(protocol) if protocol.as_str() == "websocket" => true,
        Some(_) => return Err(Bad::Connect),
        None if request.method() == Method::CONNECT => return Err(Bad::Connect),
        None => false,
    };
    *request.uri_mut() = to_uri(target)?;
    if websocket {
        // Version 13 is what the client has to say by itself (RFC 8441 section 5).
        *request.method_mut() = Method::GET;
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(SEC_WEBSOCKET_KEY, key()?);
    }
    Ok(request)
}

fn to_uri(target: PathAndQuery) -> Result<Uri, Bad> {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).map_err(|_| Bad::Target)
}

/// Cookies may come on lines of their own, which HTTP/1.1 does not know (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let mut joined = [first.as_bytes(), second.as_bytes()].join(&b"; "[..]);
    for line in lines {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

/// A key as HTTP/1.1 wants one. Nobody but the upstream looks at it.
fn key() -> Result<HeaderValue, Bad> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| Bad::Key)?;
    HeaderValue::from_str(&tidegate_wire::websocket::encode_key(random)).map_err(|_| Bad::Key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().version(Version::HTTP_2).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn the_authority_becomes_the_host_and_the_target_a_path() {
        let translated = translate(request("https://example.org/a?b", &[])).unwrap();
        assert_eq!(translated.headers()[HOST], "example.org");
        assert_eq!(translated.uri(), "/a?b");
        assert_eq!(translated.version(), Version::HTTP_2);
    }

    #[test]
    fn two_hosts_are_refused_and_the_same_one_twice_is_one() {
        let same = request("https://example.org/", &[("host", "EXAMPLE.org")]);
        assert_eq!(translate(same).unwrap().headers().get_all(HOST).iter().count(), 1);
        let other = request("https://example.org/", &[("host", "internal")]);
        assert_eq!(translate(other).unwrap_err(), Bad::Host);
    }

    #[test]
    fn cookies_of_several_lines_become_one() {
        let several = request("https://a/", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        let translated = translate(several).unwrap();
        let cookies: Vec<_> = translated.headers().get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn connect_is_for_websockets_only() {
        let mut plain = request("https://a/", &[]);
        *plain.method_mut() = Method::CONNECT;
        assert_eq!(translate(plain).unwrap_err(), Bad::Connect);
        let mut other = request("https://a/", &[]);
        other.extensions_mut().insert(Protocol::from_static("connect-udp"));
        assert_eq!(translate(other).unwrap_err(), Bad::Connect);
    }

    #[test]
    fn a_websocket_becomes_the_handshake_that_it_would_be_over_http_1() {
        let mut websocket = request("https://a/chat", &[("sec-websocket-version", "13")]);
        *websocket.method_mut() = Method::CONNECT;
        websocket.extensions_mut().insert(Protocol::from_static("websocket"));
        let translated = translate(websocket).unwrap();
        assert_eq!(translated.method(), Method::GET);
        assert_eq!(translated.version(), Version::HTTP_11);
        assert_eq!(translated.headers()[UPGRADE], "websocket");
        let key = translated.headers()[SEC_WEBSOCKET_KEY].to_str().unwrap();
        assert!(tidegate_wire::websocket::is_valid_key(key), "{key}");
    }
}
