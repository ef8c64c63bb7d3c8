//! Connections of a user and of a tenant, counted over all nodes of a cluster.
//!
//! Each node keeps its own number of each in the broker, and is let in one more when the sum allows it: one question per
//! connect, and only where a limit is set. A number is told as it is and not as a change, so that what was lost with the
//! broker's memory comes back with the next one. While the broker cannot be reached, a node counts its own alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_cluster::Broker;
use tidegate_types::{SpaceKey, UserId};
use tokio::time::timeout;

use crate::limits::{Crowded, Limits};

/// How long a client waits to be let in; then this node decides alone.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whose connections: a user's, or (`None`) those of all users of the tenant.
pub(crate) type Whose = (Arc<SpaceKey>, Option<UserId>);

/// What this node holds.
#[derive(Default)]
pub(crate) struct Seats(Mutex<HashMap<Whose, u32>>);

/// A connection's places; they are free again when it is dropped.
pub(crate) struct Seated {
    seats: Arc<Seats>,
    broker: Arc<dyn Broker>,
    places: Vec<Whose>,
}

impl Seats {
    fn lock(&self) -> MutexGuard<'_, HashMap<Whose, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one; how many there are then.
    fn add(&self, whose: &Whose) -> u32 {
        let mut seats = self.lock();
        let held = seats.entry(whose.clone()).or_default();
        *held += 1;
        *held
    }

    /// Takes one away and tells the broker.
    fn remove(&self, broker: &dyn Broker, whose: &Whose) {
        let mut seats = self.lock();
        let Some(held) = seats.get_mut(whose) else { return };
        *held = held.saturating_sub(1);
        let held = *held;
        if held == 0 {
            seats.remove(whose);
        }
        // Under the lock: numbers have to arrive in the order in which they were true.
        drop(broker.seat(&whose.0, whose.1.as_ref(), held, None));
    }

    /// Takes a connection's places. `has_one` is for a connection that goes on with a session which has its places already,
    /// on a node that may not have noticed its end: it is let in whatever the limits say.
    pub async fn take(
        self: &Arc<Self>,
        broker: &Arc<dyn Broker>,
        space: &Arc<SpaceKey>,
        user: &UserId,
        limits: &Limits,
        has_one: bool,
    ) -> Result<Seated, Crowded> {
        let mut seated = Seated { seats: self.clone(), broker: broker.clone(), places: Vec::with_capacity(2) };
        let user = (Some(user.clone()), limits.connections_per_user, Crowded::User);
        let tenant = (None, limits.connections_per_tenant, Crowded::Tenant);
        for (whose, most, crowded) in [user, tenant].into_iter().filter(|(_, most, _)| *most > 0) {
            let whose = (space.clone(), whose);
            let (held, answer) = {
                let held = self.add(&whose);
                (held, broker.seat(&whose.0, whose.1.as_ref(), held, (!has_one).then_some(most)))
            };
            seated.places.push(whose);
            let allowed = match timeout(PATIENCE, answer).await {
                Ok(Ok(Ok(allowed))) => allowed,
                Ok(Ok(Err(_)) | Err(_)) | Err(_) => held <= most,
            };
            if !allowed && !has_one {
                return Err(crowded);
            }
        }
        Ok(seated)
    }

    /// Whose connections this node counts.
    pub fn all(&self) -> Vec<Whose> {
        self.lock().keys().cloned().collect()
    }

    /// Tells the broker a number again, which it may have lost.
    pub fn tell_again(&self, broker: &dyn Broker, whose: &Whose) {
        if let Some(held) = self.lock().get(whose) {
            drop(broker.seat(&whose.0, whose.1.as_ref(), *held, None));
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        for whose in &self.places {
            self.seats.remove(&*self.broker, whose);
        }
    }
}
