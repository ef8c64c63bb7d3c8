//! Who is there, and what they may: JWT verification over a key set, principals, revocation, room grants and API keys.
//!
//! Pure: the time comes in as an argument, and so does randomness. Invariants:
//! - A token is read only after its signature matched a key of the set, under that key's own algorithm; what the
//!   token's header says can only make it fail (RFC 8725 sections 3.1 and 3.2).
//! - An expired token is told apart from an invalid one, since clients renew on the one and give up on the other.
//! - A secret never prints: [`Secret`]'s `Debug` and `Display` are `***`.
//!
//! Start reading at [`KeySet::verify`].

mod algorithm;
mod api_key;
mod claims;
mod jwks;
mod key;
mod keys;
mod live;
mod pem;
mod principal;
mod revocations;
mod secret;
mod signing;
mod terms;
mod verified;

pub use algorithm::{Algorithm, KeyKind, UnknownAlgorithm};
pub use api_key::{ApiKey, ApiKeys, KeyRate, Scope, Scopes, UnknownScope};
pub use claims::Claims;
pub use jwks::{Jwks, JwksFault, MAX_JWKS_BYTES, Secrets, Skipped};
pub use key::{Key, KeyFault};
pub use keys::{AuthError, KeySet, MAX_TOKEN_BYTES, bearer};
pub use live::LiveKeys;
pub use principal::{Principal, PrincipalKind, RoomAction};
pub use revocations::{Revocation, Revocations, TooManyRevocations};
pub use secret::{STRONG_SECRET_BYTES, Secret, Weakness, constant_time_eq, weakness};
pub use signing::SigningKey;
pub use terms::Terms;
pub use verified::VerifiedClaims;
