use std::fmt;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::de::DeserializeOwned;
use tidegate_types::{Millis, TenantId, UserId};

use crate::VerifiedClaims;
use crate::claims::{Claims, Received, millis};
use crate::principal::{Principal, username};

/// The longest token read, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Why nobody was let in. The text is what clients get as `connect_error`; it tells nothing about keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthError {
    /// No token was given.
    #[error("Authentication token required")]
    Missing,
    /// The token was right, but its time is over.
    #[error("Token expired")]
    Expired,
    /// The token is malformed, is not signed by a key of ours, or has claims that cannot be.
    #[error("Invalid token")]
    Invalid,
    /// Refused for another reason, such as that no key is configured.
    #[error("Authentication failed")]
    Failed,
}

/// One key that tokens may be signed with. A closed set: other algorithms become further variants.
#[derive(Clone)]
enum Key {
    Hs256 { verifying: DecodingKey, signing: EncodingKey },
}

impl Key {
    /// The only algorithm that the key is ever used with.
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Hs256 { .. } => Algorithm::HS256,
        }
    }

    fn verifying(&self) -> &DecodingKey {
        match self {
            Self::Hs256 { verifying, .. } => verifying,
        }
    }
}

/// The keys that tokens may be signed with. Cheap to clone.
#[derive(Clone)]
pub struct KeySet(Arc<[(Key, Validation)]>);

impl KeySet {
    /// No key: every token is refused with [`AuthError::Failed`].
    pub fn none() -> Self {
        Self(Arc::default())
    }

    /// HMAC with SHA-256 under one shared secret.
    pub fn hs256(secret: impl AsRef<[u8]>) -> Self {
        let secret = secret.as_ref();
        let key = Key::Hs256 { verifying: DecodingKey::from_secret(secret), signing: EncodingKey::from_secret(secret) };
        let validation = signature_only(key.algorithm());
        Self(Arc::new([(key, validation)]))
    }

    /// Whose token this is, `now` being ms since the Unix epoch.
    ///
    /// The user is the claim `userId`, or else `sub`; the tenant is `tenantId`, or else `default`. `exp` and `nbf`
    /// count without leeway (RFC 7519 sections 4.1.4 and 4.1.5), and may be missing.
    pub fn verify(&self, token: &str, now: Millis) -> Result<Principal, AuthError> {
        principal(self.decode::<Received>(token)?, now)
    }

    /// What the token says, whoever it is about; for gateways, which need no user. `exp` and `nbf` count as in
    /// [`Self::verify`].
    pub fn claims(&self, token: &str, now: Millis) -> Result<VerifiedClaims, AuthError> {
        VerifiedClaims::new(self.decode(token)?, now)
    }

    /// The claims of a token that a key of the set has signed.
    fn decode<T: DeserializeOwned>(&self, token: &str) -> Result<T, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        if self.0.is_empty() {
            return Err(AuthError::Failed);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid);
        }
        let header = decode_header(token).map_err(|_| AuthError::Invalid)?;
        // RFC 7515 section 4.1.11: what is marked critical and not understood makes the token invalid. We understand none.
        if header.crit.is_some() {
            return Err(AuthError::Invalid);
        }
        self.0
            .iter()
            .filter(|(key, _)| key.algorithm() == header.alg)
            .find_map(|(key, validation)| decode::<T>(token, key.verifying(), validation).ok())
            .map(|data| data.claims)
            .ok_or(AuthError::Invalid)
    }

    /// Signs claims with the first key. Empty if there is none.
    pub fn sign(&self, claims: &Claims) -> String {
        let Some((Key::Hs256 { signing, .. }, _)) = self.0.first() else { return String::new() };
        // Fails only on a key of another algorithm or on claims that are no JSON; neither can be here.
        encode(&Header::new(Algorithm::HS256), claims, signing).unwrap_or_default()
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(key, _)| key.algorithm())).finish()
    }
}

/// Leaves all claims to us: the library would read the system's clock, and refuse any `aud`.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn principal(claims: Received, now: Millis) -> Result<Principal, AuthError> {
    let date = |date: Option<_>| date.as_ref().map(|date| millis(date).ok_or(AuthError::Invalid)).transpose();
    let (expires_at, not_before) = (date(claims.exp)?, date(claims.nbf)?);
    let user = claims.user_id.or(claims.sub).ok_or(AuthError::Invalid)?;
    let principal = Principal {
        tenant: match claims.tenant_id {
            Some(tenant) => TenantId::try_from(tenant).map_err(|_| AuthError::Invalid)?,
            None => TenantId::default_tenant(),
        },
        user: UserId::try_from(user).map_err(|_| AuthError::Invalid)?,
        username: match claims.username.or(claims.name) {
            // An empty name is as none; issuers write it for accounts without one.
            Some(name) if !name.is_empty() => Some(username(&name).map_err(|_| AuthError::Invalid)?),
            Some(_) | None => None,
        },
        roles: shared(claims.roles),
        permissions: shared(claims.permissions),
        expires_at,
    };
    if principal.expired(now) {
        Err(AuthError::Expired)
    } else if not_before.is_some_and(|start| now < start) {
        Err(AuthError::Invalid)
    } else {
        Ok(principal)
    }
}

/// An empty list, which most tokens have, takes no memory of its own.
fn shared(list: Option<Vec<Box<str>>>) -> Arc<[Box<str>]> {
    list.filter(|list| !list.is_empty()).map(Arc::from).unwrap_or_default()
}

/// The token of an `Authorization` header's value with the scheme `Bearer` (RFC 6750 section 2.1), in any case.
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}
