//! What is read from a payload can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_wire::engine_io::{PayloadWriter, decode_payload};

const MAX_PACKETS: usize = 64;

fuzz_target!(|text: &str| {
    let packets: Vec<_> = decode_payload(text, MAX_PACKETS).flatten().collect();
    if packets.is_empty() {
        return;
    }
    let mut out = Vec::new();
    let mut writer = PayloadWriter::new(&mut out);
    packets.iter().for_each(|packet| writer.packet(packet));
    let again = String::from_utf8(out).expect("text");
    assert!(decode_payload(&again, MAX_PACKETS).eq(packets.into_iter().map(Ok)));
});
