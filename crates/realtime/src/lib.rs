//! The realtime server: transports, shards, outboxes, and the rooms API on them.
//!
//! A [`Node`] is what the workers of a process share: the spaces with their locks, the history, the keys. A [`Shard`] is
//! what one worker owns: its connections, and which of them are in which room. Room traffic is all that crosses threads,
//! by bounded mailboxes.
//!
//! Invariants:
//! - Within a room, members get messages in the order of their offsets; deliveries enter the mailboxes under the space's
//!   lock, and each shard works through its mailbox in order.
//! - A message is encoded once per transport and written by the shard that owns the connection; a queue is used only
//!   when the socket would block, and it is bounded in bytes.
//! - An idle connection owns no buffer.
//!
//! Start reading at [`Shard::serve`], then `input::packet`, then `rooms_api::event`; for the way out, `Node::with_space`
//! and `Shard`'s deliveries.

#![forbid(unsafe_code)]

mod across;
mod activity;
mod api;
pub mod app;
mod ask;
mod body;
mod bridge;
mod call;
mod catch_up;
mod cluster;
mod comeback;
mod compression;
mod connect;
mod connection;
mod credentials;
mod dialect_api;
mod door;
mod drain;
mod elsewhere;
mod emit;
mod encoded;
mod engine;
mod expiry;
mod goodbye;
mod handshake;
mod heard;
mod heartbeat;
mod history;
mod http;
mod id;
mod input;
mod key_limits;
mod limits;
mod lines;
mod mailbox;
mod namespaces;
mod node;
mod opening;
mod operations;
mod outbox;
mod overview;
mod parting;
mod peers;
mod polling;
mod replays;
mod restoring;
mod revoking;
mod room;
mod rooms_api;
mod seats;
mod settings;
mod shard;
mod signals;
mod sse;
mod tickets;
mod upgrade;
mod webhooks;
mod websocket;
mod wheel;

#[cfg(fuzzing)]
pub use api::fuzz_body;
pub use body::Body;
pub use bridge::{AdapterSettings, BridgeSettings, InteropSettings};
pub use connection::{OnEnd, StreamSummary};
pub use door::DoorSettings;
pub use http::{Client, Streams, TakeBack};
pub use limits::Limits;
pub use namespaces::{Behaviour, Entrance, NamespaceSettings, Namespaces};
pub use node::{Node, OnWritten, OpenError};
pub use overview::{Cleaned, Health, PeerStats, Stats, TopRoom, Totals};
pub use peers::{PeerAddress, Peers};
pub use revoking::NotRevoked;
pub use settings::Settings;
pub use shard::Shard;
#[cfg(fuzzing)]
pub use signals::fuzz_signal;
pub use sse::EventStream;
pub use webhooks::{OnFailure, WebhookEvent, WebhookEvents, WebhookSettings};
