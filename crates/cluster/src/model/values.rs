use std::sync::Arc;

use bytes::Bytes;
use tidegate_balance::Rate;
use tidegate_types::{Millis, NodeId, SpaceKey, UserId};

use super::Server;
use super::state::{Value, drawer};
use crate::{Counted, Kind, Name};

fn key(name: &Name) -> (u8, Box<str>) {
    (drawer(name.kind), name.text.clone())
}

impl Server {
    /// Keeps a value unless there is one, which is then the answer.
    pub fn keep(&mut self, name: &Name, value: Bytes, ttl_ms: u64, now: Millis) -> Option<Bytes> {
        let there = self.get(name, now);
        if there.is_none() {
            self.set(name, Some(value), ttl_ms, now);
        }
        there
    }

    /// Replaces a value; `None` removes it.
    pub fn set(&mut self, name: &Name, value: Option<Bytes>, ttl_ms: u64, now: Millis) {
        self.about_to_write();
        let expires_at = now.saturating_add(ttl_ms);
        match value {
            Some(bytes) => drop(self.state.values.insert(key(name), Value { bytes, expires_at })),
            None => drop(self.state.values.remove(&key(name))),
        }
    }

    /// A value, left where it is.
    pub fn get(&self, name: &Name, now: Millis) -> Option<Bytes> {
        self.state.values.get(&key(name)).filter(|value| value.expires_at > now).map(|value| value.bytes.clone())
    }

    /// Takes a value away.
    pub fn take(&mut self, name: &Name, now: Millis) -> Option<Bytes> {
        let there = self.get(name, now);
        if there.is_some() {
            self.set(name, None, 0, now);
        }
        there
    }

    /// Adds requests to buckets that all nodes share; how far each is ahead of its rate then.
    pub fn count(&mut self, told: &Counted, now: Millis) -> Vec<u64> {
        self.about_to_write();
        let rate = u32::try_from(told.rate).ok().and_then(Rate::thousandths);
        let Some(rate) = rate else { return Vec::new() };
        let mut count = |(key, requests): &(Box<[u8]>, u32)| {
            let bucket = self.state.buckets.entry((told.limit.clone(), key.clone())).or_default();
            bucket.add(rate, *requests, now)
        };
        told.told.iter().map(&mut count).collect()
    }

    /// A node's number of connections of a user or of all; false if the sum would be above `most`, and nothing changes.
    pub fn seat(
        &mut self,
        node: NodeId,
        space: &Arc<SpaceKey>,
        user: Option<&UserId>,
        held: u32,
        most: Option<u32>,
    ) -> bool {
        self.about_to_write();
        let seats = self.state.seats.entry((space.clone(), user.cloned())).or_default();
        let others: u64 = seats.iter().filter(|(of, _)| **of != node).map(|(_, held)| u64::from(*held)).sum();
        if most.is_some_and(|most| others + u64::from(held) > u64::from(most)) {
            return false;
        }
        match held {
            0 => seats.remove(&node),
            _ => seats.insert(node, held),
        };
        true
    }

    /// The names of a kind with their values, at most `most`.
    pub fn list(&self, kind: Kind, most: usize, now: Millis) -> Vec<(String, Bytes)> {
        let of_kind = self
            .state
            .values
            .iter()
            .filter(|((drawer_of, _), value)| *drawer_of == drawer(kind) && value.expires_at > now);
        of_kind.take(most).map(|((_, text), value)| (text.to_string(), value.bytes.clone())).collect()
    }
}
