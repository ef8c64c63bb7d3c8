//! Who is in the cluster: each node says every two seconds that it lives, in Redis and by the clock of Redis, so that a node
//! whose own clock is off is as good as any other.
//!
//! Invariants:
//! - no two members have one number, and a number is not given to another node for long after its holder was last heard;
//! - a node that was silent for the node timeout is taken to be dead by exactly one other at a time, which takes back what
//!   it held; should that one die over it, another goes on;
//! - who was silent itself judges nobody: when Redis was away, nobody is dead;
//! - what a member says of itself and cannot be understood, or speaks another protocol, is left out, counted and logged once.
//!
//! A process is one [`NodeId`] for as long as it runs. One that was paused for too long finds that it is no member any more;
//! it becomes one again as soon as what it held has been taken back, mostly under its old number, and holds everything anew.
//!
//! Start reading at `state`, which decides; `registry` is the same as the scripts, in memory, for tests and simulations.

mod calls;
mod member;
mod members;
mod registry;
mod reply;
mod state;

pub use member::{InvalidMember, Member, Protocol, Roles};
pub use members::{Bury, Members, MembersError, MembersThread, View};
pub use registry::Registry;
pub use reply::{Beat, Beaten, InvalidReply, Registered};
pub use state::{Advice, Membership, MembershipSettings, Noted, Terms};
