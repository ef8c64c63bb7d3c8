//! How near the store comes to its disk, and how fast it reads:
//! `cargo run --release -p tidegate-cluster --example storage -- [--seconds 3] [--json]`.
//!
//! 128-byte messages over 64 rooms with fsync in each group commit, as many as the queue takes, and then one at a time;
//! between the rounds, on the same disk, a bare loop writes as many bytes as a group has and calls fdatasync: the floor.
//! Then each room's messages are read by offset, from the end, and by sequence number.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{self, File};
use std::io::{Seek, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_cluster::{EmbeddedHistory, Fsync, History, HistorySettings, Write, Written};
use tidegate_types::{Class, Epoch, EventName, Position, Publication, RoomKey, RoomName, SpaceKey};

const ROOMS: u64 = 64;
const MESSAGE: usize = 128;
/// The store and the bare loop take turns, so that a disk that changes its speed changes it for both.
const ROUNDS: u32 = 3;
/// As large as the store's journal before it begins a new one.
const FILE_BYTES: u64 = 64 << 20;

struct Bench {
    history: EmbeddedHistory,
    space: Arc<SpaceKey>,
    epoch: Epoch,
    rooms: Vec<RoomName>,
    event: EventName,
    stored: Arc<AtomicU64>,
    sent: u64,
}

#[derive(Clone, Copy, Default)]
struct Rate {
    messages: f64,
    groups: f64,
    seconds: f64,
}

impl Bench {
    fn open(dir: &Path) -> Self {
        let stored = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&stored);
        let listener = Arc::new(move |written: &[Written]| {
            let count = written.iter().filter(|one| matches!(one, Written::Synced { .. })).count();
            counter.fetch_add(count as u64, Ordering::Release);
        });
        let settings = HistorySettings { fsync: Fsync::Always, ..HistorySettings::default() };
        let history = EmbeddedHistory::open(dir, settings, listener).unwrap();
        let space = Arc::new(SpaceKey { tenant: "default".try_into().unwrap(), namespace: "/".try_into().unwrap() });
        let epoch = history.open_space(&space).unwrap().epoch;
        let rooms = (0..ROOMS).map(|n| format!("room-{n}").as_str().try_into().unwrap()).collect();
        let event = EventName::try_from("room:message").unwrap();
        Self { history, space, epoch, rooms, event, stored, sent: 0 }
    }

    fn submit(&mut self) {
        let seq = self.sent;
        let publication = Arc::new(Publication {
            space: Arc::clone(&self.space),
            room: self.rooms.get((seq % ROOMS) as usize).unwrap().clone(),
            event: self.event.clone(),
            data: Bytes::from(vec![b'x'; MESSAGE]),
            attachments: Arc::from([]),
            class: Class::Persistent,
            position: Some(Position { epoch: self.epoch, offset: seq / ROOMS + 1 }),
            seq: seq + 1,
            timestamp_ms: tidegate_cluster::system_clock()(),
        });
        while self.history.submit(Write::Append(Arc::clone(&publication))).is_err() {
            std::thread::sleep(Duration::from_micros(100));
        }
        self.sent += 1;
    }

    fn settle(&self) {
        while self.stored.load(Ordering::Acquire) < self.sent {
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Appends for so long, with at most `window` messages on their way.
    fn append(&mut self, seconds: f64, window: u64) -> Rate {
        let (groups, from, started) = (self.history.stats().commits, self.sent, Instant::now());
        while started.elapsed().as_secs_f64() < seconds {
            while self.sent - self.stored.load(Ordering::Acquire) >= window {
                std::hint::spin_loop();
            }
            self.submit();
        }
        self.settle();
        Rate {
            messages: (self.sent - from) as f64,
            groups: (self.history.stats().commits - groups) as f64,
            seconds: started.elapsed().as_secs_f64(),
        }
    }

    /// Messages per second of one way to read, over all rooms.
    fn read(&self, seconds: f64, read: impl Fn(&EmbeddedHistory, &RoomKey) -> usize) -> f64 {
        let (mut found, started) = (0, Instant::now());
        while started.elapsed().as_secs_f64() < seconds {
            for room in &self.rooms {
                let (tenant, namespace) = (self.space.tenant.clone(), self.space.namespace.clone());
                found += read(&self.history, &RoomKey { tenant, namespace, room: room.clone() });
            }
        }
        found as f64 / started.elapsed().as_secs_f64()
    }
}

/// Writes and fdatasyncs per second of a bare loop with this many bytes each.
fn floor(dir: &Path, bytes: usize, seconds: f64) -> Rate {
    let mut file = File::create(dir.join("floor")).unwrap();
    file.set_len(FILE_BYTES).unwrap();
    let group = vec![b'x'; bytes.max(1)];
    let (mut groups, mut written, started) = (0u64, 0, Instant::now());
    while started.elapsed().as_secs_f64() < seconds {
        if written + group.len() as u64 > FILE_BYTES {
            file.set_len(0).unwrap();
            file.set_len(FILE_BYTES).unwrap();
            file.rewind().unwrap();
            written = 0;
        }
        file.write_all(&group).unwrap();
        file.sync_data().unwrap();
        written += group.len() as u64;
        groups += 1;
    }
    Rate { messages: 0.0, groups: groups as f64, seconds: started.elapsed().as_secs_f64() }
}

/// Bytes that this process has handed to `write` so far.
fn written() -> f64 {
    let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0.0)
}

fn sum(rates: &[Rate]) -> Rate {
    rates.iter().fold(Rate::default(), |sum, rate| Rate {
        messages: sum.messages + rate.messages,
        groups: sum.groups + rate.groups,
        seconds: sum.seconds + rate.seconds,
    })
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let seconds = args.iter().position(|arg| arg == "--seconds").and_then(|at| args.get(at + 1)?.parse().ok());
    let turn = seconds.unwrap_or(3.0) / f64::from(ROUNDS);
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&dir.path().join("store"));

    // What a message is in the journal: alone in its group, before anything is moved to a table.
    bench.append(0.05, 1);
    let (before, from) = (written(), bench.sent);
    bench.append(0.2, 1);
    let message_bytes = (written() - before) / (bench.sent - from) as f64;

    let (mut full, mut full_floor, mut single, mut single_floor) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let rate = bench.append(turn, u64::MAX);
        full_floor.push(floor(dir.path(), (message_bytes * rate.messages / rate.groups) as usize, turn));
        full.push(rate);
        single.push(bench.append(turn, 1));
        single_floor.push(floor(dir.path(), message_bytes as usize, turn));
    }
    let (full, full_floor) = (sum(&full), sum(&full_floor));
    let (single, single_floor) = (sum(&single), sum(&single_floor));
    let by_offset = bench.read(turn, |history, room| history.read(room, 0, usize::MAX).unwrap().len());
    let tail = bench.read(turn, |history, room| history.tail(room, None, 1_000).unwrap().len());
    // From beyond what the cap has removed: below that, the store says that it does not reach back.
    let kept = bench.sent.saturating_sub(ROOMS * 900);
    let by_seq = bench.read(turn, |history, room| history.read_seq(room, kept, 1_000).unwrap().unwrap().len());

    let rows = [
        ("per_second", "messages stored per second, fsync always", full.messages / full.seconds),
        ("commits_per_second", "  in so many group commits", full.groups / full.seconds),
        ("messages_per_commit", "  of so many messages", full.messages / full.groups),
        (
            "floor_per_second",
            "  write + fdatasync of as many bytes, per second",
            full_floor.groups / full_floor.seconds,
        ),
        ("bytes_per_message", "bytes of a message in the journal", message_bytes),
        ("single_per_second", "one message at a time, per second", single.messages / single.seconds),
        (
            "single_floor_per_second",
            "  write + fdatasync of as many bytes, per second",
            single_floor.groups / single_floor.seconds,
        ),
        ("read_per_second", "messages read per second by offset", by_offset),
        ("tail_per_second", "  from the end of the room", tail),
        ("read_seq_per_second", "  by sequence number, for a recovery", by_seq),
    ];
    if args.iter().any(|arg| arg == "--json") {
        let fields: Vec<String> = rows.iter().map(|(key, _, value)| format!("\"{key}\":{value:.1}")).collect();
        println!("{{{}}}", fields.join(","));
        return;
    }
    for (_, label, value) in rows {
        println!("{label:<52} {value:>12.0}");
    }
}
