//! Messages that have their place and wait for the store: a Node server must not hear of one that is refused in the end,
//! nor hear two in another order than the clients here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_types::Publication;

/// See the module. As long as the space's own queue of what waits for the store, which bounds it.
#[derive(Default)]
pub(super) struct Placed(Mutex<VecDeque<Waiting>>);

struct Waiting {
    publication: Arc<Publication>,
    stored: bool,
}

impl Placed {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, publication: &Arc<Publication>, stored: bool, pass: impl Fn(&Publication)) {
        let mut waiting = self.lock();
        if stored && waiting.is_empty() {
            return pass(publication);
        }
        waiting.push_back(Waiting { publication: publication.clone(), stored });
    }

    pub fn settled(&self, seq: u64, stored: bool, pass: impl Fn(&Publication)) {
        let mut waiting = self.lock();
        let Some(index) = waiting.iter().position(|one| !one.stored && one.publication.seq == seq) else { return };
        if stored {
            if let Some(one) = waiting.get_mut(index) {
                one.stored = true;
            }
        } else {
            waiting.remove(index);
        }
        while waiting.front().is_some_and(|first| first.stored) {
            if let Some(first) = waiting.pop_front() {
                pass(&first.publication);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use tidegate_types::{Class, EventName, Namespace, RoomName, SpaceKey, TenantId};

    fn publication(seq: u64) -> Arc<Publication> {
        Arc::new(Publication {
            space: Arc::new(SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() }),
            room: RoomName::try_from("r").unwrap(),
            event: EventName::try_from("e").unwrap(),
            data: "1".into(),
            attachments: Arc::from([]),
            class: Class::Persistent,
            position: None,
            seq,
            timestamp_ms: 0,
        })
    }

    #[test]
    fn what_is_behind_a_message_that_waits_for_the_store_waits_too_and_a_refused_one_never_goes() {
        let placed = Placed::default();
        let passed = RefCell::new(Vec::new());
        let pass = |publication: &Publication| passed.borrow_mut().push(publication.seq);
        placed.push(&publication(1), true, pass);
        placed.push(&publication(2), false, pass);
        placed.push(&publication(3), true, pass);
        placed.push(&publication(4), false, pass);
        placed.push(&publication(5), true, pass);
        assert_eq!(*passed.borrow(), [1]);
        placed.settled(4, false, pass);
        assert_eq!(*passed.borrow(), [1]);
        placed.settled(2, true, pass);
        assert_eq!(*passed.borrow(), [1, 2, 3, 5]);
        placed.push(&publication(6), true, pass);
        assert_eq!(*passed.borrow(), [1, 2, 3, 5, 6]);
    }
}
