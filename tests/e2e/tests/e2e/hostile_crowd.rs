//! Clients that flood, stall, never read, never answer or ask for too much, while a good client's round trips go on: memory
//! stays bounded, the bad ones are closed with the right code, and the good one is served. Its times are printed, not judged.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::Server;
use crate::raw::{PATIENCE, RawWebSocket, connect, exchange, frame, frame_with, get};

const PATH: &str = "/socket.io/?EIO=4&transport=websocket";
const POLLING: &str = "/socket.io/?EIO=4&transport=polling";
/// What may wait for one connection, and what is kept for comebacks: all that may stay.
const BOUNDS: &str = "outbox_bytes = \"2MiB\"\nrecovery_bytes = \"1MiB\"";

/// A client that behaves, and measures how long its answers take.
struct Bystander {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Vec<Duration>>>,
}

impl Bystander {
    fn start(address: SocketAddr, token: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut socket = RawWebSocket::socket_io(address, token);
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let id = times.len();
                let start = Instant::now();
                socket.send(&frame(1, format!("42{id}[\"query:rooms\",{{}}]").as_bytes()));
                let wanted = format!("43{id}[");
                loop {
                    let (_, _, payload) = socket.frame().expect("the good client is not cut off");
                    if payload == b"2" {
                        socket.send(&frame(1, b"3"));
                    }
                    if payload.starts_with(wanted.as_bytes()) {
                        break;
                    }
                }
                times.push(start.elapsed());
            }
            times
        });
        Self { stop, thread: Some(thread) }
    }

    fn stop(mut self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Runs an attack beside a good client. Returns how many KiB the server had grown by at most, and afterwards.
fn beside_a_good_client(server: &Server, what: &str, attack: impl FnOnce()) -> (u64, u64) {
    let bystander = Bystander::start(server.address, &server.token("grace"));
    let before = server.memory_kib();
    let done = Arc::new(AtomicBool::new(false));
    let most = thread::scope(|scope| {
        let watching = done.clone();
        let watch = scope.spawn(move || {
            let mut most = 0;
            while !watching.load(Ordering::Relaxed) {
                most = server.memory_kib().max(most);
                thread::sleep(Duration::from_millis(20));
            }
            most
        });
        attack();
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    let mut times = bystander.stop();
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let after = server.memory_kib();
    let (most, after) = (most.saturating_sub(before), after.saturating_sub(before));
    println!(
        "{what}: {} round trips, p50 {:.1?}, p99 {:.1?}; memory +{most} KiB at most, +{after} KiB after",
        times.len(),
        at(0.5),
        at(0.99)
    );
    (most, after)
}

fn bounded(server: &mut Server, what: &str, most: u64, attack: impl FnOnce(&Server)) {
    let (peak, after) = beside_a_good_client(server, what, || attack(server));
    assert!(peak <= most, "{what}: {peak} KiB more than before, at most {most} are expected");
    // The allocator keeps freed pieces for the next ones, more or fewer of them by luck.
    assert!(after <= most.min(32 * 1024), "{what}: {after} KiB are still there afterwards");
    server.assert_alive();
    server.assert_no_panic();
}

/// Writes until the other side takes no more or has closed; nothing is read.
fn flood(socket: &mut RawWebSocket, bytes: &[u8], most: usize) {
    socket.stream.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut sent = 0;
    while sent < most && socket.stream.write_all(bytes).is_ok() {
        sent += bytes.len();
    }
}

/// Reads what is left until the server has closed; a close code, if one came.
fn drained(mut socket: RawWebSocket) -> Option<u16> {
    socket.stream.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.close_code()
}

#[test]
fn floods_of_clients_that_do_not_read_end_with_them_alone() {
    let mut server = Server::configured(&format!("messages_per_second = 0\n{BOUNDS}"));
    let token = server.token("mallory");
    bounded(&mut server, "empty pings, pongs unread", 24 * 1024, |server| {
        let mut socket = RawWebSocket::socket_io(server.address, &token);
        flood(&mut socket, &frame(9, b"").repeat(10_000), 200 << 20);
        assert_eq!(drained(socket), None, "cut off without a word: it would not have been read");
    });
    bounded(&mut server, "large pings, pongs unread", 24 * 1024, |server| {
        let mut socket = RawWebSocket::socket_io(server.address, &token);
        flood(&mut socket, &frame(9, &[7; 125]).repeat(1_000), 200 << 20);
        assert_eq!(drained(socket), None);
    });
    bounded(&mut server, "events, acks unread", 24 * 1024, |server| {
        let mut socket = RawWebSocket::socket_io(server.address, &token);
        flood(&mut socket, &frame(1, b"421[\"query:rooms\",{}]").repeat(1_000), 30 << 20);
        assert_eq!(drained(socket), None);
    });
    bounded(&mut server, "a broadcast that one member does not read", 24 * 1024, |server| {
        let join = frame(1, b"421[\"room:join\",{\"room\":\"quay\"}]");
        let mut deaf = RawWebSocket::socket_io(server.address, &token);
        deaf.send(&join);
        while !deaf.frame().unwrap().2.starts_with(b"431") {}
        let mut sender = RawWebSocket::socket_io(server.address, &server.token("trent"));
        sender.send(&join);
        let text = format!("42[\"room:send\",{{\"room\":\"quay\",\"payload\":\"{}\"}}]", "x".repeat(60_000));
        for _ in 0..300 {
            sender.send(&frame(1, text.as_bytes()));
            while !sender.frame().unwrap().2.starts_with(b"42[\"room:message\"") {}
        }
        assert_eq!(drained(deaf), None);
    });
}

#[test]
fn floods_that_are_read_do_not_starve_the_others() {
    let mut server = Server::configured(&format!("messages_per_second = 50\nmessage_burst = 50\n{BOUNDS}"));
    let token = server.token("mallory");
    bounded(&mut server, "four clients with events over their rate", 32 * 1024, |server| {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut socket = RawWebSocket::socket_io(server.address, &token);
                    let mut reader = socket.stream.try_clone().unwrap();
                    let reading = scope.spawn(move || {
                        let mut buffer = [0; 64 << 10];
                        while reader.read(&mut buffer).is_ok_and(|n| n > 0) {}
                    });
                    flood(&mut socket, &frame(1, b"421[\"room:leave\",{\"room\":\"quay\"}]").repeat(500), 4 << 20);
                    let _ = socket.stream.shutdown(std::net::Shutdown::Both);
                    let _ = reading.join();
                });
            }
        });
    });
}

#[test]
fn who_asks_for_too_many_rooms_gets_what_the_limit_allows() {
    let mut server = Server::configured(&format!("messages_per_second = 0\nrooms_per_connection = 100\n{BOUNDS}"));
    let token = server.token("mallory");
    bounded(&mut server, "a hundred thousand rooms", 24 * 1024, |server| {
        let mut socket = RawWebSocket::socket_io(server.address, &token);
        let (mut joined, mut refused) = (0, 0);
        for chunk in 0..100 {
            let joins: Vec<u8> = (0..1_000)
                .flat_map(|n| frame(1, format!("42{n}[\"room:join\",{{\"room\":\"r{chunk}-{n}\"}}]").as_bytes()))
                .collect();
            socket.send(&joins);
            let mut acks = 0;
            while acks < 1_000 {
                let (_, _, payload) = socket.frame().expect("an ack for each");
                if payload.starts_with(b"43") {
                    acks += 1;
                    let text = String::from_utf8(payload).unwrap();
                    if text.contains("\"success\":true") { joined += 1 } else { refused += 1 }
                }
            }
        }
        assert_eq!((joined, refused), (100, 99_900));
    });
}

/// Packets that are large in some way that is not their size. Each with what is expected: an answer, or a close code.
fn strange_packets() -> Vec<(&'static str, Vec<u8>, Option<u16>)> {
    let text = |text: String| frame(1, text.as_bytes());
    let send = |payload: &str| format!("427[\"room:send\",{{\"room\":\"quay\",\"payload\":{payload}}}]");
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let objects = format!("{}1{}", "{\"a\":".repeat(50_000), "}".repeat(50_000));
    vec![
        ("nested arrays", text(send(&nested)), Some(1002)),
        ("nested objects", text(send(&objects)), Some(1002)),
        ("an integer of a hundred thousand digits", text(send(&"9".repeat(100_000))), None),
        ("a float of a hundred thousand digits", text(send(&format!("0.{}", "1".repeat(100_000)))), None),
        ("an exponent beyond all", text(send("1e999999999")), None),
        ("the largest ack id", text("4218446744073709551615[\"query:rooms\",{}]".to_owned()), None),
        ("an ack id beyond it", text("4218446744073709551616[\"query:rooms\",{}]".to_owned()), Some(1002)),
        ("an ack id of a hundred thousand digits", text(format!("42{}[\"a\"]", "1".repeat(100_000))), Some(1002)),
        ("a namespace of a hundred thousand letters", text(format!("42/{},[\"a\"]", "a".repeat(100_000))), Some(1002)),
        ("an event name of a hundred thousand letters", text(format!("427[\"{}\"]", "a".repeat(100_000))), None),
        ("a hundred thousand arguments", text(format!("427[\"query:rooms\"{}]", ",1".repeat(100_000))), None),
        ("a hundred thousand escapes", text(send(&format!("\"{}\"", "\\u0041".repeat(100_000)))), None),
        ("a hundred thousand keys", text(send(&format!("{{{}}}", vec!["\"a\":1"; 100_000].join(",")))), None),
        ("more attachments than numbers have", text("4599999999999999999999-[\"a\"]".to_owned()), Some(1002)),
        ("a CONNECT of a hundred thousand arrays", text(format!("40/x,{{\"token\":{nested}}}")), Some(1002)),
    ]
}

#[test]
fn strange_packets_are_answered_or_closed_and_cost_little() {
    let mut server = Server::configured(&format!("messages_per_second = 0\n{BOUNDS}"));
    let token = server.token("mallory");
    bounded(&mut server, "strange packets", 48 * 1024, |server| {
        let mut wrong = Vec::new();
        for (what, bytes, code) in strange_packets() {
            for _ in 0..5 {
                let mut socket = RawWebSocket::socket_io(server.address, &token);
                socket.send(&frame(1, b"421[\"room:join\",{\"room\":\"quay\"}]"));
                socket.send(&bytes);
                // Who takes the packet answers this one.
                socket.send(&frame(1, b"429[\"query:rooms\",{}]"));
                let seen = loop {
                    match socket.frame() {
                        Some((_, 8, payload)) => break payload.first_chunk().map(|code| u16::from_be_bytes(*code)),
                        Some((_, _, payload)) if payload.starts_with(b"439") => break None,
                        Some(_) => {}
                        None => break Some(0),
                    }
                };
                if seen != code {
                    wrong.push(format!("{what}: {seen:?} instead of {code:?}"));
                    break;
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn fragments_and_frames_that_never_end_are_bounded() {
    let mut server = Server::configured(&format!("ping_interval = \"1s\"\nping_timeout = \"2s\"\n{BOUNDS}"));
    let token = server.token("mallory");
    bounded(&mut server, "a hundred thousand fragments of a byte", 24 * 1024, |server| {
        let mut socket = RawWebSocket::socket_io(server.address, &token);
        let text = format!("429[\"query:rooms\",{{\"x\":\"{}\"}}]", "é".repeat(50_000));
        let mut bytes = frame_with(0x01, b"");
        bytes.extend(text.bytes().flat_map(|byte| frame_with(0x00, &[byte])));
        bytes.extend(frame(0, b""));
        socket.send(&bytes);
        while !socket.frame().expect("an answer").2.starts_with(b"439") {}
    });
    bounded(&mut server, "fragments without an end", 24 * 1024, |server| {
        for size in [1, 1_000, 60_000] {
            let mut socket = RawWebSocket::socket_io(server.address, &token);
            socket.send(&frame_with(0x02, b""));
            flood(&mut socket, &frame_with(0x00, &vec![7; size]).repeat(60_000 / size), 16 << 20);
            let code = drained(socket);
            // The close frame may be lost to a reset, when more is on its way than the server reads on after it.
            assert!(matches!(code, Some(1009) | None), "{code:?}");
        }
        let mut socket = RawWebSocket::socket_io(server.address, &token);
        socket.send(&[frame_with(0x01, b""), frame_with(0x00, b"").repeat(100_000)].concat());
        assert_eq!(socket.close_code(), Some(1008), "nothing else may come in between, so that no pong does");
    });
    bounded(&mut server, "two hundred frames of a megabyte, begun", 80 * 1024, |server| {
        // A hundred kilobytes each have come; what has not come takes no memory.
        let part = &frame(2, &vec![7; 999_990])[..100_000];
        let mut sockets: Vec<_> = (0..200).map(|_| RawWebSocket::socket_io(server.address, &token)).collect();
        sockets.iter_mut().for_each(|socket| socket.send(part));
        sockets.iter_mut().for_each(|socket| assert_eq!(socket.close_code(), Some(1008), "no pong can come"));
    });
    bounded(&mut server, "fifty kilobytes, byte by byte", 24 * 1024, |server| {
        let mut socket = RawWebSocket::open(server.address, PATH);
        let whole = frame(1, format!("40{{\"token\":\"{token}\",\"x\":\"{}\"}}", "x".repeat(50_000)).as_bytes());
        whole.chunks(1).for_each(|byte| socket.send(byte));
        while !socket.frame().expect("an answer").2.starts_with(b"40{") {}
    });
}

#[test]
fn who_never_answers_a_ping_is_gone_in_time() {
    let mut server =
        Server::configured("ping_interval = \"500ms\"\nping_timeout = \"500ms\"\nconnect_timeout = \"1s\"");
    let token = server.token("mallory");
    bounded(&mut server, "three hundred clients without a pong", 24 * 1024, |server| {
        let mut silent: Vec<_> = (0..200).map(|_| RawWebSocket::socket_io(server.address, &token)).collect();
        // And a hundred that never say who they are.
        silent.extend((0..100).map(|_| RawWebSocket::open(server.address, PATH)));
        for mut socket in silent {
            assert_eq!(socket.close_code(), Some(1008));
        }
    });
}

#[test]
fn polls_that_are_opened_and_abandoned_leave_nothing() {
    let mut server = Server::configured("connect_timeout = \"2s\"\nmax_connections = 3000");
    let abandon = |server: &Server, count: usize| {
        for _ in 0..count {
            let body = get(server.address, POLLING).body;
            let sid = body.split("\"sid\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect(&body).to_owned();
            let mut stream = connect(server.address);
            write!(stream, "GET {POLLING}&sid={sid} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            // Half of them are cut at once, before the server may have seen them.
            if sid.as_bytes()[0].is_multiple_of(2) {
                let _ =
                    exchange(server.address, b"GET /socket.io/?EIO=3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            }
        }
    };
    abandon(&server, 200);
    let descriptors = server.descriptors();
    bounded(&mut server, "a thousand abandoned polls", 16 * 1024, |server| abandon(server, 1_000));
    server.until_descriptors_are_at_most(descriptors + 16);
    // Sessions that were never polled end by their connect timeout: new ones find room.
    let end = Instant::now() + PATIENCE;
    while get(server.address, POLLING).status != 200 {
        assert!(Instant::now() < end, "the abandoned sessions still take the place of others");
        thread::sleep(Duration::from_millis(50));
    }
}
