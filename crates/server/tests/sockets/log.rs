use tidegate_testkit::{Upstream, WebSocket, local};

use crate::harness::{GET_API, Gateway, config, lines, realtime};
use tidegate_config::AccessLog;

#[test]
fn an_exchange_leaves_one_line_that_tells_everything_but_secrets() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.log");
        let upstream = Upstream::ok("hello").await;
        let mut gateway = Gateway::logging(Some(upstream.address()), &log);
        let mut client = gateway.client().await;
        let request = "POST /api/x?token=SECRET1&sid=SECRET2 HTTP/1.1\r\nHost: example.org\r\nContent-Length: 4\r\n\
            Authorization: Bearer SECRET3\r\nCookie: tidegate_token=SECRET4\r\nX-Request-Id: id-1\r\n\r\nbody";
        assert_eq!(client.request(request).await.status(), 200);
        drop(client);
        assert_eq!(gateway.close().await, 0);
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(!text.contains("SECRET"), "{text}");
        let lines = lines(&log);
        assert_eq!(lines.len(), 1, "{text}");
        let line = &lines[0];
        let upstream = upstream.address().to_string();
        for (key, value) in [
            ("kind", "http"),
            ("level", "info"),
            ("request_id", "id-1"),
            ("method", "POST"),
            ("host", "example.org"),
            ("path", "/api/x"),
            ("route", "all"),
            ("upstream", &upstream),
            ("reason", "client_closed"),
        ] {
            assert_eq!(line[key], value, "{line}");
        }
        for (key, value) in [("status", 200), ("bytes_in", 4), ("bytes_out", 5)] {
            assert_eq!(line[key], value, "{line}");
        }
        assert!(line["duration_ms"].is_number() && line["ttfb_ms"].is_number(), "{line}");
        assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert!(line["ts"].as_str().unwrap().ends_with('Z'));
    });
}

#[test]
fn refusals_failures_and_unreadable_requests_are_logged_too() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.log");
        let mut gateway = Gateway::logging(Some(Upstream::nobody().await), &log);
        let statuses = [
            ("GET /none HTTP/1.1\r\nHost: a\r\n\r\n", 404),
            (GET_API, 502),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("NONSENSE\r\n\r\n", 400),
        ];
        for (request, status) in statuses {
            assert_eq!(gateway.client().await.request(request).await.status(), status, "{request:?}");
        }
        gateway.until("tidegate_bad_requests_total{reason=\"malformed\"}", 1).await;
        gateway.close().await;
        let logged: Vec<_> = lines(&log).iter().map(|line| line["status"].as_u64().unwrap()).collect();
        assert_eq!(logged, [404, 502, 400, 400]);
    });
}

#[test]
fn tunnels_and_sessions_leave_one_line_at_their_end() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.log");
        let upstream = Upstream::websocket_echo().await;
        let mut config = config(Some(upstream.address()), AccessLog::File(log.clone()));
        config.realtime = Some(realtime());
        let mut gateway = Gateway::start(config);
        let mut tunnel = WebSocket::connect(gateway.address, "/api/ws").await;
        tunnel.text("ahoy").await;
        assert_eq!(tunnel.receive_text().await, "ahoy");
        let mut session = WebSocket::connect(gateway.address, "/socket.io/?EIO=4&transport=websocket").await;
        session.receive_text().await;
        drop((tunnel, session));
        gateway.until("tidegate_http_connections_open", 0).await;
        gateway.close().await;
        let lines = lines(&log);
        let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
        let [tunnel] = of("websocket")[..] else { panic!("{lines:?}") };
        assert_eq!((tunnel["status"].as_u64(), tunnel["path"].as_str()), (Some(101), Some("/api/ws")));
        assert!(tunnel["bytes_in"].as_u64() > Some(0) && tunnel["bytes_out"].as_u64() > Some(0));
        let [session] = of("socketio")[..] else { panic!("{lines:?}") };
        assert_eq!((session["status"].as_u64(), session["transport"].as_str()), (Some(101), Some("websocket")));
    });
}
