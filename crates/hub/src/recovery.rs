//! Sessions that outlive their connection, and what they missed.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tidegate_types::{ConnId, Millis, Publication, RoomName, SessionOffset, UserId};

use crate::missed::MissedInRooms;
use crate::session::{NewSession, SessionRecord, Who};
use crate::space::{Connection, Membership, OPENING, Space};
use crate::{Effect, Effects, Pid, RoomId, SocketId};

/// The most sessions kept without a connection; beyond it the oldest is dropped, and its client starts afresh.
const KEPT_SESSIONS: usize = 262_144;

/// The answer to a client that wants its session back.
#[derive(Clone, Debug, PartialEq)]
pub enum Resume {
    /// The session is this connection's now, in all its rooms.
    Recovered {
        /// The socket id that it had.
        socket_id: SocketId,
        /// Its rooms.
        rooms: Vec<Rejoined>,
        /// What it missed, in the order of `seq`.
        missed: Vec<Arc<Publication>>,
        /// What the client has now seen everything up to.
        seq: u64,
    },
    /// The memory does not reach back, the store may. Nothing is claimed yet: read at least `store_messages` of each
    /// room (persistent messages with a larger `seq`) and call [`Space::resume_with`].
    NeedHistory {
        /// Rooms, and the `seq` after which to read.
        reads: Vec<(RoomName, u64)>,
    },
    /// The client starts afresh (`recovered: false`).
    Failed(ResumeFailure),
}

/// A room that a session has come back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejoined {
    /// The room.
    pub room: RoomName,
    /// Its id.
    pub room_id: RoomId,
    /// Live messages after this one come by mailbox. Usually the released head; in a space that follows, another node may
    /// have shown the client more than this one has heard yet.
    pub after_seq: u64,
}

/// Why a session was not resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ResumeFailure {
    /// No such session, or it has been claimed.
    #[error("unknown session")]
    UnknownSession,
    /// The session belongs to another user.
    #[error("the session belongs to another user")]
    OtherSubject,
    /// The cursor is of another life of the counter.
    #[error("the cursor is of another epoch")]
    OtherEpoch,
    /// It cannot be proven what was missed.
    #[error("the history does not reach back to the cursor")]
    TooOld,
    /// The space is out of touch, or a room of the session is not followed yet. The session is still claimed: wait, or
    /// [`Space::release_claim`].
    #[error("the session's rooms are not followed yet")]
    NotReady,
    /// The session's window is over.
    #[error("the session has expired")]
    Expired,
}

/// Who holds a pid.
#[derive(Debug)]
enum Holder {
    Live(ConnId),
    Kept(Box<Kept>),
}

/// A session without a connection.
#[derive(Debug)]
pub(crate) struct Kept {
    pub user: UserId,
    pub socket_id: SocketId,
    pub rooms: SmallVec<[Membership; 2]>,
    pub expires_at: Millis,
    /// Where the counters stood when it was claimed or kept: the rooms' numbers are of that life.
    pub as_of: SessionOffset,
    pub token_expires_at: Option<Millis>,
}

/// All sessions of the space by pid.
#[derive(Default)]
pub(crate) struct Sessions {
    by_pid: FxHashMap<Pid, Holder>,
    /// In the order of expiry; a session resumed since leaves its entry behind.
    expiry: VecDeque<(Millis, Pid)>,
    kept: usize,
}

impl Sessions {
    pub fn set_live(&mut self, pid: Pid, conn: ConnId) {
        self.by_pid.insert(pid, Holder::Live(conn));
    }

    pub fn is_known(&self, pid: &Pid) -> bool {
        self.by_pid.contains_key(pid)
    }

    fn live(&self, pid: &Pid) -> Option<ConnId> {
        match self.by_pid.get(pid)? {
            Holder::Live(conn) => Some(*conn),
            Holder::Kept(_) => None,
        }
    }

    pub fn forget_live(&mut self, pid: &Pid, conn: ConnId) {
        if matches!(self.by_pid.get(pid), Some(Holder::Live(by)) if *by == conn) {
            self.by_pid.remove(pid);
        }
    }

    pub fn keep(&mut self, pid: Pid, kept: Kept) {
        // Nearly always the end; an imported record may expire before others.
        let at = self.expiry.partition_point(|(expires_at, _)| *expires_at <= kept.expires_at);
        self.expiry.insert(at, (kept.expires_at, pid.clone()));
        self.kept += 1;
        self.by_pid.insert(pid, Holder::Kept(Box::new(kept)));
    }

    pub fn kept(&self, pid: &Pid) -> Option<&Kept> {
        match self.by_pid.get(pid)? {
            Holder::Live(_) => None,
            Holder::Kept(kept) => Some(kept),
        }
    }

    /// Numbers of a life that has been lost are brought down to what this one has. Some may have been claimed in it.
    pub fn begin_new_life(&mut self, as_of: SessionOffset) {
        for holder in self.by_pid.values_mut() {
            match holder {
                Holder::Kept(kept) if kept.as_of.epoch != as_of.epoch => {
                    kept.rooms.iter_mut().for_each(|of| of.joined_seq = of.joined_seq.min(as_of.seq));
                    kept.as_of = as_of;
                }
                Holder::Kept(_) | Holder::Live(_) => {}
            }
        }
    }

    pub fn take(&mut self, pid: &Pid) -> Option<Kept> {
        self.kept(pid)?;
        match self.by_pid.remove(pid)? {
            Holder::Live(_) => None,
            Holder::Kept(kept) => {
                self.kept -= 1;
                Some(*kept)
            }
        }
    }
}

/// What the store returned for the rooms of a session, by room.
type Stored<'a> = FxHashMap<&'a RoomName, Vec<&'a Arc<Publication>>>;

impl Space {
    /// Whether a connection or a kept session holds the pid. If not, the store may have its record: read it, call
    /// [`Space::import_session`], then [`Space::resume`].
    pub fn session_known(&self, pid: &Pid) -> bool {
        self.sessions.is_known(pid)
    }

    /// The live connection of `user` that holds the pid. A client that comes back while its old connection still counts
    /// as alive (it changed networks, and nothing told the server) proves by its pid that the old one is dead:
    /// disconnect it, then [`Space::resume`].
    pub fn live_holder(&self, pid: &Pid, user: &UserId) -> Option<ConnId> {
        let conn = self.sessions.live(pid)?;
        let holder = self.users.get(self.conns.get(&conn)?.user)?;
        (holder.id == *user).then_some(conn)
    }

    /// Takes over a record found in the store after a restart. A record of another space or with a known pid is ignored.
    /// A client that was connected when the process died has the whole window from now on.
    pub fn import_session(&mut self, record: SessionRecord, now: Millis) {
        let ours = record.tenant == self.key.tenant && record.namespace == self.key.namespace;
        if !ours || self.sessions.is_known(&record.pid) {
            return;
        }
        let window_end = now.saturating_add(self.config.session_window_ms);
        let expires_at = record.expires_at.map_or(window_end, |at| at.min(window_end));
        let rooms = record.rooms.iter().map(|(name, joined_seq)| {
            let room = self.rooms.open(name);
            if let Some(room) = self.rooms.get_mut(room) {
                room.held += 1;
            }
            Membership { room, joined_seq: *joined_seq }
        });
        let rooms = rooms.collect();
        let SessionRecord { pid, user, socket_id, token_expires_at, .. } = record;
        let as_of = self.session_offset();
        self.sessions.keep(pid, Kept { user, socket_id, rooms, expires_at, as_of, token_expires_at });
    }

    /// Gives a session back to its client, on a new connection. `who` and `token_expires_at` come from the token verified
    /// now; `user` is `who`'s.
    ///
    /// The session is claimed atomically: while the new connection lives, another resume of the same pid fails.
    #[allow(clippy::too_many_arguments)]
    pub fn resume(
        &mut self,
        pid: &Pid,
        offset: SessionOffset,
        user: &UserId,
        conn: ConnId,
        who: Who,
        token_expires_at: Option<Millis>,
        now: Millis,
        fx: &mut Effects,
    ) -> Resume {
        self.resume_from(pid, offset, user, conn, who, token_expires_at, None, now, fx)
    }

    /// As [`Space::resume`], with what the store returned for the reads of [`Resume::NeedHistory`] (in any order).
    #[allow(clippy::too_many_arguments)]
    pub fn resume_with(
        &mut self,
        pid: &Pid,
        offset: SessionOffset,
        user: &UserId,
        conn: ConnId,
        who: Who,
        token_expires_at: Option<Millis>,
        stored: Vec<Arc<Publication>>,
        now: Millis,
        fx: &mut Effects,
    ) -> Resume {
        let mut by_room = Stored::default();
        for publication in &stored {
            by_room.entry(&publication.room).or_default().push(publication);
        }
        self.resume_from(pid, offset, user, conn, who, token_expires_at, Some(by_room), now, fx)
    }

    #[allow(clippy::too_many_arguments)]
    fn resume_from(
        &mut self,
        pid: &Pid,
        offset: SessionOffset,
        user: &UserId,
        conn: ConnId,
        who: Who,
        token_expires_at: Option<Millis>,
        stored: Option<Stored<'_>>,
        now: Millis,
        fx: &mut Effects,
    ) -> Resume {
        let Some(kept) = self.sessions.kept(pid) else { return Resume::Failed(ResumeFailure::UnknownSession) };
        // Before anything else, and without touching the record: a stranger who knows a pid must not be able to end it.
        if kept.user != *user || who.user != *user {
            return Resume::Failed(ResumeFailure::OtherSubject);
        }
        if kept.expires_at <= now {
            return self.fail(pid, ResumeFailure::Expired, fx);
        }
        // A number above the head was never handed out in this epoch.
        if offset.epoch != kept.as_of.epoch || offset.seq > self.known_seq().max(kept.as_of.seq) {
            return self.fail(pid, ResumeFailure::OtherEpoch, fx);
        }
        if !self.is_ready(pid) {
            return Resume::Failed(ResumeFailure::NotReady);
        }
        let Some(kept) = self.sessions.kept(pid) else { return Resume::Failed(ResumeFailure::UnknownSession) };
        let mut missed = MissedInRooms::default();
        for membership in &kept.rooms {
            let from = offset.seq.max(membership.joined_seq);
            let Some(room) = self.rooms.get(membership.room) else { return self.fail(pid, ResumeFailure::TooOld, fx) };
            let of_room = stored.as_ref().map(|stored| stored.get(&room.name).map_or(&[][..], Vec::as_slice));
            missed.add(room, from, self.missed_after_seq(room, from, of_room));
        }
        // A session comes back as a whole or not at all.
        if !missed.unprovable.is_empty() {
            return self.fail(pid, ResumeFailure::TooOld, fx);
        }
        if !missed.in_store.is_empty() {
            return Resume::NeedHistory { reads: missed.in_store };
        }
        missed.sort();
        let Some(kept) = self.sessions.take(pid) else { return Resume::Failed(ResumeFailure::UnknownSession) };
        self.claim(pid, kept, missed.messages, offset.seq, conn, who, token_expires_at, now, fx)
    }

    #[allow(clippy::too_many_arguments)]
    fn claim(
        &mut self,
        pid: &Pid,
        kept: Kept,
        missed: Vec<Arc<Publication>>,
        seen: u64,
        conn: ConnId,
        who: Who,
        token_expires_at: Option<Millis>,
        now: Millis,
        fx: &mut Effects,
    ) -> Resume {
        self.disconnect(conn, false, now, fx);
        let socket_id = kept.socket_id.clone();
        let session = NewSession { pid: pid.clone(), socket_id: kept.socket_id, token_expires_at };
        let user = self.attach(conn, who, session, now, fx);
        let mut rooms = Vec::with_capacity(kept.rooms.len());
        let seq = self.order.head_seq().max(seen);
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.seen_seq = seq;
        }
        for membership in kept.rooms {
            let Some(room) = self.rooms.get_mut(membership.room) else { continue };
            room.held = room.held.saturating_sub(1);
            let after_seq = seq.max(membership.joined_seq);
            rooms.push(Rejoined { room: room.name.clone(), room_id: room.id, after_seq });
            self.rooms.enter(membership.room, conn.shard);
            if let Some(connection) = self.conns.get_mut(&conn) {
                connection.rooms.push(membership);
            }
            self.add_lease(membership.room, user, Some(conn), now, fx);
        }
        self.save_session(conn, fx);
        Resume::Recovered { socket_id, rooms, missed, seq }
    }

    /// Turns the session of a connection that has just gone into one that can be resumed.
    pub(crate) fn keep_session(&mut self, connection: Connection, user: UserId, now: Millis, fx: &mut Effects) {
        let Connection { session, mut rooms, .. } = connection;
        // Nobody has been told of those that are still opening.
        rooms.retain(|membership| membership.joined_seq != OPENING);
        for membership in &rooms {
            if let Some(room) = self.rooms.get_mut(membership.room) {
                room.held += 1;
            }
        }
        let expires_at = now.saturating_add(self.config.session_window_ms);
        if self.config.durable {
            fx.push(Effect::SaveSession(self.record(&session, user.clone(), &rooms, Some(expires_at))));
        }
        let NewSession { pid, socket_id, token_expires_at } = session;
        let as_of = self.session_offset();
        self.sessions.keep(pid, Kept { user, socket_id, rooms, expires_at, as_of, token_expires_at });
    }

    /// Stores what a restart would need to know of a connection's session.
    pub(crate) fn save_session(&self, conn: ConnId, fx: &mut Effects) {
        if !self.stores_sessions() {
            return;
        }
        let Some(connection) = self.conns.get(&conn) else { return };
        let Some(user) = self.users.get(connection.user) else { return };
        fx.push(Effect::SaveSession(self.record(&connection.session, user.id.clone(), &connection.rooms, None)));
    }

    pub(crate) fn record(
        &self,
        session: &NewSession,
        user: UserId,
        rooms: &[Membership],
        expires_at: Option<Millis>,
    ) -> SessionRecord {
        let name = |membership: &Membership| {
            self.rooms.get(membership.room).map(|room| (room.name.clone(), membership.joined_seq))
        };
        SessionRecord {
            pid: session.pid.clone(),
            socket_id: session.socket_id.clone(),
            tenant: self.key.tenant.clone(),
            namespace: self.key.namespace.clone(),
            user,
            // Its client has not been told yet that it is in a room that is still opening.
            rooms: rooms.iter().filter(|of| of.joined_seq != OPENING).filter_map(name).collect(),
            token_expires_at: session.token_expires_at,
            expires_at,
        }
    }

    /// Ends sessions whose window is over, and the oldest beyond the cap.
    pub(crate) fn expire_sessions(&mut self, now: Millis, fx: &mut Effects) {
        while let Some((at, _)) = self.sessions.expiry.front() {
            if *at > now && self.sessions.kept <= KEPT_SESSIONS {
                break;
            }
            let Some((at, pid)) = self.sessions.expiry.pop_front() else { break };
            // The pid may have been resumed and kept again since: that later entry decides.
            if self.sessions.kept(&pid).is_some_and(|kept| kept.expires_at <= at) {
                if self.config.follows {
                    self.release_claim(&pid, now, fx);
                } else {
                    self.drop_kept(&pid, fx);
                }
            }
        }
    }

    fn fail(&mut self, pid: &Pid, failure: ResumeFailure, fx: &mut Effects) -> Resume {
        self.drop_kept(pid, fx);
        Resume::Failed(failure)
    }

    pub(crate) fn drop_kept(&mut self, pid: &Pid, fx: &mut Effects) {
        let Some(kept) = self.sessions.take(pid) else { return };
        for membership in kept.rooms {
            self.let_go_of(membership.room);
        }
        if self.stores_sessions() {
            fx.push(Effect::DropSession(pid.clone()));
        }
    }

    /// Sessions without a connection that can still be resumed.
    pub fn kept_sessions(&self) -> usize {
        self.sessions.kept
    }
}
