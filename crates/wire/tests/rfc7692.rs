#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
//! RFC 7692: the examples of section 7.2.3, and what a hostile peer may send instead.

use proptest::prelude::*;
use tidegate_wire::websocket::{
    Decoder, Deflater, Inflater, Message, Opcode, Role, WsError, encode_compressed_header, encode_header,
};

const MOST: usize = 100_000;

/// Decodes a server's frames, cut into chunks, and inflates what is compressed.
fn receive(bytes: &[u8], step: usize) -> (Vec<Vec<u8>>, Option<WsError>) {
    let mut decoder = Decoder::new(Role::Client, MOST);
    decoder.allow_deflate();
    let mut inflater = Inflater::default();
    let mut messages = Vec::new();
    let mut kept = Vec::new();
    for chunk in bytes.chunks(step.max(1)) {
        kept.extend_from_slice(chunk);
        loop {
            let decoded = match decoder.decode(&mut kept) {
                Ok(decoded) => decoded,
                Err(error) => return (messages, Some(error)),
            };
            match decoded.message {
                Some(Message::Compressed { opcode, payload }) => {
                    let mut out = Vec::new();
                    if let Err(error) = inflater.inflate(payload, MOST, &mut out) {
                        return (messages, Some(error));
                    }
                    if opcode == Opcode::Text && std::str::from_utf8(&out).is_err() {
                        return (messages, Some(WsError::InvalidUtf8));
                    }
                    messages.push(out);
                }
                Some(Message::Text(text)) => messages.push(text.as_bytes().to_vec()),
                Some(Message::Binary(bytes) | Message::Ping(bytes) | Message::Pong(bytes)) => {
                    messages.push(bytes.to_vec())
                }
                Some(Message::Close(_)) | None => {}
            }
            match decoded.consumed {
                0 => break,
                consumed => drop(kept.drain(..consumed)),
            }
        }
    }
    (messages, None)
}

const HELLO: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";

#[test]
fn the_examples_of_the_rfc_are_hello() {
    let cases: [(&str, &[u8]); 7] = [
        ("7.2.3.1 one block", b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00"),
        ("7.2.3.1 in two fragments", b"\x41\x03\xf2\x48\xcd\x80\x04\xc9\xc9\x07\x00"),
        ("7.2.3.3 stored", b"\xc1\x0b\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"),
        ("7.2.3.4 a final block", b"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00"),
        ("7.2.3.5 two blocks", b"\xc1\x0d\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"),
        ("uncompressed", b"\x81\x05Hello"),
        ("a ping between its fragments", b"\x41\x03\xf2\x48\xcd\x89\x00\x80\x04\xc9\xc9\x07\x00"),
    ];
    for (what, bytes) in cases {
        for step in 1..=bytes.len() {
            let (mut messages, error) = receive(bytes, step);
            messages.retain(|message| !message.is_empty());
            assert_eq!((messages, error), (vec![b"Hello".to_vec()], None), "{what}, {step} bytes at once");
        }
    }
    assert_eq!(receive(b"\xc1\x01\x00", 9), (vec![vec![]], None), "7.2.3.6 an empty message");
    assert_eq!(receive(b"\xc1\x00", 9), (vec![vec![]], None), "the same without its block");
}

#[test]
fn a_message_that_leans_on_the_one_before_is_refused() {
    // Section 7.2.3.2, after "Hello"; each side has agreed not to take its context over.
    let bytes = [b"\xc1\x07", HELLO, b"\xc1\x05\xf2\x00\x11\x00\x00"].concat();
    assert_eq!(receive(&bytes, 99), (vec![b"Hello".to_vec()], Some(WsError::InvalidDeflate)));
}

#[test]
fn rsv1_is_the_first_data_frames_alone() {
    for (what, bytes) in [
        ("on a continuation", &b"\x41\x03\xf2\x48\xcd\xc0\x04"[..]),
        ("on a ping", b"\xc9\x00"),
        ("on a pong", b"\xca\x00"),
        ("on a close", b"\xc8\x00"),
        ("with RSV2", b"\xe1\x00"),
        ("on a reserved opcode", b"\xc3\x00"),
    ] {
        for step in [1, 99] {
            assert_eq!(receive(bytes, step), (vec![], Some(WsError::ReservedBits)), "{what}");
        }
    }
    let mut plain = Decoder::new(Role::Client, MOST);
    assert_eq!(plain.decode(&mut b"\xc1\x07".to_vec()), Err(WsError::ReservedBits), "without an agreement");
}

#[test]
fn what_does_not_inflate_is_refused() {
    for (what, payload) in [
        ("a reserved block type", &b"\x06\x00"[..]),
        ("a stored block with a wrong length", b"\x00\x05\x00\xfa\xfe\x48"),
        ("a distance beyond the start", b"\x02\x00\x11\x00\x00"),
        ("too many codes", b"\xfc\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("rubbish", b"\xff\xff\xff\xff\xff\xff"),
    ] {
        let frame = [&[0xc1, u8::try_from(payload.len()).unwrap()], payload].concat();
        assert_eq!(receive(&frame, 99), (vec![], Some(WsError::InvalidDeflate)), "{what}");
        // The decompressor serves the next message.
        assert_eq!(receive(&[b"\xc1\x07", HELLO].concat(), 99).1, None);
    }
    let bad_text = [&b"\xc1\x08\x00\x02\x00\xfd\xff\xc3\x28\x00"[..]].concat();
    assert_eq!(receive(&bad_text, 99), (vec![], Some(WsError::InvalidUtf8)));
    assert_eq!(WsError::InvalidDeflate.close_code(), 1007);
}

fn deflated(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(Deflater::default().deflate(message, &mut out));
    out
}

#[test]
fn a_bomb_is_refused_at_the_limit_and_in_bounded_memory() {
    let bomb = deflated(&vec![0; 16 << 20]);
    assert!(bomb.len() < MOST, "{} bytes pass the decoder", bomb.len());
    let mut out = Vec::new();
    assert_eq!(Inflater::default().inflate(&bomb, MOST, &mut out), Err(WsError::TooLarge));
    assert!(out.capacity() <= 4 * MOST, "{}", out.capacity());
}

#[test]
fn a_message_of_just_the_limit_is_taken() {
    let mut inflater = Inflater::default();
    for size in [MOST - 1, MOST, MOST + 1] {
        let mut out = b"before".to_vec();
        let result = inflater.inflate(&deflated(&vec![b'x'; size]), MOST, &mut out);
        assert_eq!(result.is_ok(), size <= MOST, "{size}");
        assert!(size > MOST || out.len() == size + 6);
    }
}

#[test]
fn a_message_that_was_cut_short_is_refused() {
    let message: Vec<u8> = (0..2_000).flat_map(|n: u32| n.to_string().into_bytes()).collect();
    let payload = deflated(&message);
    for cut in 1..payload.len() {
        let result = Inflater::default().inflate(&payload[..cut], MOST, &mut Vec::new());
        assert_eq!(result, Err(WsError::InvalidDeflate), "{cut} of {} bytes", payload.len());
    }
}

#[test]
fn nothing_of_an_earlier_message_can_be_had() {
    let mut inflater = Inflater::default();
    let secret = b"another connection's message, which is nobody else's business".repeat(100);
    inflater.inflate(&deflated(&secret), MOST, &mut Vec::new()).unwrap();
    // A match of three bytes at each distance, as the first thing in a block with fixed codes.
    for distance_code in 0..30u32 {
        let code = (distance_code as u8).reverse_bits() >> 3;
        // Block header 010, length code 257 (0000001), the distance's code, and zeros for its extra bits.
        let bits: u64 = 0b010 | (1 << 9) | (u64::from(code) << 10);
        let mut out = Vec::new();
        let result = inflater.inflate(&bits.to_le_bytes(), MOST, &mut out);
        assert_eq!(result, Err(WsError::InvalidDeflate), "distance code {distance_code}");
    }
}

#[test]
fn blocks_may_follow_a_final_one() {
    // Three final blocks, the last of them as in section 7.2.3.4.
    let payload = [&b"\xf3\x48\xcd\xc9\xc9\x07\x00"[..], b"\x03\x00", b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00"].concat();
    let mut out = Vec::new();
    assert_eq!(Inflater::default().inflate(&payload, MOST, &mut out), Ok(()));
    assert_eq!(out, b"HelloHello");
}

#[test]
fn a_message_of_very_many_empty_blocks_is_refused() {
    // Empty blocks with fixed codes: 010 and seven zeros, ten bits each.
    let mut fixed = vec![0u8; 50_000];
    for at in (1..fixed.len() * 8).step_by(10) {
        fixed[at / 8] |= 1 << (at % 8);
    }
    for (what, payload) in [
        ("fixed codes", fixed),
        ("final blocks", b"\x03\x00".repeat(25_000)),
        ("stored blocks", b"\x00\x00\x00\xff\xff".repeat(10_000)),
    ] {
        let result = Inflater::default().inflate(&payload, MOST, &mut Vec::new());
        assert_eq!(result, Err(WsError::InvalidDeflate), "{what}");
    }
    // A sender that flushes again and again is not refused.
    let flushed = [&[HELLO, b"\x00\x00\xff\xff"].concat().repeat(29), HELLO].concat();
    let mut out = Vec::new();
    assert_eq!(Inflater::default().inflate(&flushed, MOST, &mut out), Ok(()));
    assert_eq!(out.len(), 30 * 5);
}

#[test]
fn what_would_not_shrink_is_not_compressed() {
    let mut out = b"before".to_vec();
    let mut deflater = Deflater::default();
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let noise: Vec<u8> = (0..5_000)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()[3]
        })
        .collect();
    for message in [&b""[..], b"a", b"short", &noise] {
        assert!(!deflater.deflate(message, &mut out), "{} bytes", message.len());
        assert_eq!(out, b"before");
    }
    assert!(deflater.deflate(&[b'x'; 100], &mut out));
    assert!(out.len() < 40);
}

#[test]
fn a_decoder_that_knows_compression_is_no_larger() {
    assert!(size_of::<Decoder>() <= 32, "{}", size_of::<Decoder>());
}

proptest! {
    #[test]
    fn a_message_comes_back_as_it_was(
        messages in prop::collection::vec(prop_oneof![
            "[a-f ]{0,3000}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..300),
            (any::<u8>(), 0usize..MOST).prop_map(|(byte, len)| vec![byte; len]),
        ], 1..6),
        step in 1usize..5_000,
    ) {
        let mut deflater = Deflater::default();
        let mut bytes = Vec::new();
        for message in &messages {
            let mut out = Vec::new();
            if deflater.deflate(message, &mut out) {
                prop_assert!(out.len() < message.len());
                encode_compressed_header(&mut bytes, Opcode::Binary, out.len() as u64);
                bytes.extend(out);
            } else {
                encode_header(&mut bytes, Opcode::Binary, true, message.len() as u64);
                bytes.extend(message);
            }
        }
        prop_assert_eq!(receive(&bytes, step), (messages, None));
    }

    #[test]
    fn any_bytes_inflate_or_do_not_and_never_beyond_the_limit(
        payload in prop::collection::vec(any::<u8>(), 0..500),
        most in 0usize..2_000,
    ) {
        let mut out = Vec::new();
        if Inflater::default().inflate(&payload, most, &mut out).is_ok() {
            prop_assert!(out.len() <= most);
        }
    }
}
