//! Tunnels and event streams that are open: list them, close them.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_config::Drain;
use tidegate_proxy::{ExchangeKind, Leave, LiveFilter, LiveStream, LiveStreams};
use tidegate_types::ErrorCode;

use super::answer::{self, Answer, Refusal};
use crate::leave;

/// How many are listed unless the request says otherwise.
const LIMIT: usize = 100;
/// The most that are listed: an answer is built in memory.
const MOST: usize = 10_000;

/// Which are meant; every field that is there must fit.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Wanted {
    kind: Option<Kind>,
    route: Option<Arc<str>>,
    listener: Option<Arc<str>>,
    upstream: Option<Arc<str>>,
    server: Option<Arc<str>>,
    client: Option<IpAddr>,
    ids: Vec<u64>,
    /// Streams per second; by default as `[drain]` says.
    rate: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    WebSocket,
    Sse,
}

impl Wanted {
    fn filter(self) -> LiveFilter {
        let kind = self.kind.map(|kind| match kind {
            Kind::WebSocket => ExchangeKind::WebSocket,
            Kind::Sse => ExchangeKind::Sse,
        });
        let Self { route, listener, upstream, server, client, ids, .. } = self;
        LiveFilter { ids, kind, route, listener, upstream, server, client }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: u64,
    kind: &'static str,
    client: IpAddr,
    route: &'a str,
    listener: Option<&'a str>,
    upstream: &'a str,
    server: Option<&'a str>,
    request_id: &'a str,
    age_seconds: f64,
    bytes_in: u64,
    bytes_out: u64,
    messages_in: u64,
    messages_out: u64,
    events: u64,
    leaving: Option<&'static str>,
}

fn shown(stream: &LiveStream) -> Shown<'_> {
    Shown {
        id: stream.id,
        kind: stream.kind.as_str(),
        client: stream.client,
        route: &stream.route,
        listener: stream.listener.as_deref(),
        upstream: &stream.upstream,
        server: stream.server.as_deref(),
        request_id: &stream.request_id,
        age_seconds: (stream.age.as_secs_f64() * 1000.0).round() / 1000.0,
        bytes_in: stream.bytes_in,
        bytes_out: stream.bytes_out,
        messages_in: stream.messages_in,
        messages_out: stream.messages_out,
        events: stream.events,
        leaving: stream.leaving.map(Leave::as_str),
    }
}

/// Lists what the query means.
pub(crate) async fn list<B>(live: &LiveStreams, request: &Request<B>) -> Answer {
    let mut filter = LiveFilter::default();
    let mut limit = LIMIT;
    for (key, value) in answer::parameters(request)? {
        let bad =
            |wanted: &str| Refusal::new(ErrorCode::BadRequest, format!("{key:?} must be {wanted}, not {value:?}"));
        let text = || Some(Arc::<str>::from(value.as_str()));
        match key.as_str() {
            "kind" => {
                filter.kind = Some(match value.as_str() {
                    "websocket" => ExchangeKind::WebSocket,
                    "sse" => ExchangeKind::Sse,
                    _ => return Err(bad("websocket or sse")),
                });
            }
            "route" => filter.route = text(),
            "listener" => filter.listener = text(),
            "upstream" => filter.upstream = text(),
            "server" => filter.server = text(),
            "client" => filter.client = Some(value.parse().map_err(|_| bad("an IP address"))?),
            "limit" => {
                limit = value.parse().map_err(|_| bad("a number"))?;
                if limit > MOST {
                    return Err(bad("at most 10000"));
                }
            }
            _ => {
                let known = "kind, route, listener, upstream, server, client and limit";
                return Err(Refusal::new(ErrorCode::BadRequest, format!("There is no {key:?}; there are {known}")));
            }
        }
    }
    // One more, to know whether there are more.
    let found = live.list(&filter, limit.saturating_add(1)).await;
    let connections: Vec<_> = found.iter().take(limit).map(shown).collect();
    Ok(answer::json(StatusCode::OK, &json!({ "connections": connections, "more": found.len() > limit })))
}

/// Asks one to go, at once.
pub(crate) async fn close_one(live: &LiveStreams, id: &str, drain: &Drain) -> Answer {
    let id: u64 = id.parse().map_err(|_| Refusal::new(ErrorCode::BadRequest, "An id is a number"))?;
    let filter = LiveFilter { ids: vec![id], ..LiveFilter::default() };
    match leave::ask(live, &filter, Leave::Kick, Some(0), drain).await {
        0 => Err(Refusal::new(ErrorCode::NotFound, format!("There is no connection {id}, or it is going already"))),
        _ => Ok(asked(1)),
    }
}

/// Asks all that are meant to go. Without a word about which, none: that is what a drain is for.
pub(crate) async fn close_many(live: &LiveStreams, wanted: Wanted, drain: &Drain) -> Answer {
    let rate = wanted.rate;
    let filter = wanted.filter();
    if filter == LiveFilter::default() {
        let message =
            "Say which: kind, route, listener, upstream, server, client or ids; POST /api/v1/drain empties the process";
        return Err(Refusal::new(ErrorCode::BadRequest, message));
    }
    Ok(asked(leave::ask(live, &filter, Leave::Kick, rate, drain).await))
}

pub(crate) fn asked(streams: usize) -> Response<Bytes> {
    answer::json(StatusCode::ACCEPTED, &json!({ "askedToGo": streams }))
}
