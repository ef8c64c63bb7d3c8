//! Byte streams as one type: TCP, Unix and TLS, and what comes before the first byte of HTTP.
//!
//! [`Transport`] is what every connection of the gateway is read from and written to. Besides the asynchronous traits it has
//! the direct calls of a socket (`try_read`, `try_write`, readiness) on a shared reference, because a worker writes to
//! connections that other tasks of its thread own.
//!
//! Invariants:
//! - An idle stream owns no buffer, TLS or not: records pass through buffers of the thread, and only what is incomplete, not
//!   wanted yet, or not taken by the socket is kept.
//! - A TLS stream that ends without the peer's word for it (RFC 8446 section 6.1) is an error, never a clean end.
//! - What a write says it took will leave without further calls; what it did not say must be written again.
//!
//! Start reading at [`Transport`], then [`TlsStream`].

mod over;
mod portable;
mod socket;
mod tls;
mod transport;

pub use over::Over;
pub use portable::Portable;
pub use rustls;
pub use rustls_pki_types::ServerName;
pub use socket::Socket;
pub use tls::{
    BadCredentials, BadTerms, BadTrust, ClientTerms, ClientTls, Clients, Credentials, HandshakeError, ServerTerms,
    Tickets, TlsStream, Trust,
};
pub use transport::Transport;
