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

/// What is measured: a process, or the nodes of a cluster. It ends when this is dropped.
pub struct Server {
    children: Vec<Child>,
    /// Where it listens, each node its own.
    addresses: Vec<String>,
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
        for attempt in 0..100 {
            self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            if self.children.is_empty() {
                return;
            }
            if attempt == 0 || attempt == 5 {
                let pids = self.children.iter().map(|child| child.id().to_string());
                let _ = Command::new("kill").arg("-TERM").args(pids).stderr(Stdio::null()).status();
            }
            sleep(Duration::from_millis(50));
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Server {
    /// Where its first node listens.
    pub fn address(&self) -> &str {
        self.addresses.first().map_or("", String::as_str)
    }

    fn pid(&self) -> u32 {
        self.children.first().map_or(0, Child::id)
    }

    fn pids(&self) -> String {
        self.children.iter().map(|child| child.id().to_string()).collect::<Vec<_>>().join(",")
    }

    /// An argument of the generator with its marks filled in.
    fn fill(&self, arg: &str) -> String {
        let nodes = || self.addresses.iter().map(|address| format!("ws://{address}")).collect::<Vec<_>>().join(",");
        let arg = arg.replace("@ADDR@", self.address());
        if arg.contains("@NODES@") { arg.replace("@NODES@", &nodes()) } else { arg }
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
        Ok(Server { children: vec![child], addresses: vec![address], auth: Vec::new(), helper: None })
    }

    /// Starts a peer and waits until it accepts connections.
    pub fn start(&self, peer: Peer, setup: Setup, upstream: &str) -> anyhow::Result<Server> {
        if matches!(setup, Setup::Cluster | Setup::ClusterStreams) {
            return self.start_cluster(peer, setup);
        }
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
                command
                    .arg(self.root.join("bench/peers/node/server.js"))
                    .env("PORT", port(&address))
                    .env("NODE_ENV", "production");
                if setup == Setup::Recovering {
                    command.env("RECOVERY", "memory");
                } else if setup == Setup::RecoveringByRedis {
                    let (redis, port) = self.start_redis(Some(SERVER_CORE))?;
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
        let child = self.spawn(&mut command, peer, &address)?;
        Ok(Server { children: vec![child], addresses: vec![address], auth, helper })
    }

    /// Starts three nodes that are one server through a Redis, on whatever cores are free.
    fn start_cluster(&self, peer: Peer, setup: Setup) -> anyhow::Result<Server> {
        let secret = "measured-on-loopback-with-a-secret-of-48-bytes-ok";
        let (redis, redis_port) = self.start_redis(None)?;
        let mut auth = Vec::new();
        let mut server = Server { children: Vec::new(), addresses: Vec::new(), auth: Vec::new(), helper: Some(redis) };
        for node in 0..3 {
            let address = free_address()?;
            let mut command = match peer {
                Peer::Node => {
                    let mut command = Command::new("node");
                    command.arg(self.root.join("bench/peers/node/server.js"));
                    command.env("PORT", port(&address)).env("NODE_ENV", "production").env("REDIS_PORT", &redis_port);
                    let (key, value) =
                        if setup == Setup::ClusterStreams { ("RECOVERY", "redis") } else { ("ADAPTER", "pubsub") };
                    command.env(key, value);
                    command
                }
                Peer::Tidegate => {
                    let template = fs::read_to_string(self.root.join("bench/peers/tidegate-node.toml"))?;
                    let config = template
                        .replace("@LISTEN@", &address)
                        .replace("@ADMIN@", &free_address()?)
                        .replace("@REDIS@", &format!("redis://127.0.0.1:{redis_port}"))
                        .replace("@NODE@", &format!("node-{node}"))
                        .replace("@SECRET@", secret)
                        .replace("@DIR@", &self.dir.to_string_lossy());
                    let path = self.dir.join(format!("node-{node}.toml"));
                    fs::write(&path, config)?;
                    auth = vec!["--jwt-secret".to_owned(), secret.to_owned()];
                    let mut command = Command::new(&self.tidegate);
                    command.arg("run").arg("--config").arg(path);
                    command
                }
                Peer::Nginx | Peer::Haproxy => bail!("{} is no realtime server", peer.name()),
            };
            server.children.push(self.spawn(&mut command, peer, &address)?);
            server.addresses.push(address);
        }
        server.auth = auth;
        Ok(server)
    }

    /// Starts it and waits until it accepts connections.
    fn spawn(&self, command: &mut Command, peer: Peer, address: &str) -> anyhow::Result<Child> {
        let log = self.dir.join(format!("{}.out", peer.name()));
        let out = fs::File::create(&log)?;
        command.stdout(out.try_clone()?).stderr(out).stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
        let mut child = command.spawn().with_context(|| format!("{} did not start; is it installed?", peer.name()))?;
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = child.try_wait()? {
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
        Ok(child)
    }

    /// Redis with nothing on disk, on one core or any; its port.
    fn start_redis(&self, core: Option<&str>) -> anyhow::Result<(Child, String)> {
        let address = free_address()?;
        let port = port(&address).to_owned();
        let redis = Path::new("redis-server");
        let mut child = core
            .map_or_else(|| Command::new(redis), |core| pinned(core, redis))
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
        command.arg("fire.mjs").current_dir(dir).args(["--url", &format!("http://{}", server.address())]);
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
            let args: Vec<String> = args.iter().map(|arg| server.fill(arg)).collect();
            return h2::generate(&args, server.pid(), seconds);
        }
        if case.fire() {
            return self.fire(server, seconds);
        }
        let several = server.addresses.len() > 1;
        // The nodes of a cluster share both cores, and the load with them.
        let mut command = if several { Command::new(&self.generator) } else { pinned(LOAD_CORE, &self.generator) };
        command.arg("bench");
        command.args(case.args.iter().map(|arg| server.fill(arg)));
        command.args(["--json", "--quiet", "--pid", &server.pids()]);
        if let Some(broker) = server.helper.as_ref().filter(|_| several) {
            command.args(["--broker-pid", &broker.id().to_string()]);
        }
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
pub fn install(dir: &Path, module: &str) -> anyhow::Result<()> {
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

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}

/// An address that is free now. Peers cannot take port 0 and say what they got, so it is given back first.
fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
