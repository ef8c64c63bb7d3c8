use std::collections::VecDeque;
use std::sync::Arc;

use tidegate_types::{Class, Millis, Publication};

use crate::start::is_over;
use crate::{Effect, Effects, RoomId};

/// An unanswered reservation is asked for again after this long, ms: the store may have failed for a while.
const ASK_AGAIN_MS: u64 = 1_000;

struct Waiting {
    room: RoomId,
    publication: Arc<Publication>,
    appended: bool,
}

/// Assigns `seq` and releases in its order.
///
/// A persistent message waits for the store, a recoverable one only for a number that is reserved; everything behind
/// waits too. Otherwise a session that has seen `seq` 8 would claim to have seen 7, which came later.
pub(crate) struct Order {
    last_seq: u64,
    head_seq: u64,
    /// `u64::MAX` when nothing needs a reservation.
    reserved: u64,
    asked: u64,
    asked_at: Millis,
    block: u64,
    /// Their numbers are contiguous: an index is a difference of numbers.
    queue: VecDeque<Waiting>,
    bytes: usize,
}

impl Order {
    pub fn new(last_seq: u64, reserved: u64, block: u64, durable: bool) -> Self {
        let reserved = if durable { reserved } else { u64::MAX };
        Self {
            last_seq,
            head_seq: last_seq,
            reserved,
            asked: reserved,
            asked_at: 0,
            block: block.max(2),
            queue: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Numbers assigned elsewhere have come as far as this.
    pub fn heard(&mut self, seq: u64) {
        self.head_seq = self.head_seq.max(seq);
        self.last_seq = self.last_seq.max(seq);
    }

    /// The counter begins another life.
    pub fn begin_again(&mut self, seq: u64) {
        self.head_seq = seq;
        self.last_seq = seq;
    }

    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub fn head_seq(&self) -> u64 {
        self.head_seq
    }

    /// The highest number reserved in the store; 0 when reservations do not matter.
    pub fn reserved(&self) -> u64 {
        if self.reserved == u64::MAX { 0 } else { self.reserved }
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn waiting(&self) -> impl Iterator<Item = (RoomId, &Arc<Publication>)> {
        self.queue.iter().map(|waiting| (waiting.room, &waiting.publication))
    }

    pub fn next_seq(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }

    /// Asks for more numbers before they run out. Only recoverable messages need them, so a space that has only
    /// persistent ones never reserves, and its sessions stay provable after `kill -9`.
    pub fn reserve_ahead(&mut self, now: Millis, fx: &mut Effects) {
        if self.asked < self.last_seq.saturating_add(self.block / 2) {
            self.asked = self.last_seq.saturating_add(self.block);
            self.asked_at = now;
            fx.push(Effect::Reserve { upto: self.asked });
        }
    }

    pub fn ask_again(&mut self, now: Millis, fx: &mut Effects) {
        let stuck =
            self.queue.front().is_some_and(|front| !is_stored(&front.publication) && front_seq(front) > self.reserved);
        if stuck && is_over(ASK_AGAIN_MS, self.asked_at, now) {
            self.asked_at = now;
            fx.push(Effect::Reserve { upto: self.asked });
        }
    }

    /// Takes the message with the latest number. `Some`: it may leave at once.
    pub fn admit(&mut self, room: RoomId, publication: &Arc<Publication>) -> bool {
        if self.queue.is_empty() && !is_stored(publication) && publication.seq <= self.reserved {
            self.head_seq = publication.seq;
            return true;
        }
        self.bytes += publication.payload_bytes();
        self.queue.push_back(Waiting { room, publication: publication.clone(), appended: false });
        false
    }

    pub fn set_reserved(&mut self, upto: u64) {
        self.reserved = self.reserved.max(upto);
        self.asked = self.asked.max(upto);
    }

    pub fn set_appended(&mut self, seq: u64) {
        if let Some(waiting) = self.find(seq) {
            waiting.appended = true;
        }
    }

    /// Puts another message in the place of a waiting one. The new one must carry the same numbers.
    pub fn replace(&mut self, seq: u64, with: impl FnOnce(&Publication) -> Publication) -> bool {
        let Some(waiting) = self.find(seq) else { return false };
        if waiting.appended || !is_stored(&waiting.publication) {
            return false;
        }
        let before = waiting.publication.payload_bytes();
        waiting.publication = Arc::new(with(&waiting.publication));
        let after = waiting.publication.payload_bytes();
        self.bytes = self.bytes.saturating_sub(before) + after;
        true
    }

    /// The next message that may leave.
    pub fn release(&mut self) -> Option<(RoomId, Arc<Publication>)> {
        let front = self.queue.front()?;
        let ready = if is_stored(&front.publication) { front.appended } else { front_seq(front) <= self.reserved };
        if !ready {
            return None;
        }
        let front = self.queue.pop_front()?;
        self.head_seq = front_seq(&front);
        self.bytes = self.bytes.saturating_sub(front.publication.payload_bytes());
        Some((front.room, front.publication))
    }

    fn find(&mut self, seq: u64) -> Option<&mut Waiting> {
        let first = front_seq(self.queue.front()?);
        let index = usize::try_from(seq.checked_sub(first)?).ok()?;
        self.queue.get_mut(index)
    }
}

fn front_seq(waiting: &Waiting) -> u64 {
    waiting.publication.seq
}

fn is_stored(publication: &Publication) -> bool {
    match publication.class {
        Class::Persistent => true,
        Class::Recoverable | Class::Volatile => false,
    }
}
