//! Keys that change while they are in use.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tidegate_types::Millis;

use crate::{AuthError, KeySet, Principal, VerifiedClaims};

/// The keys as they are now. All clones see the same ones; a change counts from the next token on.
#[derive(Clone)]
pub struct LiveKeys(Arc<Inner>);

struct Inner {
    /// Held only to read or to swap the pointer.
    keys: RwLock<KeySet>,
    /// A token has named a key that is not there.
    wished: AtomicBool,
}

impl LiveKeys {
    /// Begins with these keys.
    pub fn new(keys: KeySet) -> Self {
        Self(Arc::new(Inner { keys: RwLock::new(keys), wished: AtomicBool::new(false) }))
    }

    /// Other keys from now on.
    pub fn replace(&self, keys: KeySet) {
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The keys as they are now.
    pub fn current(&self) -> KeySet {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether both are the same keys, now and later.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether a token named a key that is not there, since this was last asked: the issuer may have new ones. Who keeps
    /// the keys asks; who checks tokens never waits for it.
    pub fn take_wish(&self) -> bool {
        self.0.wished.swap(false, Ordering::Relaxed)
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
        if matches!(checked, Err(AuthError::Invalid | AuthError::Failed)) && keys.lacks_key_of(token) {
            self.0.wished.store(true, Ordering::Relaxed);
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
