//! The HTTP API below `api_path`: what backends do to rooms and connections with an API key, and what readers of event
//! streams need. Every endpoint stands in [`endpoints`].
//!
//! Start reading at [`serve`].

mod caller;
mod endpoints;
mod events;
mod publish;
mod refused;
mod request;
mod ticket;

use std::rc::Rc;

use ::http::Request;
use hyper::body::Incoming;

use crate::http::{Answer, Client};
use crate::shard::Shard;
use endpoints::{Endpoint, Found};
use refused::{Outcome, Refused};

pub(crate) use refused::come_in;

pub(crate) async fn serve(shard: &Rc<Shard>, request: Request<Incoming>, client: Client) -> Answer {
    let request_id = client.request_id.clone();
    let outcome = route(shard, request, client).await;
    outcome.unwrap_or_else(|refused| refused.into_answer(&request_id))
}

async fn route(shard: &Rc<Shard>, request: Request<Incoming>, client: Client) -> Outcome {
    let path = request.uri().path().to_owned();
    let path = path.strip_prefix(shard.node.settings.api_path.as_str()).unwrap_or_default();
    let (endpoint, names) = match endpoints::find(request.method(), path) {
        Found::Endpoint(endpoint, names) => (endpoint, names),
        Found::OtherMethods(allowed) => return Err(Refused::method(allowed)),
        Found::Nothing => return Err(Refused::nothing()),
    };
    match endpoint {
        Endpoint::Ticket => ticket::give(shard, &request),
        Endpoint::Events => events::open(shard, request, &request::name("room", names.first())?, client).await,
        Endpoint::Publish => publish::publish(shard, request, request::name("room", names.first())?).await,
    }
}
