//! RFC 6455 on a live socket: what is told by the codec's own tests of the same name, but end to end, with the handshake
//! and the closing.

use crate::harness::Server;
use crate::raw::{Frame, RawWebSocket, exchange, frame, frame_with};

const PATH: &str = "/socket.io/?EIO=4&transport=websocket";
const QUERY: &[u8] = b"427[\"query:rooms\",{}]";
const ANSWER: &[u8] = b"437[{\"rooms\":[]}]";

/// The frames up to the one that answers [`QUERY`].
fn until_answer(socket: &mut RawWebSocket) -> Vec<Frame> {
    let mut before = Vec::new();
    loop {
        let frame = socket.frame().expect("an answer");
        if frame.2 == ANSWER {
            return before;
        }
        before.push(frame);
    }
}

#[test]
fn messages_come_in_any_fragments_with_control_frames_between() {
    let server = Server::start();
    let mut socket = RawWebSocket::socket_io(server.address, &server.token("ada"));
    until_answer_of(&mut socket, &frame(1, QUERY), 0);
    let (a, b) = QUERY.split_at(8);
    until_answer_of(&mut socket, &[frame_with(0x01, a), frame(0, b)].concat(), 0);
    until_answer_of(&mut socket, &[frame_with(0x01, b""), frame_with(0, b""), frame(0, QUERY)].concat(), 0);
    let pings: Vec<u8> =
        QUERY.iter().flat_map(|byte| [frame_with(0, &[*byte]), frame(9, b"still there?")].concat()).collect();
    until_answer_of(
        &mut socket,
        &[frame_with(0x01, b""), pings, frame(10, b"unasked"), frame(0, b"")].concat(),
        QUERY.len(),
    );
    // Characters of four bytes, cut in each place, in a message that is answered with an error and not with a close.
    let room = "421[\"room:join\",{\"room\":\"a\u{1F30A}b\"}]";
    for at in 20..=room.len() {
        let (a, b) = room.as_bytes().split_at(at);
        socket.send(&[frame_with(0x01, a), frame(9, b"p"), frame(0, b)].concat());
        while !socket.frame().expect("an answer").2.starts_with(b"431") {}
    }
}

fn until_answer_of(socket: &mut RawWebSocket, bytes: &[u8], pongs: usize) {
    socket.send(bytes);
    let before = until_answer(socket);
    let expected = vec![(true, 10, b"still there?".to_vec()); pongs];
    let other: Vec<_> = before.into_iter().filter(|frame| frame.1 == 10).collect();
    assert_eq!(other, expected);
}

#[test]
fn a_ping_is_answered_with_its_own_bytes() {
    let server = Server::start();
    let mut socket = RawWebSocket::open(server.address, PATH);
    assert!(socket.text().starts_with("0{"));
    let bytes: Vec<u8> = (0..125).map(|n| n * 2).collect();
    for payload in [&b""[..], b"\0\xff", &bytes] {
        socket.send(&frame(9, payload));
        assert_eq!(socket.frame(), Some((true, 10, payload.to_vec())));
    }
}

#[test]
fn a_close_is_answered_with_its_code_and_nothing_follows_it() {
    let mut server = Server::start();
    let token = server.token("ada");
    for (payload, answer) in [
        (&b""[..], &b""[..]),
        (&1000_u16.to_be_bytes(), &1000_u16.to_be_bytes()),
        (&1001_u16.to_be_bytes(), &1001_u16.to_be_bytes()),
        (&[&3000_u16.to_be_bytes()[..], "bye, ø".as_bytes()].concat(), &3000_u16.to_be_bytes()),
        (&4999_u16.to_be_bytes(), &4999_u16.to_be_bytes()),
    ] {
        let mut socket = RawWebSocket::socket_io(server.address, &token);
        // What comes behind the close is not looked at.
        socket.send(&[frame(8, payload), frame(9, b"too late"), frame(1, QUERY), frame(3, b"")].concat());
        let mut frames = Vec::new();
        while let Some(frame) = socket.frame() {
            frames.push(frame);
        }
        let at = frames.iter().position(|(_, opcode, _)| *opcode == 8).expect("a close frame");
        assert_eq!(frames[at], (true, 8, answer.to_vec()), "{payload:?}");
        assert_eq!(at, frames.len() - 1, "nothing follows the close");
        assert!(frames.iter().all(|(_, opcode, payload)| *opcode != 10 && payload != ANSWER));
    }
    server.assert_alive();
}

#[test]
fn what_will_be_refused_is_not_waited_for() {
    let server = Server::start();
    let token = server.token("ada");
    let whole = frame(1, &[b"42[\"\xff".to_vec(), vec![b'x'; 60_000]].concat());
    for (what, bytes, code) in [
        ("bad text in a frame of which nine bytes have come", &whole[..8 + 5], 1007_u16),
        ("a length over the limit, without its mask", &[0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0], 1009),
        ("a length with the highest bit", &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], 1002),
        ("an unmasked frame, of which two bytes have come", &[0x81, 0x05], 1002),
        ("a reserved opcode, of which two bytes have come", &[0x83, 0x85], 1002),
    ] {
        let mut socket = RawWebSocket::socket_io(server.address, &token);
        socket.send(bytes);
        assert_eq!(socket.close_code(), Some(code), "{what}");
    }
}

#[test]
fn frames_may_come_byte_by_byte() {
    let server = Server::start();
    let mut socket = RawWebSocket::socket_io(server.address, &server.token("ada"));
    let bytes = [frame_with(0x01, b"427[\"quer"), frame(9, b"still there?"), frame(0, b"y:rooms\",{}]")].concat();
    for byte in &bytes {
        socket.send(&[*byte]);
    }
    let before = until_answer(&mut socket);
    assert!(before.contains(&(true, 10, b"still there?".to_vec())));
}

fn handshake(server: &Server, lines: &[&str]) -> (u16, String) {
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: x\r\n{}\r\n\r\n", lines.join("\r\n"));
    // A close frame ends what a 101 opens; another answer is ended by the request that follows.
    let behind = if lines.iter().any(|line| line.starts_with("Connection: close")) { vec![] } else { frame(8, b"") };
    let answer = exchange(server.address, &[request.as_bytes(), &behind].concat());
    (answer.status, answer.text)
}

#[test]
fn a_handshake_needs_all_of_its_parts() {
    let server = Server::start();
    let whole = [
        "Connection: keep-alive, Upgrade",
        "Upgrade: WebSocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let (status, text) = handshake(&server, &whole);
    assert_eq!(status, 101, "{text}");
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
    let changed = |at: usize, line: &'static str| {
        let mut lines = whole;
        lines[at] = line;
        handshake(&server, &lines)
    };
    for (at, line) in [
        (0, "Connection: keep-alive"),
        (1, "X-Nothing: here"),
        (3, "X-Nothing: here"),
        (3, "Sec-WebSocket-Key: short"),
        (3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSBhbmQgbW9yZQ=="),
        (3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        let (status, text) = changed(at, line);
        assert_eq!(status, 400, "{line}: {text}");
    }
    for version in ["Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 14", "X-Nothing: here"] {
        let (status, text) = changed(2, version);
        assert_eq!(status, 426, "{version}: {text}");
        assert!(text.to_lowercase().contains("sec-websocket-version: 13"), "{text}");
    }
    let (status, text) = changed(1, "Upgrade: websocket\r\nSec-WebSocket-Protocol: chat.v2, chat");
    assert_eq!(status, 101);
    assert!(text.contains("sec-websocket-protocol: chat.v2\r\n"), "{text}");
}
