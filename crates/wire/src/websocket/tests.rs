use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug, PartialEq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Message<'_>> for Owned {
    fn from(message: Message<'_>) -> Self {
        match message {
            Message::Text(text) => Self::Text(text.to_owned()),
            Message::Binary(bytes) => Self::Binary(bytes.to_owned()),
            Message::Ping(bytes) => Self::Ping(bytes.to_owned()),
            Message::Pong(bytes) => Self::Pong(bytes.to_owned()),
            Message::Close(close) => Self::Close(close.map(|(code, reason)| (code, reason.to_owned()))),
            Message::Compressed { .. } => panic!("nothing was agreed"),
        }
    }
}

/// Reads the chunks as a connection does: what is not consumed is kept, and more is put behind it.
fn receive<'a>(decoder: &mut Decoder, chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Owned>, Option<WsError>) {
    let mut messages = Vec::new();
    let mut kept = Vec::new();
    for chunk in chunks {
        kept.extend_from_slice(chunk);
        loop {
            let decoded = match decoder.decode(&mut kept) {
                Ok(decoded) => decoded,
                Err(error) => return (messages, Some(error)),
            };
            messages.extend(decoded.message.map(Owned::from));
            let consumed = decoded.consumed;
            if consumed == 0 {
                break;
            }
            kept.drain(..consumed);
        }
    }
    (messages, None)
}

fn frame(out: &mut Vec<u8>, opcode: Opcode, fin: bool, payload: &[u8]) {
    encode_header(out, opcode, fin, payload.len() as u64);
    out.extend_from_slice(payload);
}

#[test]
fn a_decoder_is_small() {
    assert!(size_of::<Decoder>() <= 32, "{}", size_of::<Decoder>());
}

#[test]
fn a_message_in_one_frame_is_borrowed_from_the_input() {
    let mut bytes = Vec::new();
    encode_masked(&mut bytes, Opcode::Text, b"hello", [1, 2, 3, 4]);
    let range = bytes.as_ptr_range();
    let mut decoder = Decoder::new(Role::Server, 100);
    let Ok(Decoded { consumed: 11, message: Some(Message::Text(text)) }) = decoder.decode(&mut bytes) else {
        panic!("a text message of 11 bytes");
    };
    assert!(range.contains(&text.as_ptr()));
}

#[test]
fn lengths_are_written_in_their_shortest_form_and_read_back() {
    for (len, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10), (200_000, 10)] {
        let mut bytes = Vec::new();
        frame(&mut bytes, Opcode::Binary, true, &vec![7; len]);
        assert_eq!(bytes.len(), header + len);
        let mut decoder = Decoder::new(Role::Client, 200_000);
        let decoded = decoder.decode(&mut bytes).unwrap();
        assert_eq!(decoded.consumed, header + len);
        assert_eq!(decoded.message, Some(Message::Binary(&vec![7; len])));
    }
}

#[test]
fn the_size_of_an_incomplete_frame_is_told_once_its_header_is_there() {
    let mut bytes = Vec::new();
    encode_masked(&mut bytes, Opcode::Binary, &[7; 1_000], [1, 2, 3, 4]);
    let mut decoder = Decoder::new(Role::Server, 1_000);
    for (len, needed) in [(0, None), (1, None), (4, None), (7, None), (8, Some(1_008)), (1_007, Some(1_008))] {
        let mut part = bytes[..len].to_vec();
        assert_eq!(decoder.decode(&mut part), Ok(Decoded { consumed: 0, message: None }));
        assert_eq!(decoder.needed(), needed, "after {len} bytes");
    }
    assert_eq!(decoder.decode(&mut bytes).unwrap().consumed, 1_008);
    assert_eq!(decoder.needed(), None);
}

#[test]
fn a_message_from_fragments_is_freed_when_it_is_released() {
    let mut bytes = Vec::new();
    frame(&mut bytes, Opcode::Text, false, b"a");
    frame(&mut bytes, Opcode::Continuation, true, b"b");
    let mut decoder = Decoder::new(Role::Client, 100);
    assert_eq!(decoder.decode(&mut bytes).map(|decoded| decoded.consumed), Ok(3));
    decoder.release();
    let decoded = decoder.decode(&mut bytes[3..]).unwrap();
    assert_eq!(decoded, Decoded { consumed: 3, message: Some(Message::Text("ab")) });
    decoder.release();
    assert!(format!("{decoder:?}").contains("fragments: None"));
    // And a continuation after it belongs to nothing.
    let mut stray = vec![0x80, 0];
    assert_eq!(decoder.decode(&mut stray), Err(WsError::UnexpectedContinuation));
}

#[test]
fn bad_text_is_refused_at_the_fragment_that_spoils_it() {
    let mut bytes = Vec::new();
    frame(&mut bytes, Opcode::Text, false, b"ok \xe2\x82");
    frame(&mut bytes, Opcode::Continuation, false, b"\xac ok \xf0\x9f");
    frame(&mut bytes, Opcode::Ping, true, b"");
    frame(&mut bytes, Opcode::Continuation, false, b"\x41");
    let (messages, error) = receive(&mut Decoder::new(Role::Client, 100), [&*bytes]);
    assert_eq!(messages, [Owned::Ping(vec![])]);
    assert_eq!(error, Some(WsError::InvalidUtf8));
}

#[test]
fn endless_empty_fragments_keep_nothing() {
    let mut decoder = Decoder::new(Role::Client, 100);
    decoder.decode(&mut [0x01, 0]).unwrap();
    for _ in 0..10_000 {
        decoder.decode(&mut [0x00, 0]).unwrap();
    }
    assert_eq!(decoder.decode(&mut [0x80, 0]).unwrap().message, Some(Message::Text("")));
}

#[test]
fn a_ping_is_taken_however_small_the_messages_must_be() {
    let mut bytes = Vec::new();
    frame(&mut bytes, Opcode::Ping, true, &[7; 125]);
    let (messages, error) = receive(&mut Decoder::new(Role::Client, 0), [&*bytes]);
    assert_eq!((messages, error), (vec![Owned::Ping(vec![7; 125])], None));
}

#[test]
fn every_close_code_is_judged_as_registered() {
    for code in 0..=u16::MAX {
        let mut bytes = Vec::new();
        frame(&mut bytes, Opcode::Close, true, &close_payload(code, ""));
        let valid = (1000..=1003).contains(&code) || (1007..=1014).contains(&code) || (3000..5000).contains(&code);
        let expected = if valid { Ok(Some(Message::Close(Some((code, ""))))) } else { Err(WsError::InvalidClose) };
        let mut decoder = Decoder::new(Role::Client, 100);
        assert_eq!(decoder.decode(&mut bytes).map(|decoded| decoded.message), expected, "{code}");
    }
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let payload = close_payload(1000, &"é".repeat(100));
    assert_eq!(payload.len(), 2 + 122);
    assert!(std::str::from_utf8(&payload[2..]).is_ok());
    assert_eq!(close_payload(1000, "bye"), b"\x03\xe8bye");
}

/// A message with the sizes that its payload is fragmented into.
fn any_message() -> impl Strategy<Value = (Owned, Vec<usize>)> {
    let payload = prop::collection::vec(any::<u8>(), 0..400);
    let short = prop::collection::vec(any::<u8>(), 0..=125);
    let message = prop_oneof![
        any::<String>().prop_map(Owned::Text),
        "[é€😀a]{0,60}".prop_map(Owned::Text),
        payload.prop_map(Owned::Binary),
        short.clone().prop_map(Owned::Ping),
        short.prop_map(Owned::Pong),
    ];
    (message, prop::collection::vec(0usize..50, 0..5))
}

fn encode(message: &Owned, sizes: &[usize], mask: Option<[u8; 4]>) -> Vec<u8> {
    let (opcode, payload) = match message {
        Owned::Text(text) => (Opcode::Text, text.as_bytes()),
        Owned::Binary(bytes) => (Opcode::Binary, &**bytes),
        Owned::Ping(bytes) => (Opcode::Ping, &**bytes),
        Owned::Pong(bytes) => (Opcode::Pong, &**bytes),
        Owned::Close(_) => panic!("not generated"),
    };
    let mut out = Vec::new();
    let mut rest = payload;
    let mut next = opcode;
    if !opcode.is_control() {
        for size in sizes {
            let (fragment, behind) = rest.split_at((*size).min(rest.len()));
            put(&mut out, next, false, fragment, mask);
            next = Opcode::Continuation;
            rest = behind;
        }
    }
    put(&mut out, next, true, rest, mask);
    out
}

fn put(out: &mut Vec<u8>, opcode: Opcode, fin: bool, payload: &[u8], mask: Option<[u8; 4]>) {
    let start = out.len();
    match mask {
        None => frame(out, opcode, fin, payload),
        Some(mask) => {
            encode_masked(out, opcode, payload, mask);
            out[start] &= if fin { 0xff } else { 0x7f };
        }
    }
}

proptest! {
    #[test]
    fn messages_survive_fragments_masks_and_cuts(
        messages in prop::collection::vec(any_message(), 1..6),
        mask in any::<Option<[u8; 4]>>(),
        cuts in prop::collection::vec(1usize..64, 1..40),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(message, sizes)| encode(message, sizes, mask)).collect();
        let mut chunks = Vec::new();
        let mut rest = &*bytes;
        for cut in cuts {
            let (chunk, behind) = rest.split_at(cut.min(rest.len()));
            chunks.push(chunk);
            rest = behind;
        }
        chunks.push(rest);
        let role = if mask.is_some() { Role::Server } else { Role::Client };
        let expected: Vec<Owned> = messages.into_iter().map(|(message, _)| message).collect();
        prop_assert_eq!(receive(&mut Decoder::new(role, 10_000), chunks), (expected, None));
    }

    #[test]
    fn masking_twice_changes_nothing_and_once_follows_the_rfc(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        mask in any::<[u8; 4]>(),
    ) {
        let mut masked = payload.clone();
        encode::apply_mask(&mut masked, mask);
        let slow: Vec<u8> = payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
        prop_assert_eq!(&masked, &slow);
        encode::apply_mask(&mut masked, mask);
        prop_assert_eq!(masked, payload);
    }

    #[test]
    fn any_bytes_give_the_same_however_they_are_cut(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(1), Just(0x80), Just(0x81), Just(0x89)], 0..200),
        step in 1usize..20,
        server in any::<bool>(),
    ) {
        let role = if server { Role::Server } else { Role::Client };
        let whole = receive(&mut Decoder::new(role, 64), [&*bytes]);
        let cut = receive(&mut Decoder::new(role, 64), bytes.chunks(step));
        prop_assert_eq!(whole, cut);
    }
}
