//! `cargo xtask test`: installs what is missing, builds the binary, runs every test.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{must, root};

/// What the tests need beside Rust: a program, and the Debian package that has it.
const NEEDED: [(&str, &str); 14] = [
    // libFuzzer is C++.
    ("c++", "g++"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("chromium", "chromium"),
    ("nginx", "nginx-light"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("h2load", "nghttp2-client"),
    ("slowhttptest", "slowhttptest"),
    ("testssl", "testssl.sh"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("python3", "python3-venv"),
    ("prometheus-nginx-exporter", "prometheus-nginx-exporter"),
];

pub fn run(names: &[String]) -> Result<()> {
    install_programs(&NEEDED)?;
    install_modules(&root().join("tests/e2e/node"))?;
    install_venv(&root().join("tests/e2e/python"))?;
    build()?;
    let cargo = cargo();
    if Command::new(&cargo)
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|it| it.success())
    {
        // Documentation tests first: nextest has none, and its summary is to be the last line.
        if names.is_empty() {
            must(Command::new(&cargo).args(["test", "--workspace", "--doc", "--quiet"]).current_dir(root()))?;
        }
        must(
            Command::new(&cargo)
                .args(["nextest", "run", "--workspace", "--no-fail-fast"])
                .args(names)
                .current_dir(root()),
        )
    } else {
        must(Command::new(&cargo).args(["test", "--workspace", "--no-fail-fast", "--"]).args(names).current_dir(root()))
    }
}

/// Takes the README's picture with the browser test.
pub fn screenshot() -> Result<()> {
    install_programs(&NEEDED)?;
    install_modules(&root().join("tests/e2e/node"))?;
    build()?;
    let picture = root().join("docs/screenshot.png");
    must(
        Command::new(cargo())
            .args(["test", "--package", "tidegate-e2e", "--test", "e2e", "--", "screenshot"])
            .env("XTASK_SCREENSHOT", &picture)
            .current_dir(root()),
    )?;
    println!("{}", picture.display());
    Ok(())
}

fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

fn build() -> Result<()> {
    must(Command::new(cargo()).args(["build", "--package", "tidegate", "--bins", "--examples"]).current_dir(root()))
}

/// Whether `program` is on the path, or where Debian puts servers.
fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let servers = std::path::PathBuf::from("/usr/sbin");
    std::env::split_paths(&path).chain([servers]).any(|folder| folder.join(program).is_file())
}

/// Installs Debian packages whose programs are missing, when that is possible; says what to do when it is not.
pub fn install_programs(needed: &[(&str, &str)]) -> Result<()> {
    let packages: Vec<&str> =
        needed.iter().filter(|(program, _)| !found(program)).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    install_packages(&packages)
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !found("apt-get") || !is_root() {
        bail!("these are missing: {list}. Install them and try again (Debian: apt-get install {list})");
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        must(&mut command)
    };
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(packages);
    apt(&install)
}

/// `Uid:` of proc(5), the effective one; asking the kernel itself would need unsafe code or another dependency.
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.and_then(|line| line.split_whitespace().nth(1)) == Some("0")
}

/// `npm ci`, unless what is installed is what the lock file says.
pub fn install_modules(folder: &Path) -> Result<()> {
    let lock = std::fs::read(folder.join("package-lock.json"))
        .with_context(|| format!("no package-lock.json in {}", folder.display()))?;
    let stamp = folder.join("node_modules/.installed-lock");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    must(
        Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(folder)
            .stdin(Stdio::null()),
    )?;
    std::fs::write(&stamp, lock)?;
    Ok(())
}

/// A virtual environment with what `requirements.txt` lists, unless that is what it has.
fn install_venv(folder: &Path) -> Result<()> {
    let wanted = std::fs::read(folder.join("requirements.txt"))
        .with_context(|| format!("no requirements.txt in {}", folder.display()))?;
    let venv = folder.join("venv");
    let stamp = venv.join(".installed-requirements");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        command
    };
    // Debian's python3 alone cannot make one.
    if !python(&["-c", "import ensurepip, venv"]).stderr(Stdio::null()).status().is_ok_and(|it| it.success()) {
        install_packages(&["python3-venv"])?;
    }
    must(&mut python(&["-m", "venv", "--clear", "venv"]))?;
    must(
        Command::new(venv.join("bin/pip"))
            .args(["install", "--quiet", "--requirement", "requirements.txt"])
            .current_dir(folder)
            .stdin(Stdio::null()),
    )?;
    std::fs::write(&stamp, wanted)?;
    Ok(())
}
