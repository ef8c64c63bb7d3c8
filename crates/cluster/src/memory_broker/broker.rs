use std::sync::Arc;

use bytes::Bytes;
use tidegate_hub::Pid;
use tidegate_types::{Class, NodeId, PresenceInfo, RoomName, SpaceKey, UserId};
use tokio::sync::oneshot;

use super::{MemoryBroker, core::Core};
use crate::model::{OtherRun, Pushes};
use crate::{Audience, Broker, Claimed, Counted, Kind, Look, Name, Outgoing, Placed, PublishError, Unavailable};

/// What a call is answered by and by.
type Answer<T, E> = oneshot::Receiver<Result<T, E>>;

impl MemoryBroker {
    /// Carries the call out now; its answer comes by the node's lane for answers.
    fn ask<T, E>(&self, unreachable: E, call: impl FnOnce(&mut Core) -> Result<T, E>) -> Answer<T, E>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let (teller, answer) = oneshot::channel();
        self.shared.with(|core| {
            let outcome = if core.is_linked(self.node) { call(core) } else { Err(unreachable) };
            core.answer(self.node, move || drop(teller.send(outcome)));
        });
        answer
    }

    /// As [`MemoryBroker::ask`], for what is done to a space.
    fn ask_about<T: Send + 'static>(
        &self,
        space: &Arc<SpaceKey>,
        call: impl FnOnce(&mut Core) -> Result<T, OtherRun>,
    ) -> Answer<T, Unavailable> {
        self.ask(Unavailable, |core| {
            core.touch(self.node, space);
            let outcome = call(core).map_err(|_| Unavailable)?;
            if core.loses_answers(self.node) { Err(Unavailable) } else { Ok(outcome) }
        })
    }

    /// As [`MemoryBroker::ask`], for what the broker always can do, and whose answer may be lost.
    fn get_from<T: Send + 'static>(&self, call: impl FnOnce(&mut Core) -> T) -> Answer<T, Unavailable> {
        self.ask(Unavailable, |core| {
            let outcome = call(core);
            if core.loses_answers(self.node) { Err(Unavailable) } else { Ok(outcome) }
        })
    }
}

impl Broker for MemoryBroker {
    fn node(&self) -> NodeId {
        self.node
    }

    fn is_connected(&self) -> bool {
        self.shared.lock().is_linked(self.node)
    }

    fn publish(&self, message: Outgoing) -> oneshot::Receiver<Result<Placed, PublishError>> {
        self.ask(PublishError::Unavailable, |core| {
            let node = core.nodes.get(&self.node);
            if let Some(why) = node.and_then(|node| node.refuses) {
                return Err(why);
            }
            if message.class == Class::Volatile {
                return Err(PublishError::Refused);
            }
            let is_lost = core.loses_answers(self.node);
            core.touch(self.node, &message.space);
            let (now, mut out) = (core.now, Pushes::new());
            let placed = core.server.publish(&message, now, &mut out).map_err(|_| PublishError::Unavailable)?;
            core.spread(out);
            if is_lost {
                return Err(PublishError::Unavailable);
            }
            core.saw(self.node, &message.space, placed.position.epoch, placed.seq);
            Ok(placed)
        })
    }

    fn signal(&self, to: Audience, body: Bytes) {
        self.shared.with(|core| {
            let Some(link) = core.nodes.get(&self.node).and_then(|node| node.link) else { return };
            let mut out = Pushes::new();
            core.server.signal(link, self.node, to, body, &mut out);
            core.spread(out);
        });
    }

    fn follow(&self, space: &Arc<SpaceKey>, room: &RoomName) {
        self.shared.with(|core| core.follow(self.node, space, room));
    }

    fn unfollow(&self, space: &Arc<SpaceKey>, room: &RoomName) {
        self.shared.with(|core| core.unfollow(self.node, space, room));
    }

    fn catch_up(&self, space: &Arc<SpaceKey>) {
        self.shared.with(|core| core.start_over(self.node, space));
    }

    fn lease(&self, space: &Arc<SpaceKey>, room: &RoomName, user: &UserId, info: Option<PresenceInfo>) {
        self.shared.with(|core| core.lease(self.node, space, room, user, info));
    }

    fn look(&self, space: &Arc<SpaceKey>, room: &RoomName) -> Answer<Look, Unavailable> {
        self.ask_about(space, |core| {
            let look = core.server.peek(space, room, core.now)?;
            Ok(Look { epoch: look.life.epoch, head: look.head, leases: look.leases })
        })
    }

    fn claim(&self, space: &Arc<SpaceKey>, pid: &Pid, user: &UserId) -> Answer<Option<Claimed>, Unavailable> {
        self.ask_about(space, |core| core.server.claim(self.node, space, pid, user, core.now))
    }

    fn keep(&self, name: Name, value: Bytes, ttl_ms: u64) -> Answer<Option<Bytes>, Unavailable> {
        self.get_from(|core| core.server.keep(&name, value, ttl_ms, core.now))
    }

    fn set(&self, name: Name, value: Option<Bytes>, ttl_ms: u64) -> Answer<(), Unavailable> {
        self.get_from(|core| core.server.set(&name, value, ttl_ms, core.now))
    }

    fn get(&self, name: Name) -> Answer<Option<Bytes>, Unavailable> {
        self.get_from(|core| core.server.get(&name, core.now))
    }

    fn take(&self, name: Name) -> Answer<Option<Bytes>, Unavailable> {
        self.get_from(|core| core.server.take(&name, core.now))
    }

    fn seat(
        &self,
        space: &Arc<SpaceKey>,
        user: Option<&UserId>,
        held: u32,
        most: Option<u32>,
    ) -> Answer<bool, Unavailable> {
        self.get_from(|core| core.server.seat(self.node, space, user, held, most))
    }

    fn count(&self, told: Counted) -> Answer<Vec<u64>, Unavailable> {
        self.get_from(|core| core.server.count(&told, core.now))
    }

    fn list(&self, kind: Kind, most: usize) -> Answer<Vec<(String, Bytes)>, Unavailable> {
        self.get_from(|core| core.server.list(kind, most, core.now))
    }
}
