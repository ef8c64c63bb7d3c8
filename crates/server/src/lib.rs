//! Listeners, dispatch, drain, admin: the composition root's library.
//!
//! [`Server::start`] turns a [`Config`](tidegate_config::Config) into running threads: N workers, each with a
//! single-threaded runtime and its own listening sockets; one control thread with the admin listener, the signals and the
//! drain; one that writes the access log. A worker owns what it accepted from the first byte to the last.
//!
//! Invariants:
//! - An address is never shared silently with another process.
//! - Every request leaves exactly one line in the access log (unless lines are dropped, which is counted); no line holds
//!   a query, a token or a cookie.
//! - Readiness fails before a listener closes, and what waits in an accept queue is served before it does.
//! - No timer, no lock and no formatting per request on the way to an upstream, except the log line at its end, and what the
//!   limits of a route ask for.
//!
//! Start reading at [`Server::start`], then `worker` and `dispatch`.

mod access_log;
mod admin;
mod admission;
mod answer;
mod api;
mod body;
mod client;
mod cluster;
mod control;
mod dispatch;
mod edge_tokens;
mod error;
mod extras;
mod health;
mod http2;
mod interop;
mod json;
mod leave;
mod line;
mod listen;
mod logging;
mod plan;
mod process;
mod realtime;
mod realtime_status;
mod reload;
mod request_id;
mod route;
mod server;
mod shared_limits;
mod slots;
mod status;
mod stream_terms;
mod timestamp;
mod tls;
mod token_keys;
mod trace;
mod upstreams;
mod visit;
mod webhooks;
mod worker;
mod zones;

pub use error::{StartError, exit};
pub use extras::{Extras, Local, Source};
pub use logging::start_logging;
pub use reload::Reloaded;
pub use server::{Handle, Running, Server};
pub use tidegate_realtime::app;
