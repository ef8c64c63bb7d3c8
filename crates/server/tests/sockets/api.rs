use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tidegate_config::{AccessLog, Config};
use tidegate_server::{Extras, Source};
use tidegate_testkit::{Message, RawClient, Upstream, local};

use crate::harness::{GET_API, Gateway, config};

/// Sends a request to the admin API as a program on this machine would.
async fn ask(gateway: &Gateway, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let answer = send(
        gateway,
        &format!("{method} /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"),
    )
    .await;
    (answer.status(), answer.json())
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
