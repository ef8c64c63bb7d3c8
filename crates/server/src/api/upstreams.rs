//! Upstreams and their servers: how they are, and orders of the operator.

use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_proxy::{LiveCount, LiveStreams, ServerOrder, ServerState, StateEvent, Upstream};
use tidegate_types::ErrorCode;

use super::answer::{self, Answer, Refusal};
use crate::plan::Plan;
use crate::timestamp::Timestamp;

/// What is to become of a server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    state: Option<State>,
    weight: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Up,
    Drain,
    Down,
}

#[derive(Serialize)]
struct Event {
    at: String,
    server: Option<String>,
    change: &'static str,
    detail: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Server {
    server: String,
    address: String,
    weight: u32,
    backup: bool,
    unavailable: Option<&'static str>,
    live: u32,
    fails: u32,
    ejected_until: Option<String>,
    tunnels: usize,
    event_streams: usize,
    last: Option<Event>,
}

#[derive(Serialize)]
struct Shown {
    name: String,
    breaker: Option<&'static str>,
    servers: Vec<Server>,
    events: Vec<Event>,
}

/// All upstreams.
pub(crate) async fn list(plan: &Plan, live: &LiveStreams) -> Answer {
    let counts = live.count().await;
    let shown: Vec<Shown> = plan.upstreams.iter().map(|(_, upstream)| show(upstream, &counts)).collect();
    Ok(answer::json(StatusCode::OK, &json!({ "upstreams": shown })))
}

/// One of them.
pub(crate) async fn one(plan: &Plan, live: &LiveStreams, name: &str) -> Answer {
    let upstream = plan.upstream(name).ok_or_else(|| unknown("upstream", name))?;
    Ok(answer::json(StatusCode::OK, &show(upstream, &live.count().await)))
}

/// Does what the operator wants of a server.
pub(crate) async fn change(plan: &Plan, live: &LiveStreams, name: &str, server: &str, change: Change) -> Answer {
    let upstream = plan.upstream(name).ok_or_else(|| unknown("upstream", name))?;
    let bad = |message: &str| Refusal::new(ErrorCode::BadRequest, message);
    if change.state.is_none() && change.weight.is_none() {
        return Err(bad("Say what is to change: \"state\" (up, drain or down), \"weight\", or both"));
    }
    if change.weight.is_some_and(|weight| !(1..=65_535).contains(&weight)) {
        return Err(bad("\"weight\" must be from 1 to 65535; to take a server out, use \"state\""));
    }
    let state = change.state.map(|state| match state {
        State::Up => ServerOrder::Up,
        State::Drain => ServerOrder::Drain,
        State::Down => ServerOrder::Down,
    });
    for order in change.weight.map(ServerOrder::Weight).into_iter().chain(state) {
        if !upstream.set_server(server, order, Some(live)).await {
            return Err(unknown("server", server));
        }
    }
    one(plan, live, name).await
}

fn unknown(what: &str, name: &str) -> Refusal {
    Refusal::new(ErrorCode::NotFound, format!("There is no {what} {name:?}; GET /api/v1/upstreams lists them"))
}

fn show(upstream: &Upstream, counts: &[LiveCount]) -> Shown {
    let name = upstream.settings().name.clone();
    let server = |state: ServerState| {
        let count = counts.iter().find(|count| *count.upstream == *name && count.server == state.address);
        Server {
            server: state.server.to_string(),
            address: state.address.to_string(),
            weight: state.weight,
            backup: state.backup,
            unavailable: state.unavailable.map(|why| why.as_str()),
            live: state.live,
            fails: state.fails,
            ejected_until: state.ejected_until.map(moment),
            tunnels: count.map_or(0, |count| count.tunnels),
            event_streams: count.map_or(0, |count| count.event_streams),
            last: state.last.map(event),
        }
    };
    Shown {
        breaker: upstream.breaker().map(|state| state.as_str()),
        servers: upstream.states().into_iter().map(server).collect(),
        events: upstream.events().into_iter().map(event).collect(),
        name,
    }
}

fn event(event: StateEvent) -> Event {
    Event {
        at: moment(event.at),
        server: event.server.map(|server| server.to_string()),
        change: event.change.as_str(),
        detail: event.detail.into(),
    }
}

fn moment(at: SystemTime) -> String {
    Timestamp::default().rfc3339(at.duration_since(UNIX_EPOCH).unwrap_or_default()).to_owned()
}
