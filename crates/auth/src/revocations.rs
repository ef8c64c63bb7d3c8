//! Who has been shut out before the end of their tokens.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_types::{Millis, TenantId, UserId};

use crate::Principal;

/// The most revocations kept, of tokens and of users each.
const MOST: usize = 100_000;

/// One revocation. It need be kept only until the last token that it concerns has expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// Of one token, by its `jti`. Names of tokens are those of one tenant: two tenants' issuers may count alike.
    Token {
        /// The tenant of the token.
        tenant: TenantId,
        /// Its `jti`.
        id: Arc<str>,
        /// When the token expires by itself, ms since the Unix epoch; without it the revocation is kept for good.
        until: Option<Millis>,
    },
    /// Of all tokens of a user that were issued before a time, or do not say when they were issued.
    User {
        /// The tenant.
        tenant: TenantId,
        /// The user.
        user: UserId,
        /// Tokens issued before this are revoked, ms since the Unix epoch.
        before: Millis,
        /// When the last of them expires by itself; without it the revocation is kept for good.
        until: Option<Millis>,
    },
}

impl Revocation {
    /// Whether it concerns that principal.
    pub fn concerns(&self, principal: &Principal) -> bool {
        match self {
            Self::Token { tenant, id, .. } => {
                *tenant == principal.tenant && principal.token_id.as_ref().is_some_and(|own| own == id)
            }
            Self::User { tenant, user, before, .. } => {
                *tenant == principal.tenant && *user == principal.user && issued_before(principal, *before)
            }
        }
    }

    /// The tenant that it is about.
    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::Token { tenant, .. } | Self::User { tenant, .. } => tenant,
        }
    }
}

/// A token that does not say when it was issued may be as old as any.
fn issued_before(principal: &Principal, before: Millis) -> bool {
    principal.issued_at.is_none_or(|issued| issued < before)
}

/// There are too many revocations to keep one more. None is forgotten for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {MOST} revocations already, of tokens that have not expired")]
pub struct TooManyRevocations;

#[derive(Clone, Copy, Debug)]
struct Barred {
    before: Millis,
    until: Millis,
}

/// All revocations that still matter. Bounded; nothing is forgotten before its time.
#[derive(Debug, Default)]
pub struct Revocations {
    tokens: HashMap<(TenantId, Arc<str>), Millis>,
    users: HashMap<(TenantId, UserId), Barred>,
}

impl Revocations {
    /// Keeps one.
    ///
    /// # Errors
    /// [`TooManyRevocations`] when there is no room even after a sweep.
    pub fn add(&mut self, revocation: &Revocation, now: Millis) -> Result<(), TooManyRevocations> {
        if self.tokens.len() >= MOST || self.users.len() >= MOST {
            self.sweep(now);
        }
        match revocation {
            Revocation::Token { tenant, id, until } => {
                let key = (tenant.clone(), id.clone());
                room(self.tokens.len(), self.tokens.contains_key(&key))?;
                let kept = self.tokens.entry(key).or_default();
                *kept = until.unwrap_or(Millis::MAX).max(*kept);
            }
            Revocation::User { tenant, user, before, until } => {
                let key = (tenant.clone(), user.clone());
                room(self.users.len(), self.users.contains_key(&key))?;
                let kept = self.users.entry(key).or_insert(Barred { before: 0, until: 0 });
                kept.before = kept.before.max(*before);
                kept.until = kept.until.max(until.unwrap_or(Millis::MAX));
            }
        }
        Ok(())
    }

    /// Whether this principal's token is revoked.
    pub fn is_revoked(&self, principal: &Principal) -> bool {
        if self.is_empty() {
            return false;
        }
        let barred = self.users.get(&(principal.tenant.clone(), principal.user.clone()));
        if barred.is_some_and(|barred| issued_before(principal, barred.before)) {
            return true;
        }
        let id = principal.token_id.as_ref();
        id.is_some_and(|id| self.tokens.contains_key(&(principal.tenant.clone(), id.clone())))
    }

    /// As it stands together with what is known of the same token or user.
    pub fn merged(&self, revocation: &Revocation) -> Revocation {
        match revocation {
            Revocation::Token { tenant, id, until } => {
                let known = self.tokens.get(&(tenant.clone(), id.clone())).copied().unwrap_or(0);
                let until = end(until.unwrap_or(Millis::MAX).max(known));
                Revocation::Token { tenant: tenant.clone(), id: id.clone(), until }
            }
            Revocation::User { tenant, user, before, until } => {
                let key = (tenant.clone(), user.clone());
                let known = self.users.get(&key).copied().unwrap_or(Barred { before: 0, until: 0 });
                let until = end(until.unwrap_or(Millis::MAX).max(known.until));
                let (tenant, user) = key;
                Revocation::User { tenant, user, before: known.before.max(*before), until }
            }
        }
    }

    /// Whether it adds nothing to what is known.
    pub fn covers(&self, revocation: &Revocation) -> bool {
        match revocation {
            Revocation::Token { tenant, id, until } => {
                let known = self.tokens.get(&(tenant.clone(), id.clone()));
                known.is_some_and(|known| until.unwrap_or(Millis::MAX) <= *known)
            }
            Revocation::User { tenant, user, before, until } => {
                let known = self.users.get(&(tenant.clone(), user.clone()));
                known.is_some_and(|known| *before <= known.before && until.unwrap_or(Millis::MAX) <= known.until)
            }
        }
    }

    /// All of them, one of each token and of each user.
    pub fn iter(&self) -> impl Iterator<Item = Revocation> {
        let tokens = self.tokens.iter().map(|((tenant, id), until)| Revocation::Token {
            tenant: tenant.clone(),
            id: id.clone(),
            until: end(*until),
        });
        let users = self.users.iter().map(|((tenant, user), barred)| Revocation::User {
            tenant: tenant.clone(),
            user: user.clone(),
            before: barred.before,
            until: end(barred.until),
        });
        tokens.chain(users)
    }

    /// Forgets what no token can meet any more.
    pub fn sweep(&mut self, now: Millis) {
        self.tokens.retain(|_, until| *until > now);
        self.users.retain(|_, barred| barred.until > now);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.users.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tokens.len() + self.users.len()
    }
}

fn end(until: Millis) -> Option<Millis> {
    (until != Millis::MAX).then_some(until)
}

fn room(count: usize, is_there: bool) -> Result<(), TooManyRevocations> {
    if is_there || count < MOST { Ok(()) } else { Err(TooManyRevocations) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(tenant: &str, user: &str, id: Option<&str>, issued_at: Option<Millis>) -> Principal {
        let mut principal = Principal::new(TenantId::try_from(tenant).unwrap(), UserId::try_from(user).unwrap());
        principal.token_id = id.map(Arc::from);
        principal.issued_at = issued_at;
        principal
    }

    fn token(tenant: &str, id: &str, until: Option<Millis>) -> Revocation {
        Revocation::Token { tenant: TenantId::try_from(tenant).unwrap(), id: id.into(), until }
    }

    fn user(tenant: &str, user: &str, before: Millis, until: Option<Millis>) -> Revocation {
        let (tenant, user) = (TenantId::try_from(tenant).unwrap(), UserId::try_from(user).unwrap());
        Revocation::User { tenant, user, before, until }
    }

    #[test]
    fn a_revoked_token_is_that_one_of_that_tenant() {
        let mut revoked = Revocations::default();
        let revocation = token("acme", "t1", Some(100));
        revoked.add(&revocation, 0).unwrap();
        for (who, expected) in [
            (principal("acme", "ada", Some("t1"), None), true),
            (principal("acme", "ada", Some("t2"), None), false),
            (principal("acme", "ada", None, None), false),
            (principal("other", "ada", Some("t1"), None), false),
        ] {
            assert_eq!(revoked.is_revoked(&who), expected, "{who:?}");
            assert_eq!(revocation.concerns(&who), expected, "{who:?}");
        }
    }

    #[test]
    fn a_revoked_user_comes_back_with_a_newer_token_only() {
        let mut revoked = Revocations::default();
        let revocation = user("acme", "ada", 50, None);
        revoked.add(&revocation, 0).unwrap();
        for (who, expected) in [
            (principal("acme", "ada", None, Some(49)), true),
            (principal("acme", "ada", None, None), true),
            (principal("acme", "ada", None, Some(50)), false),
            (principal("acme", "bob", None, Some(49)), false),
            (principal("other", "ada", None, Some(49)), false),
        ] {
            assert_eq!(revoked.is_revoked(&who), expected, "{who:?}");
            assert_eq!(revocation.concerns(&who), expected, "{who:?}");
        }
    }

    #[test]
    fn an_earlier_revocation_does_not_take_a_later_one_back() {
        let mut revoked = Revocations::default();
        revoked.add(&user("acme", "ada", 50, Some(200)), 0).unwrap();
        revoked.add(&user("acme", "ada", 20, Some(100)), 0).unwrap();
        revoked.sweep(150);
        assert!(revoked.is_revoked(&principal("acme", "ada", None, Some(49))));
        revoked.sweep(200);
        assert!(revoked.is_empty());
    }

    #[test]
    fn when_there_is_no_room_the_new_one_is_refused_and_nothing_is_forgotten() {
        let mut revoked = Revocations::default();
        for number in 0..MOST {
            revoked.add(&token("acme", &number.to_string(), Some(100)), 0).unwrap();
        }
        assert_eq!(revoked.add(&token("acme", "one more", None), 99), Err(TooManyRevocations));
        assert_eq!(revoked.add(&token("acme", "0", None), 99), Ok(()));
        assert!(revoked.is_revoked(&principal("acme", "ada", Some("17"), None)));
        assert_eq!(revoked.add(&token("acme", "one more", None), 100), Ok(()));
        assert_eq!(revoked.len(), 2);
    }

    #[test]
    fn what_is_kept_of_a_user_is_the_most_that_was_asked_for() {
        let of = |before, until| Revocation::User {
            tenant: TenantId::default_tenant(),
            user: UserId::try_from("ada").unwrap(),
            before,
            until,
        };
        let mut known = Revocations::default();
        assert!(!known.covers(&of(5, Some(50))));
        known.add(&of(5, Some(50)), 0).unwrap();
        assert!(known.covers(&of(5, Some(50))) && known.covers(&of(4, Some(40))));
        assert!(!known.covers(&of(6, Some(40))) && !known.covers(&of(4, None)));
        assert_eq!(known.merged(&of(4, None)), of(5, None));
        assert_eq!(known.merged(&of(6, Some(7))), of(6, Some(50)));
        known.add(&of(1, None), 0).unwrap();
        assert_eq!(known.iter().collect::<Vec<_>>(), [of(5, None)]);
    }
}
