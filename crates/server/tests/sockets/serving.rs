use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use tidegate_config::{AccessLog, Client, Config, PathMatch, Realtime};
use tidegate_server::{Extras, Server, StartError};
use tidegate_testkit::{RawClient, Upstream, WebSocket, local};

use crate::harness::{GET_API, Gateway, config, realtime};

#[test]
fn a_request_goes_to_its_route_and_carries_its_id_both_ways() {
    local(async {
        let upstream = Upstream::ok("hello").await;
        let gateway = Gateway::before(upstream.address());
        let mut client = gateway.client().await;
        let answer =
            client.request("GET /api/x?a=1 HTTP/1.1\r\nHost: example.org\r\nX-Request-Id: mine-1\r\n\r\n").await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
        assert_eq!(answer.field("x-request-id"), Some("mine-1"));
        let seen = &upstream.requests()[0];
        assert_eq!(seen.field("x-request-id"), Some("mine-1"));
        let again = client.request(GET_API).await;
        assert_eq!(again.status(), 200);
        assert!(again.field("x-request-id").is_some_and(|id| id.len() == 20));
        gateway.until("tidegate_http_requests_total{route=\"all\",status_class=\"2xx\"}", 2).await;
        assert_eq!(gateway.metric("tidegate_http_connections_total").await, 1, "the connection is kept alive");
    });
}

#[test]
fn what_has_no_route_gets_a_json_error_with_a_stable_code() {
    local(async {
        let gateway = Gateway::start(config(None, AccessLog::Off));
        let mut client = gateway.client().await;
        let answer = client.request("GET /nowhere HTTP/1.1\r\nHost: a\r\nX-Request-Id: id-7\r\n\r\n").await;
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let error = &answer.json()["error"];
        assert_eq!((&error["code"], &error["requestId"]), (&json!("NO_ROUTE"), &json!("id-7")));
        assert_eq!(client.request("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 404, "kept alive");
    });
}

#[test]
fn a_dead_upstream_is_a_502_with_the_request_id() {
    local(async {
        let gateway = Gateway::before(Upstream::nobody().await);
        let answer = gateway.client().await.request(GET_API).await;
        assert_eq!(answer.status(), 502);
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "BAD_GATEWAY");
        assert_eq!(error["requestId"].as_str(), answer.field("x-request-id"));
    });
}

#[test]
fn websockets_and_event_streams_pass_and_count_as_open_until_they_end() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let gateway = Gateway::before(upstream.address());
        let mut socket = WebSocket::connect(gateway.address, "/api/ws").await;
        socket.text("ahoy").await;
        assert_eq!(socket.receive_text().await, "ahoy");
        gateway.until("tidegate_tunnels_open{route=\"all\"}", 1).await;
        assert_eq!(gateway.metric("tidegate_http_connections_open").await, 1);
        drop(socket);
        gateway.until("tidegate_http_connections_open", 0).await;
    });
}

#[test]
fn the_realtime_paths_win_over_routes() {
    local(async {
        let upstream = Upstream::ok("backend").await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.realtime = Some(realtime());
        config.routes[0].path = PathMatch::Prefix("/".into());
        let gateway = Gateway::start(config);
        let mut client = gateway.client().await;
        let open = client.request("GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(open.text().starts_with("0{\"sid\":"), "{}", open.text());
        assert!(open.field("x-request-id").is_some());
        assert_eq!(client.request("GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await.text(), "backend");
        let mut socket = WebSocket::connect(gateway.address, "/socket.io/?EIO=4&transport=websocket").await;
        assert!(socket.receive_text().await.starts_with("0{\"sid\":"));
        assert_eq!(gateway.metric("tidegate_http_connections_open").await, 2);
    });
}

#[test]
fn a_second_process_cannot_share_the_port_without_a_word() {
    local(async {
        let gateway = Gateway::start(config(None, AccessLog::Off));
        let mut second = config(None, AccessLog::Off);
        second.listeners[0].address = gateway.address;
        let Err(error) = Server::start(second, Extras::default()) else { panic!("two servers on one port") };
        assert!(matches!(error, StartError::AddressInUse { .. }), "{error}");
        assert!(error.to_string().contains(&gateway.address.to_string()), "{error}");
        assert_eq!(error.exit_code(), 69);
    });
}

#[test]
fn a_route_to_nowhere_is_a_config_error() {
    let mut config = config(Some("127.0.0.1:1".parse().unwrap()), AccessLog::Off);
    config.upstreams.clear();
    let Err(error) = Server::start(config, Extras::default()) else { panic!("a dangling upstream") };
    assert_eq!(error.exit_code(), 64);
    assert!(error.to_string().contains("backend"), "{error}");
}

#[test]
fn clients_that_send_no_head_or_never_come_back_are_closed() {
    local(async {
        let upstream = Upstream::ok("x").await;
        // One short timeout at a time: what must not run out in a test, on however slow a machine, does not run here.
        let (short, long) = (Duration::from_millis(500), Duration::from_secs(600));
        let gateway = |header_timeout, keepalive_timeout| {
            let client = Client { header_timeout, keepalive_timeout, ..Client::default() };
            Gateway::start(Config { client, ..config(Some(upstream.address()), AccessLog::Off) })
        };
        let impatient = gateway(short, long);
        let mut silent = impatient.client().await;
        let mut slow = impatient.client().await;
        slow.send("GET /api HTTP/1.1\r\nHo").await;
        for client in [&mut silent, &mut slow] {
            assert!(client.is_closed().await);
        }
        impatient.until("tidegate_http_connections_open", 0).await;
        let forgetful = gateway(long, short);
        let mut idle = forgetful.client().await;
        assert_eq!(idle.request(GET_API).await.status(), 200);
        assert!(idle.is_closed().await);
        forgetful.until("tidegate_http_connections_open", 0).await;
    });
}

#[test]
fn the_process_can_answer_by_itself_and_serve_admin_paths_everywhere() {
    local(async {
        let answer = |request: &http::Request<hyper::body::Incoming>| {
            (request.uri().path() == "/page").then(|| http::Response::new(Bytes::from_static(b"page")))
        };
        let extras = Extras { local: Some(Arc::new(answer)), admin_everywhere: true, ..Extras::default() };
        let gateway = Gateway::with(config(None, AccessLog::Off), extras);
        let mut client = gateway.client().await;
        assert_eq!(client.request("GET /page HTTP/1.1\r\nHost: a\r\n\r\n").await.text(), "page");
        assert_eq!(
            client.request("GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n").await.json(),
            json!({ "alive": true })
        );
        assert_eq!(client.request("GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 404);
    });
}

#[test]
fn admin_paths_are_on_the_admin_listener_only() {
    local(async {
        let mut config = config(None, AccessLog::Off);
        config.realtime = Some(realtime());
        let gateway = Gateway::start(config);
        assert_eq!(gateway.client().await.request("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 404);
        let (status, health) = gateway.admin("/health").await;
        let health: serde_json::Value = serde_json::from_str(&health).unwrap();
        assert_eq!((status, &health["status"]), (200, &json!("healthy")));
        assert_eq!(gateway.admin("/health/ready").await, (200, "{\"ready\":true}".to_owned()));
        assert_eq!(gateway.admin("/nothing").await.0, 404);
        let mut client = RawClient::connect(gateway.admin).await;
        let refused = client.request("POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!((refused.status(), refused.field("allow")), (405, Some("GET, HEAD")));
    });
}

#[test]
fn a_defect_in_one_exchange_ends_that_connection_only() {
    local(async {
        let answer = |request: &http::Request<hyper::body::Incoming>| {
            assert!(request.uri().path() != "/defect", "a defect, as the test wants it");
            None
        };
        let extras = Extras { local: Some(Arc::new(answer)), ..Extras::default() };
        let mut gateway = Gateway::with(config(None, AccessLog::Off), extras);
        let mut bystander = gateway.client().await;
        assert_eq!(bystander.request("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 404);
        let mut victim = gateway.client().await;
        victim.send("GET /defect HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(victim.is_closed().await);
        assert_eq!(bystander.request("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 404);
        gateway.until("tidegate_http_connections_open", 1).await;
        drop(bystander);
        assert_eq!(gateway.close().await, 0);
    });
}

#[test]
fn pages_of_named_origins_may_bring_cookies_and_those_let_in_by_a_star_may_not() {
    local(async {
        for (origins, allowed, credentials) in [
            (&["https://app.example.org"][..], &["https://app.example.org"][..], &["true"][..]),
            (&["*"], &["*"], &[]),
            (&["https://other.example.org"], &[], &[]),
        ] {
            let mut config = config(None, AccessLog::Off);
            let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
            config.realtime = Some(Realtime { cors_origins: origins, ..realtime() });
            let gateway = Gateway::start(config);
            let request = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example.org\r\n\r\n";
            let answer = RawClient::connect(gateway.address).await.request(request).await;
            assert_eq!(answer.fields("access-control-allow-origin"), allowed);
            assert_eq!(answer.fields("access-control-allow-credentials"), credentials);
        }
    });
}
