//! Which route, which server, and how much: the gateway's decisions, apart from any I/O.
//!
//! Pure: the time is an argument (milliseconds on any monotonic scale). What nginx users rely on is kept exactly: the
//! order of smooth weighted round robin, the meaning of `max_fails` and `fail_timeout`, prefix locations.
//!
//! Start reading at [`RoundRobin`]; then [`RouteTable`] and [`TokenBucket`].

mod limit;
mod peers;
mod route;

pub use limit::{BucketSettings, KeyedBuckets, TokenBucket};
pub use peers::{PeerSettings, RoundRobin, Tried};
pub use route::{InvalidRoute, RouteTable};
