//! Raw clients, misbehaving upstreams and real Redis servers for tests.
//!
//! Nothing here is polite on purpose: a [`RawClient`] sends any bytes, a [`Peer`] of an [`Upstream`] answers with any
//! bytes. All run on the test's own thread: wrap a test's body in [`local`]. Ports are always chosen by the system.
//! Everything that waits gives up after [`PATIENCE`] with a panic, so that a hanging test says where it hangs.

mod client;
mod message;
pub mod redis;
mod upstream;
mod websocket;

use std::time::Duration;

pub use client::RawClient;
pub use message::Message;
pub use upstream::{Mood, Peer, Requests, Upstream};
pub use websocket::{Frame, WebSocket, accept_for};

/// How long anything is waited for. Long, because a machine that runs many tests may stop one for seconds; reached only
/// when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test's body on one thread, as a worker of the gateway does.
pub fn local<F: Future>(body: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, body)
}

/// Waits, but not for ever.
pub async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited too long for {what}"),
    }
}
