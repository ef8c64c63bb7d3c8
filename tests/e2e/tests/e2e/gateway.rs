//! `tidegate run` as a gateway in front of `tidegate bench upstream`: reloads, drains and thousands of live streams.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{self, Process, binary};
use crate::raw::{self, PATIENCE};

/// A running gateway with its config file, and the upstream behind it.
struct Gateway {
    process: Process,
    upstream: Upstream,
    folder: tempfile::TempDir,
    address: SocketAddr,
    admin: SocketAddr,
}

/// Another process of the same binary that answers, echoes WebSockets and sends events.
struct Upstream {
    child: Child,
    address: String,
}

impl Upstream {
    fn start() -> Self {
        let mut child = Command::new(binary())
            .args(["bench", "upstream", "--body", "16", "--sse-rate", "5"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        Self { child, address }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gateway {
    /// `more` follows the config's usual parts.
    fn start(top: &str, more: &str) -> Self {
        let upstream = Upstream::start();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tidegate.toml");
        std::fs::write(&file, config(&upstream.address, top, more)).unwrap();
        let mut process = Process::start(Command::new(binary()).arg("run").arg("--config").arg(&file));
        let address = process.said("listening on http://");
        let admin = process.said("admin on http://");
        Self { process, upstream, folder, address, admin }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("tidegate.toml")
    }

    fn write(&self, top: &str, more: &str) {
        // As careful editors do: the file is there all the time, whole.
        let new = self.folder.path().join("new");
        std::fs::write(&new, config(&self.upstream.address, top, more)).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    fn api(&self, method: &str, path: &str) -> (u16, Value) {
        let request = format!("{method} /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = raw::exchange(self.admin, request.as_bytes());
        (answer.status, serde_json::from_str(&answer.body).unwrap_or_default())
    }

    fn status(&self, path: &str) -> u16 {
        raw::get(self.address, path).status
    }

    fn until_status(&self, path: &str, wanted: u16) {
        let end = Instant::now() + PATIENCE;
        while self.status(path) != wanted {
            assert!(Instant::now() < end, "{path} does not answer {wanted}:\n{}", self.process.output());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// So many open WebSockets, each proven by an echo.
    fn tunnels(&self, count: usize) -> Vec<Tunnel> {
        (0..count).map(|_| Tunnel::open(self.address)).collect()
    }
}

fn config(upstream: &str, top: &str, more: &str) -> String {
    format!(
        "{top}\n[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[log]\naccess = \"off\"\n\
         [upstream.backend]\nservers = [\"{upstream}\"]\n\
         [[route]]\nname = \"all\"\npath = \"/\"\nupstream = \"backend\"\n{more}\n"
    )
}

struct Tunnel(TcpStream);

impl Tunnel {
    fn open(address: SocketAddr) -> Self {
        let mut stream = raw::connect(address);
        let head = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        let mut tunnel = Self(stream);
        tunnel.echo();
        tunnel
    }

    /// A masked text frame there, the same text back.
    fn echo(&mut self) {
        self.0.write_all(&[0x81, 0x84, 0, 0, 0, 0, b'p', b'i', b'n', b'g']).unwrap();
        let mut frame = [0; 6];
        self.0.read_exact(&mut frame).unwrap();
        assert_eq!(&frame, b"\x81\x04ping");
    }

    /// Waits for a Close frame, and answers it as a browser does; its code and when it came.
    fn closed(&mut self) -> (u16, Instant) {
        let mut frame = [0; 4];
        self.0.read_exact(&mut frame).unwrap();
        let at = Instant::now();
        assert_eq!(frame[0], 0x88, "a Close frame, nothing inside a frame");
        let code = [frame[2], frame[3]];
        let mut reason = vec![0; usize::from(frame[1]) - 2];
        self.0.read_exact(&mut reason).unwrap();
        // The gateway may have gone already.
        let _ = self.0.write_all(&[0x88, 0x82, 0, 0, 0, 0, code[0], code[1]]);
        (u16::from_be_bytes(code), at)
    }
}

/// Serves an empty page to whoever asks, as an origin of its own; gives the origin.
fn page() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // A browser opens connections that it does not use.
            thread::spawn(move || {
                if stream.read(&mut [0; 8192]).is_ok_and(|count| count > 0) {
                    let page = "<!doctype html><title>page</title><link rel=icon href=data:,>";
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close";
                    let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{page}", page.len());
                }
            });
        }
    });
    origin
}

#[test]
fn a_page_of_an_allowed_origin_reads_answers_and_events_and_one_of_another_does_not() {
    let [allowed, stranger] = [page(), page()];
    let cors = format!(
        "[route.cors]\norigins = [\"{allowed}\"]\ncredentials = true\nexpose = [\"x-request-id\"]\nmethods = [\"GET\", \"PUT\"]"
    );
    let gateway = Gateway::start("", &cors);
    let url = format!("http://{}", gateway.address);
    let settings = [("TIDEGATE_URL", url), ("ALLOWED_ORIGIN", allowed), ("OTHER_ORIGIN", stranger)];
    harness::run("browser", "otherOrigins", &settings, |action| panic!("the scenario asks for {action}"));
}

const SECOND_ROUTE: &str = "[[route]]\nname = \"gone\"\npath = \"/gone\"\nrespond = { status = 410, body = \"gone\" }";

#[test]
fn a_hang_up_reloads_the_file_and_a_bad_file_changes_nothing() {
    let gateway = Gateway::start("", "");
    assert_eq!(gateway.status("/gone"), 200);
    gateway.write("", SECOND_ROUTE);
    gateway.process.signal("HUP");
    gateway.until_status("/gone", 410);
    std::fs::write(gateway.file(), "[[route]]\npath = 7\ncolour = \"red\"\n").unwrap();
    gateway.process.signal("HUP");
    gateway.process.until_said("the old one stays in force");
    let output = gateway.process.output();
    assert!(output.contains("2:8") && output.contains("3:1"), "every problem with its place: {output}");
    assert_eq!(gateway.status("/gone"), 410);
    let (status, body) = gateway.api("POST", "reload");
    assert_eq!(status, 400, "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("colour"), "{body}");
}

#[test]
fn a_watched_file_is_taken_up_by_itself() {
    let gateway = Gateway::start("", "[reload]\nwatch = true");
    assert_eq!(gateway.status("/gone"), 200);
    gateway.write("", &format!("{SECOND_ROUTE}\n[reload]\nwatch = true"));
    gateway.until_status("/gone", 410);
}

#[test]
fn a_thousand_reloads_under_a_thousand_streams_lose_none_and_hold_no_memory() {
    let gateway = Gateway::start("", "");
    let mut tunnels = gateway.tunnels(1_000);
    let mut after_warmup = 0;
    for round in 0..1_000 {
        gateway.write("", &format!("[[route]]\npath = \"/{round}/\"\nrespond = {{ status = 204 }}"));
        assert_eq!(gateway.api("POST", "reload").0, 200);
        if round == 99 {
            after_warmup = gateway.process.memory_kib();
        }
    }
    let grown = gateway.process.memory_kib().saturating_sub(after_warmup);
    assert!(grown < 4 * 1024, "{grown} KiB for 900 reloads");
    for tunnel in &mut tunnels {
        tunnel.echo();
    }
}

#[test]
fn five_thousand_streams_are_told_one_by_one_when_the_process_drains() {
    let mut gateway = Gateway::start("", "[drain]\ntimeout = \"12s\"");
    let mut tunnels = gateway.tunnels(5_000);
    gateway.write("", &format!("{SECOND_ROUTE}\n[drain]\ntimeout = \"12s\""));
    assert_eq!(gateway.api("POST", "reload").0, 200);
    for tunnel in &mut tunnels {
        tunnel.echo();
    }
    gateway.process.signal("TERM");
    let ends: Vec<_> = tunnels.iter_mut().map(Tunnel::closed).collect();
    assert!(ends.iter().all(|(code, _)| *code == 1012), "each with 1012 (service restart)");
    assert_eq!(gateway.process.wait().code(), Some(0));
}
