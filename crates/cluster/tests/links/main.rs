//! Connections to real Redis servers, and what becomes of them when the servers do not behave.

mod alone;
mod cluster;
mod log;
mod login;
mod observed;
mod sentinel;
mod trouble;
