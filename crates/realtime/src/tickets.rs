use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use tidegate_auth::Principal;
use tidegate_types::{Millis, TenantId, UserId};

/// How long a ticket is good, ms.
pub(crate) const TICKET_LIFE_MS: Millis = 30_000;
/// The most tickets waiting to be used.
const MOST: usize = 100_000;
/// The most of them of one user: who takes tickets and does not use them must not take everybody's place.
const MOST_OF_ONE: u32 = 20;

/// Why there is no ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTicket {
    /// Too many wait in all.
    Full,
    /// Too many of this user wait.
    TooManyOfOne,
}

/// One-time tickets, for clients that cannot set headers (`EventSource`): a token never has to stand in a URL.
#[derive(Default)]
pub(crate) struct Tickets(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Whom a ticket lets in, and until when.
    tickets: FxHashMap<Box<str>, (Arc<Principal>, Millis)>,
    of_user: FxHashMap<(TenantId, UserId), u32>,
}

impl Waiting {
    fn used(&mut self, principal: &Principal) {
        let key = (principal.tenant.clone(), principal.user.clone());
        if let Some(count) = self.of_user.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.of_user.remove(&key);
            }
        }
    }

    fn sweep(&mut self, now: Millis) {
        let mut over: Vec<Arc<Principal>> = Vec::new();
        self.tickets.retain(|_, (principal, until)| {
            let stays = *until > now;
            if !stays {
                over.push(principal.clone());
            }
            stays
        });
        over.iter().for_each(|principal| self.used(principal));
    }
}

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a ticket.
    pub fn put(&self, ticket: &str, principal: Arc<Principal>, now: Millis) -> Result<(), NoTicket> {
        let mut waiting = self.lock();
        let key = (principal.tenant.clone(), principal.user.clone());
        if waiting.tickets.len() >= MOST || waiting.of_user.get(&key).is_some_and(|count| *count >= MOST_OF_ONE) {
            waiting.sweep(now);
        }
        if waiting.tickets.len() >= MOST {
            return Err(NoTicket::Full);
        }
        let count = waiting.of_user.entry(key).or_default();
        if *count >= MOST_OF_ONE {
            return Err(NoTicket::TooManyOfOne);
        }
        *count += 1;
        waiting.tickets.insert(ticket.into(), (principal, now + TICKET_LIFE_MS));
        Ok(())
    }

    /// Uses a ticket up.
    pub fn take(&self, ticket: &str, now: Millis) -> Option<Arc<Principal>> {
        let mut waiting = self.lock();
        let (principal, until) = waiting.tickets.remove(ticket)?;
        waiting.used(&principal);
        (until > now).then_some(principal)
    }

    /// Forgets what nobody came for.
    pub fn sweep(&self, now: Millis) {
        self.lock().sweep(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Arc<Principal> {
        Arc::new(Principal::new(TenantId::default_tenant(), UserId::try_from(name).unwrap()))
    }

    #[test]
    fn a_ticket_is_good_once_and_for_a_while() {
        let tickets = Tickets::default();
        tickets.put("a", user("ada"), 0).unwrap();
        tickets.put("b", user("ada"), 0).unwrap();
        assert_eq!(tickets.take("a", 1).map(|who| who.user.to_string()).as_deref(), Some("ada"));
        assert_eq!(tickets.take("a", 1), None);
        assert_eq!(tickets.take("b", TICKET_LIFE_MS), None);
        assert!(tickets.lock().of_user.is_empty());
    }

    #[test]
    fn a_user_who_does_not_use_tickets_gets_no_more_and_leaves_others_alone() {
        let tickets = Tickets::default();
        for number in 0..MOST_OF_ONE {
            tickets.put(&number.to_string(), user("ada"), 0).unwrap();
        }
        assert_eq!(tickets.put("more", user("ada"), 1), Err(NoTicket::TooManyOfOne));
        assert_eq!(tickets.put("bobs", user("bob"), 1), Ok(()));
        tickets.take("0", 1).unwrap();
        assert_eq!(tickets.put("more", user("ada"), 1), Ok(()));
        // What was not used is over at last.
        assert_eq!(tickets.put("later", user("ada"), TICKET_LIFE_MS), Ok(()));
        tickets.sweep(3 * TICKET_LIFE_MS);
        assert!(tickets.lock().of_user.is_empty() && tickets.lock().tickets.is_empty());
    }
}
