//! Connections to real servers of Redis and Valkey, and what becomes of them when the servers do not behave.

#![allow(clippy::duplicate_mod, reason = "the same tests, with another program each")]

mod log;
mod login;
mod observed;

#[path = "both/mod.rs"]
mod redis;
#[path = "both/mod.rs"]
mod valkey;
