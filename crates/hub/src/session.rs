use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_types::{Millis, Namespace, RoomName, TenantId, UserId};

use crate::{Pid, SocketId};

/// The verified subject of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The user.
    pub user: UserId,
    /// The name to show, when the token has one.
    pub username: Option<Arc<str>>,
}

/// What names a new connection's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// The secret under which it can be recovered.
    pub pid: Pid,
    /// The Socket.IO socket id.
    pub socket_id: SocketId,
    /// When the token runs out.
    pub token_expires_at: Option<Millis>,
}

/// A session as it lies in the store, so that a stock client can recover it after a cut or a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The secret that names it.
    pub pid: Pid,
    /// The Socket.IO socket id, which the client keeps.
    pub socket_id: SocketId,
    /// The tenant.
    pub tenant: TenantId,
    /// The namespace.
    pub namespace: Namespace,
    /// The only user who may resume it.
    pub user: UserId,
    /// The rooms with the space's released `seq` when each was joined: nothing at or below it was missed.
    pub rooms: Vec<(RoomName, u64)>,
    /// When the token of the last connection runs out, ms since the Unix epoch.
    pub token_expires_at: Option<Millis>,
    /// When the record dies, ms since the Unix epoch; `None` while the client is connected.
    pub expires_at: Option<Millis>,
}
