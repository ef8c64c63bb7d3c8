//! Redis or Valkey as the broker: connections to one server, to a primary that Sentinels watch, or to a Redis Cluster.
//!
//! Invariants:
//! - A [`Link`] is one run of one server: a call made with what one run said is never sent to another run.
//! - What is heard of one link comes in the order of the server, after [`LinkEvent::Up`] and before [`LinkEvent::Down`].
//! - Nothing waits for ever: connecting, calls and silence have deadlines. Nothing grows without bound: calls in flight,
//!   bytes unsent and answers have limits.
//! - Whether a call may have been carried out is never guessed ([`LinkError::may_have_run`]).
//!
//! Start reading at [`Links`], then [`Link`], `pipeline` (calls) and `subscription` (what is heard).

mod backoff;
mod call;
mod cluster;
mod error;
mod link;
mod links;
mod metrics;
mod pipeline;
mod resp;
mod sentinel;
mod settings;
mod slot;
mod slots_map;
mod subscription;
mod wire;

pub use call::{Call, Script};
pub use error::LinkError;
pub use link::{Link, LinkId};
pub use links::{LinkEvent, Links};
pub use pipeline::Answer;
pub use resp::{ErrorCode, ServerError, Value};
pub use settings::{Address, Login, Password, RedisSettings, SettingsError, TlsSettings, Topology};
pub use slot::{Slot, Slots};
