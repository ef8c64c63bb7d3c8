//! The server on live sockets: real listeners, real workers, raw clients.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod access_log;
mod api;
mod app;
mod balance;
mod drain;
mod grpc;
mod harness;
mod headers;
mod health;
mod hostile;
mod http2;
mod keys;
mod limits;
mod log;
mod reload;
mod routing;
mod secure;
mod serving;
mod status;
mod streams;
mod tls;
mod tokens;
mod trace;
mod upstream_tls;
