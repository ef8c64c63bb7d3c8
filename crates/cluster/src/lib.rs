//! History: the persistent messages of this node's rooms, the counters that must never run backwards, and the session
//! records, behind one contract ([`History`]) with two stores: [`MemoryHistory`] and [`EmbeddedHistory`].
//!
//! Invariants:
//! - what was reported as [`Written::Appended`] survives kill -9 of the process (embedded), and `Synced` comes after it;
//! - a number reserved in the store is never handed out twice under one epoch, whatever way the process ended;
//! - tenants, namespaces and rooms are separate, length-prefixed parts of every key: no two names can meet in one key;
//! - nothing is unbounded: the queue to the writer, the rooms' histories, the sessions, the memory of either store.
//!
//! Start reading at [`History`], then `writer` (the group commit), then `embedded`.

mod broker;
mod embedded;
mod fields;
mod history;
pub mod membership;
mod memory;
#[cfg(feature = "model")]
mod memory_broker;
#[cfg(feature = "model")]
pub mod model;
mod queue;
pub mod redis;
mod writer;

pub use broker::{
    Audience, Broker, Claimed, Counted, Heard, Kind, Look, Name, OnHeard, Outgoing, Pause, Peer, Placed, PublishError,
    Unavailable,
};
pub use embedded::EmbeddedHistory;
pub use history::{
    Clock, Fsync, Full, History, HistoryError, HistorySettings, HistoryStats, OnWritten, Write, Written, system_clock,
};
pub use memory::MemoryHistory;
#[cfg(feature = "model")]
pub use memory_broker::{Lane, MemoryBroker, MemoryCluster};

/// Why a volatile message is not stored.
const NO_POSITION: &str = "the message has no position";
/// A message for a space without an epoch has no place in any order.
const NOT_OPENED: &str = "the message's space has not been opened";

/// A new life of a space's counters. 48 random bits: never repeated in practice, short in cursors, exact in a double.
///
/// # Errors
/// The operating system gives no randomness.
fn random_epoch() -> Result<tidegate_types::Epoch, HistoryError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| HistoryError::Store(format!("no randomness: {error}")))?;
    Ok(tidegate_types::Epoch((u64::from_le_bytes(bytes) >> 16).max(1)))
}
