//! End-to-end tests: the real binary, real clients.
//!
//! Everything is in `tests/e2e`: the tests start `tidegate dev` on a free port with a data directory of their own, and run
//! a scenario of `node/` against it (the stock Socket.IO client, or Chromium), or talk to its socket themselves.
//! Where to start reading: `tests/e2e/harness.rs`.
