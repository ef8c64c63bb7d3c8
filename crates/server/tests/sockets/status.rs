//! nginx's status page, as those who read nginx's take it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tidegate_testkit::{Upstream, WebSocket, local, patiently};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::harness::{GET_API, Gateway};

/// Active, accepts, handled, requests, reading, writing, waiting.
type Figures = [u64; 7];

/// As the exporters scan it: the text with figures in their places, and nothing else.
fn scan(page: &str) -> Figures {
    let mut figures = Vec::new();
    let mut shape = String::new();
    for part in page.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit());
        if !digits.is_empty() {
            figures.push(digits.parse().unwrap());
            shape.push('N');
        }
        shape.push_str(&part[digits.len()..]);
    }
    let nginx = "Active connections: N \nserver accepts handled requests\n N N N \nReading: N Writing: N Waiting: N \n";
    assert_eq!(shape, nginx);
    figures.try_into().unwrap()
}

async fn until(gateway: &Gateway, expected: Figures) {
    let page = async {
        loop {
            let (status, page) = gateway.admin("/nginx_status").await;
            assert_eq!(status, 200);
            if scan(&page) == expected {
                return;
            }
        }
    };
    patiently(&format!("{expected:?}"), page).await;
}

#[test]
fn every_connection_is_read_from_written_to_or_waits() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::before(upstream.address());
        until(&gateway, [0; 7]).await;
        let silent = gateway.client().await;
        until(&gateway, [1, 1, 1, 0, 1, 0, 0]).await;
        let mut waiting = gateway.client().await;
        for _ in 0..3 {
            assert_eq!(waiting.request(GET_API).await.status(), 200);
        }
        until(&gateway, [2, 2, 2, 3, 1, 0, 1]).await;
        drop(silent);
        until(&gateway, [1, 2, 2, 3, 0, 0, 1]).await;
        drop(waiting);
        until(&gateway, [0, 2, 2, 3, 0, 0, 0]).await;
    });
}

#[test]
fn an_exchange_and_a_tunnel_are_written_to_for_as_long_as_they_last() {
    local(async {
        let (stalled, echo) = (Upstream::silent().await, Upstream::websocket_echo().await);
        let gateway = Gateway::before(stalled.address());
        let mut client = gateway.client().await;
        client.send(GET_API).await;
        until(&gateway, [1, 1, 1, 1, 0, 1, 0]).await;
        drop(client);
        until(&gateway, [0, 1, 1, 1, 0, 0, 0]).await;
        let gateway = Gateway::before(echo.address());
        let mut tunnel = WebSocket::connect(gateway.address, "/api/ws").await;
        tunnel.text("ahoy").await;
        assert_eq!(tunnel.receive_text().await, "ahoy");
        until(&gateway, [1, 1, 1, 1, 0, 1, 0]).await;
        drop(tunnel);
        until(&gateway, [0, 1, 1, 1, 0, 0, 0]).await;
    });
}

struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn scrape(socket: &Path) -> Option<String> {
    let mut stream = UnixStream::connect(socket).await.ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

#[test]
fn nginxs_own_exporter_for_prometheus_reads_it() {
    let Some(program) = ["/usr/bin/prometheus-nginx-exporter"].into_iter().find(|program| Path::new(program).exists())
    else {
        println!("skipped: prometheus-nginx-exporter is not installed");
        return;
    };
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::before(upstream.address());
        let mut client = gateway.client().await;
        for _ in 0..5 {
            assert_eq!(client.request(GET_API).await.status(), 200);
        }
        until(&gateway, [1, 1, 1, 5, 0, 0, 1]).await;
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("exporter");
        let exporter = Command::new(program)
            .arg(format!("-nginx.scrape-uri=http://{}/nginx_status", gateway.admin))
            .arg(format!("-web.listen-address=unix:{}", socket.display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _exporter = Exporter(exporter);
        let text = patiently("the exporter", async {
            loop {
                if let Some(text) = scrape(&socket).await {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        for line in [
            "nginx_up 1",
            "nginx_connections_accepted 1",
            "nginx_connections_active 1",
            "nginx_connections_handled 1",
            "nginx_connections_reading 0",
            "nginx_connections_waiting 1",
            "nginx_connections_writing 0",
            "nginx_http_requests_total 5",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
    });
}
