//! Reads, on the reader's thread.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_hub::{Pid, SessionRecord};
use tidegate_types::{Epoch, Millis, Position, Publication, RoomKey, SpaceKey};

use super::commit::Caps;
use super::engine::Engine;
use super::value::{self, Message, SpaceRecord};
use super::{Shared, key};
use crate::history::HistoryError;

/// Longest pid looked up: a client may send anything as one.
pub(super) const MAX_PID_BYTES: usize = 512;

/// One read of one room: what it may return is decided at its start.
struct RoomRead<'a> {
    shared: &'a Shared,
    engine: Arc<Engine>,
    prefix: Vec<u8>,
    room: &'a RoomKey,
    space: Arc<SpaceKey>,
    epoch: Epoch,
    /// Below it nothing is stored: tombstones are not walked over.
    first_offset: u64,
    caps: Caps,
    /// The newest message's counts.
    last_ordinal: u64,
    last_bytes: u64,
    expired_at: Option<Millis>,
}

impl<'a> RoomRead<'a> {
    /// `None`: there is nothing to read.
    fn begin(shared: &'a Shared, room: &'a RoomKey) -> Result<Option<Self>, HistoryError> {
        let space = SpaceKey { tenant: room.tenant.clone(), namespace: room.namespace.clone() };
        let Some(epoch) = shared.epoch(&space) else { return Ok(None) };
        let engine = shared.engine()?;
        let prefix = key::room(room);
        let first_offset = engine.head(&prefix)?.map_or(0, |head| head.first_offset);
        let Some((_, last)) = engine.last(&prefix, first_offset)? else { return Ok(None) };
        Ok(Some(Self {
            shared,
            prefix,
            room,
            space: Arc::new(space),
            epoch,
            first_offset,
            caps: Caps::of(&shared.settings),
            last_ordinal: last.ordinal,
            last_bytes: last.end_bytes,
            expired_at: shared.expired_at(),
            engine,
        }))
    }

    fn live(&self, message: &Message) -> bool {
        self.caps.keep(message, self.last_ordinal, self.last_bytes)
            && self.expired_at.is_none_or(|at| message.timestamp_ms > at)
    }

    fn decode(&self, offset: u64, message: &Message, value: &Bytes) -> Option<Arc<Publication>> {
        let position = Position { epoch: self.epoch, offset };
        let publication = message.publication(value, &self.space, &self.room.room, position);
        if publication.is_none() {
            self.shared.corrupt("message");
        }
        publication.map(Arc::new)
    }

    /// Shows the live messages among `entries` to `visit` until it breaks.
    fn visit(
        &self,
        entries: impl Iterator<Item = fjall::Result<(u64, Bytes)>>,
        mut visit: impl FnMut(u64, Message, &Bytes) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        for entry in entries {
            let (offset, value) = entry?;
            let Some(message) = Message::head(&value) else {
                self.shared.corrupt("message");
                continue;
            };
            if self.live(&message) && visit(offset, message, &value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

pub(super) fn read(
    shared: &Shared,
    room: &RoomKey,
    after_offset: u64,
    limit: usize,
) -> Result<Vec<Arc<Publication>>, HistoryError> {
    let mut found = Vec::new();
    let Some(from) = after_offset.checked_add(1).filter(|_| limit > 0) else { return Ok(found) };
    let Some(read) = RoomRead::begin(shared, room)? else { return Ok(found) };
    let entries = read.engine.range(&read.prefix, from.max(read.first_offset), u64::MAX);
    read.visit(entries, |offset, message, value| {
        found.extend(read.decode(offset, &message, value));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(found)
}

pub(super) fn tail(
    shared: &Shared,
    room: &RoomKey,
    before_offset: Option<u64>,
    limit: usize,
) -> Result<Vec<Arc<Publication>>, HistoryError> {
    let mut found = Vec::new();
    let to = before_offset.map_or(Some(u64::MAX), |before| before.checked_sub(1));
    let Some(to) = to.filter(|_| limit > 0) else { return Ok(found) };
    let Some(read) = RoomRead::begin(shared, room)? else { return Ok(found) };
    let entries = read.engine.range(&read.prefix, read.first_offset, to);
    read.visit(entries.rev(), |offset, message, value| {
        found.extend(read.decode(offset, &message, value));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    found.reverse();
    Ok(found)
}

/// `seq` grows with the offset inside a room, so the newest messages are walked backwards until `after_seq`; the caps
/// bound the walk.
pub(super) fn read_seq(
    shared: &Shared,
    room: &RoomKey,
    after_seq: u64,
    limit: usize,
) -> Result<Option<Vec<Arc<Publication>>>, HistoryError> {
    let mut found = Vec::new();
    let read = RoomRead::begin(shared, room)?;
    if let Some(read) = &read {
        for entry in read.engine.range(&read.prefix, read.first_offset, u64::MAX).rev() {
            let (offset, value) = entry?;
            let Some(message) = Message::head(&value) else {
                shared.corrupt("message");
                continue;
            };
            if message.seq <= after_seq {
                found.reverse();
                found.truncate(limit);
                return Ok(Some(found));
            }
            if !read.live(&message) {
                return Ok(None);
            }
            found.extend(read.decode(offset, &message, &value));
        }
    }
    if removed_seq(shared, room)? > after_seq {
        return Ok(None);
    }
    found.reverse();
    found.truncate(limit);
    Ok(Some(found))
}

/// The highest `seq` of the room's messages that have been removed.
fn removed_seq(shared: &Shared, room: &RoomKey) -> Result<u64, HistoryError> {
    let engine = shared.engine()?;
    if let Some(head) = engine.head(&key::room(room))? {
        return Ok(head.removed_seq);
    }
    let space = SpaceKey { tenant: room.tenant.clone(), namespace: room.namespace.clone() };
    let record = engine.state.get(key::space(key::SPACES, &space))?;
    Ok(record.and_then(|value| SpaceRecord::decode(&value)).map_or(0, |space| space.forgotten_seq))
}

pub(super) fn bounds(shared: &Shared, room: &RoomKey) -> Result<Option<(u64, u64)>, HistoryError> {
    let Some(read) = RoomRead::begin(shared, room)? else { return Ok(None) };
    let first_of = |entries: &mut dyn Iterator<Item = fjall::Result<(u64, Bytes)>>| {
        let mut found = None;
        read.visit(entries, |offset, _, _| {
            found = Some(offset);
            ControlFlow::Break(())
        })?;
        Ok::<_, HistoryError>(found)
    };
    let mut entries = read.engine.range(&read.prefix, read.first_offset, u64::MAX);
    let Some(first) = first_of(&mut entries)? else { return Ok(None) };
    let last = first_of(&mut entries.rev())?.unwrap_or(first);
    Ok(Some((first, last)))
}

pub(super) fn session(shared: &Shared, pid: &Pid) -> Result<Option<SessionRecord>, HistoryError> {
    let key = pid.as_str().as_bytes();
    if key.is_empty() || key.len() > MAX_PID_BYTES {
        return Ok(None);
    }
    let Some(value) = shared.engine()?.sessions.get(key).map_err(HistoryError::from)? else { return Ok(None) };
    let Some((generation, expires_at)) = value::decode_session_expiry(&value) else {
        shared.corrupt("session");
        return Ok(None);
    };
    if session_expired(shared, generation, expires_at) {
        return Ok(None);
    }
    let record = value::decode_session(pid, &value);
    if record.is_none() {
        shared.corrupt("session");
    }
    Ok(record)
}

/// A session that was connected when an earlier process ended was cut then; it may be claimed for a while from this
/// start on.
pub(super) fn session_expired(shared: &Shared, generation: u64, expires_at: Option<Millis>) -> bool {
    let now = shared.now();
    match expires_at {
        Some(at) => at <= now,
        None if generation == shared.generation => false,
        None => shared.opened_at.saturating_add(shared.settings.session_grace_ms) <= now,
    }
}
