//! Event streams.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::{Gateway, Terms, get, in_time};
use tidegate_proxy::{EventPolicy, ExchangeKind, Leave, LeavePace, LiveFilter};
use tidegate_testkit::{Upstream, local};
use tidegate_types::{CloseReason, Phase};

#[test]
fn each_event_is_passed_on_at_once() {
    local(async {
        let (upstream, events) = Upstream::event_stream().await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send(get("/events")).await;
        let head = client.head().await.unwrap();
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        assert_eq!(head.field("cache-control"), Some("no-cache"));
        assert_eq!(head.field("x-accel-buffering"), Some("no"));
        assert!(gateway.metrics.encode().contains("tidegate_sse_streams_open{route=\"test\"} 1"));
        for number in 0..20 {
            let event = format!("id: {number}\ndata: x\n\n");
            events.send(event.clone().into()).await.unwrap();
            assert_eq!(client.chunk().await, event.as_bytes(), "before the next one is sent");
        }
        events.send("data: cut ".into()).await.unwrap();
        assert_eq!(client.chunk().await, "data: cut "[..]);
        events.send("in two\n\n: ping\n\n".into()).await.unwrap();
        assert_eq!(client.chunk().await, "in two\n\n: ping\n\n"[..]);
        drop(events);
        assert!(client.chunk().await.is_empty());
        let summary = &gateway.ended(1).await[0];
        assert_eq!((summary.kind, summary.sse_events), (ExchangeKind::Sse, 21));
        assert_eq!(summary.reason, CloseReason::ClientClosed);
        let metrics = gateway.metrics.encode();
        assert!(metrics.contains("tidegate_sse_events_total{route=\"test\"} 21"), "{metrics}");
        assert!(metrics.contains("tidegate_sse_streams_open{route=\"test\"} 0"));
    });
}

#[test]
fn events_that_come_together_arrive_complete_and_in_order() {
    local(async {
        let event = "11\r\nid: 1\ndata: abc\n\n\r\n";
        for count in [2usize, 50, 5000] {
            let upstream = Upstream::closes_after(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
                event.repeat(count)
            ))
            .await;
            let gateway = Gateway::to(&[upstream.address()]).await;
            let response = gateway.client().await.request(get("/")).await;
            assert!(response.complete);
            assert_eq!(response.text(), "id: 1\ndata: abc\n\n".repeat(count));
            assert_eq!(gateway.ended(1).await[0].sse_events, count as u64);
        }
    });
}

#[test]
fn headers_of_the_upstream_are_kept() {
    local(async {
        let upstream = Upstream::closes_after(
            "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\nCache-Control: no-store\r\nX-Accel-Buffering: yes\r\n\r\ndata: a\n\n",
        )
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let response = gateway.client().await.request(get("/")).await;
        assert_eq!(response.fields("cache-control"), ["no-store"]);
        assert_eq!(response.fields("x-accel-buffering"), ["yes"]);
        assert_eq!(response.text(), "data: a\n\n");
        assert_eq!(gateway.ended(1).await[0].kind, ExchangeKind::Sse);
    });
}

#[test]
fn a_quiet_stream_outlives_the_read_timeout_and_ends_with_its_own() {
    local(async {
        let (status, event, closed, reason) = in_time(async |time| {
            let (upstream, events) = Upstream::event_stream().await;
            let mut settings = common::settings(&[upstream.address()]);
            settings.read_timeout = time;
            settings.stream_timeout = 3 * time;
            let gateway = Gateway::with(settings).await;
            let mut client = gateway.client().await;
            client.send(get("/")).await;
            let status = client.head().await.unwrap().status();
            if status != 200 {
                return (status, Bytes::new(), false, gateway.ended(1).await[0].reason);
            }
            tokio::time::sleep(2 * time).await;
            let _ = events.send("data: late\n\n".into()).await;
            let event = client.chunk().await;
            (status, event, client.is_closed().await, gateway.ended(1).await[0].reason)
        })
        .await;
        assert_eq!((status, &event[..]), (200, &b"data: late\n\n"[..]));
        assert!(closed, "without the last chunk");
        assert_eq!(reason, CloseReason::IdleTimeout);
    });
}

#[test]
fn draining_tells_clients_when_to_come_back_and_ends_between_events() {
    local(async {
        let (upstream, events) = Upstream::event_stream().await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        client.head().await.unwrap();
        events.send("data: half".into()).await.unwrap();
        assert_eq!(client.chunk().await, "data: half"[..]);
        gateway.phase.send(Phase::Draining).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        events.send(" an event\n\n".into()).await.unwrap();
        assert_eq!(client.chunk().await, " an event\n\n"[..], "nothing is put into the middle of an event");
        let retry = String::from_utf8(client.chunk().await.to_vec()).unwrap();
        let millis: u64 =
            retry.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix("\n\n")).unwrap().parse().unwrap();
        assert!((1000..=5000).contains(&millis), "{retry}");
        assert!(client.chunk().await.is_empty(), "a complete end");
        let summary = &gateway.ended(1).await[0];
        assert_eq!((summary.reason, summary.sse_events), (CloseReason::ServerShutdown, 1));
    });
}

#[test]
fn an_idle_stream_is_ended_by_draining_too() {
    local(async {
        let (upstream, _events) = Upstream::event_stream().await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        client.head().await.unwrap();
        gateway.phase.send(Phase::Draining).unwrap();
        assert!(client.chunk().await.starts_with(b"retry: "));
        assert!(client.chunk().await.is_empty());
    });
}

#[test]
fn closing_ends_a_stream_that_is_in_the_middle_of_an_event() {
    local(async {
        let (upstream, events) = Upstream::event_stream().await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        client.head().await.unwrap();
        events.send("data: half".into()).await.unwrap();
        client.chunk().await;
        gateway.phase.send(Phase::Draining).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        gateway.phase.send(Phase::Closing).unwrap();
        assert!(client.is_closed().await);
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::ServerShutdown);
    });
}

#[test]
fn a_client_that_leaves_ends_the_stream_at_the_upstream() {
    local(async {
        let (upstream, events) = Upstream::event_stream().await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        client.head().await.unwrap();
        drop(client);
        let summary = &gateway.ended(1).await[0];
        assert_eq!((summary.kind, summary.reason), (ExchangeKind::Sse, CloseReason::TransportClosed));
        drop(events);
        while !gateway.metrics.encode().contains("tidegate_upstream_connections_open{upstream=\"backend\"} 0") {
            tokio::task::yield_now().await;
        }
    });
}

/// Whoever takes nothing for a while gets everything afterwards, and the connection is good for another request.
#[test]
fn a_slow_reader_gets_every_event_in_order_and_the_end() {
    const EVENTS: usize = 8000;
    fn event(number: usize) -> String {
        format!("id: {number}\ndata: {}\n\n", "x".repeat(number % 4000))
    }
    local(async {
        let sent = Rc::new(Cell::new(0));
        let progress = sent.clone();
        let upstream = Upstream::script(move |mut peer, _, _| {
            let sent = progress.clone();
            async move {
                while peer.message(false).await.is_some() {
                    let head =
                        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                    peer.send(head).await;
                    for number in 0..EVENTS {
                        let event = event(number);
                        peer.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
                        sent.set(sent.get() + 1);
                    }
                    peer.send("0\r\n\r\n").await;
                }
            }
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        for _ in 0..2 {
            client.send(get("/events")).await;
            let mut before = 0;
            // Until the sender is stopped.
            while sent.get() == 0 || sent.get() != before {
                before = sent.get();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let response = client.response().await;
            assert!(response.complete);
            assert!(response.text() == (0..EVENTS).map(event).collect::<String>(), "every event, once, in order");
            sent.set(0);
        }
        assert_eq!(gateway.ended(2).await[1].sse_events, EVENTS as u64);
        assert_eq!(upstream.connections(), 1, "which carried both");
    });
}

fn heartbeats(heartbeat: Duration) -> Terms {
    Terms { events: Some(EventPolicy { heartbeat, ..EventPolicy::default() }), ..Terms::default() }
}

#[test]
fn a_silent_upstream_is_covered_by_heartbeats_but_never_inside_an_event() {
    local(async {
        let (upstream, events) = Upstream::event_stream().await;
        let gateway = Gateway::on(common::settings(&[upstream.address()]), heartbeats(Duration::from_millis(30))).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        client.head().await.unwrap();
        assert_eq!(client.chunk().await, ":\n\n"[..]);
        assert_eq!(client.chunk().await, ":\n\n"[..], "again and again");
        events.send("data: half".into()).await.unwrap();
        while client.chunk().await != "data: half"[..] {}
        let before = gateway.route.sse_heartbeats.get();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(gateway.route.sse_heartbeats.get(), before, "in the middle of an event");
        events.send(" and half\n\n".into()).await.unwrap();
        assert_eq!(client.chunk().await, " and half\n\n"[..]);
        assert_eq!(client.chunk().await, ":\n\n"[..], "and again behind it");
        assert!(gateway.route.sse_heartbeats.get() > before);
        drop(events);
        while !client.chunk().await.is_empty() {}
        let summary = &gateway.ended(1).await[0];
        assert_eq!((summary.sse_events, summary.reason), (1, CloseReason::ClientClosed));
    });
}

#[test]
fn heartbeats_do_not_hide_that_the_upstream_is_silent_for_too_long() {
    local(async {
        let (upstream, _events) = Upstream::event_stream().await;
        let mut settings = common::settings(&[upstream.address()]);
        settings.stream_timeout = Duration::from_millis(300);
        let gateway = Gateway::on(settings, heartbeats(Duration::from_millis(30))).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        client.head().await.unwrap();
        assert_eq!(client.chunk().await, ":\n\n"[..]);
        while !client.chunk().await.is_empty() {}
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::IdleTimeout);
    });
}

#[test]
fn nothing_is_put_into_a_stream_of_known_length_or_into_encoded_text() {
    local(async {
        for head in ["Content-Length: 30\r\n\r\n", "Content-Encoding: gzip\r\n\r\n"] {
            let upstream = Upstream::script(move |mut peer, _, _| async move {
                peer.message(false).await.unwrap();
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{head}data: a\n\n")).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
                peer.send("data: and so on\n\n1234").await;
            })
            .await;
            let gateway =
                Gateway::on(common::settings(&[upstream.address()]), heartbeats(Duration::from_millis(20))).await;
            let response = gateway.client().await.request(get("/")).await;
            assert_eq!(response.text(), "data: a\n\ndata: and so on\n\n1234", "{head}");
            assert_eq!(gateway.route.sse_heartbeats.get(), 0);
        }
    });
}

#[test]
fn an_encoded_stream_outlives_a_drain_but_not_an_order_to_go() {
    local(async {
        let upstream = Upstream::script(move |mut peer, _, _| async move {
            peer.message(false).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: br\r\n\r\n";
            peer.send(format!("{head}data: a\n\n")).await;
            peer.read_to_end().await;
        })
        .await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        client.head().await.unwrap();
        assert_eq!(client.chunk().await, "data: a\n\n"[..]);
        gateway.phase.send(Phase::Draining).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(gateway.live.list(&LiveFilter::default(), 9).await.len(), 1);
        // The drain has asked already, in vain.
        assert_eq!(gateway.live.close(&LiveFilter::default(), Leave::Kick, LeavePace::default()).await, 0);
        gateway.phase.send(Phase::Closing).unwrap();
        assert!(client.chunk().await.is_empty());
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::ServerShutdown);
    });
}

#[test]
fn a_stream_that_has_lived_long_enough_ends_between_two_events_although_more_come() {
    local(async {
        let upstream = Upstream::script(|mut peer, _, _| async move {
            peer.message(false).await.unwrap();
            peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
            // Never at a boundary when a write ends, and without a pause.
            peer.send("data: 1\n").await;
            while !peer.send_more("\ndata: 1\n").await {}
        })
        .await;
        let policy = EventPolicy {
            max_life: Duration::from_millis(100),
            retry: Duration::from_millis(700),
            ..EventPolicy::default()
        };
        let terms = Terms { events: Some(policy), ..Terms::default() };
        let gateway = Gateway::on(common::settings(&[upstream.address()]), terms).await;
        let response = gateway.client().await.request(get("/")).await;
        let text = response.text();
        let (events, retry) = text.rsplit_once("\n\nretry: ").unwrap();
        let retry: u64 = retry.strip_suffix("\n\n").unwrap().parse().unwrap();
        assert!((700..=1400).contains(&retry), "{retry}");
        assert!(events.split("\n\n").all(|event| event == "data: 1"));
        assert!(response.complete);
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::Moved);
    });
}
