//! `cargo xtask fuzz`: runs the fuzz targets with the stable compiler, two at a time.
//!
//! libFuzzer needs coverage counters in the code, which are a pass of LLVM that stable rustc knows too; only the
//! sanitizers need a nightly one, and code without `unsafe` has little use for them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{must, root};

const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks";
const SECONDS: u32 = 60;
/// The most memory of one target, MB.
const MEMORY: u32 = 1_024;
/// The longest input, bytes; deep nesting needs a few thousand.
const LENGTH: u32 = 16_384;

pub fn run(arguments: &[String]) -> Result<()> {
    let mut seconds = SECONDS;
    let mut names = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => {
                let given = arguments.next().context("--seconds needs a number")?;
                seconds = given.parse().with_context(|| format!("--seconds {given}: a number is expected"))?;
            }
            name => names.push(name.to_owned()),
        }
    }
    let fuzz = root().join("fuzz");
    let known = targets(&fuzz)?;
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        bail!("there is no target {unknown:?}; there are: {}", known.join(", "));
    }
    let names = if names.is_empty() { known } else { names };
    // With the target named, build scripts and macros are built without the flags.
    let triple = host()?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    must(
        Command::new(cargo)
            .args(["build", "--profile", "fuzz", "--bins", "--target", &triple])
            .arg("--manifest-path")
            .arg(fuzz.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(fuzz.join("target"))
            .env("RUSTFLAGS", FLAGS),
    )?;
    let built = fuzz.join("target").join(triple).join("fuzz");
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{} targets for {seconds} s each, {at_once} at a time", names.len());
    let mut failed = Vec::new();
    let mut waiting = names.into_iter();
    let mut running: Vec<(String, Child)> = Vec::new();
    loop {
        while running.len() < at_once
            && let Some(name) = waiting.next()
        {
            let child = start(&fuzz, &built.join(&name), &name, seconds)?;
            running.push((name, child));
        }
        if running.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        let mut still = Vec::new();
        for (name, mut child) in running {
            match child.try_wait()? {
                None => still.push((name, child)),
                Some(status) if status.success() => println!("{name}: {}", last_words(&fuzz, &name)),
                Some(status) => {
                    println!("{name}: {status}\n{}", log(&fuzz, &name));
                    failed.push(name);
                }
            }
        }
        running = still;
    }
    if !failed.is_empty() {
        bail!("found something: {} (the input lies in fuzz/artifacts)", failed.join(", "));
    }
    Ok(())
}

/// A target reads the corpus of the repository and writes what it finds elsewhere.
fn start(fuzz: &Path, program: &Path, name: &str, seconds: u32) -> Result<Child> {
    let found = fuzz.join("target/corpus").join(name);
    let artifacts = fuzz.join("artifacts").join(name);
    let seeds = fuzz.join("corpus").join(name);
    for folder in [&found, &artifacts, &seeds] {
        std::fs::create_dir_all(folder)?;
    }
    let output = std::fs::File::create(fuzz.join("target").join(format!("{name}.log")))?;
    Command::new(program)
        .args([&found, &seeds])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg(format!("-max_len={LENGTH}"))
        .arg("-timeout=10")
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("could not start {}", program.display()))
}

fn log(fuzz: &Path, name: &str) -> String {
    let bytes = std::fs::read(fuzz.join("target").join(format!("{name}.log"))).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n")
}

fn last_words(fuzz: &Path, name: &str) -> String {
    let log = log(fuzz, name);
    let count = |label: &str| {
        log.lines().find_map(|line| line.strip_prefix(label)).map_or_else(|| "?".to_owned(), |it| it.trim().to_owned())
    };
    format!("{} runs, {} new inputs", count("stat::number_of_executed_units:"), count("stat::new_units_added:"))
}

fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(fuzz.join("fuzz_targets")).context("fuzz/fuzz_targets")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("rustc -vV")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}
