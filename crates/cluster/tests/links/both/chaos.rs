//! A server that has a very bad day, and a publisher who does not stop.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tidegate_cluster::redis::{Call, LinkId, Value};
use tidegate_testkit::local;
use tidegate_testkit::redis::RedisServer;
use tokio::time::sleep;

use super::plain;
use crate::observed::{Event, Observed, call, settings, slot};

const CHANNEL: &str = "{a}c";

/// What was published over each link, and whether the server said that one subscriber got it.
type Published = Rc<RefCell<BTreeMap<LinkId, Vec<(u64, bool)>>>>;

/// Publishes one number after another over whatever link there is, one call at a time.
async fn publish(observed: Rc<Observed>, published: Published, done: Rc<Cell<bool>>) {
    let mut number = 0;
    while !done.get() {
        let Ok(link) = observed.links.link(slot(CHANNEL)) else {
            sleep(Duration::from_millis(5)).await;
            continue;
        };
        let ready = observed.events.borrow().contains(&Event::Subscribed(link.id(), CHANNEL.to_owned()));
        if !ready {
            if !published.borrow().contains_key(&link.id()) {
                link.subscribe(&[CHANNEL.into()]);
                published.borrow_mut().entry(link.id()).or_default();
            }
            sleep(Duration::from_millis(2)).await;
            continue;
        }
        number += 1;
        let answer = call(&link, Call::new("SPUBLISH").arg(CHANNEL).int(number)).await;
        let heard = answer == Ok(Value::Int(1));
        published.borrow_mut().entry(link.id()).or_default().push((number, heard));
        if number % 16 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Waits for a message that is heard from now on.
async fn hears(observed: &Observed) {
    let last = observed.events.borrow().len();
    let message = |event: &Event| matches!(event, Event::Message(..));
    observed.until("a message", |events| events.get(last..)?.iter().any(message).then_some(())).await;
}

#[test]
fn whatever_happens_to_the_server_nothing_hangs_and_no_link_has_a_hole() {
    let mut server = RedisServer::with(plain());
    local(async {
        let observed = Rc::new(Observed::start(settings(&server.address())));
        let (published, done) = (Published::default(), Rc::new(Cell::new(false)));
        let publishing =
            tokio::task::spawn_local(publish(Rc::clone(&observed), Rc::clone(&published), Rc::clone(&done)));
        for (index, trouble) in [0, 1, 2, 0, 3, 4, 2, 1, 0, 3, 2, 4, 1, 0].into_iter().enumerate() {
            // Every other trouble comes while the one before is not over yet.
            if index % 2 == 0 {
                hears(&observed).await;
            }
            sleep(Duration::from_millis(100)).await;
            match trouble {
                0 => {
                    server.kill_9();
                    sleep(Duration::from_millis(70)).await;
                    server.restart();
                }
                // Connections of all kinds, and those that are just being made.
                1 => drop(server.cli(&["CLIENT", "KILL", "TYPE", "normal"])),
                2 => drop(server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"])),
                3 => {
                    server.stop();
                    sleep(Duration::from_millis(700)).await;
                    server.cont();
                }
                _ => {
                    server.stop();
                    sleep(Duration::from_millis(2200)).await;
                    server.cont();
                }
            }
        }
        hears(&observed).await;
        done.set(true);
        publishing.await.expect("the publisher");

        let mut heard: BTreeMap<LinkId, Vec<u64>> = BTreeMap::new();
        let mut up = None;
        for event in observed.events.borrow().iter() {
            match event {
                Event::Up(id, _) => assert_eq!(up.replace(*id), None, "two links at once"),
                Event::Down(id, _) => assert_eq!(up.take(), Some(*id)),
                Event::Subscribed(id, _) => assert_eq!(up, Some(*id)),
                Event::Message(id, _, text) => {
                    assert_eq!(up, Some(*id), "a message of a link that is not up");
                    heard.entry(*id).or_default().push(text.parse().expect("a number"));
                }
                Event::Refused(..) => panic!("refused"),
            }
        }
        let mut whole = 0;
        for (id, published) in published.borrow().iter() {
            let heard = heard.remove(id).unwrap_or_default();
            assert!(heard.windows(2).all(|pair| pair[0] < pair[1]), "{id:?}: out of order or twice: {heard:?}");
            let last = heard.last().copied().unwrap_or(0);
            for (number, _) in published.iter().filter(|(number, heard)| *heard && *number <= last) {
                assert!(heard.contains(number), "{id:?}: {number} is missing in {heard:?}");
            }
            whole += heard.len();
        }
        assert!(heard.is_empty(), "heard of links that nobody published by: {heard:?}");
        assert!(whole > 500, "hardly anything was published: {whole}");
        assert!(published.borrow().len() >= 8, "hardly anything happened: {}", published.borrow().len());
    });
}
