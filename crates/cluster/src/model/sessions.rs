use std::sync::Arc;

use tidegate_hub::{Pid, SessionRecord};
use tidegate_types::{Millis, NodeId, SessionOffset, SpaceKey, UserId};

use super::state::Session;
use super::{OtherRun, Server};
use crate::Claimed;

impl Server {
    /// Stores a session's record. When it dies is said from now on (`None`: its client is connected), because the node's
    /// clock may be another. False: another node has taken the session over, and nothing is changed.
    pub fn save_session(&mut self, node: NodeId, record: &SessionRecord, ttl_ms: Option<u64>, now: Millis) -> bool {
        self.about_to_write();
        let known = self.live_session(&record.pid, now);
        if known.is_some_and(|known| known.owner != node) {
            return false;
        }
        let expires_at = now.saturating_add(ttl_ms.unwrap_or(self.limits.live_session_ms));
        let session = Session { record: record.clone(), owner: node, taken: false, expires_at };
        self.state.sessions.insert(record.pid.clone(), Arc::new(session));
        true
    }

    /// Removes a session's record, unless another node has taken the session over.
    pub fn drop_session(&mut self, node: NodeId, pid: &Pid, now: Millis) {
        self.about_to_write();
        if self.live_session(pid, now).is_some_and(|known| known.owner == node) {
            self.state.sessions.remove(pid);
        }
    }

    /// Takes a session's record for the node: nobody else can until it has stored it again.
    ///
    /// # Errors
    /// The space has to be looked at first.
    pub fn claim(
        &mut self,
        node: NodeId,
        space: &SpaceKey,
        pid: &Pid,
        user: &UserId,
        now: Millis,
    ) -> Result<Option<Claimed>, OtherRun> {
        let life = self.space(space, now)?.life();
        self.about_to_write();
        let as_of = SessionOffset { epoch: life.epoch, seq: life.seq };
        Ok(self.take_session(node, space, pid, user, now).map(|(record, was_live_on)| Claimed {
            record,
            was_live_on,
            as_of,
        }))
    }

    fn take_session(
        &mut self,
        node: NodeId,
        space: &SpaceKey,
        pid: &Pid,
        user: &UserId,
        now: Millis,
    ) -> Option<(SessionRecord, Option<NodeId>)> {
        let known = self.live_session(pid, now).filter(|known| {
            let record = &known.record;
            !known.taken && record.tenant == space.tenant && record.namespace == space.namespace && record.user == *user
        })?;
        let record = known.record.clone();
        let was_live_on = record.expires_at.is_none().then_some(known.owner);
        let taken = Session { owner: node, taken: true, ..known.clone() };
        self.state.sessions.insert(pid.clone(), Arc::new(taken));
        Some((record, was_live_on))
    }

    /// The session's record, left where it is.
    pub fn session(&self, pid: &Pid, now: Millis) -> Option<SessionRecord> {
        self.live_session(pid, now).filter(|known| !known.taken).map(|known| known.record.clone())
    }

    fn live_session(&self, pid: &Pid, now: Millis) -> Option<&Session> {
        self.state.sessions.get(pid).map(AsRef::as_ref).filter(|known| known.expires_at > now)
    }
}
