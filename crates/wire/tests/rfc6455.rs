#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
//! RFC 6455 clause by clause: bytes as a client sends them, and what a server makes of them, whole and byte by byte.

use tidegate_wire::websocket::{Decoder, Message, Role, WsError};

#[derive(Clone, Debug, PartialEq)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Refused(u16),
}

use Got::{Binary, Close, Ping, Pong, Refused, Text};

fn own(message: Message<'_>) -> Got {
    match message {
        Message::Text(text) => Text(text.to_owned()),
        Message::Binary(bytes) => Binary(bytes.to_owned()),
        Message::Ping(bytes) => Ping(bytes.to_owned()),
        Message::Pong(bytes) => Pong(bytes.to_owned()),
        Message::Close(close) => Close(close.map(|(code, reason)| (code, reason.to_owned()))),
        Message::Compressed { .. } => panic!("nothing was agreed"),
    }
}

/// The largest message that the cases allow.
const MOST: usize = 70_000;

/// Everything that comes out, and how many bytes it took to get there.
fn receive(bytes: &[u8], step: usize) -> (Vec<Got>, usize) {
    let mut decoder = Decoder::new(Role::Server, MOST);
    let mut got = Vec::new();
    let mut kept = Vec::new();
    let mut came = 0;
    for chunk in bytes.chunks(step) {
        kept.extend_from_slice(chunk);
        came += chunk.len();
        loop {
            match decoder.decode(&mut kept) {
                Err(error) => {
                    got.push(Refused(error.close_code()));
                    return (got, came);
                }
                Ok(decoded) => {
                    got.extend(decoded.message.map(own));
                    match decoded.consumed {
                        0 => break,
                        consumed => drop(kept.drain(..consumed)),
                    }
                }
            }
        }
    }
    (got, came)
}

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked frame with this first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        middle @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn frames(list: &[(u8, &[u8])]) -> Vec<u8> {
    list.iter().flat_map(|(first, payload)| frame(*first, payload)).collect()
}

fn text(text: &str) -> Got {
    Text(text.to_owned())
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes(), reason].concat())
}

/// Clause, what it is about, the bytes, and what comes of them.
type Case = (&'static str, &'static str, Vec<u8>, Vec<Got>);

/// The header alone: what is refused by it must not be waited for.
fn head(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

fn framing() -> Vec<Case> {
    let long = |length: u64| [&[0x82, 0xff][..], &length.to_be_bytes()].concat();
    vec![
        ("5.1", "an unmasked frame", head(&[0x81, 0x02]), vec![Refused(1002)]),
        ("5.2", "RSV1", head(&[0xc1, 0x80]), vec![Refused(1002)]),
        ("5.2", "RSV2", head(&[0xa1, 0x80]), vec![Refused(1002)]),
        ("5.2", "RSV3", head(&[0x91, 0x80]), vec![Refused(1002)]),
        ("5.2", "all reserved bits on a ping", head(&[0xf9, 0x80]), vec![Refused(1002)]),
        ("5.2", "RSV1 on a close", head(&[0xc8, 0x80]), vec![Refused(1002)]),
        ("5.2", "opcode 3", head(&[0x83, 0x80]), vec![Refused(1002)]),
        ("5.2", "opcode 7", head(&[0x87, 0x80]), vec![Refused(1002)]),
        ("5.2", "opcode 11", head(&[0x8b, 0x80]), vec![Refused(1002)]),
        ("5.2", "opcode 15", head(&[0x8f, 0x80]), vec![Refused(1002)]),
        ("5.2", "an empty text", frame(0x81, b""), vec![text("")]),
        ("5.2", "an empty binary", frame(0x82, b""), vec![Binary(vec![])]),
        ("5.2", "125 bytes", frame(0x82, &[7; 125]), vec![Binary(vec![7; 125])]),
        ("5.2", "126 bytes", frame(0x82, &[7; 126]), vec![Binary(vec![7; 126])]),
        ("5.2", "65,535 bytes", frame(0x82, &[7; 65_535]), vec![Binary(vec![7; 65_535])]),
        ("5.2", "65,536 bytes", frame(0x82, &[7; 65_536]), vec![Binary(vec![7; 65_536])]),
        ("5.2", "a length of 125 in two bytes", head(&[0x82, 0xfe, 0, 125]), vec![Refused(1002)]),
        ("5.2", "a length of 65,535 in eight bytes", long(65_535), vec![Refused(1002)]),
        ("5.2", "a length with the highest bit", long(1 << 63), vec![Refused(1002)]),
        ("5.2", "a length of 2^63 - 1", long(u64::MAX >> 1), vec![Refused(1009)]),
        ("5.2", "a message over the limit", long(MOST as u64 + 1), vec![Refused(1009)]),
    ]
}

fn fragments() -> Vec<Case> {
    let ping: (u8, &[u8]) = (0x89, b"still there?");
    vec![
        ("5.4", "two fragments", frames(&[(0x01, b"a"), (0x80, b"b")]), vec![text("ab")]),
        ("5.4", "empty fragments", frames(&[(0x01, b""), (0x00, b""), (0x80, b"")]), vec![text("")]),
        (
            "5.4",
            "binary in three",
            frames(&[(0x02, b"a"), (0x00, b"\xff"), (0x80, b"c")]),
            vec![Binary(b"a\xffc".into())],
        ),
        (
            "5.4",
            "a ping between fragments",
            frames(&[(0x01, b"a"), ping, (0x80, b"b")]),
            vec![Ping(b"still there?".into()), text("ab")],
        ),
        (
            "5.4",
            "ten pings and a pong between fragments",
            frames(&[&[(0x01, &b"a"[..])][..], &[ping; 10], &[(0x8a, b""), (0x80, b"b")]].concat()),
            [vec![Ping(b"still there?".into()); 10], vec![Pong(vec![]), text("ab")]].concat(),
        ),
        ("5.4", "a close between fragments", frames(&[(0x01, b"a"), (0x88, b"")]), vec![Close(None)]),
        ("5.4", "a continuation of nothing", head(&[0x80, 0x80]), vec![Refused(1002)]),
        ("5.4", "an unfinished continuation of nothing", head(&[0x00, 0x80]), vec![Refused(1002)]),
        ("5.4", "a text within a text", [frame(0x01, b"a"), head(&[0x81, 0x80])].concat(), vec![Refused(1002)]),
        ("5.4", "a binary within a text", [frame(0x01, b"a"), head(&[0x02, 0x80])].concat(), vec![Refused(1002)]),
        (
            "5.4",
            "a continuation behind the end",
            [frames(&[(0x01, b"a"), (0x80, b"b")]), head(&[0x80, 0x80])].concat(),
            vec![text("ab"), Refused(1002)],
        ),
        (
            "5.4",
            "fragments that add up to the limit",
            frames(&[(0x02, &[1; MOST - 1]), (0x80, &[2])]),
            vec![Binary([vec![1; MOST - 1], vec![2]].concat())],
        ),
        (
            "5.4",
            "fragments that add up to more",
            [frame(0x02, &[1; MOST - 1]), head(&[0x80, 0x82])].concat(),
            vec![Refused(1009)],
        ),
    ]
}

fn control() -> Vec<Case> {
    let all: Vec<u8> = (0..125).collect();
    vec![
        ("5.5", "a ping with any bytes", frame(0x89, &all), vec![Ping(all.clone())]),
        ("5.5", "a ping of 126 bytes", head(&[0x89, 0xfe]), vec![Refused(1002)]),
        ("5.5", "a ping with a length in eight bytes", head(&[0x89, 0xff]), vec![Refused(1002)]),
        ("5.5", "a close of 126 bytes", head(&[0x88, 0xfe]), vec![Refused(1002)]),
        ("5.5", "a fragmented ping", head(&[0x09, 0x80]), vec![Refused(1002)]),
        ("5.5", "a fragmented pong", head(&[0x0a, 0x80]), vec![Refused(1002)]),
        ("5.5", "a fragmented close", head(&[0x08, 0x80]), vec![Refused(1002)]),
        ("5.5.3", "a pong that nobody asked for", frame(0x8a, b"x"), vec![Pong(b"x".into())]),
        ("5.5.1", "a close without a code", frame(0x88, b""), vec![Close(None)]),
        ("5.5.1", "a close of one byte", frame(0x88, b"\x03"), vec![Refused(1002)]),
        ("5.5.1", "a close with a code", close(1000, b""), vec![Close(Some((1000, String::new())))]),
        ("5.5.1", "a close with a reason", close(1001, "bø".as_bytes()), vec![Close(Some((1001, "bø".into())))]),
        (
            "5.5.1",
            "a close with 123 bytes of reason",
            close(1000, &[b'x'; 123]),
            vec![Close(Some((1000, "x".repeat(123))))],
        ),
        ("5.5.1", "a close whose reason is no text", close(1000, b"\xce\xba\xe1\xbd\xff"), vec![Refused(1007)]),
        ("5.5.1", "a close whose reason is cut", close(1000, b"\xce"), vec![Refused(1007)]),
        ("7.4.2", "a close with 0", close(0, b""), vec![Refused(1002)]),
        ("7.4.2", "a close with 999", close(999, b""), vec![Refused(1002)]),
        ("7.4.1", "a close with 1004", close(1004, b""), vec![Refused(1002)]),
        ("7.4.1", "a close with 1005", close(1005, b""), vec![Refused(1002)]),
        ("7.4.1", "a close with 1006", close(1006, b""), vec![Refused(1002)]),
        ("7.4.1", "a close with 1015", close(1015, b""), vec![Refused(1002)]),
        ("7.4.2", "a close with 1016", close(1016, b""), vec![Refused(1002)]),
        ("7.4.2", "a close with 2999", close(2999, b""), vec![Refused(1002)]),
        ("7.4.2", "a close with 3000", close(3000, b""), vec![Close(Some((3000, String::new())))]),
        ("7.4.2", "a close with 4999", close(4999, b""), vec![Close(Some((4999, String::new())))]),
        ("7.4.2", "a close with 5000", close(5000, b""), vec![Refused(1002)]),
        ("7.4.2", "a close with 65,535", close(65_535, b""), vec![Refused(1002)]),
    ]
}

/// Texts that end at their first bad byte: the last of `bytes` is the one that spoils it, and more was announced.
fn bad_texts() -> Vec<(&'static str, &'static [u8])> {
    vec![
        ("a lone continuation", b"\x80"),
        ("FE", b"\xfe"),
        ("FF", b"\xff"),
        ("overlong in two bytes", b"\xc0"),
        ("overlong in two bytes, again", b"\xc1"),
        ("overlong in three bytes", b"\xe0\x9f"),
        ("overlong in four bytes", b"\xf0\x8f"),
        ("beyond U+10FFFF", b"\xf4\x90"),
        ("five bytes", b"\xf8"),
        ("a high surrogate", b"\xed\xa0"),
        ("a low surrogate", b"\xed\xb0"),
        ("a character cut by another", b"\xce\xba\xe1\xbdx"),
        ("a character cut after three bytes", b"\xf0\x9f\x8c\xf0"),
        ("good until its end", b"good \xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5 \xed\xa0"),
    ]
}

fn texts() -> Vec<Case> {
    let word = "κόσμε\u{1F30A}\u{10FFFF}\u{0}\u{FFFF}";
    let mut cases = vec![
        ("5.6", "any characters", frame(0x81, word.as_bytes()), vec![text(word)]),
        (
            "8.1",
            "characters cut by fragments anywhere",
            (0..=word.len())
                .flat_map(|at| {
                    let (a, b) = word.as_bytes().split_at(at);
                    frames(&[(0x01, a), (0x89, b"p"), (0x80, b)])
                })
                .collect(),
            (0..=word.len()).flat_map(|_| [Ping(b"p".into()), text(word)]).collect(),
        ),
        (
            "8.1",
            "a fragment for each byte",
            [frame(0x01, b""), word.bytes().flat_map(|byte| frame(0x00, &[byte])).collect(), frame(0x80, b"")].concat(),
            vec![text(word)],
        ),
        ("8.1", "a text that ends in a character", frame(0x81, b"\xf0\x9f\x8c"), vec![Refused(1007)]),
        (
            "8.1",
            "fragments that end in a character",
            frames(&[(0x01, b"\xf0\x9f"), (0x80, b"\x8c")]),
            vec![Refused(1007)],
        ),
        ("5.6", "any bytes in a binary", frame(0x82, b"\xff\xc0\xed\xa0"), vec![Binary(b"\xff\xc0\xed\xa0".into())]),
    ];
    for (what, bytes) in bad_texts() {
        cases.push(("8.1", what, frame(0x81, &[bytes, b" and more"].concat()), vec![Refused(1007)]));
        cases.push(("8.1", what, frames(&[(0x01, b"good "), (0x00, bytes)]), vec![Refused(1007)]));
    }
    cases
}

#[test]
fn every_clause_is_kept_however_the_bytes_come() {
    let mut wrong = Vec::new();
    for (clause, what, bytes, expected) in [framing(), fragments(), control(), texts()].concat() {
        for step in [1, 2, 3, 7, 1_000, bytes.len().max(1)] {
            let (got, _) = receive(&bytes, step);
            if got != expected {
                wrong.push(format!("{clause} {what}, {step} bytes at once: {got:.200?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_bad_text_is_refused_at_its_first_bad_byte() {
    for (what, bytes) in bad_texts() {
        // One frame that announces much more.
        let mut start = frame(0x81, &[bytes, &[b'x'; 60_000]].concat());
        let (got, came) = receive(&start, 1);
        assert_eq!((got, came), (vec![Refused(1007)], 8 + bytes.len()), "{what}");
        start.truncate(8 + bytes.len());
        assert_eq!(receive(&start, start.len()).0, [Refused(1007)], "{what}, in one read");
        // The last byte in a fragment of its own, that announces more.
        let (before, last) = bytes.split_at(bytes.len() - 1);
        let fragments = frames(&[(0x01, before), (0x00, &[last, &[b'x'; 100]].concat())]);
        let (got, came) = receive(&fragments, 1);
        assert_eq!((got, came), (vec![Refused(1007)], 6 + before.len() + 6 + 1), "{what}, in fragments");
    }
}

#[test]
fn nothing_is_decoded_behind_an_error() {
    let bytes = [frame(0x81, b"a"), frame(0x83, b""), frame(0x81, b"b")].concat();
    for step in [1, 5, 100] {
        assert_eq!(receive(&bytes, step).0, [text("a"), Refused(1002)]);
    }
}

#[test]
fn errors_are_told_in_plain_words() {
    assert_eq!(WsError::InvalidUtf8.to_string(), "text is not UTF-8");
    assert_eq!(WsError::TooLarge.close_code(), 1009);
}
