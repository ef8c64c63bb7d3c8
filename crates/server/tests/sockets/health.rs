use std::time::Duration;

use tidegate_config::{AccessLog, Breaker, Config, Health, Outlier, Probe, Retry, RetryOn};
use tidegate_testkit::{Upstream, local, patiently};

use crate::harness::{GET_API, Gateway, config};

fn probing(upstream: &Upstream) -> Config {
    let mut config = config(Some(upstream.address()), AccessLog::Off);
    config.upstreams[0].health =
        Some(Health { interval: Duration::from_millis(10), timeout: Duration::from_secs(5), ..Health::default() });
    config
}

async fn requests(upstream: &Upstream, more: usize) {
    let waited = async {
        let before = upstream.requests().len();
        while upstream.requests().len() < before + more {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    patiently("probes", waited).await;
}

#[test]
fn the_servers_of_the_config_are_probed_until_they_leave_it() {
    local(async {
        let (upstream, other) = (Upstream::ok("x").await, Upstream::ok("y").await);
        let gateway = Gateway::start(probing(&upstream));
        requests(&upstream, 3).await;
        gateway.reload(probing(&other)).unwrap();
        requests(&other, 3).await;
        // One may have been on its way.
        let before = upstream.requests().len();
        requests(&other, 20).await;
        assert!(upstream.requests().len() <= before + 1);
        gateway.reload(config(Some(other.address()), AccessLog::Off)).unwrap();
        assert_eq!(gateway.client().await.request(GET_API).await.text(), "y");
    });
}

#[test]
fn a_server_that_is_down_by_its_probes_is_up_again_when_a_new_config_does_not_probe() {
    local(async {
        let upstream = Upstream::answers("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        let gateway = Gateway::start(probing(&upstream));
        let mut client = gateway.client().await;
        let down = async { while client.request(GET_API).await.status() != 503 {} };
        patiently("the server to be down", down).await;
        gateway.reload(config(Some(upstream.address()), AccessLog::Off)).unwrap();
        assert_eq!(client.request(GET_API).await.status(), 404);
    });
}

#[test]
fn retries_and_breakers_are_those_of_the_config() {
    local(async {
        let bad = Upstream::answers("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
        let good = Upstream::ok("good").await;
        let mut config = config(Some(bad.address()), AccessLog::Off);
        let upstream = &mut config.upstreams[0];
        upstream.servers.push(tidegate_config::UpstreamServer::new(&good.address().to_string()));
        for server in &mut upstream.servers {
            server.max_fails = 0;
        }
        upstream.max_fails = 0;
        upstream.outlier = Some(Outlier::default());
        upstream.retry = Retry { on: vec![RetryOn::Status503], ..Retry::default() };
        let gateway = Gateway::start(config.clone());
        let mut client = gateway.client().await;
        for _ in 0..4 {
            assert_eq!(client.request(GET_API).await.text(), "good");
        }
        assert!(!bad.requests().is_empty());
        config.upstreams[0].servers.truncate(1);
        config.upstreams[0].breaker = Some(Breaker { min_requests: 2, ..Breaker::default() });
        gateway.reload(config).unwrap();
        assert_eq!(client.request(GET_API).await.status(), 503);
        assert_eq!(client.request(GET_API).await.field("retry-after"), None);
        assert!(client.request(GET_API).await.field("retry-after").is_some(), "the breaker is open");
    });
}

#[test]
fn a_probe_of_any_kind_is_understood() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let mut config = probing(&upstream);
        let probe = Probe::WebSocket { path: "/ws".into(), host: None };
        config.upstreams[0].health.as_mut().unwrap().probe = probe;
        let gateway = Gateway::start(config);
        requests(&upstream, 3).await;
        assert!(upstream.requests().iter().all(|request| request.start == "GET /ws HTTP/1.1"));
        drop(gateway);
    });
}
