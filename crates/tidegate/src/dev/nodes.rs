//! `tidegate dev --nodes N`: a Redis, and realtime nodes as processes of their own, behind the gateway that this process is.
//!
//! All of them end with this process, however it ends: each has a pipe from it, and ends when that closes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidegate_config::{Cluster, Discover, Route, Surroundings, Upstream};

use super::secrets::Secrets;
use crate::failure::Failure;

/// How long a Redis may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where the secrets stand that the nodes' configs name.
const JWT: &str = "TIDEGATE_DEV_JWT_SECRET";
const KEY: &str = "TIDEGATE_DEV_API_KEY";
const SHARED: &str = "TIDEGATE_DEV_CLUSTER_SECRET";
const REDIS: &str = "TIDEGATE_DEV_REDIS";

/// The processes beside this one.
pub struct Nodes {
    /// For the gateway.
    pub cluster: Cluster,
    redis: Option<(Child, u16)>,
    redis_pid: String,
    nodes: Vec<(Child, SocketAddr)>,
    given: Option<String>,
}

impl Nodes {
    /// Starts them.
    pub fn start(count: u16, redis: Option<&str>, directory: &Path, secrets: &Secrets) -> Result<Self, Failure> {
        let shared = random(32)?;
        let folder = directory.join("cluster");
        super::ensure_directory(&folder)?;
        let (url, redis_process) = match redis {
            Some(url) => (url.to_owned(), None),
            None => {
                let (url, child, port) = start_redis(&folder)?;
                (url, Some((child, port)))
            }
        };
        let cluster = cluster(&url, &shared)?;
        let pid = std::fs::read_to_string(folder.join("redis.pid")).unwrap_or_default();
        let mut this = Self {
            cluster,
            redis: redis_process,
            redis_pid: pid.trim().to_owned(),
            nodes: Vec::new(),
            given: redis.map(without_password),
        };
        for number in 1..=count {
            let address = free_address()?;
            let file = folder.join(format!("node-{number}.toml"));
            let log = folder.join(format!("node-{number}.log"));
            std::fs::write(&file, config(number, address)).map_err(|error| cannot_write(&file, error))?;
            let log = std::fs::File::create(&log).map_err(|error| cannot_write(&log, error))?;
            let program =
                std::env::current_exe().map_err(|error| Failure::io("this program cannot be found", error))?;
            let child = Command::new(program)
                .args(["run", "--end-with-stdin", "--config"])
                .arg(&file)
                .env(JWT, secrets.jwt.expose())
                .env(KEY, secrets.api_key.expose())
                .env(SHARED, &shared)
                .env(REDIS, &url)
                .stdin(Stdio::piped())
                .stdout(log.try_clone().map_err(|error| Failure::io("a log file", error))?)
                .stderr(log)
                .spawn()
                .map_err(|error| Failure::io("a node cannot be started", error))?;
            this.nodes.push((child, address));
        }
        this.wait()?;
        Ok(this)
    }

    /// Until all nodes take connections, or one has ended.
    fn wait(&mut self) -> Result<(), Failure> {
        for (index, (child, address)) in self.nodes.iter_mut().enumerate() {
            let end = Instant::now() + PATIENCE;
            while TcpStream::connect(*address).is_err() {
                let ended = child.try_wait().ok().flatten();
                if ended.is_some() || Instant::now() > end {
                    let number = index + 1;
                    return Err(Failure::usage(format!(
                        "node {number} does not come up; see cluster/node-{number}.log in the data directory"
                    )));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// The upstream of the gateway, and what goes there.
    pub fn routes() -> (Upstream, [Route; 2]) {
        let upstream = Upstream { discover: Some(Discover::Realtime), ..Upstream::new("nodes", &[]) };
        let route = |name: &str, path: &str| Route::new(name, path, tidegate_config::Action::upstream("nodes"));
        (upstream, [route("socket.io", "/socket.io/"), route("realtime", "/realtime/")])
    }

    /// What was done, for people.
    pub fn banner(&self) -> String {
        let mut text = String::from("A cluster, behind the gateway that this process is:\n\n");
        match (&self.redis, &self.given) {
            (Some((_, port)), _) => {
                let _ = writeln!(
                    text,
                    "  redis    127.0.0.1:{port}, pid {}  (no persistence, ends with this process)",
                    self.redis_pid
                );
            }
            (None, Some(url)) => {
                let _ = writeln!(text, "  redis    {url}");
            }
            (None, None) => {}
        }
        for (index, (child, address)) in self.nodes.iter().enumerate() {
            let number = index + 1;
            let _ = writeln!(
                text,
                "  node {number}   http://{address}, pid {}  (log: cluster/node-{number}.log)",
                child.id()
            );
        }
        if let Some((child, _)) = self.nodes.first() {
            let pid = child.id();
            let _ = write!(
                text,
                "\n  # Kill one: its clients come back on the others, and miss no message\n  kill -9 {pid}\n\n  \
                 # Or pause one, for longer than the 5 s after which it is taken to be dead\n  \
                 kill -STOP {pid}; sleep 8; kill -CONT {pid}\n\n"
            );
        }
        text
    }
}

/// What has a pipe from this process ends with it; waiting leaves no zombie behind.
impl Drop for Nodes {
    fn drop(&mut self) {
        let redis = self.redis.as_mut().map(|(child, _)| child);
        let nodes: Vec<&mut Child> = self.nodes.iter_mut().map(|(child, _)| child).collect();
        // Redis last: the nodes still tell it that they leave.
        for child in nodes.into_iter().chain(redis) {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

/// A Redis of one's own, in memory, that only who knows its password can use.
fn start_redis(folder: &Path) -> Result<(String, Child, u16), Failure> {
    let password = random(24)?;
    let port = free_address()?.port();
    let file = folder.join("redis.conf");
    let lines = format!(
        "bind 127.0.0.1\nport {port}\nsave \"\"\nappendonly no\ndaemonize no\npidfile {folder}/redis.pid\ndir {folder}\nlogfile {folder}/redis.log\nrequirepass {password}\n",
        folder = std::path::absolute(folder).map_err(|error| cannot_write(folder, error))?.display(),
    );
    // Not over what is there: it may be readable for others.
    let _ = std::fs::remove_file(&file);
    let pid = folder.join("redis.pid");
    let _ = std::fs::remove_file(&pid);
    let mut options = std::fs::OpenOptions::new();
    let created = options.write(true).create_new(true).mode(0o600).open(&file);
    created.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(|error| cannot_write(&file, error))?;
    let version = Command::new("redis-server").arg("--version").stdin(Stdio::null()).output();
    if version.is_err() {
        return Err(Failure::usage(
            "--nodes needs a Redis, and there is no redis-server on this machine: install one (Debian: apt-get install redis-server), or name one that runs with --redis redis://HOST:6379",
        ));
    }
    // Redis does not look at its standard input; the shell does for it.
    let script = "redis-server \"$1\" >/dev/null 2>&1 & pid=$!; cat >/dev/null; kill $pid; wait $pid";
    let mut child = Command::new("sh")
        .args(["-c", script, "redis"])
        .arg(&file)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::io("redis-server cannot be started", error))?;
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() || !pid.exists() {
        if Instant::now() > end {
            drop(child.stdin.take());
            return Err(Failure::usage("redis-server does not come up; see cluster/redis.log in the data directory"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok((format!("redis://:{password}@127.0.0.1:{port}"), child, port))
}

/// The gateway's part, read as a node's config is.
fn cluster(redis: &str, shared: &str) -> Result<Cluster, Failure> {
    let variable = |name: &str| match name {
        REDIS => Some(redis.to_owned()),
        SHARED => Some(shared.to_owned()),
        _ => None,
    };
    let no_file = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    let surroundings = Surroundings { variable: &variable, read_file: &no_file };
    let text = format!("{}\n[upstream.a]\nservers = [\"a:1\"]\n[[route]]\nupstream = \"a\"\n", section("gateway"));
    let config = tidegate_config::load("dev", &text, surroundings)
        .map_err(|problems| Failure::usage(format!("--redis cannot be used: {problems}")))?;
    config.cluster.ok_or_else(|| Failure::usage("--redis cannot be used"))
}

fn section(name: &str) -> String {
    format!("[cluster]\nname = \"{name}\"\nredis = \"${{{REDIS}}}\"\nsecret = \"${{{SHARED}}}\"\n")
}

/// A node's config. What is secret stands in its environment.
fn config(number: u16, address: SocketAddr) -> String {
    format!(
        "workers = 1\n[[listener]]\naddress = \"{address}\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [realtime]\nbroker = \"redis\"\nmax_connections = {connections}\ncors_origins = [\"*\"]\n\
         [realtime.auth]\njwt_secret = \"${{{JWT}}}\"\n\
         [[realtime.auth.api_keys]]\nid = \"dev\"\nsecret = \"${{{KEY}}}\"\nscopes = [\"*\"]\n{cluster}\
         [log]\nformat = \"text\"\naccess = \"off\"\n[drain]\ntimeout = \"5s\"\ndelay = \"0s\"\n",
        connections = super::MAX_CONNECTIONS,
        cluster = section(&format!("node-{number}")),
    )
}

fn free_address() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener.and_then(|listener| listener.local_addr()).map_err(|error| Failure::io("no free port", error))
}

fn random(bytes: usize) -> Result<String, Failure> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|error| Failure::usage(format!("no randomness: {error}")))?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

fn cannot_write(file: &Path, error: std::io::Error) -> Failure {
    Failure::io(format!("cannot write {}", file.display()), error)
}

/// For the banner.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        (Some(_) | None, _) => url.to_owned(),
    }
}
