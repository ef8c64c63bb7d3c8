//! What users and tenants may do in a namespace: how many connections, how many rooms, how many events.
//!
//! The door ([`crate::door`]) asks where somebody comes from; here it is known who it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_auth::Principal;
use tidegate_balance::{BucketSettings, TokenBucket};
use tidegate_hub::Space;
use tidegate_metrics::RateLimit;
use tidegate_types::{Millis, TenantId, UserId};

use crate::connection::Conn;
use crate::node::{Node, SpaceCell};

/// The window of [`Limits::events_per_minute`], ms.
const WINDOW_MS: Millis = 60_000;

/// What is allowed in a namespace. 0 = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all, of one tenant.
    pub connections_per_tenant: u32,
    /// Connections of one user.
    pub connections_per_user: u32,
    /// Rooms of one user, over all of the user's connections.
    pub rooms_per_user: u32,
    /// Events of one user per second on average.
    pub messages_per_second: u32,
    /// Events of one user at once.
    pub message_burst: u32,
    /// Events of one user in a window of 60 s, which begins with the first.
    pub events_per_minute: u32,
    /// Bytes of one event: its JSON and its attachments.
    pub message_bytes: usize,
}

impl Limits {
    /// The token bucket of each user.
    fn bucket(&self) -> BucketSettings {
        BucketSettings { rate: self.messages_per_second, burst: self.message_burst }
    }

    fn ask_of_events(&self) -> bool {
        self.messages_per_second > 0 || self.events_per_minute > 0
    }
}

/// Why somebody known cannot connect to a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowded {
    /// The tenant has as many connections as it may have.
    Tenant,
    /// The user has.
    User,
}

impl Crowded {
    /// The code that clients get.
    pub fn code(self) -> &'static str {
        match self {
            Self::Tenant => "CONNECTION_LIMIT_EXCEEDED",
            Self::User => "USER_CONNECTION_LIMIT_EXCEEDED",
        }
    }

    /// What clients read.
    pub fn message(self) -> &'static str {
        match self {
            Self::Tenant => "Too many connections",
            Self::User => "Too many connections of this user",
        }
    }
}

/// Whether the user may have one more connection in the space.
pub(crate) fn crowded(space: &SpaceCell, hub: &Space, user: &UserId) -> Option<Crowded> {
    let limits = &space.settings.limits;
    let reached = |limit: u32, count: usize| limit > 0 && count >= limit as usize;
    if reached(limits.connections_per_user, hub.connections_of(user).len()) {
        return Some(Crowded::User);
    }
    reached(limits.connections_per_tenant, hub.connections()).then_some(Crowded::Tenant)
}

/// The budgets of one user in a namespace, shared by the user's connections.
pub(crate) struct UserLimit {
    limits: Limits,
    spent: Mutex<Spent>,
    tenant: Option<Arc<TenantLimit>>,
}

/// The budget of all users of a tenant together.
struct TenantLimit {
    settings: BucketSettings,
    bucket: Mutex<TokenBucket>,
}

struct Spent {
    bucket: TokenBucket,
    window_began: Millis,
    in_window: u32,
}

impl UserLimit {
    /// Takes one event's worth; else the milliseconds until one would be let through.
    fn take(&self, now: Millis) -> Result<(), Millis> {
        let limits = &self.limits;
        let mut spent = lock(&self.spent);
        // A clock that goes back must not make the window endless.
        if now >= spent.window_began.saturating_add(WINDOW_MS) || now < spent.window_began {
            spent.window_began = now;
            spent.in_window = 0;
        }
        if limits.events_per_minute > 0 && spent.in_window >= limits.events_per_minute {
            return Err(spent.window_began.saturating_add(WINDOW_MS).saturating_sub(now).max(1));
        }
        let user = limits.bucket();
        if user.rate > 0 && !spent.bucket.take(user, 1, now) {
            return Err(spent.bucket.wait(user, 1, now).unwrap_or(1_000));
        }
        spent.in_window = spent.in_window.saturating_add(1);
        drop(spent);
        let Some(TenantLimit { settings, bucket }) = self.tenant.as_deref() else { return Ok(()) };
        let mut bucket = lock(bucket);
        if bucket.take(*settings, 1, now) { Ok(()) } else { Err(bucket.wait(*settings, 1, now).unwrap_or(1_000)) }
    }

    /// Whether nothing is lost when the budgets are forgotten.
    fn is_fresh(&self, now: Millis) -> bool {
        let mut spent = lock(&self.spent);
        let elapsed = now >= spent.window_began.saturating_add(WINDOW_MS);
        let Spent { bucket, in_window, .. } = &mut *spent;
        (elapsed || *in_window == 0) && bucket.is_full(self.limits.bucket(), now)
    }
}

/// The budgets of users who have sent something and are still connected, or have not yet got back what they spent.
#[derive(Default)]
pub(crate) struct UserLimits {
    users: Mutex<HashMap<(u32, UserId), Arc<UserLimit>>>,
    tenants: Mutex<HashMap<TenantId, Arc<TenantLimit>>>,
}

impl UserLimits {
    fn of(&self, space: &SpaceCell, user: &UserId, tenant: BucketSettings, now: Millis) -> Arc<UserLimit> {
        let mut users = lock(&self.users);
        let limit = users.entry((space.index, user.clone())).or_insert_with(|| {
            let tenant = (tenant.rate > 0).then(|| {
                let mut tenants = lock(&self.tenants);
                let limit = tenants.entry(space.key.tenant.clone()).or_insert_with(|| {
                    Arc::new(TenantLimit { settings: tenant, bucket: Mutex::new(TokenBucket::new(tenant, now)) })
                });
                limit.clone()
            });
            let limits = space.settings.limits;
            let bucket = TokenBucket::new(limits.bucket(), now);
            Arc::new(UserLimit { limits, spent: Mutex::new(Spent { bucket, window_began: now, in_window: 0 }), tenant })
        });
        limit.clone()
    }

    /// Forgets budgets that no connection holds and that have refilled, so that a reconnect does not refill one.
    pub fn sweep(&self, now: Millis) {
        let mut users = lock(&self.users);
        users.retain(|_, limit| Arc::strong_count(limit) > 1 || !limit.is_fresh(now));
        if users.capacity() > 4 * users.len() + 64 {
            users.shrink_to_fit();
        }
        drop(users);
        lock(&self.tenants)
            .retain(|_, limit| Arc::strong_count(limit) > 1 || !lock(&limit.bucket).is_full(limit.settings, now));
    }
}

/// Counts an event of the connection's socket in the space; else the milliseconds until one would be let through.
pub(crate) fn admit(node: &Node, conn: &Conn, space: &SpaceCell, now: Millis) -> Result<(), Millis> {
    let limits = &space.settings.limits;
    let tenant = node.settings.tenant_messages;
    if !limits.ask_of_events() && tenant.rate == 0 {
        return Ok(());
    }
    let mut sockets = conn.sockets.borrow_mut();
    let Some(socket) = sockets.iter_mut().find(|socket| socket.space.index == space.index) else { return Ok(()) };
    let Principal { user, .. } = &*socket.principal;
    let limit = socket.limit.get_or_insert_with(|| node.limits.of(space, user, tenant, now));
    limit.take(now).inspect_err(|_| _ = space.metrics.limited(RateLimit::Message).inc())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
