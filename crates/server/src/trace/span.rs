//! An exchange as spans (opentelemetry/proto/trace/v1/trace.proto), with the names of OpenTelemetry's semantic conventions
//! for HTTP. Nothing of a query, a header or a body is among them.

use std::time::Duration;

use tidegate_proxy::{Attempt, Trace};

use super::Finished;
use super::protobuf::Message;
use crate::access_log::Entry;

/// Longer values are cut: what waits to be sent is bounded.
const MAX_TEXT: usize = 1024;

const SERVER: u64 = 2;
const CLIENT: u64 = 3;
const ERROR: u64 = 2;

/// Trace flags in the lowest byte; above, that the parent is known to be, or not to be, in another process.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const SAMPLED: u32 = 1;

/// The spans of an exchange that ended `now`, nanoseconds since the Unix epoch.
pub(super) fn finished(trace: &Trace, entry: &Entry<'_>, now: u64) -> Finished {
    let began = now.saturating_sub(nanos(entry.duration));
    let mut out = Message::new();
    out.nested(2, |span| server(span, trace, entry, began, now));
    let attempts = trace.attempts();
    for (index, attempt) in attempts.iter().enumerate() {
        let next = attempts.get(index + 1);
        out.nested(2, |span| client(span, trace, entry, (index, attempt, next), began, now));
    }
    Finished { bytes: out.into_bytes(), spans: 1 + attempts.len() as u64 }
}

fn server(span: &mut Message, trace: &Trace, entry: &Entry<'_>, began: u64, now: u64) {
    span.bytes(1, &trace.context.trace.to_be_bytes());
    span.bytes(2, &trace.context.span.to_be_bytes());
    if let Some(parent) = trace.parent {
        span.bytes(4, &parent.to_be_bytes());
    }
    let method = if entry.method.is_empty() { "HTTP" } else { entry.method };
    match entry.route {
        Some(route) => span.text(5, &format!("{method} {route}")),
        None => span.text(5, method),
    }
    span.number(6, SERVER);
    span.fixed64(7, began);
    span.fixed64(8, now);
    text(span, "http.request.method", entry.method);
    text(span, "url.scheme", entry.scheme);
    text(span, "url.path", entry.path);
    let host = std::str::from_utf8(entry.host).unwrap_or_default();
    let (name, port) = split_port(host);
    text(span, "server.address", name);
    number(span, "server.port", port);
    text(span, "network.protocol.version", entry.http_version);
    text(span, "client.address", &entry.client.ip().to_canonical().to_string());
    text(span, "network.peer.address", &entry.peer.ip().to_canonical().to_string());
    number(span, "http.response.status_code", u64::from(entry.status));
    number(span, "http.request.body.size", entry.bytes_in);
    number(span, "http.response.body.size", entry.bytes_out);
    text(span, "tidegate.kind", entry.kind);
    text(span, "tidegate.listener", entry.listener);
    text(span, "tidegate.route", entry.route.unwrap_or_default());
    text(span, "tidegate.request_id", entry.request_id);
    text(span, "tidegate.reason", entry.reason.unwrap_or_default());
    number(span, "tidegate.events", entry.events);
    let failed = entry.status >= 500;
    if failed {
        text(span, "error.type", entry.error.unwrap_or(&entry.status.to_string()));
    }
    if entry.kind != "http"
        && let Some(ttfb) = entry.ttfb
    {
        span.nested(11, |event| {
            event.fixed64(1, began.saturating_add(nanos(ttfb)));
            event.text(2, "open");
        });
    }
    if failed {
        span.nested(15, |status| status.number(3, ERROR));
    }
    let remote = if trace.parent.is_some() { IS_REMOTE } else { 0 };
    span.fixed32(16, SAMPLED | HAS_IS_REMOTE | remote);
}

fn client(
    span: &mut Message,
    trace: &Trace,
    entry: &Entry<'_>,
    (index, attempt, next): (usize, &Attempt, Option<&Attempt>),
    began: u64,
    now: u64,
) {
    span.bytes(1, &trace.context.trace.to_be_bytes());
    span.bytes(2, &attempt.span.to_be_bytes());
    span.bytes(4, &trace.context.span.to_be_bytes());
    span.text(5, entry.method);
    span.number(6, CLIENT);
    span.fixed64(7, began.saturating_add(nanos(attempt.began)));
    // A try ends when the next one begins; the last one with the exchange.
    span.fixed64(8, next.map_or(now, |next| began.saturating_add(nanos(next.began))));
    text(span, "http.request.method", entry.method);
    let (name, port) = split_port(&attempt.server);
    text(span, "server.address", name);
    number(span, "server.port", port);
    number(span, "http.request.resend_count", index as u64);
    let status = entry.upstream_status.filter(|_| next.is_none());
    number(span, "http.response.status_code", u64::from(status.unwrap_or(0)));
    let failure = match status {
        Some(400..) => status.map(|status| status.to_string()),
        Some(_) => None,
        None => Some(entry.error.filter(|_| next.is_none()).unwrap_or("_OTHER").to_owned()),
    };
    if let Some(failure) = failure {
        text(span, "error.type", &failure);
        span.nested(15, |status| status.number(3, ERROR));
    }
    span.fixed32(16, SAMPLED | HAS_IS_REMOTE);
}

/// `key: text`, unless it is empty.
fn text(span: &mut Message, key: &str, value: &str) {
    let longest = value.len().min(MAX_TEXT);
    // Not within a character, of which none is longer than 4 bytes.
    let value = (0..4).find_map(|less| value.get(..longest.checked_sub(less)?)).unwrap_or_default();
    if !value.is_empty() {
        span.nested(9, |attribute| {
            attribute.text(1, key);
            attribute.nested(2, |any| any.text(1, value));
        });
    }
}

/// `key: number`, unless it is 0.
fn number(span: &mut Message, key: &str, value: u64) {
    if value != 0 {
        span.nested(9, |attribute| {
            attribute.text(1, key);
            attribute.nested(2, |any| any.number(3, value));
        });
    }
}

/// `host:port`; the port is 0 if there is none.
fn split_port(address: &str) -> (&str, u64) {
    match address.rsplit_once(':') {
        // In an IPv6 address without brackets the last part is no port.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, port),
            Err(_) => (address, 0),
        },
        Some(_) | None => (address, 0),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_or_not() {
        assert_eq!(split_port("example.org:8080"), ("example.org", 8080));
        assert_eq!(split_port("example.org"), ("example.org", 0));
        assert_eq!(split_port("[::1]:80"), ("[::1]", 80));
        assert_eq!(split_port("::1"), ("::1", 0));
        assert_eq!(split_port("unix:/run/app.sock"), ("unix:/run/app.sock", 0));
    }
}
