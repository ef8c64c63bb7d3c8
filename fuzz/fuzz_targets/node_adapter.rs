//! Whatever stands on the channels of Node's Redis adapters is a message or refused; what was understood can be written
//! again, and reads the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_wire::node_adapter::cluster_adapter::{self, Form};
use tidegate_wire::node_adapter::{Message, redis_adapter};

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(heard) = redis_adapter::broadcast(&bytes)
        && let Message::Broadcast(broadcast) = &heard.message
        && let Ok(written) = redis_adapter::write_broadcast("u", "/", broadcast)
    {
        assert_eq!(redis_adapter::broadcast(&written.into()).expect("it was written here").message, heard.message);
    }
    if let Ok(heard) = redis_adapter::request(&bytes)
        && let Ok(Some(written)) = redis_adapter::write_request("u", "/", &heard.message)
    {
        assert_eq!(redis_adapter::request(&written.into()).expect("it was written here").message, heard.message);
    }
    if let Ok(heard) = redis_adapter::answer(&bytes) {
        let _ = redis_adapter::write_answer(&heard.message);
    }
    if let Ok(heard) = cluster_adapter::message(&bytes) {
        for form in [Form::TextIfPossible, Form::Packed] {
            let _ = cluster_adapter::write("u", "/", &heard.message, form);
        }
    }
    let fields = [(&b"type"[..], &Bytes::from_static(b"3")), (b"data", &bytes)];
    let _ = cluster_adapter::entry(fields);
});
