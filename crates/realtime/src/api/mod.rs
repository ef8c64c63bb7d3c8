//! The HTTP API below `api_path`: what backends do to rooms and connections with an API key, and what readers of event
//! streams need. Every endpoint stands in [`endpoints`]; all of it is described in `docs/realtime-api.yaml` (OpenAPI 3.1).
//!
//! Start reading at [`serve`]; what changes something goes on to [`Asked::perform`].

mod action;
mod batch;
mod broadcast;
mod caller;
mod connections;
mod disconnect;
mod endpoints;
mod events;
mod everywhere;
mod far;
mod members;
mod message;
mod once;
mod pages;
mod publish;
mod refused;
mod request;
mod revocations;
mod rooms;
mod ticket;

use std::rc::Rc;

use ::http::{Method, Request, StatusCode};
use bytes::Bytes;
use hyper::body::Incoming;
use serde_json::json;
use tidegate_types::IdempotencyKey;

use crate::http::{Answer, Client, bearer, full};
use crate::shard::Shard;
use action::{Action, Done};
use caller::Caller;
use endpoints::{Endpoint, Found, Names};
use refused::{Outcome, Refused};
use request::{name, parse};

const OPENAPI: &str = include_str!("../../../../docs/realtime-api.yaml");

/// Where a node shows its own [`crate::Stats`] to its peers; below `api_path`.
pub(crate) const PEER_STATS: &str = "/peer/stats";
/// Where nodes ask what backends do not; below `api_path`.
const PEERS: &str = "/peer/";
/// The body of such a question, bytes: a page of rooms with the longest names.
const MOST_PEER_BODY: usize = 1 << 20;

pub(crate) use broadcast::tell_users;
pub(crate) use disconnect::close;
pub(crate) use members::move_here;
pub(crate) use refused::come_in;

pub(crate) async fn serve(shard: &Rc<Shard>, request: Request<Incoming>, client: Client) -> Answer {
    let request_id = client.request_id.clone();
    let outcome = route(shard, request, client).await;
    outcome.unwrap_or_else(|refused| refused.into_answer(&request_id))
}

async fn route(shard: &Rc<Shard>, request: Request<Incoming>, client: Client) -> Outcome {
    let path = request.uri().path().to_owned();
    let path = path.strip_prefix(shard.node.settings.api_path.as_str()).unwrap_or_default();
    let is_peer = client.is_peer;
    if is_peer && path.starts_with(PEERS) {
        return answer_peer(shard, path, request).await.map(Done::into_answer);
    }
    let (endpoint, names) = match endpoints::find(request.method(), path) {
        Found::Endpoint(endpoint, names) => (endpoint, names),
        Found::OtherMethods(allowed) => return Err(Refused::method(allowed)),
        Found::Nothing => return Err(Refused::nothing()),
    };
    match endpoint {
        Endpoint::OpenApi => Ok(full(StatusCode::OK, "application/yaml", OPENAPI)),
        Endpoint::Ticket => ticket::give(shard, bearer(request.headers())).await,
        Endpoint::Events => {
            let room = name("room", names.first().map_or("", String::as_str))?;
            Box::pin(events::open(shard, request, &room, client)).await
        }
        Endpoint::EventsOfSeveral => Box::pin(events::open_several(shard, request, client)).await,
        Endpoint::Rooms
        | Endpoint::Room
        | Endpoint::History
        | Endpoint::Presence
        | Endpoint::Connections
        | Endpoint::UserConnections => {
            Box::pin(read(shard, endpoint, &names, &request, is_peer)).await.map(Done::into_answer)
        }
        Endpoint::Publish
        | Endpoint::Broadcast
        | Endpoint::Batch
        | Endpoint::Join
        | Endpoint::Leave
        | Endpoint::DisconnectUser
        | Endpoint::DisconnectConnection
        | Endpoint::Revoke => Box::pin(write(shard, endpoint, names, request, is_peer)).await,
    }
}

/// What only nodes of the cluster ask each other, beside what backends ask.
async fn answer_peer(shard: &Rc<Shard>, path: &str, request: Request<Incoming>) -> Result<Done, Refused> {
    match (request.method(), path) {
        (&Method::POST, everywhere::PATH) => {
            let caller = Caller::of(shard, request.headers(), true)?;
            let body = request::body(request, MOST_PEER_BODY).await?;
            parse::<everywhere::Wanted>(&body)?.answer(shard, &caller)
        }
        (&Method::GET, PEER_STATS) => Ok(Done::ok(&json!(shard.node.stats()))),
        _ => Err(Refused::nothing()),
    }
}

/// Requests that change nothing.
async fn read(
    shard: &Rc<Shard>,
    endpoint: Endpoint,
    names: &[String],
    request: &Request<Incoming>,
    is_peer: bool,
) -> Result<Done, Refused> {
    let caller = Caller::of(shard, request.headers(), is_peer)?;
    caller.pay(shard, 1)?;
    let query = request.uri().query();
    match endpoint {
        Endpoint::Rooms => rooms::list(shard, &caller, query).await,
        Endpoint::Room => rooms::show(shard, &caller, names, query).await,
        Endpoint::History => rooms::history(shard, &caller, names, query).await,
        Endpoint::Presence => rooms::presence(shard, &caller, names, query).await,
        Endpoint::Connections => connections::list(shard, &caller, query).await,
        Endpoint::UserConnections => connections::of_user(shard, &caller, names, query).await,
        Endpoint::OpenApi
        | Endpoint::Ticket
        | Endpoint::Events
        | Endpoint::EventsOfSeveral
        | Endpoint::Publish
        | Endpoint::Broadcast
        | Endpoint::Batch
        | Endpoint::Join
        | Endpoint::Leave
        | Endpoint::DisconnectUser
        | Endpoint::DisconnectConnection
        | Endpoint::Revoke => Err(Refused::nothing()),
    }
}

/// Requests that change something: they may be sent again under the same name.
async fn write(
    shard: &Rc<Shard>,
    endpoint: Endpoint,
    names: Names,
    request: Request<Incoming>,
    is_peer: bool,
) -> Outcome {
    let caller = Caller::of(shard, request.headers(), is_peer)?;
    caller.pay(shard, 1)?;
    let key = once::key(request.headers())?;
    let target = format!("{} {}", request.method(), request.uri());
    let query = request.uri().query().map(Box::from);
    let body = if endpoint.has_body() {
        request::body(request, shard.node.settings.session.max_payload_bytes).await?
    } else {
        Bytes::new()
    };
    let asked = Asked { endpoint, target, names, query, body };
    match key {
        None => asked.perform(shard, &caller, None).await.map(Done::into_answer),
        Some(key) => once::perform(shard, caller, key, asked).await,
    }
}

/// A request for a change, read whole.
struct Asked {
    endpoint: Endpoint,
    /// Method, path and query, as they came.
    target: String,
    names: Names,
    query: Option<Box<str>>,
    body: Bytes,
}

impl Asked {
    async fn perform(&self, shard: &Rc<Shard>, caller: &Caller, key: Option<&IdempotencyKey>) -> Result<Done, Refused> {
        let query = self.query.as_deref();
        let action = match self.endpoint {
            Endpoint::Publish => {
                request::Parameters::read(query)?.end()?;
                let mut publish: publish::Publish<'_> = parse(&self.body)?;
                if publish.room.is_some() {
                    return Err(Refused::bad("room: the path names it"));
                }
                publish.room = Some(name("room", self.names.first().map_or("", String::as_str))?);
                Action::Publish(publish)
            }
            Endpoint::Broadcast => {
                request::Parameters::read(query)?.end()?;
                Action::Broadcast(parse(&self.body)?)
            }
            Endpoint::Revoke => {
                request::Parameters::read(query)?.end()?;
                Action::Revoke(parse(&self.body)?)
            }
            Endpoint::Batch => {
                request::Parameters::read(query)?.end()?;
                let batch: batch::Batch<'_> = parse(&self.body)?;
                return batch.perform(shard, caller, key).await;
            }
            Endpoint::Join => Action::Join(members::Membership::read(&self.names, query)?),
            Endpoint::Leave => Action::Leave(members::Membership::read(&self.names, query)?),
            Endpoint::DisconnectUser => Action::DisconnectUser(disconnect::DisconnectUser::read(&self.names, query)?),
            Endpoint::DisconnectConnection => {
                Action::DisconnectConnection(disconnect::DisconnectConnection::read(&self.names, query)?)
            }
            Endpoint::OpenApi
            | Endpoint::Ticket
            | Endpoint::Events
            | Endpoint::EventsOfSeveral
            | Endpoint::Rooms
            | Endpoint::Room
            | Endpoint::History
            | Endpoint::Presence
            | Endpoint::Connections
            | Endpoint::UserConnections => return Err(Refused::nothing()),
        };
        action.perform(shard, caller, key).await
    }
}

/// Reads a body as every endpoint that has one would. For the fuzzer, which cannot reach them otherwise.
#[cfg(fuzzing)]
pub fn fuzz_body(body: &[u8]) {
    if request::is_readable(body).is_err() {
        return;
    }
    let refusals = [
        parse::<publish::Publish<'_>>(body).err(),
        parse::<broadcast::Broadcast<'_>>(body).err(),
        parse::<batch::Batch<'_>>(body).err(),
    ];
    for refused in refusals.into_iter().flatten() {
        assert!(!refused.message.is_empty());
    }
}
