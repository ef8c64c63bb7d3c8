//! Several nodes of one process on one broker, and real clients of theirs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod broker_gone;
mod harness;
mod http_api;
mod kept;
mod limits;
mod recovery;
mod rooms;
mod signals;
mod told;
