//! `cargo xtask drill`: three nodes and one Redis under load, a fault, and the account of every message of every client;
//! Tidegate beside socket.io on Node. The drills themselves: `tests/e2e/node/drills.mjs`.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::{build, machine, peer};

const USAGE: &str = "\
usage: cargo xtask drill [options]
  --runs N          runs of each fault at each rate (20)
  --faults NAMES    only these, comma-separated: kill, term, cuts, redis-connections, redis-stop, redis-kill,
                    redis-kill-aof, link, netns (the last two only for tidegate)
  --rates NUMBERS   messages per second (50,500)
  --servers NAMES   only these: tidegate, node (streams adapter, recovery), node-pubsub (tidegate,node)
  --clients N       stock clients (60)
  --binary PATH     this binary instead of building the profile release-bench
  --no-write        leave bench/results and bench/README.md as they are";

const BEGIN: &str = "<!-- drills: begin -->";
const END: &str = "<!-- drills: end -->";

/// Faults with what the table calls them.
const FAULTS: [(&str, &str); 9] = [
    ("kill", "kill -9 of a node"),
    ("term", "SIGTERM of a node"),
    ("cuts", "clients cut again and again"),
    ("redis-connections", "Redis connections killed"),
    ("redis-stop", "Redis stopped for 3 s"),
    ("redis-kill", "Redis kill -9, back after 1 s, no persistence"),
    ("redis-kill-aof", "the same, appendfsync everysec"),
    ("link", "a node's way to Redis hangs for 4 s"),
    ("netns", "a node is cut off for 7 s and declared dead"),
];
/// What only Tidegate is put through.
const OWN_FAULTS: [&str; 2] = ["link", "netns"];

/// Runs the drills, prints the table, and writes `bench/results/<date>-<commit>-drills.json` and the table in
/// `bench/README.md`.
pub fn run(args: &[String]) -> anyhow::Result<()> {
    let (mut runs, mut clients, mut write) = ("20".to_owned(), "60".to_owned(), true);
    let mut faults: Vec<String> = FAULTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut rates = vec!["50".to_owned(), "500".to_owned()];
    let mut servers = vec!["tidegate".to_owned(), "node".to_owned()];
    let mut binary: Option<PathBuf> = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().with_context(|| format!("{arg} needs a value"));
        let list = |text: String| text.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
        match arg.as_str() {
            "--runs" => runs = value()?,
            "--faults" => faults = list(value()?),
            "--rates" => rates = list(value()?),
            "--servers" => servers = list(value()?),
            "--clients" => clients = value()?,
            "--binary" => binary = Some(value()?.into()),
            "--no-write" => write = false,
            _ => bail!("{USAGE}"),
        }
    }
    for fault in &faults {
        ensure!(FAULTS.iter().any(|(name, _)| name == fault), "no fault `{fault}`\n{USAGE}");
    }
    let root = machine::workspace_root()?;
    let binary = match binary {
        Some(binary) => binary.canonicalize().with_context(|| format!("no binary at {}", binary.display()))?,
        None => build(&root)?,
    };
    let folder = root.join("tests/e2e/node");
    peer::install(&folder, "socket.io-client")?;
    peer::install(&root.join("bench/peers/node"), "@socket.io/redis-adapter")?;
    let mut results = Vec::new();
    let mut wanted = Vec::new();
    for fault in &faults {
        for rate in &rates {
            wanted.extend(servers.iter().map(|server| (fault, rate, server)));
        }
    }
    for (fault, rate, server) in wanted {
        if OWN_FAULTS.contains(&fault.as_str()) && server != "tidegate" {
            continue;
        }
        let output = Command::new("node")
            .arg("drills.mjs")
            .args(["--server", server, "--fault", fault, "--rate", rate, "--runs", &runs, "--clients", &clients])
            .arg("--binary")
            .arg(&binary)
            .current_dir(&folder)
            .stderr(Stdio::inherit())
            .output()
            .context("node did not start")?;
        ensure!(output.status.success(), "the drill {fault} of {server} at {rate}/s ended early");
        let drilled: Vec<Value> = serde_json::from_slice(&output.stdout).context("the drill printed no JSON")?;
        results.extend(drilled);
    }
    let table = table(&results);
    println!("{table}");
    if write {
        let (commit, changed) = machine::commit(&root);
        let date = machine::first_line("date", &["-u", "+%Y-%m-%d"]);
        let object = json!({
            "date": date, "commit": commit, "changed": changed,
            "machine": machine::describe(), "versions": machine::versions(&root), "drills": results,
        });
        let path = root.join(format!("bench/results/{date}-{commit}-drills.json"));
        fs::write(&path, serde_json::to_string_pretty(&object)? + "\n")?;
        let readme = root.join("bench/README.md");
        let text = fs::read_to_string(&readme)?;
        let (head, rest) = text.split_once(BEGIN).context("bench/README.md has lost its mark")?;
        let (_, tail) = rest.split_once(END).context("bench/README.md has lost its end mark")?;
        fs::write(
            &readme,
            format!("{head}{BEGIN}\n{table}\n{runs} runs each on {date}, commit {commit}.\n{END}{tail}"),
        )?;
        eprintln!("written: {} and bench/README.md", path.display());
    }
    Ok(())
}

fn table(results: &[Value]) -> String {
    let mut table = "| Fault | Messages/s | Server | Lost in silence | Lost, but told | Repeated | Out of order | Sessions recovered | not | First message after the cut, p50 / p99 | Refused | Processes ended |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n".to_owned();
    for one in results {
        let text = |key: &str| match one.get(key) {
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::String(text)) => text.clone(),
            _ => "–".to_owned(),
        };
        let fault = text("fault");
        let label = FAULTS.iter().find(|(name, _)| *name == fault).map_or(fault.as_str(), |(_, label)| label);
        let cells = ["lost", "lost_told", "repeated", "reordered", "recovered", "not_recovered"].map(text).join(" | ");
        let first = format!("{} / {} ms", text("first_message_p50_ms"), text("first_message_p99_ms"));
        let _ = writeln!(
            table,
            "| {label} | {} | {} | {cells} | {first} | {} | {} |",
            text("rate"),
            text("server"),
            text("refused"),
            text("nodes_that_ended"),
        );
    }
    table
}
