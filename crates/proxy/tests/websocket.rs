//! WebSocket handshakes and tunnels.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::time::Duration;

use common::{Gateway, in_time};
use tidegate_metrics::CloseBy;
use tidegate_proxy::ExchangeKind;
use tidegate_testkit::{RawClient, Upstream, WebSocket, local, patiently};
use tidegate_types::{CloseReason, Phase};

#[test]
fn a_tunnel_carries_frames_both_ways() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut socket = WebSocket::connect(gateway.address, "/ws?x=1").await;
        for size in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
            let payload = vec![b'x'; size];
            socket.send(2, &payload).await;
            assert_eq!(socket.receive().await.unwrap().payload, payload);
        }
        let request = &upstream.requests()[0];
        assert_eq!(request.start, "GET /ws?x=1 HTTP/1.1");
        assert_eq!((request.field("connection"), request.field("upgrade")), (Some("upgrade"), Some("websocket")));
        assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
        let metrics = gateway.metrics.encode();
        assert!(metrics.contains("tidegate_tunnels_open{route=\"test\"} 1"), "{metrics}");
        drop(socket);
        let summary = &gateway.ended(1).await[0];
        assert_eq!((summary.kind, summary.status), (ExchangeKind::WebSocket, 101));
        assert!(summary.bytes_in > 1_131_000 && summary.bytes_out > 1_131_000, "{summary:?}");
        assert_eq!(summary.reason, CloseReason::ClientClosed);
        assert!(gateway.metrics.encode().contains("tidegate_tunnels_open{route=\"test\"} 0"));
    });
}

#[test]
fn what_was_sent_together_with_the_handshake_goes_first() {
    local(async {
        let upstream = Upstream::script(|mut peer, _, _| async move {
            let request = peer.message(false).await.unwrap();
            peer.send(WebSocket::accept(&request, "") + "early").await;
            assert_eq!(peer.read_exact(12).await, "hasty\nclient"[..]);
            peer.send(" late").await;
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send(WebSocket::handshake("/", "") + "hasty\n").await;
        assert_eq!(client.head().await.unwrap().status(), 101);
        assert_eq!(client.read_exact(5).await, "early"[..]);
        client.send("client").await;
        assert_eq!(client.read_to_end().await, " late"[..]);
        drop(client);
        let summary = &gateway.ended(1).await[0];
        assert_eq!((summary.bytes_in, summary.bytes_out), (12, 10));
    });
}

#[test]
fn a_half_close_is_carried_through() {
    local(async {
        let upstream = Upstream::script(|mut peer, _, _| async move {
            let request = peer.message(false).await.unwrap();
            peer.send(WebSocket::accept(&request, "")).await;
            assert_eq!(peer.read_to_end().await, "last words"[..]);
            peer.send("answer to them").await;
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        socket.raw.send("last words").await;
        socket.raw.finish().await;
        assert_eq!(socket.raw.read_to_end().await, "answer to them"[..]);
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::ClientClosed);
    });
}

#[test]
fn a_half_close_of_the_upstream_is_carried_through() {
    local(async {
        let (told, mut heard) = tokio::sync::mpsc::channel(1);
        let upstream = Upstream::script(move |mut peer, _, _| {
            let told = told.clone();
            async move {
                let request = peer.message(false).await.unwrap();
                peer.send(WebSocket::accept(&request, "") + "bye").await;
                peer.finish().await;
                told.send(peer.read_to_end().await).await.unwrap();
            }
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        assert_eq!(socket.raw.read_to_end().await, "bye"[..]);
        socket.raw.send("good bye").await;
        socket.raw.finish().await;
        assert_eq!(patiently("the rest", heard.recv()).await.unwrap(), "good bye"[..]);
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::TransportClosed);
    });
}

#[test]
fn bad_handshakes_of_clients_never_reach_the_upstream() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let good = WebSocket::handshake("/", "");
        for (bad, status) in [
            (good.replace("Version: 13", "Version: 8"), 426),
            (good.replace("Sec-WebSocket-Version: 13\r\n", ""), 426),
            (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400),
            (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "not base64 at all!!!!!!!!"), 400),
            (good.replace("Sec-WebSocket-Key", "X-Key"), 400),
            (good.replace("GET ", "POST "), 400),
            (good.replace("Host:", "Content-Length: 3\r\nHost:") + "abc", 400),
        ] {
            let mut client = gateway.client().await;
            let response = client.request(&bad).await;
            assert_eq!(response.status(), status, "{bad}");
            assert_eq!(response.json()["error"]["code"], "BAD_REQUEST");
            if status == 426 {
                assert_eq!(response.field("sec-websocket-version"), Some("13"));
            }
            assert!(client.is_closed().await);
        }
        assert_eq!(upstream.connections(), 0);
    });
}

#[test]
fn other_protocols_are_not_passed_on() {
    local(async {
        let upstream = Upstream::ok("plain").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        for upgrade in ["Connection: upgrade\r\nUpgrade: h2c\r\n", "Upgrade: websocket\r\n"] {
            let response = gateway.client().await.request(format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n")).await;
            assert_eq!(response.text(), "plain");
        }
        assert!(upstream.requests().iter().all(|request| request.field("upgrade").is_none()));
    });
}

#[test]
fn a_101_that_does_not_fit_is_a_bad_gateway() {
    local(async {
        for change in [
            (
                "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            ),
            ("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", ""),
            ("Upgrade: websocket\r\n", ""),
            ("Upgrade: websocket", "Upgrade: h2c"),
            ("Connection: Upgrade\r\n", ""),
        ] {
            let upstream = Upstream::script(move |mut peer, _, _| async move {
                let request = peer.message(false).await.unwrap();
                let answer = WebSocket::accept(&request, "");
                assert!(answer.contains(change.0), "{answer}");
                peer.send(answer.replace(change.0, change.1) + "tunnel bytes").await;
                peer.read_to_end().await;
            })
            .await;
            let gateway = Gateway::to(&[upstream.address()]).await;
            let response = gateway.client().await.request(WebSocket::handshake("/", "")).await;
            assert_eq!(response.status(), 502, "{change:?}");
            assert_eq!(response.json()["error"]["code"], "BAD_GATEWAY");
        }
    });
}

#[test]
fn a_refusal_of_the_upstream_is_passed_on_and_the_connection_goes_on() {
    local(async {
        let upstream =
            Upstream::answers("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nX-Why: because\r\n\r\nno").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        for _ in 0..2 {
            let response = client.request(WebSocket::handshake("/", "")).await;
            assert_eq!((response.status(), response.text().as_str()), (403, "no"));
            assert_eq!((response.field("x-why"), response.field("x-request-id")), (Some("because"), Some("request-1")));
        }
        assert_eq!(client.request(common::get("/")).await.status(), 403);
        let kinds: Vec<_> = gateway.ended(3).await.iter().map(|summary| summary.kind).collect();
        assert_eq!(kinds, [ExchangeKind::Http; 3]);
    });
}

#[test]
fn an_upstream_that_does_not_answer_the_handshake_is_a_gateway_timeout() {
    local(async {
        let upstream = Upstream::silent().await;
        let mut settings = common::settings(&[upstream.address()]);
        settings.handshake_timeout = Duration::from_millis(50);
        let gateway = Gateway::with(settings).await;
        let response = gateway.client().await.request(WebSocket::handshake("/", "")).await;
        assert_eq!((response.status(), response.json()["error"]["code"].as_str()), (504, Some("GATEWAY_TIMEOUT")));
    });
}

#[test]
fn a_handshake_goes_to_the_next_server_when_one_cannot_be_reached() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let gateway = Gateway::to(&[Upstream::nobody().await, upstream.address()]).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        socket.text("hello").await;
        assert_eq!(socket.receive_text().await, "hello");
    });
}

#[test]
fn an_idle_tunnel_is_closed_after_its_timeout_and_a_busy_one_is_not() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let (echoes, ended, idle, reasons, busy) = in_time(async |time| {
            let mut settings = common::settings(&[upstream.address()]);
            settings.tunnel_idle_timeout = time;
            let gateway = Gateway::with(settings).await;
            let mut idle = WebSocket::connect(gateway.address, "/").await;
            let mut busy = WebSocket::connect(gateway.address, "/").await;
            let mut echoes = 0;
            for _ in 0..12 {
                tokio::time::sleep(time / 5).await;
                busy.text("tick").await;
                echoes += usize::from(busy.receive().await.is_some_and(|frame| frame.payload == "tick"));
            }
            let ended = gateway.ended(1).await.len();
            let (idle, busy) = (idle.close_code().await, busy.close_code().await);
            (echoes, ended, idle, gateway.ended(2).await.iter().map(|it| it.reason).collect::<Vec<_>>(), busy)
        })
        .await;
        assert_eq!((echoes, ended), (12, 1));
        assert_eq!(idle, Some(1001));
        assert_eq!(reasons, [CloseReason::IdleTimeout; 2]);
        assert_eq!(busy, Some(1001), "in the end it is idle too");
    });
}

#[test]
fn draining_closes_tunnels_with_1012_at_both_ends() {
    local(async {
        let (told, mut heard) = tokio::sync::mpsc::channel(1);
        let upstream = Upstream::script(move |mut peer, _, _| {
            let told = told.clone();
            async move {
                let request = peer.message(false).await.unwrap();
                peer.send(WebSocket::accept(&request, "")).await;
                let mut socket = WebSocket::server(peer);
                told.send(socket.close_code().await).await.unwrap();
            }
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        gateway.phase.send(Phase::Draining).unwrap();
        assert_eq!(socket.close_code().await, Some(1012));
        assert_eq!(patiently("the upstream's Close", heard.recv()).await.unwrap(), Some(1012));
        assert!(socket.raw.is_closed().await);
        let summary = &gateway.ended(1).await[0];
        assert_eq!((summary.reason, summary.close), (CloseReason::ServerShutdown, Some((1012, CloseBy::Gateway))));
        let metrics = gateway.metrics.encode();
        let closed = "tidegate_websocket_close_codes_total{route=\"test\",code=\"1012\",by=\"gateway\"} 1";
        assert!(metrics.contains(closed), "{metrics}");
        assert!(metrics.contains("tidegate_stream_duration_seconds_count{route=\"test\",kind=\"websocket\"} 1"));
    });
}

#[test]
fn closing_still_says_so_to_tunnels() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        gateway.phase.send(Phase::Closing).unwrap();
        assert_eq!(socket.close_code().await, Some(1012));
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::ServerShutdown);
    });
}

#[test]
fn a_tunnel_in_the_middle_of_a_frame_is_closed_behind_it() {
    local(async {
        let (told, mut heard) = tokio::sync::mpsc::channel(1);
        let upstream = Upstream::script(move |mut peer, _, _| {
            let told = told.clone();
            async move {
                let request = peer.message(false).await.unwrap();
                peer.send(WebSocket::accept(&request, "")).await;
                let mut socket = WebSocket::server(peer);
                let frame = socket.receive().await.unwrap();
                told.send((frame.payload.to_vec(), socket.close_code().await)).await.unwrap();
            }
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        // A masked frame of 10 bytes, of which 4 come.
        socket.raw.send(b"\x82\x8a\0\0\0\x000123").await;
        while gateway.route.tunnel_bytes_to_upstream.get() < 10 {
            tokio::task::yield_now().await;
        }
        gateway.phase.send(Phase::Draining).unwrap();
        assert_eq!(socket.receive().await.unwrap().first, 0x88, "the other direction was at a boundary");
        // The rest, another message, and the answer.
        socket.raw.send(b"456789").await;
        socket.text("too late").await;
        socket.send(8, &1012u16.to_be_bytes()).await;
        let (payload, code) = patiently("the upstream's frames", heard.recv()).await.unwrap();
        assert_eq!((&payload[..], code), (&b"0123456789"[..], Some(1012)));
    });
}

#[test]
fn a_receiver_that_does_not_read_stops_the_sender_and_loses_nothing() {
    local(async {
        const SIZE: usize = 32 * 1024 * 1024;
        let upstream = Upstream::script(|mut peer, _, _| async move {
            let request = peer.message(false).await.unwrap();
            peer.send(WebSocket::accept(&request, "")).await;
            let pattern: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
            tokio::io::AsyncWriteExt::write_all(peer.stream(), &pattern).await.unwrap();
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let metrics = gateway.metrics.encode();
        let line =
            metrics.lines().find(|line| line.starts_with("tidegate_tunnel_bytes_total") && line.contains("to_client"));
        let read: usize = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(read < SIZE, "the gateway took {read} bytes although nobody read them");
        let received = socket.raw.read_to_end().await;
        assert_eq!(received.len(), SIZE);
        assert!(received.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
    });
}

#[test]
fn a_reset_of_either_side_ends_the_tunnel() {
    local(async {
        let upstream = Upstream::script(|mut peer, index, _| async move {
            let request = peer.message(false).await.unwrap();
            peer.send(WebSocket::accept(&request, "")).await;
            if index == 0 {
                let _ = peer.stream().readable().await;
                peer.reset();
            } else {
                peer.read_to_end().await;
            }
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        socket.text("go").await;
        assert!(socket.raw.is_closed().await);
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::UpstreamFailed);
        let socket = WebSocket::connect(gateway.address, "/").await;
        let raw: RawClient = socket.raw;
        raw.reset();
        assert_eq!(gateway.ended(2).await[1].reason, CloseReason::TransportClosed);
    });
}
