use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use tidegate_balance::{BucketSettings, TokenBucket};
use tidegate_types::{Millis, TenantId, UserId};

/// The message budget of one user of one tenant, shared by the user's connections.
pub(crate) struct UserLimit {
    bucket: Mutex<TokenBucket>,
}

impl UserLimit {
    /// Takes one event's worth; else the milliseconds until one would be let through.
    pub fn take(&self, settings: BucketSettings, now: Millis) -> Result<(), Millis> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket.take(settings, 1, now) { Ok(()) } else { Err(bucket.wait(settings, 1, now).unwrap_or(1_000)) }
    }
}

/// The budgets of users who have sent something and are still connected.
#[derive(Default)]
pub(crate) struct UserLimits {
    users: Mutex<FxHashMap<(TenantId, UserId), Arc<UserLimit>>>,
}

impl UserLimits {
    pub fn of(&self, tenant: &TenantId, user: &UserId, settings: BucketSettings, now: Millis) -> Arc<UserLimit> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users
            .entry((tenant.clone(), user.clone()))
            .or_insert_with(|| Arc::new(UserLimit { bucket: Mutex::new(TokenBucket::new(settings, now)) }))
            .clone()
    }

    /// Forgets budgets that no connection holds and that have refilled, so that a reconnect does not refill one.
    pub fn sweep(&self, settings: BucketSettings, now: Millis) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, limit| {
            Arc::strong_count(limit) > 1
                || !limit.bucket.lock().unwrap_or_else(PoisonError::into_inner).is_full(settings, now)
        });
        if users.capacity() > 4 * users.len() + 64 {
            users.shrink_to_fit();
        }
    }
}
