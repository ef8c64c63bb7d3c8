use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidegate_types::Millis;

use crate::Algorithm;
use crate::VerifiedClaims;
use crate::claims::{Claims, Received};
use crate::key::Key;
use crate::principal::Principal;
use crate::terms::Terms;

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
    /// The token was right, but it or its user has been shut out since.
    #[error("Token revoked")]
    Revoked,
    /// Refused for another reason, such as that no key is there (yet).
    #[error("Authentication failed")]
    Failed,
}

/// The keys that tokens may be signed with, and what their claims must say. Cheap to clone.
#[derive(Clone, Default)]
pub struct KeySet {
    keys: Arc<[Key]>,
    terms: Arc<Terms>,
}

/// The header of a token (RFC 7515 section 4.1). What else stands in it, a key of its own above all, is not read.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<std::borrow::Cow<'a, str>>,
    crit: Option<serde_json::Value>,
}

/// A token taken apart; nothing of it is known to be true.
struct Parts<'a> {
    /// What is signed: header and claims as they stand.
    message: &'a str,
    header: Vec<u8>,
    claims: &'a str,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    /// RFC 7515 section 7.1: three parts in base64url without padding.
    fn of(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        Some(Self { message, header: BASE64.decode(header).ok()?, claims, signature: BASE64.decode(signature).ok()? })
    }

    fn header(&self) -> Option<Header<'_>> {
        let header: Header<'_> = serde_json::from_slice(&self.header).ok()?;
        // RFC 7515 section 4.1.11: what is marked critical and not understood makes the token invalid. We understand none.
        header.crit.is_none().then_some(header)
    }
}

impl KeySet {
    /// These keys, in the order in which they are tried.
    pub fn new(keys: impl IntoIterator<Item = Key>, terms: Terms) -> Self {
        Self { keys: keys.into_iter().collect(), terms: Arc::new(terms) }
    }

    /// No key: every token is refused with [`AuthError::Failed`].
    pub fn none() -> Self {
        Self::default()
    }

    /// HMAC with SHA-256 under one shared secret.
    pub fn hs256(secret: impl AsRef<[u8]>) -> Self {
        Self::new([Key::hs256(secret.as_ref())], Terms::default())
    }

    /// Whose token this is, `now` being ms since the Unix epoch.
    ///
    /// The user is the claim `userId`, or else `sub`; the tenant is `tenantId`, or else `default`. `exp` and `nbf`
    /// (RFC 7519 sections 4.1.4 and 4.1.5) may be missing.
    ///
    /// # Errors
    /// [`AuthError`] but `Revoked`, which is not known here.
    pub fn verify(&self, token: &str, now: Millis) -> Result<Principal, AuthError> {
        Principal::from_claims(self.decode::<Received>(token)?, &self.terms, now)
    }

    /// What the token says, whoever it is about; for gateways, which need no user. Everything else counts as in
    /// [`Self::verify`].
    ///
    /// # Errors
    /// [`AuthError`] but `Revoked`, which is not known here.
    pub fn claims(&self, token: &str, now: Millis) -> Result<VerifiedClaims, AuthError> {
        VerifiedClaims::new(self.decode(token)?, &self.terms, now)
    }

    /// Whether the token names a key that is not here, so that a newer set may hold it. Says nothing of a token that is
    /// of no use with any key.
    pub fn lacks_key_of(&self, token: &str) -> bool {
        let parts = Some(token).filter(|token| token.len() <= MAX_TOKEN_BYTES).and_then(Parts::of);
        let header = parts.as_ref().and_then(Parts::header);
        header.is_some_and(|header| {
            header.alg.parse::<Algorithm>().is_ok()
                && header.kid.is_some_and(|kid| !self.keys.iter().any(|key| key.id() == Some(&*kid)))
        })
    }

    /// The claims of a token that a key of the set has signed.
    fn decode<T: DeserializeOwned>(&self, token: &str) -> Result<T, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        if self.keys.is_empty() {
            return Err(AuthError::Failed);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid);
        }
        let parts = Parts::of(token).ok_or(AuthError::Invalid)?;
        let header = parts.header().ok_or(AuthError::Invalid)?;
        let algorithm: Algorithm = header.alg.parse().map_err(|_| AuthError::Invalid)?;
        // A key without a name may be meant by any; a named one only by a token with its name or with none.
        let meant = |key: &&Key| match (key.id(), &header.kid) {
            (Some(id), Some(kid)) => id == kid,
            (Some(_), None) | (None, _) => true,
        };
        self.keys
            .iter()
            .filter(|key| key.algorithm() == algorithm)
            .filter(meant)
            .find(|key| key.signed(parts.message.as_bytes(), &parts.signature))
            .ok_or(AuthError::Invalid)?;
        let claims = BASE64.decode(parts.claims).map_err(|_| AuthError::Invalid)?;
        serde_json::from_slice(&claims).map_err(|_| AuthError::Invalid)
    }

    /// Signs claims with the first shared secret. Empty if there is none.
    pub fn sign(&self, claims: &Claims) -> String {
        let secret = |key: &Key| {
            let message = message(key.algorithm(), key.id(), claims)?;
            let tag = key.sign(message.as_bytes())?;
            Some(format!("{message}.{}", BASE64.encode(tag)))
        };
        self.keys.iter().find_map(secret).unwrap_or_default()
    }
}

/// Header and claims as they are signed (RFC 7515 section 5.1).
pub(crate) fn message(algorithm: Algorithm, kid: Option<&str>, claims: &Claims) -> Option<String> {
    let mut header = serde_json::json!({ "alg": algorithm.as_str(), "typ": "JWT" });
    if let (Some(kid), Some(header)) = (kid, header.as_object_mut()) {
        header.insert("kid".to_owned(), kid.into());
    }
    let claims = serde_json::to_vec(claims).ok()?;
    Some(format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims)))
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter()).finish()
    }
}

/// The token of an `Authorization` header's value with the scheme `Bearer` (RFC 6750 section 2.1), in any case.
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}
