//! Requests that mean different things to different parsers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::{Gateway, get};
use tidegate_testkit::{Upstream, local};

/// Sends the bytes, then a second request; the upstream must see neither.
async fn refused(bytes: &str, cut: Option<usize>) {
    let upstream = Upstream::ok("").await;
    let gateway = Gateway::to(&[upstream.address()]).await;
    let mut client = gateway.client().await;
    let all = format!("{bytes}{}", get("/second"));
    match cut {
        Some(cut) => {
            let (first, second) = all.as_bytes().split_at(cut);
            client.send(first).await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            client.send(second).await;
        }
        None => client.send(&all).await,
    }
    let response = client.response().await;
    assert!(matches!(response.status(), 400 | 431), "{bytes:?} cut at {cut:?}: {response:?}");
    assert!(client.is_closed().await, "{bytes:?}: the connection goes on");
    assert!(upstream.requests().is_empty(), "{bytes:?} was forwarded: {:?}", upstream.requests());
}

#[test]
fn ambiguous_requests_are_refused_and_the_connection_closed() {
    let post = "POST / HTTP/1.1\r\nHost: a\r\n";
    let shapes = [
        // Two lengths.
        format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"),
        format!("{post}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        format!("{post}Content-Length: 1\r\nContent-Length: 1\r\n\r\na"),
        format!("{post}Content-Length: 1, 1\r\n\r\na"),
        // Lengths that are none.
        format!("{post}Content-Length: +1\r\n\r\na"),
        format!("{post}Content-Length: -1\r\n\r\na"),
        format!("{post}Content-Length: 0x1\r\n\r\na"),
        format!("{post}Content-Length:\r\n\r\na"),
        format!("{post}Content-Length: 18446744073709551616\r\n\r\na"),
        // Codings that hide chunked.
        format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n"),
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        // Lines.
        format!("{post}X: a\r\n b\r\n\r\n"),
        format!("{post}X: a\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        "GET / HTTP/1.1\nHost: a\n\n".to_owned(),
        format!("{post}X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}X: a\r\n\n"),
        format!("{post}X : a\r\n\r\n"),
        format!("{post}: a\r\n\r\n"),
        format!("{post}X: a\0b\r\n\r\n"),
        format!("{post}X\0: a\r\n\r\n"),
        format!("{post}no colon\r\n\r\n"),
        // Hosts and targets.
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
        "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n".to_owned(),
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned(),
        "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\nHost: a\r\n\r\n".to_owned(),
        "G\u{7f}T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        format!("{post}{}\r\n", "X: a\r\n".repeat(1000)),
    ];
    local(async move {
        for shape in &shapes {
            refused(shape, None).await;
            refused(shape, Some(shape.len() / 2)).await;
            refused(shape, Some(shape.len() - 3)).await;
        }
    });
}

#[test]
fn a_body_with_broken_chunks_never_becomes_a_complete_request() {
    let shapes = [
        "5\nhello\n0\n\n",
        "-5\r\nhello\r\n",
        "5 ;\nhello\r\n0\r\n\r\n",
        "5\r\nhello!!\r\n0\r\n\r\n",
        "g\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\n",
        "1;a\rb\r\nx\r\n0\r\n\r\n",
        "0\r\nX: y\n\r\n",
    ];
    local(async move {
        for shape in shapes {
            let complete = std::rc::Rc::new(std::cell::Cell::new(false));
            let seen = complete.clone();
            let upstream = Upstream::script(move |mut peer, _, _| {
                let seen = seen.clone();
                async move {
                    if peer.message(false).await.is_some_and(|request| request.complete) {
                        seen.set(true);
                    }
                }
            })
            .await;
            let gateway = Gateway::to(&[upstream.address()]).await;
            let mut client = gateway.client().await;
            let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            client.send(format!("{head}{shape}{}", get("/second"))).await;
            let response = client.response().await;
            assert_eq!(response.status(), 400, "{shape:?}");
            assert_eq!(response.json()["error"]["code"], "BAD_REQUEST");
            assert!(client.is_closed().await);
            gateway.ended(1).await;
            assert!(!complete.get(), "{shape:?}");
        }
    });
}

#[test]
fn what_follows_a_refused_upgrade_is_watched_again() {
    local(async {
        let upstream = Upstream::ok("plain").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        let upgrade =
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi";
        let smuggled = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        client.send(format!("{upgrade}{}{smuggled}", get("/fine"))).await;
        assert_eq!(client.response().await.text(), "plain");
        assert_eq!(client.response().await.text(), "plain");
        assert_eq!(client.response().await.status(), 400);
        assert!(client.is_closed().await);
        assert_eq!(upstream.requests().len(), 2);
    });
}

#[test]
fn heads_that_are_too_large_are_refused() {
    local(async {
        let upstream = Upstream::ok("").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        let response = client.request(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(1 << 20))).await;
        assert_eq!(response.status(), 431);
        assert!(upstream.requests().is_empty());
    });
}

#[test]
fn garbage_is_answered_with_a_refusal_or_a_close() {
    local(async {
        let upstream = Upstream::ok("").await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        // A fixed sequence that looks random: xorshift.
        let mut seed = 0x2545_f491_4f6c_dd1du64;
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..300)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed as u8
                })
                .collect();
            let mut client = gateway.client().await;
            client.send(bytes).await;
            client.finish().await;
            let answer = client.read_to_end().await;
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
        }
        assert!(upstream.requests().is_empty());
    });
}
