//! Events that wait to be told to a webhook. Bounded: the oldest go first, because what is new tells more of how things are.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    most_events: usize,
    most_bytes: usize,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    pub fn new(most_events: usize, most_bytes: usize) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), most_events, most_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event; how many older ones had to go for it.
    pub fn push(&self, event: Bytes) -> usize {
        let mut dropped = 0;
        {
            let mut waiting = self.lock();
            waiting.bytes += event.len();
            waiting.events.push_back(event);
            // The newest stays, however large: it is bounded by what a message may be.
            while waiting.events.len() > 1
                && (waiting.events.len() > self.most_events || waiting.bytes > self.most_bytes)
            {
                let gone = waiting.events.pop_front().map_or(0, |event| event.len());
                waiting.bytes -= gone;
                dropped += 1;
            }
        }
        self.arrived.notify_one();
        dropped
    }

    /// The oldest events, at most that many and (but for the first) that many bytes; waits for one. None when the queue is
    /// empty and closed. For one reader.
    pub async fn batch(&self, most_events: usize, most_bytes: usize) -> Option<Vec<Bytes>> {
        loop {
            {
                let mut waiting = self.lock();
                let mut bytes = 0;
                let mut batch = Vec::new();
                while let Some(event) = waiting.events.front() {
                    bytes += event.len();
                    if !batch.is_empty() && (batch.len() == most_events || bytes > most_bytes) {
                        break;
                    }
                    batch.extend(waiting.events.pop_front());
                }
                waiting.bytes -= batch.iter().map(Bytes::len).sum::<usize>();
                if waiting.events.is_empty() {
                    waiting.events.shrink_to(64);
                }
                if !batch.is_empty() {
                    return Some(batch);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    pub fn len(&self) -> usize {
        self.lock().events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[tokio::test]
    async fn a_full_queue_lets_the_oldest_go_and_says_how_many() {
        let queue = Queue::new(3, 100);
        assert_eq!(["a", "b", "c", "d", "e"].map(|text| queue.push(event(text))), [0, 0, 0, 1, 1]);
        assert_eq!(queue.batch(10, 100).await.unwrap(), ["c", "d", "e"].map(event));
        assert_eq!(queue.push(event(&"x".repeat(60))), 0);
        assert_eq!(queue.push(event(&"y".repeat(60))), 1, "too many bytes together");
        assert_eq!(queue.push(event(&"z".repeat(200))), 1, "the newest stays");
        assert_eq!((queue.len(), queue.batch(1, 1).await.unwrap()[0].len()), (1, 200));
        assert_eq!(queue.lock().bytes, 0);
    }

    #[tokio::test]
    async fn batches_are_bounded_and_keep_the_order() {
        let queue = Queue::new(100, 1000);
        for text in ["aaaa", "bbbb", "cccc", "d"] {
            queue.push(event(text));
        }
        assert_eq!(queue.batch(2, 1000).await.unwrap(), ["aaaa", "bbbb"].map(event));
        assert_eq!(queue.batch(9, 4).await.unwrap(), ["cccc"].map(event));
        queue.close();
        assert_eq!(queue.batch(9, 1).await.unwrap(), ["d"].map(event), "what is left is told");
        assert_eq!(queue.batch(9, 1).await, None);
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_an_event_and_by_the_end() {
        let queue = Queue::new(9, 99);
        let (batch, ()) = tokio::join!(queue.batch(9, 99), async { _ = queue.push(event("a")) });
        assert_eq!(batch.unwrap(), ["a"].map(event));
        let (batch, ()) = tokio::join!(queue.batch(9, 99), async { queue.close() });
        assert_eq!(batch, None);
    }
}
