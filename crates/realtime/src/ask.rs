//! Questions to every worker: connections belong to workers, and a request of the HTTP API may concern those of all.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tidegate_types::ShardId;
use tokio::sync::oneshot;
use tokio::task::{spawn_local, yield_now};
use tokio::time::timeout;

use crate::call::Call;
use crate::connection::Conn;
use crate::mailbox::Item;
use crate::node::Node;
use crate::shard::Shard;

/// A worker has so long for its answer. One that needs longer is in trouble, and a request that waits for it is too.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections looked at before the worker's other tasks have their turn.
const CHUNK: usize = 256;

/// A worker's answer in progress, on the worker's own thread.
pub(crate) type Answering<T> = Pin<Box<dyn Future<Output = T>>>;

/// A worker did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker did not answer in time")]
pub(crate) struct Late;

/// Asks one worker.
pub(crate) async fn one<T, F>(shard: &Rc<Shard>, of: ShardId, question: F) -> Result<T, Late>
where
    T: Send + 'static,
    F: FnOnce(Rc<Shard>) -> Answering<T> + Send + 'static,
{
    let answer = put(shard, of, question).ok_or(Late)?;
    timeout(PATIENCE, answer).await.ok().and_then(Result::ok).ok_or(Late)
}

/// Asks all workers at once. Their answers stand in the order of the workers.
pub(crate) async fn all<T, F>(shard: &Rc<Shard>, question: F) -> Result<Vec<T>, Late>
where
    T: Send + 'static,
    F: Fn(Rc<Shard>) -> Answering<T> + Clone + Send + 'static,
{
    let answers: Vec<_> = shards(shard).filter_map(|of| put(shard, of, question.clone())).collect();
    let gathered = timeout(PATIENCE, async {
        let mut gathered = Vec::with_capacity(answers.len());
        for answer in answers {
            gathered.push(answer.await.map_err(|_| Late)?);
        }
        Ok(gathered)
    });
    gathered.await.unwrap_or(Err(Late))
}

/// All workers, ascending.
pub(crate) fn shards(shard: &Shard) -> impl Iterator<Item = ShardId> + use<> {
    (0..shard.node.settings.shards).map(ShardId)
}

fn put<T, F>(shard: &Rc<Shard>, of: ShardId, question: F) -> Option<oneshot::Receiver<T>>
where
    T: Send + 'static,
    F: FnOnce(Rc<Shard>) -> Answering<T> + Send + 'static,
{
    let mailbox = shard.node.mailbox(of)?;
    let (answer, answered) = oneshot::channel();
    let run = move |shard: &Rc<Shard>| {
        let answering = question(shard.clone());
        // Who asked may have gone; what was asked for happens all the same.
        spawn_local(async move { drop(answer.send(answering.await)) });
    };
    mailbox.push(Item::Call(Box::new(Call::Run(Box::new(run)))));
    Some(answered)
}

/// Has one worker do something that nobody waits for.
pub(crate) fn tell_one(node: &Node, of: ShardId, work: impl FnOnce(&Rc<Shard>) + Send + 'static) {
    if let Some(mailbox) = node.mailbox(of) {
        mailbox.push(Item::Call(Box::new(Call::Run(Box::new(work)))));
    }
}

/// Has all workers do something that nobody waits for.
pub(crate) fn tell_all(node: &Node, work: impl FnOnce(&Rc<Shard>) + Clone + Send + 'static) {
    (0..node.settings.shards).for_each(|of| tell_one(node, ShardId(of), work.clone()));
}

/// Shows each connection of a worker to `visit`, which is not to wait. Connections that come meanwhile may be missed.
pub(crate) async fn walk(shard: &Rc<Shard>, mut visit: impl FnMut(&Rc<Conn>)) {
    for chunk in shard.conn_ids().chunks(CHUNK) {
        for conn in chunk.iter().filter_map(|id| shard.conn(*id)) {
            visit(&conn);
        }
        yield_now().await;
    }
}
