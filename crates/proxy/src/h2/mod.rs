//! The upstream's side of HTTP/2 (RFC 9113): many exchanges on one connection, trailers both ways, as gRPC needs it.
//!
//! A worker shares a connection to a server among its exchanges. The frames are the `h2` crate's; a task per connection moves
//! them, and each exchange reads and writes its own stream from the task of its client.

mod ask;
mod frames;
mod link;
mod links;
mod receiving;
mod sending;
mod tunnel;

pub(crate) use ask::ask;
pub(crate) use link::Slot;
pub(crate) use links::Links;
pub(crate) use receiving::Receiving;
pub(crate) use sending::Call;
