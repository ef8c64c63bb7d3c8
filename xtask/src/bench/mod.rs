//! `cargo xtask bench`: Tidegate beside nginx, HAProxy and Node socket.io, in one interleaved run.
//!
//! Every case is measured for every peer in every round, and the order of the peers rotates from round to round, so
//! that a machine that slows down slows down all of them. A peer is started afresh for each measurement, alone on its
//! core; the generator and the upstream share another one. What is compared is the server's CPU time and its private
//! memory, which a noisy neighbour disturbs far less than a throughput. No figure fails the run: it reports.
//!
//! Start reading at [`run`], then [`case`] for what is measured and [`peer`] for beside what.

mod case;
pub mod drill;
mod h2;
mod machine;
mod peer;
mod result;
mod setup;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use case::Case;
use peer::{Peer, Place};
use result::{Measurement, Results};

const USAGE: &str = "\
usage: cargo xtask bench [options]
  --rounds N        rounds of every case (3)
  --quick           one short round, only to see that everything works; writes no result
  --only NAMES      only these cases (comma-separated; see below)
  --peers NAMES     only these peers: tidegate, nginx, haproxy, node
  --binary PATH     measure this binary instead of building the profile release-bench
  --generator PATH  generate the load with this binary instead of the measured one
  --duration SECS   measured time of each case (5)
  --no-write        leave bench/results and bench/README.md as they are
cases: ";

/// The options of one run.
pub struct Options {
    rounds: u32,
    quick: bool,
    only: Vec<String>,
    peers: Vec<String>,
    binary: Option<PathBuf>,
    generator: Option<PathBuf>,
    seconds: u32,
    write: bool,
}

impl Options {
    fn parse(args: &[String]) -> anyhow::Result<Self> {
        let mut options = Self {
            rounds: 3,
            quick: false,
            only: Vec::new(),
            peers: Vec::new(),
            binary: None,
            generator: None,
            seconds: 5,
            write: true,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().with_context(|| format!("{arg} needs a value"));
            let list = |text: String| text.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
            match arg.as_str() {
                "--rounds" => options.rounds = value()?.parse().context("--rounds needs a number")?,
                "--quick" => (options.quick, options.rounds, options.seconds, options.write) = (true, 1, 2, false),
                "--only" => options.only = list(value()?),
                "--peers" => options.peers = list(value()?),
                "--binary" => options.binary = Some(value()?.into()),
                "--generator" => options.generator = Some(value()?.into()),
                "--duration" => options.seconds = value()?.parse().context("--duration needs seconds")?,
                "--no-write" => options.write = false,
                "--help" | "-h" => bail!("{USAGE}{}", case::names()),
                other => bail!("unknown option `{other}`\n{USAGE}{}", case::names()),
            }
        }
        ensure!(options.rounds > 0 && options.seconds > 0, "at least one round of one second");
        for name in &options.only {
            ensure!(case::all().iter().any(|case| case.name == name), "no case `{name}`; there are {}", case::names());
        }
        for name in &options.peers {
            ensure!(Peer::named(name).is_some(), "no peer `{name}`; there are tidegate, nginx, haproxy and node");
        }
        Ok(options)
    }

    fn wants(&self, peer: Peer) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|name| name == peer.name())
    }
}

/// Measures, prints the table, and writes `bench/results/<date>-<commit>.json` and the table in `bench/README.md`.
pub fn run(args: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(args)?;
    let root = machine::workspace_root()?;
    let tidegate = match &options.binary {
        Some(path) => path.clone(),
        None if options.wants(Peer::Tidegate) || options.generator.is_none() => build(&root)?,
        None => PathBuf::new(),
    };
    let generator = options.generator.clone().unwrap_or_else(|| tidegate.clone());
    let place = Place::prepare(&root, tidegate, generator)?;
    let cases: Vec<&Case> = case::all()
        .iter()
        .filter(|case| options.only.is_empty() || options.only.iter().any(|name| name == case.name))
        .collect();
    if cases.iter().any(|case| case.peers.contains(&Peer::Node)) && options.wants(Peer::Node) {
        place.install_node()?;
    }
    let upstream = place.start_upstream()?;
    let mut results = Results::new(&root, &options, &place)?;
    let total = cases.len() as u32 * options.rounds;
    let mut done = 0;
    for round in 0..options.rounds {
        // One measurement of the store serves all cases about it: the figures belong together.
        let mut store = None;
        for case in &cases {
            done += 1;
            let mut peers: Vec<Peer> = case.peers.iter().copied().filter(|peer| options.wants(*peer)).collect();
            let turn = round as usize % peers.len().max(1);
            peers.rotate_left(turn);
            for peer in peers {
                eprint!("[{done}/{total}] round {} · {:<16} {:<9} ", round + 1, case.name, peer.name());
                // One peer that fails must not throw away what the others did.
                match measure(case, peer, &place, upstream.address(), options.seconds, &mut store) {
                    Ok(values) => {
                        let measurement = Measurement::new(round, case, peer, values);
                        eprintln!("{}", measurement.line(case));
                        results.push(measurement);
                    }
                    Err(error) => {
                        eprintln!("failed: {error:#}");
                        results.failed(round, case, peer, &error);
                    }
                }
            }
        }
    }
    drop(upstream);
    println!("{}", results.table());
    if options.write {
        let path = results.write(&root)?;
        eprintln!("written: {} and bench/README.md", path.display());
    }
    Ok(())
}

fn measure(
    case: &Case,
    peer: Peer,
    place: &Place,
    upstream: &str,
    seconds: u32,
    store: &mut Option<Value>,
) -> anyhow::Result<Value> {
    if case.storage() {
        let values = match store {
            Some(values) => values.clone(),
            None => store.insert(storage(seconds)?).clone(),
        };
        case.verify(&values)?;
        return Ok(values);
    }
    let server = place.start(peer, case.setup, upstream)?;
    let values = place.generate(case, &server, seconds)?;
    drop(server);
    case.verify(&values)?;
    Ok(values)
}

/// Runs the store's own measurement.
fn storage(seconds: u32) -> anyhow::Result<Value> {
    let cargo =
        ["run", "--quiet", "--profile", "release-bench", "-p", "tidegate-cluster", "--example", "storage", "--"];
    let output = Command::new("cargo")
        .args(cargo)
        .args(["--json", "--seconds", &seconds.to_string()])
        .current_dir(machine::workspace_root()?)
        .output()
        .context("cargo did not start")?;
    ensure!(output.status.success(), "the store's measurement: {}", String::from_utf8_lossy(&output.stderr).trim());
    serde_json::from_slice(&output.stdout).context("the store's measurement printed no JSON")
}

fn build(root: &std::path::Path) -> anyhow::Result<PathBuf> {
    eprintln!("building tidegate with the profile release-bench");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--profile", "release-bench", "-p", "tidegate", "--bin", "tidegate"])
        .current_dir(root)
        .status()
        .context("cargo did not start")?;
    ensure!(status.success(), "the build failed");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release-bench/tidegate"))
}
