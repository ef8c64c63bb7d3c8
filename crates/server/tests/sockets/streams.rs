use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tidegate_config::{AccessLog, Inspect};
use tidegate_testkit::{RawClient, Upstream, WebSocket, local, patiently};

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

/// A server that accepts the WebSocket rightly, then sends what is no frame, and hears what comes back.
async fn garbage(heard: Rc<RefCell<Vec<u8>>>) -> Upstream {
    Upstream::script(move |mut peer: RawClient, _, requests| {
        let heard = heard.clone();
        async move {
            let Some(request) = peer.message(false).await else { return };
            peer.send(WebSocket::accept(&request, "") + GARBAGE).await;
            requests.record(request);
            while peer.fill().await.is_ok() {
                heard.borrow_mut().extend(peer.take_buffered());
            }
        }
    })
    .await
}

const GARBAGE: &str = "\u{7f}garbage, and more of it";

#[test]
fn what_a_server_sends_behind_its_101_passes_unless_the_route_looks_inside() {
    local(async {
        let upstream = garbage(Rc::default()).await;
        let gateway = Gateway::before(upstream.address());
        let mut raw = gateway.client().await;
        raw.send(WebSocket::handshake("/api/ws", "")).await;
        assert_eq!(raw.head().await.unwrap().status(), 101);
        assert_eq!(raw.read_exact(GARBAGE.len()).await, GARBAGE);

        // Another server: the first one may still hear the end of the first tunnel.
        let heard = Rc::new(RefCell::new(Vec::new()));
        let upstream = garbage(heard.clone()).await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.routes[0].websocket.inspect = Inspect::Strict;
        let gateway = Gateway::start(config);
        let mut socket = WebSocket::connect(gateway.address, "/api/ws").await;
        assert_eq!(socket.close_code().await, Some(1011), "first of all, and it is not the client's fault");
        assert!(socket.receive().await.is_none());
        // FIN and Close, masked, with 1002 before its reason.
        let told = async {
            while heard.borrow().len() < 8 {
                tokio::task::yield_now().await;
            }
        };
        patiently("a Close frame for the server", told).await;
        let heard = heard.borrow();
        let unmasked: Vec<u8> = heard[6..8].iter().zip(&heard[2..4]).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!((heard[0], heard[1] & 0x80, &*unmasked), (0x88, 0x80, &1002u16.to_be_bytes()[..]));
    });
}
