use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_auth::Revocation;
use tidegate_session::Sid;
use tidegate_transport::Portable;
use tidegate_types::ConnId;
use tokio::sync::oneshot;

use crate::compression::Compression;
use crate::polling::PollReply;
use crate::shard::Shard;

/// Work for another worker's thread.
pub(crate) type Errand = Box<dyn FnOnce(&Rc<Shard>) + Send>;

/// A request that reached a worker which does not own the connection that it concerns: the kernel spreads TCP connections
/// over workers, and polls of one session come on any of them.
pub(crate) enum Call {
    /// GET: wait for packets.
    Poll { sid: Sid, reply: oneshot::Sender<PollReply> },
    /// The client has gone away from its GET.
    PollAborted { sid: Sid },
    /// POST: packets from the client.
    Post { sid: Sid, body: Bytes, reply: oneshot::Sender<PollReply> },
    /// A WebSocket that has opened for the session, with bytes already read from it.
    Upgrade { sid: Sid, stream: Portable, read: Bytes, compression: Compression },
    /// The connection's session has gone on elsewhere: its client came back before its end was noticed here.
    Supersede { conn: ConnId },
    /// A token, or a user's older ones, count no more.
    Revoke(Arc<Revocation>),
    /// The counters of a space have begun another life.
    Renewed { space: u32 },
    /// Something to be done on the worker's own thread; see `ask.rs`.
    Run(Errand),
    /// A mailbox test's filler.
    #[cfg(test)]
    Nothing,
}
