//! One-time tickets, for clients that cannot set headers (`EventSource`): a token never has to stand in a URL.
//!
//! In a cluster the broker keeps them, so that they are taken on any node, and once. It never sees the ticket itself, only
//! its digest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};
use tidegate_auth::Principal;
use tidegate_cluster::{Kind, Name, Unavailable};
use tidegate_types::{Millis, TenantId, UserId};

use crate::node::{Node, now_ms};

/// How long a ticket is good, ms.
pub(crate) const TICKET_LIFE_MS: Millis = 30_000;
/// The most tickets waiting to be used.
const MOST: usize = 100_000;
/// The most of them of one user: who takes tickets and does not use them must not take everybody's place.
const MOST_OF_ONE: u32 = 20;

/// The most that one node gives one user in a ticket's lifetime, in a cluster: it does not hear of those that are used on
/// other nodes.
const MOST_OF_ONE_IN_CLUSTER: u32 = 100;

/// Why there is no ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTicket {
    /// The cluster's broker cannot be reached.
    Unavailable,
    /// Too many wait in all.
    Full,
    /// Too many of this user wait.
    TooManyOfOne,
}

/// The tickets that this node has given.
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
    fn put(&self, ticket: &str, principal: Arc<Principal>, most_of_one: u32, now: Millis) -> Result<(), NoTicket> {
        let mut waiting = self.lock();
        let key = (principal.tenant.clone(), principal.user.clone());
        if waiting.tickets.len() >= MOST || waiting.of_user.get(&key).is_some_and(|count| *count >= most_of_one) {
            waiting.sweep(now);
        }
        if waiting.tickets.len() >= MOST {
            return Err(NoTicket::Full);
        }
        let count = waiting.of_user.entry(key).or_default();
        if *count >= most_of_one {
            return Err(NoTicket::TooManyOfOne);
        }
        *count += 1;
        waiting.tickets.insert(ticket.into(), (principal, now + TICKET_LIFE_MS));
        Ok(())
    }

    /// Uses a ticket up.
    fn take(&self, ticket: &str, now: Millis) -> Option<Arc<Principal>> {
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

impl Node {
    /// Keeps a ticket.
    pub(crate) async fn keep_ticket(&self, ticket: &str, principal: Principal) -> Result<(), NoTicket> {
        let principal = Arc::new(principal);
        let Some(cluster) = &self.cluster else {
            return self.tickets.put(ticket, principal, MOST_OF_ONE, now_ms());
        };
        // Kept here as well, but only to be counted.
        self.tickets.put(ticket, principal.clone(), MOST_OF_ONE_IN_CLUSTER, now_ms())?;
        let value = serde_json::to_vec(&*principal).unwrap_or_default();
        let kept = cluster.broker.set(name(ticket), Some(value.into()), TICKET_LIFE_MS);
        kept.await.unwrap_or(Err(Unavailable)).map_err(|Unavailable| {
            self.tickets.take(ticket, now_ms());
            NoTicket::Unavailable
        })
    }

    /// Uses a ticket up; `None` if there is no such ticket.
    pub(crate) async fn take_ticket(&self, ticket: &str) -> Result<Option<Principal>, Unavailable> {
        let here = self.tickets.take(ticket, now_ms());
        let Some(cluster) = &self.cluster else { return Ok(here.map(|principal| Principal::clone(&principal))) };
        let taken = cluster.broker.take(name(ticket)).await.unwrap_or(Err(Unavailable))?;
        Ok(taken.and_then(|value| serde_json::from_slice(&value).ok()))
    }
}

/// Whoever can read what the broker keeps must not be able to use it.
fn name(ticket: &str) -> Name {
    let digest = Sha256::digest(ticket.as_bytes());
    Name { kind: Kind::Ticket, text: URL_SAFE_NO_PAD.encode(digest).into() }
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
        tickets.put("a", user("ada"), MOST_OF_ONE, 0).unwrap();
        tickets.put("b", user("ada"), MOST_OF_ONE, 0).unwrap();
        assert_eq!(tickets.take("a", 1).map(|who| who.user.to_string()).as_deref(), Some("ada"));
        assert_eq!(tickets.take("a", 1), None);
        assert_eq!(tickets.take("b", TICKET_LIFE_MS), None);
        assert!(tickets.lock().of_user.is_empty());
    }

    #[test]
    fn a_user_who_does_not_use_tickets_gets_no_more_and_leaves_others_alone() {
        let tickets = Tickets::default();
        for number in 0..MOST_OF_ONE {
            tickets.put(&number.to_string(), user("ada"), MOST_OF_ONE, 0).unwrap();
        }
        assert_eq!(tickets.put("more", user("ada"), MOST_OF_ONE, 1), Err(NoTicket::TooManyOfOne));
        assert_eq!(tickets.put("bobs", user("bob"), MOST_OF_ONE, 1), Ok(()));
        tickets.take("0", 1).unwrap();
        assert_eq!(tickets.put("more", user("ada"), MOST_OF_ONE, 1), Ok(()));
        // What was not used is over at last.
        assert_eq!(tickets.put("later", user("ada"), MOST_OF_ONE, TICKET_LIFE_MS), Ok(()));
        tickets.sweep(3 * TICKET_LIFE_MS);
        assert!(tickets.lock().of_user.is_empty() && tickets.lock().tickets.is_empty());
    }
}
