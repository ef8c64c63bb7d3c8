use std::time::Duration;

use tidegate_config::{AccessLog, Admission};
use tidegate_testkit::{Upstream, WebSocket, local};

use crate::harness::{GET_API, Gateway, config, realtime};

#[test]
fn a_wave_of_streams_is_spread_and_plain_requests_are_not_touched() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.workers = 2;
        // One more is earned in a second at the earliest; the test does not count on none.
        config.admission = Admission { streams_per_second: 1, burst: 5, retry_after: Duration::from_secs(4) };
        config.realtime = Some(realtime());
        let gateway = Gateway::start(config);
        let mut open = Vec::new();
        let mut told = Vec::new();
        for index in 0..40 {
            let target = if index % 2 == 0 { "/api/ws" } else { "/socket.io/?EIO=4&transport=websocket" };
            let mut client = gateway.client().await;
            client.send(WebSocket::handshake(target, "")).await;
            let head = client.head().await.unwrap();
            match head.status() {
                101 => open.push(client),
                503 => told.push(head.field("retry-after").unwrap().parse::<u64>().unwrap()),
                other => panic!("{other}"),
            }
        }
        assert!(open.len() >= 5 && !told.is_empty(), "{} let in", open.len());
        assert!(told.iter().all(|seconds| (4..=8).contains(seconds)), "{told:?}");
        gateway.until("tidegate_admission_refused_total", told.len() as u64).await;
        let mut events = gateway.client().await;
        events.send("GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n\r\n").await;
        // Whether a token was earned meanwhile is not known; what matters is that it is asked for.
        assert!([200, 503].contains(&events.response().await.status()));
        let mut plain = gateway.client().await;
        plain.send(GET_API).await;
        assert_ne!(plain.head().await.unwrap().status(), 503);
    });
}
