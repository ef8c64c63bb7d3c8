//! The way of one request: which node has its session, and what is answered when none has.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use tidegate_metrics::{Forwarded, ForwardedLabels};
use tidegate_proxy::{BodyLimits, Exchange, ExchangeSummary, Upstream, wants_websocket};
use tidegate_realtime::Shard;
use tidegate_types::ErrorCode;
use tidegate_wire::engine_io::HttpError;

use super::{Cluster, HOP};
use crate::admission::Admitted;
use crate::body::Body;
use crate::line::Line;
use crate::visit::Visit;
use crate::worker::Worker;

/// Who has the session of a request.
pub(crate) enum Owner {
    /// It names none, or this node's: as any other request.
    Anybody,
    /// That node.
    Node(Arc<Upstream>),
    /// A node that is dead or unknown.
    Nobody,
}

/// Where a request is passed on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Any server of an upstream.
    Server,
    /// The node that has its session: if that cannot answer, the session is no more.
    Owner,
}

impl Cluster {
    /// Which node has the session that a request names. `here`: what nobody else has is served by this process itself; a
    /// gateway that is a node too reaches its own sessions as any other's.
    pub fn owner<B>(&self, request: &Request<B>, here: bool) -> Owner {
        let Some(sid) = request.uri().query().and_then(sid) else { return Owner::Anybody };
        // What no node has made is refused by whichever gets it.
        let Ok((_, tag)) = self.sid_key.verify(sid) else { return Owner::Anybody };
        let roster = self.roster();
        if here && tag.node == roster.me {
            return Owner::Anybody;
        }
        match roster.by_number.get(&tag.node) {
            Some((_, upstream)) => Owner::Node(upstream.clone()),
            None => {
                self.count(Forwarded::NoOwner);
                Owner::Nobody
            }
        }
    }

    /// What the node that has a session answered, or that it did not.
    pub fn came_back(&self, response: Response<Body>, upgrades: bool) -> Response<Body> {
        if has_failed(response.status()) {
            self.count(Forwarded::Failed);
            return session_unknown(upgrades);
        }
        self.count(Forwarded::Passed);
        response
    }

    fn count(&self, outcome: Forwarded) {
        self.metrics.cluster_forwarded.get_or_create(&ForwardedLabels { outcome }).inc();
    }
}

/// The session id of an Engine.IO request. It needs no decoding: ids are base64url.
fn sid(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("sid=")).filter(|sid| !sid.is_empty())
}

/// Whether a request came from a client by way of another node.
pub(crate) fn is_forwarded<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(HOP)
}

/// Who answers what came in at the internal listener: the realtime server, or nobody. Nothing goes on from there to another
/// node: whose session is not here, is told so.
pub(crate) fn inside<B>(worker: &Worker, request: &Request<B>) -> Result<Rc<Shard>, (ErrorCode, &'static str)> {
    let shard = worker.shard.as_ref().filter(|shard| shard.serves(request.uri().path()));
    let shard = shard.ok_or((ErrorCode::NoRoute, "This node does not serve that path of the realtime server"))?;
    let begins = request.uri().query().and_then(sid).is_none();
    if worker.draining.get() && begins && is_forwarded(request) {
        return Err((ErrorCode::Unavailable, "This node drains: nobody new is let in"));
    }
    Ok(shard.clone())
}

/// What goes along with a request of the realtime server to the node that has its session.
pub(crate) fn pass_on(visit: Visit<'_>, id: Rc<str>, admitted: Admitted) -> Exchange {
    let Visit { worker, site, .. } = visit;
    let mut line = Line::of(visit, None, || visit.facts(""));
    line.route = Some("realtime".into());
    let (at_end, place, places) = (worker.clone(), visit.held.clone(), admitted.places);
    let on_end = Box::new(move |summary: ExchangeSummary| {
        place.idle();
        at_end.realtime.answered(summary.status);
        line.end(&at_end, &summary);
        drop(places);
    });
    let mut exchange = Exchange::new(id, visit.asking.client, visit.scheme, worker.realtime.clone(), on_end);
    exchange.listener = Some(site.name.clone());
    exchange.trace = visit.trace.cloned();
    exchange.delay = admitted.delay;
    exchange.body = BodyLimits { most_bytes: 0, least_rate: site.threshold.body_min_rate };
    exchange
}

/// Whether the answer says that a session's node could not be had.
fn has_failed(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// As the node that had the session would answer if it had never heard of it. Clients begin a new one at once.
pub(crate) fn session_unknown(upgrades: bool) -> Response<Body> {
    let error = HttpError::SessionIdUnknown;
    let (kind, body) = if upgrades {
        ("text/html", error.message().to_owned())
    } else {
        ("application/json", format!(r#"{{"code":{},"message":"{}"}}"#, error.code(), error.message()))
    };
    let mut response = Response::new(Body::Full(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Whether the request would have opened a WebSocket.
pub(crate) fn upgrades<B>(request: &Request<B>) -> bool {
    wants_websocket(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_in_the_query() {
        assert_eq!(sid("EIO=4&transport=polling&sid=abc&t=1"), Some("abc"));
        assert_eq!(sid("sid=abc"), Some("abc"));
        for none in ["", "EIO=4", "sid=", "xsid=abc", "EIO=4&Sid=abc"] {
            assert_eq!(sid(none), None, "{none}");
        }
    }
}
