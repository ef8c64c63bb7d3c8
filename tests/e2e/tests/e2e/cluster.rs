//! Several processes as one server: no request needs to come to the node that has its session.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_testkit::redis::RedisServer;

use crate::harness::{self, JWT_SECRET, Process, binary, keep_lines};
use crate::raw;

const SECRET: &str = "a secret of the tests that all their nodes share";
const PATIENCE: Duration = Duration::from_secs(30);

/// A process, and where it listens.
struct Node {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    log: Arc<Mutex<VecDeque<String>>>,
    _folder: tempfile::TempDir,
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Node {
    fn start(redis: &RedisServer, secret: &str, more: &str) -> Self {
        let (address, admin) = (free(), free());
        let config = format!(
            "workers = 2\n[[listener]]\naddress = \"{address}\"\n[admin]\naddress = \"{admin}\"\n[log]\naccess = \"off\"\nformat = \"text\"\n\
             [drain]\ndelay = \"0s\"\ntimeout = \"5s\"\n[cluster]\nredis = \"redis://{}\"\nsecret = \"{secret}\"\n{more}",
            redis.address(),
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tidegate.toml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(binary());
        command
            .arg("run")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::default();
        keep_lines(child.stderr.take().unwrap(), Arc::clone(&log));
        keep_lines(child.stdout.take().unwrap(), Arc::clone(&log));
        Self { child, address, admin, log, _folder: folder }
    }

    fn realtime(redis: &RedisServer) -> Self {
        Self::start(
            redis,
            SECRET,
            &format!("[realtime]\nbroker = \"redis\"\n[realtime.auth]\njwt_secret = \"{JWT_SECRET}\"\n"),
        )
    }

    fn gateway(redis: &RedisServer) -> Self {
        let route = |path: &str| format!("[[route]]\npath = \"{path}\"\nupstream = \"rooms\"\n");
        let routes = [route("/socket.io/"), route("/realtime/")].concat();
        Self::start(redis, SECRET, &format!("[upstream.rooms]\ndiscover = \"realtime\"\n{routes}"))
    }

    fn cluster(&self) -> Value {
        let answer = raw::get(self.admin, "/api/v1/cluster");
        serde_json::from_str(&answer.body).unwrap_or(Value::Null)
    }

    fn sees(&self) -> usize {
        self.cluster()["nodes"].as_array().map_or(0, Vec::len)
    }

    fn metric(&self, start: &str) -> f64 {
        let text = raw::get(self.admin, "/metrics").body;
        let lines = text.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success(), "kill -{name}");
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.address, self.log());
        }
    }
}

#[track_caller]
fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn all_up(nodes: &[&Node]) {
    let up = |node: &&Node| TcpStream::connect(node.admin).is_ok() && node.sees() == nodes.len();
    wait("all see all", || nodes.iter().all(up));
}

/// Runs a scenario of `node/cluster.mjs`.
fn scenario(name: &str, targets: &[SocketAddr], gateway: Option<SocketAddr>, mut act: impl FnMut(&str)) {
    let targets = targets.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
    let settings = [
        ("TIDEGATE_TARGETS", targets),
        ("TIDEGATE_GATEWAY", gateway.map(|gateway| format!("http://{gateway}")).unwrap_or_default()),
        ("TIDEGATE_JWT_SECRET", JWT_SECRET.to_owned()),
    ];
    harness::run("cluster", name, &settings, |order| {
        act(order);
        json!({})
    });
}

fn addresses(nodes: &[&Node]) -> Vec<SocketAddr> {
    nodes.iter().map(|node| node.address).collect()
}

#[test]
fn requests_may_come_to_any_node_and_any_gateway() {
    let redis = RedisServer::start();
    let nodes = [0; 3].map(|_| Node::realtime(&redis));
    let gateways = [0; 2].map(|_| Node::gateway(&redis));
    let all: Vec<&Node> = nodes.iter().chain(&gateways).collect();
    all_up(&all);
    scenario("everywhere", &addresses(&all), None, |order| panic!("{order}"));
    let passed = "tidegate_cluster_forwarded_total{outcome=\"passed\"}";
    for node in &all {
        assert!(node.metric(passed) > 0.0, "each had something to pass on");
        assert_eq!(node.metric("tidegate_cluster_forwarded_total{outcome=\"failed\"}"), 0.0);
        assert_eq!(node.metric("tidegate_cluster_forwarded_total{outcome=\"no_owner\"}"), 0.0);
    }
}

#[test]
fn a_killed_nodes_sessions_are_unknown_at_once() {
    let redis = RedisServer::start();
    let mut nodes = [0; 2].map(|_| Node::realtime(&redis));
    all_up(&nodes.iter().collect::<Vec<_>>());
    let [first, second] = &mut nodes;
    let targets = [first.address, second.address];
    scenario("killedOwner", &targets, None, |order| match order {
        "kill" => {
            first.child.kill().unwrap();
            first.child.wait().unwrap();
        }
        "forgotten" => wait("it is known to be dead", || second.sees() == 1),
        other => panic!("{other}"),
    });
}

#[test]
fn a_node_that_was_paused_comes_back_with_its_sessions() {
    let redis = RedisServer::start();
    let nodes = [0; 2].map(|_| Node::realtime(&redis));
    all_up(&nodes.iter().collect::<Vec<_>>());
    let [first, second] = &nodes;
    scenario("pausedOwner", &addresses(&[first, second]), None, |order| match order {
        "pause" => {
            first.signal("STOP");
            wait("it is taken to be dead", || second.sees() == 1);
        }
        "resume" => {
            first.signal("CONT");
            wait("it is back", || second.sees() == 2 && first.sees() == 2);
            assert_eq!(first.metric("tidegate_cluster_joins_total"), 2.0);
        }
        other => panic!("{other}"),
    });
}

#[test]
fn who_is_there_by_way_of_a_paused_node_goes_and_comes_back() {
    let redis = RedisServer::start();
    let nodes = [0; 2].map(|_| Node::realtime(&redis));
    all_up(&nodes.iter().collect::<Vec<_>>());
    let [first, second] = &nodes;
    scenario("pausedPresence", &addresses(&[first, second]), None, |order| match order {
        "pause" => first.signal("STOP"),
        "resume" => first.signal("CONT"),
        other => panic!("{other}"),
    });
    assert_eq!(second.metric("tidegate_cluster_burials_total"), 1.0);
}

#[test]
fn clients_move_on_when_their_node_drains_or_dies() {
    let redis = RedisServer::start();
    let mut nodes = [0; 3].map(|_| Node::realtime(&redis));
    let gateway = Node::gateway(&redis);
    all_up(&nodes.iter().chain([&gateway]).collect::<Vec<_>>());
    let mut left = nodes.iter_mut();
    scenario("nodesThatLeave", &[], Some(gateway.address), |order| {
        let node = left.next().unwrap();
        match order {
            "term" => {
                node.signal("TERM");
                assert!(node.child.wait().unwrap().success());
            }
            "kill" => {
                node.child.kill().unwrap();
                node.child.wait().unwrap();
            }
            other => panic!("{other}"),
        }
    });
}

#[test]
fn the_internal_listener_is_for_nodes_only() {
    let redis = RedisServer::start();
    let node = Node::realtime(&redis);
    let stranger = Node::start(
        &redis,
        &SECRET.replace('a', "b"),
        &format!("[realtime]\nbroker = \"redis\"\n[realtime.auth]\njwt_secret = \"{JWT_SECRET}\"\n"),
    );
    all_up(&[&node, &stranger]);
    let internal: SocketAddr = node.cluster()["nodes"][0]["address"].as_str().unwrap().parse().unwrap();
    assert_ne!(internal, node.address);
    // Plain HTTP.
    let mut plain = TcpStream::connect(internal).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("sid"), "{}", String::from_utf8_lossy(&answer));
    // TLS without a certificate, and with one that somebody else has signed.
    let folder = tempfile::tempdir().unwrap();
    let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("certificate.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tidegate node", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let url = format!("https://{internal}/socket.io/?EIO=4&transport=polling");
    for arguments in [vec![], vec!["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()]] {
        let output = Command::new("curl").args(["-sk", "--max-time", "10", &url]).args(&arguments).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }
    // A node of another secret cannot have it answer either.
    let sid_of = |node: &Node| {
        let body = raw::get(node.address, "/socket.io/?EIO=4&transport=polling").body;
        let open: Value = serde_json::from_str(body.trim_start_matches('0')).unwrap();
        open["sid"].as_str().unwrap().to_owned()
    };
    let sid = sid_of(&node);
    let asked = raw::get(stranger.address, &format!("/socket.io/?EIO=4&transport=polling&sid={sid}"));
    assert_eq!((asked.status, asked.body.contains("Session ID unknown")), (400, true));
    assert_eq!(node.metric("tidegate_tls_handshakes_total{listener=\"cluster\",result=\"client_certificate\"}"), 2.0);
}

#[test]
fn without_its_redis_a_node_is_degraded_and_well_again_with_it() {
    let redis = RedisServer::start();
    let node = Node::realtime(&redis);
    all_up(&[&node]);
    let health = || serde_json::from_str::<Value>(&raw::get(node.admin, "/health").body).unwrap();
    assert_eq!((&health()["status"], &health()["redis"]["connected"]), (&"healthy".into(), &true.into()));
    redis.stop();
    wait("degraded", || health()["status"] == "degraded" && health()["redis"]["connected"] == false);
    redis.cont();
    wait("healthy", || health()["status"] == "healthy");
}

#[test]
fn dev_shows_a_cluster_and_ends_with_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.args(["dev", "--listen", "127.0.0.1:0", "--nodes", "3", "--data-dir"]).arg(folder.path());
    let mut dev = Process::start(&mut command);
    let address = dev.said("listening on http://");
    let victim = dev.until_said("  kill -9 ");
    let secret = std::fs::read_to_string(folder.path().join("jwt-secret")).unwrap().trim().to_owned();
    let play = || {
        let settings = [("TIDEGATE_TARGETS", address.to_string()), ("TIDEGATE_JWT_SECRET", secret.clone())];
        harness::run("cluster", "everywhere", &settings, |order| panic!("{order}"));
    };
    play();
    assert!(Command::new("kill").args(["-9", &victim]).status().unwrap().success());
    play();
    let output = dev.output();
    let pids = output.lines().filter_map(|line| line.split_once(", pid ")?.1.split(' ').next());
    let alive: Vec<_> =
        pids.map(|pid| format!("/proc/{pid}/exe")).filter(|exe| std::fs::read_link(exe).is_ok()).collect();
    assert_eq!(alive.len(), 3, "a Redis and two nodes: {output}");
    // However it ends.
    dev.signal("KILL");
    dev.wait();
    wait("all have ended", || alive.iter().all(|exe| std::fs::read_link(exe).is_err()));
}

#[test]
fn dev_without_a_redis_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.args(["dev", "--listen", "127.0.0.1:0", "--nodes", "2", "--data-dir"]).arg(folder.path()).env("PATH", "");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(64) && said.contains("apt-get install redis-server"), "{output:?}");
    assert!(said.contains("--redis redis://"), "{said}");
}
