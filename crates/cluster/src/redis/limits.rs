//! What nodes count together: requests of limits, and connections of users and tenants.

use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashSet;
use tidegate_types::{NodeId, SpaceKey, UserId};
use tokio::sync::oneshot::Sender;

use super::call::Call;
use super::engine::Engine;
use super::keys::SpaceKeys;
use super::link::Link;
use super::links::Links;
use super::resp::Value;
use super::script;
use super::slot::Slot;
use crate::{Counted, Unavailable};

/// How long numbers of connections live without a change, ms: longer than connections do. Those of a dead node are taken back
/// by whoever buries it.
const SEAT_TTL_MS: u64 = 30 * 24 * 3_600_000;

/// The spaces of which Redis has been told that this node has seats there.
pub(super) type Indexed = FxHashSet<Box<str>>;

impl Engine {
    pub(super) fn count(&self, told: &Counted, answer: Sender<Result<Vec<u64>, Unavailable>>) {
        let keys: Vec<String> = told.told.iter().map(|(key, _)| self.keys.bucket(&told.limit, key)).collect();
        let Some(first) = keys.first().cloned() else {
            let _ = answer.send(Ok(Vec::new()));
            return;
        };
        let call = Call::script(&script::RATES, &keys).int(told.rate);
        let call = told.told.iter().fold(call, |call, (_, requests)| call.int(*requests));
        self.call(first.as_bytes(), call, move |result| {
            let ahead = result.ok().and_then(Value::into_array);
            let ahead = ahead.and_then(|ahead| {
                let number = |value: &Value| value.int().and_then(|number| u64::try_from(number).ok());
                ahead.iter().map(number).collect::<Option<Vec<u64>>>()
            });
            let _ = answer.send(ahead.filter(|ahead| ahead.len() == keys.len()).ok_or(Unavailable));
        });
    }

    pub(super) fn seat(
        &mut self,
        space: &Arc<SpaceKey>,
        user: Option<&UserId>,
        held: u32,
        most: Option<u32>,
        answer: Sender<Result<bool, Unavailable>>,
    ) {
        let node = self.shared.node;
        let keys = self.keys.space(space);
        if held > 0 && self.links.is_connected() && !self.seat_spaces.contains(keys.tag()) {
            let index = self.keys.spaces_of(node);
            self.call(index.as_bytes(), Call::new("SADD").arg(&index).arg(keys.tag()), |_| {});
            self.seat_spaces.insert(keys.tag().into());
        }
        let call = Call::script(&script::SEAT, &[keys.seats(user), keys.seated(node)])
            .arg(node.to_string())
            .int(held)
            .arg(most.map(|most| most.to_string()).unwrap_or_default())
            .arg(user.map_or("", UserId::as_str))
            .int(SEAT_TTL_MS);
        self.call(keys.space().as_bytes(), call, |result| {
            let allowed = result.ok().and_then(|value| value.int()).map(|allowed| allowed == 1);
            let _ = answer.send(allowed.ok_or(Unavailable));
        });
    }
}

/// Frees all seats of a dead node in a space. `None`: not all could be freed.
pub(super) async fn free_seats(links: &Links, keys: &SpaceKeys, dead: NodeId) -> Option<()> {
    let seated = keys.seated(dead);
    let link: Rc<Link> = links.link(Slot::of(seated.as_bytes())).ok()?;
    let users = link.call(Call::new("HKEYS").arg(&seated)).await.ok()?.into_array()?;
    for batch in users.chunks(256) {
        let freeing = batch.iter().filter_map(Value::text).map(|user| {
            let user = UserId::try_from(user).ok();
            link.call(Call::new("HDEL").arg(keys.seats(user.as_ref())).arg(dead.to_string()))
        });
        for freed in freeing.collect::<Vec<_>>() {
            freed.await.ok()?;
        }
    }
    link.call(Call::new("DEL").arg(&seated)).await.ok().map(drop)
}
