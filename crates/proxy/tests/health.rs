//! Whether servers are well: probes, outliers, and what an operator orders.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use common::{Gateway, get, until};
use tidegate_balance::{ActiveSettings, OutlierSettings};
use tidegate_proxy::{Leave, LiveFilter, ProbeKind, ProbeSettings, ServerOrder, Unavailable, UpstreamSettings};
use tidegate_rules::proxy_protocol::ProxyVersion;
use tidegate_testkit::{Mood, Upstream, WebSocket, local};

/// Probes without rest: what is waited for is the result, not the time.
fn probe(kind: ProbeKind) -> Option<ProbeSettings> {
    let schedule = ActiveSettings { interval_ms: 10, jitter_percent: 10, rise: 2, fall: 3, initially_up: true };
    Some(ProbeSettings { kind, port: None, timeout: Duration::from_millis(500), schedule })
}

fn http() -> ProbeKind {
    ProbeKind::Http { path: "/healthz".into(), host: None, status: vec![200..=399] }
}

fn websocket() -> ProbeKind {
    ProbeKind::WebSocket { path: "/socket".into(), host: Some("chat.example.org".into()) }
}

fn probed(servers: &[SocketAddr], kind: ProbeKind) -> UpstreamSettings {
    UpstreamSettings { probe: probe(kind), ..common::settings(servers) }
}

fn why(gateway: &Gateway) -> Vec<Option<Unavailable>> {
    gateway.upstream().states().iter().map(|state| state.unavailable).collect()
}

fn changes(gateway: &Gateway) -> Vec<&'static str> {
    gateway.upstream().events().iter().map(|event| event.change.as_str()).collect()
}

fn mood(mood: Mood) -> Rc<Cell<Mood>> {
    Rc::new(Cell::new(mood))
}

#[test]
fn a_server_whose_probes_fail_gets_no_requests_until_they_are_good_again() {
    local(async {
        let mood = mood(Mood::Answers(200));
        let (moody, good) = (Upstream::moody(mood.clone()).await, Upstream::ok("good").await);
        let gateway = Gateway::with(probed(&[moody.address(), good.address()], http())).await;
        until("probes of both", || moody.requests().len() > 1 && good.requests().len() > 1).await;
        assert_eq!(moody.requests()[0].start, "GET /healthz HTTP/1.1");
        assert_eq!(moody.requests()[0].field("host"), Some(moody.address().to_string().as_str()));
        mood.set(Mood::Answers(500));
        until("the server to be down", || why(&gateway)[0] == Some(Unavailable::Unhealthy)).await;
        let mut client = gateway.client().await;
        for _ in 0..6 {
            assert_eq!(client.request(get("/")).await.text(), "good");
        }
        let event = gateway.upstream().events().pop().unwrap();
        assert_eq!((event.change.as_str(), &*event.detail), ("probe_down", "status 500"));
        assert_eq!(event.server.as_deref(), Some(moody.address().to_string().as_str()));
        let server = format!("upstream=\"backend\",server=\"{}\"", moody.address());
        let metrics = gateway.metrics.encode();
        assert!(metrics.contains(&format!("tidegate_upstream_server_up{{{server}}} 0")), "{metrics}");
        let change = format!("tidegate_upstream_state_changes_total{{{server},change=\"probe_down\"}} 1");
        assert!(metrics.contains(&change), "{metrics}");
        mood.set(Mood::Answers(204));
        until("the server to be up", || why(&gateway)[0].is_none()).await;
        let texts: Vec<String> = [client.request(get("/")).await.text(), client.request(get("/")).await.text()].into();
        assert!(texts.contains(&"good".to_owned()) && texts.contains(&String::new()), "{texts:?}");
        assert_eq!(changes(&gateway), ["probe_down", "probe_up"]);
        assert!(gateway.metrics.encode().contains(&format!("tidegate_upstream_server_up{{{server}}} 1")));
    });
}

#[test]
fn a_server_that_misbehaves_before_its_answer_fails_every_kind_of_probe() {
    local(async {
        for bad in [Mood::Stalls, Mood::Resets, Mood::Garbage] {
            for kind in [http(), websocket()] {
                let upstream = Upstream::moody(mood(bad)).await;
                let mut settings = probed(&[upstream.address()], kind.clone());
                settings.probe.as_mut().unwrap().timeout = Duration::from_millis(50);
                let gateway = Gateway::with(settings).await;
                until("a bad server", || why(&gateway) == [Some(Unavailable::Unhealthy)]).await;
            }
        }
    });
}

#[test]
fn a_server_that_does_not_listen_fails_a_tcp_probe_and_one_that_only_accepts_passes_it() {
    local(async {
        let silent = Upstream::silent().await;
        let servers = [Upstream::nobody().await, silent.address()];
        let gateway = Gateway::with(probed(&servers, ProbeKind::Tcp)).await;
        until("the verdict", || why(&gateway) == [Some(Unavailable::Unhealthy), None] && silent.connections() > 5)
            .await;
        assert_eq!(&*gateway.upstream().events()[0].detail, "connect: refused");
        assert_eq!(changes(&gateway), ["probe_down"]);
    });
}

#[test]
fn probes_may_go_to_a_port_of_their_own() {
    local(async {
        let (server, health) = (Upstream::ok("").await, Upstream::ok("").await);
        let mut settings = probed(&[server.address()], http());
        settings.probe.as_mut().unwrap().port = Some(health.address().port());
        let gateway = Gateway::with(settings).await;
        until("probes", || health.requests().len() > 3).await;
        assert!(server.requests().is_empty() && why(&gateway) == [None]);
    });
}

#[test]
fn a_server_that_wants_a_proxy_header_gets_it_from_probes_too() {
    local(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let lines = seen.clone();
        let upstream = Upstream::script(move |mut peer, _, requests| {
            let lines = lines.clone();
            async move {
                let line = peer.read_until(b"\r\n").await;
                lines.borrow_mut().push(line);
                requests.record(peer.message(false).await.unwrap());
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        })
        .await;
        let mut settings = probed(&[upstream.address()], http());
        settings.proxy_protocol = Some(ProxyVersion::V1);
        let gateway = Gateway::with(settings).await;
        until("probes", || upstream.requests().len() > 3).await;
        assert!(seen.borrow().iter().all(|line| &**line == b"PROXY UNKNOWN\r\n"), "{seen:?}");
        assert_eq!(why(&gateway), [None]);
    });
}

#[test]
fn a_websocket_probe_shakes_hands_with_a_new_key_and_says_goodbye() {
    local(async {
        let closes = Rc::new(RefCell::new(Vec::new()));
        let seen = closes.clone();
        let upstream = Upstream::script(move |mut peer, _, requests| {
            let seen = seen.clone();
            async move {
                let Some(request) = peer.message(false).await else { return };
                peer.send(WebSocket::accept(&request, "")).await;
                requests.record(request);
                let mut socket = WebSocket::server(peer);
                socket.text("welcome").await;
                let frame = socket.receive().await.unwrap();
                socket.send(8, &frame.payload).await;
                seen.borrow_mut().push((frame.first, frame.payload));
            }
        })
        .await;
        let gateway = Gateway::with(probed(&[upstream.address()], websocket())).await;
        until("two probes", || closes.borrow().len() > 2).await;
        assert!(closes.borrow().iter().all(|(first, payload)| *first == 0x88 && **payload == [0x03, 0xe8]));
        let requests = upstream.requests();
        let keys: Vec<&str> = requests.iter().filter_map(|request| request.field("sec-websocket-key")).collect();
        assert!(keys[0] != keys[1] && keys[0].len() == 24, "{keys:?}");
        let first = &requests[0];
        assert_eq!((first.start.as_str(), first.field("host")), ("GET /socket HTTP/1.1", Some("chat.example.org")));
        assert_eq!((why(&gateway), changes(&gateway)), (vec![None], vec![]));
    });
}

#[test]
fn a_101_that_was_not_made_for_the_key_fails_a_websocket_probe() {
    local(async {
        let canned = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        for (answer, detail) in [
            (canned, "the 101 does not fit the handshake"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "status 200"),
        ] {
            for upstream in [Upstream::answers(answer).await, Upstream::hasty(answer).await] {
                let gateway = Gateway::with(probed(&[upstream.address()], websocket())).await;
                until("a bad server", || why(&gateway) == [Some(Unavailable::Unhealthy)]).await;
                assert_eq!(&*gateway.upstream().events()[0].detail, detail);
            }
        }
    });
}

#[test]
fn when_probes_have_found_no_server_well_clients_are_told_to_come_back_later() {
    local(async {
        let mood = mood(Mood::Answers(503));
        let upstream = Upstream::moody(mood.clone()).await;
        let mut settings = probed(&[upstream.address()], http());
        settings.probe.as_mut().unwrap().schedule.initially_up = false;
        let gateway = Gateway::with(settings).await;
        let mut client = gateway.client().await;
        let response = client.request(get("/")).await;
        assert_eq!((response.status(), response.field("retry-after")), (503, Some("5")));
        assert_eq!(client.request(WebSocket::handshake("/", "")).await.status(), 503);
        mood.set(Mood::Answers(200));
        until("the server to be up", || why(&gateway) == [None]).await;
        assert_eq!(gateway.client().await.request(get("/")).await.text(), "mood");
        assert_eq!(changes(&gateway), ["probe_up"], "it never was up before");
    });
}

/// Compares servers without rest.
fn compared(servers: &[SocketAddr]) -> UpstreamSettings {
    let outlier = OutlierSettings { interval_ms: 50, min_requests: 5, ejection_ms: 200, ..OutlierSettings::default() };
    let mut settings = common::settings(servers);
    settings.max_fails = 0;
    settings.retry.tries = 1;
    UpstreamSettings { outlier: Some(outlier), ..settings }
}

/// Sends requests until the condition holds.
async fn requests_until(gateway: &Gateway, what: &str, condition: impl Fn() -> bool) {
    let requests = async {
        while !condition() {
            let mut client = gateway.client().await;
            for _ in 0..10 {
                if !client.request(get("/")).await.complete {
                    break;
                }
            }
        }
    };
    tidegate_testkit::patiently(what, requests).await;
}

#[test]
fn a_server_that_fails_its_requests_is_ejected_and_returns() {
    local(async {
        for bad in [Mood::Answers(500), Mood::Resets, Mood::ResetsInBody, Mood::LiesLong] {
            let mood = mood(bad);
            let (moody, good) = (Upstream::moody(mood.clone()).await, Upstream::ok("good").await);
            let gateway = Gateway::with(compared(&[moody.address(), good.address()])).await;
            requests_until(&gateway, "an ejection", || why(&gateway)[0] == Some(Unavailable::Ejected)).await;
            let state = &gateway.upstream().states()[0];
            assert!(state.ejected_until.is_some() && state.last.as_ref().unwrap().change.as_str() == "ejected");
            mood.set(Mood::Answers(200));
            until("its return", || why(&gateway) == [None, None]).await;
            assert_eq!(changes(&gateway)[..2], ["ejected", "returned"], "{bad:?}");
        }
    });
}

#[test]
fn a_server_that_is_slower_than_the_others_is_ejected() {
    local(async {
        let slow = Upstream::moody(mood(Mood::Lingers(Duration::from_millis(40)))).await;
        let (one, two) = (Upstream::ok("").await, Upstream::ok("").await);
        let mut settings = compared(&[one.address(), slow.address(), two.address()]);
        let outlier = settings.outlier.as_mut().unwrap();
        (outlier.latency_factor, outlier.interval_ms) = (500, 1_000);
        let gateway = Gateway::with(settings).await;
        requests_until(&gateway, "an ejection", || changes(&gateway).contains(&"ejected")).await;
        assert_eq!(gateway.upstream().events()[0].server.as_deref(), Some(slow.address().to_string().as_str()));
    });
}

#[test]
fn a_server_without_others_is_never_ejected() {
    local(async {
        let bad = Upstream::moody(mood(Mood::Answers(500))).await;
        let gateway = Gateway::with(compared(&[bad.address()])).await;
        let (mut client, mut before) = (gateway.client().await, 0);
        for _ in 0..5 {
            // Each round lasts longer than an interval.
            let begin = tokio::time::Instant::now();
            while begin.elapsed() < Duration::from_millis(60) || bad.requests().len() < before + 10 {
                assert_eq!(client.request(get("/")).await.status(), 500);
            }
            before = bad.requests().len();
        }
        assert_eq!((why(&gateway), changes(&gateway)), (vec![None], vec![]));
    });
}

#[test]
fn passive_failures_and_recoveries_are_told_too() {
    local(async {
        let mood = mood(Mood::Resets);
        let (moody, good) = (Upstream::moody(mood.clone()).await, Upstream::ok("good").await);
        let mut settings = common::settings(&[moody.address(), good.address()]);
        settings.fail_timeout = Duration::from_millis(20);
        let gateway = Gateway::with(settings).await;
        requests_until(&gateway, "a failure", || changes(&gateway).contains(&"failing")).await;
        mood.set(Mood::Answers(200));
        requests_until(&gateway, "a recovery", || changes(&gateway).last() == Some(&"recovered")).await;
        assert_eq!(why(&gateway), [None, None]);
    });
}

async fn echo_sockets(gateway: &Gateway, count: usize) -> Vec<WebSocket> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        socket.text("hello").await;
        assert_eq!(socket.receive_text().await, "hello");
        sockets.push(socket);
    }
    sockets
}

/// Why the streams of a server that are still there are asked to go.
async fn leaving(gateway: &Gateway, server: SocketAddr) -> Vec<Option<Leave>> {
    let streams = gateway.live.list(&LiveFilter::server("backend", &server.to_string()), 100).await;
    streams.iter().map(|stream| stream.leaving).collect()
}

#[test]
fn a_server_that_goes_down_by_its_probes_loses_its_streams_one_by_one_and_keeps_the_rest_when_it_is_back() {
    local(async {
        let mood = mood(Mood::Answers(200));
        let (server, health) = (Upstream::websocket_echo().await, Upstream::moody(mood.clone()).await);
        let mut settings = probed(&[server.address()], http());
        settings.probe.as_mut().unwrap().port = Some(health.address().port());
        settings.close_rate = 1;
        let gateway = Gateway::with(settings).await;
        let _sockets = echo_sockets(&gateway, 8).await;
        mood.set(Mood::Answers(500));
        let first = async {
            while leaving(&gateway, server.address()).await.len() == 8 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tidegate_testkit::patiently("the first stream to go", first).await;
        mood.set(Mood::Answers(200));
        until("the server to be up", || why(&gateway) == [None]).await;
        let kept = async {
            while leaving(&gateway, server.address()).await.contains(&Some(Leave::ServerDown)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tidegate_testkit::patiently("the rest to be kept", kept).await;
        let left = leaving(&gateway, server.address()).await.len();
        assert!((1..8).contains(&left), "eight at one per second do not go at once: {left}");
    });
}

#[test]
fn an_operator_takes_a_server_out_and_its_streams_are_asked_to_go() {
    local(async {
        let (one, two) = (Upstream::websocket_echo().await, Upstream::websocket_echo().await);
        let mut settings = common::settings(&[one.address(), two.address()]);
        settings.close_rate = 1;
        let gateway = Gateway::with(settings).await;
        let _sockets = echo_sockets(&gateway, 12).await;
        let server = one.address().to_string();
        assert!(gateway.upstream().set_server(&server, ServerOrder::Down, Some(&gateway.live)).await);
        let asked = leaving(&gateway, one.address()).await;
        assert!(!asked.is_empty() && asked.iter().all(|why| *why == Some(Leave::ServerDown)), "{asked:?}");
        assert_eq!(leaving(&gateway, two.address()).await, [None; 6]);
        assert_eq!((why(&gateway), changes(&gateway)), (vec![Some(Unavailable::Down), None], vec!["set_down"]));
        let _more = echo_sockets(&gateway, 3).await;
        assert_eq!(one.connections(), 6, "it gets nothing new");
        for (order, change) in
            [(ServerOrder::Up, "set_up"), (ServerOrder::Drain, "set_drain"), (ServerOrder::Weight(7), "set_weight")]
        {
            assert!(gateway.upstream().set_server(&server, order, Some(&gateway.live)).await);
            assert_eq!(changes(&gateway).pop(), Some(change));
        }
        assert_eq!(gateway.upstream().states()[0].weight, 7);
        assert!(!gateway.upstream().set_server("192.0.2.1:1", ServerOrder::Up, None).await);
    });
}
