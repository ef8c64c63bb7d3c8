//! One server.

use std::time::Duration;

use bytes::Bytes;
use tidegate_cluster::redis::{Call, ErrorCode, LinkError, Script, Slots, Value};
use tidegate_testkit::local;
use tidegate_testkit::redis::RedisServer;

use super::plain;
use crate::observed::{Event, Observed, call, settings, slot, wait};

#[test]
fn calls_are_answered_and_messages_are_heard_in_order() {
    let server = RedisServer::with(plain());
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        let run = server.cli(&["INFO", "server"]);
        assert!(run.contains(&format!("run_id:{}", link.run_id())), "{run}");
        assert_eq!(observed.events.borrow()[..], [Event::Up(link.id(), Slots::all())]);
        assert!(observed.links.is_connected());

        observed.subscribe(&link, "{a}1").await;
        observed.subscribe(&link, "{b}2").await;
        let answers: Vec<_> = (0..1000)
            .map(|number: i32| {
                link.call(Call::new("SPUBLISH").arg(if number % 2 == 0 { "{a}1" } else { "{b}2" }).int(number))
            })
            .collect();
        for answer in answers {
            assert_eq!(answer.await, Ok(Value::Int(1)));
        }
        observed.heard(&Event::Message(link.id(), "{b}2".into(), "999".into())).await;
        let events = observed.events.borrow();
        let heard =
            events.iter().filter_map(|it| if let Event::Message(_, _, text) = it { Some(text.as_str()) } else { None });
        assert!(heard.eq((0..1000).map(|number| number.to_string()).collect::<Vec<_>>().iter().map(String::as_str)));
    });
}

#[test]
fn a_script_is_sent_with_its_text_once_and_stays_in_order_when_the_server_forgets_it() {
    let server = RedisServer::with(plain());
    let script: &'static Script = Box::leak(Box::new(Script::new(
        "append",
        "redis.call('RPUSH', KEYS[1], ARGV[1]) return redis.call('LLEN', KEYS[1])",
    )));
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        let append = |number: usize| link.call(Call::script(script, &["{a}list"]).int(number));
        assert_eq!(append(1).await, Ok(Value::Int(1)));
        let mut answers = Vec::new();
        for number in 2..=3000 {
            if number % 500 == 0 {
                answers.push(link.call(Call::new("SCRIPT").arg("FLUSH").arg("SYNC")));
            }
            answers.push(append(number));
            if number % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        for answer in answers {
            answer.await.expect("an answer");
        }
        let list = call(&link, Call::new("LRANGE").arg("{a}list").int(0).int(-1)).await.expect("a list");
        let list: Vec<_> = list.into_array().expect("a list").iter().filter_map(Value::int).collect();
        assert_eq!(list, (1..=3000).collect::<Vec<_>>());
    });
}

#[test]
fn a_script_that_somebody_else_brings_back_does_not_let_later_calls_overtake() {
    let server = RedisServer::with(plain());
    let source = "return redis.call('RPUSH', KEYS[1], ARGV[1])";
    let script: &'static Script = Box::leak(Box::new(Script::new("push", source)));
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        let push = |number: usize| link.call(Call::script(script, &["{a}list"]).int(number));
        // The first is refused, for the script is not known, and is to be sent again when nothing is in flight.
        let (first, waits) = (push(1), link.call(Call::new("BLPOP").arg("none").arg("0.3")));
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.cli(&["SCRIPT", "LOAD", source]);
        let second = push(2);
        assert_eq!(waits.await, Ok(Value::Nil));
        assert_eq!((first.await, second.await), (Ok(Value::Int(1)), Ok(Value::Int(2))));
    });
}

#[test]
fn an_error_of_the_server_is_the_calls_own() {
    let server = RedisServer::with(plain());
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        assert_eq!(call(&link, Call::new("SET").arg("k").arg("v")).await, Ok(Value::Bytes(Bytes::from_static(b"OK"))));
        let error = call(&link, Call::new("HGETALL").arg("k")).await.expect_err("not a hash");
        assert_eq!(error.code(), Some(ErrorCode::WrongType));
        assert_eq!(call(&link, Call::new("GET").arg("k")).await, Ok(Value::Bytes(Bytes::from_static(b"v"))));
        assert!(matches!(error, LinkError::Answered(_)));
    });
}

#[test]
fn a_killed_server_is_noticed_and_found_again_with_another_run() {
    let mut server = RedisServer::with(plain());
    local(async {
        let observed = Observed::start(settings(&server.address()));
        let link = observed.link(slot("a"), None).await;
        observed.subscribe(&link, "{a}1").await;
        server.kill_9();
        observed.down(link.id(), slot("a")).await;
        assert!(!observed.links.is_connected());
        assert_eq!(call(&link, Call::new("GET").arg("k")).await, Err(LinkError::Unsent));
        assert!(observed.links.link(slot("a")).is_err());
        server.restart();
        let again = observed.link(slot("a"), Some(link.id())).await;
        assert_ne!(again.run_id(), link.run_id());
        observed.subscribe(&again, "{a}1").await;
        observed.hears(&again, "{a}1", "hello").await;
        wait("the counters", || observed.metrics.redis_connected.get() == 1).await;
        assert_eq!(observed.metrics.redis_disconnects.get(), 1);
    });
}
