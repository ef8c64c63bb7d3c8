//! The WebSocket handshake (RFC 6455 section 4) as an intermediary sees it: no tunnel before a 101 that fits the key.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tidegate_balance::Tried;
use tidegate_metrics::Outcome;
use tidegate_transport::Transport;
use tidegate_types::{CloseReason, ErrorCode};
use tidegate_wire::websocket::{accept_key, is_valid_key};

use crate::body::RequestBody;
use crate::carrier::{Carrier, Journey, Way};
use crate::choice::Choice;
use crate::circuit::Admission;
use crate::clock::Species;
use crate::extensions;
use crate::flow::{Ending, Upload};
use crate::forward::{Answered, Failure, answer_error, refuse, wait};
use crate::h1::{Connection, Head};
use crate::h2::{Call, Slot};
use crate::headers::{Prepared, add_request_id, has_token, prepare_request, prepare_response};
use crate::meter::Meter;
use crate::policy::Inspect;
use crate::pool::Open;
use crate::retry::Tries;
use crate::server::Target;
use crate::tunnel::{End, Tunnel};
use crate::{Body, Exchange, ExchangeKind, Forwarder, Guarded, Upstream, error_response};

/// Whether the request asks for a WebSocket. Any other protocol in `Upgrade` is not passed on: the request is then
/// answered as if it had not asked (RFC 9110 section 7.8).
pub fn is_wanted<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    headers.contains_key(UPGRADE)
        && request.version() == Version::HTTP_11
        && has_token(headers, &UPGRADE, "websocket")
        && has_token(headers, &CONNECTION, "upgrade")
}

/// What is wrong with a client's handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BadHandshake {
    Method,
    Body,
    Key,
    Version,
}

fn check<B>(request: &Request<B>) -> Result<HeaderValue, BadHandshake> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(BadHandshake::Method);
    }
    let empty = headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0");
    if headers.contains_key(TRANSFER_ENCODING) || !empty {
        return Err(BadHandshake::Body);
    }
    if single(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(BadHandshake::Version);
    }
    let key = single(headers, &SEC_WEBSOCKET_KEY).ok_or(BadHandshake::Key)?;
    let valid = key.to_str().is_ok_and(is_valid_key);
    if valid { Ok(key.clone()) } else { Err(BadHandshake::Key) }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

fn refuse_handshake(bad: BadHandshake, ending: Ending) -> Response<Body> {
    let message = match bad {
        BadHandshake::Method => "A WebSocket handshake is a GET",
        BadHandshake::Body => "A WebSocket handshake has no body",
        BadHandshake::Key => "Sec-WebSocket-Key is missing or invalid",
        BadHandshake::Version => "Only WebSocket version 13 is supported",
    };
    let mut response = error_response(ErrorCode::BadRequest, message, &ending.request_id);
    if bad == BadHandshake::Version {
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        let headers = response.headers_mut();
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade, close"));
    }
    answer_error(response, ErrorCode::BadRequest, CloseReason::ProtocolError, ending)
}

/// Passes a handshake on, over a connection of its own, and begins the tunnel.
pub(crate) async fn connect(
    forwarder: &Rc<Forwarder>,
    mut request: Request<Incoming>,
    upstream: &Arc<Upstream>,
    mut exchange: Exchange,
) -> Response<Body> {
    let key = match check(&request) {
        Ok(key) => key,
        Err(bad) => return refuse_handshake(bad, Ending::begin(exchange)),
    };
    let client = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let (changes, delay) = (exchange.changes.take(), exchange.delay);
    let terms = exchange.websocket.take();
    let strict = terms.as_ref().is_some_and(|terms| terms.policy.settings.inspect == Inspect::Strict);
    let ending = Ending::begin(exchange);
    wait(delay).await;
    let mut request = prepare_request(parts, changes);
    request.stamp(upstream);
    request.parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    request.parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    drop(body);
    if strict {
        extensions::offer_known(&mut request.parts.headers);
    }
    ending.upload.set(Upload::Done);

    let admission = match ending.enter(upstream) {
        Ok(admission) => admission,
        Err(refused) => return refuse(refused, ending),
    };
    let trial = admission.as_ref().is_some_and(Admission::is_trial);
    match try_servers(forwarder, upstream, &request, &key, &ending, trial, strict).await {
        Ok(Shaken::Tunnel(mut response, stream, open)) => {
            if let Some(admission) = admission {
                admission.answered(101);
            }
            upstream.metrics.header_seconds.observe(ending.responded(101).as_secs_f64());
            let patience = ending.patience(upstream);
            ending.kind.set(ExchangeKind::WebSocket);
            ending.flows();
            add_request_id(response.headers_mut(), &ending.request_id);
            ending.add_cookie(response.headers_mut());
            ending.tell(response.extensions_mut());
            let of_route = terms.as_ref().and_then(|terms| terms.policy.settings.idle_timeout);
            let timeout = of_route.unwrap_or(patience.tunnel_idle);
            let meter = terms.filter(|terms| terms.policy.looks_inside()).map(|terms| {
                let key = terms.policy.key(&terms.key);
                let deflate = extensions::deflates(response.headers());
                Meter::new(terms.policy, key, deflate, ending.flow(), &forwarder.clock, timeout)
            });
            let alarm = forwarder.clock.alarm(Species::Stream);
            let listed = forwarder.live.enter(ending.flow(), upstream, &alarm);
            let buffer = forwarder.buffer.clone();
            begin(client, patience.handshake, stream, End { alarm, timeout, buffer, open, ending, listed, meter });
            response
        }
        Ok(Shaken::Refused(head, carrier)) => {
            if let Some(admission) = admission {
                admission.answered(head.response.status().as_u16());
            }
            let alarm = forwarder.clock.alarm(Species::Exchange);
            forwarder.answer(Answered { head, carrier, upload: None, alarm }, upstream, ending)
        }
        Err(failure) => {
            if let Some(admission) = admission {
                admission.failed(failure);
            }
            refuse(failure, ending)
        }
    }
}

/// Shakes hands over a connection of the tunnel's own. A handshake has no effect before its 101, so that it may be tried
/// again as any other GET.
async fn try_servers(
    forwarder: &Rc<Forwarder>,
    upstream: &Arc<Upstream>,
    request: &Prepared,
    key: &HeaderValue,
    ending: &Ending,
    trial: bool,
    strict: bool,
) -> Result<Shaken, Failure> {
    let choice = Choice::of(upstream, ending, &request.parts);
    let mut tries = Tries::begin(upstream, ending, trial);
    let mut tried = Tried::default();
    // What is passed on if no other server can be had.
    let mut held: Option<(Head, Carrier)> = None;
    let mut failure = Failure::NoServer;
    loop {
        let Some(busy) = upstream.pick(ending, choice.as_deref(), &mut tried).filter(|_| tries.next()) else {
            let (head, carrier) = held.ok_or(failure)?;
            return Ok(Shaken::Refused(head, carrier));
        };
        if busy.target == Target::Name && upstream.resolve_now(&busy.name).await {
            tries.not_made();
            continue;
        }
        let server = busy.server().clone();
        ending.set_server(busy);
        if let Some(unwanted) = held.take() {
            forwarder.discard(upstream, unwanted);
        }
        // A stream of a connection that is shared anyway may be on one that stands.
        let standing = if upstream.settings.http2 { forwarder.take(upstream, &server) } else { None };
        let way = match standing {
            Some(way) => Ok(way),
            None => forwarder.open(upstream, &server, ending).await,
        };
        let way = match way {
            Ok(way) => way,
            Err(error) => {
                server.metrics.requests(Outcome::ConnectFailed).inc();
                upstream.failed(&server);
                failure = Failure::Connect(error);
                if !tries.may_follow(failure) {
                    return Err(failure);
                }
                continue;
            }
        };
        upstream.metrics.connect_seconds.observe(ending.connected().as_secs_f64());
        let deadline = ending.patience(upstream).handshake;
        let shaken = tokio::time::timeout(deadline, shake(forwarder, way, request, key, ending)).await;
        let shaken = shaken.unwrap_or(Err(Failure::Timeout)).and_then(|shaken| match shaken {
            Shaken::Tunnel(response, ..) if strict && extensions::has_unknown(response.headers()) => {
                Err(Failure::Invalid)
            }
            other @ (Shaken::Tunnel(..) | Shaken::Refused(..)) => Ok(other),
        });
        match shaken {
            Ok(Shaken::Tunnel(response, stream, open)) => {
                server.metrics.requests(Outcome::Response).inc();
                upstream.answered(&server, 101, ending.attempt_time());
                return Ok(Shaken::Tunnel(response, stream, open));
            }
            Ok(Shaken::Refused(head, carrier)) => {
                server.metrics.requests(Outcome::Response).inc();
                let status = head.response.status().as_u16();
                upstream.answered(&server, status, ending.attempt_time());
                if !upstream.settings.retry.on.has_status(status) || !tries.may_another() {
                    return Ok(Shaken::Refused(head, carrier));
                }
                held = Some((head, carrier));
            }
            Err(reason) => {
                server.metrics.requests(reason.outcome()).inc();
                if reason == Failure::NoTunnel {
                    tracing::warn!(
                        upstream = upstream.settings.name, server = %server.address,
                        "a WebSocket was refused: the server speaks HTTP/2 without SETTINGS_ENABLE_CONNECT_PROTOCOL \
                         (RFC 8441); let it be an upstream of its own with protocol = \"http1\"",
                    );
                } else if reason != Failure::Unprocessed {
                    upstream.failed(&server);
                }
                failure = reason;
                if !tries.may_follow(failure) {
                    return Err(failure);
                }
            }
        }
    }
}

/// The upstream's answer to a handshake.
enum Shaken {
    Tunnel(Response<Body>, Taken, Place),
    Refused(Head, Carrier),
}

/// What a tunnel has of its upstream while it lives.
#[derive(Debug)]
pub(crate) enum Place {
    /// A connection, which is counted.
    Connection(#[expect(dead_code, reason = "counts until it is dropped")] Open),
    /// A part of one.
    Stream(#[expect(dead_code, reason = "has its place until it is dropped")] Box<Slot>),
}

async fn shake(
    forwarder: &Rc<Forwarder>,
    way: Way,
    request: &Prepared,
    key: &HeaderValue,
    ending: &Ending,
) -> Result<Shaken, Failure> {
    match way {
        Way::H1(connection) => upgrade(forwarder, connection, request, key, ending).await,
        Way::H2(slot) => Box::pin(extended(forwarder, slot, request, key, ending)).await,
    }
}

/// By extended CONNECT (RFC 8441 section 5): a 2xx is what the 101 is otherwise.
async fn extended(
    forwarder: &Rc<Forwarder>,
    slot: Slot,
    request: &Prepared,
    key: &HeaderValue,
    ending: &Ending,
) -> Result<Shaken, Failure> {
    let body = RequestBody::empty(ending.flow(), &forwarder.clock);
    let mut call = Call::tunnel(slot, request, body, ending, &mut forwarder.scratch.borrow_mut())?;
    let mut head = std::future::poll_fn(|cx| call.poll_head(&Method::CONNECT, cx)).await?;
    if !head.response.status().is_success() {
        prepare_response(&mut head.response).map_err(|_| Failure::Invalid)?;
        let (carrier, _) = Journey::H2(Box::new(call)).arrive().ok_or(Failure::Invalid)?;
        return Ok(Shaken::Refused(head, carrier));
    }
    let accept = HeaderValue::from_str(&accept_key(key.to_str().unwrap_or_default())).map_err(|_| Failure::Invalid)?;
    let mut response = tunnel_response(head.response);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    let (stream, slot) = call.into_tunnel().ok_or(Failure::Invalid)?;
    let taken = Taken { stream: Transport::over(stream), read: Bytes::new() };
    Ok(Shaken::Tunnel(response, taken, Place::Stream(Box::new(slot))))
}

/// By a handshake of HTTP/1.1.
async fn upgrade(
    forwarder: &Rc<Forwarder>,
    mut connection: Connection,
    request: &Prepared,
    key: &HeaderValue,
    ending: &Ending,
) -> Result<Shaken, Failure> {
    let body = RequestBody::empty(ending.flow(), &forwarder.clock);
    let mut sending = forwarder.begin(&connection, request, body, ending);
    let mut head =
        std::future::poll_fn(|cx| forwarder.poll_head(&mut connection, &mut sending, &request.parts.method, cx))
            .await?;
    if !sending.is_done() {
        // An answer to half a handshake: no tunnel comes of it, and nothing else may go this way.
        head.reusable = false;
    }
    if head.response.status() != StatusCode::SWITCHING_PROTOCOLS {
        prepare_response(&mut head.response).map_err(|_| Failure::Invalid)?;
        return Ok(Shaken::Refused(head, Carrier::H1(connection)));
    }
    let response = head.response;
    let headers = response.headers();
    let accepted = single(headers, &SEC_WEBSOCKET_ACCEPT)
        .is_some_and(|accept| *accept == *accept_key(key.to_str().unwrap_or_default()));
    if !sending.is_done()
        || !accepted
        || !has_token(headers, &UPGRADE, "websocket")
        || !has_token(headers, &CONNECTION, "upgrade")
    {
        return Err(Failure::Invalid);
    }
    let (stream, read, open) = connection.into_stream().ok_or(Failure::Reset)?;
    Ok(Shaken::Tunnel(tunnel_response(response), Taken { stream, read }, Place::Connection(open)))
}

/// What the client is told of a tunnel.
fn tunnel_response(response: Response<()>) -> Response<Body> {
    let mut response = response.map(|()| Body::empty());
    let headers = response.headers_mut();
    // A 101 has no body, whatever its header says.
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE, HeaderName::from_static("keep-alive")] {
        headers.remove(name);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    *response.version_mut() = Version::HTTP_11;
    response
}

/// A stream that carries another protocol from here on.
#[derive(Debug)]
pub struct Taken {
    /// The stream itself.
    pub stream: Transport,
    /// What was read beyond the head: comes before anything read from the stream.
    pub read: Bytes,
}

/// Takes the stream back from an upgraded connection: a [`Transport`], [`Guarded`] or not, as it is; a stream of HTTP/2, which
/// stays a part of its connection, in the form of one.
pub fn take_back(upgraded: Upgraded) -> Taken {
    let upgraded = match upgraded.downcast::<TokioIo<Guarded<Transport>>>() {
        Ok(parts) => {
            let (stream, held) = parts.io.into_inner().into_parts();
            // Bytes that the guard held back come after those that hyper has read.
            let read = if held.is_empty() { parts.read_buf } else { [parts.read_buf, held].concat().into() };
            return Taken { stream, read };
        }
        Err(upgraded) => upgraded,
    };
    match upgraded.downcast::<TokioIo<Transport>>() {
        Ok(parts) => Taken { stream: parts.io.into_inner(), read: parts.read_buf },
        Err(upgraded) => Taken { stream: Transport::over(TokioIo::new(upgraded)), read: Bytes::new() },
    }
}

/// Once the 101 has been sent, both streams go to a task of exactly the tunnel's size.
fn begin(client: OnUpgrade, deadline: Duration, upstream: Taken, end: End) {
    tokio::task::spawn_local(async move {
        let Ok(Ok(upgraded)) = tokio::time::timeout(deadline, client).await else { return };
        let client = take_back(upgraded);
        tokio::task::spawn_local(Tunnel::new(client, upstream, end));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_gives_the_accept_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    fn handshake(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/").header("upgrade", "websocket").header("connection", "Upgrade");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const VERSION: (&str, &str) = ("sec-websocket-version", "13");

    #[test]
    fn a_handshake_needs_a_key_of_16_bytes_and_version_13() {
        assert!(check(&handshake(&[KEY, VERSION])).is_ok());
        assert_eq!(check(&handshake(&[KEY])), Err(BadHandshake::Version));
        assert_eq!(check(&handshake(&[KEY, ("sec-websocket-version", "8")])), Err(BadHandshake::Version));
        assert_eq!(check(&handshake(&[VERSION])), Err(BadHandshake::Key));
        assert_eq!(check(&handshake(&[KEY, KEY, VERSION])), Err(BadHandshake::Key));
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25j",
            "!!!!IHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25jZTEyMw==",
        ] {
            assert_eq!(check(&handshake(&[("sec-websocket-key", key), VERSION])), Err(BadHandshake::Key), "{key}");
        }
    }

    #[test]
    fn a_handshake_has_no_body() {
        assert_eq!(check(&handshake(&[KEY, VERSION, ("content-length", "1")])), Err(BadHandshake::Body));
        assert!(check(&handshake(&[KEY, VERSION, ("content-length", "0")])).is_ok());
    }

    #[test]
    fn other_protocols_are_not_wanted() {
        let request = Request::builder().header("upgrade", "h2c").header("connection", "upgrade").body(()).unwrap();
        assert!(!is_wanted(&request));
        let request = Request::builder().header("upgrade", "websocket").body(()).unwrap();
        assert!(!is_wanted(&request), "Upgrade is nothing without Connection");
        let request =
            Request::builder().header("upgrade", "h2c, WebSocket").header("connection", "keep-alive, Upgrade");
        assert!(is_wanted(&request.body(()).unwrap()));
    }
}
