//! HTTP/2 load comes from h2load (Debian's nghttp2-client).

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::peer::{LOAD_CORE, pinned};

/// Runs h2load against a server; its figures under the names that `tidegate bench` gives them.
pub fn generate(args: &[String], pid: u32, seconds: u32) -> anyhow::Result<Value> {
    // A second that is not counted, as for the other cases.
    load(args, 1)?;
    let (before, started) = (cpu_us(pid)?, Instant::now());
    let said = load(args, seconds)?;
    let (used, elapsed) = (cpu_us(pid)? - before, started.elapsed().as_secs_f64());
    let number = |after: &str| {
        let line =
            said.lines().find(|line| line.starts_with("requests:")).context("h2load said nothing of requests")?;
        let at = line.find(after).with_context(|| format!("h2load did not say `{after}`: {line}"))?;
        let word = line.get(..at).and_then(|head| head.split_whitespace().last()).unwrap_or_default();
        word.parse::<u64>().with_context(|| format!("`{word}` is not a number"))
    };
    let succeeded = number(" succeeded")?;
    ensure!(succeeded > 0, "no request succeeded: {said}");
    Ok(json!({
        "completed": succeeded,
        "failures": number(" failed")? + number(" errored")?,
        "server_cpu_us": used as f64 / succeeded as f64,
        "server_cpu_percent": used as f64 / 1e4 / elapsed,
        "per_second": succeeded as f64 / elapsed,
    }))
}

fn load(args: &[String], seconds: u32) -> anyhow::Result<String> {
    let output = pinned(LOAD_CORE, Path::new("h2load"))
        .args(args)
        .args(["-D", &seconds.to_string()])
        .output()
        .context("h2load did not start; it is in Debian's nghttp2-client")?;
    ensure!(output.status.success(), "h2load: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// CPU time of a process and its children so far, microseconds, as the scheduler counts it.
fn cpu_us(pid: u32) -> anyhow::Result<u64> {
    let mut total = 0;
    let mut waiting = vec![pid];
    while let Some(pid) = waiting.pop() {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).context("the server has ended")?.flatten() {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            total += read("schedstat").split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
            waiting.extend(read("children").split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    Ok(total / 1_000)
}
