use tidegate_config::{AccessLog, Config};
use tidegate_testkit::{Upstream, local};

use crate::harness::{GET_API, Gateway, config};

fn at_most(upstream: &Upstream, max_body: u64) -> Config {
    let mut config = config(Some(upstream.address()), AccessLog::Off);
    config.routes[0].max_body = max_body;
    config
}

#[test]
fn a_body_that_says_it_is_too_large_is_refused_before_it_comes() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::start(at_most(&upstream, 1000));
        let post = |length: usize| format!("POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let mut client = gateway.client().await;
        let whole = format!("{}{}", post(1000), "a".repeat(1000));
        assert_eq!(client.request(&whole).await.status(), 200);
        client.send(post(1001)).await;
        let refused = client.response().await;
        assert_eq!(refused.status(), 413);
        assert_eq!(refused.field("connection"), Some("close"));
        assert!(refused.text().contains("\"PAYLOAD_TOO_LARGE\""), "{}", refused.text());
        assert_eq!(upstream.requests().len(), 1);
    });
}

#[test]
fn a_chunked_body_is_broken_off_where_it_passes_the_limit() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::start(at_most(&upstream, 1000));
        let head = "POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = format!("1f4\r\n{}\r\n", "a".repeat(500));
        let mut client = gateway.client().await;
        assert_eq!(client.request(format!("{head}{chunk}{chunk}0\r\n\r\n")).await.status(), 200);
        client.send(format!("{head}{chunk}{chunk}")).await;
        client.send("1\r\na\r\n").await;
        let refused = client.response().await;
        assert_eq!(refused.status(), 413);
        assert!(client.is_closed().await);
        assert!(upstream.requests().iter().skip(1).all(|request| !request.complete), "it never gets the whole");
        assert_eq!(gateway.client().await.request(GET_API).await.status(), 200);
    });
}
