//! Rooms, membership, presence, history cursors: commands in, effects out.
//!
//! One [`Space`] is everything of one (tenant, namespace): no room of one tenant can be reached from another's space,
//! because no key in here names a tenant at all. A space is pure: it does no I/O, reads no clock and draws no random
//! numbers. The caller holds it behind a short lock, passes the time in and carries out the [`Effect`]s in order.
//!
//! Invariants, each with a model test in `tests/`:
//! - Messages leave a space in the order of `seq`; in a room offsets are contiguous. A persistent message leaves only
//!   after [`Space::appended`], and whatever was published after it waits behind it, so that one number names
//!   everything that a session has seen.
//! - No `seq` and no offset that was handed out is ever given to another message, not even after `kill -9`
//!   (see [`SpaceStart`]).
//! - A resumed session gets exactly what it missed, or is told that this cannot be proven.
//! - The shard set of a delivery is exact.
//! - Presence leaves and joins balance; a storm of n of them costs O(n) deliveries.
//! - A message sent again under the same key within its window is published once.
//!
//! Start reading at [`Space::publish`], then `pending.rs` (order of release), `ring.rs`, `once.rs` (repeated sends),
//! `recovery.rs`, `presence.rs`, `listing.rs` (what operators ask).

mod claims;
mod effects;
mod elsewhere;
mod follow;
mod following;
mod ids;
mod leases;
mod listing;
mod missed;
mod once;
mod pending;
mod presence;
mod publish;
mod queries;
mod rate;
mod recovery;
mod ring;
mod room;
mod seeded;
mod session;
mod sizes;
mod space;
mod start;
mod users;

pub use effects::{Effect, Effects, PresenceChange};
pub use elsewhere::merge_leases;
pub use follow::{CaughtUp, Lease, Received, RoomHead};
pub use ids::{Pid, RoomId, SocketId};
pub use listing::{ConnectionInfo, Cursor, Member, Page, RoomSummary};
pub use missed::{Missed, MissedInRooms};
pub use once::Idempotency;
pub use presence::PresenceUpdate;
pub use publish::{GAP_EVENT, Message, Published};
pub use queries::Since;
pub use recovery::{Rejoined, Resume, ResumeFailure};
pub use session::{NewSession, SessionRecord, Who};
pub use space::{JoinError, Joined, Space};
pub use start::{RoomStart, SpaceConfig, SpaceStart, SpaceStats};
