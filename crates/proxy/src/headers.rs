//! What a proxy takes out of a message and puts in: RFC 9110 section 7.6, RFC 9112 section 3.2, and what users of nginx
//! expect to find.

use std::cell::Cell;
use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Response, StatusCode, Uri};
use smallvec::SmallVec;

use crate::flow::Flow;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY: HeaderName = HeaderName::from_static("proxy");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Whether a comma-separated field has the token, in any case.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| tokens(value).any(|found| found.eq_ignore_ascii_case(token)))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
}

/// Removes what `Connection` names and `Connection` itself. Fields that say where the message ends or whom it is for are
/// not for the peer to remove.
fn strip_connection(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let named: SmallVec<[HeaderName; 4]> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|token| HeaderName::try_from(token).ok())
        .filter(|name| ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

/// Makes a request's header fit for the upstream.
///
/// The framing fields stay: whoever sends the request frames its body by them.
/// `Expect` goes: the 100 (Continue) is answered here, when the upstream connection asks for the body.
pub(crate) fn prepare_request(parts: &mut http::request::Parts, flow: &Flow, addresses: &Addresses) {
    parts.version = http::Version::HTTP_11;
    // Nothing of the client's connection concerns the upstream's.
    parts.extensions.clear();
    let (headers, uri) = (&mut parts.headers, &mut parts.uri);
    let found = Found::in_request(headers);
    if found.hop_by_hop {
        let trailers = has_token(headers, &TE, "trailers");
        strip_connection(headers);
        for name in [KEEP_ALIVE, PROXY_CONNECTION, UPGRADE, TE, EXPECT, PROXY, PROXY_AUTHORIZATION, PROXY_AUTHENTICATE]
        {
            headers.remove(name);
        }
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
    }
    if let Some(authority) = uri.authority() {
        // RFC 9112 section 3.2.2: the target's authority is the host, whatever Host says.
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            headers.insert(HOST, host);
        }
        *uri = uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    }
    let ip = addresses.value(flow.client);
    let chain = if found.forwarded { chain(headers, &ip) } else { None };
    let host = headers.get(HOST).cloned();
    headers.insert(X_FORWARDED_FOR, chain.unwrap_or_else(|| ip.clone()));
    headers.insert(X_REAL_IP, ip);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(flow.scheme));
    match host {
        Some(host) => headers.insert(X_FORWARDED_HOST, host),
        None => headers.remove(X_FORWARDED_HOST),
    };
    add_request_id(headers, flow.request_id_value.clone());
}

/// What one walk over the names finds, so that the usual request, which has none of it, is not asked for each.
#[derive(Clone, Copy, Default)]
struct Found {
    hop_by_hop: bool,
    forwarded: bool,
}

impl Found {
    fn in_request(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection"
                | "keep-alive"
                | "proxy-connection"
                | "upgrade"
                | "te"
                | "expect"
                | "proxy"
                | "proxy-authorization"
                | "proxy-authenticate" => found.hop_by_hop = true,
                "x-forwarded-for" => found.forwarded = true,
                _ => {}
            }
        }
        found
    }
}

pub(crate) fn add_request_id(headers: &mut HeaderMap, request_id: HeaderValue) {
    headers.insert(X_REQUEST_ID, request_id);
}

/// Clients' addresses as field values: the same few clients send most requests, and a shared value costs no allocation.
/// One entry per place, the newer one wins.
pub(crate) struct Addresses(Box<[Cell<Option<Known>>]>);

type Known = (IpAddr, HeaderValue);

const ADDRESSES: usize = 64;

impl std::fmt::Debug for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Addresses")
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self((0..ADDRESSES).map(|_| Cell::new(None)).collect())
    }
}

impl Addresses {
    fn value(&self, ip: IpAddr) -> HeaderValue {
        let ip = ip.to_canonical();
        let place = match ip {
            IpAddr::V4(ip) => ip.octets().iter().fold(0usize, |sum, byte| sum.wrapping_mul(31) + usize::from(*byte)),
            IpAddr::V6(ip) => ip.octets().iter().fold(0usize, |sum, byte| sum.wrapping_mul(31) + usize::from(*byte)),
        };
        let Some(cell) = self.0.get(place % ADDRESSES) else { return address(ip) };
        let value = match cell.take() {
            Some((known, value)) if known == ip => value,
            Some(_) | None => address(ip),
        };
        cell.set(Some((ip, value.clone())));
        value
    }
}

fn address(ip: IpAddr) -> HeaderValue {
    let mut text = String::with_capacity(48);
    // Writing to memory cannot fail, and an address is always a legal value.
    let _ = write!(text, "{ip}");
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// The client's address after those of the proxies before us.
fn chain(headers: &HeaderMap, ip: &HeaderValue) -> Option<HeaderValue> {
    let mut before = headers.get_all(X_FORWARDED_FOR).iter().peekable();
    before.peek()?;
    let mut text = Vec::with_capacity(64);
    for value in before {
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(ip.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
}

/// A 101 that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnwantedUpgrade;

/// Makes a response's header fit for the client.
pub(crate) fn prepare_response<B>(response: &mut Response<B>) -> Result<(), UnwantedUpgrade> {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(UnwantedUpgrade);
    }
    let headers = response.headers_mut();
    let hop_by_hop = headers.keys().any(|name| {
        matches!(
            name.as_str(),
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "proxy-authenticate" | "upgrade"
        )
    });
    if hop_by_hop {
        let upgrade = headers.get(UPGRADE).cloned().filter(|_| status == StatusCode::UPGRADE_REQUIRED);
        strip_connection(headers);
        for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, PROXY_AUTHENTICATE, UPGRADE] {
            headers.remove(name);
        }
        if let Some(upgrade) = upgrade {
            // RFC 9110 section 15.5.22: a 426 must say which protocol.
            headers.insert(UPGRADE, upgrade);
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
    }
    *response.version_mut() = http::Version::HTTP_11;
    Ok(())
}

/// Whether the response is an event stream.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    const TYPE: &str = "text/event-stream";
    headers.get(http::header::CONTENT_TYPE).and_then(|value| value.as_bytes().split_at_checked(TYPE.len())).is_some_and(
        |(head, rest)| {
            head.eq_ignore_ascii_case(TYPE.as_bytes())
                && rest.first().is_none_or(|byte| matches!(byte, b';' | b' ' | b'\t'))
        },
    )
}

/// Keeps proxies between us and the client from holding events back.
pub(crate) fn mark_event_stream(headers: &mut HeaderMap) {
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    headers.entry(X_ACCEL_BUFFERING).or_insert(HeaderValue::from_static("no"));
}
