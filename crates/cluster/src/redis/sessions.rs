//! Session records: owned by the node that last stored them, taken over by who claims them.
//!
//! Writes are sent in groups, in order; a group's failures are sent again before anything newer, so that an older record
//! never replaces a newer one. In Redis a record is the script's head (owner, state, user), then the fields below.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};
use tidegate_hub::{Pid, SessionRecord, SocketId};
use tidegate_types::{Epoch, Millis, Namespace, NodeId, RoomName, SessionOffset, SpaceKey, TenantId, UserId};

use super::answer::is_other_run;
use super::call::Call;
use super::error::LinkError;
use super::keys::SpaceKeys;
use super::resp::{ErrorCode, Value};
use super::script;
use crate::fields::{Reader, put_bytes, put_optional, put_u64};
use crate::{Claimed, Write};

/// The version of a record.
const VERSION: u8 = 1;
/// How many writes are sent at once.
pub(super) const GROUP: usize = 512;
/// How long a dropped or taken session is remembered as such: longer than a former owner can go on without knowing.
pub(super) const MARK_MS: u64 = 60_000;

/// Everything of the record after its owner's id: state, user, record.
pub(super) fn encode(record: &SessionRecord) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + record.rooms.len() * 32);
    out.push(if record.expires_at.is_some() { b'K' } else { b'L' });
    let user = record.user.as_str().as_bytes();
    // A user's name has at most 256 bytes.
    out.extend_from_slice(&u16::try_from(user.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(user);
    out.push(VERSION);
    put_optional(&mut out, record.expires_at);
    put_optional(&mut out, record.token_expires_at);
    for text in [record.socket_id.as_str(), record.tenant.as_str(), record.namespace.as_str()] {
        put_bytes(&mut out, text.as_bytes());
    }
    put_u64(&mut out, record.rooms.len() as u64);
    for (room, seq) in &record.rooms {
        put_bytes(&mut out, room.as_str().as_bytes());
        put_u64(&mut out, *seq);
    }
    out
}

/// Owner, whether its client was connected, and the record.
pub(super) fn decode(pid: &Pid, value: &[u8]) -> Option<(NodeId, bool, SessionRecord)> {
    let mut reader = Reader::new(value);
    let owner = std::str::from_utf8(reader.take(16)?).ok()?.parse().ok()?;
    let live = match reader.u8()? {
        b'L' => true,
        b'K' => false,
        _ => return None,
    };
    let length = reader.u16_be()?;
    let user = UserId::try_from(std::str::from_utf8(reader.take(length.into())?).ok()?).ok()?;
    if reader.u8()? != VERSION {
        return None;
    }
    let expires_at = reader.optional()?;
    let token_expires_at = reader.optional()?;
    let socket_id = SocketId::from(reader.text()?);
    let tenant = TenantId::try_from(reader.text()?).ok()?;
    let namespace = Namespace::try_from(reader.text()?).ok()?;
    let count = reader.u64()?;
    let mut rooms = Vec::new();
    for _ in 0..count {
        rooms.push((RoomName::try_from(reader.text()?).ok()?, reader.u64()?));
    }
    let record =
        SessionRecord { pid: pid.clone(), socket_id, tenant, namespace, user, rooms, token_expires_at, expires_at };
    reader.end((owner, live, record))
}

pub(super) fn save(keys: &SpaceKeys, node: NodeId, record: &SessionRecord, ttl_ms: u64) -> Call {
    Call::script(&script::SESSION, &[keys.session(&record.pid), keys.space()])
        .arg("save")
        .arg(node.to_string())
        .int(ttl_ms.max(1))
        .arg(encode(record))
}

pub(super) fn drop(keys: &SpaceKeys, node: NodeId, pid: &Pid) -> Call {
    Call::script(&script::SESSION, &[keys.session(pid), keys.space()]).arg("drop").arg(node.to_string()).int(MARK_MS)
}

pub(super) fn claim(keys: &SpaceKeys, node: NodeId, pid: &Pid, user: &UserId, run: &str) -> Call {
    Call::script(&script::SESSION, &[keys.session(pid), keys.space()])
        .arg("claim")
        .arg(node.to_string())
        .int(MARK_MS)
        .arg(user.as_str())
        .arg(run)
}

/// What a claim was answered.
pub(super) enum Answered {
    Claimed(Box<Claimed>),
    Nobody,
    OtherRun,
    /// What lies there is not a record of ours.
    Foreign,
}

pub(super) fn claimed(value: Value, space: &SpaceKey, pid: &Pid, user: &UserId) -> Answered {
    if is_other_run(&value) {
        return Answered::OtherRun;
    }
    if value == Value::Nil {
        return Answered::Nobody;
    }
    let read = || {
        let [epoch, seq, record] = value.array()? else { return None };
        let number = |value: &Value| value.int().and_then(|number| u64::try_from(number).ok());
        let as_of = SessionOffset { epoch: Epoch(number(epoch)?), seq: number(seq)? };
        let (owner, live, record) = decode(pid, record.bytes()?)?;
        let fits = record.user == *user && record.tenant == space.tenant && record.namespace == space.namespace;
        fits.then(|| Claimed { record, as_of, was_live_on: live.then_some(owner) })
    };
    read().map_or(Answered::Foreign, |claimed| Answered::Claimed(Box::new(claimed)))
}

/// The writes of this node's sessions.
pub(super) struct Sessions {
    waiting: VecDeque<Write>,
    /// A group is on its way.
    busy: bool,
    /// Sessions of connected clients: where they are, and when their records are refreshed.
    live: FxHashMap<Pid, (Arc<SpaceKey>, Instant)>,
    refresh: VecDeque<(Instant, Pid)>,
    every: Duration,
}

/// One write of a group, and what was answered.
pub(super) type Sent = Vec<(Write, Result<Value, LinkError>)>;

impl Sessions {
    pub(super) fn new(live_ttl_ms: u64) -> Self {
        Self {
            waiting: VecDeque::new(),
            busy: false,
            live: FxHashMap::default(),
            refresh: VecDeque::new(),
            every: Duration::from_millis((live_ttl_ms / 3).max(1)),
        }
    }

    pub(super) fn put(&mut self, write: Write) {
        self.waiting.push_back(write);
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.busy && self.waiting.is_empty()
    }

    /// The next group, if none is on its way. The caller sends it and gives it back with [`Self::sent`].
    pub(super) fn group(&mut self) -> Vec<Write> {
        if self.busy || self.waiting.is_empty() {
            return Vec::new();
        }
        self.busy = true;
        let count = self.waiting.len().min(GROUP);
        self.waiting.drain(..count).collect()
    }

    /// The session's space, if its client is connected here.
    pub(super) fn space_of(&self, pid: &Pid) -> Option<&Arc<SpaceKey>> {
        self.live.get(pid).map(|(space, _)| space)
    }

    /// Whose client is connected here is known from what is written.
    pub(super) fn knows(&mut self, write: &Write, space: Option<&Arc<SpaceKey>>) {
        match write {
            Write::SaveSession(record) if record.expires_at.is_none() => {
                if let Some(space) = space.filter(|_| !self.live.contains_key(&record.pid)) {
                    let due = Instant::now() + self.every;
                    self.live.insert(record.pid.clone(), (Arc::clone(space), due));
                    self.refresh.push_back((due, record.pid.clone()));
                }
            }
            Write::SaveSession(record) => drop_live(&mut self.live, &record.pid),
            Write::DropSession(pid) => drop_live(&mut self.live, pid),
            Write::Append(_) | Write::Reserve { .. } => {}
        }
    }

    /// A group's answers: those decided, in order. What failed for now goes back to the front, unless a newer write of the
    /// same session came through.
    pub(super) fn sent(&mut self, sent: Sent) -> Vec<(Write, Result<Value, LinkError>)> {
        self.busy = false;
        let mut decided = Vec::with_capacity(sent.len());
        let mut again = Vec::new();
        let mut newer: FxHashSet<Pid> = FxHashSet::default();
        for (write, answer) in sent.into_iter().rev() {
            let pid = pid_of(&write).cloned();
            let retry = answer.as_ref().err().is_some_and(may_succeed_later);
            let is_newest = pid.as_ref().is_none_or(|pid| !newer.contains(pid));
            if retry && is_newest {
                again.push(write);
                continue;
            }
            if !retry {
                newer.extend(pid);
            }
            decided.push((write, answer));
        }
        decided.reverse();
        // `again` is newest first: each goes before the one after it.
        for write in again {
            self.waiting.push_front(write);
        }
        decided
    }

    /// Records that are to live on: at most `most` now.
    pub(super) fn due(&mut self, now: Instant, most: usize) -> Vec<(Pid, Arc<SpaceKey>)> {
        let mut due = Vec::new();
        while due.len() < most && self.refresh.front().is_some_and(|(at, _)| *at <= now) {
            let Some((at, pid)) = self.refresh.pop_front() else { break };
            if let Some((space, next)) = self.live.get_mut(&pid).filter(|(_, next)| *next == at) {
                *next = now + self.every;
                due.push((pid.clone(), Arc::clone(space)));
                self.refresh.push_back((now + self.every, pid));
            }
        }
        due
    }
}

fn drop_live(live: &mut FxHashMap<Pid, (Arc<SpaceKey>, Instant)>, pid: &Pid) {
    live.remove(pid);
}

fn pid_of(write: &Write) -> Option<&Pid> {
    match write {
        Write::SaveSession(record) => Some(&record.pid),
        Write::DropSession(pid) => Some(pid),
        Write::Append(_) | Write::Reserve { .. } => None,
    }
}

fn may_succeed_later(error: &LinkError) -> bool {
    match error.code() {
        None => true,
        Some(
            ErrorCode::Moved
            | ErrorCode::Ask
            | ErrorCode::TryAgain
            | ErrorCode::ClusterDown
            | ErrorCode::ReadOnly
            | ErrorCode::Loading
            | ErrorCode::MasterDown
            | ErrorCode::Busy
            | ErrorCode::NoScript,
        ) => true,
        Some(
            ErrorCode::CrossSlot
            | ErrorCode::NoReplicas
            | ErrorCode::Misconf
            | ErrorCode::OutOfMemory
            | ErrorCode::NoPerm
            | ErrorCode::NoAuth
            | ErrorCode::WrongPass
            | ErrorCode::NoProto
            | ErrorCode::WrongType
            | ErrorCode::Other,
        ) => false,
    }
}

/// For how long a record is to live from now on; `None` if its time is over.
pub(super) fn ttl_ms(record: &SessionRecord, now: Millis, live_ttl_ms: u64) -> Option<u64> {
    match record.expires_at {
        None => Some(live_ttl_ms),
        Some(at) => at.checked_sub(now).filter(|left| *left > 0),
    }
}
