//! Requests that are sent again after a lost answer, and the answers that they are given then.

pub(crate) mod everywhere;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use tidegate_types::Millis;

/// For how long an answer is given again, ms.
const KEPT_MS: Millis = 24 * 3_600 * 1_000;
/// Answers kept, and requests under way.
const MOST: usize = 10_000;
/// Bytes of answers kept.
const MOST_BYTES: usize = 16 << 20;
/// Charged per answer beside its texts.
const OVERHEAD: usize = 256;

/// What tells a request from another of the same name.
pub(crate) type Fingerprint = [u8; 32];

/// A request by its sender and the sender's own name for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RequestName(Arc<(Box<str>, Box<str>)>);

impl RequestName {
    pub fn new(sender: &str, name: &str) -> Self {
        Self(Arc::new((sender.into(), name.into())))
    }

    fn sender(&self) -> &str {
        &self.0.0
    }

    fn name(&self) -> &str {
        &self.0.1
    }

    fn bytes(&self) -> usize {
        self.0.0.len() + self.0.1.len()
    }
}

/// An answer as it was given first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    pub status: u16,
    pub body: Arc<str>,
}

/// What a request with a name is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// New. It is under way until [`Replays::finish`].
    Fresh,
    /// Sent before, and answered so.
    Again(Replay),
    /// Sent before, and not answered yet.
    UnderWay,
    /// Another request has had that name.
    Different,
    /// Too many are under way.
    Full,
}

enum Known {
    UnderWay(Fingerprint),
    Answered(Fingerprint, Replay, Millis),
}

#[derive(Default)]
struct Kept {
    known: FxHashMap<RequestName, Known>,
    /// Those answered, oldest first.
    answered: VecDeque<RequestName>,
    bytes: usize,
}

/// Answers to requests that their senders may send again after a lost answer. In memory only, and bounded: the oldest
/// answers are forgotten first.
#[derive(Default)]
pub(crate) struct Replays {
    kept: Mutex<Kept>,
}

impl Replays {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, name: &RequestName, fingerprint: Fingerprint, now: Millis) -> Begun {
        let mut kept = self.kept();
        kept.forget(now);
        match kept.known.get(name) {
            Some(Known::UnderWay(known) | Known::Answered(known, ..)) if *known != fingerprint => Begun::Different,
            Some(Known::UnderWay(_)) => Begun::UnderWay,
            Some(Known::Answered(_, replay, _)) => Begun::Again(replay.clone()),
            None => {
                if kept.known.len() >= MOST && !kept.forget_oldest() {
                    return Begun::Full;
                }
                kept.known.insert(name.clone(), Known::UnderWay(fingerprint));
                Begun::Fresh
            }
        }
    }

    /// A request that was begun has ended: with an answer to be given again, or as if it had never been.
    pub fn finish(&self, name: &RequestName, replay: Option<Replay>, now: Millis) {
        let mut kept = self.kept();
        let Some(Known::UnderWay(fingerprint)) = kept.known.remove(name) else { return };
        let Some(replay) = replay else { return };
        kept.bytes += cost(name, &replay);
        kept.answered.push_back(name.clone());
        kept.known.insert(name.clone(), Known::Answered(fingerprint, replay, now.saturating_add(KEPT_MS)));
        while kept.bytes > MOST_BYTES && kept.forget_oldest() {}
    }

    /// Forgets what is too old.
    pub fn sweep(&self, now: Millis) {
        let mut kept = self.kept();
        kept.forget(now);
        if kept.known.capacity() > 4 * kept.known.len() + 64 {
            kept.known.shrink_to_fit();
            kept.answered.shrink_to_fit();
        }
    }
}

impl Kept {
    fn forget(&mut self, now: Millis) {
        while let Some(oldest) = self.answered.front() {
            if matches!(self.known.get(oldest), Some(Known::Answered(.., until)) if *until > now) {
                return;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(name) = self.answered.pop_front() else { return false };
        if let Some(Known::Answered(_, replay, _)) = self.known.remove(&name) {
            self.bytes = self.bytes.saturating_sub(cost(&name, &replay));
        }
        true
    }
}

fn cost(name: &RequestName, replay: &Replay) -> usize {
    OVERHEAD + 2 * name.bytes() + replay.body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Fingerprint = [1; 32];
    const B: Fingerprint = [2; 32];

    fn replay(body: &str) -> Replay {
        Replay { status: 200, body: body.into() }
    }

    fn name(number: usize) -> RequestName {
        RequestName::new("backend", &number.to_string())
    }

    #[test]
    fn the_same_request_gets_the_first_answer_until_it_is_too_old() {
        let replays = Replays::default();
        assert_eq!(replays.begin(&name(1), A, 0), Begun::Fresh);
        assert_eq!(replays.begin(&name(1), A, 0), Begun::UnderWay);
        assert_eq!(replays.begin(&name(1), B, 0), Begun::Different);
        replays.finish(&name(1), Some(replay("x")), 10);
        assert_eq!(replays.begin(&name(1), A, 10 + KEPT_MS - 1), Begun::Again(replay("x")));
        assert_eq!(replays.begin(&name(1), B, 11), Begun::Different);
        assert_eq!(replays.begin(&RequestName::new("other", "1"), B, 11), Begun::Fresh);
        assert_eq!(replays.begin(&name(1), B, 10 + KEPT_MS), Begun::Fresh);
    }

    #[test]
    fn what_failed_may_be_tried_again() {
        let replays = Replays::default();
        assert_eq!(replays.begin(&name(1), A, 0), Begun::Fresh);
        replays.finish(&name(1), None, 0);
        assert_eq!(replays.begin(&name(1), B, 0), Begun::Fresh);
    }

    #[test]
    fn answers_are_bounded_in_number_and_in_bytes_and_what_is_under_way_is_never_forgotten() {
        let replays = Replays::default();
        assert_eq!(replays.begin(&name(0), A, 0), Begun::Fresh);
        for number in 1..=MOST {
            assert_eq!(replays.begin(&name(number), A, 0), Begun::Fresh);
            replays.finish(&name(number), Some(replay("x")), 0);
        }
        assert_eq!(replays.kept().known.len(), MOST);
        assert_eq!(replays.begin(&name(0), A, 0), Begun::UnderWay);
        assert_eq!(replays.begin(&name(1), A, 0), Begun::Fresh, "the oldest answer is forgotten");
        assert_eq!(replays.begin(&name(MOST), A, 0), Begun::Again(replay("x")));

        let replays = Replays::default();
        let large = "x".repeat(MOST_BYTES / 4);
        for number in 0..8 {
            assert_eq!(replays.begin(&name(number), A, 0), Begun::Fresh);
            replays.finish(&name(number), Some(replay(&large)), 0);
        }
        assert!(replays.kept().bytes <= MOST_BYTES);
        assert_eq!(replays.begin(&name(4), A, 0), Begun::Fresh);
        assert_eq!(replays.begin(&name(7), A, 0), Begun::Again(replay(&large)));

        let replays = Replays::default();
        for number in 0..MOST {
            assert_eq!(replays.begin(&name(number), A, 0), Begun::Fresh);
        }
        assert_eq!(replays.begin(&name(MOST), A, 0), Begun::Full);
        replays.finish(&name(7), None, 0);
        assert_eq!(replays.begin(&name(MOST), A, 0), Begun::Fresh);
    }
}
