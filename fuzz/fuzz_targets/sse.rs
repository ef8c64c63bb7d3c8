//! A stream gives the same events however it is cut, and the scanner counts what the parser reads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_wire::sse::{EventScanner, Parser};

fn read(bytes: &[u8], step: usize) -> (Vec<String>, u64, bool) {
    let mut parser = Parser::new(1 << 20);
    let mut scanner = EventScanner::new();
    let (mut events, mut counted) = (Vec::new(), 0);
    for chunk in bytes.chunks(step) {
        let read = parser.feed(chunk, |event| events.push(format!("{event:?}")));
        assert!(read.is_ok());
        counted += scanner.feed(chunk);
    }
    (events, counted, scanner.at_boundary())
}

fuzz_target!(|data: &[u8]| {
    let [step, bytes @ ..] = data else { return };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(whole.0.len() as u64, whole.1);
    assert_eq!(whole, read(bytes, usize::from(*step) + 1));
});
