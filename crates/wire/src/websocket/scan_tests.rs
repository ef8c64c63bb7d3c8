use proptest::prelude::*;

use super::*;

/// What a scanner saw, with payloads.
#[derive(Clone, Debug, PartialEq)]
enum Thing {
    Message(Opcode, u64),
    Control(Opcode, Vec<u8>),
}

/// Scans the chunks; the frames' headers are left out.
fn scan<'a>(scanner: &mut Scanner, chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Thing>, Option<WsError>) {
    let mut things = Vec::new();
    for chunk in chunks {
        let mut rest = chunk;
        loop {
            let scanned = match scanner.scan(rest) {
                Ok(scanned) => scanned,
                Err(error) => return (things, Some(error)),
            };
            rest = &rest[scanned.consumed..];
            match scanned.seen {
                None => break,
                Some(Seen::Frame { .. }) => {}
                Some(Seen::Message { opcode, size }) => things.push(Thing::Message(opcode, size)),
                Some(Seen::Control { opcode, payload, .. }) => things.push(Thing::Control(opcode, payload.to_vec())),
            }
        }
        assert!(rest.is_empty(), "all is consumed when nothing is seen");
    }
    (things, None)
}

/// The same by the decoder, which keeps what is incomplete.
fn decode(role: Role, bytes: &[u8]) -> (Vec<Thing>, Option<WsError>, usize) {
    let mut decoder = Decoder::new(role, 1 << 20);
    let mut kept = bytes.to_vec();
    let mut things = Vec::new();
    loop {
        let decoded = match decoder.decode(&mut kept) {
            Ok(decoded) => decoded,
            Err(error) => return (things, Some(error), kept.len()),
        };
        things.extend(decoded.message.map(|message| match message {
            Message::Text(text) => Thing::Message(Opcode::Text, text.len() as u64),
            Message::Binary(bytes) => Thing::Message(Opcode::Binary, bytes.len() as u64),
            Message::Ping(payload) => Thing::Control(Opcode::Ping, payload.to_vec()),
            Message::Pong(payload) => Thing::Control(Opcode::Pong, payload.to_vec()),
            Message::Close(None) => Thing::Control(Opcode::Close, Vec::new()),
            Message::Close(Some((code, reason))) => Thing::Control(Opcode::Close, close_payload(code, reason)),
            Message::Compressed { .. } => panic!("nothing was agreed"),
        }));
        let consumed = decoded.consumed;
        if consumed == 0 {
            return (things, None, kept.len());
        }
        kept.drain(..consumed);
    }
}

fn strict(role: Role) -> Scanner {
    Scanner::new(Rules::Strict { role, deflate: false })
}

/// A frame with any bits.
fn raw(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = Vec::new();
    match mask {
        Some(mask) => encode_masked(&mut out, Opcode::Binary, payload, mask),
        None => {
            encode_header(&mut out, Opcode::Binary, true, payload.len() as u64);
            out.extend_from_slice(payload);
        }
    }
    out[0] = first;
    out
}

#[test]
fn watching_costs_little_memory() {
    assert!(size_of::<Boundaries>() <= 24, "{}", size_of::<Boundaries>());
    assert!(size_of::<Scanner>() <= 216, "{}", size_of::<Scanner>());
}

#[test]
fn a_frame_is_told_before_its_payload_and_its_message_at_the_end() {
    let mut bytes = raw(0x01, &[b'a'; 200], Some([1, 2, 3, 4]));
    bytes.extend(raw(0x89, b"still there", Some([5; 4])));
    bytes.extend(raw(0x80, &[b'b'; 70_000], Some([9, 8, 7, 6])));
    let mut scanner = strict(Role::Server);
    let first = Seen::Frame { opcode: Opcode::Text, first: true, size: 200 };
    assert_eq!(scanner.scan(&bytes), Ok(Scanned { consumed: 8, seen: Some(first) }));
    assert_eq!((scanner.boundary(), scanner.at_boundary()), (0, false));
    let ping = Seen::Control { opcode: Opcode::Ping, payload: b"still there", frame: 17 };
    assert_eq!(scanner.scan(&bytes[8..]), Ok(Scanned { consumed: 200 + 17, seen: Some(ping) }));
    assert_eq!((scanner.boundary(), scanner.at_boundary()), (225, true));
    let second = Seen::Frame { opcode: Opcode::Text, first: false, size: 70_200 };
    assert_eq!(scanner.scan(&bytes[225..]), Ok(Scanned { consumed: 14, seen: Some(second) }));
    let message = Seen::Message { opcode: Opcode::Text, size: 70_200 };
    assert_eq!(scanner.scan(&bytes[239..]), Ok(Scanned { consumed: 70_000, seen: Some(message) }));
    assert_eq!(scanner.scan(&[]), Ok(Scanned { consumed: 0, seen: None }));
}

#[test]
fn each_rule_of_the_protocol_is_insisted_on_and_only_by_strict_rules() {
    let mask = Some([1, 2, 3, 4]);
    let mut inside = raw(0x01, b"a", mask);
    inside.extend(raw(0x81, b"b", mask));
    let mut long = vec![0x82, 0xfe, 0, 125];
    long.extend([0; 129]);
    for (bytes, error) in [
        (raw(0x81, b"a", None), WsError::Masking),
        (raw(0xc1, b"a", mask), WsError::ReservedBits),
        (raw(0xa1, b"a", mask), WsError::ReservedBits),
        (raw(0x83, b"a", mask), WsError::ReservedOpcode),
        (raw(0x8f, b"a", mask), WsError::ReservedOpcode),
        (raw(0x80, b"a", mask), WsError::UnexpectedContinuation),
        (inside, WsError::ExpectedContinuation),
        (raw(0x09, b"a", mask), WsError::FragmentedControl),
        (raw(0x89, &[0; 126], mask), WsError::LongControl),
        (long, WsError::Length),
        (raw(0x88, &[3], mask), WsError::InvalidClose),
        (raw(0x88, &1006u16.to_be_bytes(), mask), WsError::InvalidClose),
        (raw(0x88, b"\x03\xe8\xff", mask), WsError::InvalidUtf8),
        (raw(0x81, b"\xc0\x80", mask), WsError::InvalidUtf8),
        (raw(0x81, b"half \xe2\x82", mask), WsError::InvalidUtf8),
    ] {
        assert_eq!(scan(&mut strict(Role::Server), [&*bytes]).1, Some(error), "{bytes:?}");
        let mut scanner = strict(Role::Server);
        assert_eq!(scan(&mut scanner, bytes.chunks(1)).1, Some(error), "{bytes:?}");
        let good = if error == WsError::ExpectedContinuation { 7 } else { 0 };
        assert_eq!(scanner.boundary(), good, "where the bad frame begins");
        let mut light = Scanner::new(Rules::Light);
        assert_eq!(scan(&mut light, [&*bytes]).1, None);
        assert!(light.at_boundary());
    }
    assert_eq!(scan(&mut strict(Role::Client), [&*raw(0x81, b"a", mask)]).1, Some(WsError::Masking));
}

#[test]
fn compressed_messages_pass_where_that_was_negotiated() {
    let mut bytes = raw(0x41, b"\xff\xfe", None);
    bytes.extend(raw(0x80, b"\xff", None));
    let mut scanner = Scanner::new(Rules::Strict { role: Role::Client, deflate: true });
    assert_eq!(scan(&mut scanner, [&*bytes]), (vec![Thing::Message(Opcode::Text, 3)], None));
    for first in [0xc9, 0xa1, 0x91] {
        let mut scanner = Scanner::new(Rules::Strict { role: Role::Client, deflate: true });
        assert_eq!(scan(&mut scanner, [&*raw(first, b"", None)]).1, Some(WsError::ReservedBits));
    }
    let mut bytes = raw(0x41, b"", None);
    bytes.extend(raw(0xc0, b"", None));
    let mut scanner = Scanner::new(Rules::Strict { role: Role::Client, deflate: true });
    assert_eq!(scan(&mut scanner, [&*bytes]).1, Some(WsError::ReservedBits), "only a message's first frame says it");
}

#[test]
fn bad_text_is_found_before_its_frame_has_ended() {
    let mut bytes = raw(0x81, &[b'a'; 5_000], Some([7, 1, 9, 3]));
    bytes[2_000] ^= 0xff;
    assert_eq!(scan(&mut strict(Role::Server), [&bytes[..2_001]]).1, Some(WsError::InvalidUtf8));
}

#[test]
fn a_length_beyond_measure_stays_within_one_frame() {
    let mut boundaries = Boundaries::new();
    assert_eq!(boundaries.feed(&[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4]), Some(0));
    assert_eq!(boundaries.feed(&[0; 1000]), None);
    let mut scanner = Scanner::new(Rules::Light);
    for _ in 0..3 {
        scan(&mut scanner, [&[0x02, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4][..]]);
    }
    assert!(!scanner.at_boundary());
}

/// Frames as peers send them, a few of them broken.
fn any_stream(masked: bool) -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => "[é€😀a]{0,60}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..150),
        1 => Just(vec![b'x'; 3_000]),
    ];
    let mask = if masked { any::<[u8; 4]>().prop_map(Some).boxed() } else { Just(None).boxed() };
    let frame = (first, payload, mask).prop_map(|(first, mut payload, mask)| {
        if first & 0x08 != 0 {
            payload.truncate(125);
        }
        raw(first, &payload, mask)
    });
    (prop::collection::vec(frame, 0..8), 0usize..30).prop_map(|(frames, cut)| {
        let mut bytes = frames.concat();
        bytes.truncate(bytes.len().saturating_sub(cut));
        bytes
    })
}

proptest! {
    #[test]
    fn strict_rules_are_those_of_the_decoder(
        (server, bytes) in any::<bool>().prop_flat_map(|server| (Just(server), any_stream(server))),
        step in 1usize..200,
    ) {
        let role = if server { Role::Server } else { Role::Client };
        let (expected, error, kept) = decode(role, &bytes);
        let mut scanner = strict(role);
        let (things, found) = scan(&mut scanner, bytes.chunks(step));
        prop_assert_eq!(things, expected);
        prop_assert_eq!(found, error);
        if error.is_none() {
            prop_assert_eq!(scanner.boundary(), (bytes.len() - kept) as u64);
            prop_assert_eq!(scanner.at_boundary(), kept == 0);
        }
    }

    #[test]
    fn light_rules_see_the_same_in_good_streams(bytes in any_stream(true), step in 1usize..200) {
        let (expected, error, _) = decode(Role::Server, &bytes);
        prop_assume!(error.is_none());
        prop_assert_eq!(scan(&mut Scanner::new(Rules::Light), bytes.chunks(step)), (expected, None));
    }

    #[test]
    fn boundaries_are_where_frames_end_however_the_bytes_are_cut(
        bytes in prop_oneof![any_stream(true), any_stream(false), prop::collection::vec(any::<u8>(), 0..400)],
        cuts in prop::collection::vec(1usize..100, 0..20),
    ) {
        let mut boundaries = Boundaries::new();
        let mut scanner = Scanner::new(Rules::Light);
        let mut rest = &*bytes;
        let mut before = 0;
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (chunk, behind) = rest.split_at(cut.min(rest.len()));
            scan(&mut scanner, [chunk]);
            let mut first = boundaries;
            let last = usize::try_from(scanner.boundary()).unwrap().checked_sub(before);
            prop_assert_eq!(boundaries.feed(chunk), last);
            match first.finish(chunk) {
                // What is behind the first one leads to the same last one.
                Some(at) => prop_assert_eq!(first.feed(&chunk[at..]).map(|more| at + more), last),
                None => prop_assert_eq!(last, None),
            }
            prop_assert_eq!(first, boundaries);
            before += chunk.len();
            prop_assert_eq!(boundaries.at_boundary(), scanner.at_boundary());
            rest = behind;
        }
    }
}
