//! What the embedded store promises over the end of its process, clean or not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod rig;

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rig::{Reports, Rig, message, offsets, room_of, session, settings, space, start_of};
use tidegate_cluster::{EmbeddedHistory, Fsync, History, HistoryError, HistorySettings, Write, Written};
use tidegate_hub::{Pid, RoomStart, SpaceStart};
use tidegate_types::{Class, SpaceKey};

fn reopen(dir: &Path) -> EmbeddedHistory {
    let clock = Arc::new(rig::START_MS.into());
    EmbeddedHistory::open(dir, settings(&clock), Arc::<Reports>::default().listener()).unwrap()
}

#[test]
fn epochs_are_stable_over_clean_and_unclean_ends() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::embedded(dir.path(), |_| {});
    let (key, epoch) = (Arc::clone(&rig.space), rig.epoch);
    drop(rig);
    let history = reopen(dir.path());
    assert_eq!(start_of(&history.load().unwrap(), &key).epoch, epoch);
    history.close(Vec::new()).unwrap();
    let history = reopen(dir.path());
    assert_eq!(start_of(&history.load().unwrap(), &key).epoch, epoch);
    assert_ne!(history.open_space(&space("new", "/")).unwrap().epoch, epoch);
}

#[test]
fn a_clean_stop_gives_back_exact_heads_floors_and_ring_once() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::embedded(dir.path(), |_| {});
    for n in 1..=5 {
        rig.append("one", n, n);
    }
    rig.history.submit(Write::Reserve { space: Arc::clone(&rig.space), upto: 1_024 }).unwrap();
    let mut recoverable = (*rig.message("two", 4, 7)).clone();
    recoverable.class = Class::Recoverable;
    let ring = vec![rig.message("one", 5, 5), Arc::new(recoverable)];
    let rooms = vec![
        RoomStart { room: "one".try_into().unwrap(), last_offset: 6, last_persistent_seq: 5, floor_seq: 2 },
        RoomStart { room: "two".try_into().unwrap(), last_offset: 4, last_persistent_seq: 0, floor_seq: 6 },
    ];
    let start = SpaceStart {
        last_seq: 9,
        reserved_seq: 1_000,
        rooms: rooms.clone(),
        ring: ring.clone(),
        ..SpaceStart::fresh(rig.epoch)
    };
    rig.history.close(vec![((*rig.space).clone(), start)]).unwrap();

    let history = reopen(dir.path());
    let mut all = history.load().unwrap();
    let (_, loaded) = all.iter_mut().find(|(key, _)| *key == *rig.space).unwrap();
    loaded.rooms.sort_by(|a, b| a.room.cmp(&b.room));
    assert_eq!((loaded.epoch, loaded.last_seq, loaded.clean), (rig.epoch, 9, true));
    assert_eq!(loaded.reserved_seq, 1_024, "never smaller than it was");
    assert_eq!(loaded.rooms, rooms);
    assert_eq!(loaded.ring, ring);
    assert_eq!(offsets(&history.read(&room_of(&rig.space, "one"), 0, 10).unwrap()), [1, 2, 3, 4, 5]);
    drop(history);

    // The process ended without a close: its ring and heads are history.
    let history = reopen(dir.path());
    let all = history.load().unwrap();
    let loaded = start_of(&all, &rig.space);
    assert!(!loaded.clean && loaded.ring.is_empty());
    assert_eq!((loaded.last_seq, loaded.reserved_seq), (9, 1_024));
}

#[test]
fn after_an_unclean_end_messages_reservations_and_sessions_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::embedded(dir.path(), |_| {});
    for n in 1..=7 {
        rig.append("one", n, n * 2);
    }
    rig.append("two", 3, 20);
    rig.history.submit(Write::Reserve { space: Arc::clone(&rig.space), upto: 1_024 }).unwrap();
    rig.history.submit(Write::SaveSession(session("connected", None))).unwrap();
    rig.history.submit(Write::SaveSession(session("cut", Some(rig.now() + 5_000)))).unwrap();
    rig.settle();
    drop(rig.history);

    let clock = Arc::new(rig::START_MS.into());
    let settings = HistorySettings { session_grace_ms: 10_000, ..settings(&clock) };
    let history = EmbeddedHistory::open(dir.path(), settings, Arc::<Reports>::default().listener()).unwrap();
    let all = history.load().unwrap();
    let start = start_of(&all, &rig.space);
    assert_eq!((start.epoch, start.clean, start.reserved_seq, start.last_seq), (rig.epoch, false, 1_024, 20));
    let mut rooms: Vec<(&str, u64, u64)> =
        start.rooms.iter().map(|room| (room.room.as_str(), room.last_offset, room.last_persistent_seq)).collect();
    rooms.sort_unstable();
    assert_eq!(rooms, [("one", 7, 14), ("two", 3, 20)]);
    assert_eq!(offsets(&history.read(&room_of(&rig.space, "one"), 0, 10).unwrap()), [1, 2, 3, 4, 5, 6, 7]);

    let (connected, cut) = (Pid::from("connected"), Pid::from("cut"));
    assert_eq!(history.session(&connected).unwrap(), Some(session("connected", None)));
    assert!(history.session(&cut).unwrap().is_some());
    clock.fetch_add(5_000, Ordering::SeqCst);
    assert_eq!(history.session(&cut).unwrap(), None);
    assert!(history.session(&connected).unwrap().is_some());
    clock.fetch_add(5_000, Ordering::SeqCst);
    assert_eq!(history.session(&connected).unwrap(), None, "it was cut when its process died");
}

#[test]
fn counters_outlive_the_messages_that_they_counted() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(rig::START_MS.into());
    let open = || EmbeddedHistory::open(dir.path(), settings(&clock), Arc::<Reports>::default().listener()).unwrap();
    let history = open();
    let key = space("default", "/");
    let epoch = history.open_space(&key).unwrap().epoch;
    for n in 1..=2_000 {
        let room = if n % 2 == 0 { "one" } else { "two" };
        history.submit(Write::Append(message(&key, epoch, room, n, n, rig::START_MS))).unwrap();
    }
    clock.fetch_add(60_000, Ordering::SeqCst);
    history.sweep().unwrap();
    assert_eq!(history.stats().removed, 2_000);
    drop(history);
    let history = open();
    let all = history.load().unwrap();
    let start = start_of(&all, &key);
    let mut rooms: Vec<(u64, u64)> =
        start.rooms.iter().map(|room| (room.last_offset, room.last_persistent_seq)).collect();
    rooms.sort_unstable();
    assert_eq!(rooms, [(1_999, 1_999), (2_000, 2_000)]);
    assert_eq!(start.last_seq, 2_000);
}

#[test]
fn forgotten_rooms_leave_their_numbers_to_the_space() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(rig::START_MS.into());
    let open = || {
        let settings = HistorySettings { max_rooms_per_space: 10, ..settings(&clock) };
        EmbeddedHistory::open(dir.path(), settings, Arc::<Reports>::default().listener()).unwrap()
    };
    let history = open();
    let key = space("default", "/");
    let epoch = history.open_space(&key).unwrap().epoch;
    for n in 1..=200 {
        history.submit(Write::Append(message(&key, epoch, &format!("room-{n}"), 1, n, rig::START_MS))).unwrap();
    }
    clock.fetch_add(60_000, Ordering::SeqCst);
    history.sweep().unwrap();
    drop(history);
    let history = open();
    let all = history.load().unwrap();
    let start = start_of(&all, &key);
    assert_eq!(start.rooms.len(), 10);
    assert_eq!(start.last_seq, 200);
}

#[test]
fn a_second_opener_is_told_which_directory_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let rig = Rig::embedded(&path, |_| {});
    let error = EmbeddedHistory::open(&path, settings(&rig.clock), rig.reports.listener()).err().unwrap();
    assert!(matches!(error, HistoryError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    // Nor did the attempt do the first one any harm.
    rig.append("one", 1, 1);
    assert_eq!(rig.read("one"), [1]);
}

#[test]
fn the_directory_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new").join("history");
    let _rig = Rig::embedded(&path, |_| {});
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "not a directory").unwrap();
    let clock = Arc::new(rig::START_MS.into());
    let error = EmbeddedHistory::open(&path, settings(&clock), Arc::<Reports>::default().listener()).err().unwrap();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

/// Runs one test of this file as another process, with `TIDEGATE_HISTORY_DIR` set.
fn child(test: &str, dir: &Path, shell: Option<&str>) -> Child {
    let binary = std::env::current_exe().unwrap();
    let mut command = match shell {
        Some(prefix) => {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{prefix}; exec \"$0\" \"$@\"")]).arg(&binary);
            command
        }
        None => Command::new(&binary),
    };
    command.args(["--exact", test, "--nocapture"]);
    command.env("TIDEGATE_HISTORY_DIR", dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// The child's half of the kill drill: appends as fast as the store takes it, and prints what is acknowledged. It goes on
/// where the store says that its predecessor ended.
#[test]
fn child_appends_until_it_is_killed() {
    let Some(dir) = std::env::var_os("TIDEGATE_HISTORY_DIR") else { return };
    let clock = Arc::new(rig::START_MS.into());
    let settings = HistorySettings {
        max_messages_per_room: 1_000_000,
        queue_bytes: 1 << 20,
        fsync: Fsync::Always,
        ..settings(&clock)
    };
    let print = Arc::new(|written: &[Written]| {
        let mut lines = String::new();
        for written in written {
            match written {
                Written::Synced { seq, .. } => lines.push_str(&format!("synced {seq}\n")),
                Written::Reserved { upto, .. } => lines.push_str(&format!("reserved {upto}\n")),
                Written::Appended { .. } | Written::Saved { .. } | Written::Failed { .. } => {}
            }
        }
        // One write for the whole group: what is printed was acknowledged before.
        std::io::stdout().write_all(lines.as_bytes()).unwrap();
    });
    let history = EmbeddedHistory::open(Path::new(&dir), settings, print).unwrap();
    let key = space("default", "/");
    let last = history.load().unwrap().first().map_or(0, |(_, start)| start.last_seq);
    let epoch = history.open_space(&key).unwrap().epoch;
    // On a line of its own: with one processor, the harness has begun a line with the test's name.
    println!("\nepoch {}", epoch.0);
    for seq in last + 1.. {
        let mut writes = vec![Write::Append(message(&key, epoch, "one", seq, seq, rig::START_MS))];
        if seq % 512 == 1 {
            writes.insert(0, Write::Reserve { space: Arc::clone(&key), upto: seq + 1_024 });
        }
        for write in writes {
            while history.submit(write.clone()).is_err() {
                // Its parent is gone when nobody reads what it prints: the report panicked.
                assert!(history.healthy());
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn everything_acknowledged_before_kill_9_is_there_after_it() {
    const KILLS: u64 = 5;
    let dir = tempfile::tempdir().unwrap();
    let mut epoch = None;
    let (mut acknowledged, mut reserved, mut there) = (0u64, 0u64, 0u64);
    for kill in 1..=KILLS {
        let mut process = child("child_appends_until_it_is_killed", dir.path(), None);
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut last = there;
        let mut note = |line: &str, last: &mut u64| match line.split_once(' ') {
            Some(("synced", seq)) => {
                let seq = seq.parse().unwrap();
                assert_eq!(seq, *last + 1, "in order");
                *last = seq;
            }
            Some(("reserved", upto)) => reserved = reserved.max(upto.parse().unwrap()),
            Some(("epoch", number)) => {
                let number = number.parse::<u64>().ok();
                assert!(epoch.is_none() || epoch == number, "the same life");
                epoch = number;
            }
            _ => {}
        };
        // Each time at another place.
        while last < there + 200 + 150 * kill {
            note(&lines.next().expect("the child lives").unwrap(), &mut last);
        }
        process.kill().unwrap();
        // What it had said before it died was acknowledged too; a line that was cut off was not.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        for line in rest.split_last().map_or(&[][..], |(_, whole)| whole) {
            note(line, &mut last);
        }
        process.wait().unwrap();
        acknowledged = acknowledged.max(last);

        let clock = Arc::new(rig::START_MS.into());
        let settings = HistorySettings { max_messages_per_room: 1_000_000, ..settings(&clock) };
        let history = EmbeddedHistory::open(dir.path(), settings, Arc::<Reports>::default().listener()).unwrap();
        let key: Arc<SpaceKey> = space("default", "/");
        let found = offsets(&history.read(&room_of(&key, "one"), 0, usize::MAX).unwrap());
        there = found.len() as u64;
        assert!(there >= acknowledged, "kill {kill}: acknowledged up to {acknowledged}, found {there}");
        assert!(found.iter().copied().eq(1..=there), "kill {kill}: no hole, of all lives");
        let all = history.load().unwrap();
        let start = start_of(&all, &key);
        assert_eq!((Some(start.epoch.0), start.clean), (epoch, false));
        assert!(start.reserved_seq >= reserved && start.last_seq == there);
    }
    assert!(acknowledged >= KILLS * 200 + 150 * 15);
}

/// The child's half of the disk-full drill: one append for each line read, its fate for each line printed.
#[test]
fn child_appends_on_demand() {
    let Some(dir) = std::env::var_os("TIDEGATE_HISTORY_DIR") else { return };
    let rig = Rig::embedded(Path::new(&dir), |settings| settings.max_messages_per_room = 1_000_000);
    println!("ready");
    let mut lines = std::io::stdin().lines();
    let mut seq = 0;
    let mut stored = Vec::new();
    while let Some(Ok(line)) = lines.next() {
        match line.as_str() {
            "append" => {
                seq += 1;
                let mut big = (*rig.message("one", seq, seq)).clone();
                big.data = vec![b'x'; 10_000].into();
                rig.submit_and_wait(Arc::new(big));
                let all = rig.reports.wait_for(|_| true);
                let failed = all.iter().find_map(|written| {
                    let Written::Failed { seq: at, error, .. } = written else { return None };
                    (*at == seq).then(|| error.clone())
                });
                if failed.is_none() {
                    stored.push(seq);
                }
                println!(
                    "{} healthy={}",
                    failed.map_or("stored".into(), |error| format!("failed {error}")),
                    rig.history.healthy()
                );
            }
            "check" => println!("check {}", rig.read("one") == stored),
            "fill" => {
                let mut filler = std::fs::File::create(Path::new(&dir).with_file_name("filler")).unwrap();
                let error = loop {
                    if let Err(error) = filler.write_all(&[0; 4_096]) {
                        break error;
                    }
                };
                println!("{error}");
            }
            "free" => println!("{:?}", std::fs::remove_file(Path::new(&dir).with_file_name("filler"))),
            _ => break,
        }
    }
}

#[test]
fn a_full_disk_fails_messages_until_there_is_space_again() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        eprintln!("skipped: no prlimit");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Ignored, the signal lets the write fail as it does on a full disk.
    let mut process = child("child_appends_on_demand", dir.path(), Some("trap '' XFSZ"));
    let mut input = process.stdin.take().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with("ready")));
    let pid = process.id().to_string();
    let limit = |bytes: &str| {
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}")]).status().unwrap();
        assert!(status.success());
    };
    let mut ask = |what: &str| {
        writeln!(input, "{what}").unwrap();
        lines.next().expect("the process lives")
    };
    for _ in 0..5 {
        assert_eq!(ask("append"), "stored healthy=true");
    }
    limit("100000:unlimited");
    let mut answer = String::new();
    for _ in 0..20 {
        answer = ask("append");
        if answer != "stored healthy=true" {
            break;
        }
    }
    assert!(answer.starts_with("failed ") && answer.contains("File too large"), "{answer}");
    // Until somebody looks, the store may have come back already: for less than a message there is still space.
    for _ in 0..1_000 {
        if answer.ends_with("healthy=false") {
            break;
        }
        answer = ask("append");
    }
    assert!(answer.starts_with("failed ") && answer.ends_with("healthy=false"), "{answer}");
    assert!(ask("append").starts_with("failed "));
    limit("unlimited:unlimited");
    // It comes back by itself, after a pause that grows with the outage.
    let mut tries = 0;
    while ask("append") != "stored healthy=true" {
        tries += 1;
        assert!(tries < 2_000_000, "never again");
    }
    assert_eq!(ask("check"), "check true", "what was refused is not found, what was stored is");
    drop(input);
    process.wait().unwrap();
}

#[test]
fn a_full_filesystem_refuses_messages_until_there_is_space_again() {
    let mount = "mount -t tmpfs -o size=24m tmpfs \"$TIDEGATE_HISTORY_DIR/..\"";
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("disk/store");
    std::fs::create_dir_all(dir.path().join("disk/store")).unwrap();
    let allowed = Command::new("unshare")
        .args(["-rm", "sh", "-c", mount])
        .env("TIDEGATE_HISTORY_DIR", &store)
        .output()
        .is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("skipped: this machine lets nobody mount a filesystem of their own");
        return;
    }
    // In a mount namespace of its own: the small filesystem ends with the process.
    let mut process = child(
        "child_appends_on_demand",
        &store,
        Some(&format!("exec unshare -rm sh -c '{mount} && exec \"$0\" \"$@\"' \"$0\" \"$@\"")),
    );
    let mut input = process.stdin.take().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with("ready")));
    let mut ask = |what: &str| {
        writeln!(input, "{what}").unwrap();
        lines.next().expect("the process lives")
    };
    for round in 0..3 {
        for _ in 0..5 {
            assert_eq!(ask("append"), "stored healthy=true", "round {round}");
        }
        assert!(ask("fill").contains("No space left on device"));
        // A little may still be free in what the journal holds already.
        let refused = (0..1_000).map(|_| ask("append")).find(|answer| answer.starts_with("failed "));
        assert!(refused.is_some_and(|answer| answer.contains("No space left")), "round {round}");
        assert_eq!(ask("free"), "Ok(())");
        let mut tries = 0;
        while ask("append") != "stored healthy=true" {
            tries += 1;
            assert!(tries < 2_000_000, "never again");
        }
        assert_eq!(ask("check"), "check true", "what was refused is not found, what was stored is");
    }
    drop(input);
    process.wait().unwrap();
}

#[test]
fn each_fsync_policy_stores_and_reports() {
    for fsync in [Fsync::Always, Fsync::Interval(1), Fsync::Never] {
        let dir = tempfile::tempdir().unwrap();
        let rig = Rig::embedded(dir.path(), |settings| settings.fsync = fsync);
        for n in 1..=5 {
            rig.append("one", n, n);
        }
        assert_eq!(rig.read("one"), [1, 2, 3, 4, 5], "{fsync:?}");
        rig.history.close(Vec::new()).unwrap();
    }
}
