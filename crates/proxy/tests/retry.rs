//! What is tried again, how often, and when an upstream is left alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use common::{Gateway, get, in_time, until};
use tidegate_balance::{BreakerSettings, BreakerState};
use tidegate_proxy::{RetryReasons, UpstreamSettings};
use tidegate_testkit::{Mood, Upstream, WebSocket, local};

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";

async fn moody(mood: Mood) -> Upstream {
    Upstream::moody(Rc::new(Cell::new(mood))).await
}

/// The first server gets the first request, and a failed one gets the next all the same.
fn retrying(servers: &[SocketAddr], on: RetryReasons) -> UpstreamSettings {
    let mut settings = common::settings(servers);
    settings.max_fails = 0;
    settings.retry.on = on;
    settings
}

#[test]
fn a_status_that_is_tried_again_goes_to_the_next_server() {
    local(async {
        for (status, reason) in [
            (500, RetryReasons::STATUS_500),
            (502, RetryReasons::STATUS_502),
            (503, RetryReasons::STATUS_503),
            (504, RetryReasons::STATUS_504),
            (429, RetryReasons::STATUS_429),
        ] {
            let (bad, good) = (moody(Mood::Answers(status)).await, Upstream::ok("good").await);
            let gateway = Gateway::with(retrying(&[bad.address(), good.address()], reason)).await;
            let mut client = gateway.client().await;
            for _ in 0..6 {
                assert_eq!(client.request(get("/")).await.text(), "good", "{status}");
            }
            assert_eq!(bad.connections(), 1, "a response that is dropped whole leaves its connection to others");
            let other = Gateway::with(retrying(&[bad.address(), good.address()], RetryReasons::CONNECT)).await;
            assert_eq!(other.client().await.request(get("/")).await.status(), status);
        }
    });
}

#[test]
fn when_every_server_answers_so_the_last_answer_is_passed_on() {
    local(async {
        let (one, two) = (moody(Mood::Answers(503)).await, moody(Mood::Answers(503)).await);
        let gateway = Gateway::with(retrying(&[one.address(), two.address()], RetryReasons::STATUS_503)).await;
        let response = gateway.client().await.request(get("/")).await;
        assert_eq!((response.status(), response.text().as_str()), (503, "mood"));
        assert_eq!((one.requests().len(), two.requests().len()), (1, 1));
        assert_eq!(gateway.ended(1).await[0].retries, 1);
    });
}

#[test]
fn what_may_have_had_an_effect_is_only_tried_again_where_that_is_allowed() {
    local(async {
        let (bad, good) = (moody(Mood::Answers(503)).await, Upstream::ok("good").await);
        let mut settings = retrying(&[bad.address(), good.address()], RetryReasons::STATUS_503);
        let gateway = Gateway::with(settings.clone()).await;
        assert_eq!(gateway.client().await.request(POST).await.status(), 503);
        settings.retry.non_idempotent = true;
        let gateway = Gateway::with(settings).await;
        assert_eq!(gateway.client().await.request(POST).await.text(), "good");
        let body = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
        let mut client = gateway.client().await;
        let statuses = [client.request(body).await.status(), client.request(body).await.status()];
        assert!(statuses.contains(&503), "a body that was sent cannot be sent again: {statuses:?}");
    });
}

#[test]
fn a_server_that_does_not_answer_in_time_is_passed_over() {
    local(async {
        let text = in_time(async |time| {
            let (bad, good) = (moody(Mood::Stalls).await, Upstream::ok("good").await);
            let mut settings = retrying(&[bad.address(), good.address()], RetryReasons::TIMEOUT);
            settings.read_timeout = time;
            Gateway::with(settings).await.client().await.request(get("/")).await.text()
        })
        .await;
        assert_eq!(text, "good");
    });
}

#[test]
fn no_more_tries_are_made_than_allowed_and_none_after_their_time() {
    local(async {
        let servers: Vec<Upstream> =
            [moody(Mood::Resets).await, moody(Mood::Resets).await, moody(Mood::Resets).await].into();
        let addresses: Vec<SocketAddr> = servers.iter().map(Upstream::address).collect();
        for (tries, seen) in [(0, 1), (1, 1), (2, 2), (3, 3), (9, 3)] {
            let mut settings = retrying(&addresses, RetryReasons::RESET);
            settings.retry.tries = tries;
            let before: usize = servers.iter().map(Upstream::connections).sum();
            let gateway = Gateway::with(settings).await;
            assert_eq!(gateway.client().await.request(get("/")).await.status(), 502);
            assert_eq!(servers.iter().map(Upstream::connections).sum::<usize>() - before, seen, "{tries}");
        }
        let late = moody(Mood::Lingers(Duration::from_millis(20))).await;
        let answers = Upstream::script(|mut peer, _, _| async move {
            peer.message(false).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        })
        .await;
        let mut settings = retrying(&[answers.address(), late.address()], RetryReasons::RESET);
        settings.retry.timeout = Duration::from_millis(10);
        assert_eq!(Gateway::with(settings).await.client().await.request(get("/")).await.status(), 502);
        assert_eq!(late.connections(), 0);
    });
}

#[test]
fn a_storm_is_not_amplified_beyond_the_budget() {
    local(async {
        let servers =
            [moody(Mood::Answers(503)).await, moody(Mood::Answers(503)).await, moody(Mood::Answers(503)).await];
        let addresses: Vec<SocketAddr> = servers.iter().map(Upstream::address).collect();
        let gateway = Gateway::with(retrying(&addresses, RetryReasons::STATUS_503)).await;
        let mut client = gateway.client().await;
        const REQUESTS: usize = 400;
        let begin = tokio::time::Instant::now();
        for _ in 0..REQUESTS {
            assert_eq!(client.request(get("/")).await.status(), 503);
        }
        let attempts: usize = servers.iter().map(|server| server.requests().len()).sum();
        // The floor is 100 for the first ten seconds, and again for every ten seconds that a slow machine takes.
        let floors = 100 * (begin.elapsed().as_secs() as usize / 10 + 1);
        assert!(attempts <= REQUESTS + REQUESTS / 5 + floors, "{attempts}");
        assert!(attempts >= REQUESTS + 100, "the floor is used: {attempts}");
        assert!(!gateway.metrics.encode().contains("tidegate_upstream_retries_denied_total{upstream=\"backend\"} 0"));
    });
}

#[test]
fn a_handshake_is_tried_again_where_a_request_would_be() {
    local(async {
        let (bad, good) = (moody(Mood::Answers(503)).await, Upstream::websocket_echo().await);
        let on = RetryReasons::STATUS_503.and(RetryReasons::RESET);
        let gateway = Gateway::with(retrying(&[bad.address(), good.address()], on)).await;
        for _ in 0..2 {
            let mut socket = WebSocket::connect(gateway.address, "/").await;
            socket.text("x").await;
            assert_eq!(socket.receive_text().await, "x");
        }
        let resets = moody(Mood::Resets).await;
        let gateway = Gateway::with(retrying(&[resets.address(), good.address()], on)).await;
        WebSocket::connect(gateway.address, "/").await;
        assert_eq!(resets.connections(), 1);
    });
}

fn broken(server: SocketAddr) -> UpstreamSettings {
    let mut settings = common::settings(&[server]);
    settings.circuit.breaker = Some(BreakerSettings {
        error_rate: 50,
        min_requests: 4,
        interval_ms: 600_000,
        open_for_ms: 100,
        half_open_requests: 2,
    });
    settings
}

#[test]
fn a_breaker_opens_makes_its_trials_and_closes() {
    local(async {
        let mood = Rc::new(Cell::new(Mood::Answers(500)));
        let upstream = Upstream::moody(mood.clone()).await;
        let mut settings = broken(upstream.address());
        settings.circuit.breaker.as_mut().unwrap().open_for_ms = 3_600_000;
        let gateway = Gateway::with(settings).await;
        let mut client = gateway.client().await;
        for _ in 0..4 {
            assert_eq!(client.request(get("/")).await.status(), 500);
        }
        let refused = client.request(get("/")).await;
        assert_eq!((refused.status(), refused.json()["error"]["code"].as_str()), (503, Some("UNAVAILABLE")));
        let wait: u32 = refused.field("retry-after").unwrap().parse().unwrap();
        assert!((3_590..=3_600).contains(&wait), "{wait}");
        assert_eq!((upstream.requests().len(), gateway.upstream().breaker()), (4, Some(BreakerState::Open)));
        assert!(gateway.metrics.encode().contains("tidegate_upstream_refused_total{upstream=\"backend\"} 1"));

        let gateway = Gateway::with(broken(upstream.address())).await;
        let mut client = gateway.client().await;
        let before = upstream.requests().len();
        let changes = || gateway.upstream().events().iter().map(|event| event.change.as_str()).collect::<Vec<_>>();
        let rounds = async {
            while changes().len() < 3 {
                client.request(get("/")).await;
            }
            let attempts = upstream.requests().len() - before;
            assert_eq!((changes(), attempts), (vec!["breaker_opened", "breaker_half_open", "breaker_opened"], 5));
            mood.set(Mood::Answers(200));
            while gateway.upstream().breaker() != Some(BreakerState::Closed) {
                client.request(get("/")).await;
            }
        };
        tidegate_testkit::patiently("the breaker to close", rounds).await;
        assert_eq!(changes().last(), Some(&"breaker_closed"));
        assert_eq!(client.request(get("/")).await.status(), 200);
    });
}

#[test]
fn a_client_that_leaves_during_a_trial_decides_nothing() {
    local(async {
        let mood = Rc::new(Cell::new(Mood::Answers(500)));
        let upstream = Upstream::moody(mood.clone()).await;
        let mut settings = broken(upstream.address());
        settings.circuit.breaker.as_mut().unwrap().open_for_ms = 1;
        settings.circuit.breaker.as_mut().unwrap().half_open_requests = 1;
        let gateway = Gateway::with(settings).await;
        let mut client = gateway.client().await;
        for _ in 0..4 {
            client.request(get("/")).await;
        }
        mood.set(Mood::Stalls);
        let mut left = 0;
        for _ in 0..3 {
            let mut client = gateway.client().await;
            let before = upstream.requests().len();
            client.send(get("/")).await;
            until("the trial or its refusal", || {
                upstream.requests().len() > before || gateway.ended_so_far() > 4 + left
            })
            .await;
            client.reset();
            left += 1;
            gateway.ended(4 + left).await;
        }
        assert_eq!(gateway.upstream().breaker(), Some(BreakerState::HalfOpen));
        mood.set(Mood::Answers(200));
        let rounds = async { while client.request(get("/")).await.status() != 200 {} };
        tidegate_testkit::patiently("the breaker to close", rounds).await;
        assert_eq!(gateway.upstream().breaker(), Some(BreakerState::Closed));
    });
}

#[test]
fn no_more_requests_are_under_way_than_the_cap_but_streams_do_not_count() {
    local(async {
        let upstream = Upstream::script(|mut peer, index, _| async move {
            peer.message(false).await;
            if index == 0 {
                peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n").await;
            }
            while peer.fill().await.is_ok() {}
        })
        .await;
        let mut settings = common::settings(&[upstream.address()]);
        settings.circuit.max_requests = 1;
        let gateway = Gateway::with(settings).await;
        let mut stream = gateway.client().await;
        stream.send(get("/")).await;
        assert_eq!(stream.head().await.unwrap().status(), 200);
        let mut waiting = gateway.client().await;
        waiting.send(get("/")).await;
        until("the request to be under way", || upstream.connections() == 2).await;
        let refused = gateway.client().await.request(get("/")).await;
        assert_eq!((refused.status(), refused.field("retry-after")), (503, Some("1")));
        waiting.reset();
        gateway.ended(2).await;
        let mut next = gateway.client().await;
        next.send(get("/")).await;
        until("the next request to be under way", || upstream.connections() == 3).await;
    });
}

#[test]
fn hasty_and_lying_servers_do_not_spoil_the_next_answer() {
    local(async {
        for bad in [Mood::LiesShort, Mood::Drips(Duration::from_millis(1))] {
            let upstream = moody(bad).await;
            let gateway = Gateway::with(common::settings(&[upstream.address()])).await;
            let mut client = gateway.client().await;
            for _ in 0..3 {
                let response = client.request(get("/")).await;
                assert_eq!((response.status(), response.text().as_str()), (200, "mood"), "{bad:?}");
            }
        }
        let hasty = Upstream::hasty("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhasty").await;
        let gateway = Gateway::with(common::settings(&[hasty.address()])).await;
        let mut client = gateway.client().await;
        for _ in 0..3 {
            assert_eq!(client.request(get("/")).await.text(), "hasty");
        }
        assert_eq!(hasty.connections(), 3, "an answer that came before its request belongs to none but the first");
    });
}
