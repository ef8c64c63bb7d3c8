//! Requests and responses on their way through.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::{Gateway, get};
use tidegate_proxy::ExchangeKind;
use tidegate_testkit::{Upstream, local};
use tidegate_types::CloseReason;

#[test]
fn a_request_reaches_the_upstream_and_its_response_the_client() {
    local(async {
        let upstream = Upstream::ok("hello").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        let response = client.request(get("/a/b?c=d")).await;
        assert_eq!((response.status(), response.text().as_str()), (200, "hello"));
        assert_eq!(response.field("content-length"), Some("5"));
        assert_eq!(upstream.requests()[0].start, "GET /a/b?c=d HTTP/1.1");
        let summary = &gateway.ended(1).await[0];
        assert_eq!((summary.kind, summary.status, summary.bytes_out), (ExchangeKind::Http, 200, 5));
        assert_eq!(summary.upstream.as_deref(), Some(upstream.address().to_string().as_str()));
        assert_eq!((summary.reason, summary.error, summary.retries), (CloseReason::ClientClosed, None, 0));
        assert!(summary.ttfb.unwrap() <= summary.duration);
    });
}

#[test]
fn upstream_connections_are_used_again() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        for _ in 0..3 {
            let mut client = gateway.client().await;
            for _ in 0..3 {
                assert_eq!(client.request(get("/")).await.status(), 200);
            }
        }
        assert_eq!((upstream.connections(), upstream.requests().len()), (1, 9));
    });
}

#[test]
fn a_connection_carries_no_more_than_its_number_of_requests() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut settings = common::settings(&[upstream.address()]);
        settings.keepalive_requests = 2;
        let gateway = Gateway::with(settings).await;
        let mut client = gateway.client().await;
        for _ in 0..6 {
            assert_eq!(client.request(get("/")).await.status(), 200);
        }
        assert_eq!(upstream.connections(), 3);
    });
}

#[test]
fn idle_upstream_connections_are_closed_after_their_timeout() {
    local(async {
        let (told, mut closed) = tokio::sync::mpsc::channel::<()>(1);
        let upstream = Upstream::script(move |mut peer, _, _| {
            let told = told.clone();
            async move {
                while peer.message(false).await.is_some() {
                    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
                }
                let _ = told.send(()).await;
            }
        })
        .await;
        let mut settings = common::settings(&[upstream.address()]);
        settings.keepalive_timeout = std::time::Duration::from_millis(50);
        let gateway = Gateway::with(settings).await;
        assert_eq!(gateway.client().await.request(get("/")).await.status(), 204);
        tidegate_testkit::patiently("the idle connection's end", closed.recv()).await.unwrap();
        assert!(gateway.metrics.encode().contains("tidegate_upstream_connections_idle{upstream=\"backend\"} 0"));
    });
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    local(async {
        let upstream = Upstream::answers(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x-private, keep-alive\r\nX-Private: 1\r\n\
             Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Public: 2\r\n\r\n",
        )
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let response = gateway
            .client()
            .await
            .request(
                "GET / HTTP/1.1\r\nHost: example.org\r\nConnection: x-secret, close, host\r\nX-Secret: 1\r\n\
                 Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nProxy: evil\r\n\
                 TE: gzip, trailers\r\nUpgrade: h2c\r\nExpect: 100-continue\r\nX-Kept: 3\r\n\r\n",
            )
            .await;
        let request = &upstream.requests()[0];
        for name in ["x-secret", "keep-alive", "proxy-connection", "proxy-authorization", "proxy", "upgrade", "expect"]
        {
            assert_eq!(request.field(name), None, "{name}");
        }
        assert_eq!(request.field("te"), Some("trailers"));
        assert_eq!(request.field("connection"), Some("te"));
        assert_eq!((request.field("x-kept"), request.field("host")), (Some("3"), Some("example.org")));
        for name in ["x-private", "keep-alive", "proxy-authenticate", "upgrade"] {
            assert_eq!(response.field(name), None, "{name}");
        }
        assert_eq!(response.field("x-public"), Some("2"));
        assert_eq!(response.field("connection"), Some("close"), "the client asked for it");
    });
}

#[test]
fn the_upstream_learns_who_asked_and_how() {
    local(async {
        let upstream = Upstream::ok("").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        let response = client.request(get("/")).await;
        client
            .request(
                "GET / HTTP/1.1\r\nHost: a.b:81\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2, 3.3.3.3\r\n\
                 X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Real-IP: 9.9.9.9\r\nX-Request-Id: mine\r\n\r\n",
            )
            .await;
        let requests = upstream.requests();
        assert_eq!(requests[0].fields("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(requests[0].field("x-forwarded-proto"), Some("http"));
        assert_eq!(requests[0].field("x-forwarded-host"), Some("example.org"));
        assert_eq!(requests[0].field("x-real-ip"), Some("127.0.0.1"));
        assert_eq!(requests[0].field("x-request-id"), Some("request-1"));
        assert_eq!(requests[1].fields("x-forwarded-for"), ["1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.1"]);
        assert_eq!(requests[1].fields("x-forwarded-host"), ["a.b:81"]);
        assert_eq!(requests[1].fields("x-forwarded-proto"), ["http"]);
        assert_eq!(requests[1].fields("x-real-ip"), ["127.0.0.1"]);
        assert_eq!(requests[1].fields("x-request-id"), ["request-1"]);
        assert_eq!(response.fields("x-request-id"), ["request-1"]);
    });
}

#[test]
fn an_absolute_target_becomes_a_path_and_its_host_counts() {
    local(async {
        let upstream = Upstream::ok("").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.request("GET http://a.b/x?y HTTP/1.1\r\nHost: a.b\r\n\r\n").await;
        client.request("GET http://a.b HTTP/1.1\r\nHost: A.B\r\n\r\n").await;
        let requests = upstream.requests();
        assert_eq!((requests[0].start.as_str(), requests[0].field("host")), ("GET /x?y HTTP/1.1", Some("a.b")));
        assert_eq!((requests[1].start.as_str(), requests[1].field("host")), ("GET / HTTP/1.1", Some("a.b")));
    });
}

#[test]
fn a_request_body_of_known_length_keeps_it_and_an_unknown_one_is_chunked() {
    local(async {
        let upstream = Upstream::ok("").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\n";
        client.request(format!("{head}Content-Length: 5\r\n\r\nhello")).await;
        client.request(format!("{head}Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")).await;
        client.request("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nget\r\n0\r\n\r\n").await;
        let requests = upstream.requests();
        assert_eq!((requests[0].field("content-length"), requests[0].text().as_str()), (Some("5"), "hello"));
        assert_eq!((requests[1].field("transfer-encoding"), requests[1].text().as_str()), (Some("chunked"), "abcde"));
        assert_eq!((requests[2].field("transfer-encoding"), requests[2].text().as_str()), (Some("chunked"), "get"));
        let bytes: Vec<u64> = gateway.ended(3).await.iter().map(|summary| summary.bytes_in).collect();
        assert_eq!(bytes, [5, 5, 3]);
    });
}

#[test]
fn expect_100_continue_is_answered_when_the_body_is_wanted() {
    local(async {
        let upstream = Upstream::ok("thanks").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
        assert_eq!(client.head().await.unwrap().status(), 100);
        let response = client.request("body").await;
        assert_eq!((response.status(), response.text().as_str()), (200, "thanks"));
        assert_eq!(upstream.requests()[0].text(), "body");
    });
}

#[test]
fn bodies_stream_both_ways_at_the_same_time() {
    local(async {
        let upstream = Upstream::script(|mut peer, _, _| async move {
            peer.head().await.unwrap();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            loop {
                let chunk = peer.chunk().await;
                let mut answer = format!("{:x}\r\n", chunk.len()).into_bytes();
                answer.extend_from_slice(&chunk);
                answer.extend_from_slice(b"\r\n");
                peer.send(answer).await;
                if chunk.is_empty() {
                    return;
                }
            }
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let head = client.head().await.unwrap();
        assert_eq!((head.status(), head.field("transfer-encoding")), (200, Some("chunked")));
        for text in ["one", "two", "three"] {
            client.send(format!("{:x}\r\n{text}\r\n", text.len())).await;
            assert_eq!(client.chunk().await, text.as_bytes());
        }
        client.send("0\r\n\r\n").await;
        assert!(client.chunk().await.is_empty());
    });
}

#[test]
fn trailers_pass_both_ways() {
    local(async {
        let upstream = Upstream::answers(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
        )
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let response = gateway
            .client()
            .await
            .request(
                "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\nTrailer: x-mine\r\n\
                 Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Mine: 8\r\nX-Real-IP: 6.6.6.6\r\nHost: b\r\n\r\n",
            )
            .await;
        assert_eq!(upstream.requests()[0].trailers, [("x-mine".to_owned(), "8".to_owned())]);
        assert_eq!(response.trailers, [("x-sum".to_owned(), "7".to_owned())]);
        assert!(response.complete);
    });
}

#[test]
fn responses_without_a_body_have_none() {
    local(async {
        let upstream = Upstream::script(|mut peer, _, _| async move {
            for answer in [
                "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"a\"\r\n\r\n",
                "HTTP/1.1 204 No Content\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            ] {
                peer.message(false).await.unwrap();
                peer.send(answer).await;
            }
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.message(true).await.unwrap();
        assert_eq!((head.status(), head.field("content-length")), (200, Some("1234")));
        let not_modified = client.request(get("/")).await;
        assert_eq!((not_modified.status(), not_modified.field("etag")), (304, Some("\"a\"")));
        assert_eq!(client.request(get("/")).await.status(), 204);
        assert_eq!(client.request(get("/")).await.text(), "ok");
        assert_eq!(upstream.connections(), 1, "and the connections stay in step");
    });
}

#[test]
fn an_old_client_gets_its_response_and_the_end() {
    local(async {
        let upstream =
            Upstream::answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nold\r\n0\r\n\r\n").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        let response = client.response().await;
        assert_eq!((response.field("transfer-encoding"), response.text().as_str()), (None, "old"));
        assert!(client.is_closed().await);
        let request = &upstream.requests()[0];
        assert_eq!(request.start, "GET / HTTP/1.1");
        assert!(request.field("host").is_some(), "HTTP/1.1 demands one: {request:?}");
    });
}

#[test]
fn a_response_that_ends_with_its_connection_is_passed_on_as_chunked() {
    local(async {
        let upstream = Upstream::closes_after("HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        for _ in 0..2 {
            let response = client.request(get("/")).await;
            assert_eq!((response.text().as_str(), response.complete), ("until the end", true));
        }
    });
}

#[test]
fn early_hints_are_skipped() {
    local(async {
        let upstream = Upstream::answers(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let response = gateway.client().await.request(get("/")).await;
        assert_eq!((response.status(), response.text().as_str()), (200, "ok"));
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    local(async {
        let upstream = Upstream::script(|mut peer, _, _| async move {
            while let Some(request) = peer.message(false).await {
                let path = request.start.split(' ').nth(1).unwrap().to_owned();
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len())).await;
            }
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send([get("/1"), get("/2"), get("/3")].concat()).await;
        for path in ["/1", "/2", "/3"] {
            assert_eq!(client.response().await.text(), path);
        }
    });
}

#[test]
fn a_large_response_is_not_held_in_memory_for_a_client_that_does_not_read() {
    local(async {
        const CHUNK: usize = 64 * 1024;
        let sent = std::rc::Rc::new(std::cell::Cell::new(0usize));
        let (told, mut stuck) = tokio::sync::mpsc::channel::<()>(1);
        let counter = sent.clone();
        let upstream = Upstream::script(move |mut peer, _, _| {
            let (counter, told) = (counter.clone(), told.clone());
            async move {
                use tokio::io::AsyncWriteExt;
                peer.message(false).await.unwrap();
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", CHUNK * 1024)).await;
                let chunk = vec![7; CHUNK];
                for _ in 0..1024 {
                    let write = peer.stream().write_all(&chunk);
                    if tokio::time::timeout(std::time::Duration::from_millis(300), write).await.is_err() {
                        let _ = told.send(()).await;
                        std::future::pending::<()>().await;
                    }
                    counter.set(counter.get() + CHUNK);
                }
            }
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        tidegate_testkit::patiently("backpressure", stuck.recv()).await.unwrap();
        assert!(sent.get() < 32 * 1024 * 1024, "{} bytes were taken from the upstream", sent.get());
        drop(client);
        let summary = &gateway.ended(1).await[0];
        assert_eq!(summary.reason, CloseReason::TransportClosed);
    });
}

#[test]
fn a_client_that_goes_away_ends_the_upstream_request() {
    local(async {
        let (told, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let upstream = Upstream::script(move |mut peer, _, requests| {
            let told = told.clone();
            async move {
                requests.record(peer.message(false).await.unwrap());
                assert!(peer.is_closed().await);
                told.send(()).await.unwrap();
            }
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        while upstream.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        drop(client);
        tidegate_testkit::patiently("the upstream connection's end", gone.recv()).await.unwrap();
        let summary = &gateway.ended(1).await[0];
        assert_eq!((summary.status, summary.reason), (499, CloseReason::TransportClosed));
    });
}

/// What is still being sent is not the next request's beginning.
#[test]
fn a_connection_whose_response_came_before_the_whole_request_is_not_used_again() {
    local(async {
        let upstream = Upstream::script(|mut peer, _, requests| async move {
            while let Some(head) = peer.head().await {
                requests.record(head);
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut early = gateway.client().await;
        early.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf").await;
        assert_eq!(early.response().await.text(), "ok", "before the client has sent its body");
        assert_eq!(gateway.client().await.request(get("/")).await.text(), "ok");
        assert_eq!(upstream.connections(), 2);
        let retries: Vec<u8> = gateway.ended(2).await.iter().map(|summary| summary.retries).collect();
        assert_eq!(retries, [0, 0], "it was not even tried");
    });
}

#[test]
fn the_summary_tells_how_long_connecting_and_the_servers_head_took() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        for _ in 0..2 {
            assert_eq!(client.request(get("/")).await.status(), 200);
        }
        let summaries = gateway.ended(2).await;
        let [first, second] = &summaries[..] else { panic!("{summaries:?}") };
        assert!(first.upstream_connect.unwrap() <= first.upstream_header.unwrap(), "{first:?}");
        assert_eq!(second.upstream_connect, None, "the connection was used again");
        for summary in &summaries {
            assert_eq!(summary.upstream_status, Some(200));
            assert_eq!(summary.upstream_header, summary.ttfb, "there was one try");
        }
        let text = gateway.metrics.encode();
        assert!(text.contains("tidegate_upstream_connect_seconds_count{upstream=\"backend\"} 1\n"), "{text}");
        assert!(text.contains("tidegate_upstream_header_seconds_count{upstream=\"backend\"} 2\n"), "{text}");
    });
}
