//! Sessions that come back to a space that follows. The broker has them, and gives each to one node only; here they live
//! between the claim and the resume.
//!
//! The way back: [`Space::supersede`] if the old connection still counts as alive here, else the broker's claim and
//! [`Space::claimed`]; wait until [`Space::is_ready`]; [`Space::resume`], with the history's answer
//! [`Space::resume_with`]. Whoever gives up in between calls [`Space::release_claim`], so that the client can come back once
//! more.

use tidegate_types::{ConnId, Millis, RoomName, SessionOffset, UserId};

use crate::recovery::Kept;
use crate::session::SessionRecord;
use crate::space::{Connection, Membership, Parting, Space};
use crate::{Effect, Effects, Pid};

/// A claim that nobody has resumed or released for so long goes back to the broker, ms.
pub(crate) const CLAIM_MS: u64 = 30_000;

impl Space {
    /// Takes in a session that this node has claimed; `as_of` is where the counters stood then. Its rooms are followed and
    /// held until it is resumed or released. A record of another space or with a known pid is ignored.
    pub fn claimed(&mut self, record: SessionRecord, as_of: SessionOffset, now: Millis, fx: &mut Effects) {
        let ours = record.tenant == self.key.tenant && record.namespace == self.key.namespace;
        if !ours || self.sessions.is_known(&record.pid) {
            return;
        }
        let SessionRecord { pid, user, socket_id, rooms, token_expires_at, .. } = record;
        let rooms = rooms.iter().map(|(name, joined_seq)| {
            let room = self.open_room(name, fx);
            if let Some(room) = self.rooms.get_mut(room) {
                room.held += 1;
            }
            // Of a life of the counters that has been lost: of this one it has seen what its cursor says.
            Membership { room, joined_seq: if *joined_seq > as_of.seq { 0 } else { *joined_seq } }
        });
        let rooms = rooms.collect();
        let expires_at = now.saturating_add(CLAIM_MS);
        self.sessions.keep(pid, Kept { user, socket_id, rooms, expires_at, as_of, token_expires_at });
    }

    /// Ends a connection whose client has come back on another: its session can be resumed at once, without a claim.
    pub fn supersede(&mut self, old: ConnId, now: Millis, fx: &mut Effects) {
        self.end(old, Parting::Superseded, now, fx);
    }

    /// Whether the claimed session can be resumed now: the space is in touch, and has heard of another life of the counters
    /// if there is one, and all the session's rooms are open. True for a session
    /// that is not known, which need not be waited for.
    pub fn is_ready(&self, pid: &Pid) -> bool {
        let Some(kept) = self.sessions.kept(pid) else { return true };
        self.is_in_touch()
            && kept.as_of.epoch == self.epoch
            && !kept.rooms.iter().any(|membership| self.is_opening(membership.room))
    }

    /// Gives a claimed session back, so that its client can come back another time.
    pub fn release_claim(&mut self, pid: &Pid, now: Millis, fx: &mut Effects) {
        let Some(kept) = self.sessions.take(pid) else { return };
        let expires_at = now.saturating_add(self.config.session_window_ms);
        for membership in &kept.rooms {
            self.let_go_of(membership.room);
        }
        fx.push(Effect::SaveSession(self.record_of(pid, &kept, expires_at)));
    }

    /// The rooms of a claimed session.
    pub fn claimed_rooms(&self, pid: &Pid) -> Vec<RoomName> {
        let rooms = self.sessions.kept(pid).map_or(&[][..], |kept| &kept.rooms);
        rooms.iter().filter_map(|membership| Some(self.rooms.get(membership.room)?.name.clone())).collect()
    }

    /// Everybody who is connected.
    pub fn conn_ids(&self) -> Vec<ConnId> {
        self.conns.keys().copied().collect()
    }

    /// Stores a connection's session once more, for when the store may have lost it. Does nothing for one that is gone.
    pub fn store_session(&self, conn: ConnId, fx: &mut Effects) {
        self.save_session(conn, fx);
    }

    /// The session of a connection that has just gone is the broker's again.
    pub(crate) fn give_up_session(&mut self, connection: Connection, user: UserId, now: Millis, fx: &mut Effects) {
        let expires_at = now.saturating_add(self.config.session_window_ms);
        fx.push(Effect::SaveSession(self.record(&connection.session, user, &connection.rooms, Some(expires_at))));
    }

    fn record_of(&self, pid: &Pid, kept: &Kept, expires_at: Millis) -> SessionRecord {
        let session = crate::NewSession {
            pid: pid.clone(),
            socket_id: kept.socket_id.clone(),
            token_expires_at: kept.token_expires_at,
        };
        self.record(&session, kept.user.clone(), &kept.rooms, Some(expires_at))
    }

    pub(crate) fn session_offset(&self) -> SessionOffset {
        SessionOffset { epoch: self.epoch, seq: self.known_seq() }
    }

    /// The highest number that a cursor of this epoch may name.
    pub(crate) fn known_seq(&self) -> u64 {
        let head = self.order.head_seq();
        if self.config.follows { head.max(self.following.known_seq) } else { head }
    }

    /// Whether something that outlives the process has the sessions' records.
    pub(crate) fn stores_sessions(&self) -> bool {
        self.config.durable || self.config.follows
    }
}
