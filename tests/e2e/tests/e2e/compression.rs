//! permessage-deflate (RFC 7692) on the running binary: stock clients (`node/compression.mjs`) and raw bytes.

use crate::harness::{Server, scenario, scenario_with};
use crate::raw::{RawWebSocket, exchange, frame, frame_with};

const ON: &str = "compression = true\ncompression_threshold = \"64B\"";
/// With raw sockets: their answers are short, and come as they are.
const ON_FOR_LONG: &str = "compression = true";
const PATH: &str = "/socket.io/?EIO=4&transport=websocket";

#[test]
fn stock_clients_talk_compressed_with_those_that_do_not() {
    scenario_with(ON, "compression", "stockClients");
}

#[test]
fn a_client_with_a_small_window_gets_what_fits_it() {
    scenario_with(ON, "compression", "smallWindow");
}

#[test]
fn an_upgraded_session_is_compressed_and_recovers() {
    scenario_with(ON, "compression", "upgradedAndRecovered");
}

#[test]
fn a_browser_talks_compressed() {
    scenario_with(&format!("{ON}\ncors_origins = [\"*\"]"), "compression", "browser");
}

#[test]
fn nothing_is_agreed_unless_it_is_switched_on() {
    scenario("compression", "offByDefault");
}

fn extensions(server: &Server, offer: &str) -> (u16, Option<String>) {
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n\r\n"
    );
    // A close frame behind it ends the connection, so that the answer can be read to its end.
    let answer = exchange(server.address, &[request.as_bytes(), &frame(8, b"")].concat());
    let line = answer.text.lines().find_map(|line| line.strip_prefix("sec-websocket-extensions: "));
    (answer.status, line.map(str::to_owned))
}

#[test]
fn offers_are_taken_declined_and_refused_as_the_rfc_says() {
    let server = Server::configured(ON);
    let plain = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let agreed = |more: &str| (101, Some(format!("{plain}{more}")));
    let cases = [
        ("permessage-deflate", agreed("")),
        ("permessage-deflate; client_max_window_bits", agreed("")),
        ("permessage-deflate; server_max_window_bits=9", agreed("; server_max_window_bits=9")),
        ("permessage-deflate; server_max_window_bits=7, permessage-deflate", agreed("")),
        ("permessage-deflate; unheard_of", (101, None)),
        ("x-webkit-deflate-frame", (101, None)),
        ("permessage-deflate; =", (400, None)),
        ("permessage-deflate;", (400, None)),
    ];
    for (offer, expected) in cases {
        assert_eq!(extensions(&server, &format!("Sec-WebSocket-Extensions: {offer}")), expected, "{offer}");
    }
    assert_eq!(extensions(&server, "X-Nothing: asked"), (101, None));
    let two = "Sec-WebSocket-Extensions: a\r\nSec-WebSocket-Extensions: permessage-deflate";
    assert_eq!(extensions(&server, two), agreed(""));
}

/// A Socket.IO connection with compression.
fn compressed(server: &Server, token: &str) -> RawWebSocket {
    let mut socket = RawWebSocket::open_with(server.address, PATH, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
    socket.send(&frame(1, format!("40{{\"token\":\"{token}\"}}").as_bytes()));
    // The answers are short.
    while !socket.text().starts_with("40{") {}
    socket
}

/// A text as a stored block (RFC 7692 section 7.2.3.3).
fn stored(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_le_bytes();
    let inverse = length.map(|byte| !byte);
    [&[0], &length[..], &inverse, text, &[0]].concat()
}

#[test]
fn compressed_messages_come_in_fragments_and_with_pings_between() {
    let server = Server::configured(ON_FOR_LONG);
    let mut socket = compressed(&server, &server.token("ada"));
    let message = stored(b"427[\"query:rooms\",{}]");
    let (a, rest) = message.split_at(5);
    let (b, c) = rest.split_at(9);
    for bytes in [
        frame_with(0xc1, &message),
        [frame_with(0x41, a), frame(9, b"p"), frame_with(0x00, b), frame(9, b"q"), frame_with(0x80, c)].concat(),
        [frame_with(0x41, b""), frame_with(0x00, &message), frame_with(0x80, b"")].concat(),
        frame(1, b"427[\"query:rooms\",{}]"),
    ] {
        socket.send(&bytes);
        let mut pongs = Vec::new();
        loop {
            let (_, opcode, payload) = socket.frame().expect("an answer");
            match opcode {
                10 => pongs.extend(payload),
                _ if payload.starts_with(b"437[{\"rooms\":") => break,
                _ => {}
            }
        }
        assert!(pongs.is_empty() || pongs == b"pq", "{pongs:?}");
    }
}

#[test]
fn bad_compressed_messages_close_with_the_right_code() {
    let server = Server::configured(ON_FOR_LONG);
    let token = server.token("ada");
    let bomb = {
        // A fixed block of one zero, then matches of 258 bytes at distance 1: a thousand bytes become a megabyte and more.
        let mut bits = String::from("010");
        bits.push_str("00110000");
        for _ in 0..5_000 {
            bits.push_str("1100010100000");
        }
        bits.push_str("0000000");
        let mut bytes = Vec::new();
        for chunk in bits.as_bytes().chunks(8) {
            bytes.push(chunk.iter().enumerate().map(|(at, bit)| (bit - b'0') << at).sum());
        }
        [bytes, vec![0, 0, 0, 0xff, 0xff, 0]].concat()
    };
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("RSV1 on a continuation", [frame_with(0x41, b"\0"), frame_with(0xc0, b"\0")].concat(), 1002),
        ("RSV1 on a ping", frame_with(0xc9, b""), 1002),
        ("RSV2", frame_with(0xe1, b""), 1002),
        ("a reserved block type", frame_with(0xc1, b"\x06\0"), 1007),
        ("a wrong length", frame_with(0xc1, b"\0\x05\0\xfa\xfeH"), 1007),
        ("a message cut short", frame_with(0xc1, &stored(b"42[\"a\"]")[..9]), 1007),
        ("a distance into another message", frame_with(0xc1, b"\xf2\0\x11\0\0"), 1007),
        ("text that is not UTF-8", frame_with(0xc1, &stored(b"42[\"\xff\"]")), 1007),
        ("a bomb", frame_with(0xc1, &bomb), 1009),
        ("a packet that means nothing", frame_with(0xc1, &stored(b"9")), 1002),
        ("a million empty blocks", frame_with(0xc2, &b"\0\0\0\xff\xff".repeat(190_000)), 1007),
    ];
    for (what, bytes, code) in cases {
        let mut socket = compressed(&server, &token);
        socket.send(&bytes);
        assert_eq!(socket.close_code(), Some(code), "{what}");
    }
    // A thousand bombs leave nothing behind.
    let bombs = || {
        for _ in 0..200 {
            let mut socket = compressed(&server, &token);
            socket.send(&frame_with(0xc1, &bomb));
            assert_eq!(socket.close_code(), Some(1009));
        }
    };
    bombs();
    let before = server.memory_kib();
    bombs();
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more after 200 bombs of a megabyte");
    server.assert_no_panic();
}

#[test]
fn an_idle_connection_costs_the_same_with_compression() {
    let server = Server::configured(&format!("{ON_FOR_LONG}\nmax_connections = 5000"));
    let token = server.token("ada");
    const COUNT: usize = 400;
    let talk = |socket: &mut RawWebSocket| {
        // Long enough to be compressed, both ways.
        let text = format!("421[\"room:join\",{{\"room\":\"{}\"}}]", "quay".repeat(30));
        socket.send(&frame_with(0xc1, &stored(text.as_bytes())));
        while socket.frame().is_some_and(|(_, _, payload)| !payload.starts_with(b"431")) {}
    };
    let mut grown = Vec::new();
    let mut kept = Vec::new();
    for extra in ["", "Sec-WebSocket-Extensions: permessage-deflate\r\n"] {
        let open = || {
            let mut socket = RawWebSocket::open_with(server.address, PATH, extra);
            socket.send(&frame(1, format!("40{{\"token\":\"{token}\"}}").as_bytes()));
            while !socket.text().starts_with("40{") {}
            if !extra.is_empty() {
                talk(&mut socket);
            }
            socket
        };
        // The thread's own compressor is not a connection's.
        kept.extend((0..20).map(|_| open()));
        let before = server.memory_kib();
        kept.extend((0..COUNT).map(|_| open()));
        grown.push(server.memory_kib().saturating_sub(before) as f64 / COUNT as f64);
    }
    println!("KiB per idle connection: {:.1} without, {:.1} with compression", grown[0], grown[1]);
    assert!(grown[1] < grown[0] + 6.0, "{grown:?} KiB");
}
