//! Real Redis servers: alone, as a cluster, watched by Sentinels.
//!
//! Each runs in a folder of its own on ports that the system chose, without the machine's configuration, and ends with the
//! value that started it. Calls block the test's thread for as long as a process takes to start or answer. Needs Debian's
//! `redis-server` and `redis-tools`; for Valkey, what `tests/e2e/python` installs ([`Program::Valkey`]).
//!
//! What is used of `redis-server`: sharded pub/sub, append-only files (`appendfsync everysec`, `always`), ACLs, `tls-port`,
//! replication, `--sentinel`, and of the cluster `cluster-port`, `ADDSLOTSRANGE`, `MEET` and `SETSLOT`: Redis 7.0 or later.

mod certificates;
mod cluster;
mod sentinel;
mod server;

pub use certificates::Certificates;
pub use cluster::RedisCluster;
pub use sentinel::RedisSentinel;
pub use server::{Aof, Program, RedisOptions, RedisServer};
