//! HTTP calls that Tidegate makes itself: webhooks, key sets, traces. (What clients ask for goes through `proxy`.)
//!
//! An [`Outbound`] calls one [`Endpoint`] over HTTP/1.1, keeps a few connections to it, and belongs to one thread. An
//! endpoint is a URL that was read once, with the TLS it needs; it is shared by threads.
//!
//! Invariants:
//! - A call ends by its deadline, whatever the other side does, and leaves nothing behind: a connection that has not brought
//!   a whole response is closed.
//! - A response is no larger than its bound. Redirects are answers like others and are not followed.
//! - A call may reach the other side twice: a kept connection that dies under it says nothing about what was taken. Make
//!   calls that bear it, or that carry an id.
//!
//! Start reading at [`Outbound::call`].

mod connection;
mod endpoint;
mod outbound;

pub use endpoint::{BadEndpoint, Endpoint};
pub use outbound::{Outbound, OutboundError};
