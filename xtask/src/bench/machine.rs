//! On what it was measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde_json::{Value, json};

/// The root of the repository: where this crate's manifest is, one up.
pub fn workspace_root() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask has no parent directory")?.to_owned())
}

/// What a command prints first, on either stream; empty when it cannot be run.
pub fn first_line(program: &str, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else { return String::new() };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}

/// Processor, cores, kernel and memory.
pub fn describe() -> Value {
    let field = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = text.lines().find(|line| line.starts_with(key)).and_then(|line| line.split_once(':'));
        found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    json!({
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": field("/proc/meminfo", "MemTotal"),
        "kernel": first_line("uname", &["-sr"]),
        "load_at_start": fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default(),
    })
}

/// Versions of everything that takes part.
pub fn versions(root: &Path) -> Value {
    let manifest =
        fs::read_to_string(root.join("bench/peers/node/node_modules/socket.io/package.json")).unwrap_or_default();
    let socketio: Value = serde_json::from_str(&manifest).unwrap_or_default();
    json!({
        "nginx": first_line("nginx", &["-v"]).rsplit('/').next().unwrap_or_default(),
        "haproxy": first_line("haproxy", &["-v"]).split(' ').nth(2).unwrap_or_default(),
        "node": first_line("node", &["--version"]),
        "socket.io": socketio.get("version").and_then(Value::as_str).unwrap_or_default(),
        "redis": first_line("redis-server", &["--version"]).split("v=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default(),
        "rustc": first_line("rustc", &["--version"]),
    })
}

/// The commit, with a mark when the work tree differs from it.
pub fn commit(root: &Path) -> (String, bool) {
    let root = root.to_string_lossy();
    let commit = first_line("git", &["-C", &root, "rev-parse", "--short", "HEAD"]);
    if commit.is_empty() || commit.contains(' ') {
        return ("unknown".to_owned(), true);
    }
    let changed =
        first_line("git", &["-C", &root, "status", "--porcelain", "--untracked-files=no", "crates", "Cargo.lock"]);
    (commit, !changed.is_empty())
}
