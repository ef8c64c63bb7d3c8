//! Links whose events are written down.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_cluster::redis::{
    Call, Link, LinkError, LinkEvent, LinkId, Links, RedisSettings, Slot, Slots, Topology, Value,
};
use tidegate_metrics::Metrics;
use tidegate_testkit::patiently;
use tokio::sync::Notify;

/// Links, and what they told.
pub struct Observed {
    pub links: Links,
    pub metrics: Arc<Metrics>,
    pub events: Rc<RefCell<Vec<Event>>>,
    told: Rc<Notify>,
}

/// An event that can be compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Up(LinkId, Slots),
    Down(LinkId, Slots),
    Subscribed(LinkId, String),
    Refused(LinkId, Vec<String>, String),
    Message(LinkId, String, String),
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Observed {
    pub fn start(settings: RedisSettings) -> Self {
        let events = Rc::new(RefCell::new(Vec::new()));
        let told = Rc::new(Notify::new());
        let (log, ring) = (Rc::clone(&events), Rc::clone(&told));
        let metrics = Metrics::new();
        let on_event = move |event| {
            log.borrow_mut().push(match event {
                LinkEvent::Up { link, slots } => Event::Up(link.id(), slots),
                LinkEvent::Down { link, slots } => Event::Down(link, slots),
                LinkEvent::Subscribed { link, channel } => Event::Subscribed(link, text(&channel)),
                LinkEvent::Refused { link, channels, error } => {
                    Event::Refused(link, channels.iter().map(text).collect(), error.to_string())
                }
                LinkEvent::Message { link, channel, payload } => Event::Message(link, text(&channel), text(&payload)),
            });
            ring.notify_one();
        };
        let links = Links::start(settings, Arc::clone(&metrics), on_event).expect("settings");
        Self { links, metrics, events, told }
    }

    /// Waits until the events are so, and gives what `find` found.
    pub async fn until<T>(&self, what: &str, find: impl Fn(&[Event]) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(found) = find(&self.events.borrow()) {
                    return found;
                }
                self.told.notified().await;
            }
        };
        match tokio::time::timeout(tidegate_testkit::PATIENCE, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("waited too long for {what}: {:?}", self.events.borrow()),
        }
    }

    /// Waits until the slot has a link that is another one than `than`.
    pub async fn link(&self, slot: Slot, than: Option<LinkId>) -> Rc<Link> {
        let other = |_: &[Event]| self.links.link(slot).ok().filter(|link| Some(link.id()) != than);
        self.until("a link", other).await
    }

    /// Waits until the link has lost the slot.
    pub async fn down(&self, link: LinkId, slot: Slot) {
        let is_down = |event: &Event| matches!(event, Event::Down(id, slots) if *id == link && slots.contains(slot));
        self.until("the link to end", |events| events.iter().any(is_down).then_some(())).await;
    }

    /// Subscribes, and waits for it.
    pub async fn subscribe(&self, link: &Link, channel: &str) {
        link.subscribe(&[Bytes::copy_from_slice(channel.as_bytes())]);
        self.heard(&Event::Subscribed(link.id(), channel.to_owned())).await;
    }

    /// Waits until this has happened.
    pub async fn heard(&self, event: &Event) {
        self.until(&format!("{event:?}"), |events| events.contains(event).then_some(())).await;
    }

    /// Publishes on a channel by a link, and waits until that is heard by it.
    pub async fn hears(&self, link: &Link, channel: &str, payload: &str) {
        assert_eq!(call(link, Call::new("SPUBLISH").arg(channel).arg(payload)).await, Ok(Value::Int(1)));
        self.heard(&Event::Message(link.id(), channel.to_owned(), payload.to_owned())).await;
    }
}

/// One server, whose connections notice a lot soon.
pub fn settings(address: &str) -> RedisSettings {
    RedisSettings::new(Topology::Standalone(vec![address.parse().expect("an address")]))
}

pub async fn call(link: &Link, call: Call) -> Result<Value, LinkError> {
    // A call ends by itself; this only says which one did not.
    tokio::time::timeout(Duration::from_secs(30), link.call(call)).await.expect("a call ends")
}

pub fn slot(key: &str) -> Slot {
    Slot::of(key.as_bytes())
}

pub async fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    patiently(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
