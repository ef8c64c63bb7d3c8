//! Requests that a backend may send again after a lost answer: the header `Idempotency-Key`.

use std::rc::Rc;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};
use tidegate_cluster::Broker;
use tidegate_types::{ErrorCode, IdempotencyKey};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::Asked;
use super::action::Done;
use super::caller::Caller;
use super::refused::{Outcome, Refused};
use super::request::single;
use crate::http::json;
use crate::node::now_ms;
use crate::replays::{Begun, Fingerprint, Replay, Replays, RequestName, everywhere};
use crate::shard::Shard;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key; the hub's own keys have a few bytes more for the place in a batch.
const MOST_KEY: usize = 100;
/// Who comes while the first is under way is asked to wait so long, ms.
const RETRY_MS: u64 = 1_000;

/// What the sender calls its request.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Refused> {
    let Some(given) = single(headers, &KEY)? else { return Ok(None) };
    if given.len() > MOST_KEY {
        return Err(Refused::bad(format!("{KEY}: it is longer than {MOST_KEY} bytes")));
    }
    IdempotencyKey::try_from(given).map(Some).map_err(|error| Refused::bad(format!("{KEY}: it {error}")))
}

/// Does what is asked for, or gives the answer again that was given first. What has begun is done to its end even if its
/// sender goes away: the answer is then there for the next try.
pub(super) async fn perform(shard: &Rc<Shard>, caller: Caller, key: IdempotencyKey, asked: Asked) -> Outcome {
    let name = RequestName::new(caller.key.id(), key.as_ref());
    let fingerprint = fingerprint(&asked);
    let broker = shard.node.cluster.as_ref().map(|cluster| cluster.broker.clone());
    match begin(&shard.node.replays, broker.as_ref(), &name, fingerprint).await? {
        Begun::Fresh => {}
        Begun::Again(replay) => return Ok(again(&replay)),
        Begun::UnderWay => {
            let message = "A request with this Idempotency-Key is under way; ask again for its answer";
            return Err(Refused::new(ErrorCode::Conflict, message).later(RETRY_MS));
        }
        Begun::Different => {
            let message = "This Idempotency-Key was given to another request; a new request needs a key of its own";
            return Err(Refused::new(ErrorCode::Unprocessable, message));
        }
        Begun::Full => return Err(Refused::unavailable("Too many requests are under way").later(RETRY_MS)),
    }
    let (tell, told) = oneshot::channel();
    let worker = shard.clone();
    spawn_local(async move {
        let outcome = match &broker {
            None => asked.perform(&worker, &caller, Some(&key)).await,
            Some(broker) => {
                let work = asked.perform(&worker, &caller, Some(&key));
                everywhere::under_way(broker, &name, fingerprint, work).await
            }
        };
        let replay =
            outcome.as_ref().ok().map(|done| Replay { status: done.status.as_u16(), body: done.body.as_str().into() });
        worker.node.replays.finish(&name, replay.clone(), now_ms());
        if let Some(broker) = broker
            && !everywhere::finish(&broker, &name, fingerprint, replay.as_ref()).await
        {
            spawn_local(everywhere::finish_later(broker, name, fingerprint, replay));
        }
        let _ = tell.send(outcome);
    });
    let outcome = told.await.map_err(|_| Refused::unavailable("The server is shutting down"))?;
    outcome.map(Done::into_answer)
}

/// Whether a request is new. In a cluster, other nodes are as good as this one; and where it has been before, it is known
/// without asking.
async fn begin(
    replays: &Replays,
    broker: Option<&Arc<dyn Broker>>,
    name: &RequestName,
    fingerprint: Fingerprint,
) -> Result<Begun, Refused> {
    let begun = replays.begin(name, fingerprint, now_ms());
    let (Some(broker), Begun::Fresh) = (broker, &begun) else { return Ok(begun) };
    let begun = everywhere::begin(broker, name, fingerprint).await;
    if begun != Ok(Begun::Fresh) {
        replays.finish(name, None, now_ms());
    }
    begun.map_err(|away| Refused::unavailable(away.to_string()).later(RETRY_MS))
}

fn fingerprint(asked: &Asked) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(asked.target.as_bytes());
    hash.update([0]);
    hash.update(&asked.body);
    hash.finalize().into()
}

fn again(replay: &Replay) -> crate::http::Answer {
    let status = StatusCode::from_u16(replay.status).unwrap_or(StatusCode::OK);
    let mut answer = json(status, replay.body.as_ref().to_owned());
    answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    answer
}
