use std::path::Path;

use tidegate_config::{AccessFormat, AccessLog, Action, Jwt, JwtMode, PathMatch, Route};
use tidegate_testkit::{RawClient, Upstream, WebSocket, local, patiently};

use crate::harness::{GET_API, Gateway, SECRET, config, lines, token};
use crate::secure::{Authority, client};

/// Waits until a file has so many lines.
async fn until_lines(log: &Path, count: usize) {
    let enough = async {
        while std::fs::read_to_string(log).unwrap_or_default().lines().count() < count {
            tokio::task::yield_now().await;
        }
    };
    patiently("the lines", enough).await;
}

#[test]
fn a_line_tells_the_listener_the_protocol_and_the_upstreams_part() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.log");
        let upstream = Upstream::ok("hello").await;
        let mut gateway = Gateway::logging(Some(upstream.address()), &log);
        let mut client = gateway.client().await;
        for _ in 0..2 {
            assert_eq!(client.request(GET_API).await.status(), 200);
        }
        drop(client);
        gateway.close().await;
        let lines = lines(&log);
        let [first, second] = &lines[..] else { panic!("{lines:?}") };
        for line in &lines {
            assert_eq!((line["listener"].as_str(), line["scheme"].as_str()), (Some("public"), Some("http")), "{line}");
            assert_eq!((line["http"].as_str(), line["upstream_status"].as_u64()), (Some("1.1"), Some(200)), "{line}");
            assert!(line["upstream_header_ms"].as_f64() > Some(0.0), "{line}");
        }
        assert!(first["upstream_connect_ms"].is_number(), "{first}");
        assert!(second.get("upstream_connect_ms").is_none(), "the connection was used again: {second}");
    });
}

#[test]
fn lines_of_many_clients_and_workers_are_whole_and_all_there() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.log");
        let upstream = Upstream::ok("x").await;
        let mut config = config(Some(upstream.address()), AccessLog::File(log.clone()));
        config.workers = 3;
        let mut gateway = Gateway::start(config);
        let path = "x".repeat(2_000);
        let address = gateway.address;
        let clients = (0..20).map(|client| {
            let path = path.clone();
            tokio::task::spawn_local(async move {
                let mut raw = RawClient::connect(address).await;
                for request in 0..20 {
                    let id = format!("X-Request-Id: {client}-{request}");
                    let head = format!("GET /api/{path} HTTP/1.1\r\nHost: a\r\n{id}\r\n\r\n");
                    assert_eq!(raw.request(head).await.status(), 200);
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        gateway.close().await;
        let lines = lines(&log);
        let ids: std::collections::HashSet<_> = lines.iter().map(|line| line["request_id"].to_string()).collect();
        assert_eq!((lines.len(), ids.len()), (400, 400));
    });
}

#[test]
fn a_rotation_loses_no_line_and_the_file_moved_away_is_left_alone() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let (log, moved) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
        let upstream = Upstream::ok("x").await;
        let mut gateway = Gateway::logging(Some(upstream.address()), &log);
        let mut client = gateway.client().await;
        for _ in 0..10 {
            assert_eq!(client.request(GET_API).await.status(), 200);
        }
        until_lines(&log, 10).await;
        std::fs::rename(&log, &moved).unwrap();
        for _ in 0..10 {
            assert_eq!(client.request(GET_API).await.status(), 200);
        }
        gateway.reopen_logs();
        patiently("the new file", async {
            while !log.exists() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let before = std::fs::read_to_string(&moved).unwrap().lines().count();
        for _ in 0..10 {
            assert_eq!(client.request(GET_API).await.status(), 200);
        }
        drop(client);
        gateway.close().await;
        let (old, new) = (lines(&moved), lines(&log));
        assert_eq!(old.len(), before, "nothing is written to it after the new file is there");
        assert_eq!(old.len() + new.len(), 30);
        assert!(new.len() >= 10);
    });
}

#[test]
fn a_reload_moves_new_lines_to_another_file_and_a_tunnel_ends_in_its_own() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("old.log"), directory.path().join("new.log"));
        let upstream = Upstream::websocket_echo().await;
        let mut gateway = Gateway::logging(Some(upstream.address()), &old);
        let mut tunnel = WebSocket::connect(gateway.address, "/api/ws").await;
        tunnel.text("ahoy").await;
        assert_eq!(tunnel.receive_text().await, "ahoy");
        let reloaded = gateway.reload(config(Some(upstream.address()), AccessLog::File(new.clone()))).unwrap();
        assert_eq!(reloaded.waiting, [""; 0]);
        let refused = gateway.client().await.request("GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(refused.status(), 404);
        drop(tunnel);
        gateway.until("tidegate_http_connections_open", 0).await;
        gateway.close().await;
        let kinds = |log: &Path| lines(log).iter().map(|line| line["kind"].to_string()).collect::<Vec<_>>();
        assert_eq!((kinds(&old), kinds(&new)), (vec!["\"websocket\"".to_owned()], vec!["\"http\"".to_owned()]));
    });
}

#[test]
fn a_log_that_cannot_be_opened_refuses_the_new_config_and_changes_nothing() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.log");
        let upstream = Upstream::ok("x").await;
        let mut gateway = Gateway::logging(Some(upstream.address()), &log);
        let nowhere = AccessLog::File("/nonexistent/access.log".into());
        let error = gateway.reload(config(Some(upstream.address()), nowhere)).unwrap_err();
        assert!(error.contains("/nonexistent/access.log"), "{error}");
        assert_eq!(gateway.client().await.request(GET_API).await.status(), 200);
        gateway.close().await;
        assert_eq!(lines(&log).len(), 1);
    });
}

#[test]
fn a_full_disk_costs_lines_which_are_counted_and_no_request() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::logging(Some(upstream.address()), Path::new("/dev/full"));
        let mut client = gateway.client().await;
        for _ in 0..5 {
            assert_eq!(client.request(GET_API).await.status(), 200);
        }
        gateway.until("tidegate_log_lines_dropped_total", 5).await;
    });
}

#[test]
fn a_route_may_have_its_own_file_and_format_or_none_and_its_streams_are_told_of_at_their_begin_too() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let [all, own] = ["all.log", "own.log"].map(|name| directory.path().join(name));
        let (upstream, events) = Upstream::event_stream().await;
        let mut config = config(Some(upstream.address()), AccessLog::File(all.clone()));
        let route = |name: &str, log, format| Route {
            name: name.into(),
            path: PathMatch::Prefix(format!("/{name}").into()),
            log: Some(log),
            log_format: format,
            ..config.routes[0].clone()
        };
        let template = AccessFormat::Template("{kind} {path} {status} {events} {upstream} {header.user-agent}".into());
        let routes = [
            route("streams", AccessLog::File(own.clone()), Some(template)),
            route("more", AccessLog::File(own.clone()), Some(AccessFormat::Combined)),
            route("quiet", AccessLog::Off, None),
        ];
        config.routes.extend(routes);
        let mut gateway = Gateway::start(config);
        let agent = "User-Agent: curl\r\n";
        let mut stream = gateway.client().await;
        stream.send(format!("GET /streams?token=SECRET HTTP/1.1\r\nHost: a\r\n{agent}\r\n")).await;
        assert_eq!(stream.head().await.unwrap().status(), 200);
        until_lines(&own, 1).await;
        assert_eq!(std::fs::read_to_string(&own).unwrap(), "open /streams 200 0 backend curl\n", "while it is open");
        events.send("data: 1\n\n".into()).await.unwrap();
        stream.chunk().await;
        drop((stream, events));
        gateway.until("tidegate_sse_streams_open{route=\"streams\"}", 0).await;
        for path in ["/more", "/quiet", "/none"] {
            let mut client = gateway.client().await;
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{agent}\r\n")).await;
            client.head().await.unwrap();
        }
        gateway.until("tidegate_http_connections_open", 0).await;
        gateway.close().await;
        let own = std::fs::read_to_string(&own).unwrap();
        let own: Vec<_> = own.lines().collect();
        assert_eq!(own[1], "sse /streams 200 1 backend curl");
        // The upstream serves one connection.
        let [combined] = own[2..] else { panic!("{own:?}") };
        assert!(combined.contains("] \"GET /more HTTP/1.1\" 502 "), "{combined}");
        assert!(combined.ends_with(" \"-\" \"curl\""), "{combined}");
        let all = std::fs::read_to_string(&all).unwrap();
        assert_eq!(all.lines().count(), 1, "{all}");
        assert!(all.contains("\"path\":\"/none\""), "{all}");
    });
}

#[test]
fn a_template_knows_the_connection_the_clients_tls_what_follows_the_prefix_and_claims() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.log");
        let (authority, upstream) = (Authority::new(), Upstream::ok("x").await);
        let mut config = authority.simple(upstream.address());
        config.log.access = AccessLog::File(log.clone());
        config.log.access_format = AccessFormat::Template(
            "{status} {scheme} {tls.version} {tls.sni} {prefix_rest} {claim.sub} {connection_requests} {connection}"
                .into(),
        );
        config.workers = 3;
        config.jwt = Some(Jwt::new(SECRET.into()));
        let mut closed = Route { path: PathMatch::Prefix("/closed".into()), ..config.routes[0].clone() };
        (closed.name, closed.jwt) = ("closed".into(), JwtMode::Required);
        let told = ["{connection} {connection_requests} {tls.sni} {claim.sub} {prefix_rest}"];
        closed.response_headers.set = told.iter().map(|told| format!("X-Told: {told}").into()).collect();
        let fixed = Action::Respond { status: 201, body: "".into(), content_type: "text/plain".into() };
        let fixed =
            Route { name: "fixed".into(), path: PathMatch::Prefix("/fixed".into()), action: fixed, ..closed.clone() };
        config.routes.extend([closed, fixed]);
        let mut gateway = Gateway::start(config);
        let bearer = format!("Authorization: Bearer {}\r\n", token("ann", 99_999_999_999));
        let mut told = Vec::new();
        for (path, fields) in [("/api/a", ""), ("/closed/b", &*bearer), ("/fixed/c", &bearer), ("/closed/d", "")] {
            let mut client = client(gateway.address, authority.client(false)).await;
            for _ in 0..2 {
                let answer = client.request(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
                told.extend(answer.field("x-told").map(str::to_owned));
            }
        }
        gateway.until("tidegate_http_connections_open", 0).await;
        gateway.close().await;
        let text = std::fs::read_to_string(&log).unwrap();
        let mut lines: Vec<_> = text.lines().map(|line| line.rsplit_once(' ').unwrap()).collect();
        // Each worker writes its lines together.
        lines.sort_unstable();
        let (lines, numbers): (Vec<_>, Vec<_>) = lines.into_iter().unzip();
        let tls = "https TLSv1.3 localhost";
        let expected = ["200 {} /a - 1", "200 {} /a - 2", "200 {} /b ann 1", "200 {} /b ann 2", "201 {} /c ann 1"];
        let more = ["201 {} /c ann 2", "401 {} /d - 1", "401 {} /d - 2"];
        let expected: Vec<_> = expected.iter().chain(&more).map(|line| line.replace("{}", tls)).collect();
        assert_eq!(lines, expected);
        for pair in numbers.chunks(2) {
            assert_eq!(pair[0], pair[1], "{numbers:?}");
        }
        let different: std::collections::HashSet<_> = numbers.iter().collect();
        assert_eq!(different.len(), 4, "{numbers:?}");
        assert_eq!(told[1], format!("{} 2 localhost ann /b", numbers[2]), "{told:?}");
        assert_eq!(told[2], format!("{} 1 localhost ann /c", numbers[4]), "{told:?}");
        assert_eq!(told[4], format!("{} 1 localhost  /d", numbers[6]), "{told:?}");
    });
}

#[test]
fn lines_over_tls_say_https_in_json_too_and_a_tunnels_line_keeps_what_it_needs_to_its_end() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let [json, own] = ["json.log", "own.log"].map(|name| directory.path().join(name));
        let (authority, upstream) = (Authority::new(), Upstream::websocket_echo().await);
        let mut config = authority.simple(upstream.address());
        config.log.access = AccessLog::File(json.clone());
        let mut tunnel = Route { path: PathMatch::Prefix("/ws".into()), ..config.routes[0].clone() };
        (tunnel.name, tunnel.log) = ("ws".into(), Some(AccessLog::File(own.clone())));
        tunnel.log_format = Some(AccessFormat::Template("{kind} {scheme} {tls.sni} {prefix_rest} {connection}".into()));
        config.routes.push(tunnel);
        let mut gateway = Gateway::start(config);
        let mut socket =
            WebSocket::open(client(gateway.address, authority.client(false)).await, "/ws/room?token=x").await;
        socket.text("x").await;
        assert_eq!(socket.receive_text().await, "x");
        drop(socket);
        gateway.until("tidegate_http_connections_open", 0).await;
        let mut client = client(gateway.address, authority.client(false)).await;
        client.request("GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await;
        gateway.close().await;
        let own = std::fs::read_to_string(own).unwrap();
        assert_eq!(own, "open https localhost /room 1\nwebsocket https localhost /room 1\n");
        assert_eq!(lines(&json)[0]["scheme"], "https");
    });
}
