//! What only shows under the surface: damaged files, foreign formats, other boots.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_types::{Class, Epoch, Position, Publication, RoomKey, SpaceKey};

use super::engine::Engine;
use super::journal::{self, End};
use super::value::{Message, Meta, RoomHead, SpaceRecord, decode_ring_entry, decode_session, encode_message};
use super::{EmbeddedHistory, key};
use crate::{Fsync, History, HistoryError, HistorySettings, Write};

fn open(dir: &Path, fsync: Fsync) -> Result<EmbeddedHistory, HistoryError> {
    EmbeddedHistory::open(
        dir,
        HistorySettings { fsync, clock: Arc::new(|| 1_000), ..HistorySettings::default() },
        Arc::new(|_| {}),
    )
}

fn space() -> Arc<SpaceKey> {
    Arc::new(SpaceKey { tenant: "t".try_into().unwrap(), namespace: "/".try_into().unwrap() })
}

fn room() -> RoomKey {
    RoomKey { tenant: "t".try_into().unwrap(), namespace: "/".try_into().unwrap(), room: "r".try_into().unwrap() }
}

fn message(epoch: Epoch, n: u64) -> Publication {
    Publication {
        space: space(),
        room: "r".try_into().unwrap(),
        event: "e".try_into().unwrap(),
        data: Bytes::from(format!("\"{n}\"")),
        attachments: Arc::from([Bytes::from_static(b"\0\x01")]),
        class: Class::Persistent,
        position: Some(Position { epoch, offset: n }),
        seq: n,
        timestamp_ms: 1_000,
    }
}

/// Stores `count` messages, each in a group of its own, and ends without a close.
fn fill(dir: &Path, fsync: Fsync, count: u64) -> Epoch {
    let history = open(dir, fsync).unwrap();
    let epoch = history.open_space(&space()).unwrap().epoch;
    for n in 1..=count {
        history.submit(Write::Append(Arc::new(message(epoch, n)))).unwrap();
        history.open_space(&space()).unwrap();
    }
    epoch
}

fn stored(history: &EmbeddedHistory) -> Vec<u64> {
    let found = history.read(&room(), 0, usize::MAX).unwrap();
    found.iter().map(|message| message.position.unwrap().offset).collect()
}

fn journal_of(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max().unwrap()
}

/// The journal's bytes without the zeros behind them.
fn data_of(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    bytes
}

#[test]
fn a_whole_journal_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), Fsync::Never, 5);
    let before = fs::read(journal_of(dir.path())).unwrap();
    assert_eq!(journal::repair(dir.path(), 1).unwrap(), End::Whole);
    assert_eq!(fs::read(journal_of(dir.path())).unwrap(), before);
}

#[test]
fn wherever_the_last_group_is_cut_off_the_groups_before_it_are_there() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), Fsync::Never, 4);
    let journal = journal_of(dir.path());
    let four = data_of(&journal).len();
    let epoch = fill(dir.path(), Fsync::Never, 5);
    let whole = data_of(&journal);
    // The reopening wrote its meta record in between; the last group is the fifth message's, found by its trailer.
    let last = whole[..whole.len() - 4].windows(4).rposition(|bytes| bytes == b"FJL\x03").unwrap() + 4;
    assert!(last > four);
    for cut in [last + 1, last + 5, last + 13, last + 20, whole.len() - 13, whole.len() - 4, whole.len() - 1] {
        fs::write(&journal, &whole[..cut]).unwrap();
        File::options().write(true).open(&journal).unwrap().set_len(1 << 20).unwrap();
        let end = journal::repair(dir.path(), 1).unwrap();
        assert!(matches!(end, End::Torn { .. }), "cut at {cut}: {end:?}");
        assert_eq!(journal.metadata().unwrap().len(), last as u64);
        assert_eq!(journal::repair(dir.path(), 1).unwrap(), End::Whole, "once is enough");
    }
    fs::write(&journal, &whole[..whole.len() - 3]).unwrap();
    let history = open(dir.path(), Fsync::Never).unwrap();
    assert_eq!(stored(&history), [1, 2, 3, 4], "the fifth was written again, under the same offset");
    assert_eq!(history.load().unwrap()[0].1.epoch, epoch, "nothing acknowledged was lost");
    history.submit(Write::Append(Arc::new(message(epoch, 5)))).unwrap();
    history.open_space(&space()).unwrap();
    assert_eq!(stored(&history), [1, 2, 3, 4, 5]);
}

#[test]
fn a_damaged_journal_is_cut_kept_and_gives_new_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let epoch = fill(dir.path(), Fsync::Always, 5);
    let journal = journal_of(dir.path());
    let whole = data_of(&journal);
    // A byte of the last message's text.
    let mut file = File::options().write(true).open(&journal).unwrap();
    file.seek(SeekFrom::Start(whole.len() as u64 - 17)).unwrap();
    file.write_all(&[0xee]).unwrap();
    drop(file);
    let history = open(dir.path(), Fsync::Always).unwrap();
    let start = &history.load().unwrap()[0].1;
    assert_ne!(start.epoch, epoch);
    assert!(!start.clean);
    assert_eq!(stored(&history), [1, 2, 3, 4]);
    assert!(dir.path().join("damaged-1000.bin").metadata().unwrap().len() > 0);
}

#[test]
fn garbage_behind_the_journal_does_not_keep_it_from_opening() {
    for garbage in [&[0xff; 100][..], &[1, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0], &[3, 1, 2], &[9]] {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), Fsync::Never, 3);
        let journal = journal_of(dir.path());
        let mut bytes = data_of(&journal);
        bytes.extend_from_slice(garbage);
        fs::write(&journal, bytes).unwrap();
        let history = open(dir.path(), Fsync::Never).unwrap();
        assert_eq!(stored(&history), [1, 2, 3], "{garbage:?}");
    }
}

fn change_meta(dir: &Path, change: impl FnOnce(&mut Meta)) {
    let engine = Engine::open(dir).unwrap();
    let mut meta = Meta::decode(&engine.state.get(key::META).unwrap().unwrap()).unwrap();
    change(&mut meta);
    engine.state.insert(key::META, meta.encode()).unwrap();
}

#[test]
fn an_unclean_end_on_another_boot_gives_new_epochs_unless_each_group_was_synced() {
    for (fsync, same) in [(Fsync::Never, false), (Fsync::Interval(1_000), false), (Fsync::Always, true)] {
        let dir = tempfile::tempdir().unwrap();
        let epoch = fill(dir.path(), fsync, 2);
        change_meta(dir.path(), |meta| meta.boot_id = "another".into());
        let history = open(dir.path(), fsync).unwrap();
        let start = &history.load().unwrap()[0].1;
        assert_eq!(start.epoch == epoch, same, "{fsync:?}");
        assert_eq!(start.rooms[0].last_offset, 2);
        let found = history.read(&room(), 0, 10).unwrap();
        assert!(found.iter().all(|message| message.position.unwrap().epoch == start.epoch), "one epoch for all");
        assert_eq!(found.len(), 2);
    }
}

#[test]
fn a_clean_stop_on_another_boot_keeps_its_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let history = open(dir.path(), Fsync::Never).unwrap();
    let epoch = history.open_space(&space()).unwrap().epoch;
    history.close(Vec::new()).unwrap();
    drop(history);
    change_meta(dir.path(), |meta| meta.boot_id = "another".into());
    let start = &open(dir.path(), Fsync::Never).unwrap().load().unwrap()[0].1;
    assert!(start.clean && start.epoch == epoch);
}

#[test]
fn another_format_is_refused_with_both_numbers() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), Fsync::Never, 1);
    change_meta(dir.path(), |meta| meta.format = 7);
    let error = open(dir.path(), Fsync::Never).err().unwrap();
    assert!(matches!(error, HistoryError::Version { found: 7, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("format 7"), "{error}");
}

#[test]
fn corrupt_values_are_skipped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let epoch = fill(dir.path(), Fsync::Never, 5);
    {
        let engine = Engine::open(dir.path()).unwrap();
        let prefix = key::room(&room());
        engine.messages.insert(key::message(&prefix, 2), b"\xff\xff\xff".as_slice()).unwrap();
        let mut cut = encode_message(&message(epoch, 4), 4, 0);
        cut.truncate(cut.len() - 1);
        engine.messages.insert(key::message(&prefix, 4), cut).unwrap();
        engine.sessions.insert(b"pid".as_slice(), b"\x01\x01".as_slice()).unwrap();
        engine.rooms.insert(b"\0\x05no".as_slice(), b"".as_slice()).unwrap();
    }
    let history = open(dir.path(), Fsync::Never).unwrap();
    history.load().unwrap();
    assert_eq!(stored(&history), [1, 3, 5]);
    assert_eq!(history.session(&"pid".into()).unwrap(), None);
    assert!(history.stats().corrupt >= 4, "{:?}", history.stats());
    history.sweep().unwrap();
    assert_eq!(stored(&history), [1, 3, 5]);
}

#[test]
fn whatever_the_bytes_are_decoding_answers() {
    let value = encode_message(&message(Epoch(1), 3), 9, 1_000);
    let position = Position { epoch: Epoch(1), offset: 3 };
    let whole = Bytes::from(value.clone());
    let decoded = Message::head(&whole).unwrap().publication(&whole, &space(), &"r".try_into().unwrap(), position);
    assert_eq!(decoded, Some(message(Epoch(1), 3)));
    // Every truncation and every single wrong byte: an answer, never a panic.
    let mut variants: Vec<Vec<u8>> = (0..value.len()).map(|cut| value[..cut].to_vec()).collect();
    for at in 0..value.len() {
        for byte in [0, 1, 2, 0x7f, 0x80, 0xff] {
            let mut changed = value.clone();
            changed[at] = byte;
            variants.push(changed);
        }
    }
    variants.push(vec![1; 64]);
    variants.push([&[1][..], &[0xff; 64]].concat());
    for bytes in variants {
        let bytes = Bytes::from(bytes);
        if let Some(head) = Message::head(&bytes) {
            let _ = head.publication(&bytes, &space(), &"r".try_into().unwrap(), position);
        }
        let _ = decode_ring_entry(&bytes, &space(), Epoch(1));
        let _ = decode_session(&"pid".into(), &bytes);
        let _ = (RoomHead::decode(&bytes), SpaceRecord::decode(&bytes), Meta::decode(&bytes));
    }
}

#[test]
fn a_store_whose_making_was_interrupted_is_made_again() {
    let whole = tempfile::tempdir().unwrap();
    fill(whole.path(), Fsync::Never, 1);
    let version = fs::read(whole.path().join("version")).unwrap();
    for (journal, marker) in [(false, None), (true, None), (true, Some(&[][..])), (true, Some(version.as_slice()))] {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("lock")).unwrap();
        fs::create_dir(dir.path().join("keyspaces")).unwrap();
        if journal {
            File::create(dir.path().join("0.jnl")).unwrap().set_len(64 << 20).unwrap();
        }
        if let Some(marker) = marker {
            fs::write(dir.path().join("version"), marker).unwrap();
        }
        assert!(open(dir.path(), Fsync::Never).is_ok(), "{journal} {marker:?}");
    }
}

#[test]
fn a_store_that_lost_its_version_marker_is_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), Fsync::Never, 1);
    fs::remove_file(dir.path().join("version")).unwrap();
    assert!(matches!(open(dir.path(), Fsync::Never), Err(HistoryError::Open { .. })));
}
