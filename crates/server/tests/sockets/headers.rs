//! What routes change of headers, on the way there and back.

use std::time::Duration;

use tidegate_config::{AccessLog, Action, Config, Cors, PathChange, Patience, Route, SecurityHeaders};
use tidegate_testkit::{Message, Upstream, WebSocket, local};

use crate::harness::{Gateway, config};
use crate::routing::{prefix, serving, texts};

async fn ask(gateway: &Gateway, head: &str) -> Message {
    gateway.client().await.request(format!("{head}\r\n\r\n")).await
}

fn with(upstream: &Upstream, change: impl Fn(&mut Route)) -> Config {
    let mut config = config(Some(upstream.address()), AccessLog::Off);
    config.routes[0].path = prefix("/");
    change(&mut config.routes[0]);
    config
}

#[test]
fn request_headers_are_set_added_and_removed_before_the_upstream_sees_them() {
    local(async {
        let upstream = Upstream::ok("").await;
        let gateway = Gateway::start(with(&upstream, |route| {
            route.request_headers.set = texts(&[
                "Host: app.internal",
                "X-Forwarded-Proto: https",
                "X-Auth: gateway",
                "X-Trace: {method} {path} {header.x-b} {route}",
                "X-Empty: {query.none}",
            ]);
            route.request_headers.add = texts(&["X-B: ours"]);
            route.request_headers.remove = texts(&["Cookie", "X-Real-IP"]);
        }));
        // A client that names our field in Connection does not get rid of it.
        let head = "GET /a?b HTTP/1.1\r\nHost: example.org\r\nConnection: X-Auth\r\nX-Auth: forged\r\nX-B: theirs\r\n\
                    Cookie: a=b\r\nX-Empty: x\r\nX-Forwarded-For: 192.0.2.1\r\nX-Real-IP: 192.0.2.1";
        assert_eq!(ask(&gateway, head).await.status(), 200);
        let seen = &upstream.requests()[0];
        assert_eq!(seen.fields("host"), ["app.internal"]);
        assert_eq!(seen.fields("x-forwarded-host"), ["example.org"]);
        assert_eq!(seen.fields("x-forwarded-proto"), ["https"]);
        assert_eq!(seen.fields("x-forwarded-for"), ["192.0.2.1, 127.0.0.1"]);
        assert_eq!(seen.fields("x-real-ip"), [""; 0]);
        assert_eq!(seen.fields("x-auth"), ["gateway"]);
        assert_eq!(seen.fields("x-trace"), ["GET /a theirs all"]);
        assert_eq!(seen.fields("x-b"), ["theirs", "ours"]);
        assert_eq!((seen.field("cookie"), seen.field("x-empty")), (None, None));
    });
}

#[test]
fn response_headers_are_changed_on_every_answer_of_the_route() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let nobody = Upstream::nobody().await;
        let change = |route: &mut Route| {
            route.response_headers.set =
                texts(&["Server: gateway", "X-Served: {upstream} {upstream_status} {method} {header.x-a}"]);
            route.response_headers.remove = texts(&["Sec-WebSocket-Extensions", "X-Powered-By"]);
            route.security = Some(SecurityHeaders { csp: None, ..SecurityHeaders::default() });
        };
        let mut config = with(&upstream, change);
        config.upstreams.push(tidegate_config::Upstream::new("gone", &[nobody.to_string().as_str()]));
        let mut more = [
            Route::new("gone", "/gone", Action::upstream("gone")),
            Route::new("moved", "/moved", Action::Redirect { to: "/x".into(), status: 301 }),
            Route { methods: texts(&["PUT"]), ..Route::new("puts", "/puts", Action::upstream("gone")) },
        ];
        more.iter_mut().for_each(change);
        config.routes.extend(more);
        let gateway = Gateway::start(config);
        let mut tunnel = gateway.client().await;
        let upgraded = {
            tunnel.send(WebSocket::handshake("/ws", "X-A: 1\r\n")).await;
            tunnel.head().await.unwrap()
        };
        let answers = [
            (upgraded, 101, "backend 101 GET 1"),
            (ask(&gateway, "GET /gone HTTP/1.1\r\nHost: a\r\nX-A: 2").await, 502, "gone  GET 2"),
            (ask(&gateway, "GET /moved HTTP/1.1\r\nHost: a").await, 301, "GET"),
            (ask(&gateway, "GET /puts HTTP/1.1\r\nHost: a").await, 405, "GET"),
        ];
        for (answer, status, served) in answers {
            assert_eq!(answer.status(), status);
            assert_eq!(answer.fields("server"), ["gateway"], "{status}");
            assert_eq!(answer.field("x-served").map(str::trim), Some(served), "{status}");
            assert_eq!(answer.fields("x-frame-options"), ["SAMEORIGIN"], "{status}");
            assert_eq!(answer.fields("strict-transport-security"), [""; 0], "not without TLS");
            assert_eq!(answer.fields("content-security-policy"), [""; 0]);
        }
    });
}

#[test]
fn a_security_header_of_the_upstream_stays() {
    local(async {
        let upstream = Upstream::answers("HTTP/1.1 200 OK\r\nX-Frame-Options: DENY\r\nContent-Length: 0\r\n\r\n").await;
        let gateway = Gateway::start(with(&upstream, |route| route.security = Some(SecurityHeaders::default())));
        let answer = ask(&gateway, "GET / HTTP/1.1\r\nHost: a").await;
        assert_eq!(answer.fields("x-frame-options"), ["DENY"]);
        assert_eq!(answer.fields("x-content-type-options"), ["nosniff"]);
    });
}

#[test]
fn a_preflight_is_answered_here_and_answers_say_who_may_read_them() {
    local(async {
        let upstream = Upstream::answers(
            "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        let cors = Cors {
            origins: texts(&["https://app.example.org", "https://*.example.net"]),
            credentials: true,
            expose: texts(&["x-total"]),
            max_age: Duration::from_secs(60),
            ..Cors::default()
        };
        let gateway = Gateway::start(with(&upstream, |route| {
            route.cors = Some(cors.clone());
            // Preflights come with OPTIONS, and without a token.
            route.methods = texts(&["GET", "POST"]);
        }));
        let preflight = |origin: &str, method: &str| {
            format!(
                "OPTIONS /x HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: {method}\r\n\
                 Access-Control-Request-Headers: last-event-id"
            )
        };
        let mut client = gateway.client().await;
        client.send(format!("{}\r\n\r\n", preflight("https://a.example.net", "POST"))).await;
        let answer = client.message(true).await.unwrap();
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.fields("access-control-allow-origin"), ["https://a.example.net"]);
        assert_eq!(answer.fields("access-control-allow-headers"), ["last-event-id"]);
        assert_eq!(answer.fields("access-control-allow-credentials"), ["true"]);
        assert_eq!(answer.fields("access-control-max-age"), ["60"]);
        assert_eq!(ask(&gateway, &preflight("https://evil.com", "GET")).await.status(), 403);
        assert_eq!(ask(&gateway, &preflight("https://app.example.org", "DELETE")).await.status(), 405);
        assert_eq!(upstream.requests().len(), 0);
        let answer = ask(&gateway, "GET / HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example.org").await;
        assert_eq!(answer.fields("access-control-allow-origin"), ["https://app.example.org"]);
        assert_eq!(answer.fields("access-control-expose-headers"), ["x-total"]);
        assert_eq!(answer.fields("vary"), ["Accept", "origin"]);
        let answer = ask(&gateway, "GET / HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.com").await;
        assert_eq!(answer.fields("access-control-allow-origin"), [""; 0], "the upstream's star does not get through");
    });
}

#[test]
fn a_config_built_in_code_with_a_faulty_template_does_not_start() {
    let mut config = serving(vec![Route::new("bad", "/", Action::Redirect { to: "{nope}".into(), status: 301 })]);
    let action = Action::Upstream { name: "x".into(), path: PathChange::Keep, patience: Patience::default() };
    for (action, expected) in [(None, "there is no variable {nope}"), (Some(action), "there is no upstream")] {
        if let Some(action) = action {
            config.routes[0].action = action;
        }
        let error = tidegate_server::Server::start(config.clone(), Default::default()).err().unwrap().to_string();
        assert!(error.contains("\"bad\"") && error.contains(expected), "{error}");
    }
}
