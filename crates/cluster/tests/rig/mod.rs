//! What the tests of both stores share: a store with a clock of its own, and its reports.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidegate_cluster::{EmbeddedHistory, Fsync, History, HistorySettings, MemoryHistory, OnWritten, Write, Written};
use tidegate_hub::{Pid, SessionRecord, SocketId, SpaceStart};
use tidegate_types::{Class, Epoch, Position, Publication, RoomKey, SpaceKey};

/// Not a limit for anything: only so that a broken store ends a test instead of hanging it.
pub const HANG: Duration = Duration::from_secs(60);
pub const START_MS: u64 = 1_700_000_000_000;

#[derive(Default)]
pub struct Reports {
    all: Mutex<Vec<Written>>,
    more: Condvar,
}

impl Reports {
    pub fn listener(self: &Arc<Self>) -> OnWritten {
        let reports = Arc::clone(self);
        Arc::new(move |written| {
            reports.all.lock().unwrap().extend_from_slice(written);
            reports.more.notify_all();
        })
    }

    pub fn wait_for(&self, what: impl Fn(&[Written]) -> bool) -> Vec<Written> {
        let all = self.all.lock().unwrap();
        let (all, timeout) = self.more.wait_timeout_while(all, HANG, |all| !what(all)).unwrap();
        assert!(!timeout.timed_out(), "never reported; so far: {:?}", &all[all.len().saturating_sub(5)..]);
        all.clone()
    }
}

pub fn space(tenant: &str, namespace: &str) -> Arc<SpaceKey> {
    Arc::new(SpaceKey { tenant: tenant.try_into().unwrap(), namespace: namespace.try_into().unwrap() })
}

pub fn room_of(space: &SpaceKey, room: &str) -> RoomKey {
    RoomKey { tenant: space.tenant.clone(), namespace: space.namespace.clone(), room: room.try_into().unwrap() }
}

pub fn is_final(written: &Written, space: &Arc<SpaceKey>, wanted: u64) -> bool {
    match written {
        Written::Synced { space: at, seq } | Written::Failed { space: at, seq, .. } => at == space && *seq == wanted,
        Written::Appended { .. } | Written::Reserved { .. } | Written::Saved { .. } => false,
    }
}

pub struct Rig {
    pub history: Box<dyn History>,
    pub reports: Arc<Reports>,
    pub clock: Arc<AtomicU64>,
    pub settings: HistorySettings,
    pub space: Arc<SpaceKey>,
    pub epoch: Epoch,
}

pub fn settings(clock: &Arc<AtomicU64>) -> HistorySettings {
    let clock = Arc::clone(clock);
    HistorySettings {
        ttl_ms: 60_000,
        max_messages_per_room: 100,
        fsync: Fsync::Never,
        clock: Arc::new(move || clock.load(Ordering::SeqCst)),
        ..HistorySettings::default()
    }
}

impl Rig {
    pub fn memory(change: impl FnOnce(&mut HistorySettings)) -> Self {
        let clock = Arc::new(AtomicU64::new(START_MS));
        let mut settings = settings(&clock);
        change(&mut settings);
        let reports = Arc::<Reports>::default();
        let history = MemoryHistory::open(settings.clone(), reports.listener()).unwrap();
        Self::with(Box::new(history), reports, clock, settings)
    }

    pub fn embedded(dir: &Path, change: impl FnOnce(&mut HistorySettings)) -> Self {
        let clock = Arc::new(AtomicU64::new(START_MS));
        let mut settings = settings(&clock);
        change(&mut settings);
        let reports = Arc::<Reports>::default();
        let history = EmbeddedHistory::open(dir, settings.clone(), reports.listener()).unwrap();
        Self::with(Box::new(history), reports, clock, settings)
    }

    fn with(
        history: Box<dyn History>,
        reports: Arc<Reports>,
        clock: Arc<AtomicU64>,
        settings: HistorySettings,
    ) -> Self {
        let space = space("default", "/");
        let epoch = history.open_space(&space).unwrap().epoch;
        Self { history, reports, clock, settings, space, epoch }
    }

    pub fn advance(&self, by_ms: u64) {
        self.clock.fetch_add(by_ms, Ordering::SeqCst);
    }

    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    pub fn message(&self, room: &str, offset: u64, seq: u64) -> Arc<Publication> {
        message(&self.space, self.epoch, room, offset, seq, self.now())
    }

    /// Submits one message and waits until it is decided.
    pub fn append(&self, room: &str, offset: u64, seq: u64) {
        self.submit_and_wait(self.message(room, offset, seq));
    }

    pub fn submit_and_wait(&self, message: Arc<Publication>) {
        let (space, seq) = (Arc::clone(&message.space), message.seq);
        self.history.submit(Write::Append(message)).unwrap();
        self.reports.wait_for(|all| all.iter().any(|written| is_final(written, &space, seq)));
    }

    /// Waits until everything submitted so far is through.
    pub fn settle(&self) {
        let key = space("settle", "/");
        self.history.open_space(&key).unwrap();
    }

    pub fn read(&self, room: &str) -> Vec<u64> {
        offsets(&self.history.read(&room_of(&self.space, room), 0, usize::MAX).unwrap())
    }
}

pub fn message(
    space: &Arc<SpaceKey>,
    epoch: Epoch,
    room: &str,
    offset: u64,
    seq: u64,
    timestamp_ms: u64,
) -> Arc<Publication> {
    Arc::new(Publication {
        space: Arc::clone(space),
        room: room.try_into().unwrap(),
        event: "room:message".try_into().unwrap(),
        data: Bytes::from(format!("{{\"text\":\"{offset} of {room}\"}}")),
        attachments: if offset.is_multiple_of(2) {
            vec![Bytes::from_static(b"\x00\xff binary"), Bytes::new()].into()
        } else {
            Arc::from([])
        },
        class: Class::Persistent,
        position: Some(Position { epoch, offset }),
        seq,
        timestamp_ms,
    })
}

pub fn offsets(messages: &[Arc<Publication>]) -> Vec<u64> {
    messages.iter().map(|message| message.position.unwrap().offset).collect()
}

pub fn session(pid: &str, expires_at: Option<u64>) -> SessionRecord {
    SessionRecord {
        pid: Pid::from(pid),
        socket_id: SocketId::from("socket-1"),
        tenant: "default".try_into().unwrap(),
        namespace: "/".try_into().unwrap(),
        user: "alice".try_into().unwrap(),
        rooms: vec![("one".try_into().unwrap(), 3), ("räume/2".try_into().unwrap(), u64::MAX)],
        token_expires_at: Some(START_MS + 1),
        expires_at,
    }
}

pub fn start_of<'a>(all: &'a [(SpaceKey, SpaceStart)], key: &SpaceKey) -> &'a SpaceStart {
    &all.iter().find(|(space, _)| space == key).expect("the space is known").1
}
