//! A cut session that comes back: to the node that it was connected to, to one that has just started, or to any other of a
//! cluster.
//!
//! In a cluster the broker has the sessions. A node claims one, so that nobody else gets it; follows the session's rooms;
//! reads what was missed; and only then gives it to its client. Whatever fails on the way, the client starts afresh and is
//! told so: it is never given a guess.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tidegate_auth::Principal;
use tidegate_cluster::{Audience, Claimed};
use tidegate_hub::{Pid, Rejoined, Resume, ResumeFailure, SocketId};
use tidegate_metrics::{Recovery, StoreLabels, StoreOperation};
use tidegate_types::{Publication, RoomKey, RoomName, SessionOffset};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use crate::app::{Applicant, Own};
use crate::call::Call;
use crate::cluster::ClusterLink;
use crate::connect::{greet, welcome, who};
use crate::connection::{Conn, NamespaceSocket};
use crate::dialect_api;
use crate::mailbox::Item;
use crate::namespaces::Behaviour;
use crate::node::{SpaceCell, now_ms};
use crate::opening::{self, PATIENCE};
use crate::rooms_api;
use crate::shard::Shard;
use crate::signals::{Signal, Supersede};

/// How long a client waits for a broker that is gone: one whose connection was only cut is back in half a second.
const BROKER_PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries to claim a session, if nobody says that the broker is back.
const CLAIM_AGAIN: Duration = Duration::from_millis(100);

/// Gives a session back to its client; false if it has to start afresh.
pub(crate) async fn come_back(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    principal: &Arc<Principal>,
    applicant: Option<Rc<Applicant>>,
    pid: Pid,
    offset: SessionOffset,
) -> bool {
    let comeback = Comeback { shard, conn, space, principal, pid: &pid, offset };
    let resumed = match comeback.resume().await {
        Ok(resumed) => resumed,
        Err(failure) => {
            if shard.node.cluster.is_some() {
                // Its client may come back another time, if it is gone already.
                shard.node.with_space(space, |hub, effects| hub.release_claim(&pid, now_ms(), effects));
            }
            if conn.is_closed() {
                return true;
            }
            space.metrics.recovery(failure);
            return false;
        }
    };
    let Resumed { socket_id, rooms, missed, seq } = resumed;
    space.metrics.recovery(Recovery::Recovered);
    let mut socket = NamespaceSocket {
        space: space.clone(),
        principal: principal.clone(),
        app: applicant.map(|applicant| Rc::new(Own::new(socket_id.clone(), applicant, true))),
        socket_id,
        pid,
        limit: None,
        seated: None,
        rooms: SmallVec::new(),
    };
    for of in &rooms {
        shard.add_member(conn, &mut socket, of.room_id, of.after_seq);
    }
    let epoch = space.lock().epoch();
    welcome(shard, conn, socket, SessionOffset { epoch, seq }, Some(&missed));
    for Rejoined { room, .. } in &rooms {
        match &space.settings.behaviour {
            Behaviour::Rooms => rooms_api::send_snapshot(shard, conn, space, room),
            Behaviour::Dialect(dialect) => dialect_api::send_snapshot(shard, conn, space, dialect, room),
            Behaviour::Handlers(_) => {}
        }
    }
    if let Some(rest) = greet(shard, conn, space) {
        rest.await;
    }
    let seat = shard.node.cluster.as_ref().and_then(|cluster| cluster.seat(space, &principal.user, true));
    if let Some(Ok(seated)) = match seat {
        Some(seat) => Some(seat.await),
        None => None,
    } {
        let mut sockets = conn.sockets.borrow_mut();
        if let Some(socket) = sockets.iter_mut().find(|socket| socket.space.index == space.index) {
            socket.seated = Some(Box::new(seated));
        }
    }
    true
}

/// A session that is its client's again, and not yet told so.
struct Resumed {
    socket_id: SocketId,
    rooms: Vec<Rejoined>,
    missed: Vec<Arc<Publication>>,
    seq: u64,
}

/// A client that wants its session back.
struct Comeback<'a> {
    shard: &'a Rc<Shard>,
    conn: &'a Rc<Conn>,
    space: &'a Arc<SpaceCell>,
    principal: &'a Arc<Principal>,
    pid: &'a Pid,
    offset: SessionOffset,
}

impl Comeback<'_> {
    /// What is returned has to be used without a pause: live messages come from the moment of the resume on.
    async fn resume(&self) -> Result<Resumed, Recovery> {
        match &self.shard.node.cluster {
            None => {
                if !self.space.lock().session_known(self.pid) {
                    self.import().await;
                }
                if self.conn.is_closed() {
                    return Err(Recovery::UnknownSession);
                }
                self.supersede();
            }
            Some(cluster) => self.claim(cluster).await?,
        }
        let mut resumed = self.resume_with(None);
        if let Resume::NeedHistory { reads } = resumed {
            // Without the store nobody knows what was missed.
            let stored = self.read_missed(reads).await.ok_or(Recovery::TooOld)?;
            if self.conn.is_closed() {
                return Err(Recovery::UnknownSession);
            }
            resumed = self.resume_with(Some(stored));
        }
        match resumed {
            Resume::Recovered { socket_id, rooms, missed, seq } => Ok(Resumed { socket_id, rooms, missed, seq }),
            Resume::NeedHistory { .. } => Err(Recovery::TooOld),
            Resume::Failed(failure) => Err(match failure {
                ResumeFailure::UnknownSession => Recovery::UnknownSession,
                ResumeFailure::OtherSubject => Recovery::OtherSubject,
                ResumeFailure::OtherEpoch => Recovery::OtherEpoch,
                ResumeFailure::TooOld | ResumeFailure::NotReady => Recovery::TooOld,
                ResumeFailure::Expired => Recovery::Expired,
            }),
        }
    }

    fn resume_with(&self, stored: Option<Vec<Arc<Publication>>>) -> Resume {
        let Self { shard, conn, space, principal, pid, offset } = *self;
        let (now, who, expires) = (now_ms(), who(principal), principal.expires_at);
        let user = &principal.user;
        shard.node.with_space(space, |hub, effects| match stored {
            None => hub.resume(pid, offset, user, conn.id, who, expires, now, effects),
            Some(stored) => hub.resume_with(pid, offset, user, conn.id, who, expires, stored, now, effects),
        })
    }

    /// Ends the connection that still holds the session here, if it is the same user's: who presents the pid has left it,
    /// even if the network has not told us yet. Without this a client that changes networks could come back only after its
    /// old connection's ping timeout.
    fn supersede(&self) {
        let node = &self.shard.node;
        let old = node.with_space(self.space, |hub, effects| {
            let old = hub.live_holder(self.pid, &self.principal.user).filter(|old| *old != self.conn.id)?;
            hub.supersede(old, now_ms(), effects);
            Some(old)
        });
        let Some(old) = old else { return };
        if let Some(mailbox) = node.mailbox(old.shard) {
            mailbox.push(Item::Call(Box::new(Call::Supersede { conn: old })));
        }
    }

    /// A session of before the restart may be known to the store.
    async fn import(&self) {
        let history = self.shard.node.history.clone();
        let wanted = self.pid.clone();
        let Ok(Ok(Some(record))) = spawn_blocking(move || history.session(&wanted)).await else { return };
        let key = &self.space.key;
        if record.tenant != key.tenant || record.namespace != key.namespace {
            return;
        }
        let mut hub = self.space.lock();
        if !hub.session_known(self.pid) {
            hub.import_session(record, now_ms());
        }
    }

    /// Takes the session from wherever it is in the cluster, and waits until all its rooms are heard here.
    ///
    /// The broker is asked even if the session's connection counts as alive here: another node may have it by now.
    async fn claim(&self, cluster: &ClusterLink) -> Result<(), Recovery> {
        let Self { space, principal, pid, offset, .. } = *self;
        let claimed = self.ask_for_record(cluster).await?;
        let Claimed { record, as_of, was_live_on } = claimed.ok_or(Recovery::UnknownSession)?;
        match was_live_on {
            Some(node) if node != cluster.broker.node() => {
                let user = principal.user.clone();
                let superseded = Supersede { space: (*space.key).clone(), pid: pid.clone(), user };
                cluster.signal(Audience::Node(node), &Signal::Supersede(superseded));
            }
            // A connection that ended here while the broker was asked has given its session up: then this does nothing.
            Some(_) => self.supersede(),
            None => {}
        }
        let opening: Vec<_> = self.shard.node.with_space(space, |hub, effects| {
            hub.claimed(record, as_of, now_ms(), effects);
            let rooms = hub.claimed_rooms(pid).into_iter().filter(|room| !hub.is_open(room));
            rooms.map(|room| space.opening.wait(&room)).collect()
        });
        // What its client has seen of another life of the counters says nothing of this one.
        if as_of.epoch != offset.epoch || offset.seq > as_of.seq {
            return Err(Recovery::OtherEpoch);
        }
        if !opening::are_opened(opening).await || !self.is_ready().await {
            return Err(Recovery::TooOld);
        }
        if self.conn.is_closed() { Err(Recovery::UnknownSession) } else { Ok(()) }
    }

    /// What cuts a node's clients often cuts its way to the broker too, and both are back at about the same time: who comes
    /// first waits for the other, but not for ever.
    async fn ask_for_record(&self, cluster: &ClusterLink) -> Result<Option<Claimed>, Recovery> {
        let Self { space, principal, pid, conn, .. } = *self;
        let give_up = Instant::now() + BROKER_PATIENCE;
        loop {
            let back = cluster.is_back.notified();
            if cluster.broker.is_connected() {
                let claim = cluster.broker.claim(&space.key, pid, &principal.user);
                if let Ok(Ok(Ok(claimed))) = timeout(PATIENCE, claim).await {
                    return Ok(claimed);
                }
            }
            if Instant::now() >= give_up {
                return Err(Recovery::TooOld);
            }
            let _ = timeout(CLAIM_AGAIN, back).await;
            if conn.is_closed() {
                return Err(Recovery::UnknownSession);
            }
        }
    }

    /// Waits until the space is in touch with the cluster, but not for ever.
    async fn is_ready(&self) -> bool {
        let ready = async {
            loop {
                let in_touch = self.space.in_touch.notified();
                if self.space.lock().is_ready(self.pid) {
                    return;
                }
                in_touch.await;
            }
        };
        timeout(PATIENCE, ready).await.is_ok()
    }

    async fn read_missed(&self, reads: Vec<(RoomName, u64)>) -> Option<Vec<Arc<Publication>>> {
        let node = &self.shard.node;
        let (history, metrics, most) = (node.history.clone(), node.metrics.clone(), node.settings.history_messages);
        let key = self.space.key.clone();
        let read = spawn_blocking(move || {
            let started = std::time::Instant::now();
            let mut stored = Vec::new();
            for (room, after) in reads {
                let room = RoomKey { tenant: key.tenant.clone(), namespace: key.namespace.clone(), room };
                match history.read_seq(&room, after, most) {
                    Ok(Some(messages)) => stored.extend(messages),
                    Ok(None) => return None,
                    Err(error) => {
                        tracing::error!(%error, "the history cannot be read for a recovery");
                        return None;
                    }
                }
            }
            let labels = StoreLabels { operation: StoreOperation::Read };
            metrics.store_latency_ms.get_or_create(&labels).observe(started.elapsed().as_secs_f64() * 1_000.0);
            Some(stored)
        });
        read.await.ok().flatten()
    }
}
