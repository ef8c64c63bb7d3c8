//! Clients that are slow on purpose: slowhttptest (Debian), each attack with more connections than the server has workers by far.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tidegate_config::{AccessLog, Config};
use tidegate_testkit::{Upstream, local, patiently};

use crate::harness::{GET_API, Gateway, config};

const CONNECTIONS: u64 = 200;

fn attack(gateway: &Gateway, arguments: &[&str]) -> Child {
    Command::new("slowhttptest")
        .args(arguments)
        .args(["-c", &CONNECTIONS.to_string(), "-r", "200", "-p", "30", "-v", "1"])
        .args(["-u", &format!("http://{}/api/x", gateway.address)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("slowhttptest is installed")
}

/// Waits until all of the attack's connections are open at the same time, and looks whether others are served meanwhile.
async fn others_are_served(gateway: &Gateway) {
    patiently("the attack", async { while gateway.metric("tidegate_http_connections_open").await < CONNECTIONS {} })
        .await;
    assert_eq!(gateway.client().await.request(GET_API).await.status(), 200);
}

/// The attack's own end, though it would go on for minutes: the server has closed its connections.
async fn given_up(attack: Child) {
    let output = tokio::task::spawn_blocking(|| attack.wait_with_output());
    let output = patiently("the attack's end", output).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("No open connections left"), "{said}");
}

fn impatient(upstream: &Upstream) -> Config {
    config(Some(upstream.address()), AccessLog::Off)
}

#[test]
fn slow_heads_are_cut_off_and_disturb_nobody() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut config = impatient(&upstream);
        config.client.header_timeout = Duration::from_secs(5);
        let gateway = Gateway::start(config);
        let attack = attack(&gateway, &["-H", "-i", "1", "-l", "240"]);
        others_are_served(&gateway).await;
        given_up(attack).await;
        gateway.until("tidegate_http_connections_open", 0).await;
    });
}

#[test]
fn slow_bodies_are_cut_off_by_their_rate_and_disturb_nobody() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut config = impatient(&upstream);
        config.client.body_min_rate = 1000;
        let gateway = Gateway::start(config);
        let attack = attack(&gateway, &["-B", "-i", "1", "-l", "240", "-s", "100000"]);
        others_are_served(&gateway).await;
        given_up(attack).await;
        gateway.until("tidegate_http_connections_open", 0).await;
        gateway.until(r#"tidegate_http_requests_total{route="all",status_class="4xx"}"#, CONNECTIONS).await;
    });
}

#[test]
fn slow_readers_hold_their_connections_and_disturb_nobody() {
    local(async {
        let upstream = Upstream::ok(&"x".repeat(300_000)).await;
        let gateway = Gateway::start(impatient(&upstream));
        let mut attack = attack(&gateway, &["-X", "-n", "1", "-l", "240", "-w", "10", "-y", "20", "-z", "5"]);
        others_are_served(&gateway).await;
        attack.kill().unwrap();
        attack.wait().unwrap();
        gateway.until("tidegate_http_connections_open", 0).await;
    });
}

#[test]
fn a_body_that_comes_too_slowly_is_answered_with_408() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut config = impatient(&upstream);
        config.client.body_min_rate = 100;
        let gateway = Gateway::start(config);
        let mut slow = gateway.client().await;
        slow.send("POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\na").await;
        let refused = slow.response().await;
        assert_eq!(refused.status(), 408);
        assert!(refused.text().contains("\"REQUEST_TIMEOUT\""), "{}", refused.text());
        assert!(slow.is_closed().await);
    });
}
