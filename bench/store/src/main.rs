//! fjall beside redb, for the history store: append in group commits, replay of one room, memory, kill -9.
//!
//! `cargo run --release -- [--rounds 3] [--seconds 1.5] [--out ../results/store.json]`
//!
//! Every case runs in a process and a directory of its own; the rounds are interleaved; the table shows medians.

mod engine;
mod measure;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use engine::{Engine, Fjall, Redb};
use serde_json::{Value, json};

const ENGINES: [&str; 2] = ["fjall", "redb"];
const BATCHES: [usize; 3] = [1, 32, 256];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["case", engine, batch, sync, seconds, dir] => {
            let result = with_engine(engine, Path::new(dir), |engine| {
                append_and_replay(engine, batch.parse().unwrap(), *sync == "fsync", seconds.parse().unwrap(), dir)
            });
            println!("{result}");
        }
        ["kill", engine, sync, dir] => with_engine(engine, Path::new(dir), |engine| {
            let mut out = std::io::stdout().lock();
            for next in (1u64..).step_by(32) {
                engine.append(next, 32, *sync == "fsync");
                writeln!(out, "{}", next + 31).unwrap();
                out.flush().unwrap();
            }
        }),
        ["count", engine, dir] => {
            let started = Instant::now();
            let (last, open) = with_engine(engine, Path::new(dir), |engine| (engine.last(), started.elapsed()));
            println!("{}", json!({ "last": last, "open_ms": open.as_secs_f64() * 1e3 }));
        }
        _ => compare(&words),
    }
}

fn with_engine<T>(name: &str, dir: &Path, run: impl FnOnce(&mut dyn Engine) -> T) -> T {
    match name {
        "fjall" => run(&mut Fjall::open(dir)),
        "redb" => run(&mut Redb::open(dir)),
        other => panic!("no engine {other}"),
    }
}

fn append_and_replay(engine: &mut dyn Engine, batch: usize, fsync: bool, seconds: f64, dir: &str) -> Value {
    let rss_before = measure::private_kib();
    let limit = Duration::from_secs_f64(seconds);
    let (started, cpu_before) = (Instant::now(), measure::cpu_seconds());
    let (mut next, mut commits) = (1u64, 0u64);
    let mut slowest = Duration::ZERO;
    while started.elapsed() < limit {
        let commit = Instant::now();
        engine.append(next, batch, fsync);
        slowest = slowest.max(commit.elapsed());
        next += batch as u64;
        commits += 1;
    }
    let wall = started.elapsed().as_secs_f64();
    let cpu = measure::cpu_seconds() - cpu_before;
    let messages = (next - 1) as f64;
    let private = measure::private_kib();
    let mut replays: Vec<f64> = (0..engine::ROOMS.min(32))
        .map(|room| {
            let started = Instant::now();
            let read = engine.replay(room, 1_000);
            started.elapsed().as_secs_f64() * 1e6 * 1_000.0 / (read.max(1) as f64)
        })
        .collect();
    replays.sort_by(f64::total_cmp);
    json!({
        "messages": messages, "messages_per_s": messages / wall, "commits_per_s": commits as f64 / wall,
        "cpu_us_per_message": cpu * 1e6 / messages, "slowest_commit_ms": slowest.as_secs_f64() * 1e3,
        "private_kib": private, "private_kib_at_open": rss_before,
        "replay_1000_us": replays[replays.len() / 2],
        "disk_bytes_per_message": measure::disk_bytes(Path::new(dir)) as f64 / messages,
    })
}

fn child(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(words).stdin(Stdio::null());
    command
}

fn json_of(words: &[&str]) -> Value {
    let output = child(words).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{words:?} failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn kill_and_count(engine: &str, sync: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let mut process = child(&["kill", engine, sync, path]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let started = Instant::now();
    let mut committed = 0u64;
    while started.elapsed() < Duration::from_millis(800) {
        committed = lines.next().unwrap().unwrap().parse().unwrap();
    }
    process.kill().unwrap();
    // What it had said before it died counts as committed too.
    for line in lines.map_while(Result::ok) {
        committed = line.parse().unwrap_or(committed);
    }
    process.wait().unwrap();
    let mut result = json_of(&["count", engine, path]);
    let last = result["last"].as_u64().unwrap();
    result["committed"] = committed.into();
    result["lost"] = committed.saturating_sub(last).into();
    result
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).copied()
}

fn compare(words: &[&str]) {
    let rounds: usize = option(words, "--rounds").map_or(3, |text| text.parse().unwrap());
    let seconds = option(words, "--seconds").unwrap_or("1.5");
    let mut cases = Vec::new();
    for sync in ["os", "fsync"] {
        for batch in BATCHES {
            for engine in ENGINES {
                cases.push((engine, batch, sync, Vec::<Value>::new()));
            }
        }
    }
    for round in 1..=rounds {
        for (engine, batch, sync, results) in &mut cases {
            eprintln!("round {round}/{rounds}: {engine}, {batch} messages per commit, {sync}");
            let dir = tempfile::tempdir().unwrap();
            results.push(json_of(&["case", engine, &batch.to_string(), sync, seconds, dir.path().to_str().unwrap()]));
        }
    }
    println!(
        "| engine | batch | sync | messages/s | µs CPU/message | slowest commit ms | private MiB | replay of 1,000, µs | disk B/message |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut out_cases = Vec::new();
    for (engine, batch, sync, results) in &cases {
        let of = |key: &str| median(results.iter().map(|result| result[key].as_f64().unwrap()).collect());
        println!(
            "| {engine} | {batch} | {sync} | {:.0} | {:.2} | {:.1} | {:.1} | {:.0} | {:.0} |",
            of("messages_per_s"),
            of("cpu_us_per_message"),
            of("slowest_commit_ms"),
            of("private_kib") / 1024.0,
            of("replay_1000_us"),
            of("disk_bytes_per_message"),
        );
        out_cases.push(json!({ "engine": engine, "batch": batch, "sync": sync, "rounds": results }));
    }
    println!("\n| engine | sync | committed before kill -9 | lost | open after it, ms |\n|---|---|---|---|---|");
    let mut kills = Vec::new();
    for engine in ENGINES {
        for sync in ["os", "fsync"] {
            let mut result = kill_and_count(engine, sync);
            println!(
                "| {engine} | {sync} | {} | {} | {:.1} |",
                result["committed"],
                result["lost"],
                result["open_ms"].as_f64().unwrap()
            );
            result["engine"] = engine.into();
            result["sync"] = sync.into();
            kills.push(result);
        }
    }
    if let Some(path) = option(words, "--out") {
        let all = json!({
            "machine": measure::machine(), "rounds": rounds, "seconds_per_case": seconds, "message_bytes": engine::MESSAGE,
            "rooms": engine::ROOMS, "versions": { "fjall": "3.1", "redb": "4.4" }, "append": out_cases, "kill": kills,
        });
        std::fs::write(path, serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
    }
}
