//! The binary as its users meet it: exit codes, output, signals, files.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn tidegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.stdin(Stdio::null()).env_remove("JWT_SECRET").env_remove("RUST_LOG");
    command
}

fn run(arguments: &[&str]) -> Output {
    tidegate().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A running server; killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    /// Everything printed up to and with the banner's last line.
    banner: String,
    /// Kept open, so that the server never writes into a closed pipe.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    fn dev(data: &Path, arguments: &[&str]) -> Self {
        let mut child =
            tidegate().arg("dev").arg("--data-dir").arg(data).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        while !banner.contains("Ctrl-C") {
            assert!(stdout.read_line(&mut banner).unwrap() > 0, "ended early: {banner}");
        }
        let (_, rest) = banner.split_once("listening on ").unwrap();
        let (_, rest) = rest.split_once("://").unwrap();
        let address = rest.split_whitespace().next().unwrap().parse().unwrap();
        Self { child, address, banner, _stdout: stdout }
    }

    fn get(&self, path: &str) -> (u16, String) {
        get(self.address, path)
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    fn ended(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn check_reports_every_problem_at_once_with_its_place_and_exits_with_64() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    std::fs::write(
        &path,
        "workerz = 2\n[upstream.backend]\nservers = [\"127.0.0.1:1\"]\n[[route]]\npath = \"/\"\nupstream = \"backed\"\n",
    )
    .unwrap();
    for command in ["check", "run"] {
        let output = run(&[command, "--config", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(64));
        let errors = text(&output.stderr);
        assert!(errors.contains("bad.toml:1:1:") && errors.contains("workers"), "{errors}");
        assert!(errors.contains("bad.toml:6:") && errors.contains("backend"), "{errors}");
    }
}

#[test]
fn check_shows_what_will_be_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/gateway.toml");
    let output = run(&["check", "--config", path]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for line in [
        "gateway.toml: ok\n",
        "  listener  http            http://0.0.0.0:80, redirects to https at port 443\n",
        "  listener  https           https://0.0.0.0:443\n",
        "  route     status          local = /nginx_status -> stub_status\n",
        "  route     admin           https admin.example.org / -> upstream admin\n",
        "  upstream  chat            ip_hash: 127.0.0.1:3021, 127.0.0.1:3022, 127.0.0.1:3023\n",
    ] {
        assert!(shown.contains(line), "{line:?} is not in\n{shown}");
    }
}

#[test]
fn a_missing_config_and_a_wrong_command_line_exit_with_64() {
    let output = run(&["run", "--config", "/nonexistent/tidegate.toml"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("/nonexistent/tidegate.toml"));
    assert_eq!(run(&["serve"]).status.code(), Some(64));
    assert_eq!(run(&["token"]).status.code(), Some(64));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in ["run", "check", "config-schema", "dev", "token", "healthcheck", "bench"] {
        let output = run(&[command, "--help"]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains(&format!("tidegate {command}")), "{command}");
    }
}

#[test]
fn the_schema_is_json_and_describes_the_config() {
    let output = run(&["config-schema"]);
    assert!(output.status.success());
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["upstream"].is_object(), "{schema}");
}

#[test]
fn token_prints_nothing_but_a_token_and_never_the_secret() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let secret = "0123456789abcdef0123456789abcdef";
    std::fs::write(&path, format!("{secret}\n")).unwrap();
    let arguments =
        ["token", "--secret-file", path.to_str().unwrap(), "--user", "ada", "--tenant", "acme", "--ttl", "5m"];
    let output = run(&arguments);
    assert!(output.status.success() && output.stderr.is_empty());
    let token = text(&output.stdout);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let keys = tidegate_auth::KeySet::hs256(secret);
    let principal = keys.verify(token.trim_end(), now).unwrap();
    assert_eq!((principal.tenant.as_str(), principal.user.as_str()), ("acme", "ada"));
    assert!(keys.verify(token.trim_end(), now + 301_000).is_err(), "it ends");
    let output = run(&["token", "--secret-file", "/nonexistent", "--user", "ada"]);
    assert_eq!(output.status.code(), Some(74));
    assert_eq!(run(&["token", "--user", "ada"]).status.code(), Some(64));
}

#[test]
fn token_signs_with_an_issuers_key_as_its_public_half_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("issuer.pem");
    let path = path.to_str().unwrap();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out", path]);
    let public = openssl(&["pkey", "-in", path, "-pubout"]);
    let keys = tidegate_auth::Key::from_pem(&public, &[]).unwrap();
    let terms = tidegate_auth::Terms { audience: vec!["rooms".into()], issuer: vec!["id".into()], leeway_ms: 0 };
    let keys = tidegate_auth::KeySet::new(keys, terms);
    let arguments =
        ["token", "--key-file", path, "--key-id", "k1", "--user", "bot", "--kind", "agent", "--token-id", "t"];
    let output = run(&[&arguments[..], &["--issuer", "id", "--audience", "rooms", "--audience", "other"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let principal = keys.verify(text(&output.stdout).trim_end(), now).unwrap();
    assert_eq!((principal.user.as_str(), principal.kind.as_str()), ("bot", "agent"));
    assert_eq!(principal.token_id.as_deref(), Some("t"));
    let output = run(&["token", "--key-file", path, "--algorithm", "RS256", "--user", "bot"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("none of the allowed algorithms takes a P-384 key"));
    let output = run(&["token", "--secret", "s", "--algorithm", "ES256", "--user", "bot"]);
    assert!(text(&output.stderr).contains("give --key-file"));
}

#[test]
fn dev_serves_the_page_the_proxied_sample_and_health_on_one_port() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::dev(data.path(), &["--listen", "127.0.0.1:0", "--workers", "1"]);
    let (status, page) = server.get("/");
    assert_eq!(status, 200);
    assert!(page.contains("<html"));
    assert_eq!(server.get("/api/hello").0, 200);
    assert_eq!(server.get("/health").0, 200);
    assert_eq!(server.get("/health/ready"), (200, "{\"ready\":true}".to_owned()));
    assert!(server.get("/metrics").1.contains("tidegate_build_info"));
    assert_eq!(server.get("/nothing").0, 404);
    let session: Value = serde_json::from_str(&server.get("/dev/session?name=ada").1).unwrap();
    assert_eq!((session["user"].as_str(), session["tenant"].as_str()), (Some("ada"), Some("default")));
    assert!(server.banner.matches("curl ").count() == 2 && server.banner.contains("bench fanout"));
}

#[test]
fn dev_speaks_tls_with_a_certificate_of_its_own_that_stays() {
    let data = tempfile::tempdir().unwrap();
    let mut certificates = Vec::new();
    for _ in 0..2 {
        let server = Server::dev(data.path(), &["--tls", "--listen", "127.0.0.1:0", "--workers", "1"]);
        let certificate = data.path().join("dev-certificate.pem");
        assert!(server.banner.contains(&format!("--cacert {}", certificate.display())), "{}", server.banner);
        assert!(server.banner.contains(&format!("bench fanout --url wss://{} ", server.address)), "{}", server.banner);
        let curl = |path: &str| {
            let url = format!("https://localhost:{}{path}", server.address.port());
            let mut command = Command::new("curl");
            command.args(["-s", "-w", " %{http_version} %{http_code}", "--cacert"]).arg(&certificate).arg(url);
            text(&command.output().unwrap().stdout)
        };
        assert!(curl("/").ends_with(" 2 200"));
        assert!(curl("/api/hello").ends_with(" 2 200"));
        assert!(curl("/socket.io/?EIO=4&transport=polling").starts_with("0{\"sid\""));
        assert!(curl("/dev/session?name=ada").contains("\"user\":\"ada\""));
        certificates.push(std::fs::read(&certificate).unwrap());
    }
    assert_eq!(certificates[0], certificates[1]);
}

#[test]
fn dev_keeps_its_secrets_over_a_restart_so_that_tokens_stay_good() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("fresh");
    let listen = ["--listen", "127.0.0.1:0", "--workers", "1"];
    let server = Server::dev(&data, &listen);
    let secret = std::fs::read_to_string(data.join("jwt-secret")).unwrap();
    assert!(secret.trim().len() >= 64);
    assert_eq!(data.join("jwt-secret").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    server.signal("TERM");
    assert_eq!(server.ended(), Some(0));
    let server = Server::dev(&data, &listen);
    assert_eq!(std::fs::read_to_string(data.join("jwt-secret")).unwrap(), secret);
    let minted = run(&["token", "--data-dir", data.to_str().unwrap(), "--user", "ada"]);
    let token = text(&minted.stdout);
    let request = format!(
        "POST /realtime/tickets HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        token.trim_end()
    );
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 2") && answer.contains("ticket"), "{answer}");
}

#[test]
fn dev_takes_the_next_port_when_8080_is_taken_but_not_when_told_which() {
    let data = tempfile::tempdir().unwrap();
    let (held, server) = loop {
        // Whoever has port 8080, this test or another process: it is taken. Another process may let it go, though.
        let held = TcpListener::bind("127.0.0.1:8080");
        let server = Server::dev(data.path(), &["--workers", "1"]);
        if server.address.port() != 8080 {
            break (held, server);
        }
        assert!(held.is_err(), "the port is taken, by this test");
    };
    assert!(server.banner.contains("port 8080 is taken"), "{}", server.banner);
    drop(held);
    let other = tempfile::tempdir().unwrap();
    let address = server.address.to_string();
    let output = run(&["dev", "--listen", &address, "--data-dir", other.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
}

#[test]
fn healthcheck_tells_a_ready_server_from_one_that_is_not_there() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::dev(data.path(), &["--listen", "127.0.0.1:0", "--workers", "1"]);
    let check = |address: SocketAddr, path: &str| {
        run(&["healthcheck", "--url", &format!("http://{address}{path}"), "--timeout", "60s"])
    };
    assert_eq!(check(server.address, "/health/ready").status.code(), Some(0));
    let output = check(server.address, "/nothing");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("404"));
    // A client's own port: nobody listens there, and nobody else can get it. The ended server's could be anybody's.
    let client = TcpStream::connect(server.address).unwrap();
    let nobody = client.local_addr().unwrap();
    assert_eq!(check(nobody, "/health/ready").status.code(), Some(1));
}

#[test]
fn healthcheck_does_not_wait_longer_than_it_was_told() {
    // Accepts by the kernel's queue and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let output = run(&["healthcheck", "--url", &url, "--timeout", "200ms"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn run_serves_what_the_config_says_and_a_second_signal_ends_it_at_once() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend_address = backend.local_addr().unwrap();
    // One request, answered never: the drain has something to wait for.
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("tidegate.toml");
    let log = directory.path().join("stderr");
    let text = format!(
        "workers = 1\n[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream.backend]\nservers = [\"{backend_address}\"]\n[[route]]\nupstream = \"backend\"\n\
         [log]\naccess = \"off\"\n[drain]\ntimeout = \"60s\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut child = tidegate()
        .args(["run", "--drain-delay", "0s", "--config"])
        .arg(&config)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let said = |word: &str| loop {
        let text = std::fs::read_to_string(&log).unwrap();
        // A line that is being written has no end yet.
        if let Some(line) = text.split_inclusive('\n').find(|line| line.contains(word) && line.ends_with('\n')) {
            return serde_json::from_str::<Value>(line).unwrap();
        }
        assert!(Instant::now() < deadline, "{text}");
        std::thread::yield_now();
    };
    let address: SocketAddr = said("listening on")["address"].as_str().unwrap().parse().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let (_held, _) = backend.accept().unwrap();
    let signal = |child: &Child| {
        assert!(Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap().success());
    };
    signal(&child);
    said("draining");
    assert!(child.try_wait().unwrap().is_none(), "it waits for the exchange");
    signal(&child);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn logrotates_move_and_sigusr1_lose_no_line() {
    let directory = tempfile::tempdir().unwrap();
    let [config, log, moved, errors] =
        ["tidegate.toml", "access.log", "access.log.1", "stderr"].map(|name| directory.path().join(name));
    let text = format!(
        "workers = 2\n[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream.nobody]\nservers = [\"127.0.0.1:1\"]\n[[route]]\nupstream = \"nobody\"\npath = \"/x\"\n[log]\naccess = {log:?}\n"
    );
    std::fs::write(&config, text).unwrap();
    let child = tidegate()
        .args(["run", "--drain-delay", "0s", "--config"])
        .arg(&config)
        .stderr(std::fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let mut child = Ended(child);
    let deadline = Instant::now() + Duration::from_secs(60);
    let said = |word: &str| loop {
        let text = std::fs::read_to_string(&errors).unwrap();
        if let Some(line) = text.split_inclusive('\n').find(|line| line.contains(word) && line.ends_with('\n')) {
            return serde_json::from_str::<Value>(line).unwrap();
        }
        assert!(Instant::now() < deadline, "{text}");
        std::thread::yield_now();
    };
    let address: SocketAddr = said("listening on")["address"].as_str().unwrap().parse().unwrap();
    let signal = |child: &Ended, name: &str| {
        assert!(Command::new("kill").arg(name).arg(child.0.id().to_string()).status().unwrap().success());
    };
    let ask = || (0..50).for_each(|_| assert_eq!(get(address, "/none").0, 404));
    ask();
    std::fs::rename(&log, &moved).unwrap();
    ask();
    signal(&child, "-USR1");
    said("opened again");
    ask();
    signal(&child, "-TERM");
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    let count = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
    assert_eq!(count(&moved) + count(&log), 150);
    assert!(count(&log) >= 50, "{}", count(&log));
}

/// Killed when dropped, unless it has ended.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
