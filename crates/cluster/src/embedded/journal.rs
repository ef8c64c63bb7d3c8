//! The engine's journal is looked through before it is opened.
//!
//! After kill -9 it may end in the middle of a group that was never reported: the engine cuts that off by itself, without
//! a word. After a power cut, or on a failing disk, there may be garbage where groups were that had been reported; the
//! engine then either refuses to open or cuts off all that follows. So the difference is told here: a torn end is cut
//! with one line in the log; a damaged one is cut, kept in a file beside it, and all counters get new epochs, because
//! what was reserved may have been in the lost part.
//!
//! Format (fjall 3): groups of `1 | items u32 | seqno u64`, items `2 | type u8 | compression u8 | tree u64 | key length u16
//! | value length u32 | stored length u32 | key | value` or `4 | tree u64`, and `3 | xxh3 of the items u64 | "FJL\x03"`;
//! little-endian. The file is allocated ahead and ends in zeros.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const TRAILER: &[u8; 4] = b"FJL\x03";

/// What the end of a journal looks like.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Every group is complete.
    Whole,
    /// The last group was never finished: it had not been reported.
    Torn { discarded: u64 },
    /// Something that is not the beginning of a group follows the last good one.
    Damaged { discarded: u64, kept_in: PathBuf },
}

/// Cuts the newest journal in `dir` back to its last complete group.
pub(super) fn repair(dir: &Path, now_ms: u64) -> io::Result<End> {
    let Some(path) = newest(dir)? else { return Ok(End::Whole) };
    let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
    let end = end_of_data(&mut file)?;
    let (good, torn) = scan(&mut file, end)?;
    if good >= end {
        return Ok(End::Whole);
    }
    let discarded = end - good;
    let outcome = if torn {
        End::Torn { discarded }
    } else {
        let kept_in = dir.join(format!("damaged-{now_ms}.bin"));
        file.seek(SeekFrom::Start(good))?;
        let mut copy = OpenOptions::new().write(true).create_new(true).open(&kept_in)?;
        io::copy(&mut (&mut file).take(discarded), &mut copy)?;
        copy.flush()?;
        copy.sync_all()?;
        End::Damaged { discarded, kept_in }
    };
    file.set_len(good)?;
    file.sync_all()?;
    Ok(outcome)
}

/// Whether nothing was ever written to a journal in `dir`.
pub(super) fn is_blank(dir: &Path) -> io::Result<bool> {
    let Some(path) = newest(dir)? else { return Ok(true) };
    Ok(end_of_data(&mut File::open(path)?)? == 0)
}

fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "jnl") {
            continue;
        }
        let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()) else { continue };
        if newest.as_ref().is_none_or(|(best, _)| number > *best) {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the zeros at the end of the file begin.
fn end_of_data(file: &mut File) -> io::Result<u64> {
    const CHUNK: u64 = 64 * 1024;
    // Compared whole: the file may be 64 MiB of zeros.
    static ZEROS: [u8; CHUNK as usize] = [0; CHUNK as usize];
    let mut end = file.metadata()?.len();
    let mut buffer = Vec::new();
    while end > 0 {
        let from = end.saturating_sub(CHUNK);
        file.seek(SeekFrom::Start(from))?;
        buffer.clear();
        file.take(end - from).read_to_end(&mut buffer)?;
        if ZEROS.get(..buffer.len()) == Some(buffer.as_slice()) {
            end = from;
            continue;
        }
        if let Some(last) = buffer.iter().rposition(|byte| *byte != 0) {
            return Ok(from + last as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

/// The end of the last complete group, and whether what follows (if anything) is the beginning of one.
fn scan(file: &mut File, end: u64) -> io::Result<(u64, bool)> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = Scanner { reader: BufReader::with_capacity(256 * 1024, file), at: 0, end, hash: Xxh3::new() };
    let mut good = 0;
    while good < end {
        match reader.group()? {
            Group::Complete => good = reader.at,
            Group::CutOff => return Ok((good, true)),
            Group::Wrong => return Ok((good, false)),
        }
    }
    Ok((good, true))
}

enum Group {
    Complete,
    CutOff,
    Wrong,
}

struct Scanner<'a> {
    reader: BufReader<&'a mut File>,
    at: u64,
    /// Where the data ends. A group that is cut off may have lost zeros there, which does no harm: it is discarded.
    end: u64,
    hash: Xxh3,
}

impl Scanner<'_> {
    /// `None`: the data ends before.
    fn take<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.end - self.at < N as u64 {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(Some(bytes))
    }

    /// Hashes what is passed over.
    fn pass(&mut self, mut length: u64) -> io::Result<Option<()>> {
        if self.end - self.at < length {
            return Ok(None);
        }
        self.at += length;
        let mut buffer = [0; 4096];
        while length > 0 {
            let want = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
            let Some(piece) = buffer.get_mut(..want) else { break };
            self.reader.read_exact(piece)?;
            self.hash.update(piece);
            length -= want as u64;
        }
        Ok(Some(()))
    }

    fn group(&mut self) -> io::Result<Group> {
        let Some([tag]) = self.take()? else { return Ok(Group::CutOff) };
        if tag != 1 {
            return Ok(Group::Wrong);
        }
        let Some(items) = self.take()? else { return Ok(Group::CutOff) };
        let Some(_seqno) = self.take::<8>()? else { return Ok(Group::CutOff) };
        self.hash.reset();
        for _ in 0..u32::from_le_bytes(items) {
            match self.item()? {
                Group::Complete => {}
                other @ (Group::CutOff | Group::Wrong) => return Ok(other),
            }
        }
        let Some([tag]) = self.take()? else { return Ok(Group::CutOff) };
        if tag != 3 {
            return Ok(Group::Wrong);
        }
        let Some(checksum) = self.take()? else { return Ok(Group::CutOff) };
        let Some(trailer) = self.take::<4>()? else { return Ok(Group::CutOff) };
        if &trailer != TRAILER || u64::from_le_bytes(checksum) != self.hash.digest() {
            return Ok(Group::Wrong);
        }
        Ok(Group::Complete)
    }

    fn item(&mut self) -> io::Result<Group> {
        let Some([tag]) = self.take()? else { return Ok(Group::CutOff) };
        self.hash.update(&[tag]);
        let length = match tag {
            2 => {
                let Some(kind) = self.take::<10>()? else { return Ok(Group::CutOff) };
                let Some(key) = self.take::<2>()? else { return Ok(Group::CutOff) };
                let Some(value) = self.take::<4>()? else { return Ok(Group::CutOff) };
                let Some(stored) = self.take::<4>()? else { return Ok(Group::CutOff) };
                for piece in [kind.as_slice(), &key, &value, &stored] {
                    self.hash.update(piece);
                }
                u64::from(u16::from_le_bytes(key)) + u64::from(u32::from_le_bytes(stored))
            }
            4 => 8,
            _ => return Ok(Group::Wrong),
        };
        Ok(if self.pass(length)?.is_some() { Group::Complete } else { Group::CutOff })
    }
}
