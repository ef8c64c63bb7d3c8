//! What the tests of brokers share: nodes on one broker, what each has heard, and an account of every message.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_cluster::redis::{BrokerSettings, RedisBroker, RedisSettings, Topology};
use tidegate_cluster::{
    Broker, Heard, History, MemoryCluster, Outgoing, Placed, PublishError, Unavailable, Write, Written,
};
use tidegate_hub::{Idempotency, Pid, SessionRecord, SocketId};
use tidegate_types::{Class, Epoch, NodeId, PresenceInfo, Publication, RoomKey, RoomName, SpaceKey, Status, UserId};
use tokio::sync::oneshot;

/// Not a limit for anything: only so that a broken broker ends a test instead of hanging it.
pub const HANG: Duration = Duration::from_secs(30);

/// What a node has been told.
#[derive(Default)]
pub struct Ears {
    heard: Mutex<Vec<Heard>>,
    written: Mutex<Vec<Written>>,
    more: Condvar,
}

impl Ears {
    pub fn on_heard(self: &Arc<Self>) -> tidegate_cluster::OnHeard {
        let ears = Arc::clone(self);
        Arc::new(move |heard| {
            ears.heard.lock().unwrap().push(heard);
            ears.more.notify_all();
            None
        })
    }

    pub fn on_written(self: &Arc<Self>) -> tidegate_cluster::OnWritten {
        let ears = Arc::clone(self);
        Arc::new(move |written| {
            let _order = ears.heard.lock().unwrap();
            ears.written.lock().unwrap().extend_from_slice(written);
            ears.more.notify_all();
        })
    }

    /// Waits until what has been heard so far is so.
    #[track_caller]
    pub fn wait(&self, what: &str, is_so: impl Fn(&[Heard]) -> bool) -> Vec<Heard> {
        let heard = self.heard.lock().unwrap();
        let (heard, timeout) = self.more.wait_timeout_while(heard, HANG, |heard| !is_so(heard)).unwrap();
        assert!(!timeout.timed_out(), "never {what}; last: {:#?}", &heard[heard.len().saturating_sub(6)..]);
        heard.clone()
    }

    pub fn all(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }

    /// Waits until the session has been stored so often.
    #[track_caller]
    pub fn wait_saved(&self, pid: &str, times: usize) {
        let heard = self.heard.lock().unwrap();
        let saved = || {
            let written = self.written.lock().unwrap();
            written.iter().filter(|it| **it == Written::Saved { pid: Pid::from(pid) }).count()
        };
        let (_heard, timeout) = self.more.wait_timeout_while(heard, HANG, |_| saved() < times).unwrap();
        assert!(!timeout.timed_out(), "the session was never stored");
    }
}

pub trait Node: Broker + History {}
impl<T: Broker + History> Node for T {}

/// One node.
pub struct Member {
    pub broker: Arc<dyn Node>,
    pub ears: Arc<Ears>,
}

pub fn space_of(tenant: &str, namespace: &str) -> Arc<SpaceKey> {
    Arc::new(SpaceKey { tenant: tenant.try_into().unwrap(), namespace: namespace.try_into().unwrap() })
}

pub fn space() -> Arc<SpaceKey> {
    space_of("acme", "/")
}

pub fn room(name: &str) -> RoomName {
    name.try_into().unwrap()
}

pub fn room_key(name: &str) -> RoomKey {
    let space = space();
    RoomKey { tenant: space.tenant.clone(), namespace: space.namespace.clone(), room: room(name) }
}

pub fn user(name: &str) -> UserId {
    name.try_into().unwrap()
}

pub fn presence(name: &str, last_seen: u64) -> PresenceInfo {
    PresenceInfo {
        user_id: user(name),
        username: None,
        status: Status::Online,
        last_seen,
        metadata: None,
        active_connections: 1,
        current_activity: None,
        custom_status: None,
    }
}

pub fn message(name: &str, text: &str, class: Class) -> Outgoing {
    Outgoing {
        space: space(),
        room: room(name),
        event: "room:message".try_into().unwrap(),
        data: Bytes::from(format!("{{\"text\":\"{text}\"}}")),
        attachments: Arc::new([]),
        class,
        idempotency: None,
    }
}

pub fn once(key: &str, id: &str) -> Option<Box<Idempotency>> {
    Some(Box::new(Idempotency {
        sender: user("alice"),
        key: key.try_into().unwrap(),
        message_id: id.into(),
        window_ms: 60_000,
    }))
}

pub fn session(pid: &str, expires_at: Option<u64>, rooms: &[&str]) -> SessionRecord {
    SessionRecord {
        pid: Pid::from(pid),
        socket_id: SocketId::from("socket-1"),
        tenant: space().tenant.clone(),
        namespace: space().namespace.clone(),
        user: user("alice"),
        rooms: rooms.iter().map(|name| (room(name), 3)).collect(),
        token_expires_at: Some(7),
        expires_at,
    }
}

#[track_caller]
pub fn wait<T>(result: oneshot::Receiver<T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let answer = runtime.block_on(async { tokio::time::timeout(HANG, result).await });
    answer.expect("no answer").expect("the broker is gone")
}

impl Member {
    #[track_caller]
    pub fn publish(&self, name: &str, text: &str) -> Placed {
        self.place(message(name, text, Class::Persistent)).expect("published")
    }

    #[track_caller]
    pub fn place(&self, message: Outgoing) -> Result<Placed, PublishError> {
        wait(self.broker.publish(message))
    }

    /// Follows the room, and waits until it is followed.
    #[track_caller]
    pub fn follow(&self, name: &str) {
        self.broker.follow(&space(), &room(name));
        self.ears.wait("followed", |heard| followed(heard, name).is_some());
    }

    #[track_caller]
    pub fn hears(&self, name: &str, offsets: &[u64]) {
        self.ears
            .wait(&format!("heard {offsets:?} of {name}"), |heard| self::offsets(heard, name).len() >= offsets.len());
        assert_eq!(self::offsets(&self.ears.all(), name), offsets);
    }

    #[track_caller]
    pub fn claim(&self, pid: &str, by: &str) -> Result<Option<tidegate_cluster::Claimed>, Unavailable> {
        wait(self.broker.claim(&space(), &Pid::from(pid), &user(by)))
    }

    #[track_caller]
    pub fn save(&self, record: SessionRecord) {
        self.broker.submit(Write::SaveSession(record)).unwrap();
    }

    #[track_caller]
    pub fn until_connected(&self) {
        let until = Instant::now() + HANG;
        while !self.broker.is_connected() {
            assert!(Instant::now() < until, "never connected");
            std::thread::yield_now();
        }
    }
}

/// Messages heard of a room, live or missed, in order.
pub fn messages(heard: &[Heard], name: &str) -> Vec<Arc<Publication>> {
    let mut found = Vec::new();
    for heard in heard {
        match heard {
            Heard::Published(publication) if publication.room.as_str() == name => found.push(Arc::clone(publication)),
            Heard::CaughtUp { rooms, .. } => {
                for room in rooms.iter().filter(|room| room.room.as_str() == name) {
                    found.extend(room.missed.iter().cloned());
                }
            }
            _ => {}
        }
    }
    found
}

pub fn offsets(heard: &[Heard], name: &str) -> Vec<u64> {
    messages(heard, name).iter().map(|message| message.position.unwrap().offset).collect()
}

/// The offset up to which a node knows the room now.
pub fn stands(heard: &[Heard], name: &str) -> Option<u64> {
    heard.iter().rev().find_map(|heard| match heard {
        Heard::Published(message) if message.room.as_str() == name => message.position.map(|position| position.offset),
        Heard::Followed { room, head, .. } if room.as_str() == name => Some(head.offset),
        Heard::CaughtUp { rooms, .. } => {
            rooms.iter().find(|room| room.room.as_str() == name).map(|room| room.head.offset)
        }
        _ => None,
    })
}

pub fn followed<'a>(heard: &'a [Heard], name: &str) -> Option<&'a Heard> {
    heard.iter().find(|heard| matches!(heard, Heard::Followed { room, .. } if room.as_str() == name))
}

/// The leases that a node knows of, by what it has heard in order.
pub fn leases(heard: &[Heard], name: &str) -> Vec<(NodeId, String)> {
    let mut leases: BTreeMap<(NodeId, String), ()> = BTreeMap::new();
    for heard in heard {
        match heard {
            Heard::Followed { room, leases: all, .. } if room.as_str() == name => {
                leases = all.iter().map(|lease| ((lease.node, lease.info.user_id.to_string()), ())).collect();
            }
            Heard::CaughtUp { rooms, .. } => {
                for room in rooms.iter().filter(|room| room.room.as_str() == name) {
                    leases = room.leases.iter().map(|it| ((it.node, it.info.user_id.to_string()), ())).collect();
                }
            }
            Heard::Leased { room, node, user, info, .. } if room.as_str() == name => {
                let key = (*node, user.to_string());
                match info {
                    Some(_) => drop(leases.insert(key, ())),
                    None => drop(leases.remove(&key)),
                }
            }
            Heard::LeasesEnded { room, node: gone, .. } if room.as_str() == name => {
                leases.retain(|(node, _), ()| node != gone);
            }
            _ => {}
        }
    }
    leases.into_keys().collect()
}

/// The account of what one node has heard: nothing twice, nothing out of order, no hole that was not told.
#[track_caller]
pub fn check(heard: &[Heard]) -> BTreeMap<String, (Epoch, u64)> {
    let mut stands: BTreeMap<String, (Epoch, u64)> = BTreeMap::new();
    let mut epoch = None;
    let mut seq = 0;
    let mut out_of_touch = false;
    for heard in heard {
        match heard {
            Heard::Followed { room, epoch: now, as_of, head, .. } => {
                assert!(!out_of_touch, "followed while out of touch");
                assert!(epoch.is_none_or(|epoch| epoch == *now), "another epoch without a word");
                epoch = Some(*now);
                stands.insert(room.to_string(), (*now, head.offset));
                assert!(*as_of >= seq, "followed before what has been heard already");
                seq = *as_of;
            }
            Heard::Published(publication) => {
                assert!(!out_of_touch, "a message while out of touch");
                take(publication, epoch, &mut stands, &mut seq);
            }
            Heard::OutOfTouch { .. } => {
                assert!(!out_of_touch, "told twice");
                out_of_touch = true;
            }
            Heard::CaughtUp { epoch: now, as_of, rooms, .. } => {
                assert!(std::mem::take(&mut out_of_touch), "caught up without a cut");
                let goes_on = epoch == Some(*now);
                epoch = Some(*now);
                let mut all: Vec<_> = rooms.iter().flat_map(|room| room.missed.iter()).collect();
                all.sort_by_key(|message| message.seq);
                for room in rooms {
                    if room.gap || !goes_on {
                        assert!(room.missed.is_empty() && room.gap, "a gap is whole");
                        stands.insert(room.room.to_string(), (*now, room.head.offset));
                    }
                }
                let mut last = if goes_on { seq } else { 0 };
                for message in all {
                    take(message, epoch, &mut stands, &mut last);
                }
                for room in rooms {
                    assert_eq!(stands[room.room.as_str()].1, room.head.offset, "what was missed ends at the head");
                }
                seq = *as_of;
            }
            _ => {}
        }
    }
    stands
}

#[track_caller]
fn take(message: &Publication, epoch: Option<Epoch>, stands: &mut BTreeMap<String, (Epoch, u64)>, seq: &mut u64) {
    let position = message.position.unwrap();
    assert_eq!(Some(position.epoch), epoch, "a message of another epoch than was told");
    let stand = stands.get_mut(message.room.as_str()).expect("a message of a room that is not followed");
    assert_eq!(position.offset, stand.1 + 1, "{:?}: a hole or a repetition", message.room);
    stand.1 = position.offset;
    assert!(message.seq > *seq, "{} after {seq}: not in the order of the space", message.seq);
    *seq = message.seq;
}

/// Settings for one server of the testkit.
pub fn standalone(server: &tidegate_testkit::redis::RedisServer) -> RedisSettings {
    RedisSettings::new(Topology::Standalone(vec![server.address().parse().unwrap()]))
}

pub fn redis_node(settings: RedisSettings, id: u64, broker: BrokerSettings) -> (Arc<RedisBroker>, Member) {
    let ears = Arc::<Ears>::default();
    let metrics = tidegate_metrics::Metrics::new();
    let started = RedisBroker::start(settings, broker, NodeId(id), metrics, ears.on_heard(), ears.on_written());
    let broker = Arc::new(started.unwrap());
    (Arc::clone(&broker), Member { broker, ears })
}

pub fn memory_node(cluster: &MemoryCluster, id: u64) -> Member {
    let ears = Arc::<Ears>::default();
    Member { broker: cluster.node(NodeId(id), ears.on_heard(), ears.on_written()), ears }
}
