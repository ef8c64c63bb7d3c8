use crate::check::{amount, burst, delay, given, period, small, template};
use crate::file;
use crate::reader::Reader;
use crate::{EventStreamPolicy, Inspect, WebSocketPolicy};

pub(super) fn websocket(reader: &Reader<'_>, found: file::WebSocket, has_jwt: bool) -> WebSocketPolicy {
    let default = WebSocketPolicy::default();
    let inspect = found.inspect.as_ref().map_or(default.inspect, |given| given.value);
    let limits = [
        ("max_message", found.max_message.as_ref().filter(|given| given.value.0 > 0).map(|given| given.place)),
        (
            "messages_per_second",
            found.messages_per_second.as_ref().filter(|given| given.value > 0).map(|given| given.place),
        ),
        (
            "bytes_per_second",
            found.bytes_per_second.as_ref().filter(|given| given.value.0 > 0).map(|given| given.place),
        ),
    ];
    // A mode that cannot be read contradicts nothing.
    let off = inspect == Inspect::Off && (found.inspect.is_some() || found.lacks("inspect"));
    for (key, place) in limits {
        if let (Some(place), true) = (place, off) {
            reader.problem(place, format!("{key:?} needs messages that are looked at: set inspect = \"meter\""));
        }
    }
    let messages_per_second = small(reader, found.messages_per_second, "messages_per_second", 0, 0);
    let bytes_per_second = amount(reader, found.bytes_per_second, "bytes_per_second", 0);
    let key = given(found.key);
    if let (Some(key), 0, 0) = (&key, messages_per_second, bytes_per_second) {
        reader.problem(key.place, "\"key\" has no effect without \"messages_per_second\" or \"bytes_per_second\"");
    }
    let idle = given(found.idle_timeout);
    WebSocketPolicy {
        inspect,
        max_message: amount(reader, found.max_message, "max_message", default.max_message),
        messages_per_second,
        message_burst: burst(reader, found.message_burst, "message_burst", messages_per_second, "messages_per_second"),
        bytes_per_second,
        key: key.map(|key| template(reader, key, has_jwt)),
        ping_interval: delay(reader, found.ping_interval, "ping_interval", default.ping_interval),
        ping_timeout: period(reader, found.ping_timeout, "ping_timeout", default.ping_timeout),
        idle_timeout: idle.map(|idle| period(reader, Some(idle), "idle_timeout", std::time::Duration::ZERO)),
    }
}

pub(super) fn events(reader: &Reader<'_>, found: file::EventStream) -> EventStreamPolicy {
    let default = EventStreamPolicy::default();
    EventStreamPolicy {
        heartbeat: delay(reader, found.heartbeat, "heartbeat", default.heartbeat),
        max_life: delay(reader, found.max_life, "max_life", default.max_life),
        retry: delay(reader, found.retry, "retry", default.retry),
    }
}
