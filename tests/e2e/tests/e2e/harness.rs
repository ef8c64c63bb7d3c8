//! Starts the binary, and runs node scenarios that may ask for it to be stopped and started again.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Lines of the server's output that are kept to be shown when a test fails.
const KEPT_LINES: usize = 200;

/// The binary under test: `TIDEGATE_BIN`, or the one beside this test in the target directory.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEGATE_BIN") {
        return PathBuf::from(path);
    }
    let beside = std::env::current_exe().unwrap();
    let path = beside.parent().and_then(Path::parent).unwrap().join("tidegate");
    assert!(
        path.exists(),
        "{} is not built: run `cargo build -p tidegate` first, or `cargo xtask test`",
        path.display()
    );
    path
}

/// An example of the binary's package, beside the binary.
pub fn example(name: &str) -> PathBuf {
    let path = binary().parent().unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build -p tidegate --examples` first, or `cargo xtask test`",
        path.display()
    );
    path
}

fn node_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("node")
}

/// The secrets of a server with a config of its own.
pub const JWT_SECRET: &str = "a secret of the tests, long enough for HS256";
const API_KEY: &str = "a key of the tests";

/// A running `tidegate dev`, or `tidegate run`, with its data directory. Killed when dropped.
pub struct Server {
    child: Option<Child>,
    data: tempfile::TempDir,
    kind: Kind,
    pub address: SocketAddr,
    log: Arc<Mutex<VecDeque<String>>>,
}

/// How a server is started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `tidegate dev`.
    Dev,
    /// `tidegate run` with the config in its data directory.
    Configured,
    /// `tidegate dev` with its data on a filesystem of 24 MiB that only the server sees, and that ends with it.
    OnASmallDisk,
}

/// Mounts the small filesystem over its first argument, in a mount namespace of the process's own.
const MOUNT: &str = "mount -t tmpfs -o size=24m tmpfs \"$1\"";

impl Server {
    pub fn start() -> Self {
        Self::start_on(Kind::Dev)
    }

    fn start_on(kind: Kind) -> Self {
        let data = tempfile::tempdir().unwrap();
        let log = Arc::default();
        let (child, address) = spawn(kind.command(data.path()), &log);
        Self { child: Some(child), data, kind, address, log }
    }

    /// `tidegate run` with these lines in `[realtime]`, everything in memory, and no page.
    pub fn configured(realtime: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[log]\naccess = \"off\"\n\
             [realtime]\n{realtime}\n[realtime.auth]\njwt_secret = \"{JWT_SECRET}\"\n\
             [[realtime.auth.api_keys]]\nid = \"tests\"\nsecret = \"{API_KEY}\"\n"
        );
        std::fs::write(data.path().join("tidegate.toml"), config).unwrap();
        std::fs::write(data.path().join("jwt-secret"), JWT_SECRET).unwrap();
        std::fs::write(data.path().join("api-key"), API_KEY).unwrap();
        let log = Arc::default();
        let (child, address) = spawn(Kind::Configured.command(data.path()), &log);
        Self { child: Some(child), data, kind: Kind::Configured, address, log }
    }

    /// A path in the data directory as this process sees it.
    fn path(&self, name: &str) -> PathBuf {
        let path = self.data.path().join(name);
        match self.kind {
            Kind::Dev | Kind::Configured => path,
            Kind::OnASmallDisk => {
                Path::new(&format!("/proc/{}/root", self.pid())).join(path.strip_prefix("/").unwrap_or(&path))
            }
        }
    }

    /// Takes all space of the disk; with what error that ended.
    fn fill(&self) -> String {
        assert!(self.kind == Kind::OnASmallDisk, "only a disk of its own is filled");
        let mut file = std::fs::File::create(self.path("filler")).unwrap();
        loop {
            if let Err(error) = file.write_all(&[0; 4_096]) {
                return error.to_string();
            }
        }
    }

    /// Leaves at the journal's end what a process leaves that is killed in the middle of a group; how many bytes.
    fn tear(&self) -> usize {
        let journals = files_below(self.data.path());
        let journal = journals.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max();
        let path = journal.expect("the store has a journal");
        let mut bytes = std::fs::read(path).unwrap();
        let allocated = bytes.len();
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        // A group of three items, whose first one's key has not been written to its end.
        let torn =
            [&[1, 3, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 2, 0, 0][..], &[7; 8], &[40, 0, 90, 0, 0, 0, 90, 0, 0, 0, 5, 5]];
        let torn = torn.concat();
        bytes.extend_from_slice(&torn);
        bytes.resize(allocated.max(bytes.len()), 0);
        std::fs::write(path, bytes).unwrap();
        torn.len()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// A secret that `dev` generated into its data directory.
    fn secret(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    pub fn jwt_secret(&self) -> String {
        self.secret("jwt-secret")
    }

    pub fn api_key(&self) -> String {
        self.secret("api-key")
    }

    /// A token from the page's own way to get one.
    pub fn token(&self, name: &str) -> String {
        if self.kind == Kind::Configured {
            let mut command = Command::new(binary());
            let output = command.args(["token", "--user", name, "--data-dir"]).arg(self.data.path()).output().unwrap();
            return String::from_utf8(output.stdout).unwrap().trim().to_owned();
        }
        let answer = crate::raw::get(self.address, &format!("/dev/session?name={name}"));
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        body["token"].as_str().unwrap().to_owned()
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(sent.success(), "kill -{name}");
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.take().expect("the server runs").wait().unwrap()
    }

    fn restart(&mut self) {
        let (child, address) = spawn(self.kind.command(self.data.path()), &self.log);
        self.child = Some(child);
        self.address = address;
    }

    fn wipe(&self) {
        for entry in std::fs::read_dir(self.data.path()).unwrap() {
            let path = entry.unwrap().path();
            // The secrets stay: it is the store that is lost.
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    }

    /// Private resident memory, KiB.
    pub fn memory_kib(&self) -> u64 {
        private_kib(self.pid())
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// The server closes its ends when it comes to it: a client's end of a connection is not the server's.
    pub fn until_descriptors_are_at_most(&self, most: usize) {
        let end = Instant::now() + crate::raw::PATIENCE;
        while self.descriptors() > most {
            assert!(Instant::now() < end, "{} descriptors, at most {most} are expected", self.descriptors());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn assert_alive(&mut self) {
        let ended = self.child.as_mut().expect("the server runs").try_wait().unwrap();
        assert!(ended.is_none(), "the server ended with {ended:?}:\n{}", self.output());
        let (path, status) =
            if self.kind == Kind::Configured { ("/socket.io/?EIO=3", 400) } else { ("/health/live", 200) };
        assert_eq!(crate::raw::get(self.address, path).status, status);
    }

    pub fn output(&self) -> String {
        self.log.lock().unwrap().iter().cloned().collect::<Vec<_>>().join("\n")
    }

    /// Panics must not only be survived, there must be none.
    pub fn assert_no_panic(&self) {
        let output = self.output();
        assert!(!output.contains("panicked at"), "{output}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("--- the server's last lines ---\n{}", self.output());
        }
    }
}

impl Kind {
    fn command(self, data: &Path) -> Command {
        match self {
            Self::Dev => {
                let mut command = Command::new(binary());
                command.args(["dev", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data);
                command
            }
            Self::Configured => {
                let mut command = Command::new(binary());
                command.arg("run").arg("--config").arg(data.join("tidegate.toml"));
                command
            }
            Self::OnASmallDisk => {
                let run = format!("{MOUNT} && exec \"$0\" dev --listen 127.0.0.1:0 --data-dir \"$1\"");
                let mut command = Command::new("unshare");
                command.args(["-rm", "sh", "-c", &run]).arg(binary()).arg(data);
                command
            }
        }
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn spawn(mut command: Command, log: &Arc<Mutex<VecDeque<String>>>) -> (Child, SocketAddr) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A restarted server's address is in what it says from now on.
    log.lock().unwrap().clear();
    keep_lines(child.stderr.take().unwrap(), Arc::clone(log));
    keep_lines(child.stdout.take().unwrap(), Arc::clone(log));
    let end = Instant::now() + crate::raw::PATIENCE;
    loop {
        let said = log.lock().unwrap().iter().find_map(|line| listening(line));
        if let Some(address) = said {
            return (child, address);
        }
        let ended = child.try_wait().unwrap();
        if ended.is_some() || Instant::now() > end {
            let _ = child.kill();
            let lines = log.lock().unwrap().iter().cloned().collect::<Vec<_>>().join("\n");
            panic!("the server said no address and ended with {ended:?}:\n{lines}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The address in a line with `listening on http://ADDRESS:PORT`, wherever in the line it stands.
fn listening(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on http://")?;
    rest.split(|c: char| c != '.' && c != ':' && !c.is_ascii_digit()).next()?.parse().ok()
}

fn push(log: &Mutex<VecDeque<String>>, line: &str) {
    let mut log = log.lock().unwrap();
    if log.len() >= KEPT_LINES {
        log.pop_front();
    }
    log.push_back(line.to_owned());
}

pub fn keep_lines(from: impl Read + Send + 'static, log: Arc<Mutex<VecDeque<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            push(&log, &line);
        }
    });
}

/// A process of the binary, with its last lines. Killed when dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::default();
        keep_lines(child.stdout.take().unwrap(), Arc::clone(&log));
        keep_lines(child.stderr.take().unwrap(), Arc::clone(&log));
        Self { child, log }
    }

    pub fn output(&self) -> String {
        self.log.lock().unwrap().iter().cloned().collect::<Vec<_>>().join("\n")
    }

    /// Waits for a text in its output; what follows it in the line.
    pub fn until_said(&self, text: &str) -> String {
        let end = Instant::now() + crate::raw::PATIENCE;
        loop {
            let output = self.output();
            if let Some((_, rest)) = output.split_once(text) {
                return rest.lines().next().unwrap_or_default().to_owned();
            }
            assert!(Instant::now() < end, "the process did not say {text:?}:\n{output}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The address that follows a text in its output.
    pub fn said(&mut self, before: &str) -> SocketAddr {
        let rest = self.until_said(before);
        let end = rest.find(|c: char| c != '.' && c != ':' && !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().unwrap()
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success(), "kill -{name}");
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Private resident memory, KiB.
    pub fn memory_kib(&self) -> u64 {
        private_kib(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the process's last lines ---\n{}", self.output());
        }
    }
}

/// Private resident memory of a process, KiB (`RssAnon` of proc(5)).
fn private_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs `node run.mjs file name` against a server of its own and fails with what the scenario says.
pub fn scenario(file: &str, name: &str) {
    let mut server = Server::start();
    run_against(&mut server, file, name);
    server.assert_no_panic();
}

/// As [`scenario`], with the server's data on a small disk of its own, where this machine allows that.
pub fn scenario_on_a_small_disk(file: &str, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let allowed = Command::new("unshare").args(["-rm", "sh", "-c", MOUNT, "sh"]).arg(folder.path()).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this machine lets nobody mount a filesystem of their own");
        return;
    }
    let mut server = Server::start_on(Kind::OnASmallDisk);
    run_against(&mut server, file, name);
    server.assert_no_panic();
}

/// The same with these lines in `[realtime]`.
pub fn scenario_with(realtime: &str, file: &str, name: &str) {
    let mut server = Server::configured(realtime);
    run_against(&mut server, file, name);
    server.assert_no_panic();
}

fn run_against(server: &mut Server, file: &str, name: &str) {
    let settings = [
        ("TIDEGATE_URL", server.url()),
        ("TIDEGATE_JWT_SECRET", server.jwt_secret()),
        ("TIDEGATE_API_KEY", server.api_key()),
    ];
    run(file, name, &settings, |action| act(server, action));
}

/// Runs a script of `python/` against a server of its own and fails with what it says.
pub fn python_scenario(script: &str, arguments: &[&str]) {
    let server = Server::start();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let python = folder.join("venv/bin/python");
    assert!(python.exists(), "{} is missing: run `cargo xtask test`", python.display());
    let output = Command::new(python)
        .arg(script)
        .args(arguments)
        .current_dir(folder)
        .env("TIDEGATE_URL", server.url())
        .env("TIDEGATE_JWT_SECRET", server.jwt_secret())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.assert_no_panic();
}

/// Runs `node run.mjs file name` with these variables; what the scenario asks for goes to `act`.
pub fn run(file: &str, name: &str, settings: &[(&str, String)], mut act: impl FnMut(&str) -> Value) {
    let folder = node_folder();
    assert!(
        folder.join("node_modules").exists(),
        "node modules are missing: run `cargo xtask test`, or npm ci in {}",
        folder.display()
    );
    let mut node = Command::new("node")
        .args(["run.mjs", file, name])
        .current_dir(folder)
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs");
    let mut stdin = node.stdin.take().unwrap();
    let stdout = BufReader::new(node.stdout.take().unwrap());
    let mut outcome = None;
    for line in stdout.lines() {
        let line = line.unwrap();
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            println!("{line}");
            continue;
        };
        if let Some(action) = value["do"].as_str() {
            let answer = act(action);
            writeln!(stdin, "{answer}").unwrap();
        } else if value["scenario"].is_string() {
            outcome = Some(value);
        }
    }
    let status = node.wait().unwrap();
    let outcome = outcome.unwrap_or_else(|| panic!("the scenario said nothing and ended with {status}"));
    assert_eq!(outcome["ok"], true, "{}", outcome["error"].as_str().unwrap_or("no reason given"));
    if !outcome["report"].is_null() {
        println!("{file}.{name}: {}", outcome["report"]);
    }
}

fn act(server: &mut Server, action: &str) -> Value {
    match action {
        "term" => server.signal("TERM"),
        "kill" => server.signal("KILL"),
        "wait" => return json!({ "code": server.wait().code() }),
        "start" => {
            server.restart();
            return json!({ "url": server.url() });
        }
        "wipe" => server.wipe(),
        "fill" => return json!({ "error": server.fill() }),
        "free" => std::fs::remove_file(server.path("filler")).unwrap(),
        "tear" => return json!({ "bytes": server.tear() }),
        "output" => return json!({ "text": server.output() }),
        "memory" => return json!({ "kib": server.memory_kib() }),
        other => panic!("the scenario asks for {other}"),
    }
    json!({})
}
