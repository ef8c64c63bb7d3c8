use std::rc::Rc;
use std::time::Duration;

use tidegate_config::AccessLog;
use tidegate_testkit::{RawClient, Upstream, WebSocket, local, patiently};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::harness::{GET_API, Gateway, config, realtime};

async fn refuses_connections(gateway: &Gateway) {
    patiently("the listener's end", async {
        while TcpStream::connect(gateway.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn readiness_fails_before_the_listener_closes() {
    local(async {
        let upstream = Upstream::ok("x").await;
        // Long enough that the test never sees its end: it is closed before.
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.drain.delay = Duration::from_secs(60);
        let mut gateway = Gateway::start(config);
        gateway.drain();
        patiently("readiness to fail", async { while gateway.admin("/health/ready").await.0 == 200 {} }).await;
        assert_eq!(gateway.admin("/health/ready").await, (503, "{\"ready\":false}".to_owned()));
        assert_eq!(gateway.admin("/health/live").await.0, 200);
        assert_eq!(gateway.client().await.request(GET_API).await.status(), 200, "still served");
        assert_eq!(gateway.close().await, 0);
    });
}

#[test]
fn an_exchange_under_way_is_finished_and_its_connection_closed() {
    local(async {
        let go_on = Rc::new(Notify::new());
        let told = go_on.clone();
        let upstream = Upstream::script(move |mut peer, _, _| {
            let told = told.clone();
            async move {
                peer.message(false).await.unwrap();
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").await;
                told.notified().await;
                peer.send("-half").await;
            }
        })
        .await;
        let mut gateway = Gateway::before(upstream.address());
        let mut idle = gateway.client().await;
        assert_eq!(idle.request("GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 404);
        let mut busy = gateway.client().await;
        busy.send(GET_API).await;
        busy.read_until(b"first").await;
        gateway.drain();
        refuses_connections(&gateway).await;
        assert!(idle.is_closed().await, "idle connections go at once");
        go_on.notify_one();
        assert_eq!(&busy.read_to_end().await[..], b"-half");
        assert_eq!(gateway.ended().await, 0);
    });
}

#[test]
fn connections_that_wait_to_be_accepted_are_still_served() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut gateway = Gateway::before(upstream.address());
        // Many at once, so that some are in the accept queue when the drain begins.
        let mut clients = Vec::new();
        for _ in 0..200 {
            let mut client = RawClient::connect(gateway.address).await;
            client.send(GET_API).await;
            clients.push(client);
        }
        gateway.drain();
        for mut client in clients {
            let answer = client.response().await;
            assert_eq!(answer.status(), 200);
        }
        assert_eq!(gateway.ended().await, 0);
    });
}

#[test]
fn streams_and_sessions_are_told_and_ended_within_the_deadline() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.realtime = Some(realtime());
        config.drain.timeout = Duration::from_millis(300);
        let mut gateway = Gateway::start(config);
        let mut tunnel = WebSocket::connect(gateway.address, "/api/ws").await;
        tunnel.text("a").await;
        assert_eq!(tunnel.receive_text().await, "a");
        let mut session = WebSocket::connect(gateway.address, "/socket.io/?EIO=4&transport=websocket").await;
        session.receive_text().await;
        gateway.drain();
        // Whether by a close frame or by the deadline, both end.
        while tunnel.receive().await.is_some() {}
        while session.receive().await.is_some() {}
        assert_eq!(gateway.ended().await, 0);
    });
}

#[test]
fn a_drain_goes_at_the_pace_of_the_config_in_force() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        // At this pace the last tunnel would end after the patience of the test.
        config.drain.rate = 1;
        let mut gateway = Gateway::start(config.clone());
        let mut tunnels = Vec::new();
        for _ in 0..100 {
            tunnels.push(WebSocket::connect(gateway.address, "/api/ws").await);
        }
        config.drain.rate = 10_000;
        gateway.reload(config).unwrap();
        gateway.drain();
        let all = async {
            for tunnel in &mut tunnels {
                assert_eq!(tunnel.close_code().await, Some(1012));
            }
        };
        patiently("the end of all tunnels", all).await;
        drop(tunnels);
        assert_eq!(gateway.ended().await, 0);
    });
}
