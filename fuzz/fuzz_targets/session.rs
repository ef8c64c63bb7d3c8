//! A session takes any packets: it hands events on whose values are all there, or closes, and keeps no more bytes than
//! one message may have.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_session::{Input, Session, Settings, Transport};
use tidegate_wire::engine_io::Packet;
use tidegate_wire::socket_io;

/// Ends a packet of the input; no client text has it.
const END: u8 = 0xff;

fuzz_target!(|data: &[u8]| {
    let settings = Settings { max_payload_bytes: 256, ..Settings::default() };
    let mut session = Session::open(Transport::WebSocket, 1);
    for part in data.split(|byte| *byte == END) {
        let packet = match part.split_first() {
            Some((b'b', bytes)) => Packet::Binary(Bytes::copy_from_slice(bytes)),
            Some((b'1', _)) => Packet::Close,
            Some((b'3', _)) => Packet::Pong(""),
            Some((b'4', text)) => match std::str::from_utf8(text) {
                Ok(text) => Packet::Message(text),
                Err(_) => continue,
            },
            Some(_) | None => Packet::Noop,
        };
        match session.receive(packet, &settings) {
            Err(_) | Ok(Input::Close) => return,
            Ok(Input::Connect { namespace, .. }) => session.accept(namespace),
            Ok(Input::Event { payload, attachments, namespace, .. }) => {
                assert!(session.is_connected(&namespace));
                assert!(attachments.iter().map(Bytes::len).sum::<usize>() <= settings.max_payload_bytes);
                socket_io::event_parts(&payload).expect("validated");
                // What looks like a placeholder in a text event is an application's own; whoever publishes it defuses it.
                if !attachments.is_empty() {
                    assert_eq!(socket_io::check_placeholders(&payload, attachments.len()), Ok(()));
                }
            }
            Ok(Input::Ack { payload, attachments, .. }) if !attachments.is_empty() => {
                assert_eq!(socket_io::check_placeholders(&payload, attachments.len()), Ok(()));
            }
            Ok(Input::Disconnect { namespace }) => assert!(!session.is_connected(&namespace)),
            Ok(Input::Nothing | Input::Ack { .. }) => {}
        }
        assert!(session.namespaces().len() <= settings.max_namespaces);
    }
});
