//! Beside what is measured: starting the peers, each alone on its core, and ending them again.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::case::Case;
use super::h2;
use super::setup::{Marks, Setup};

/// The core of the measured server.
const SERVER_CORE: &str = "0";
/// The core of the generator and the upstream, which must not take the server's time.
pub const LOAD_CORE: &str = "1";

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// This project.
    Tidegate,
    /// The reverse proxy of Debian.
    Nginx,
    /// The other reverse proxy of Debian.
    Haproxy,
    /// socket.io on Node.
    Node,
}

impl Peer {
    /// Name in options and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Node => "node",
        }
    }

    /// The peer of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Tidegate, Self::Nginx, Self::Haproxy, Self::Node].into_iter().find(|peer| peer.name() == name)
    }
}

/// A process of ours; it ends when this is dropped.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: String,
    /// Arguments for the generator, to be let in.
    auth: Vec<String>,
    /// What it needs beside it.
    helper: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(helper) = self.helper.as_mut() {
            let _ = helper.kill();
            let _ = helper.wait();
        }
        // Asked twice: the second time Tidegate does not wait for its clients to go.
        let pid = self.child.id().to_string();
        for attempt in 0..100 {
            if attempt == 0 || attempt == 5 {
                let _ = Command::new("kill").args(["-TERM", &pid]).stderr(Stdio::null()).status();
            }
            match self.child.try_wait() {
                Ok(None) => sleep(Duration::from_millis(50)),
                _ => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate of its own for the run: ECDSA on P-256, as Let's Encrypt's are.
fn certificate(dir: &Path) -> anyhow::Result<()> {
    let status = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir)
        .stderr(Stdio::null())
        .status();
    ensure!(status.context("openssl did not start; is it installed?")?.success(), "openssl made no certificate");
    Ok(())
}

/// Files and binaries of one run.
pub struct Place {
    root: PathBuf,
    dir: PathBuf,
    tidegate: PathBuf,
    generator: PathBuf,
}

impl Place {
    /// Makes an empty directory for configs, logs and stores.
    pub fn prepare(root: &Path, tidegate: PathBuf, generator: PathBuf) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("tidegate-bench-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        ensure!(generator.is_file(), "no generator at {}", generator.display());
        certificate(&dir)?;
        Ok(Self { root: root.to_owned(), dir, tidegate, generator })
    }

    /// Installs the Node peer's modules when they are missing.
    pub fn install_node(&self) -> anyhow::Result<()> {
        install(&self.root.join("bench/peers/node"), "@socket.io/redis-streams-adapter")
    }

    /// The upstream of the proxies, on the generator's core.
    pub fn start_upstream(&self) -> anyhow::Result<Server> {
        let mut command = pinned(LOAD_CORE, &self.generator);
        command
            .args(["bench", "upstream", "--body", "256", "--sse-rate", "50", "--sse-size", "64"])
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("the upstream did not start")?;
        let out = child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address =
            line.trim().strip_prefix("listening on ").context("the upstream did not say where it listens")?.to_owned();
        Ok(Server { child, address, auth: Vec::new(), helper: None })
    }

    /// Starts a peer and waits until it accepts connections.
    pub fn start(&self, peer: Peer, setup: Setup, upstream: &str) -> anyhow::Result<Server> {
        let address = free_address()?;
        let secret = "measured-on-loopback-with-a-secret-of-48-bytes-ok";
        let admin = free_address()?;
        let fill = |file: &str, marks: Marks| -> anyhow::Result<PathBuf> {
            let template = fs::read_to_string(self.root.join("bench/peers").join(file))
                .with_context(|| format!("cannot read {file}"))?;
            let text = marks
                .fill(&template)
                .replace("@LISTEN@", &address)
                .replace("@ADMIN@", &admin)
                .replace("@UPSTREAM@", upstream)
                .replace("@SECRET@", secret)
                .replace("@DIR@", &self.dir.to_string_lossy());
            let path = self.dir.join(file);
            fs::write(&path, text)?;
            Ok(path)
        };
        let mut auth = Vec::new();
        let mut helper = None;
        let mut command = match peer {
            Peer::Nginx => {
                let mut command = pinned(SERVER_CORE, Path::new("nginx"));
                command.arg("-c").arg(fill("nginx.conf", setup.nginx())?).arg("-p").arg(&self.dir);
                command
            }
            Peer::Haproxy => {
                let mut command = pinned(SERVER_CORE, Path::new("haproxy"));
                command.arg("-db").arg("-f").arg(fill("haproxy.cfg", Marks(Vec::new()))?);
                command
            }
            Peer::Node => {
                let mut command = pinned(SERVER_CORE, Path::new("node"));
                let port = address.rsplit(':').next().unwrap_or_default();
                command
                    .arg(self.root.join("bench/peers/node/server.js"))
                    .env("PORT", port)
                    .env("NODE_ENV", "production");
                if setup == Setup::Recovering {
                    command.env("RECOVERY", "memory");
                } else if setup == Setup::RecoveringByRedis {
                    let (redis, port) = self.start_redis()?;
                    helper = Some(redis);
                    command.env("RECOVERY", "redis").env("REDIS_PORT", port);
                }
                command
            }
            Peer::Tidegate => {
                ensure!(self.tidegate.is_file(), "no binary at {}", self.tidegate.display());
                let mut command = pinned(SERVER_CORE, &self.tidegate);
                if setup == Setup::Dev {
                    let data = self.dir.join("dev");
                    command.arg("dev").args(["--listen", &address]).arg("--data-dir").arg(&data);
                    auth = vec!["--secret-file".to_owned(), data.join("jwt-secret").to_string_lossy().into_owned()];
                } else {
                    let _ = fs::remove_dir_all(self.dir.join("store"));
                    command.arg("run").arg("--config").arg(fill("tidegate.toml", setup.tidegate())?);
                    auth = vec!["--jwt-secret".to_owned(), secret.to_owned()];
                }
                command
            }
        };
        let log = self.dir.join(format!("{}.out", peer.name()));
        let out = fs::File::create(&log)?;
        command.stdout(out.try_clone()?).stderr(out).stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
        let child = command.spawn().with_context(|| format!("{} did not start; is it installed?", peer.name()))?;
        let mut server = Server { child, address, auth, helper };
        let started = Instant::now();
        while TcpStream::connect(&server.address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = said.lines().rev().take(8).collect();
                bail!(
                    "{} ended at once ({status}): {}",
                    peer.name(),
                    tail.into_iter().rev().collect::<Vec<_>>().join(" / ")
                );
            }
            ensure!(started.elapsed() < Duration::from_secs(20), "{} does not listen", peer.name());
            sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Redis with nothing on disk, beside the server it serves; its port.
    fn start_redis(&self) -> anyhow::Result<(Child, String)> {
        let address = free_address()?;
        let port = address.rsplit(':').next().unwrap_or_default().to_owned();
        let mut child = pinned(SERVER_CORE, Path::new("redis-server"))
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"])
            .current_dir(&self.dir)
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server did not start; it is in Debian's redis-server")?;
        let started = Instant::now();
        while TcpStream::connect(&address).is_err() {
            ensure!(child.try_wait()?.is_none(), "redis-server ended at once");
            ensure!(started.elapsed() < Duration::from_secs(20), "redis-server does not listen");
            sleep(Duration::from_millis(20));
        }
        Ok((child, port))
    }

    /// Cuts the clients of a server again and again; what they saw.
    fn fire(&self, server: &Server, seconds: u32) -> anyhow::Result<Value> {
        let dir = self.root.join("tests/e2e/node");
        install(&dir, "socket.io-client")?;
        let mut command = pinned(LOAD_CORE, Path::new("node"));
        command.arg("fire.mjs").current_dir(dir).args(["--url", &format!("http://{}", server.address)]);
        // As many as the seconds of the other cases would give.
        command.args(["--recoveries", &(200 * seconds).min(1_000).to_string()]);
        if let [_, secret] = server.auth.as_slice() {
            command.args(["--secret", secret]);
        }
        let output = command.output().context("node did not start")?;
        ensure!(output.status.success(), "fire.mjs: {}", String::from_utf8_lossy(&output.stderr).trim());
        serde_json::from_slice(&output.stdout).context("fire.mjs printed no JSON")
    }

    /// Runs the generator against a server; what it reports.
    pub fn generate(&self, case: &Case, server: &Server, seconds: u32) -> anyhow::Result<Value> {
        if let Some(args) = case.h2load() {
            let args: Vec<String> = args.iter().map(|arg| arg.replace("@ADDR@", &server.address)).collect();
            return h2::generate(&args, server.child.id(), seconds);
        }
        if case.fire() {
            return self.fire(server, seconds);
        }
        let mut command = pinned(LOAD_CORE, &self.generator);
        command.arg("bench");
        command.args(case.args.iter().map(|arg| arg.replace("@ADDR@", &server.address)));
        command.args(["--json", "--quiet", "--pid", &server.child.id().to_string()]);
        command.args(["--duration", &seconds.to_string()]);
        if case.socketio() {
            command.args(&server.auth);
        }
        let output = command.env_remove("RUST_BACKTRACE").output().context("the generator did not start")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let line = said.lines().last().unwrap_or_default();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("the generator: {} {line}", error.trim().replace('\n', " / "));
        }
        serde_json::from_str(line).with_context(|| format!("the generator did not print JSON: {line}"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Installs the Node modules of a folder, if this one of them is missing.
fn install(dir: &Path, module: &str) -> anyhow::Result<()> {
    if dir.join("node_modules").join(module).is_dir() {
        return Ok(());
    }
    eprintln!("installing the Node modules of {}", dir.display());
    let status = Command::new("npm").args(["ci", "--silent", "--no-audit", "--no-fund"]).current_dir(dir).status();
    ensure!(status.context("npm did not start; is Node installed?")?.success(), "npm ci failed");
    Ok(())
}

pub fn pinned(core: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

/// An address that is free now. Peers cannot take port 0 and say what they got, so it is given back first.
fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
