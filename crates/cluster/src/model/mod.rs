//! What the broker's Redis and its scripts do, without Redis: the rules that the contract tests hold the real one to, and
//! what the cluster's simulation runs on.
//!
//! Pure: no I/O, no clock, no randomness. Times and new epochs come in as arguments; whatever would be published comes out
//! as [`Pushes`]. Every call is one script: it happens as a whole or not at all.
//!
//! Invariants:
//! - in one epoch a space hands out each `seq` once, and a room each offset once, without a hole, unless the server lost
//!   its last writes ([`Server::restart`]);
//! - an offset is never larger than the `seq` of the same message, not even in a room whose record has expired;
//! - what was published and is no longer kept lies at or below the room's `trimmed_seq`;
//! - of several claims of one session, or of one dead node, one succeeds.
//!
//! Start reading at [`Server::publish`], then `lives.rs` (what a restart means), `rooms.rs`, `sessions.rs`.

mod lives;
mod members;
mod rooms;
mod server;
mod sessions;
mod state;
mod values;

pub use lives::{Life, Loss, OtherRun, RunId, Seen};
pub use members::Member;
pub use rooms::RoomLook;
pub use server::{Channel, Push, Pushes, Server, Subscriber};
pub use state::Limits;
