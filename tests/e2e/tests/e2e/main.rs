#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
//! The one integration-test binary of the package; see the crate's documentation.

mod auth;
mod browser;
mod cluster;
mod compression;
mod conformance;
mod dialects;
mod differential;
mod drills;
mod foreign;
mod gateway;
mod harness;
mod hostile;
mod hostile_crowd;
mod hostile_realtime;
mod http_api;
mod interop;
mod nodes;
mod raw;
mod rfc6455;
mod scenarios;
mod shared_rates;
mod webhooks;
