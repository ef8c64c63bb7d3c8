use std::time::Duration;

use tidegate_config::{AccessLog, Inspect};
use tidegate_testkit::{RawClient, Upstream, WebSocket, local};

use crate::harness::{GET_API, Gateway, config};

async fn socket(gateway: &Gateway, user: &str) -> WebSocket {
    let mut raw = RawClient::connect(gateway.address).await;
    raw.send(WebSocket::handshake(&format!("/api/ws?user={user}"), "")).await;
    assert_eq!(raw.head().await.unwrap().status(), 101);
    WebSocket::client(raw)
}

#[test]
fn a_routes_limits_and_keys_hold_from_the_config_on() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        let wanted = &mut config.routes[0].websocket;
        wanted.inspect = Inspect::Strict;
        wanted.max_message = 100;
        wanted.messages_per_second = 1;
        wanted.message_burst = 50;
        wanted.key = Some("{query.user}".into());
        let gateway = Gateway::start(config);
        let mut large = socket(&gateway, "").await;
        large.send(2, &[0; 101]).await;
        assert_eq!(large.close_code().await, Some(1009));
        let (mut first, mut second) = (socket(&gateway, "ann").await, socket(&gateway, "ann").await);
        let mut other = socket(&gateway, "bob").await;
        for _ in 0..40 {
            first.text("x").await;
            first.receive_text().await;
        }
        for _ in 0..40 {
            second.text("x").await;
        }
        assert_eq!(second.close_code().await, Some(1008), "together they sent more than one may");
        for _ in 0..40 {
            other.text("x").await;
            other.receive_text().await;
        }
        let limited = |limit: &str| format!("tidegate_websocket_limited_total{{route=\"all\",limit=\"{limit}\"}}");
        gateway.until(&limited("message_size"), 1).await;
        gateway.until(&limited("key_messages"), 1).await;
    });
}

#[test]
fn a_routes_heartbeat_holds_from_the_config_on() {
    local(async {
        let (upstream, _events) = Upstream::event_stream().await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.routes[0].sse.heartbeat = Duration::from_millis(100);
        let gateway = Gateway::start(config);
        let mut client = gateway.client().await;
        client.send(GET_API).await;
        client.head().await.unwrap();
        assert_eq!(client.chunk().await, ":\n\n"[..]);
    });
}
