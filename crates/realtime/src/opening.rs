//! Rooms that are being opened: a node of a cluster hears a room's messages only once it follows it, and its clients are
//! told that they are in the room only then.

use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tidegate_types::RoomName;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::connection::Conn;
use crate::node::{Node, SpaceCell, now_ms};
use crate::operations::{self, JoinRefused};
use crate::shard::Shard;

/// A room that is not followed by then is not joined: the broker cannot be reached, or is far behind.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Resolves when the room is followed.
pub(crate) type Opened = oneshot::Receiver<()>;

/// Who waits for the rooms of a space.
///
/// Bounded by the connections: each has one packet in work.
#[derive(Default)]
pub(crate) struct Opening {
    waiting: Mutex<FxHashMap<RoomName, Vec<oneshot::Sender<()>>>>,
}

impl Opening {
    fn lock(&self) -> MutexGuard<'_, FxHashMap<RoomName, Vec<oneshot::Sender<()>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called under the space's lock, for a room that is not followed yet: else it may be told before.
    pub fn wait(&self, room: &RoomName) -> Opened {
        let (sender, receiver) = oneshot::channel();
        self.lock().entry(room.clone()).or_default().push(sender);
        receiver
    }

    /// The room is followed, and the changed records of its members' sessions are on their way.
    pub fn opened(&self, room: &RoomName) {
        let waiting = self.lock().remove(room);
        for waiting in waiting.into_iter().flatten() {
            // Who waited may have lost patience.
            let _ = waiting.send(());
        }
    }

    /// The rooms that somebody waits for.
    pub fn rooms(&self) -> Vec<RoomName> {
        self.lock().keys().cloned().collect()
    }

    /// Forgets who has lost patience.
    pub fn sweep(&self) {
        self.lock().retain(|_, waiting| {
            waiting.retain(|waiting| !waiting.is_closed());
            !waiting.is_empty()
        });
    }
}

/// What comes before a client is told that it is in a room.
pub(crate) enum Settling {
    /// The changed record of its session is on its way to the store.
    Saving(oneshot::Receiver<()>),
    /// The room is not followed yet; then its session is to be saved, too.
    Opening(Box<Joining>),
}

/// A socket in a room that is being opened.
pub(crate) struct Joining {
    pub shard: Rc<Shard>,
    pub conn: Rc<Conn>,
    pub space: Arc<SpaceCell>,
    pub room: RoomName,
    pub opened: Opened,
}

impl Settling {
    /// Resolves when the client may be told.
    ///
    /// # Errors
    /// The room cannot be opened now; the socket is not in it any more.
    pub async fn settled(self) -> Result<(), JoinRefused> {
        match self {
            Self::Saving(saved) => {
                // A record that is lost is not waited for: its client starts afresh after a kill.
                let _ = saved.await;
                Ok(())
            }
            Self::Opening(joining) => joining.settled().await,
        }
    }
}

impl Joining {
    async fn settled(self) -> Result<(), JoinRefused> {
        let Self { shard, conn, space, room, opened } = self;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        if !is_opened(opened).await {
            if !conn.is_closed() {
                drop(operations::leave(&shard, &conn, &space, &room, now_ms()));
            }
            return Err(JoinRefused::Unavailable);
        }
        let pid = conn.with_socket(space.key.namespace.as_str(), |socket| socket.pid.clone());
        if let Some(saved) = pid.and_then(|pid| shard.node.when_saved(&pid)) {
            let _ = tokio::time::timeout_at(deadline, saved).await;
        }
        Ok(())
    }
}

/// Waits for a room, but not for ever.
async fn is_opened(opened: Opened) -> bool {
    matches!(timeout(PATIENCE, opened).await, Ok(Ok(())))
}

/// A room that is read by somebody who is not in it. Where a node of a cluster does not hear it, it does meanwhile, and for
/// a few seconds more: who reads a room often comes again.
pub(crate) struct Reading<'a> {
    node: &'a Node,
    space: &'a SpaceCell,
    room: &'a RoomName,
}

/// The room cannot be read now: the cluster's broker cannot be reached, or is far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster's broker cannot be reached")]
pub(crate) struct Closed;

impl<'a> Reading<'a> {
    /// Resolves when what the space knows of the room is all that there is to know. At once, where a node is alone.
    pub async fn begin(node: &'a Node, space: &'a SpaceCell, room: &'a RoomName) -> Result<Option<Self>, Closed> {
        if node.cluster.is_none() {
            return Ok(None);
        }
        let opened = node.with_space(space, |hub, effects| {
            hub.hold_room(room, effects);
            (!hub.is_open(room)).then(|| space.opening.wait(room))
        });
        let reading = Self { node, space, room };
        match opened {
            None => Ok(Some(reading)),
            Some(opened) => {
                if is_opened(opened).await {
                    Ok(Some(reading))
                } else {
                    Err(Closed)
                }
            }
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.node.with_space(self.space, |hub, _| hub.release_room(self.room));
    }
}

/// Waits for rooms, but not for ever.
pub(crate) async fn are_opened(opened: Vec<Opened>) -> bool {
    let all = async {
        for opened in opened {
            opened.await?;
        }
        Ok::<_, oneshot::error::RecvError>(())
    };
    matches!(timeout(PATIENCE, all).await, Ok(Ok(())))
}
