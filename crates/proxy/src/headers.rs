//! What a proxy takes out of a message and puts in: RFC 9110 section 7.6, RFC 9112 section 3.2, and what users of nginx
//! expect to find.

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Response, StatusCode, Uri};
use smallvec::SmallVec;
use tidegate_types::push_ip;

use crate::flow::Flow;
use crate::{RequestChanges, Upstream};

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
pub(crate) fn prepare_request(mut parts: Parts, changes: Option<Box<RequestChanges>>) -> Prepared {
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
    let chain = found.forwarded.then(|| {
        let before = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect::<SmallVec<[_; 4]>>();
        let chain = before.join(b", ".as_slice()).into_boxed_slice();
        drop(before);
        for name in [X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REAL_IP, X_REQUEST_ID] {
            headers.remove(name);
        }
        chain
    });
    let hostless = !headers.contains_key(HOST);
    let chain = chain.filter(|chain| !chain.is_empty());
    let mut request = Prepared { parts, hostless, chain, replaced: Origins::default(), asked_host: None };
    if let Some(changes) = changes {
        changes.apply(&mut request);
    }
    request
}

/// A request whose header is fit for the upstream. The fields that say who asked and how are not among the others: they are
/// written behind them.
pub(crate) struct Prepared {
    pub(crate) parts: Parts,
    /// The client named no host, which only HTTP/1.0 may do.
    pub(crate) hostless: bool,
    /// X-Forwarded-For as it came.
    chain: Option<Box<[u8]>>,
    /// Fields about the origin that the route writes or leaves out by itself.
    pub(crate) replaced: Origins,
    /// The host that the client asked for, if the upstream is told another.
    pub(crate) asked_host: Option<HeaderValue>,
}

impl Prepared {
    /// Puts in what the upstream's requests all carry. Last, so that nobody can have it taken out: not the client by naming
    /// it in `Connection`, not a route.
    pub(crate) fn stamp(&mut self, upstream: &Upstream) {
        if let Some((name, value)) = &upstream.settings.stamp {
            self.parts.headers.insert(name.clone(), value.clone());
        }
    }

    /// Appends the fields that tell the upstream who asked and how.
    pub(crate) fn write_origin(&self, out: &mut Vec<u8>, flow: &Flow) {
        let ip = flow.client.to_canonical();
        let ours = |origin| !self.replaced.contains(origin);
        if ours(Origin::For) {
            out.extend_from_slice(b"x-forwarded-for: ");
            if let Some(chain) = &self.chain {
                out.extend_from_slice(chain);
                out.extend_from_slice(b", ");
            }
            push_ip(out, ip);
            out.extend_from_slice(b"\r\n");
        }
        if ours(Origin::RealIp) {
            out.extend_from_slice(b"x-real-ip: ");
            push_ip(out, ip);
            out.extend_from_slice(b"\r\n");
        }
        if ours(Origin::Proto) {
            out.extend_from_slice(b"x-forwarded-proto: ");
            out.extend_from_slice(flow.scheme.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let host = self.asked_host.as_ref().or_else(|| self.parts.headers.get(HOST).filter(|_| !self.hostless));
        if let Some(host) = host.filter(|_| ours(Origin::Host)) {
            out.extend_from_slice(b"x-forwarded-host: ");
            out.extend_from_slice(host.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if ours(Origin::RequestId) {
            out.extend_from_slice(b"x-request-id: ");
            out.extend_from_slice(flow.request_id.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A field that tells the upstream who asked and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    For,
    Host,
    Proto,
    RealIp,
    RequestId,
}

impl Origin {
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "x-forwarded-for" => Some(Self::For),
            "x-forwarded-host" => Some(Self::Host),
            "x-forwarded-proto" => Some(Self::Proto),
            "x-real-ip" => Some(Self::RealIp),
            "x-request-id" => Some(Self::RequestId),
            _ => None,
        }
    }
}

/// A set of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Origins(u8);

impl Origins {
    pub(crate) fn insert(&mut self, origin: Origin) {
        self.0 |= 1 << origin as u8;
    }

    fn contains(self, origin: Origin) -> bool {
        self.0 & 1 << origin as u8 != 0
    }
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
                name => found.forwarded |= is_origin(name),
            }
        }
        found
    }
}

/// Whether a field tells the upstream who asked and how, which is ours to say.
pub(crate) fn is_origin(name: &str) -> bool {
    Origin::of(name).is_some()
}

pub(crate) fn add_request_id(headers: &mut HeaderMap, request_id: &str) {
    let value = HeaderValue::from_str(request_id).unwrap_or_else(|_| HeaderValue::from_static("invalid"));
    headers.insert(X_REQUEST_ID, value);
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
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    const TYPE: &str = "text/event-stream";
    headers.get(http::header::CONTENT_TYPE).and_then(|value| value.as_bytes().split_at_checked(TYPE.len())).is_some_and(
        |(head, rest)| {
            head.eq_ignore_ascii_case(TYPE.as_bytes())
                && rest.first().is_none_or(|byte| matches!(byte, b';' | b' ' | b'\t'))
        },
    )
}

/// Whether the body is other than its text, compressed for example.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get_all(http::header::CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Keeps proxies between us and the client from holding events back.
pub(crate) fn mark_event_stream(headers: &mut HeaderMap) {
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    headers.entry(X_ACCEL_BUFFERING).or_insert(HeaderValue::from_static("no"));
}
