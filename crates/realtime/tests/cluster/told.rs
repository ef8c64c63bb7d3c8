//! A backend is told of each thing once, whatever node it asks and wherever the clients are.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_auth::Secret;
use tidegate_outbound::Endpoint;
use tidegate_realtime::{WebhookEvent, WebhookSettings};
use tidegate_testkit::{Upstream, local, patiently};
use tokio::time::sleep;

use crate::harness::Rig;

fn told(backend: &Upstream) -> Vec<String> {
    let bodies = backend.requests().into_iter().map(|request| request.json());
    let events = bodies.flat_map(|body| body["events"].as_array().cloned().unwrap_or_default());
    let mut told: Vec<String> = events
        .map(|event| {
            let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("{} {} {}", text("event"), text("user"), text("room")).trim().to_owned()
        })
        .collect();
    told.sort();
    told
}

#[test]
fn exactly_one_node_tells_a_backend_of_an_event() {
    local(async {
        let backend = Upstream::answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        let endpoint = Arc::new(Endpoint::at(backend.address(), None));
        let all = [
            WebhookEvent::Connect,
            WebhookEvent::Disconnect,
            WebhookEvent::Join,
            WebhookEvent::Leave,
            WebhookEvent::Publish,
        ];
        let webhook = WebhookSettings {
            events: all.into_iter().collect(),
            notify: all.into_iter().filter(|event| event.can_be_asked()).collect(),
            ..WebhookSettings::new("backend", endpoint, Secret::from("0123456789abcdef"))
        };
        let rig = Rig::telling(3, webhook).await;
        let (mut a, mut b) = (rig.client(0, "ada").await, rig.client(1, "bob").await);
        a.join("quay").await;
        b.join("quay").await;
        a.send("quay", "1").await;
        a.ask("room:send", json!({ "room": "quay", "payload": "2", "volatile": true })).await;
        assert_eq!(b.messages(2).await, ["1", "2"]);
        // By a backend that asks a node without clients.
        rig.asked(2, "PUT", "/rooms/pier/members/ada", "").await;
        rig.asked(2, "DELETE", "/rooms/quay/members/ada", "").await;
        rig.asked(2, "DELETE", "/users/bob/connections", "").await;
        rig.asked(2, "DELETE", "/users/ada/connections", "").await;
        let expected = [
            "connect ada",
            "connect bob",
            "disconnect ada",
            "disconnect bob",
            "join ada pier",
            "join ada quay",
            "join bob quay",
            "leave ada quay",
            "publish ada quay",
            "publish ada quay",
        ];
        patiently("everything is told", async {
            while told(&backend).len() < expected.len() {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        // A second telling of anything would come before this.
        let _last = rig.client(2, "eve").await;
        patiently("the last", async {
            while !told(&backend).contains(&"connect eve".to_owned()) {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let mut told = told(&backend);
        told.retain(|event| event != "connect eve");
        assert_eq!(told, expected);
    });
}
