//! How lines look.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::{REFERER, USER_AGENT};
use tidegate_config::AccessFormat;
use tidegate_rules::{EndFacts, Facts, Place, Template, UpstreamFacts};
use tidegate_types::{push_ip, push_number};

use super::Entry;
use super::escape::push_escaped;
use super::kept::Needs;
use crate::StartError;
use crate::json::Object;
use crate::timestamp::Timestamp;

/// How a line looks.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    /// One JSON object.
    Json,
    /// nginx's and Apache's `combined`, in UTC. Queries are left out, of the request as of the referer.
    Combined,
    /// The operator's own.
    Template(Arc<Template>),
}

impl Format {
    /// As the config has it.
    ///
    /// # Errors
    /// Of a template in a config that was built in code; one that was read has been checked.
    pub fn of(format: &AccessFormat) -> Result<Self, StartError> {
        Ok(match format {
            AccessFormat::Json => Self::Json,
            AccessFormat::Combined => Self::Combined,
            AccessFormat::Template(source) => {
                let fault = |error| StartError::Config(format!("the format of the access log: {error}"));
                let template = Template::parse(source, Place::Log).map_err(fault)?;
                Self::Template(Arc::new(template))
            }
        })
    }

    /// What a line needs that nothing else keeps until its end.
    pub(super) fn needs(&self) -> Needs {
        match self {
            Self::Json => Needs::default(),
            Self::Combined => Needs::fields([REFERER, USER_AGENT]),
            Self::Template(template) => Needs::of(template),
        }
    }

    /// Appends a line, its end included. `upstream` is the name of the route's, `now` the time since the Unix epoch.
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        entry: &Entry<'_>,
        upstream: &str,
        now: Duration,
        timestamp: &mut Timestamp,
    ) {
        out.reserve(512);
        match self {
            Self::Json => json(out, entry, timestamp.rfc3339(now)),
            Self::Combined => combined(out, entry, timestamp.local(now)),
            Self::Template(template) => render(out, template, entry, upstream, now),
        }
        out.push(b'\n');
    }
}

fn render(out: &mut Vec<u8>, template: &Template, entry: &Entry<'_>, upstream: &str, now: Duration) {
    let upstream = UpstreamFacts {
        name: upstream,
        address: entry.upstream.unwrap_or_default(),
        status: entry.upstream_status,
        connect_time: entry.upstream_connect,
        header_time: entry.upstream_header,
        retries: entry.retries,
    };
    let end = EndFacts {
        status: entry.status,
        bytes_in: entry.bytes_in,
        bytes_out: entry.bytes_out,
        duration: entry.duration,
        ttfb: entry.ttfb,
        kind: entry.kind,
        reason: entry.reason.unwrap_or_default(),
        error: entry.error.unwrap_or_default(),
        events: entry.events,
        messages_in: entry.messages_in,
        messages_out: entry.messages_out,
        unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        utc_offset_minutes: 0,
    };
    let facts = Facts {
        client: Some(entry.client),
        peer: Some(entry.peer),
        host: std::str::from_utf8(entry.host).unwrap_or_default(),
        method: entry.method,
        path: entry.path,
        query: entry.query,
        scheme: entry.scheme,
        http_version: entry.http_version,
        request_id: entry.request_id,
        route: entry.route.unwrap_or_default(),
        listener: entry.listener,
        tls: entry.tls,
        headers: entry.kept.map(|kept| &kept.headers),
        prefix_rest: entry.kept.map(|kept| &*kept.prefix_rest).unwrap_or_default(),
        claims: entry.kept.map(|kept| &*kept.claims).unwrap_or_default(),
        connection: entry.kept.and_then(|kept| kept.connection),
        connection_requests: entry.kept.and_then(|kept| kept.connection_requests),
        trace_id: entry.trace_id,
        upstream: Some(&upstream),
        end: Some(&end),
    };
    template.render(&facts, out);
}

fn json(out: &mut Vec<u8>, entry: &Entry<'_>, timestamp: &str) {
    let mut line = Object::begin(out);
    line.raw_text("ts", timestamp);
    line.raw_text("level", if entry.status >= 500 { "error" } else { "info" });
    line.raw_text("kind", entry.kind);
    // Ids are made or checked here, and a method is a token.
    line.raw_text("request_id", entry.request_id);
    if !entry.trace_id.is_empty() {
        line.raw_text("trace_id", entry.trace_id);
    }
    line.address("client", entry.client);
    if entry.peer != entry.client {
        line.address("peer", entry.peer);
    }
    line.text("listener", entry.listener.as_bytes());
    line.raw_text("scheme", entry.scheme);
    line.raw_text("http", entry.http_version);
    line.raw_text("method", entry.method);
    line.text("host", entry.host);
    line.text("path", entry.path.as_bytes());
    line.number("status", u64::from(entry.status));
    line.number("bytes_in", entry.bytes_in);
    line.number("bytes_out", entry.bytes_out);
    line.millis("duration_ms", entry.duration);
    if let Some(ttfb) = entry.ttfb {
        line.millis("ttfb_ms", ttfb);
    }
    if let Some(route) = entry.route {
        line.text("route", route.as_bytes());
    }
    if let Some(upstream) = entry.upstream {
        line.text("upstream", upstream.as_bytes());
    }
    if let Some(status) = entry.upstream_status {
        line.number("upstream_status", u64::from(status));
    }
    if let Some(time) = entry.upstream_connect {
        line.millis("upstream_connect_ms", time);
    }
    if let Some(time) = entry.upstream_header {
        line.millis("upstream_header_ms", time);
    }
    let counts = [
        ("retries", u64::from(entry.retries)),
        ("events", entry.events),
        ("messages_in", entry.messages_in),
        ("messages_out", entry.messages_out),
    ];
    for (key, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        line.number(key, count);
    }
    if let Some(transport) = entry.transport {
        line.raw_text("transport", transport);
    }
    if let Some(tenant) = entry.tenant {
        line.text("tenant", tenant.as_bytes());
    }
    if let Some(user) = entry.user {
        line.text("user", user.as_bytes());
    }
    if let Some(reason) = entry.reason {
        line.raw_text("reason", reason);
    }
    if let Some(error) = entry.error {
        line.raw_text("error", error);
    }
    line.end();
}

/// `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"`
/// (ngx_http_log_module). There is no user: passwords are not looked at here.
fn combined(out: &mut Vec<u8>, entry: &Entry<'_>, time: &str) {
    push_ip(out, entry.client.ip().to_canonical());
    out.extend_from_slice(b" - - [");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"] \"");
    if entry.method.is_empty() {
        // Nothing is known of a request whose head could not be read.
        out.push(b'-');
    } else {
        push_escaped(out, entry.method.as_bytes());
        out.push(b' ');
        push_escaped(out, entry.path.as_bytes());
        out.extend_from_slice(b" HTTP/");
        out.extend_from_slice(protocol(entry.http_version).as_bytes());
    }
    out.extend_from_slice(b"\" ");
    push_number(out, entry.status);
    out.push(b' ');
    push_number(out, entry.bytes_out);
    let field = |name| entry.kept.and_then(|kept| kept.headers.get(name)).map(HeaderValue::as_bytes);
    let referer = field(REFERER).map(|referer| {
        let end = referer.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(referer.len());
        referer.get(..end).unwrap_or_default()
    });
    for field in [referer, field(USER_AGENT)] {
        out.extend_from_slice(b" \"");
        push_escaped(out, field.filter(|field| !field.is_empty()).unwrap_or(b"-"));
        out.push(b'"');
    }
}

/// nginx's `$server_protocol` says `HTTP/2.0`.
fn protocol(version: &'static str) -> &'static str {
    if version == "2" { "2.0" } else { version }
}
