use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tidegate_config::{AccessLog, Config};
use tidegate_server::{Extras, Source};
use tidegate_testkit::{Message, RawClient, Upstream, WebSocket, local};

use crate::harness::{GET_API, Gateway, config, realtime};

/// Sends a request to the admin API as a program on this machine would.
async fn ask(gateway: &Gateway, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let (status, text) = ask_raw(gateway, method, path, body).await;
    (status, serde_json::from_str(&text).unwrap())
}

async fn ask_raw(gateway: &Gateway, method: &str, path: &str, body: &Value) -> (u16, String) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let answer = send(
        gateway,
        &format!("{method} /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"),
    )
    .await;
    (answer.status(), answer.text())
}

async fn send(gateway: &Gateway, request: &str) -> Message {
    RawClient::connect(gateway.admin).await.request(request).await
}

/// A gateway whose config "file" is what the mutex holds.
fn with_source(first: Config, next: &Arc<Mutex<Result<Config, String>>>) -> Gateway {
    let next = next.clone();
    let source =
        Source { file: "tidegate.toml".into(), watch: false, read: Arc::new(move || next.lock().unwrap().clone()) };
    Gateway::with(first, Extras { source: Some(source), ..Extras::default() })
}

#[test]
fn a_reload_says_what_it_did_or_all_that_is_wrong() {
    local(async {
        let (old, new) = (Upstream::ok("old").await, Upstream::ok("new").await);
        let first = config(Some(old.address()), AccessLog::Off);
        let next = Arc::new(Mutex::new(Err("3 problems\n1:2 …".to_owned())));
        let gateway = with_source(first, &next);
        let (status, body) = ask(&gateway, "POST", "reload", &Value::Null).await;
        assert_eq!((status, &body["error"]["message"]), (400, &json!("3 problems\n1:2 …")));
        assert_eq!(gateway.client().await.request(GET_API).await.text(), "old");
        *next.lock().unwrap() = Ok(config(Some(new.address()), AccessLog::Off));
        let (status, body) = ask(&gateway, "POST", "reload", &Value::Null).await;
        assert_eq!((status, body), (200, json!({ "generation": 2, "waitingForRestart": [] })));
        assert_eq!(gateway.client().await.request(GET_API).await.text(), "new");
    });
}

#[test]
fn the_config_in_force_is_shown_with_every_default() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::before(upstream.address());
        let answer = send(&gateway, "GET /api/v1/config HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
        assert_eq!(answer.status(), 200);
        assert!(answer.text().contains(&format!("{}", upstream.address())), "{}", answer.text());
    });
}

#[test]
fn pages_of_other_sites_are_kept_out() {
    local(async {
        let gateway = Gateway::before(Upstream::nobody().await);
        for head in ["Host: evil.example", "Host: localhost\r\nOrigin: https://evil.example"] {
            let answer = send(&gateway, &format!("POST /api/v1/reload HTTP/1.1\r\n{head}\r\n\r\n")).await;
            assert_eq!(answer.status(), 403, "{head}");
        }
    });
}

#[test]
fn what_is_not_there_is_said_with_the_methods_that_are() {
    local(async {
        let gateway = Gateway::before(Upstream::nobody().await);
        assert_eq!(ask(&gateway, "GET", "nothing", &Value::Null).await.0, 404);
        assert_eq!(ask(&gateway, "GET", "%zz", &Value::Null).await.0, 400);
        let answer = send(&gateway, "GET /api/v1/reload HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!((answer.status(), answer.field("allow")), (405, Some("POST")));
    });
}

async fn listed(gateway: &Gateway, query: &str) -> Vec<Value> {
    let (status, body) = ask(gateway, "GET", &format!("connections{query}"), &Value::Null).await;
    assert_eq!(status, 200, "{body}");
    body["connections"].as_array().unwrap().clone()
}

#[test]
fn open_streams_are_listed_by_what_one_looks_for_and_closed_one_by_one() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let gateway = Gateway::before(upstream.address());
        let mut first = WebSocket::connect(gateway.address, "/api/a").await;
        let mut second = WebSocket::connect(gateway.address, "/api/b").await;
        first.text("hello").await;
        assert_eq!(first.receive_text().await, "hello");
        let address = upstream.address();
        for query in [
            String::new(),
            "?kind=websocket&route=all".into(),
            format!("?upstream=backend&server={address}&client=127.0.0.1"),
        ] {
            assert_eq!(listed(&gateway, &query).await.len(), 2, "{query}");
        }
        for query in ["?kind=sse", "?route=none", "?listener=other", "?client=127.0.0.2", "?limit=0"] {
            assert_eq!(listed(&gateway, query).await.len(), 0, "{query}");
        }
        assert_eq!(ask(&gateway, "GET", "connections?colour=red", &Value::Null).await.0, 400);
        let streams = listed(&gateway, "").await;
        let talkative = streams.iter().find(|stream| stream["bytesIn"].as_u64() > Some(0)).unwrap();
        assert_eq!(talkative["kind"], "websocket");
        let id = talkative["id"].to_string();
        assert_eq!(
            ask(&gateway, "DELETE", &format!("connections/{id}"), &Value::Null).await,
            (202, json!({ "askedToGo": 1 }))
        );
        assert!(first.receive().await.is_some_and(|frame| frame.first == 0x88), "told with a Close frame");
        second.text("still").await;
        assert_eq!(second.receive_text().await, "still");
        assert_eq!(ask(&gateway, "DELETE", "connections/999999", &Value::Null).await.0, 404);
        assert_eq!(ask(&gateway, "DELETE", "connections", &json!({})).await.0, 400, "not everything by mistake");
        assert_eq!(ask(&gateway, "DELETE", "connections", &json!({ "route": "all", "rate": 0 })).await.0, 202);
        assert!(second.receive().await.is_some_and(|frame| frame.first == 0x88));
    });
}

#[test]
fn a_drained_route_takes_nobody_new_until_it_is_used_again() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let gateway = Gateway::before(upstream.address());
        let mut tunnel = WebSocket::connect(gateway.address, "/api/a").await;
        let (status, body) = ask(&gateway, "POST", "drain", &json!({ "route": "all", "rate": 0 })).await;
        assert_eq!((status, body), (202, json!({ "askedToGo": 1 })));
        assert_eq!(gateway.client().await.request(GET_API).await.status(), 503);
        let frame = tunnel.receive().await.unwrap();
        assert_eq!((frame.first, u16::from_be_bytes([frame.payload[0], frame.payload[1]])), (0x88, 1012));
        assert_eq!(ask(&gateway, "DELETE", "drain", &json!({ "route": "all" })).await.0, 200);
        let mut tunnel = WebSocket::connect(gateway.address, "/api/a").await;
        tunnel.text("again").await;
        assert_eq!(tunnel.receive_text().await, "again");
        assert_eq!(ask(&gateway, "POST", "drain", &json!({ "route": "none" })).await.0, 404);
    });
}

#[test]
fn a_drained_listener_closes_its_port_and_opens_the_same_again() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::before(upstream.address());
        let mut client = gateway.client().await;
        assert_eq!(client.request(GET_API).await.status(), 200);
        assert_eq!(ask(&gateway, "POST", "drain", &json!({ "listener": "public" })).await.0, 202);
        assert!(tokio::net::TcpStream::connect(gateway.address).await.is_err());
        assert!(client.is_closed().await);
        assert_eq!(ask(&gateway, "DELETE", "drain", &json!({ "listener": "public" })).await.0, 200);
        assert_eq!(gateway.client().await.request(GET_API).await.status(), 200);
    });
}

#[test]
fn servers_are_shown_and_taken_out_of_use_and_into_it() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let gateway = Gateway::before(upstream.address());
        let mut tunnel = WebSocket::connect(gateway.address, "/api/a").await;
        let (_, body) = ask(&gateway, "GET", "upstreams", &Value::Null).await;
        let server = &body["upstreams"][0]["servers"][0];
        let address = upstream.address().to_string();
        assert_eq!(
            (&server["address"], &server["tunnels"], &server["unavailable"]),
            (&json!(address), &json!(1), &json!(null))
        );
        let place = format!("upstreams/backend/servers/{address}");
        let (status, body) = ask(&gateway, "PATCH", &place, &json!({ "state": "drain", "weight": 7 })).await;
        assert_eq!(
            (status, &body["servers"][0]["unavailable"], &body["servers"][0]["weight"]),
            (200, &json!("draining"), &json!(7))
        );
        assert_eq!(body["events"].as_array().unwrap().len(), 2, "{body}");
        assert!(tunnel.receive().await.is_some_and(|frame| frame.first == 0x88));
        assert_eq!(gateway.client().await.request(GET_API).await.status(), 503);
        assert_eq!(ask(&gateway, "PATCH", &place, &json!({ "state": "up" })).await.0, 200);
        WebSocket::connect(gateway.address, "/api/a").await;
        for bad in [json!({}), json!({ "weight": 0 }), json!({ "state": "sideways" }), json!({ "wait": 1 })] {
            assert_eq!(ask(&gateway, "PATCH", &place, &bad).await.0, 400, "{bad}");
        }
        assert_eq!(ask(&gateway, "PATCH", "upstreams/backend/servers/1.2.3.4:5", &json!({ "weight": 1 })).await.0, 404);
        assert_eq!(ask(&gateway, "GET", "upstreams/none", &Value::Null).await.0, 404);
    });
}

#[test]
fn the_description_names_every_path_and_method_that_there_is() {
    local(async {
        let gateway = Gateway::before(Upstream::nobody().await);
        let answer = send(&gateway, "GET /api/v1/openapi.yaml HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let text = answer.text();
        let mut path = String::new();
        let mut seen = 0;
        for line in text.lines() {
            if let Some(found) = line.strip_prefix("  /").and_then(|line| line.strip_suffix(':')) {
                path = found.replace("{upstream}", "backend").replace("{server}", "x:1").replace("{id}", "7");
            }
            let method = line.strip_prefix("    ").and_then(|line| line.strip_suffix(':')).unwrap_or_default();
            if matches!(method, "get" | "post" | "patch" | "delete") {
                seen += 1;
                // The process itself is not drained here.
                let body = if path == "drain" { json!({ "route": "none" }) } else { Value::Null };
                let (status, body) = ask_raw(&gateway, &method.to_uppercase(), &path, &body).await;
                assert!(status != 405 && !body.contains("No such thing"), "{method} {path}: {status} {body}");
            }
        }
        assert_eq!(seen, 12);
    });
}

#[test]
fn the_realtime_server_is_cleaned_up_on_the_admin_listener_only() {
    local(async {
        let mut config = config(None, AccessLog::Off);
        config.realtime = Some(realtime());
        let gateway = Gateway::with(config, Extras::default());
        let cleanup = "POST /websocket/cleanup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
        let answer = send(&gateway, cleanup).await;
        assert_eq!(answer.status(), 200);
        let body: Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!((&body["success"], &body["removed"]), (&json!(true), &json!({ "rooms": 0, "sessions": 0 })));
        assert_eq!(send(&gateway, &cleanup.replace("POST", "GET")).await.status(), 405);
        let elsewhere = send(&gateway, &cleanup.replace("localhost", "example.org")).await;
        assert_eq!(elsewhere.status(), 403, "a page of somebody else in a browser on this machine");
        let public = RawClient::connect(gateway.address).await.request(cleanup).await;
        assert_eq!(public.status(), 404);
    });
}
