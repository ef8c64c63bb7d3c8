//! Where a variable's value comes from.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;
use tidegate_types::push_ip;

use crate::template::is_path;
use crate::variable::{Named, Variable};
use crate::{Facts, Place, escape, time};

/// Appends a variable's value, escaped for the place.
pub(crate) fn write(out: &mut Vec<u8>, variable: &Variable, facts: &Facts<'_>, place: Place, start: usize) {
    match variable {
        Variable::Named(name) => {
            if place == Place::Location && is_path(variable) {
                let authority_open = out
                    .get(start..)
                    .and_then(|text| text.windows(2).position(|pair| pair == b"//").map(|at| text.split_at(at + 2).1))
                    .is_some_and(|host| !host.iter().any(|byte| b"/?#".contains(byte)));
                let rest = if *name == Named::PrefixRest { facts.prefix_rest } else { facts.path };
                if authority_open && !rest.starts_with('/') {
                    out.push(b'/');
                }
            }
            named(out, *name, facts, place);
        }
        Variable::Header(name) => {
            if let Some(headers) = facts.headers {
                header(out, headers, name, place);
            }
        }
        Variable::Cookie(name) => {
            if let Some(found) = facts.headers.and_then(|headers| cookie(headers, name)) {
                escape::write(out, found, place);
            }
        }
        Variable::Query(name) => {
            if let Some(found) = facts.query.and_then(|query| parameter(query, name)) {
                decoded(out, found, place);
            }
        }
        Variable::Claim(name) => {
            if let Some((_, value)) = facts.claims.iter().find(|(known, _)| known == name) {
                escape::write(out, value.as_bytes(), place);
            }
        }
    }
}

fn named(out: &mut Vec<u8>, name: Named, facts: &Facts<'_>, place: Place) {
    match name {
        Named::ClientIp => address(out, facts.client),
        Named::ClientPort => number(out, facts.client.map(|client| u64::from(client.port()))),
        Named::RemoteAddr => address(out, facts.peer),
        Named::Host => host(out, facts.host, place),
        Named::Method => text(out, Some(facts.method), place),
        Named::Path => target(out, facts.path, place),
        Named::Query => target(out, facts.query.unwrap_or_default(), place),
        Named::Uri => {
            target(out, facts.path, place);
            if let Some(query) = facts.query {
                out.push(b'?');
                target(out, query, place);
            }
        }
        Named::PrefixRest => target(out, facts.prefix_rest, place),
        Named::Scheme => out.extend_from_slice(facts.scheme.as_bytes()),
        Named::HttpVersion => out.extend_from_slice(facts.http_version.as_bytes()),
        Named::RequestId => text(out, Some(facts.request_id), place),
        Named::Route => text(out, Some(facts.route), place),
        Named::Listener => text(out, Some(facts.listener), place),
        Named::TlsVersion => text(out, facts.tls.map(|tls| tls.version), place),
        Named::TlsCipher => text(out, facts.tls.map(|tls| tls.cipher), place),
        Named::TlsSni => text(out, facts.tls.map(|tls| tls.sni), place),
        Named::TlsClientSubject => text(out, facts.tls.map(|tls| tls.client_subject), place),
        Named::TlsClientVerified => text(out, facts.tls.map(|tls| tls.client_verified), place),
        Named::Connection => number(out, facts.connection),
        Named::ConnectionRequests => number(out, facts.connection_requests),
        Named::TraceId => text(out, Some(facts.trace_id), place),
        Named::Upstream => text(out, facts.upstream.map(|upstream| upstream.name), place),
        Named::UpstreamAddress => text(out, facts.upstream.map(|upstream| upstream.address), place),
        Named::UpstreamStatus => number(out, facts.upstream.and_then(|upstream| upstream.status).map(u64::from)),
        Named::UpstreamConnectTime => seconds(out, facts.upstream.and_then(|upstream| upstream.connect_time)),
        Named::UpstreamHeaderTime => seconds(out, facts.upstream.and_then(|upstream| upstream.header_time)),
        Named::Retries => number(out, facts.upstream.map(|upstream| upstream.retries.into())),
        Named::Status => number(out, facts.end.map(|end| end.status.into())),
        Named::BytesIn => number(out, facts.end.map(|end| end.bytes_in)),
        Named::BytesOut => number(out, facts.end.map(|end| end.bytes_out)),
        Named::Duration => seconds(out, facts.end.map(|end| end.duration)),
        Named::Ttfb => seconds(out, facts.end.and_then(|end| end.ttfb)),
        Named::Kind => text(out, facts.end.map(|end| end.kind), place),
        Named::Reason => text(out, facts.end.map(|end| end.reason), place),
        Named::Error => text(out, facts.end.map(|end| end.error), place),
        Named::Events => number(out, facts.end.map(|end| end.events)),
        Named::MessagesIn => number(out, facts.end.map(|end| end.messages_in)),
        Named::MessagesOut => number(out, facts.end.map(|end| end.messages_out)),
        Named::Time => {
            if let Some(end) = facts.end {
                time::push_rfc3339(out, end.unix_ms);
            }
        }
        Named::TimeLocal => {
            if let Some(end) = facts.end {
                time::push_time_local(out, end.unix_ms, end.utc_offset_minutes);
            }
        }
        Named::TimeUnix => seconds(out, facts.end.map(|end| Duration::from_millis(end.unix_ms))),
    }
}

fn text(out: &mut Vec<u8>, text: Option<&str>, place: Place) {
    escape::write(out, text.unwrap_or_default().as_bytes(), place);
}

fn address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    if let Some(address) = address {
        push_ip(out, address.ip().to_canonical());
    }
}

fn number(out: &mut Vec<u8>, number: Option<u64>) {
    if let Some(number) = number {
        out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
}

fn seconds(out: &mut Vec<u8>, time: Option<Duration>) {
    if let Some(time) = time {
        time::seconds(out, time);
    }
}

/// nginx's `$host`: small letters, no port, no dot at the end.
fn host(out: &mut Vec<u8>, host: &str, place: Place) {
    let name = without_port(host);
    let start = out.len();
    if place == Place::Location {
        escape::write_authority(out, name.as_bytes());
    } else {
        escape::write(out, name.as_bytes(), place);
    }
    // What is escaped in logs has capitals of its own (\x0A), which a host that could be served does not contain.
    if let Some(written) = out.get_mut(start..) {
        written.make_ascii_lowercase();
    }
}

fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        // An IPv6 literal has colons of its own, and no port unless the bracket is closed before it.
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.starts_with('[') || name.ends_with(']')) =>
        {
            name
        }
        Some(_) | None => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// A part of the request's target.
fn target(out: &mut Vec<u8>, part: &str, place: Place) {
    if place == Place::Location {
        escape::write_target(out, part.as_bytes());
    } else {
        escape::write(out, part.as_bytes(), place);
    }
}

fn header(out: &mut Vec<u8>, headers: &HeaderMap, name: &HeaderName, place: Place) {
    for (index, value) in headers.get_all(name).iter().enumerate() {
        if index > 0 {
            escape::write(out, b", ", place);
        }
        escape::write(out, value.as_bytes(), place);
    }
}

/// The first cookie of that name (RFC 6265 section 4.2.1); names are told apart by case.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers
        .get_all(http::header::COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .find_map(|pair| {
            let pair = pair.trim_ascii();
            pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
        })
}

/// The first parameter of that name, as it came. Names are compared as decoded.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        escape::decoded(found).eq(name.bytes()).then_some(value)
    })
}

fn decoded(out: &mut Vec<u8>, text: &str, place: Place) {
    if text.bytes().any(|byte| byte == b'%' || byte == b'+') {
        let bytes: SmallVec<[u8; 128]> = escape::decoded(text).collect();
        escape::write(out, &bytes, place);
    } else {
        escape::write(out, text.as_bytes(), place);
    }
}
