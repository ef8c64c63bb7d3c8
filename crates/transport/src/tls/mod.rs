//! TLS with rustls, whose state lives with the connection and whose records pass through buffers of the thread.

mod client;
mod credentials;
mod peer;
mod scratch;
mod server;
mod session;
mod state;
mod stream;

pub use client::{BadTrust, ClientTerms, Trust};
pub use credentials::{BadCredentials, Credentials};
pub use peer::ClientTls;
pub use server::{BadTerms, Clients, ServerTerms, Tickets};
pub(crate) use state::State;
pub use stream::{HandshakeError, TlsStream};
