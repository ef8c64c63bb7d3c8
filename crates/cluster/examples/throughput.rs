//! What an append costs through the contract: `cargo run --release -p tidegate-cluster --example throughput`.
//!
//! 128-byte messages over 64 rooms, 3 seconds each: as fast as the queue takes them, then at fixed rates, where groups
//! are small. CPU is that of the whole process without the submitting thread.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_cluster::{EmbeddedHistory, Fsync, History, HistorySettings, MemoryHistory, Write, Written};
use tidegate_types::{Class, Position, Publication, RoomName, SpaceKey};

/// CPU seconds: (of all threads but this one, of this one).
fn cpu() -> (f64, f64) {
    let of = |path: &std::path::Path| -> f64 {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
    };
    let all: f64 =
        std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| of(&task.path().join("schedstat"))).sum();
    let own = of(std::path::Path::new("/proc/thread-self/schedstat"));
    (all - own, own)
}

/// Memory that belongs to this process alone, MiB.
fn private_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    let kib: f64 = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum();
    kib / 1024.0
}

fn run(name: &str, history: &dyn History, done: &AtomicU64, rate: Option<u64>) {
    let space = Arc::new(SpaceKey { tenant: "default".try_into().unwrap(), namespace: "/".try_into().unwrap() });
    let epoch = history.open_space(&space).unwrap().epoch;
    let rooms: Vec<RoomName> = (0..64).map(|n| format!("room-{n}").as_str().try_into().unwrap()).collect();
    let event = tidegate_types::EventName::try_from("room:message").unwrap();
    let started = Instant::now();
    let (before, own_before) = cpu();
    let mut seq = 0u64;
    while started.elapsed() < Duration::from_secs(3) {
        if let Some(rate) = rate {
            let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
            if seq >= due {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
        }
        let room = rooms.get((seq % 64) as usize).unwrap().clone();
        let publication = Arc::new(Publication {
            space: Arc::clone(&space),
            room,
            event: event.clone(),
            data: Bytes::from(vec![b'x'; 128]),
            attachments: Arc::from([]),
            class: Class::Persistent,
            position: Some(Position { epoch, offset: seq / 64 + 1 }),
            seq: seq + 1,
            timestamp_ms: tidegate_cluster::system_clock()(),
        });
        while history.submit(Write::Append(Arc::clone(&publication))).is_err() {
            std::thread::sleep(Duration::from_micros(100));
        }
        seq += 1;
    }
    while done.load(Ordering::Acquire) < seq {
        std::thread::sleep(Duration::from_micros(100));
    }
    let wall = started.elapsed().as_secs_f64();
    let (after, own_after) = cpu();
    let stats = history.stats();
    println!(
        "| {name} | {} | {:.0} | {:.2} | {:.2} | {:.1} | {:.1} |",
        rate.map_or("as fast as possible".into(), |rate| format!("{rate}/s")),
        seq as f64 / wall,
        (after - before) * 1e6 / seq as f64,
        (own_after - own_before) * 1e6 / seq as f64,
        stats.appended as f64 / stats.commits as f64,
        private_mib(),
    );
}

fn main() {
    println!(
        "| history | rate | messages/s | µs CPU/message, writer | µs CPU/message, submitter | messages/commit | private MiB of all so far |"
    );
    println!("|---|---|---|---|---|---|---|");
    let cases: [(&str, Option<Fsync>); 4] = [
        ("memory", None),
        ("embedded, fsync never", Some(Fsync::Never)),
        ("embedded, fsync every 1 s", Some(Fsync::Interval(1_000))),
        ("embedded, fsync always", Some(Fsync::Always)),
    ];
    for (name, fsync) in cases {
        for rate in [Some(1_000), Some(10_000), Some(50_000), None] {
            let done = Arc::new(AtomicU64::new(0));
            let counter = Arc::clone(&done);
            let listener = Arc::new(move |written: &[Written]| {
                let count = written.iter().filter(|one| matches!(one, Written::Synced { .. })).count();
                counter.fetch_add(count as u64, Ordering::Release);
            });
            let settings = HistorySettings::default();
            match fsync {
                None => run(name, &MemoryHistory::open(settings, listener).unwrap(), &done, rate),
                Some(fsync) => {
                    let dir = tempfile::tempdir().unwrap();
                    let settings = HistorySettings { fsync, ..settings };
                    run(name, &EmbeddedHistory::open(dir.path(), settings, listener).unwrap(), &done, rate);
                }
            }
        }
    }
}
