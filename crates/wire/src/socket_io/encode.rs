use crate::json::write_string;

/// Appends an event. `args` is raw JSON, separated by commas, and may be empty; `trailing` becomes one more argument, a
/// string (the offset that recovery needs).
pub fn event(out: &mut Vec<u8>, namespace: &str, ack_id: Option<u64>, event: &str, args: &str, trailing: Option<&str>) {
    out.push(b'2');
    event_body(out, namespace, ack_id, event, args, trailing);
}

/// Appends an event whose `attachments` follow as binary messages; `args` has their placeholders.
pub fn binary_event(
    out: &mut Vec<u8>,
    attachments: usize,
    namespace: &str,
    ack_id: Option<u64>,
    event: &str,
    args: &str,
    trailing: Option<&str>,
) {
    out.push(b'5');
    count(out, attachments);
    event_body(out, namespace, ack_id, event, args, trailing);
}

/// Appends an ack. `args` is raw JSON, separated by commas, and may be empty.
pub fn ack(out: &mut Vec<u8>, namespace: &str, ack_id: u64, args: &str) {
    out.push(b'3');
    ack_body(out, namespace, ack_id, args);
}

/// Appends an ack whose `attachments` follow as binary messages; `args` has their placeholders.
pub fn binary_ack(out: &mut Vec<u8>, attachments: usize, namespace: &str, ack_id: u64, args: &str) {
    out.push(b'6');
    count(out, attachments);
    ack_body(out, namespace, ack_id, args);
}

/// Appends a CONNECT. `json` is an object, or empty.
pub fn connect(out: &mut Vec<u8>, namespace: &str, json: &str) {
    out.push(b'0');
    space(out, namespace);
    out.extend_from_slice(json.as_bytes());
}

/// Appends a CONNECT_ERROR. `json` is an object with a `message`, or a string.
pub fn connect_error(out: &mut Vec<u8>, namespace: &str, json: &str) {
    out.push(b'4');
    space(out, namespace);
    out.extend_from_slice(json.as_bytes());
}

/// Appends a DISCONNECT.
pub fn disconnect(out: &mut Vec<u8>, namespace: &str) {
    out.push(b'1');
    space(out, namespace);
}

fn event_body(
    out: &mut Vec<u8>,
    namespace: &str,
    ack_id: Option<u64>,
    event: &str,
    args: &str,
    trailing: Option<&str>,
) {
    out.reserve(namespace.len() + event.len() + args.len() + trailing.map_or(0, str::len) + 32);
    space(out, namespace);
    if let Some(id) = ack_id {
        out.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
    }
    out.push(b'[');
    write_string(out, event);
    if !args.is_empty() {
        out.push(b',');
        out.extend_from_slice(args.as_bytes());
    }
    if let Some(trailing) = trailing {
        out.push(b',');
        write_string(out, trailing);
    }
    out.push(b']');
}

fn ack_body(out: &mut Vec<u8>, namespace: &str, ack_id: u64, args: &str) {
    out.reserve(namespace.len() + args.len() + 32);
    space(out, namespace);
    out.extend_from_slice(itoa::Buffer::new().format(ack_id).as_bytes());
    out.push(b'[');
    out.extend_from_slice(args.as_bytes());
    out.push(b']');
}

fn space(out: &mut Vec<u8>, namespace: &str) {
    if namespace != "/" {
        out.extend_from_slice(namespace.as_bytes());
        out.push(b',');
    }
}

fn count(out: &mut Vec<u8>, attachments: usize) {
    out.extend_from_slice(itoa::Buffer::new().format(attachments).as_bytes());
    out.push(b'-');
}
