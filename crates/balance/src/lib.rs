//! Which route, which server, and how much: the gateway's decisions, apart from any I/O.
//!
//! Pure: the time is an argument (milliseconds on any monotonic scale). What nginx users rely on is kept exactly: which
//! server gets a request, the meaning of `max_fails` and `fail_timeout`, locations and server names.
//!
//! Whether a server is well: [`ActiveHealth`] (probes), [`eject_outliers`] (what its requests say), [`Breaker`] (the whole
//! upstream); how much is tried again: [`RetryBudget`].
//!
//! One limit over many nodes: `shared.rs`.
//!
//! Start reading at [`Group`]; then [`RouteTable`], [`TokenBucket`] and [`RateZone`].

mod breaker;
mod connections;
mod group;
mod health;
mod keyed;
mod limit;
mod outlier;
mod path;
mod retry;
mod route;
mod shared;
mod zone;

pub use breaker::{Breaker, BreakerSettings, BreakerState, Permit, Refused, Verdict};
pub use connections::{ConnectionZone, Entrance};
pub use group::{Algorithm, Asked, Duty, Group, Load, Mark, Member, PeerId, PeerSettings, PeerView, Tried};
pub use health::{ActiveHealth, ActiveSettings, Turn};
pub use keyed::{KeyHash, KeyHasher};
pub use limit::{BucketSettings, KeyedBuckets, TokenBucket};
pub use outlier::{Ejection, OutlierRecord, OutlierSettings, Tally, eject_outliers};
pub use path::{InvalidPath, NormalPath};
pub use retry::RetryBudget;
pub use route::{Fit, InvalidRoute, PathPattern, RouteTable, Routed};
pub use shared::{Bucket, Told};
pub use zone::{Quota, Rate, RateUse, RateVerdict, RateZone};
