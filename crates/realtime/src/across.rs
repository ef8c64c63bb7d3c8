//! Questions to the other nodes of the cluster. A backend asks one node, and is answered for all: the node asks its peers
//! over their internal listeners for their own part, each by the same HTTP API, and puts the parts together.
//!
//! Nothing waits for a peer that does not answer: a call has a deadline, and a peer that has let one pass is not asked
//! again for a moment. What lacks its part says so (`partial`, `missing`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use rustc_hash::FxHashMap;
use serde_json::Value;
use tidegate_outbound::{Endpoint, Outbound, OutboundError};
use tidegate_types::NodeId;
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

use crate::peers::PeerAddress;
use crate::shard::Shard;

/// Names the API key, by its id, that the asked node is to answer for. Who sends it asks for the answering node's own part
/// only, so that a question goes one hop. Believed only if [`crate::Client::is_peer`].
pub(crate) const FOR_KEY: HeaderName = HeaderName::from_static("tidegate-for-key");
/// A peer has so long for its answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// For so long a peer that did not answer is not asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// The largest answer of a peer, bytes.
const MOST_ANSWER: usize = 32 << 20;

/// What is asked of the peers' HTTP API.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub method: Method,
    /// Below `api_path`, with the query.
    pub path: String,
    /// JSON, or nothing.
    pub body: Bytes,
    /// The id of the key for which it is asked.
    pub key: HeaderValue,
}

/// A peer whose part is not there.
#[derive(Clone, Debug)]
pub(crate) struct Missing {
    pub peer: PeerAddress,
    /// Whether it certainly has not heard the question.
    pub is_untold: bool,
}

/// What the peers answered.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub given: Vec<(PeerAddress, Value)>,
    pub missing: Vec<Missing>,
}

/// The worker's own connections to its node's peers.
#[derive(Default)]
pub(crate) struct PeerClients(RefCell<FxHashMap<NodeId, Rc<PeerClient>>>);

struct PeerClient {
    endpoint: Arc<Endpoint>,
    outbound: Outbound,
    paused_until: Cell<Option<Instant>>,
}

impl PeerClients {
    fn of(&self, peer: &PeerAddress) -> Rc<PeerClient> {
        let mut clients = self.0.borrow_mut();
        if let Some(known) = clients.get(&peer.id).filter(|known| Arc::ptr_eq(&known.endpoint, &peer.endpoint)) {
            return known.clone();
        }
        let endpoint = peer.endpoint.clone();
        let outbound = Outbound::new(endpoint.clone(), MOST_ANSWER);
        let client = Rc::new(PeerClient { endpoint, outbound, paused_until: Cell::new(None) });
        clients.insert(peer.id, client.clone());
        client
    }

    fn keep(&self, living: &[PeerAddress]) {
        let mut clients = self.0.borrow_mut();
        if clients.len() > living.len() {
            clients.retain(|id, _| living.iter().any(|peer| peer.id == *id));
        }
    }
}

/// Asks all living peers at once.
pub(crate) async fn all(shard: &Rc<Shard>, question: &Question) -> Answers {
    let peers = shard.node.peers.living();
    shard.peer_clients.keep(&peers);
    let mut asked = JoinSet::new();
    for peer in peers.iter() {
        let (shard, peer, question) = (shard.clone(), peer.clone(), question.clone());
        asked.spawn_local(async move {
            let answer = one(&shard, &peer, &question).await;
            answer.map(|answer| (peer, answer))
        });
    }
    let mut answers = Answers::default();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(given)) => answers.given.push(given),
            Ok(Err(missing)) => answers.missing.push(missing),
            // A task of this function neither panics nor is cancelled while it waits.
            Err(_) => {}
        }
    }
    answers.given.sort_by_key(|(peer, _)| peer.id);
    answers.missing.sort_by_key(|missing| missing.peer.id);
    answers
}

/// Asks one peer.
///
/// # Errors
/// It does not answer, or not with what is asked for.
pub(crate) async fn one(shard: &Rc<Shard>, peer: &PeerAddress, question: &Question) -> Result<Value, Missing> {
    let missing = |is_untold| Missing { peer: peer.clone(), is_untold };
    let client = shard.peer_clients.of(peer);
    if client.paused_until.get().is_some_and(|until| until > Instant::now()) {
        return Err(missing(true));
    }
    let path = format!("{}{}", shard.node.settings.api_path, question.path);
    let Ok(path) = PathAndQuery::try_from(path) else { return Err(missing(true)) };
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(FOR_KEY, question.key.clone());
    if !question.body.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let call = client.outbound.call_at(question.method.clone(), path, headers, question.body.clone(), PATIENCE);
    let response = match Box::pin(call).await {
        Ok(response) => response,
        Err(error) => {
            client.paused_until.set(Some(Instant::now() + PAUSE));
            tracing::warn!(peer = &*peer.name, %error, "a node of the cluster does not answer; an answer is without its part");
            return Err(missing(was_untold(&error)));
        }
    };
    // Large answers take a while to read, and others are waiting.
    yield_now().await;
    match (response.status(), serde_json::from_slice(response.body())) {
        (StatusCode::OK, Ok(value)) => Ok(value),
        (status, _) => {
            // A key or namespace that only some nodes know, or another version.
            tracing::warn!(peer = &*peer.name, %status, "a node of the cluster refuses to answer for its part; is its config another one?");
            Err(missing(status.is_client_error()))
        }
    }
}

fn was_untold(error: &OutboundError) -> bool {
    match error {
        OutboundError::Resolve(_) | OutboundError::Connect(_) | OutboundError::Tls(_) => true,
        OutboundError::Timeout | OutboundError::Broken(_) | OutboundError::TooLarge(_) => false,
    }
}

/// Says in an answer that it is only what this node knows.
pub(crate) fn mark_others(answer: &mut Value, shard: &Shard) {
    if let Some(answer) = answer.as_object_mut() {
        let names: Vec<Value> = shard.node.peers.living().iter().map(|peer| Value::from(&*peer.name)).collect();
        answer.insert("partial".to_owned(), true.into());
        answer.insert("missing".to_owned(), names.into());
    }
}

/// Says in an answer whose part is missing; an answer that is whole says nothing of it.
pub(crate) fn mark(answer: &mut Value, missing: &[Missing]) {
    if let (Some(answer), false) = (answer.as_object_mut(), missing.is_empty()) {
        answer.insert("partial".to_owned(), true.into());
        let mut names: Vec<&str> = missing.iter().map(|missing| &*missing.peer.name).collect();
        // It may have been asked twice for one answer.
        names.sort_unstable();
        names.dedup();
        answer.insert("missing".to_owned(), names.into());
    }
}
