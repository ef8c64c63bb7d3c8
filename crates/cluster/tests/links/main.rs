//! Connections to real Redis servers, and what becomes of them when the servers do not behave.

mod alone;
mod observed;
