//! Redis or Valkey as the broker: connections to one server, to a primary that Sentinels watch, or to a Redis Cluster.
//!
//! Invariants:
//! - A [`Link`] is one run of one server: a call made with what one run said is never sent to another run.
//! - What is heard of one link comes in the order of the server, after [`LinkEvent::Up`] and before [`LinkEvent::Down`].
//! - Nothing waits for ever: connecting, calls and silence have deadlines. Nothing grows without bound: calls in flight,
//!   bytes unsent and answers have limits.
//! - Whether a call may have been carried out is never guessed ([`LinkError::may_have_run`]).
//!
//! - Everything of a space is one slot, one connection, one order. A message, its numbers and its announcement are one script
//!   ([`RedisBroker`]); what a node may have missed is read from the logs before anything newer is told.
//! - A publish, a look or a claim names the run of the server that its space was last looked at under. So a server that has
//!   lost something is found out before it is believed (`scripts/touch.lua`).
//!
//! Start reading at [`RedisBroker`], then `scripts/publish.lua`, `follow` (what is done after a cut) and `engine`; the
//! connections: [`Links`], then [`Link`], `pipeline` (calls) and `subscription` (what is heard).

mod answer;
mod backoff;
mod broker;
mod call;
mod catch_up;
mod cluster;
mod engine;
mod error;
mod follow;
mod hearing;
mod history;
mod inbox;
pub mod interop;
mod jobs;
mod keys;
mod leases;
mod limits;
mod link;
mod links;
mod message;
mod metrics;
mod pipeline;
mod publish;
mod resp;
mod script;
mod sentinel;
mod sessions;
mod settings;
#[cfg(feature = "model")]
mod simulated;
mod slot;
mod slots_map;
mod state;
mod subscription;
mod upkeep;
mod values;
mod wire;

pub use broker::{BrokerSettings, RedisBroker, StartError};
pub use call::{Call, Script};
pub use error::LinkError;
pub use link::{Link, LinkId};
pub use links::{LinkEvent, Links};
pub use message::read_anything;
pub use pipeline::Answer;
pub use resp::{ErrorCode, ServerError, Value};
pub use settings::{Address, Login, Password, RedisSettings, SettingsError, TlsSettings, Topology};
#[cfg(feature = "model")]
pub use simulated::{Following, Found, Step};
pub use slot::{Slot, Slots};
