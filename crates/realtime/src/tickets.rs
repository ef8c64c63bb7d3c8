use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use tidegate_auth::Principal;
use tidegate_types::Millis;

/// How long a ticket is good, ms.
pub(crate) const TICKET_LIFE_MS: Millis = 30_000;
/// The most tickets waiting to be used.
const MOST: usize = 100_000;

/// Whom a ticket lets in, and until when.
type Waiting = (Arc<Principal>, Millis);

/// One-time tickets, for clients that cannot set headers (`EventSource`): a token never has to stand in a URL.
#[derive(Default)]
pub(crate) struct Tickets {
    waiting: Mutex<FxHashMap<Box<str>, Waiting>>,
}

impl Tickets {
    /// Keeps a ticket; false when too many are waiting.
    pub fn put(&self, ticket: &str, principal: Arc<Principal>, now: Millis) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MOST {
            waiting.retain(|_, (_, until)| *until > now);
            if waiting.len() >= MOST {
                return false;
            }
        }
        waiting.insert(ticket.into(), (principal, now + TICKET_LIFE_MS));
        true
    }

    /// Uses a ticket up.
    pub fn take(&self, ticket: &str, now: Millis) -> Option<Arc<Principal>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(ticket).filter(|(_, until)| *until > now).map(|(principal, _)| principal)
    }

    /// Forgets what nobody came for.
    pub fn sweep(&self, now: Millis) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (_, until)| *until > now);
    }
}
