//! Who is there, and what they may: JWT verification over a key set, principals, room grants and API keys.
//!
//! Pure: the time comes in as an argument. Invariants:
//! - A token is read only after its signature matched a key of the set, under that key's own algorithm; what the
//!   token's header says can only make it fail (RFC 8725 sections 3.1 and 3.2).
//! - An expired token is told apart from an invalid one, since clients renew on the one and give up on the other.
//! - A secret never prints: [`Secret`]'s `Debug` and `Display` are `***`.
//!
//! Start reading at [`KeySet::verify`].

mod api_key;
mod claims;
mod keys;
mod principal;
mod secret;
mod verified;

pub use api_key::{ApiKey, ApiKeys};
pub use claims::Claims;
pub use keys::{AuthError, KeySet, MAX_TOKEN_BYTES, bearer};
pub use principal::{Principal, RoomAction};
pub use secret::{Secret, constant_time_eq};
pub use verified::VerifiedClaims;
