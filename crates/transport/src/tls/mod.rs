//! TLS with rustls, whose state lives with the connection and whose records pass through buffers of the thread.

mod scratch;
mod session;
mod state;
mod stream;

pub(crate) use state::State;
pub use stream::{HandshakeError, TlsStream};
