//! Seeded simulation of session and hub over a lossy transport.
//!
//! One server process (the hub's spaces of two tenants that use the same room names, Engine.IO sessions, three shards
//! with mailboxes), a store that commits late and in groups, and clients modelled on the stock one with connection state
//! recovery. Real packets go through `tidegate-wire` and `tidegate-session`. Links are cut, clients pause, requests are
//! duplicated, lanes overtake each other, the store refuses messages, the server restarts cleanly or dies. The checker
//! (`truth.rs`) knows every message; each client compares what it gets with it: no silent gap, no duplicate, no
//! reordering, nothing of another tenant, and an acknowledged persistent message survives `kill -9`.
//!
//! Everything follows from the seed: time is a counter, and no hash order, thread or clock has a say.
//! Start reading at [`run`]. [`cluster`] is the same for many nodes on one broker.

#![forbid(unsafe_code)]

mod client;
pub mod cluster;
mod ground;
mod link;
mod rng;
mod server;
mod store;
mod truth;
mod world;

pub use ground::{Report, Sabotage};
pub use rng::Rng;
pub use world::{Violation, run};
