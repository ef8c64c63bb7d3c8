//! What is let in is JSON, can be taken apart, and does not make another client's parser throw.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use tidegate_wire::socket_io::{self, Kind};

fuzz_target!(|text: &str| {
    let Ok(header) = socket_io::decode(text) else { return };
    if header.payload.is_empty() {
        return;
    }
    assert!(serde_json::from_str::<&RawValue>(header.payload.trim()).is_ok());
    // Halves of surrogate pairs and numbers beyond 64-bit floats are JSON, but no values here.
    let Ok(value) = serde_json::from_str::<Value>(header.payload) else { return };
    if matches!(header.kind, Kind::Event | Kind::BinaryEvent) {
        let (_, list) = socket_io::event_parts(header.payload).expect("decoded");
        assert_eq!(socket_io::values(list).count() + 1, value.as_array().map_or(0, Vec::len));
    }
    let attachments = header.attachments as usize;
    if socket_io::check_placeholders(header.payload, attachments).is_ok() {
        let inlined = socket_io::inline_attachments(header.payload, &vec![Bytes::from_static(b"x"); attachments]);
        assert!(serde_json::from_str::<Value>(&inlined).is_ok());
        let renumbered = socket_io::renumber_placeholders(header.payload, 3);
        assert!(socket_io::check_placeholders(&renumbered, attachments + 3).is_ok());
    }
    let defused = socket_io::defuse_placeholders(header.payload);
    assert!(socket_io::check_placeholders(&defused, 0).is_ok());
});
