//! However a PROXY header is cut, the verdict is the same; what was read is written and read again to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_rules::proxy_protocol::{MAX_BYTES, Progress, ProxyHeader, ProxyVersion};

fuzz_target!(|data: &[u8]| {
    let whole = ProxyHeader::parse(data);
    for cut in 0..data.len().min(300) {
        match ProxyHeader::parse(&data[..cut]) {
            Ok(Progress::Incomplete) => {}
            earlier => assert_eq!(earlier, whole),
        }
    }
    match whole {
        Ok(Progress::Complete { header, length }) => {
            assert!(length <= MAX_BYTES && length <= data.len());
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let mut bytes = Vec::new();
                header.encode(version, &mut bytes);
                assert_eq!(ProxyHeader::parse(&bytes), Ok(Progress::Complete { header, length: bytes.len() }));
            }
        }
        Ok(Progress::Incomplete) => assert!(data.len() < MAX_BYTES),
        Err(_) => {}
    }
});
