//! Which part of the gateway answers a request: framing, route, CORS, tokens, action.

use std::cell::LazyCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use tidegate_auth::{AuthError, VerifiedClaims};
use tidegate_balance::{NormalPath, Routed};
use tidegate_config::JwtMode;
use tidegate_metrics::StatusClass;
use tidegate_proxy::{BodyLimits, Exchange, ExchangeKind, ExchangeSummary, RequestChanges, Upstream, check_framing};
use tidegate_realtime::Shard;
use tidegate_rules::{Cors, Facts};
use tidegate_types::ErrorCode;

use crate::admission::{Admitted, Gate, Places, Refusal};
use crate::answer::{self, Answer};
use crate::body::Body;
use crate::client::head_bytes;
use crate::cluster::{self, Aim, Owner};
use crate::line::{Line, Opening};
use crate::plan::Site;
use crate::realtime;
use crate::route::{Action, Route, Rules};
use crate::slots::Held;
use crate::upstreams;
use crate::visit::{After, Visit, begin_trace};
use crate::worker::Worker;

/// Who answers.
enum Way {
    /// The process itself, apart from any route.
    Here(Response<Bytes>),
    /// The gateway, for a route or for want of one.
    Answer(Box<Answer>),
    Upstream(Arc<Upstream>, Exchange, Option<Opening>, Aim),
    Realtime(Rc<Shard>, Admitted),
}

/// Answers one request of a client connection.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    held: Rc<Held>,
    site: Arc<Site>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    held.busy();
    let trace = begin_trace(&worker, &request);
    let asking = site.threshold.asking(held.slot.client, request.headers());
    let visit = Visit::new(&worker, &held, &site, &request, asking, trace.as_ref());
    let (way, after) = choose(visit);
    let mut response = match way {
        Way::Upstream(upstream, exchange, opening, aim) => {
            let upgrades = aim == Aim::Owner && cluster::upgrades(&request);
            let response = worker.forwarder.forward(request, &upstream, exchange).await.map(Body::Proxy);
            if let Some(opening) = opening {
                opening.tell(&worker, &response);
            }
            match &worker.cluster {
                Some(cluster) if aim == Aim::Owner => cluster.came_back(response, upgrades),
                Some(_) | None => response,
            }
        }
        // Boxed, so that the memory of a plain connection does not hold a place for it.
        Way::Realtime(shard, admitted) => {
            let line = Line::of(visit, None, || visit.facts(""));
            let serving = realtime::serve(&worker, &held, admitted, shard, request, line, site.internal);
            Box::pin(serving).await.map(Body::Realtime)
        }
        Way::Here(response) => answer::here(visit, response),
        Way::Answer(answer) => {
            if let Some(delay) = answer.delay {
                Box::pin(tokio::time::sleep(delay)).await;
            }
            answer.give(visit)
        }
    };
    if let Some(after) = after {
        after.apply(&mut response);
    }
    let last = worker.draining.get() || held.slot.requests() >= site.threshold.keepalive_requests;
    if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

fn choose(visit: Visit<'_>) -> (Way, Option<Box<After>>) {
    let Visit { worker, site, request, .. } = visit;
    if let Err(ambiguity) = check_framing(request) {
        worker.refused(ambiguity.as_str());
        return refuse(visit, ErrorCode::BadRequest, ambiguity.message());
    }
    // hyper looks at its buffer's size only when a head is not complete yet, so that a longer one may have come at once.
    if head_bytes(request) > site.threshold.max_header_bytes {
        worker.refused("too_large");
        return refuse(visit, ErrorCode::HeadTooLarge, "The request's head is larger than allowed");
    }
    if let Some(redirect) = &site.redirect {
        let id = worker.ids.of(request.headers());
        return match answer::redirect(redirect, &visit.facts(&id)) {
            Ok(response) => (Answer::new(id, None, response).into(), None),
            Err(message) => (Answer::error(id, None, ErrorCode::BadRequest, message).into(), None),
        };
    }
    if site.internal {
        let way = match cluster::inside(worker, request) {
            Ok(shard) => Way::Realtime(shard, Admitted::default()),
            Err((code, message)) => Answer::error(worker.ids.of(request.headers()), None, code, message).into(),
        };
        return (way, None);
    }
    if site.realtime
        && let Some(shard) = &worker.shard
        && shard.serves(request.uri().path())
    {
        let id = worker.ids.of(request.headers());
        let facts = || Facts { route: "realtime", ..visit.facts(&id) };
        return match admit(visit, site.realtime_gate.as_deref(), &facts) {
            Ok(admitted) => {
                match worker.cluster.as_ref().map_or(Owner::Anybody, |cluster| cluster.owner(request, true)) {
                    // Here nobody knows a session of nobody either, and says so as the page's origin may read it.
                    Owner::Anybody | Owner::Nobody => (Way::Realtime(shard.clone(), admitted), None),
                    Owner::Node(upstream) => {
                        let exchange = cluster::pass_on(visit, id, admitted);
                        (Way::Upstream(upstream, exchange, None, Aim::Owner), None)
                    }
                }
            }
            Err(refusal) => (Answer::refused(id, None, &refusal).counted(&worker.realtime).into(), None),
        };
    }
    if let Some(local) = &worker.local
        && let Some(response) = local(request)
    {
        return (Way::Here(response), None);
    }
    if let Some(admin) = &worker.admin
        && let Some(response) = admin.answer(request.method(), request.uri().path())
    {
        return (Way::Here(response), None);
    }
    let path = match NormalPath::of(request.uri().path()) {
        Ok(path) => path,
        Err(invalid) => {
            worker.refused("path");
            return refuse(visit, ErrorCode::BadRequest, invalid.message());
        }
    };
    let host = crate::route::host(request.uri(), request.headers());
    match site.routes.find(host, &path, |route| route.fits(request)) {
        Routed::Found { target, .. } if target.drained => {
            let id = worker.ids.of(request.headers());
            let message = "This route is being drained";
            (Answer::error(id, Some(target), ErrorCode::Unavailable, message).into(), None)
        }
        Routed::Found { target, prefix_len } => follow(visit, target, &path, prefix_len),
        Routed::MethodNotAllowed(routes) => {
            let id = worker.ids.of(request.headers());
            // They share the path, and mostly the rest: the first speaks for all.
            let route = routes.first();
            let after = route.and_then(|route| After::new(visit, route, &id, "", &VerifiedClaims::default()));
            (Answer::method_not_allowed(id, route, crate::route::allow(routes, request)).into(), after)
        }
        Routed::Nowhere => refuse(visit, ErrorCode::NoRoute, "No route matches this host and path"),
    }
}

/// For want of a route.
fn refuse(visit: Visit<'_>, code: ErrorCode, message: &'static str) -> (Way, Option<Box<After>>) {
    let id = visit.worker.ids.of(visit.request.headers());
    (Answer::error(id, None, code, message).into(), None)
}

/// Whether the request is let in, and when.
fn admit<'a>(visit: Visit<'_>, gate: Option<&Gate>, facts: &dyn Fn() -> Facts<'a>) -> Result<Admitted, Refusal> {
    let admitted = gate.map_or_else(|| Ok(Admitted::default()), |gate| gate.admit(visit.asking, facts))?;
    match &visit.site.threshold.wave {
        Some(wave) => wave.admit(visit.request).map(|()| admitted),
        None => Ok(admitted),
    }
}

/// Does what the route says.
fn follow(visit: Visit<'_>, route: &Arc<Route>, path: &NormalPath<'_>, len: usize) -> (Way, Option<Box<After>>) {
    let id = visit.worker.ids.of(visit.request.headers());
    let rules = route.rules.as_deref();
    if let (None, None, None, Action::Upstream(upstream)) =
        (rules, &route.gate, &visit.site.threshold.wave, &route.action)
    {
        let rest = LazyCell::new(|| path.rest(len));
        let facts = || Facts { route: &route.name, prefix_rest: &rest, ..visit.facts(&id) };
        return (forward(visit, route, upstream, id.clone(), Beside::default(), facts), None);
    }
    let headers = visit.request.headers();
    let cors = rules.and_then(|rules| rules.cors.as_ref());
    let preflight = cors.filter(|_| Cors::is_preflight(visit.request.method(), headers));
    // A preflight never brings a token.
    let jwt = rules.filter(|_| preflight.is_none()).map_or(JwtMode::Off, |rules| rules.jwt);
    let token = check_token(visit, jwt, &id);
    let nothing = VerifiedClaims::default();
    let claims = token.as_ref().unwrap_or(&nothing);
    let rest = path.rest(len);
    let facts = Facts { route: &route.name, prefix_rest: &rest, claims: claims.as_slice(), ..visit.facts(&id) };
    let after = After::new(visit, route, &id, &rest, claims);
    let keep = || route.log.as_ref().and_then(|log| log.keep(|| facts));
    // Behind the token's check, so that claims are known for keys, and before its verdict, so that guesses are counted.
    let Admitted { delay, places } = match admit(visit, route.gate.as_deref(), &|| facts) {
        Ok(admitted) => admitted,
        Err(refusal) => return (Answer::refused(id.clone(), Some(route), &refusal).keeping(keep()).into(), after),
    };
    if let Some(cors) = preflight {
        let response = answer::preflight(cors, headers);
        let answer = Answer::new(id.clone(), Some(route), response).keeping(keep());
        return (answer.after(delay).into(), after.map(After::without_cors));
    }
    if let Err(error) = token {
        return (Answer::unauthorized(id.clone(), route, error).keeping(keep()).after(delay).into(), after);
    }
    let answer = match &route.action {
        Action::Upstream(upstream) => match changes(rules, &facts) {
            Ok(changes) => {
                let tells = after.as_ref().is_some_and(|after| after.wants_upstream());
                let way =
                    forward(visit, route, upstream, id.clone(), Beside { changes, tells, delay, places }, || facts);
                return (way, after);
            }
            Err(message) => Answer::error(id.clone(), Some(route), ErrorCode::BadRequest, message),
        },
        Action::Redirect(to) => match answer::redirect(to, &facts) {
            Ok(response) => Answer::new(id.clone(), Some(route), response),
            Err(message) => Answer::error(id.clone(), Some(route), ErrorCode::BadRequest, message),
        },
        Action::Respond { status, body, content_type } => {
            let response = answer::fixed(*status, body.text(&facts), content_type);
            Answer::new(id.clone(), Some(route), response)
        }
        Action::StubStatus => Answer::new(id.clone(), Some(route), answer::stub_status(visit.worker)),
    };
    (answer.keeping(keep()).after(delay).into(), after)
}

/// What the request's token says; nothing where none is wanted, and where one is optional and there is no good one.
fn check_token(visit: Visit<'_>, jwt: JwtMode, id: &str) -> Result<VerifiedClaims, AuthError> {
    if jwt == JwtMode::Off {
        return Ok(VerifiedClaims::default());
    }
    let tokens = visit.site.tokens.as_ref();
    let checked = tokens.map_or(Err(AuthError::Failed), |tokens| tokens.check(&visit.facts(id)));
    if jwt == JwtMode::Optional { Ok(checked.unwrap_or_default()) } else { checked }
}

/// What the route changes of the request; the error is for the client.
fn changes(rules: Option<&Rules>, facts: &Facts<'_>) -> Result<Option<Box<RequestChanges>>, &'static str> {
    let Some(rules) = rules.filter(|rules| rules.path.is_some() || rules.request.is_some()) else { return Ok(None) };
    let target = rules.path.as_ref().map(|change| {
        let mut target = String::new();
        change.write(facts.prefix_rest, &mut target);
        if let Some(query) = facts.query {
            target.push('?');
            target.push_str(query);
        }
        PathAndQuery::try_from(target).map_err(|_| "The path cannot be changed as the route says")
    });
    let headers = rules.request.as_ref().map(|changes| (changes.clone(), changes.render(facts)));
    Ok(Some(Box::new(RequestChanges { target: target.transpose()?, headers })))
}

/// What goes along with a request that is passed on.
#[derive(Default)]
struct Beside {
    changes: Option<Box<RequestChanges>>,
    /// The response's templates ask about the upstream.
    tells: bool,
    delay: Option<Duration>,
    places: Places,
}

fn forward<'a>(
    visit: Visit<'_>,
    route: &Arc<Route>,
    upstream: &Arc<Upstream>,
    id: Rc<str>,
    beside: Beside,
    facts: impl Fn() -> Facts<'a>,
) -> Way {
    if route.max_body > 0 && http_body::Body::size_hint(visit.request.body()).lower() > route.max_body {
        let message = "The request body is larger than allowed";
        let kept = route.log.as_ref().and_then(|log| log.keep(&facts));
        return Answer::error(id, Some(route), ErrorCode::PayloadTooLarge, message).keeping(kept).into();
    }
    let owner = match &visit.worker.cluster {
        Some(cluster) if upstream.settings().discovered => cluster.owner(visit.request, false),
        Some(_) | None => Owner::Anybody,
    };
    let (aim, server) = match owner {
        Owner::Anybody => (Aim::Server, upstream.clone()),
        Owner::Node(node) => (Aim::Owner, node),
        Owner::Nobody => {
            let response = cluster::session_unknown(cluster::upgrades(visit.request));
            return Answer::ready(id, Some(route), response).into();
        }
    };
    let Beside { changes, tells, delay, places } = beside;
    let line = Rc::new(Line::of(visit, Some(route), &facts));
    let opening = Opening::of(route, &line, &id);
    let counted = route.metrics.clone();
    let (at_end, place) = (visit.worker.clone(), visit.held.clone());
    let on_end = Box::new(move |summary: ExchangeSummary| {
        place.idle();
        let class = StatusClass::of(summary.status);
        counted.requests(class).inc();
        if let Some(ttfb) = summary.ttfb {
            counted.ttfb_seconds(class).observe(ttfb.as_secs_f64());
        }
        if summary.kind == ExchangeKind::Http {
            counted.duration_seconds(class).observe(summary.duration.as_secs_f64());
        }
        line.end(&at_end, &summary);
        drop(places);
    });
    let mut exchange = Exchange::new(id, visit.asking.client, visit.scheme, route.metrics.clone(), on_end);
    exchange.listener = Some(visit.site.name.clone());
    exchange.trace = visit.trace.cloned();
    exchange.delay = delay;
    exchange.body = BodyLimits { most_bytes: route.max_body, least_rate: visit.site.threshold.body_min_rate };
    exchange.changes = changes;
    exchange.patience = route.rules.as_ref().and_then(|rules| rules.patience.clone());
    if aim == Aim::Owner && exchange.patience.is_none() {
        exchange.patience = Some(Arc::new(upstream.settings().patience()));
    }
    exchange.tells = tells;
    upstreams::brief(&mut exchange, upstream, visit.site.address, &facts);
    route.streams.brief(&mut exchange, visit.request, &facts);
    Way::Upstream(server, exchange, opening, aim)
}

impl From<Answer> for Way {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}
