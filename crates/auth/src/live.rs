//! Keys that change while they are in use.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tidegate_types::Millis;

use crate::{AuthError, KeySet, Principal, VerifiedClaims};

/// Called when a token names a key that is not there. Must not block.
pub type OnUnknownKey = Box<dyn Fn() + Send + Sync>;

/// The keys as they are now. All clones see the same ones; a change counts from the next token on.
#[derive(Clone)]
pub struct LiveKeys(Arc<Inner>);

struct Inner {
    /// Held only to read or to swap the pointer.
    keys: RwLock<KeySet>,
    on_unknown: OnceLock<OnUnknownKey>,
}

impl LiveKeys {
    /// Begins with these keys.
    pub fn new(keys: KeySet) -> Self {
        Self(Arc::new(Inner { keys: RwLock::new(keys), on_unknown: OnceLock::new() }))
    }

    /// Asks for being told of tokens with an unknown `kid`; the issuer may have new keys. Only the first asker is told.
    pub fn on_unknown_key(&self, told: OnUnknownKey) {
        let _ = self.0.on_unknown.set(told);
    }

    /// Other keys from now on.
    pub fn replace(&self, keys: KeySet) {
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The keys as they are now.
    pub fn current(&self) -> KeySet {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As [`KeySet::verify`].
    ///
    /// # Errors
    /// As there.
    pub fn verify(&self, token: &str, now: Millis) -> Result<Principal, AuthError> {
        self.check(token, |keys| keys.verify(token, now))
    }

    /// As [`KeySet::claims`].
    ///
    /// # Errors
    /// As there.
    pub fn claims(&self, token: &str, now: Millis) -> Result<VerifiedClaims, AuthError> {
        self.check(token, |keys| keys.claims(token, now))
    }

    fn check<T>(&self, token: &str, check: impl FnOnce(&KeySet) -> Result<T, AuthError>) -> Result<T, AuthError> {
        let keys = self.current();
        let checked = check(&keys);
        if matches!(checked, Err(AuthError::Invalid | AuthError::Failed))
            && let Some(told) = self.0.on_unknown.get()
            && keys.lacks_key_of(token)
        {
            told();
        }
        checked
    }
}

impl From<KeySet> for LiveKeys {
    fn from(keys: KeySet) -> Self {
        Self::new(keys)
    }
}

impl fmt::Debug for LiveKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}
