//! One client session as a state machine: Engine.IO handshake, heartbeat, upgrade, and the Socket.IO packets inside it.
//!
//! Pure: packets and the time come in, decisions come out; who reads sockets and who answers is the caller's business.
//! One [`Session`] is one Engine.IO session. It is small, because there is one for every idle client, and it holds nothing
//! but state, so that it can be handed to another process.
//!
//! Start reading at [`Session::receive`].
//!
//! Sources: Engine.IO protocol v4, Socket.IO protocol v5.

#![forbid(unsafe_code)]

mod session;
mod sid;

pub use session::{Bare, Input, PollRefused, ProbeStep, Session, Settings, Transport, UpgradeRefused};
pub use sid::{InvalidSid, NodeTag, Sid, SidKey};
