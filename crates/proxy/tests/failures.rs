//! What goes wrong at the upstream, and what the client sees of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Gateway, get, in_time};
use tidegate_testkit::{Message, Upstream, local};
use tidegate_types::{CloseReason, ErrorCode};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn assert_error(response: &Message, code: ErrorCode) {
    assert_eq!(response.status(), code.status(), "{response:?}");
    assert_eq!(response.field("content-type"), Some("application/json"));
    assert_eq!(response.field("x-request-id"), Some("request-1"));
    let error = &response.json()["error"];
    assert_eq!((error["code"].as_str(), error["requestId"].as_str()), (Some(code.as_str()), Some("request-1")));
    assert!(!error["message"].as_str().unwrap().is_empty());
}

async fn once(servers: &[SocketAddr], request: &str) -> (Message, Gateway) {
    let gateway = Gateway::to(servers).await;
    let response = gateway.client().await.request(request).await;
    (response, gateway)
}

#[test]
fn an_upstream_that_nobody_listens_at_is_a_bad_gateway() {
    local(async {
        let (response, gateway) = once(&[Upstream::nobody().await], &get("/")).await;
        assert_error(&response, ErrorCode::BadGateway);
        let summary = &gateway.ended(1).await[0];
        assert_eq!((summary.error, summary.reason), (Some(ErrorCode::BadGateway), CloseReason::UpstreamFailed));
        assert_eq!((summary.upstream_status, summary.upstream_header), (None, None), "no server has answered");
        let metrics = gateway.metrics.encode();
        assert!(metrics.contains("tidegate_upstream_connect_errors_total{upstream=\"backend\""), "{metrics}");
    });
}

#[test]
fn an_upstream_without_servers_is_unavailable() {
    local(async {
        let (response, _) = once(&[], &get("/")).await;
        assert_error(&response, ErrorCode::Unavailable);
    });
}

#[test]
fn a_name_that_does_not_resolve_is_a_bad_gateway_and_localhost_is_fine() {
    local(async {
        let upstream = Upstream::ok("named").await;
        let mut settings = common::settings(&[upstream.address()]);
        settings.servers[0].address = format!("localhost:{}", upstream.address().port());
        let gateway = Gateway::with(settings.clone()).await;
        assert_eq!(gateway.client().await.request(get("/")).await.text(), "named");
        settings.servers[0].address = "no-such-host.invalid:80".into();
        let gateway = Gateway::with(settings).await;
        assert_error(&gateway.client().await.request(get("/")).await, ErrorCode::BadGateway);
    });
}

#[test]
fn a_server_that_cannot_be_reached_is_passed_over_and_then_skipped() {
    local(async {
        let good = Upstream::ok("good").await;
        let gateway = Gateway::to(&[Upstream::nobody().await, good.address()]).await;
        let mut client = gateway.client().await;
        for _ in 0..4 {
            let post = client.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
            assert_eq!(post.text(), "good", "nothing was sent yet: any method may go on");
        }
        let summaries = gateway.ended(4).await;
        let retries: Vec<u8> = summaries.iter().map(|summary| summary.retries).collect();
        assert_eq!(retries, [1, 0, 0, 0]);
        let first = &summaries[0];
        assert!(first.upstream_header.unwrap() < first.ttfb.unwrap(), "a try's time is its own: {first:?}");
    });
}

#[test]
fn an_upstream_that_does_not_answer_is_a_gateway_timeout() {
    local(async {
        let upstream = Upstream::silent().await;
        let mut settings = common::settings(&[upstream.address()]);
        settings.read_timeout = Duration::from_millis(50);
        let gateway = Gateway::with(settings).await;
        let response = gateway.client().await.request(get("/")).await;
        assert_error(&response, ErrorCode::GatewayTimeout);
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::IdleTimeout);
    });
}

#[test]
fn a_head_that_trickles_is_a_gateway_timeout() {
    local(async {
        let upstream = Upstream::script(|mut peer, _, _| async move {
            peer.message(false).await;
            peer.send("HTTP/1.1 200 OK\r\n").await;
            for _ in 0..1000 {
                peer.send("X: y\r\n").await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let mut settings = common::settings(&[upstream.address()]);
        settings.read_timeout = Duration::from_millis(100);
        let gateway = Gateway::with(settings).await;
        assert_error(&gateway.client().await.request(get("/")).await, ErrorCode::GatewayTimeout);
    });
}

#[test]
fn a_client_that_stops_in_its_body_is_told_so() {
    local(async {
        let upstream = Upstream::ok("").await;
        let (response, closed) = in_time(async |time| {
            let mut settings = common::settings(&[upstream.address()]);
            settings.send_timeout = time;
            let gateway = Gateway::with(settings).await;
            let mut client = gateway.client().await;
            let response = client.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf").await;
            (response, client.is_closed().await)
        })
        .await;
        assert_error(&response, ErrorCode::BadRequest);
        assert!(closed);
    });
}

#[test]
fn a_slow_upload_that_moves_is_not_cut_off() {
    local(async {
        let upstream = Upstream::ok("done").await;
        let text = in_time(async |time| {
            let mut settings = common::settings(&[upstream.address()]);
            settings.send_timeout = time;
            settings.read_timeout = time;
            let gateway = Gateway::with(settings).await;
            let mut client = gateway.client().await;
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").await;
            for _ in 0..10 {
                tokio::time::sleep(time / 4).await;
                client.send("x").await;
            }
            client.response().await.text()
        })
        .await;
        assert_eq!(text, "done");
    });
}

#[test]
fn a_response_body_that_stops_is_cut_off_and_does_not_look_complete() {
    local(async {
        for head in ["Content-Length: 9\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
            let upstream = Upstream::script(move |mut peer, _, _| async move {
                peer.message(false).await;
                peer.send(format!("HTTP/1.1 200 OK\r\n{head}")).await;
                std::future::pending::<()>().await;
            })
            .await;
            let (response, closed, reason) = in_time(async |time| {
                let mut settings = common::settings(&[upstream.address()]);
                settings.read_timeout = time;
                let gateway = Gateway::with(settings).await;
                let mut client = gateway.client().await;
                let response = client.request(get("/")).await;
                // One that is not cut off keeps its connection open.
                let closed = !response.complete && client.is_closed().await;
                (response, closed, gateway.ended(1).await[0].reason)
            })
            .await;
            assert_eq!((response.text().as_str(), response.complete), ("half", false));
            assert!(closed);
            assert_eq!(reason, CloseReason::IdleTimeout);
        }
    });
}

#[test]
fn a_response_that_breaks_off_does_not_look_complete() {
    local(async {
        for head in [
            "Content-Length: 9\r\n\r\nhalf",
            "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "Transfer-Encoding: chunked\r\n\r\n4\r\nhalfway\r\n",
        ] {
            let upstream = Upstream::closes_after(format!("HTTP/1.1 200 OK\r\n{head}")).await;
            let gateway = Gateway::to(&[upstream.address()]).await;
            let mut client = gateway.client().await;
            let response = client.request(get("/")).await;
            assert!(!response.complete, "{head:?}: {response:?}");
            assert!(client.is_closed().await);
            assert_eq!(gateway.ended(1).await[0].reason, CloseReason::UpstreamFailed);
        }
    });
}

#[test]
fn an_upstream_that_closes_without_an_answer_is_a_bad_gateway() {
    local(async {
        for half in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
            let upstream = Upstream::closes_after(half).await;
            let (response, _) = once(&[upstream.address()], &get("/")).await;
            assert_error(&response, ErrorCode::BadGateway);
            assert_eq!(upstream.connections(), 1, "a server that breaks off on a new connection would do so again");
        }
    });
}

#[test]
fn an_idempotent_request_goes_to_the_next_server_when_one_breaks_off() {
    local(async {
        let bad = Upstream::closes_after("").await;
        let good = Upstream::ok("good").await;
        let gateway = Gateway::to(&[bad.address(), good.address()]).await;
        let mut client = gateway.client().await;
        assert_eq!(client.request(get("/")).await.text(), "good");
        assert_eq!(client.request(get("/")).await.text(), "good");
        assert_eq!(bad.connections(), 1, "then it is skipped");
    });
}

#[test]
fn a_request_that_may_not_be_repeated_is_not() {
    local(async {
        let bad = Upstream::closes_after("").await;
        let good = Upstream::ok("good").await;
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
        let (response, _) = once(&[bad.address(), good.address()], post).await;
        assert_error(&response, ErrorCode::BadGateway);
        assert_eq!(good.connections(), 0);
    });
}

/// Answers once per connection and closes when told: the connection dies while it is pooled, together with the next
/// request on its way.
async fn dies_in_the_pool() -> Upstream {
    Upstream::script(|mut peer, index, requests| async move {
        requests.record(peer.message(false).await.unwrap());
        peer.send(OK).await;
        if index == 0 {
            // The next request arrives, and is answered with a reset.
            requests.record(peer.head().await.unwrap());
            return;
        }
        while let Some(request) = peer.message(false).await {
            requests.record(request);
            peer.send(OK).await;
        }
    })
    .await
}

#[test]
fn an_idempotent_request_survives_the_death_of_its_pooled_connection() {
    local(async {
        let upstream = dies_in_the_pool().await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        for _ in 0..3 {
            assert_eq!(client.request(get("/")).await.text(), "ok");
        }
        assert_eq!(upstream.connections(), 2);
        let retries: Vec<u8> = gateway.ended(3).await.iter().map(|summary| summary.retries).collect();
        assert_eq!(retries, [0, 1, 0]);
        assert!(gateway.metrics.encode().contains("tidegate_upstream_retries_total{upstream=\"backend\"} 1"));
    });
}

#[test]
fn a_post_that_may_have_arrived_is_not_sent_twice() {
    local(async {
        let upstream = dies_in_the_pool().await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        assert_eq!(client.request(get("/")).await.text(), "ok");
        let response = client.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
        assert_error(&response, ErrorCode::BadGateway);
        let posts = upstream.requests().iter().filter(|request| request.start.starts_with("POST")).count();
        assert_eq!(posts, 1);
    });
}

#[test]
fn a_pooled_connection_that_was_closed_long_ago_is_not_used() {
    local(async {
        let upstream = Upstream::closes_after(OK).await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        for round in 1..=3 {
            let post = client.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
            assert_eq!(post.text(), "ok");
            while !gateway.metrics.encode().contains("tidegate_upstream_connections_open{upstream=\"backend\"} 0") {
                tokio::task::yield_now().await;
            }
            assert_eq!(upstream.connections(), round);
        }
    });
}

#[test]
fn hostile_responses_are_bad_gateways() {
    let hostile = [
        "garbage\r\n\r\n".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok?".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok".to_owned(),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned(),
        "HTTP/1.1 99 What\r\n\r\n".to_owned(),
        "HTTP/3.0 200 OK\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(1024 * 1024)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(1000)),
    ];
    local(async move {
        for bytes in hostile {
            let upstream = Upstream::answers(bytes.clone()).await;
            let (response, gateway) = once(&[upstream.address()], &get("/")).await;
            let shown = &bytes[..bytes.len().min(80)];
            assert_eq!(response.status(), 502, "{shown:?} gave {response:?}");
            assert_error(&response, ErrorCode::BadGateway);
            assert_eq!(gateway.client().await.request(get("/")).await.status(), 502, "{shown:?} is not pooled");
        }
    });
}

#[test]
fn a_flood_of_informational_responses_ends_with_the_read_timeout() {
    local(async {
        let upstream = Upstream::script(|mut peer, _, _| async move {
            peer.message(false).await;
            let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(100);
            while tokio::io::AsyncWriteExt::write_all(peer.stream(), flood.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        let mut settings = common::settings(&[upstream.address()]);
        settings.read_timeout = Duration::from_millis(100);
        let gateway = Gateway::with(settings).await;
        assert_error(&gateway.client().await.request(get("/")).await, ErrorCode::GatewayTimeout);
    });
}

#[test]
fn bytes_beyond_a_response_are_never_anothers_response() {
    local(async {
        let upstream = Upstream::answers(format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")).await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        for _ in 0..5 {
            assert_eq!(client.request(get("/")).await.text(), "ok");
        }
    });
}
