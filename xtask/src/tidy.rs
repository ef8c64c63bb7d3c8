//! `cargo xtask tidy`: the invariants of ARCHITECTURE.md that a program can check.
//!
//! It reads text, not syntax: cheap, and wrong only where a line is written to mislead it. A line that must break a rule
//! carries `tidy: allow` with its reason.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::root;

const LONG_LINES: usize = 500;
const MOST_LINES: usize = 1000;
const ALLOWED: &str = "tidy: allow";

/// Crates without sockets, clock, environment, threads or randomness of their own.
const PURE: [&str; 11] =
    ["types", "wire", "session", "hub", "balance", "rules", "auth", "dialect", "config", "metrics", "nginx"];

/// What a pure crate must not depend on (its tests neither: they are to be deterministic too).
const IMPURE_CRATES: [&str; 10] =
    ["tokio", "socket2", "getrandom", "hyper", "hyper-util", "mio", "rand", "fjall", "libc", "rustix"];

/// What a pure crate must not call outside its tests.
const IMPURE_CALLS: [&str; 9] = [
    "Instant::now",
    "SystemTime",
    "std::env",
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "std::fs",
    "std::process",
    "rand::",
];

/// Who may depend on whom, inside the workspace. `types` is everybody's. The binary composes, the tests see all.
const DIRECTION: [(&str, &[&str]); 18] = [
    ("types", &[]),
    ("wire", &[]),
    ("session", &["wire"]),
    ("hub", &[]),
    ("balance", &[]),
    ("auth", &[]),
    ("metrics", &[]),
    ("rules", &[]),
    ("transport", &[]),
    ("outbound", &["transport"]),
    ("dialect", &["wire", "rules"]),
    ("config", &["auth", "rules", "dialect"]),
    ("nginx", &["config"]),
    ("cluster", &["hub", "wire", "metrics", "transport", "balance"]),
    ("proxy", &["balance", "rules", "auth", "wire", "metrics", "transport"]),
    (
        "realtime",
        &["session", "hub", "cluster", "auth", "wire", "metrics", "balance", "transport", "outbound", "dialect"],
    ),
    (
        "server",
        &[
            "transport",
            "outbound",
            "rules",
            "proxy",
            "realtime",
            "config",
            "dialect",
            "nginx",
            "cluster",
            "session",
            "auth",
            "balance",
            "metrics",
            "wire",
        ],
    ),
    ("testkit", &["wire"]),
];

/// Only this crate knows the store and Redis.
const STORES: [&str; 3] = ["fjall", "redb", "redis"];

struct File {
    path: String,
    text: String,
}

impl File {
    /// The crate under `crates/` that the file belongs to.
    fn package(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    fn is_source(&self) -> bool {
        self.path.ends_with(".rs") && self.path.contains("/src/")
    }

    fn vendored(&self) -> bool {
        self.path.contains("socket.io.")
    }

    /// The lines before the tests, with their numbers, less those that are allowed.
    fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines
            .take_while(move |(_, line)| !tests && !line.trim_start().starts_with("#[cfg(test)]"))
            .filter(|(_, line)| !line.contains(ALLOWED) && !line.trim_start().starts_with("//"))
    }
}

pub fn run() -> Result<()> {
    let files = tracked()?;
    let mut problems = Vec::new();
    let mut remarks = Vec::new();
    lengths(&files, &mut problems, &mut remarks);
    pure_crates(&files, &mut problems);
    queues(&files, &mut problems);
    words(&files, &mut problems);
    direction(&files, &mut problems);
    openings(&files, &mut problems);
    metric_names(&files, &mut problems);
    promises(&files, &mut problems);
    for remark in &remarks {
        println!("note: {remark}");
    }
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    if problems.is_empty() {
        println!("tidy: {} files, nothing to complain about", files.len());
        return Ok(());
    }
    bail!("{} problems", problems.len())
}

/// The text files that git knows, new ones included.
fn tracked() -> Result<Vec<File>> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output()
        .context("git ls-files")?;
    if !listed.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    }
    let names: BTreeSet<String> = String::from_utf8_lossy(&listed.stdout)
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    // What is no text (a picture, a corpus) has no lines to check.
    let read = |path: String| std::fs::read_to_string(root().join(&path)).ok().map(|text| File { path, text });
    Ok(names.into_iter().filter_map(read).collect())
}

fn lengths(files: &[File], problems: &mut Vec<String>, remarks: &mut Vec<String>) {
    let written = |file: &&File| {
        let kind = Path::new(&file.path).extension().and_then(|kind| kind.to_str()).unwrap_or_default();
        matches!(kind, "rs" | "js" | "mjs" | "ts" | "css" | "html") && !file.vendored()
    };
    for file in files.iter().filter(written) {
        let lines = file.text.lines().count();
        if lines > MOST_LINES {
            problems.push(format!("{}: {lines} lines, {MOST_LINES} at most", file.path));
        } else if lines > LONG_LINES {
            remarks.push(format!("{}: {lines} lines, aim for {LONG_LINES}", file.path));
        }
    }
}

fn pure_crates(files: &[File], problems: &mut Vec<String>) {
    for file in files.iter().filter(|file| file.package().is_some_and(|package| PURE.contains(&package))) {
        if file.path.ends_with("Cargo.toml") {
            for name in dependencies(&file.text, true) {
                if IMPURE_CRATES.contains(&name) {
                    problems.push(format!("{}: a pure crate depends on {name}", file.path));
                }
            }
        } else if file.is_source() {
            for (number, line) in file.product_lines() {
                for call in IMPURE_CALLS {
                    if line.contains(call) {
                        problems.push(format!("{}:{number}: {call} in a pure crate", file.path));
                    }
                }
            }
        }
    }
}

/// Each test that `docs/delivery.md` links with a promise is in the file that it names.
fn promises(files: &[File], problems: &mut Vec<String>) {
    const PROMISES: &str = "docs/delivery.md";
    let Some(document) = files.iter().find(|file| file.path == PROMISES) else { return };
    for (index, line) in document.text.lines().enumerate() {
        for link in line.split("[`").skip(1) {
            let Some((name, rest)) = link.split_once("`](../") else { continue };
            let path = rest.split(')').next().unwrap_or_default();
            let test = name.trim_end_matches('*');
            let found = files.iter().any(|file| file.path == path && file.text.contains(test));
            if !found {
                problems.push(format!("{PROMISES}:{}: {path} has no test {name}", index + 1));
            }
        }
    }
}

fn queues(files: &[File], problems: &mut Vec<String>) {
    let unbounded =
        [concat!("unbounded_", "channel"), concat!("std::sync::mpsc::", "channel"), concat!("mpsc::", "unbounded")];
    for file in files.iter().filter(|file| file.is_source()) {
        for (number, line) in file.product_lines() {
            for queue in unbounded {
                if line.contains(queue) {
                    problems.push(format!("{}:{number}: {queue}: no queue without a bound", file.path));
                }
            }
        }
    }
}

/// Paths of one machine and hosts of registries have no place in the repository.
fn words(files: &[File], problems: &mut Vec<String>) {
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/."),
        concat!("/ho", "me/"),
        concat!("registry.", "npmjs"),
        concat!("static.", "crates.io"),
        concat!("index.", "crates.io"),
        concat!("pypi.", "org"),
        concat!("deb.", "debian.org"),
        concat!("proxy.", "golang.org"),
    ];
    for file in files.iter().filter(|file| !file.vendored()) {
        for (index, line) in file.text.lines().enumerate().filter(|(_, line)| !line.contains(ALLOWED)) {
            for word in words {
                if line.contains(word) {
                    problems.push(format!("{}:{}: mentions {word}", file.path, index + 1));
                }
            }
        }
    }
}

fn direction(files: &[File], problems: &mut Vec<String>) {
    for file in files.iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let Some(package) = file.package() else { continue };
        let names = dependencies(&file.text, false);
        for name in &names {
            if STORES.contains(name) && package != "cluster" {
                problems.push(format!("{}: only cluster knows {name}", file.path));
            }
        }
        if package == "tidegate" {
            continue;
        }
        let Some((_, allowed)) = DIRECTION.iter().find(|(name, _)| *name == package) else {
            problems.push(format!("{}: tidy does not know this crate; give it its place in DIRECTION", file.path));
            continue;
        };
        for name in names.iter().filter_map(|name| name.strip_prefix("tidegate-")) {
            if name != "types" && !allowed.contains(&name) {
                problems.push(format!("{}: {package} must not depend on {name}", file.path));
            }
        }
    }
}

/// The names under `[dependencies]` and `[build-dependencies]`, with `[dev-dependencies]` if asked for.
fn dependencies(manifest: &str, dev: bool) -> Vec<&str> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside =
                section == "dependencies" || section == "build-dependencies" || (dev && section == "dev-dependencies");
        } else if inside && !line.starts_with('#') {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if !name.is_empty() {
                names.push(name);
            }
        }
    }
    names
}

fn openings(files: &[File], problems: &mut Vec<String>) {
    let opening = |file: &&File| file.path.ends_with("/src/lib.rs") || file.path.ends_with("/src/main.rs");
    for file in files.iter().filter(opening) {
        let first = file.text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
        if !first.is_some_and(|line| line.starts_with("//!")) {
            problems.push(format!("{}: opens with what it is (`//!`)", file.path));
        }
    }
}

/// A metric that is asked for or shown must be one of the catalogue.
fn metric_names(files: &[File], problems: &mut Vec<String>) {
    let catalogue: String = files
        .iter()
        .filter(|file| file.package() == Some("metrics") && file.is_source())
        .map(|file| file.text.as_str())
        .collect();
    let known = |name: &str| {
        let base = ["_bucket", "_sum", "_count", "_total"]
            .iter()
            .fold(name, |name, end| name.strip_suffix(end).unwrap_or(name));
        [name.to_owned(), base.to_owned(), format!("{base}_total")]
            .iter()
            .any(|name| catalogue.contains(&format!("\"{name}\"")))
    };
    let shown = |file: &&File| {
        let kind = Path::new(&file.path).extension().and_then(|kind| kind.to_str()).unwrap_or_default();
        matches!(kind, "rs" | "js" | "mjs" | "json")
            && !file.vendored()
            && file.package() != Some("metrics")
            && !file.path.starts_with("xtask/")
    };
    for file in files.iter().filter(shown) {
        for (index, line) in file.text.lines().enumerate().filter(|(_, line)| !line.contains(ALLOWED)) {
            for name in quoted_metrics(line).filter(|name| !known(name)) {
                problems.push(format!("{}:{}: {name} is not in the catalogue of metrics", file.path, index + 1));
            }
        }
    }
}

/// Names in the manner of ours that stand in quotes on their own. The cookie is called likewise, and the crates are.
fn quoted_metrics(line: &str) -> impl Iterator<Item = &str> {
    let ours = |name: &&str| {
        let rest = name.strip_prefix("websocket_").or_else(|| name.strip_prefix("tidegate_"));
        rest.is_some_and(|rest| {
            !rest.is_empty() && rest != "token" && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        }) && !PURE.iter().any(|package| name.strip_prefix("tidegate_") == Some(package))
    };
    line.split('"').skip(1).step_by(2).filter(ours)
}

#[cfg(test)]
mod self_checks {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    fn found(check: fn(&[File], &mut Vec<String>), files: &[File]) -> Vec<String> {
        let mut problems = Vec::new();
        check(files, &mut problems);
        problems
    }

    #[test]
    fn a_clock_in_a_pure_crate_is_found_but_not_in_its_tests_or_elsewhere() {
        let bad = file("crates/hub/src/a.rs", "fn f() { std::time::Instant::now(); }\n");
        let in_tests =
            file("crates/hub/src/b.rs", "#[cfg(test)]\nmod tests { fn f() { std::time::Instant::now(); } }\n");
        let elsewhere = file("crates/server/src/c.rs", "fn f() { std::time::Instant::now(); }\n");
        let found = found(pure_crates, &[bad, in_tests, elsewhere]);
        assert_eq!(found, ["crates/hub/src/a.rs:1: Instant::now in a pure crate"]);
    }

    #[test]
    fn a_dependency_against_the_direction_is_found() {
        let proxy = file(
            "crates/proxy/Cargo.toml",
            "[dependencies]\ntidegate-realtime.workspace = true\ntidegate-wire.workspace = true\n",
        );
        let store = file(
            "crates/realtime/Cargo.toml",
            "[dependencies]\nfjall = { workspace = true }\n[dev-dependencies]\nredis = \"1\"\n",
        );
        let found = found(direction, &[proxy, store]);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_metric_outside_the_catalogue_is_found() {
        let catalogue = file("crates/metrics/src/lib.rs", "name: \"websocket_messages_sent_total\"");
        let shown = file(
            "page.js",
            "[\"websocket_messages_sent_total\", \"websocket_messages_sent\", \"websocket_tides_total\"]",
        );
        let found = found(metric_names, &[catalogue, shown]);
        assert_eq!(found, ["page.js:1: websocket_tides_total is not in the catalogue of metrics"]);
    }

    #[test]
    fn unbounded_queues_and_machine_paths_are_found_unless_allowed() {
        let queue = file(
            "crates/server/src/a.rs",
            concat!("let (a, b) = unbounded_", "channel();\nunbounded_", "channel(); // tidy: allow, a test\n"),
        );
        assert_eq!(found(queues, std::slice::from_ref(&queue)).len(), 1);
        assert_eq!(found(words, &[file("README.md", concat!("cd /wo", "rk/main\n"))]).len(), 1);
    }

    #[test]
    fn a_library_that_does_not_say_what_it_is_is_found() {
        let bad = file("crates/hub/src/lib.rs", "mod a;\n");
        let good = file("crates/wire/src/lib.rs", "#![allow(x)]\n//! Codecs.\n");
        assert_eq!(found(openings, &[bad, good]).len(), 1);
    }
}
