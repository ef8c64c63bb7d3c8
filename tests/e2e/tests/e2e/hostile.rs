//! Bad HTTP on a live socket: a right refusal each time, nothing smuggled past it, nobody else disturbed, memory flat.

use std::io::Write;

use crate::harness::Server;
use crate::raw::{connect, exchange, exchange_and_finish, read_to_end};

/// What follows each bad request on the same connection; it must never be taken for a request of its own.
const SMUGGLED: &str = "GET /api/hello?smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

/// Requests whose framing or head is ambiguous or malformed. `{T}` stands for the path, so that each is tried on the
/// proxy and on the realtime server.
fn ambiguous() -> Vec<(&'static str, String)> {
    let post = "POST {T} HTTP/1.1\r\nHost: x\r\n";
    vec![
        ("TE and CL", format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n")),
        ("CL and TE", format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("two CLs that differ", format!("{post}Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd")),
        ("two CLs that agree", format!("{post}Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd")),
        ("a list of CLs", format!("{post}Content-Length: 4, 5\r\n\r\nabcd")),
        ("CL with a sign", format!("{post}Content-Length: +4\r\n\r\nabcd")),
        ("CL below zero", format!("{post}Content-Length: -4\r\n\r\nabcd")),
        ("CL in hex", format!("{post}Content-Length: 0x4\r\n\r\nabcd")),
        ("CL with a space inside", format!("{post}Content-Length: 4 4\r\n\r\nabcd")),
        ("empty CL", format!("{post}Content-Length: \r\n\r\n")),
        ("CL beyond 64 bits", format!("{post}Content-Length: 99999999999999999999999\r\n\r\n")),
        ("TE that is not chunked", format!("{post}Transfer-Encoding: identity\r\n\r\n0\r\n\r\n")),
        ("TE misspelt", format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")),
        ("TE chunked and not last", format!("{post}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n")),
        (
            "TE chunked twice",
            format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("TE with a control character", format!("{post}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n")),
        ("TE in HTTP/1.0", "POST {T} HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("obs-fold", "GET {T} HTTP/1.1\r\nHost: x\r\nX-Folded: one\r\n two\r\n\r\n".to_owned()),
        ("obs-fold of a CL", format!("{post}Content-Length:\r\n 4\r\n\r\nabcd")),
        ("bare LF everywhere", "GET {T} HTTP/1.1\nHost: x\n\n".to_owned()),
        ("bare LF after a header", "GET {T} HTTP/1.1\r\nHost: x\nX-Next: y\r\n\r\n".to_owned()),
        ("bare LF at the end of the head", "GET {T} HTTP/1.1\r\nHost: x\r\n\n".to_owned()),
        ("bare CR in a value", "GET {T} HTTP/1.1\r\nHost: x\r\nX-Odd: a\rb\r\n\r\n".to_owned()),
        ("NUL in a value", "GET {T} HTTP/1.1\r\nHost: x\r\nX-Odd: a\0b\r\n\r\n".to_owned()),
        ("space before the colon", "GET {T} HTTP/1.1\r\nHost: x\r\nContent-Length : 4\r\n\r\n".to_owned()),
        ("space in a name", "GET {T} HTTP/1.1\r\nHost: x\r\nX Odd: y\r\n\r\n".to_owned()),
        ("a header without a colon", "GET {T} HTTP/1.1\r\nHost: x\r\nodd\r\n\r\n".to_owned()),
        ("an empty name", "GET {T} HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n".to_owned()),
        ("no Host", "GET {T} HTTP/1.1\r\nX-Other: y\r\n\r\n".to_owned()),
        ("two Hosts", "GET {T} HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n".to_owned()),
        ("a Host with a path", "GET {T} HTTP/1.1\r\nHost: x/y\r\n\r\n".to_owned()),
        ("no version", "GET {T}\r\nHost: x\r\n\r\n".to_owned()),
        ("an unknown version", "GET {T} HTTP/1.9\r\nHost: x\r\n\r\n".to_owned()),
        ("HTTP/3 spelt out", "GET {T} HTTP/3.0\r\nHost: x\r\n\r\n".to_owned()),
        ("a NUL in the path", "GET {T}\0 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        ("a tab in the request line", "GET\t{T} HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        ("a method that is no token", "GE(T {T} HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        ("a fragment of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}{T}\r\n\r\n".to_owned()),
        (
            "Upgrade with a body that is both",
            format!(
                "{post}Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
    ]
}

const TARGETS: [&str; 3] = ["/api/echo", "/socket.io/?EIO=4&transport=polling", "/realtime/rooms/quay/messages"];

#[test]
fn ambiguous_framing_is_refused_and_nothing_is_smuggled_past_it() {
    let mut server = Server::start();
    let mut wrong = Vec::new();
    for (what, shape) in ambiguous() {
        for target in TARGETS {
            let request = shape.replace("{T}", target) + SMUGGLED;
            let answer = exchange_and_finish(server.address, request.as_bytes());
            let refused = matches!(answer.status, 400 | 405 | 411 | 413 | 414 | 431 | 501 | 505);
            // Bytes that do not look like HTTP at all may be answered by closing.
            let silent = answer.text.is_empty() && (what.contains("TLS") || what.contains("version"));
            if !(refused || silent) || answer.responses() > 1 || answer.body.contains("smuggled") {
                wrong.push(format!("{what} on {target}: {:.200}", answer.text.replace("\r\n", " | ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{} shapes were not refused rightly:\n{}", wrong.len(), wrong.join("\n"));
    server.assert_alive();
    server.assert_no_panic();
}

#[test]
fn a_refusal_says_that_the_connection_ends_and_ends_it() {
    let server = Server::start();
    for shape in ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Content-Length: 4\r\nContent-Length: 5"] {
        // Nothing says here that no more will come: the server must close by itself, or this hangs.
        let answer = exchange(
            server.address,
            format!("POST /api/echo HTTP/1.1\r\nHost: x\r\n{shape}\r\n\r\n0\r\n\r\n").as_bytes(),
        );
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.text.to_ascii_lowercase().contains("connection: close"), "{}", answer.text);
    }
}

#[test]
fn oversized_heads_are_refused() {
    let mut server = Server::start();
    let long = "x".repeat(300_000);
    let many: String = (0..2000).map(|n| format!("X-{n}: y\r\n")).collect();
    let shapes = [
        ("a long path", format!("GET /api/hello?{long} HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("a long header", format!("GET /api/hello HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n")),
        ("many headers", format!("GET /api/hello HTTP/1.1\r\nHost: x\r\n{many}\r\n")),
        ("a head without an end", format!("GET /api/hello HTTP/1.1\r\nHost: x\r\nX-Long: {long}{long}{long}")),
    ];
    for (what, request) in shapes {
        let answer = exchange_and_finish(server.address, request.as_bytes());
        // A refusal under unread bytes may be lost in the reset that follows it.
        assert!(matches!(answer.status, 0 | 400 | 414 | 431), "{what}: {:.200}", answer.text);
    }
    server.assert_alive();
    server.assert_no_panic();
}

/// Bodies whose chunks are broken. Whatever has been streamed already, they must not end as a complete answer.
fn broken_chunks() -> [&'static [u8]; 9] {
    [
        b"g\r\nabc\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        b"-1\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3;a=\nb\r\nabc\r\n0\r\n\r\n",
        b"\r\n3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc",
    ]
}

#[test]
fn broken_chunks_never_become_a_complete_request() {
    let mut server = Server::start();
    for target in TARGETS {
        for chunks in broken_chunks() {
            let mut request =
                format!("POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
            request.extend_from_slice(chunks);
            let answer = exchange_and_finish(server.address, &request);
            let complete = answer.status == 200
                && (answer.text.ends_with("0\r\n\r\n") || answer.text.to_ascii_lowercase().contains("content-length:"));
            assert!(!complete, "{target} {:?}: {}", String::from_utf8_lossy(chunks), answer.text);
            assert!(answer.responses() <= 1);
        }
    }
    server.assert_alive();
    server.assert_no_panic();
}

#[test]
fn truncated_requests_are_forgotten() {
    let mut server = Server::start();
    let whole = b"POST /api/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789";
    for end in 0..whole.len() {
        let answer = exchange_and_finish(server.address, &whole[..end]);
        let complete = answer.status == 200 && answer.body == "0123456789";
        assert!(!complete, "cut at {end}: {}", answer.text);
    }
    server.assert_alive();
    server.assert_no_panic();
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = Server::start();
    let mut request = String::new();
    for n in 0..20 {
        request += &format!("GET /api/hello?n={n} HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    request += "GET /api/hello?n=last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = exchange(server.address, request.as_bytes());
    assert_eq!(answer.responses(), 21);
    let places: Vec<_> = (0..20).map(|n| answer.text.find(&format!("/api/hello?n={n}\"")).unwrap()).collect();
    assert!(places.is_sorted());
}

#[test]
fn bad_upgrades_are_refused_before_any_tunnel() {
    let server = Server::start();
    let head = |extra: &str| {
        format!("GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{extra}\r\n")
    };
    let shapes = [
        ("no key", head("Sec-WebSocket-Version: 13\r\n")),
        ("a short key", head("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2hvcnQ=\r\n")),
        (
            "two keys",
            head(
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            ),
        ),
        ("an old version", head("Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")),
        ("no version", head("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")),
    ];
    for (what, request) in shapes {
        // A tunnel would swallow what follows; a refusal must not run it as a request either.
        let answer = exchange_and_finish(server.address, (request + SMUGGLED).as_bytes());
        assert!(matches!(answer.status, 400 | 426), "{what}: {}", answer.text);
    }
    let post = "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 0\r\n\r\n";
    let answer = exchange(server.address, post.as_bytes());
    assert_ne!(answer.status, 101, "{}", answer.text);
    // A path that is no WebSocket answers as it is.
    let plain = "GET /api/hello HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let answer = exchange_and_finish(server.address, plain.as_bytes());
    assert!(matches!(answer.status, 200 | 400 | 502), "{}", answer.text);
}

#[test]
fn thousands_of_bad_requests_leave_memory_and_descriptors_flat() {
    let mut server = Server::start();
    let shapes: Vec<Vec<u8>> = ambiguous()
        .into_iter()
        .flat_map(|(_, shape)| TARGETS.map(|target| (shape.replace("{T}", target) + SMUGGLED).into_bytes()))
        .chain([format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(100_000)).into_bytes()])
        .collect();
    let round = |server: &Server| {
        for shape in &shapes {
            let mut stream = connect(server.address);
            let _ = stream.write_all(shape);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            read_to_end(&mut stream);
        }
    };
    for _ in 0..5 {
        round(&server);
    }
    let (memory, descriptors) = (server.memory_kib(), server.descriptors());
    for _ in 0..25 {
        round(&server);
    }
    let grown = server.memory_kib().saturating_sub(memory);
    assert!(grown < 4096, "{grown} KiB more after {} bad requests", 25 * shapes.len());
    server.until_descriptors_are_at_most(descriptors + 8);
    server.assert_alive();
    server.assert_no_panic();
}
