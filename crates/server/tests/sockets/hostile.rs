use tidegate_config::AccessLog;
use tidegate_testkit::{Upstream, local};

use crate::harness::{GET_API, Gateway, config};

/// Shapes that two parsers may read differently. Each must end in a refusal and a close, and nothing may reach an upstream.
const SMUGGLING: &[&str] = &[
    "POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST /api HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET /api HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n folded\r\n\r\n",
    "GET /api HTTP/1.1\r\n Host: a\r\n\r\n",
    "GET /api HTTP/1.1\nHost: a\n\n",
    "GET /api HTTP/1.1\r\nHost: a\nX-A: 1\r\n\r\n",
    "GET /api HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "GET /api HTTP/1.1\r\n\r\n",
    "GET http://b/api HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /api HTTP/1.1\r\nHost: a\r\nX-A: \x01\r\n\r\n",
    "GET /a pi HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "TRACE /api HTTP/1.1\r\nHost: a\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

#[test]
fn ambiguous_framing_is_refused_on_live_sockets_and_reaches_nobody() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::before(upstream.address());
        for shape in SMUGGLING {
            let mut client = gateway.client().await;
            client.send(shape).await;
            let all = client.read_to_end().await;
            // An HTTP/2 preface is closed without a word: its sender would not understand one.
            assert!(all.starts_with(b"HTTP/1.1 4") || shape.starts_with("PRI"), "{shape:?}: {all:?}");
        }
        assert!(upstream.requests().is_empty(), "{:?}", upstream.requests());
        assert_eq!(gateway.client().await.request(GET_API).await.status(), 200);
    });
}

#[test]
fn oversized_heads_are_refused_with_431() {
    local(async {
        let gateway = Gateway::start(config(None, AccessLog::Off));
        let many: String = (0..200).map(|index| format!("X-{index}: 1\r\n")).collect();
        for head in [format!("X: {}\r\n", "a".repeat(100_000)), many] {
            let mut client = gateway.client().await;
            let answer = client.request(format!("GET /api HTTP/1.1\r\nHost: a\r\n{head}\r\n")).await;
            assert_eq!(answer.status(), 431);
            assert!(client.is_closed().await);
        }
    });
}

/// Private resident memory of this process, KiB.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_stays_flat_under_garbage() {
    local(async {
        let gateway = Gateway::start(config(None, AccessLog::Off));
        let garbage: Vec<u8> = (0..20_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut first = 0;
        for round in 0..6 {
            for start in 0..100 {
                let mut client = gateway.client().await;
                client.send(&garbage[start * 100..]).await;
                client.finish().await;
                client.read_to_end().await;
            }
            if round == 1 {
                first = memory_kib();
            }
        }
        let grown = memory_kib().saturating_sub(first);
        assert!(grown < 4_096, "{grown} KiB more after 400 further connections");
        gateway.until("tidegate_http_connections_open", 0).await;
    });
}
