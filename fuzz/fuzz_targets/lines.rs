//! A client's line becomes a packet that the decoder takes or is refused with a reason; a packet becomes JSON.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_wire::lines::{self, Line};
use tidegate_wire::socket_io;

fuzz_target!(|text: &str| {
    match lines::read(text) {
        Ok(Line::Packet(packet)) => {
            if let Ok(header) = socket_io::decode(&packet) {
                // No field of a line can slip into another part of the packet.
                assert_eq!(header.attachments, 0);
            }
        }
        Ok(Line::Ping) => {}
        Err(error) => assert!(serde_json::from_str::<serde_json::Value>(&lines::error(&error)).is_ok()),
    }
    let attachments = [Bytes::from_static(b"x"), Bytes::from_static(b"y")];
    for attachments in [&attachments[..0], &attachments[..]] {
        if let Some(line) = lines::write(text, attachments) {
            assert!(serde_json::from_str::<&serde_json::value::RawValue>(&line).is_ok(), "{line}");
        }
    }
});
