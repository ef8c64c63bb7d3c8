//! Whatever a client sends in a dialect's event is understood or refused; nothing panics, and nothing refused has no reason.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use tidegate_config::{RealtimeBehaviour, Surroundings, load};
use tidegate_dialect::Dialect;

const CONFIG: &str = "[realtime.auth]\njwt_secret = \"0123456789abcdef0123456789abcdef\"\n";
const EVENTS: [&str; 9] = [
    "join_room", "leave_room", "send_message", "subscribe:case", "presence:status", "conversation:join", "message:send",
    "message:typing", "agent:connect",
];

/// The cases API and the chat API.
fn dialects() -> &'static [Arc<Dialect>] {
    static DIALECTS: OnceLock<Vec<Arc<Dialect>>> = OnceLock::new();
    DIALECTS.get_or_init(|| {
        let surroundings = Surroundings {
            variable: &|_| None,
            read_file: &|_| Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        };
        let config = load("tidegate.toml", CONFIG, surroundings).expect("a config");
        let namespaces = config.realtime.expect("realtime").namespaces;
        let dialects = namespaces.into_iter().filter_map(|namespace| match namespace.behaviour {
            RealtimeBehaviour::Dialect(dialect) => Some(dialect),
            RealtimeBehaviour::Rooms => None,
        });
        dialects.collect()
    })
}

fuzz_target!(|text: &str| {
    for dialect in dialects() {
        for event in EVENTS.iter().filter_map(|name| dialect.event(name)) {
            let (_, refusal) = dialect.read(event, text, 0);
            let _ = refusal;
        }
    }
});
