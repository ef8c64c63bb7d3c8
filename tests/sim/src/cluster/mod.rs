//! Seeded simulation of a cluster: several nodes, one broker that loses connections and memory, clients that come back
//! anywhere.
//!
//! What decides is the real code: the hub's spaces in following mode, and the broker's `following` of a space. The broker's
//! end is the model that the contract tests hold Redis and the scripts to. Around them this module plays sockets and threads.
//! Faults: connections to the broker that break with what was on its way, delays, answers that overtake what is published
//! and the other way round, nodes that freeze and go on with what they knew, nodes that die and are buried by another, clocks
//! that jump, a broker that restarts with all, without its last writes or without anything.
//!
//! The checker (`truth.rs`) knows every message in the order in which the broker accepted it, and which of them the broker
//! has lost. Each client compares what it gets with it: no silent gap, no duplicate, no reordering, nothing of another
//! tenant; what was acknowledged is there, or the epoch says that it may not be; who is present is right in the end.
//!
//! Everything follows from the seed. Start reading at `world::run`.

mod client;
mod comeback;
mod engine;
mod ground;
mod node;
mod pipe;
mod redis;
mod rooms;
mod truth;
mod world;

pub use ground::{Report, Sabotage};
pub use world::run;
