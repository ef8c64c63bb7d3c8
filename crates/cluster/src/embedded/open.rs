//! Opening: what the end of the process before means for the counters.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};

use fjall::PersistMode;
use rustc_hash::FxHashMap;
use tidegate_hub::SpaceStart;
use tidegate_types::{Publication, SpaceKey};

use super::commit::EmbeddedBackend;
use super::engine::Engine;
use super::value::{self, Meta, SpaceRecord};
use super::{Shared, journal, key};
use crate::history::{Fsync, HistoryError, HistorySettings};
use crate::queue::Queue;
use crate::random_epoch;

/// The layout of the trees and values. Another number is refused.
const FORMAT: u64 = 1;

/// How often a lock held by somebody else is tried again: a predecessor may just be ending.
const LOCK_TRIES: u32 = 5;

pub(super) fn open(dir: &Path, settings: HistorySettings) -> Result<(Arc<Shared>, EmbeddedBackend), HistoryError> {
    let failed = |error: &dyn std::fmt::Display| HistoryError::Open { dir: dir.to_owned(), reason: error.to_string() };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| failed(&error))?;
    let now = (settings.clock)();
    let damaged = repair_journal(dir, now)?;
    let engine = Engine::open(dir)?;

    let before = match engine.state.get(key::META)? {
        None => None,
        Some(value) => {
            let found = Meta::format(&value).unwrap_or(0);
            if found != FORMAT {
                return Err(HistoryError::Version { dir: dir.to_owned(), found, known: FORMAT });
            }
            Some(Meta::decode(&value).ok_or_else(|| failed(&"its meta record is damaged"))?)
        }
    };
    let boot_id = boot_id();
    let was_clean = before.as_ref().is_none_or(|meta| meta.clean) && !damaged;
    // Without fsync in each group, a reboot may have taken what had been reported and what had been reserved. A clean
    // stop is fsynced.
    let rebooted = before.as_ref().is_some_and(|meta| meta.boot_id != boot_id || boot_id.is_empty());
    let new_epochs = damaged || (!was_clean && rebooted && settings.fsync != Fsync::Always);
    let generation = before.as_ref().map_or(0, |meta| meta.generation) + 1;

    let mut batch = engine.batch(true);
    let mut spaces = FxHashMap::default();
    for (space, mut record) in space_records(&engine, dir)? {
        if new_epochs {
            record.epoch = random_epoch()?;
            batch.insert(&engine.state, key::space(key::SPACES, &space), record.encode());
        }
        spaces.insert(space, record);
    }
    let meta = Meta { format: FORMAT, generation, clean: false, boot_id };
    batch.insert(&engine.state, key::META, meta.encode());
    batch.commit()?;
    engine.db.persist(PersistMode::SyncAll)?;
    if !was_clean {
        tracing::warn!(
            dir = %dir.display(), new_epochs, spaces = spaces.len(),
            "the history store was not closed; counters continue beyond what may have been handed out"
        );
    }

    let epochs = spaces.iter().map(|(space, record)| (space.clone(), record.epoch)).collect();
    let shared = Arc::new(Shared {
        dir: dir.to_owned(),
        queue: Queue::new(settings.queue_bytes, settings.queue_items),
        engine: RwLock::new(Some(Arc::new(engine))),
        epochs: RwLock::new(epochs),
        generation,
        opened_at: now,
        was_clean,
        loaded: AtomicBool::new(false),
        settings,
    });
    let backend = EmbeddedBackend::new(Arc::clone(&shared), spaces);
    Ok((shared, backend))
}

/// Whether the journal was damaged. Done under the engine's lock: a running process's journal looks torn.
#[allow(clippy::incompatible_msrv, reason = "the engine needs a newer compiler than this lock does")]
fn repair_journal(dir: &Path, now_ms: u64) -> Result<bool, HistoryError> {
    let failed = |error: std::io::Error| HistoryError::Open { dir: dir.to_owned(), reason: error.to_string() };
    let lock = match File::options().read(true).write(true).open(dir.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    for attempt in 1..=LOCK_TRIES {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt < LOCK_TRIES => {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            Err(TryLockError::WouldBlock) => return Err(HistoryError::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    remove_unborn(dir).map_err(failed)?;
    match journal::repair(dir, now_ms).map_err(failed)? {
        journal::End::Whole => Ok(false),
        journal::End::Torn { discarded } => {
            tracing::warn!(
                dir = %dir.display(), discarded_bytes = discarded,
                "cut off the unfinished end of the history store's journal; nothing in it had been acknowledged"
            );
            Ok(false)
        }
        journal::End::Damaged { discarded, kept_in } => {
            tracing::warn!(
                dir = %dir.display(), discarded_bytes = discarded, kept_in = %kept_in.display(),
                "cut off the damaged end of the history store's journal; messages may be lost, all epochs are new"
            );
            Ok(true)
        }
    }
}

/// A process that was killed while it made the store leaves a journal without a version marker, which the engine takes
/// for a foreign file and refuses for ever. The marker is made before anything is written, so nothing is lost.
fn remove_unborn(dir: &Path) -> std::io::Result<()> {
    let marker = dir.join("version");
    let born = marker.metadata().is_ok_and(|metadata| metadata.len() > 0);
    if !born && journal::is_blank(dir)? {
        for path in [dir.join("0.jnl"), marker] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

/// Changes with each boot of the machine. Empty (never equal to an earlier one) where the kernel does not tell.
fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

fn space_records(engine: &Engine, dir: &Path) -> Result<Vec<(SpaceKey, SpaceRecord)>, HistoryError> {
    let mut records = Vec::new();
    for guard in engine.state.prefix(key::SPACES) {
        let (key, value) = guard.into_inner()?;
        // Skipping one would give its counters a second life under the same epoch; better not to start.
        let (Some(space), Some(record)) = (key::parse_space_record(&key), SpaceRecord::decode(&value)) else {
            return Err(HistoryError::Open { dir: dir.to_owned(), reason: "a space's record is damaged".into() });
        };
        records.push((space, record));
    }
    Ok(records)
}

pub(super) fn load(shared: &Shared, first: bool) -> Result<Vec<(SpaceKey, SpaceStart)>, HistoryError> {
    let engine = shared.engine()?;
    let mut starts: FxHashMap<SpaceKey, SpaceStart> = FxHashMap::default();
    for (space, record) in space_records(&engine, &shared.dir)? {
        let start = SpaceStart {
            last_seq: record.last_seq,
            reserved_seq: record.reserved_seq,
            clean: shared.was_clean && first,
            ..SpaceStart::fresh(record.epoch)
        };
        starts.insert(space, start);
    }
    for guard in engine.rooms.iter() {
        let prefix = guard.key()?;
        let Some((space, room)) = key::parse_room(&prefix) else {
            shared.corrupt("room");
            continue;
        };
        let Some(start) = starts.get_mut(&space) else { continue };
        let (head, _) = engine.counters(&prefix)?;
        start.last_seq = start.last_seq.max(head.last_seq);
        start.rooms.push(head.start(room));
    }
    if first && shared.was_clean {
        for (space, start) in &mut starts {
            let ring = read_ring(&engine, space, start);
            match ring {
                Some(ring) => start.ring = ring,
                None => {
                    // What is missing must not be taken for what was never there.
                    shared.corrupt("ring");
                    start.clean = false;
                }
            }
        }
    }
    Ok(starts.into_iter().collect())
}

fn read_ring(engine: &Engine, space: &SpaceKey, start: &SpaceStart) -> Option<Vec<Arc<Publication>>> {
    let shared_key = Arc::new(space.clone());
    let mut ring = Vec::new();
    for guard in engine.state.prefix(key::space(key::RINGS, space)) {
        let (_, value) = guard.into_inner().ok()?;
        ring.push(Arc::new(value::decode_ring_entry(&value, &shared_key, start.epoch)?));
    }
    Some(ring)
}
