use tidegate_config::{AccessLog, RealIp};
use tidegate_rules::proxy_protocol::{ProxyHeader, ProxyVersion};
use tidegate_testkit::{RawClient, Upstream, WebSocket, local};

use super::zones::{limited, rate};
use crate::harness::{GET_API, Gateway, config};

const FULL: &str = r#"tidegate_connections_refused_total{listener="public",reason="max_connections"}"#;

fn from(client: &str) -> String {
    format!("GET /api HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\nForwarded: for={client}\r\n\r\n")
}

#[test]
fn connections_beyond_the_cap_get_a_503_and_a_close_and_a_place_is_free_again_afterwards() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.max_connections = 3;
        config.workers = 2;
        let gateway = Gateway::start(config);
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(WebSocket::connect(gateway.address, "/api").await);
        }
        for _ in 0..5 {
            let mut late = gateway.client().await;
            late.send(GET_API).await;
            let answer = late.response().await;
            assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("5")));
            assert!(late.is_closed().await);
        }
        gateway.until(FULL, 5).await;
        gateway.until("tidegate_http_connections_open", 3).await;
        open.pop();
        gateway.until("tidegate_http_connections_open", 2).await;
        open.push(WebSocket::connect(gateway.address, "/api").await);
    });
}

#[test]
fn a_listener_has_a_cap_of_its_own_that_survives_reloads() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.listeners[0].max_connections = 1;
        let gateway = Gateway::start(config.clone());
        let mut first = gateway.client().await;
        assert_eq!(first.request(GET_API).await.status(), 200);
        assert_eq!(gateway.client().await.response().await.status(), 503);
        gateway.reload(config.clone()).unwrap();
        assert_eq!(gateway.client().await.response().await.status(), 503, "the open one is remembered");
        config.listeners[0].max_connections = 2;
        gateway.reload(config).unwrap();
        assert_eq!(gateway.client().await.request(GET_API).await.status(), 200);
    });
}

#[test]
fn a_trusted_proxy_is_believed_and_a_stranger_is_not() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let zones = || [rate("api", "1r/m", 0)];
        let stranger = Gateway::start(limited(upstream.address(), zones()));
        let mut client = stranger.client().await;
        assert_eq!(client.request(from("192.0.2.1")).await.status(), 200);
        assert_eq!(client.request(from("192.0.2.2")).await.status(), 429, "it is the peer that counts");
        for header in [RealIp::XForwardedFor, RealIp::Forwarded] {
            let mut config = limited(upstream.address(), zones());
            config.listeners[0].trusted_proxies = vec!["127.0.0.0/8".into(), "10.0.0.0/8".into()];
            config.listeners[0].real_ip = header;
            let trusted = Gateway::start(config);
            let mut client = trusted.client().await;
            assert_eq!(client.request(from("192.0.2.1")).await.status(), 200);
            assert_eq!(client.request(from("192.0.2.1")).await.status(), 429);
            assert_eq!(client.request(from("192.0.2.2")).await.status(), 200);
        }
        let told = upstream.requests().last().unwrap().field("x-real-ip").map(str::to_owned);
        assert_eq!(told.as_deref(), Some("192.0.2.2"), "the upstream is told the same");
    });
}

#[test]
fn an_access_list_looks_at_the_client_behind_the_proxies() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.listeners[0].trusted_proxies = vec!["127.0.0.1".into()];
        config.routes[0].access = ["deny 192.0.2.1", "allow 192.0.2.0/24", "deny all"].map(Into::into).to_vec();
        let gateway = Gateway::start(config);
        let mut client = gateway.client().await;
        let refused = client.request(from("192.0.2.1")).await;
        assert_eq!(refused.status(), 403);
        assert!(refused.text().contains("\"FORBIDDEN\""), "{}", refused.text());
        assert_eq!(client.request(from("192.0.2.7")).await.status(), 200);
        assert_eq!(client.request(GET_API).await.status(), 403, "the proxy itself");
        assert_eq!(upstream.requests().len(), 1);
    });
}

fn header(version: ProxyVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (source, destination) = ("192.0.2.1:4711".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    ProxyHeader::Proxied { source, destination }.encode(version, &mut bytes);
    bytes
}

#[test]
fn a_proxy_header_names_the_client_however_it_is_cut() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.listeners[0].proxy_protocol = true;
        let gateway = Gateway::start(config);
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let whole = [header(version), GET_API.as_bytes().to_vec()].concat();
            for step in [1, 7, whole.len()] {
                let mut client = gateway.client().await;
                for part in whole.chunks(step) {
                    client.send(part).await;
                }
                assert_eq!(client.response().await.status(), 200);
                let told = upstream.requests().last().unwrap().field("x-real-ip").map(str::to_owned);
                assert_eq!(told.as_deref(), Some("192.0.2.1"));
                assert_eq!(client.request(GET_API).await.status(), 200, "once per connection");
            }
        }
        // A health check of the proxy itself.
        let mut check = gateway.client().await;
        check.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await;
        assert_eq!(check.request(GET_API).await.status(), 200);
        let told = upstream.requests().last().unwrap().field("x-real-ip").map(str::to_owned);
        assert_eq!(told.as_deref(), Some("127.0.0.1"));
    });
}

#[test]
fn a_connection_without_its_proxy_header_is_closed_and_counted() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.listeners[0].proxy_protocol = true;
        config.client.header_timeout = std::time::Duration::from_millis(300);
        let gateway = Gateway::start(config.clone());
        let refused = |reason| format!(r#"tidegate_connections_refused_total{{listener="public",reason="{reason}"}}"#);
        let mut plain = gateway.client().await;
        plain.send(GET_API).await;
        assert!(plain.is_closed().await);
        gateway.until(&refused("bad_proxy_header"), 1).await;
        let mut slow = gateway.client().await;
        slow.send("PROXY TCP4 192.0").await;
        assert!(slow.is_closed().await);
        gateway.until(&refused("late_proxy_header"), 1).await;
        config.listeners[0].trusted_proxies = vec!["192.0.2.0/24".into()];
        gateway.reload(config).unwrap();
        let mut stranger = gateway.client().await;
        stranger.send(header(ProxyVersion::V1)).await;
        stranger.send(GET_API).await;
        assert!(stranger.is_closed().await);
        gateway.until(&refused("untrusted_proxy"), 1).await;
        assert!(upstream.requests().is_empty());
    });
}

#[test]
fn a_connection_ends_after_its_last_request() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.client.keepalive_requests = 3;
        let gateway = Gateway::start(config);
        let mut client: RawClient = gateway.client().await;
        for count in 1..=3 {
            let answer = client.request(GET_API).await;
            assert_eq!(answer.field("connection"), (count == 3).then_some("close"));
        }
        assert!(client.is_closed().await);
    });
}

#[test]
fn heads_are_bounded_as_configured() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.client.max_header_bytes = 10 << 10;
        config.client.max_headers = 10;
        let gateway = Gateway::start(config);
        let ask = async |headers: String| {
            let mut client = gateway.client().await;
            client.request(format!("GET /api HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).await.status()
        };
        let many = |count: usize| (0..count).map(|index| format!("X-{index}: 1\r\n")).collect::<String>();
        let long = |bytes: usize| format!("X: {}\r\n", "a".repeat(bytes));
        assert_eq!(ask(many(9)).await, 200);
        assert_eq!(ask(many(10)).await, 431);
        assert_eq!(ask(long(9_000)).await, 200);
        assert_eq!(ask(long(12_000)).await, 431);
    });
}
