//! Servers that stop, break, cut, lie or drown.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_cluster::redis::{Call, ErrorCode, LinkError, RedisSettings, Value};
use tidegate_testkit::redis::RedisServer;
use tidegate_testkit::{Upstream, local};
use tokio::time::Instant;

use super::plain;
use crate::observed::{Event, Observed, call, settings, slot, wait};

#[test]
fn a_server_that_stands_still_is_left_and_found_again() {
    let server = RedisServer::with(plain());
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        observed.subscribe(&link, "{a}1").await;
        server.stop();
        let stopped = Instant::now();
        // Sent, for the socket takes it; carried out when the server goes on.
        let answer = link.call(Call::new("SET").arg("k").arg("v"));
        assert_eq!(answer.await, Err(LinkError::Unanswered));
        observed.down(link.id(), slot("a")).await;
        assert!(observed.links.link(slot("a")).is_err());
        tokio::time::sleep_until(stopped + Duration::from_secs(3)).await;
        server.cont();
        let again = observed.link(slot("a"), Some(link.id())).await;
        assert_eq!(again.run_id(), link.run_id());
        assert_eq!(call(&again, Call::new("GET").arg("k")).await, Ok(Value::Bytes(Bytes::from_static(b"v"))));
        observed.subscribe(&again, "{a}1").await;
        observed.hears(&again, "{a}1", "hello").await;
    });
}

#[test]
fn a_standstill_is_noticed_on_an_idle_link_too() {
    let server = RedisServer::with(plain());
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        server.stop();
        observed.down(link.id(), slot("a")).await;
        server.cont();
        observed.link(slot("a"), Some(link.id())).await;
    });
}

#[test]
fn either_connection_may_be_cut() {
    let server = RedisServer::with(plain());
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let mut link = observed.link(slot("a"), None).await;
        for kind in ["pubsub", "normal", "pubsub", "normal"] {
            observed.subscribe(&link, "{a}1").await;
            let clients = server.clients(kind);
            assert_eq!(clients.len(), 1, "{kind}: {clients:?}");
            server.kill_client(&clients[0]);
            observed.down(link.id(), slot("a")).await;
            assert_eq!(call(&link, Call::new("PING")).await, Err(LinkError::Unsent));
            let again = observed.link(slot("a"), Some(link.id())).await;
            assert_eq!(again.run_id(), link.run_id());
            link = again;
        }
        observed.subscribe(&link, "{a}1").await;
        observed.hears(&link, "{a}1", "hello").await;
        // Nothing is left behind: two connections, as at the begin.
        wait("the old connections to end", || server.clients("normal").len() + server.clients("pubsub").len() == 2)
            .await;
    });
}

#[test]
fn calls_that_were_asked_before_the_subscriptions_broke_are_still_answered() {
    let server = RedisServer::with(plain());
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        observed.subscribe(&link, "{a}1").await;
        let pubsub = server.clients("pubsub");
        let answer = link.call(Call::new("BLPOP").arg("none").arg("0.4"));
        server.kill_client(&pubsub[0]);
        observed.down(link.id(), slot("a")).await;
        assert_eq!(answer.await, Ok(Value::Nil));
    });
}

#[test]
fn a_link_that_cannot_keep_up_is_cut_by_the_server_and_comes_back() {
    let server = RedisServer::with(plain().config("client-output-buffer-limit pubsub 256kb 256kb 1"));
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        observed.subscribe(&link, "{a}1").await;
        // One transaction of the server's fills the buffer before anything is sent.
        let script = "for i = 1, 10000 do redis.call('SPUBLISH', KEYS[1], string.rep('x', 1000)) end return 1";
        let flood = Call::new("EVAL").arg(script).int(1).arg("{a}1");
        let _ = call(&link, flood).await;
        observed.down(link.id(), slot("a")).await;
        let again = observed.link(slot("a"), Some(link.id())).await;
        observed.subscribe(&again, "{a}1").await;
        observed.hears(&again, "{a}1", "hello").await;
        // After a link's end nothing comes of it.
        let events = observed.events.borrow();
        let end =
            events.iter().position(|event| matches!(event, Event::Down(id, _) if *id == link.id())).expect("an end");
        assert!(!events[end..].iter().any(|event| matches!(event, Event::Message(id, ..) if *id == link.id())));
    });
}

#[test]
fn too_many_calls_are_refused_at_once() {
    let server = RedisServer::with(plain());
    local(async {
        let limits = RedisSettings { max_in_flight: 10, max_in_flight_bytes: 100_000, ..settings(&server.address()) };
        let observed = Observed::start(limits);
        let link = observed.link(slot("a"), None).await;
        let answers: Vec<_> = (0..12).map(|_| link.call(Call::new("PING"))).collect();
        let mut refused = 0;
        for answer in answers {
            refused += usize::from(answer.await == Err(LinkError::Behind));
        }
        assert_eq!(refused, 2);
        let large = "x".repeat(60_000);
        let (first, second) = (link.call(Call::new("ECHO").arg(&large)), link.call(Call::new("ECHO").arg(&large)));
        assert_eq!(second.await, Err(LinkError::Behind));
        assert!(first.await.is_ok());
        assert!(link.call(Call::new("ECHO").arg(&large)).await.is_ok(), "there is room again");
        // What has been sent is kept until it is answered, and counts.
        let waits = link.call(Call::new("BLPOP").arg("none").arg(&large).arg("0.2"));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(link.call(Call::new("ECHO").arg(&large)).await, Err(LinkError::Behind));
        assert_eq!(waits.await, Ok(Value::Nil));
        assert!(link.call(Call::new("ECHO").arg(&large)).await.is_ok(), "there is room again");
    });
}

#[test]
fn an_answer_beyond_the_bound_ends_the_link() {
    let server = RedisServer::with(plain());
    local(async {
        let observed = Observed::start(RedisSettings { max_answer_bytes: 100_000, ..settings(&server.address()) });
        let link = observed.link(slot("a"), None).await;
        let answer = call(&link, Call::new("EVAL").arg("return string.rep('x', 200000)").int(0)).await;
        assert_eq!(answer, Err(LinkError::Unanswered));
        observed.down(link.id(), slot("a")).await;
        let again = observed.link(slot("a"), Some(link.id())).await;
        assert!(call(&again, Call::new("PING")).await.is_ok());
    });
}

#[test]
fn a_large_answer_is_whole() {
    let server = RedisServer::with(plain());
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        let script = "local t = {} for i = 1, 20000 do t[i] = string.rep(tostring(i % 10), 1000) end return t";
        let list =
            call(&link, Call::new("EVAL").arg(script).int(0)).await.expect("a list").into_array().expect("a list");
        assert_eq!(list.len(), 20_000);
        assert!(list.iter().all(|value| value.bytes().is_some_and(|bytes| bytes.len() == 1000)));
    });
}

#[test]
fn a_server_that_became_a_replica_is_left() {
    let (server, other) = (RedisServer::with(plain()), RedisServer::with(plain()));
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        server.cli(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
        let error = call(&link, Call::new("SET").arg("k").arg("v")).await.expect_err("read-only");
        assert_eq!((error.code(), error.may_have_run()), (Some(ErrorCode::ReadOnly), false));
        observed.down(link.id(), slot("a")).await;
        server.cli(&["REPLICAOF", "NO", "ONE"]);
        let again = observed.link(slot("a"), Some(link.id())).await;
        assert!(call(&again, Call::new("SET").arg("k").arg("v")).await.is_ok());
    });
}

/// A server of the test's: what it says to each connection, whatever it is asked.
async fn says(bytes: &'static [u8]) -> Upstream {
    Upstream::script(move |mut peer, _, _| async move {
        if peer.send_more(bytes).await {
            peer.read_to_end().await;
        }
    })
    .await
}

#[test]
fn what_is_no_redis_is_tried_again_and_again_but_not_in_a_rush() {
    local(async {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"*1000000000\r\n",
            b"$99999999999999\r\n",
            b"\x16\x03\x01\x02\x00",
            b">3\r\n$8\r\nsmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
            b"",
        ] {
            let upstream = says(bytes).await;
            let observed = Observed::start(settings(&upstream.address().to_string()));
            wait("some tries", || upstream.connections() >= 2).await;
            let before = upstream.connections();
            tokio::time::sleep(Duration::from_millis(500)).await;
            // 50 ms, 100 ms, 200 ms, … each half as long at least.
            assert!(upstream.connections() - before <= 8, "{}", upstream.connections() - before);
            assert!(observed.events.borrow().is_empty() && observed.links.link(slot("a")).is_err());
        }
    });
}

#[test]
fn a_server_older_than_needed_is_refused() {
    local(async {
        let upstream = Upstream::script(|mut peer, _, _| async move {
            // HELLO 3, then INFO server.
            peer.read_until(b"tidegate\r\n").await;
            peer.send("%1\r\n+server\r\n+redis\r\n").await;
            peer.read_until(b"server\r\n").await;
            let info = "redis_version:6.2.14\r\nrun_id:abc\r\nredis_mode:standalone\r\n";
            peer.send(format!("${}\r\n{info}\r\n", info.len())).await;
            peer.read_to_end().await;
        })
        .await;
        let (log, _guard) = crate::log::record();
        let observed = Observed::start(settings(&upstream.address().to_string()));
        wait("the refusal", || log.text().contains("it is Redis 6.2.14, and Redis 7.0 or later")).await;
        wait("more tries", || upstream.connections() >= 4).await;
        assert_eq!(log.text().matches("6.2.14").count(), 1, "once, not once per try: {}", log.text());
        assert!(observed.links.link(slot("a")).is_err());
    });
}

#[test]
fn dropping_the_links_answers_what_is_in_flight() {
    let server = RedisServer::with(plain());
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        let answer = link.call(Call::new("BLPOP").arg("none").arg("5"));
        tokio::task::yield_now().await;
        let metrics = Rc::new(observed.metrics.clone());
        drop(observed);
        assert_eq!(answer.await, Err(LinkError::Unanswered));
        assert_eq!(call(&link, Call::new("PING")).await, Err(LinkError::Unsent));
        assert_eq!(metrics.redis_connected.get(), 0);
    });
}
