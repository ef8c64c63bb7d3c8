//! Joining a room from where a client had read it: what it missed first, then what is live, without a seam.
//!
//! The socket is a member of the room from the start, so that nothing of it is forgotten; the room's ring in memory holds
//! what is published meanwhile. Once what memory no longer has has been read from the store, the rest is taken from the
//! ring and the live messages begin, under one lock.

use std::rc::Rc;
use std::sync::Arc;

use tidegate_cluster::{History, HistoryError};
use tidegate_hub::{JoinError, Joined, Missed, RoomId};
use tidegate_metrics::{StoreLabels, StoreOperation};
use tidegate_types::{Bookmark, Millis, Position, Publication, RoomKey, RoomName};
use tokio::task::spawn_blocking;

use crate::connection::Conn;
use crate::input::Handled;
use crate::node::SpaceCell;
use crate::opening::{Joining, Settling};
use crate::operations::{JoinRefused, Saved, room_limit};
use crate::shard::Shard;
use crate::webhooks::{self, WebhookEvent};

/// The store is asked again if the ring has lost, while it was being read, what was to follow.
const READS: u32 = 3;

/// How a reader stands that has come back to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CaughtUp {
    /// It has been sent all that it missed. If not, nothing: what was missed cannot be proven.
    pub recovered: bool,
    /// What comes after this comes live.
    pub position: Position,
}

/// Puts the socket of the connection in this space into a room, and sends it what it has missed since `since` before
/// anything that is live. `done` hears how it stands, once the session's record is stored. Grants are the caller's to
/// check: reading a room from a cursor is reading its history.
pub(crate) fn join_since(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    room: RoomName,
    since: Bookmark,
    now: Millis,
    done: impl FnOnce(Result<CaughtUp, JoinRefused>) + 'static,
) -> Handled {
    if let Err(refused) = room_limit(shard, conn, space, &room) {
        done(Err(refused));
        return Handled::Done;
    }
    let (joined, saved) = shard.node.with_session(space, |hub, effects| {
        let joined = hub.join(conn.id, &room, now, effects)?;
        let opened = joined.opening.then(|| space.opening.wait(&room));
        Ok::<_, JoinError>((joined, hub.missed(&room, since, None), opened))
    });
    let (joined, missed, opened) = match joined {
        Ok(joined) => joined,
        Err(JoinError::NotConnected) => {
            done(Err(JoinRefused::NotConnected));
            return Handled::Done;
        }
    };
    if let Some(opened) = opened {
        let (shard, conn, space) = (shard.clone(), conn.clone(), space.clone());
        let joining = Joining { shard, conn, space, room, opened };
        return Handled::Later(Box::pin(async move { done(join_opening(joining, joined, since).await) }));
    }
    if joined.already {
        // It has had everything since it joined. What was before that would come out of order now.
        let recovered = match missed {
            Missed::All(missed) => missed.first().is_none_or(|first| first.seq > joined.joined_seq),
            Missed::InStore | Missed::Unprovable => false,
        };
        return after(saved, move || done(Ok(CaughtUp { recovered, position: joined.position })));
    }
    let joiner =
        Joiner { shard: shard.clone(), conn: conn.clone(), space: space.clone(), room, room_id: joined.room_id };
    match missed {
        Missed::All(missed) => {
            joiner.go_live(joined.seq, &missed);
            after(saved, move || done(Ok(CaughtUp { recovered: true, position: joined.position })))
        }
        Missed::Unprovable => {
            joiner.go_live(joined.seq, &[]);
            after(saved, move || done(Ok(CaughtUp { recovered: false, position: joined.position })))
        }
        Missed::InStore => Handled::Later(Box::pin(async move {
            let caught_up = joiner.read_back(since).await;
            if let Some(saved) = saved {
                let _ = saved.await;
            }
            match caught_up {
                Some(caught_up) => done(Ok(caught_up)),
                None => done(Err(JoinRefused::NotConnected)),
            }
        })),
    }
}

/// As [`join_since`] in a room of a cluster that this node does not hear yet.
async fn join_opening(joining: Joining, joined: Joined, since: Bookmark) -> Result<CaughtUp, JoinRefused> {
    let joiner = {
        let Joining { shard, conn, space, room, .. } = &joining;
        let (shard, conn, space, room) = (shard.clone(), conn.clone(), space.clone(), room.clone());
        Joiner { shard, conn, space, room, room_id: joined.room_id }
    };
    Settling::Opening(Box::new(joining)).settled().await?;
    if joined.already {
        // Of what it has been sent meanwhile nothing is known here.
        let position = joiner.space.lock().position(&joiner.room);
        return Ok(CaughtUp { recovered: false, position });
    }
    joiner.read_back(since).await.ok_or(JoinRefused::NotConnected)
}

fn after(saved: Saved, rest: impl FnOnce() + 'static) -> Handled {
    crate::operations::when_saved(saved, rest)
}

/// A member of the room that is not sent its messages yet.
struct Joiner {
    shard: Rc<Shard>,
    conn: Rc<Conn>,
    space: Arc<SpaceCell>,
    room: RoomName,
    room_id: RoomId,
}

impl Joiner {
    /// Sends what was missed; messages beyond `seq` come by mailbox from now on.
    fn go_live(&self, seq: u64, missed: &[Arc<Publication>]) {
        if !missed.is_empty() {
            self.shard.hold_back(&self.conn, |replay| {
                // Without offsets: a stock client takes the last one it sees for how far it has read all of its rooms,
                // and these are older than what it has.
                missed.iter().for_each(|publication| replay.push_message(publication, false));
            });
        }
        {
            let mut sockets = self.conn.sockets.borrow_mut();
            let socket = sockets.iter_mut().find(|socket| socket.space.index == self.space.index);
            if let Some(socket) = socket
                && !socket.rooms.iter().any(|membership| membership.room == self.room_id)
            {
                self.shard.add_member(&self.conn, socket, self.room_id, seq);
                webhooks::room_changed(socket, WebhookEvent::Join, &self.room);
            }
        }
        if !missed.is_empty() {
            self.shard.let_go(&self.conn);
        }
    }

    /// `None`: the socket has gone or has been taken out of the room meanwhile.
    async fn read_back(&self, since: Bookmark) -> Option<CaughtUp> {
        for attempt in 1..=READS {
            let stored = read(&self.shard, &self.space, &self.room, since).await;
            if self.conn.is_closed() {
                return None;
            }
            let (missed, seq, position) = {
                let hub = self.space.lock();
                if !hub.is_member(self.conn.id, &self.room) {
                    return None;
                }
                let missed = match &stored {
                    Some(stored) => hub.missed(&self.room, since, Some(stored)),
                    None => Missed::Unprovable,
                };
                (missed, hub.head_seq(), hub.position(&self.room))
            };
            match missed {
                Missed::All(missed) => {
                    self.go_live(seq, &missed);
                    return Some(CaughtUp { recovered: true, position });
                }
                // What the ring was to add may have left it while the store was read, and is in the store by now.
                Missed::InStore | Missed::Unprovable if attempt < READS && stored.is_some() => {}
                Missed::InStore | Missed::Unprovable => {
                    self.go_live(seq, &[]);
                    return Some(CaughtUp { recovered: false, position });
                }
            }
        }
        None
    }
}

/// What the store has of the room after the cursor; `None` when it cannot be read or no longer has all of it.
async fn read(
    shard: &Rc<Shard>,
    space: &Arc<SpaceCell>,
    room: &RoomName,
    since: Bookmark,
) -> Option<Vec<Arc<Publication>>> {
    let history = shard.node.history.clone();
    let metrics = shard.node.metrics.clone();
    let most = shard.node.settings.history_messages;
    let key = RoomKey { tenant: space.key.tenant.clone(), namespace: space.key.namespace.clone(), room: room.clone() };
    let read = spawn_blocking(move || {
        let started = std::time::Instant::now();
        let stored = read_since(&*history, &key, since, most);
        let labels = StoreLabels { operation: StoreOperation::Read };
        metrics.store_latency_ms.get_or_create(&labels).observe(started.elapsed().as_secs_f64() * 1_000.0);
        stored
    });
    match read.await {
        Ok(Ok(stored)) => stored,
        Ok(Err(error)) => {
            tracing::error!(%error, "the history cannot be read for a client that comes back to a room");
            None
        }
        Err(_) => None,
    }
}

fn read_since(
    history: &dyn History,
    room: &RoomKey,
    since: Bookmark,
    most: usize,
) -> Result<Option<Vec<Arc<Publication>>>, HistoryError> {
    match since {
        Bookmark::Room(position) => history.read(room, position.offset, most).map(Some),
        Bookmark::Session(offset) => history.read_seq(room, offset.seq, most),
    }
}
