//! Bad WebSocket frames, Engine.IO and Socket.IO packets on a live socket.

use std::io::Write;
use std::net::SocketAddr;

use crate::harness::Server;
use crate::raw::{RawWebSocket, connect, exchange, frame, frame_with, get, post, read_to_end};

/// Frames that break RFC 6455, each with the close codes that say so.
fn bad_frames() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let unmasked = [&[0x81, 2][..], b"2x"].concat();
    let mut huge = vec![0x82, 0xff];
    huge.extend_from_slice(&(1_u64 << 62).to_be_bytes());
    huge.extend_from_slice(&[0; 64]);
    let mut top_bit = vec![0x82, 0xff];
    top_bit.extend_from_slice(&(1_u64 << 63).to_be_bytes());
    top_bit.extend_from_slice(&[0; 64]);
    let mut large = vec![0x82, 0xff];
    large.extend_from_slice(&20_000_000_u64.to_be_bytes());
    large.extend_from_slice(&[0; 4096]);
    let not_shortest = vec![0x81, 0x80 | 126, 0, 1, 0, 0, 0, 0, b'2'];
    vec![
        ("an unmasked frame", unmasked, &[1002]),
        ("a reserved opcode", frame(3, b"x"), &[1002]),
        ("a reserved control opcode", frame(11, b"x"), &[1002]),
        ("RSV1 without an extension", frame_with(0xc1, b"2"), &[1002]),
        ("RSV3", frame_with(0x91, b"2"), &[1002]),
        ("a fragmented ping", frame_with(0x09, b"x"), &[1002]),
        ("a ping of 126 bytes", frame(9, &[b'x'; 126]), &[1002]),
        ("a continuation of nothing", frame(0, b"x"), &[1002]),
        ("a new message inside another", [frame_with(0x01, b"2"), frame(1, b"2")].concat(), &[1002]),
        ("a length over 2^63", top_bit, &[1002, 1009]),
        ("a length of 2^62", huge, &[1009]),
        ("twenty megabytes", large, &[1009]),
        ("a length not in its shortest form", not_shortest, &[1002]),
        ("a close of one byte", frame(8, b"x"), &[1002]),
        ("a close with code 1005", frame(8, &1005_u16.to_be_bytes()), &[1002]),
        ("a close with code 999", frame(8, &999_u16.to_be_bytes()), &[1002]),
        ("text that is not UTF-8", frame(1, b"42[\"\xff\xfe\"]"), &[1007]),
        ("text cut inside a character", frame(1, "42[\"\u{1F30A}".as_bytes().split_at(6).0), &[1007]),
        (
            "fragments over the limit",
            [frame_with(0x02, &[0; 700_000]), frame_with(0x00, &[0; 700_000]), frame(0, b"")].concat(),
            &[1009],
        ),
    ]
}

#[test]
fn bad_frames_close_their_connection_with_the_right_code() {
    let mut server = Server::start();
    let token = server.token("ada");
    let mut wrong = Vec::new();
    for (what, bytes, codes) in bad_frames() {
        for let_in in [false, true] {
            let mut socket = if let_in {
                RawWebSocket::socket_io(server.address, &token)
            } else {
                RawWebSocket::open(server.address, "/socket.io/?EIO=4&transport=websocket")
            };
            socket.send(&bytes);
            let code = socket.close_code();
            if !code.is_some_and(|code| codes.contains(&code)) {
                wrong.push(format!("{what} (let in: {let_in}): {code:?} instead of {codes:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.assert_alive();
    server.assert_no_panic();
}

#[test]
fn the_sample_echo_is_as_strict() {
    let mut server = Server::start();
    let mut wrong = Vec::new();
    for (what, bytes, codes) in bad_frames() {
        // Its limit is larger, and any text is welcome.
        if what.contains("over the limit") {
            continue;
        }
        let mut socket = RawWebSocket::open(server.address, "/echo");
        socket.send(&bytes);
        let code = socket.close_code();
        if !code.is_some_and(|code| codes.contains(&code)) {
            wrong.push(format!("{what}: {code:?} instead of {codes:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.assert_alive();
}

/// Packets that break Engine.IO or Socket.IO: the reference implementation closes, and so must we.
fn bad_packets() -> Vec<(&'static str, Vec<u8>)> {
    let deep = format!("42[\"room:send\",{}", "[".repeat(100_000));
    vec![
        ("an unknown Engine.IO type", frame(1, b"9")),
        ("an empty packet", frame(1, b"")),
        ("a letter", frame(1, b"x")),
        ("no Socket.IO type", frame(1, b"4")),
        ("an unknown Socket.IO type", frame(1, b"49[\"a\"]")),
        ("an event without a payload", frame(1, b"42")),
        ("an event that is an object", frame(1, b"42{\"a\":1}")),
        ("an event that is cut", frame(1, b"42[\"room:send\"")),
        ("an event with rubbish behind it", frame(1, b"42[\"a\"]x")),
        ("an empty event", frame(1, b"42[]")),
        ("an event whose name is an object", frame(1, b"42[{}]")),
        ("an ack id that overflows", frame(1, b"4299999999999999999999999[\"a\"]")),
        ("an ack without an id", frame(1, b"43[]")),
        ("more attachments than allowed", frame(1, b"451000000-[\"a\"]")),
        ("attachments without a number", frame(1, b"45-[\"a\"]")),
        ("a negative number of attachments", frame(1, b"45-1-[\"a\"]")),
        (
            "a placeholder out of range",
            [frame(1, b"451-[\"room:send\",{\"_placeholder\":true,\"num\":7}]"), frame(2, b"x")].concat(),
        ),
        (
            "text where an attachment is due",
            [frame(1, b"451-[\"a\",{\"_placeholder\":true,\"num\":0}]"), frame(1, b"42[\"a\"]")].concat(),
        ),
        ("an attachment that nobody announced", frame(2, b"x")),
        ("nesting without an end", frame(1, deep.as_bytes())),
    ]
}

#[test]
fn bad_packets_end_their_session_and_nobody_elses() {
    let mut server = Server::start();
    let token = server.token("ada");
    let mut bystander = RawWebSocket::socket_io(server.address, &token);
    let mut wrong = Vec::new();
    for (what, bytes) in bad_packets() {
        let mut socket = RawWebSocket::socket_io(server.address, &token);
        socket.send(&bytes);
        // A server that takes the packet for a good one answers this; one that closed does not.
        socket.send(&frame(1, b"427[\"query:rooms\",{}]"));
        socket.send(&frame(8, &1000_u16.to_be_bytes()));
        let mut answered = false;
        while let Some((_, opcode, payload)) = socket.frame() {
            answered |= opcode == 1 && payload.starts_with(b"437");
        }
        if answered {
            wrong.push(what);
        }
    }
    assert!(wrong.is_empty(), "the session went on after: {wrong:#?}");
    bystander.send(&frame(1, b"423[\"query:rooms\",{}]"));
    loop {
        let text = bystander.text();
        if text.starts_with("433") {
            assert_eq!(text, "433[{\"rooms\":[]}]");
            break;
        }
    }
    server.assert_alive();
    server.assert_no_panic();
}

fn open_polling(address: SocketAddr) -> String {
    let answer = get(address, "/socket.io/?EIO=4&transport=polling");
    let start = answer.body.find("\"sid\":\"").unwrap_or_else(|| panic!("{}", answer.text)) + 7;
    answer.body[start..].split('"').next().unwrap().to_owned()
}

#[test]
fn bad_polling_requests_are_refused_and_end_their_session() {
    let mut server = Server::start();
    let bodies: [(&str, &[u8]); 8] = [
        ("an unknown packet", b"9"),
        ("an empty packet", b""),
        ("rubbish in base64", b"b!!!!"),
        ("base64 cut short", b"bAAA"),
        ("a good packet and a bad one", b"40{}\x1e9"),
        ("two separators", b"3\x1e\x1e3"),
        ("not UTF-8", b"4\xff\xfe"),
        ("a Socket.IO packet without a type", b"4x"),
    ];
    for (what, body) in bodies {
        let sid = open_polling(server.address);
        let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
        let answer = post(server.address, &path, body);
        assert!(matches!(answer.status, 200 | 400), "{what}: {}", answer.text);
        let after = get(server.address, &path);
        // Either the session is gone, or its last words are delivered: a close packet, or a noop and then nothing.
        let ended = after.status == 400 || matches!(after.body.as_str(), "1" | "6");
        assert!(ended, "{what}: {}", after.text);
    }
    let sid = open_polling(server.address);
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let mut stream = connect(server.address);
    write!(stream, "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n").unwrap();
    let _ = stream.write_all(&[b'x'; 4096]);
    let refused = String::from_utf8_lossy(&read_to_end(&mut stream)).into_owned();
    assert!(refused.starts_with("HTTP/1.1 413"), "{refused}");
    for method in ["PUT", "DELETE", "PATCH"] {
        let request = format!(
            "{method} /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        let answer = exchange(server.address, request.as_bytes());
        assert!(matches!(answer.status, 400 | 405), "{method}: {}", answer.text);
    }
    for sid in ["../../etc/passwd", "%00", &"A".repeat(5000), "%F0%9F%8C%8A"] {
        let answer = get(server.address, &format!("/socket.io/?EIO=4&transport=polling&sid={sid}"));
        assert!(matches!(answer.status, 400 | 414 | 431), "{sid:.30}: {}", answer.text);
    }
    server.assert_alive();
    server.assert_no_panic();
}

#[test]
fn a_second_poll_ends_the_session_as_the_protocol_says() {
    let server = Server::start();
    let sid = open_polling(server.address);
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let mut first = connect(server.address);
    write!(first, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    // The first must be waiting before the second comes; an answered third request on that worker would not prove it,
    // so the second is sent until it is refused.
    let second = get(server.address, &path);
    let first = String::from_utf8_lossy(&read_to_end(&mut first)).into_owned();
    let statuses = [first.get(9..12).unwrap_or_default().to_owned(), second.status.to_string()];
    assert!(statuses.iter().any(|status| status == "400"), "{first} / {}", second.text);
    assert_eq!(get(server.address, &path).status, 400, "the session is over");
}

#[test]
fn thousands_of_bad_sessions_leave_memory_and_descriptors_flat() {
    let mut server = Server::start();
    let token = server.token("ada");
    let frames: Vec<Vec<u8>> = bad_frames().into_iter().map(|(_, bytes, _)| bytes).collect();
    let packets: Vec<Vec<u8>> = bad_packets().into_iter().map(|(_, bytes)| bytes).collect();
    let round = |address| {
        for bytes in frames.iter().chain(&packets) {
            // Cut in the middle, and whole.
            for part in [&bytes[..bytes.len() / 2], &bytes[..]] {
                let mut socket = RawWebSocket::open(address, "/socket.io/?EIO=4&transport=websocket");
                socket.send(&frame(1, format!("40{{\"token\":\"{token}\"}}").as_bytes()));
                socket.send(&frame(1, b"421[\"room:join\",{\"room\":\"quay\"}]"));
                socket.send(part);
                let _ = socket.stream.shutdown(std::net::Shutdown::Write);
                while socket.frame().is_some() {}
            }
        }
        for _ in 0..20 {
            let sid = open_polling(address);
            post(address, &format!("/socket.io/?EIO=4&transport=polling&sid={sid}"), b"9");
        }
    };
    for _ in 0..5 {
        round(server.address);
    }
    let (memory, descriptors) = (server.memory_kib(), server.descriptors());
    for _ in 0..25 {
        round(server.address);
    }
    let grown = server.memory_kib().saturating_sub(memory);
    assert!(grown < 6144, "{grown} KiB more after {} bad sessions", 25 * 2 * (frames.len() + packets.len()));
    server.until_descriptors_are_at_most(descriptors + 8);
    server.assert_alive();
    server.assert_no_panic();
}
