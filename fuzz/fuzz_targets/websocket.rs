//! Any bytes, cut anywhere, give the same messages and the same end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_wire::websocket::{Decoder, Role, WsError};

const MAX_MESSAGE: usize = 4_096;

fn receive(role: Role, bytes: &[u8], step: usize) -> (Vec<String>, Option<WsError>) {
    let mut decoder = Decoder::new(role, MAX_MESSAGE);
    let (mut messages, mut kept) = (Vec::new(), Vec::new());
    for chunk in bytes.chunks(step) {
        kept.extend_from_slice(chunk);
        loop {
            let decoded = match decoder.decode(&mut kept) {
                Ok(decoded) => decoded,
                Err(error) => return (messages, Some(error)),
            };
            messages.extend(decoded.message.map(|message| format!("{message:?}")));
            let consumed = decoded.consumed;
            if consumed == 0 {
                break;
            }
            kept.drain(..consumed);
        }
        if let Some(needed) = decoder.needed() {
            assert!(needed > kept.len() && needed <= MAX_MESSAGE + 14);
        }
    }
    (messages, None)
}

fuzz_target!(|data: &[u8]| {
    let [first, bytes @ ..] = data else { return };
    if bytes.is_empty() {
        return;
    }
    let role = if first & 1 == 0 { Role::Server } else { Role::Client };
    let step = usize::from(first >> 1) + 1;
    assert_eq!(receive(role, bytes, bytes.len()), receive(role, bytes, step));
});
