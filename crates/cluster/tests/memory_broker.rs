//! Several nodes of one process on one broker without Redis.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, reason = "tests")]

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tidegate_cluster::model::{Limits, Loss};
use tidegate_cluster::{
    Audience, Broker, Heard, History, Kind, Lane, MemoryBroker, MemoryCluster, Name, Outgoing, Placed, PublishError,
    Write,
};
use tidegate_hub::{Idempotency, Pid, SessionRecord, SocketId};
use tidegate_types::{
    Class, EventName, IdempotencyKey, NodeId, PresenceInfo, RoomKey, RoomName, SpaceKey, Status, UserId,
};

type Log = Arc<Mutex<Vec<Heard>>>;

struct Rig {
    cluster: MemoryCluster,
    nodes: Vec<(Arc<MemoryBroker>, Log)>,
}

fn rig(nodes: u64) -> Rig {
    let clock: tidegate_cluster::Clock = Arc::new(|| 1_000_000);
    let cluster = MemoryCluster::start(Limits { messages_per_room: 4, ..Limits::default() }, clock).unwrap();
    let nodes = (0..nodes).map(|n| {
        let log = Log::default();
        let of_node = Arc::clone(&log);
        let on_heard = Arc::new(move |heard| {
            of_node.lock().unwrap().push(heard);
            None
        });
        (cluster.node(NodeId(n), on_heard, Arc::new(|_| {})), log)
    });
    Rig { nodes: nodes.collect(), cluster }
}

impl Rig {
    fn node(&self, n: usize) -> &MemoryBroker {
        &self.nodes[n].0
    }

    /// What the node has heard since the last call.
    fn heard(&self, n: usize) -> Vec<Heard> {
        self.cluster.settle();
        let mut heard = std::mem::take(&mut *self.nodes[n].1.lock().unwrap());
        heard.retain(|of| !matches!(of, Heard::Connected(_)));
        heard
    }

    fn publish(&self, n: usize, text: &str) -> Result<Placed, PublishError> {
        self.node(n).publish(message(text)).blocking_recv().unwrap()
    }
}

fn space() -> Arc<SpaceKey> {
    Arc::new(SpaceKey { tenant: "acme".try_into().unwrap(), namespace: "/".try_into().unwrap() })
}

fn room() -> RoomName {
    "lobby".try_into().unwrap()
}

fn user(name: &str) -> UserId {
    name.try_into().unwrap()
}

fn message(text: &str) -> Outgoing {
    Outgoing {
        space: space(),
        room: room(),
        event: EventName::try_from("room:message").unwrap(),
        data: Bytes::copy_from_slice(text.as_bytes()),
        attachments: Arc::new([]),
        class: Class::Persistent,
        idempotency: None,
    }
}

fn texts(heard: &[Heard]) -> Vec<String> {
    let text = |heard: &Heard| match heard {
        Heard::Published(of) => Some(String::from_utf8(of.data.to_vec()).unwrap()),
        _ => None,
    };
    heard.iter().filter_map(text).collect()
}

fn info(name: &str) -> PresenceInfo {
    PresenceInfo {
        user_id: user(name),
        username: None,
        status: Status::Online,
        last_seen: 0,
        metadata: None,
        active_connections: 1,
        current_activity: None,
        custom_status: None,
    }
}

#[test]
fn every_node_that_follows_a_room_hears_its_messages_in_one_order() {
    let rig = rig(3);
    rig.node(0).follow(&space(), &room());
    rig.node(1).follow(&space(), &room());
    for text in ["1", "2", "3"] {
        rig.publish(2, text).unwrap();
    }
    for n in 0..2 {
        let heard = rig.heard(n);
        assert!(matches!(&heard[0], Heard::Followed { as_of: 0, .. }), "{heard:?}");
        assert_eq!(texts(&heard), ["1", "2", "3"]);
    }
    assert_eq!(rig.heard(2), []);
}

#[test]
fn a_node_that_was_cut_off_finds_what_it_missed() {
    let rig = rig(2);
    rig.node(0).follow(&space(), &room());
    rig.publish(1, "1").unwrap();
    rig.heard(0);
    rig.cluster.cut(NodeId(0));
    rig.publish(1, "2").unwrap();
    assert_eq!(rig.publish(0, "no"), Err(PublishError::Unavailable));
    rig.cluster.mend(NodeId(0));
    let heard = rig.heard(0);
    let [Heard::OutOfTouch { .. }, Heard::CaughtUp { as_of: 2, rooms, .. }] = &heard[..] else { panic!("{heard:?}") };
    assert!(!rooms[0].gap);
    assert_eq!(rooms[0].missed.iter().map(|of| &of.data[..]).collect::<Vec<_>>(), [b"2"]);
    rig.publish(1, "3").unwrap();
    assert_eq!(texts(&rig.heard(0)), ["3"]);
}

#[test]
fn a_node_that_was_cut_off_for_too_long_is_told_of_the_gap() {
    let rig = rig(2);
    rig.node(0).follow(&space(), &room());
    rig.cluster.cut(NodeId(0));
    for _ in 0..5 {
        rig.publish(1, "x").unwrap();
    }
    rig.cluster.mend(NodeId(0));
    let heard = rig.heard(0);
    let Some(Heard::CaughtUp { rooms, .. }) = heard.last() else { panic!("{heard:?}") };
    assert!(rooms[0].gap && rooms[0].missed.is_empty());
    let of_room = RoomKey { tenant: space().tenant.clone(), namespace: space().namespace.clone(), room: room() };
    assert_eq!(rig.node(0).read_seq(&of_room, 0, 10).unwrap(), None);
    assert_eq!(rig.node(0).read_seq(&of_room, 1, 10).unwrap().unwrap().len(), 4);
    assert_eq!(rig.node(0).bounds(&of_room), Some((2, 5)));
}

#[test]
fn a_broker_that_lost_what_somebody_had_heard_begins_a_new_epoch_and_one_that_lost_nothing_does_not() {
    let rig = rig(2);
    rig.node(0).follow(&space(), &room());
    rig.node(1).follow(&space(), &room());
    let first = rig.publish(1, "1").unwrap();
    rig.cluster.restart(Loss::Nothing);
    assert_eq!(rig.publish(1, "2").unwrap().position.epoch, first.position.epoch);
    for loss in [Loss::Last(1), Loss::Everything] {
        let before = rig.publish(1, "3").unwrap().position;
        (0..2).for_each(|n| drop(rig.heard(n)));
        rig.cluster.restart(loss);
        let after = rig.publish(1, "4").unwrap().position;
        assert_ne!(before.epoch, after.epoch, "{loss:?}");
        for n in 0..2 {
            let told = rig.heard(n).into_iter().filter_map(|heard| match heard {
                Heard::CaughtUp { epoch, .. } => Some(epoch),
                _ => None,
            });
            assert_eq!(told.last(), Some(after.epoch), "{loss:?}");
        }
    }
}

#[test]
fn leases_are_heard_by_the_others_and_end_with_their_node() {
    let rig = rig(3);
    rig.node(0).follow(&space(), &room());
    rig.node(1).lease(&space(), &room(), &user("ann"), Some(info("ann")));
    rig.node(0).lease(&space(), &room(), &user("bob"), Some(info("bob")));
    rig.node(2).follow(&space(), &room());
    let heard = rig.heard(0);
    assert!(matches!(&heard[1..], [Heard::Leased { node: NodeId(1), info: Some(_), .. }]), "{heard:?}");
    let heard = rig.heard(2);
    assert!(matches!(&heard[..], [Heard::Followed { leases, .. }] if leases.len() == 2), "{heard:?}");
    rig.cluster.kill(NodeId(1));
    rig.cluster.bury(NodeId(1));
    let ended = Heard::LeasesEnded { space: space(), room: room(), node: NodeId(1) };
    assert_eq!(rig.heard(0), [ended, Heard::NodeGone(NodeId(1))]);
    rig.cluster.restart(Loss::Everything);
    let heard = rig.heard(2);
    let Some(Heard::CaughtUp { rooms, .. }) = heard.last() else { panic!("{heard:?}") };
    assert_eq!(rooms[0].leases[0].info.user_id, user("bob"), "the broker forgot it, its node did not");
}

#[test]
fn a_message_whose_answer_was_lost_is_published_once() {
    let rig = rig(1);
    let idempotency = |id: &str| {
        let key = IdempotencyKey::try_from("k").unwrap();
        Some(Box::new(Idempotency { sender: user("ann"), key, message_id: id.into(), window_ms: 1_000 }))
    };
    rig.cluster.lose_answers(NodeId(0), true);
    let lost = rig.node(0).publish(Outgoing { idempotency: idempotency("a"), ..message("x") });
    assert_eq!(lost.blocking_recv().unwrap(), Err(PublishError::Unavailable));
    rig.cluster.lose_answers(NodeId(0), false);
    let again = rig.node(0).publish(Outgoing { idempotency: idempotency("b"), ..message("x") });
    let placed = again.blocking_recv().unwrap().unwrap();
    assert_eq!((placed.seq, placed.duplicate.as_deref()), (1, Some("a")));
}

#[test]
fn a_session_is_claimed_once_and_its_former_node_cannot_store_it_any_more() {
    let rig = rig(2);
    let record = SessionRecord {
        pid: Pid::from("secret"),
        socket_id: SocketId::from("s"),
        tenant: space().tenant.clone(),
        namespace: space().namespace.clone(),
        user: user("ann"),
        rooms: vec![(room(), 3)],
        token_expires_at: None,
        expires_at: None,
    };
    let claim =
        |n: usize, by: &str| rig.node(n).claim(&space(), &record.pid, &user(by)).blocking_recv().unwrap().unwrap();
    rig.node(0).submit(Write::SaveSession(record.clone())).unwrap();
    assert_eq!(claim(1, "eve"), None);
    let claimed = claim(1, "ann").unwrap();
    assert_eq!((claimed.record, claimed.was_live_on), (record.clone(), Some(NodeId(0))));
    assert_eq!(claim(0, "ann"), None);
    rig.node(0).submit(Write::DropSession(record.pid.clone())).unwrap();
    rig.node(0).submit(Write::SaveSession(SessionRecord { rooms: Vec::new(), ..record.clone() })).unwrap();
    rig.node(1).submit(Write::SaveSession(record.clone())).unwrap();
    assert_eq!(claim(0, "ann").unwrap().record.rooms, record.rooms);
}

#[test]
fn a_signal_reaches_whom_it_is_for_and_not_its_teller() {
    let rig = rig(3);
    rig.node(0).follow(&space(), &room());
    rig.node(1).follow(&space(), &room());
    (0..3).for_each(|n| drop(rig.heard(n)));
    rig.node(0).signal(Audience::Room(space(), room()), Bytes::from_static(b"r"));
    rig.node(0).signal(Audience::Nodes, Bytes::from_static(b"n"));
    rig.node(0).signal(Audience::Node(NodeId(2)), Bytes::from_static(b"2"));
    let bodies = |n| {
        let body = |heard| match heard {
            Heard::Signal { body, .. } => body,
            other => panic!("{other:?}"),
        };
        rig.heard(n).into_iter().map(body).collect::<Vec<_>>()
    };
    assert_eq!((bodies(0), bodies(1), bodies(2)), (vec![], vec!["r".into(), "n".into()], vec!["n".into(), "2".into()]));
}

#[test]
fn an_answer_can_come_before_or_after_the_message_that_it_answers() {
    for first in [Lane::Heard, Lane::Answers] {
        let second = if first == Lane::Heard { Lane::Answers } else { Lane::Heard };
        let rig = rig(1);
        rig.node(0).follow(&space(), &room());
        rig.heard(0);
        rig.cluster.hold(NodeId(0), second);
        let mut answer = rig.node(0).publish(message("x"));
        rig.cluster.settle();
        assert_eq!(answer.try_recv().is_ok(), first == Lane::Answers);
        assert_eq!(texts(&rig.heard(0)).len(), usize::from(first == Lane::Heard));
        rig.cluster.release(NodeId(0), second);
        assert_eq!(texts(&rig.heard(0)).len(), usize::from(first == Lane::Answers));
    }
}

#[test]
fn a_node_that_cannot_take_more_hears_the_rest_when_it_can() {
    let rig = rig(1);
    let (release, wait) = tokio::sync::oneshot::channel::<()>();
    let (wait, heard) = (Mutex::new(Some(wait)), Log::default());
    let of_node = Arc::clone(&heard);
    let on_heard = Arc::new(move |heard: Heard| {
        let is_message = matches!(heard, Heard::Published(_));
        of_node.lock().unwrap().push(heard);
        let wait = wait.lock().unwrap().take_if(|_| is_message)?;
        Some(Box::pin(async { wait.await.unwrap() }) as tidegate_cluster::Pause)
    });
    let full = rig.cluster.node(NodeId(9), on_heard, Arc::new(|_| {}));
    full.follow(&space(), &room());
    for text in ["1", "2"] {
        rig.publish(0, text).unwrap();
    }
    rig.cluster.settle();
    assert_eq!(texts(&heard.lock().unwrap()), ["1"]);
    release.send(()).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while texts(&heard.lock().unwrap()).len() < 2 {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
}

#[test]
fn looking_at_a_room_from_outside_makes_nothing() {
    let rig = rig(2);
    rig.node(0).lease(&space(), &room(), &user("ann"), Some(info("ann")));
    rig.publish(0, "1").unwrap();
    let look = |room: &str| {
        let room = RoomName::try_from(room).unwrap();
        rig.node(1).look(&space(), &room).blocking_recv().unwrap().unwrap()
    };
    assert_eq!((look("lobby").head.offset, look("lobby").leases.len()), (1, 1));
    assert_eq!((look("other").head.offset, look("other").head.seq, look("other").leases.len()), (1, 0, 0));
    rig.publish(0, "2").unwrap();
    assert_eq!(look("other").head.offset, 2, "it stands where its next message would be counted from");
}

#[test]
fn a_value_is_kept_once_and_taken_once() {
    let rig = rig(2);
    let name = || Name { kind: Kind::Ticket, text: "t".into() };
    let keep =
        |n: usize, value: &'static str| rig.node(n).keep(name(), value.into(), 10).blocking_recv().unwrap().unwrap();
    assert_eq!((keep(0, "a"), keep(1, "b")), (None, Some("a".into())));
    assert_eq!(rig.node(0).list(Kind::Revocation, 9).blocking_recv().unwrap().unwrap(), []);
    assert_eq!(rig.node(0).list(Kind::Ticket, 9).blocking_recv().unwrap().unwrap(), [("t".into(), "a".into())]);
    assert_eq!(rig.node(1).take(name()).blocking_recv().unwrap().unwrap(), Some("a".into()));
    assert_eq!(rig.node(0).take(name()).blocking_recv().unwrap().unwrap(), None);
}
