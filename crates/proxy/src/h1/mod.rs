//! The upstream's side of HTTP/1.1 (RFC 9112): requests out, responses in.
//!
//! No task and no channel stands between an upstream's socket and the client's connection: the task of the client's
//! connection reads the upstream's socket itself. Bytes go through the worker's one buffer, so that an idle connection or a
//! silent stream owns none. Parsing of heads is `httparse`'s.

mod chunks;
mod connection;
mod response;
mod sending;

pub(crate) use chunks::Chunks;
pub(crate) use connection::{Buffer, Connection, Place};
pub(crate) use response::{Framing, Head, parse as parse_head};
pub(crate) use sending::{Sending, SendingFailed, may_trail};
