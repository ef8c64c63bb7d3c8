use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tidegate_hub::{Pid, SessionRecord, SpaceStart};
use tidegate_types::{NodeId, Publication, RoomKey, SpaceKey};

use super::{MemoryBroker, core::Core};
use crate::{Full, History, HistoryError, HistoryStats, Write, Written};

/// Session records that may wait for the broker.
const UNSAVED: usize = 65_536;

impl Core {
    /// Carries out a write of a session's record, or keeps it until the broker can be reached.
    pub fn save(&mut self, id: NodeId, write: Write) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.link.is_none() {
            node.unsaved.push_back(write);
            return;
        }
        let on_written = Arc::clone(&node.on_written);
        match write {
            Write::SaveSession(record) => {
                let ttl_ms = record.expires_at.map(|at| at.saturating_sub(now));
                self.server.save_session(id, &record, ttl_ms, now);
                let saved = Written::Saved { pid: record.pid };
                self.answer(id, move || on_written(&[saved]));
            }
            Write::DropSession(pid) => self.server.drop_session(id, &pid, now),
            // The broker itself appends, and hands out the numbers.
            Write::Append(_) | Write::Reserve { .. } => {}
        }
    }
}

impl MemoryBroker {
    fn read_from<T>(&self, read: impl FnOnce(&mut Core) -> T) -> Result<T, HistoryError> {
        self.shared.with(|core| match core.is_linked(self.node) {
            true => Ok(read(core)),
            false => Err(HistoryError::Store("the broker cannot be reached".into())),
        })
    }

    fn kept(&self, room: &RoomKey) -> Result<Vec<Arc<Publication>>, HistoryError> {
        self.read_from(|core| core.server.kept(&space_of(room), &room.room, core.now))
    }
}

fn space_of(room: &RoomKey) -> SpaceKey {
    SpaceKey { tenant: room.tenant.clone(), namespace: room.namespace.clone() }
}

fn offset_of(publication: &Publication) -> u64 {
    publication.position.map_or(0, |position| position.offset)
}

impl History for MemoryBroker {
    fn load(&self) -> Result<Vec<(SpaceKey, SpaceStart)>, HistoryError> {
        Ok(Vec::new())
    }

    fn open_space(&self, key: &SpaceKey) -> Result<SpaceStart, HistoryError> {
        self.read_from(|core| {
            let life = core.touch(self.node, &Arc::new(key.clone()));
            SpaceStart { last_seq: life.seq, ..SpaceStart::fresh(life.epoch) }
        })
    }

    fn submit(&self, write: Write) -> Result<(), Full> {
        self.shared.with(|core| {
            let waiting = core.nodes.get(&self.node).map_or(0, |node| node.unsaved.len());
            if waiting >= UNSAVED {
                return Err(Full);
            }
            core.save(self.node, write);
            Ok(())
        })
    }

    fn queue_ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }

    fn read(&self, room: &RoomKey, after_offset: u64, limit: usize) -> Result<Vec<Arc<Publication>>, HistoryError> {
        let kept = self.kept(room)?.into_iter();
        Ok(kept.filter(|of| offset_of(of) > after_offset).take(limit).collect())
    }

    fn tail(
        &self,
        room: &RoomKey,
        before_offset: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Arc<Publication>>, HistoryError> {
        let before = before_offset.unwrap_or(u64::MAX);
        let mut kept: Vec<_> = self.kept(room)?.into_iter().filter(|of| offset_of(of) < before).collect();
        Ok(kept.split_off(kept.len().saturating_sub(limit)))
    }

    fn read_seq(
        &self,
        room: &RoomKey,
        after_seq: u64,
        limit: usize,
    ) -> Result<Option<Vec<Arc<Publication>>>, HistoryError> {
        self.read_from(|core| core.server.log_by_seq(&space_of(room), &room.room, after_seq, u64::MAX, limit, core.now))
    }

    fn bounds(&self, room: &RoomKey) -> Option<(u64, u64)> {
        let kept = self.kept(room).ok()?;
        Some((offset_of(kept.first()?), offset_of(kept.last()?)))
    }

    fn session(&self, pid: &Pid) -> Result<Option<SessionRecord>, HistoryError> {
        self.read_from(|core| core.server.session(pid, core.now))
    }

    fn healthy(&self) -> bool {
        self.shared.lock().is_linked(self.node)
    }

    fn stats(&self) -> HistoryStats {
        HistoryStats::default()
    }

    fn close(&self, _spaces: Vec<(SpaceKey, SpaceStart)>) -> Result<(), HistoryError> {
        Ok(())
    }
}
