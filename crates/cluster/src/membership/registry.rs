//! The same as the scripts, in memory: what Redis keeps of the members, and what it answers. Pure; `now` is Redis' clock.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_types::{Millis, NodeId, NodeNumber};

use super::reply::{Beat, Beaten, Registered};
use super::state::Terms;

/// As in the scripts.
const MOST_CLAIMS: usize = 8;
const MOST_CHANGES: usize = 4_096;

/// What is kept of the members of a cluster.
#[derive(Clone, Debug)]
pub struct Registry {
    terms: Terms,
    members: BTreeMap<NodeId, Entry>,
    numbers: BTreeMap<u16, NodeId>,
    cooling: BTreeMap<u16, (Millis, NodeId)>,
    dead: BTreeMap<NodeId, Millis>,
    changed: BTreeMap<NodeId, u64>,
    version: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    number: u16,
    record: String,
    seen: Millis,
    since: Millis,
}

impl Entry {
    fn text(&self) -> Bytes {
        format!("{}:{}", self.number, self.record).into()
    }
}

impl Registry {
    /// Nobody is in it.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            members: BTreeMap::new(),
            numbers: BTreeMap::new(),
            cooling: BTreeMap::new(),
            dead: BTreeMap::new(),
            changed: BTreeMap::new(),
            version: 0,
        }
    }

    /// As `register.lua`.
    pub fn register(&mut self, id: NodeId, record: &str, wishes: &[u16], now: Millis) -> Registered {
        if self.dead.get(&id).is_some_and(|claimed_till| *claimed_till > now) {
            return Registered::Wait;
        }
        self.dead.remove(&id);
        let free = |number: &u16| {
            *number != 0
                && match (self.numbers.get(number), self.cooling.get(number)) {
                    (Some(holder), _) => *holder == id,
                    (None, Some((till, holder))) => *holder == id || *till <= now,
                    (None, None) => true,
                }
        };
        let Some(number) = wishes.iter().copied().find(free).or_else(|| (1..=u16::MAX).find(free)) else {
            return Registered::Full;
        };
        if let Some(old) = self.members.get(&id).map(|entry| entry.number)
            && self.numbers.get(&old) == Some(&id)
        {
            self.numbers.remove(&old);
        }
        self.numbers.insert(number, id);
        self.cooling.remove(&number);
        self.members.insert(id, Entry { number, record: record.to_owned(), seen: now, since: now });
        self.note(id);
        Registered::Member(NodeNumber(number))
    }

    /// As `beat.lua`. `record` is the node's record if it has changed; `buries`: whether it takes up the work of the dead.
    pub fn beat(&mut self, id: NodeId, known: u64, record: Option<&str>, buries: bool, now: Millis) -> Beat {
        let Terms { timeout_ms, claim_ms, .. } = self.terms;
        let Some(entry) = self.members.get_mut(&id) else { return Beat::Gone };
        if self.numbers.get(&entry.number) != Some(&id) {
            return Beat::Gone;
        }
        if now.saturating_sub(entry.seen) > timeout_ms {
            entry.since = now;
        }
        entry.seen = now;
        if let Some(record) = record {
            entry.record = record.to_owned();
        }
        let (number, since) = (entry.number, entry.since);
        if record.is_some() {
            self.note(id);
        }
        if now.saturating_sub(since) >= timeout_ms {
            let mut silent: Vec<_> = self.members.iter().map(|(id, entry)| (entry.seen, *id)).collect();
            silent.sort_unstable_by_key(|(seen, id)| (*seen, id.to_string()));
            let silent = silent.into_iter().filter(|(seen, _)| now.saturating_sub(*seen) > timeout_ms);
            for (_, dead) in silent.take(MOST_CLAIMS) {
                self.remove(dead, now);
            }
        }
        let mut late: Vec<_> =
            self.dead.iter().filter(|(_, till)| **till <= now).map(|(id, till)| (*till, *id)).collect();
        late.sort_unstable_by_key(|(till, id)| (*till, id.to_string()));
        let claimed: Vec<NodeId> = late.into_iter().filter(|_| buries).take(MOST_CLAIMS).map(|(_, id)| id).collect();
        for dead in &claimed {
            self.dead.insert(*dead, now + claim_ms);
        }
        let oldest = self.changed.values().copied().min();
        let whole = known > self.version || known == 0 || oldest.is_none_or(|oldest| known + 1 < oldest);
        let name = |id: &NodeId| Bytes::from(id.to_string());
        let changed = if whole {
            self.members.iter().map(|(id, entry)| (name(id), entry.text())).collect()
        } else {
            let mut newer: Vec<_> = self.changed.iter().filter(|(_, version)| **version > known).collect();
            newer.sort_unstable_by_key(|(_, version)| **version);
            let text = |id| self.members.get(id).map(Entry::text).unwrap_or_default();
            newer.into_iter().map(|(id, _)| (name(id), text(id))).collect()
        };
        let silence_ms = self.members.values().map(|entry| now.saturating_sub(entry.seen)).max().unwrap_or(0);
        Beat::Member(Box::new(Beaten { number, version: self.version, silence_ms, whole, claimed, changed }))
    }

    /// What a dead node held has been taken back.
    pub fn buried(&mut self, id: NodeId) {
        self.dead.remove(&id);
    }

    /// As `leave.lua`.
    pub fn leave(&mut self, id: NodeId, now: Millis) {
        if self.members.contains_key(&id) {
            self.remove(id, now);
        }
    }

    /// Everything is lost: a Redis without persistence has restarted.
    pub fn forget(&mut self) {
        *self = Self::new(self.terms);
    }

    /// The numbers that are given, and to whom.
    pub fn numbers(&self) -> impl Iterator<Item = (u16, NodeId)> {
        self.numbers.iter().map(|(number, id)| (*number, *id))
    }

    fn remove(&mut self, id: NodeId, now: Millis) {
        if let Some(entry) = self.members.remove(&id)
            && self.numbers.get(&entry.number) == Some(&id)
        {
            self.numbers.remove(&entry.number);
            self.cooling.insert(entry.number, (now + self.terms.cooling_ms, id));
        }
        self.dead.insert(id, now);
        self.note(id);
    }

    fn note(&mut self, id: NodeId) {
        self.version += 1;
        self.changed.insert(id, self.version);
        while self.changed.len() > MOST_CHANGES {
            let Some(oldest) = self.changed.iter().min_by_key(|(_, version)| **version).map(|(id, _)| *id) else {
                return;
            };
            self.changed.remove(&oldest);
        }
    }
}
