//! A Redis Cluster.

use tidegate_cluster::redis::{Call, ErrorCode, Link, RedisSettings, Slot, Topology, Value};
use tidegate_testkit::local;
use tidegate_testkit::redis::{RedisCluster, RedisServer};

use super::plain;
use crate::log::record;
use crate::observed::{Event, Observed, call, slot, wait};

fn settings(cluster: &RedisCluster) -> RedisSettings {
    RedisSettings::new(Topology::Cluster(vec![
        cluster.nodes.first().expect("a node").address().parse().expect("an address"),
    ]))
}

/// A tag whose slot the first, second or third primary has.
fn tag(owner: usize) -> String {
    (0..)
        .map(|number| format!("{{t{number}}}"))
        .find(|tag| RedisCluster::owner(slot(tag).index()) == owner)
        .expect("a tag")
}

fn place(cluster: &RedisCluster, link: &Link) -> usize {
    cluster.nodes.iter().position(|node| node.port() == link.address().port).expect("a node")
}

fn downs(observed: &Observed, other: Slot) -> usize {
    let hit = |event: &&Event| matches!(event, Event::Down(_, slots) if slots.contains(other));
    observed.events.borrow().iter().filter(hit).count()
}

#[test]
fn each_slot_has_the_link_to_its_primary() {
    let cluster = RedisCluster::start(&plain(), false);
    local(async {
        let observed = Observed::start(settings(&cluster));
        for owner in 0..3 {
            let tag = tag(owner);
            let link = observed.link(slot(&tag), None).await;
            assert_eq!(place(&cluster, &link), owner);
            let channel = format!("{tag}1");
            observed.subscribe(&link, &channel).await;
            observed.hears(&link, &channel, "hello").await;
            call(&link, Call::new("SET").arg(&tag).arg("v")).await.expect("it can be written");
        }
        wait("all links", || observed.links.is_connected()).await;
        assert_eq!(observed.metrics.redis_connected.get(), 3);
    });
}

#[test]
fn a_slot_that_moves_takes_its_subscriptions_with_it() {
    let cluster = RedisCluster::start(&plain(), false);
    local(async {
        let observed = Observed::start(settings(&cluster));
        wait("all links", || observed.links.is_connected()).await;
        let (tag, others) = (tag(0), tag(1));
        let (channel, moving) = (format!("{tag}1"), slot(&tag));
        let link = observed.link(moving, None).await;
        observed.subscribe(&link, &channel).await;
        observed.subscribe(&link, &format!("{tag}2")).await;
        cluster.move_slot(moving.index(), 0, 2);
        observed.down(link.id(), moving).await;
        let again = observed.link(moving, Some(link.id())).await;
        assert_eq!(place(&cluster, &again), 2);
        observed.subscribe(&again, &channel).await;
        observed.hears(&again, &channel, "hello").await;
        // The old server says where it went, and the call was not carried out.
        let error = call(&link, Call::new("SET").arg(&tag).arg("v")).await.expect_err("moved");
        assert_eq!((error.code(), error.may_have_run()), (Some(ErrorCode::Moved), false));
        // Nobody else noticed anything.
        assert_eq!((downs(&observed, moving), downs(&observed, slot(&others))), (1, 0));
    });
}

#[test]
fn a_move_is_noticed_by_calls_alone() {
    let cluster = RedisCluster::start(&plain(), false);
    local(async {
        let observed = Observed::start(settings(&cluster));
        wait("all links", || observed.links.is_connected()).await;
        let tag = tag(1);
        let link = observed.link(slot(&tag), None).await;
        cluster.move_slot(slot(&tag).index(), 1, 0);
        let error = call(&link, Call::new("SET").arg(&tag).arg("v")).await.expect_err("moved");
        assert_eq!(error.code(), Some(ErrorCode::Moved));
        let again = observed.link(slot(&tag), Some(link.id())).await;
        assert_eq!(place(&cluster, &again), 0);
        assert!(call(&again, Call::new("SET").arg(&tag).arg("v")).await.is_ok());
    });
}

#[test]
fn what_is_subscribed_at_the_wrong_server_is_told_as_down() {
    let cluster = RedisCluster::start(&plain(), false);
    local(async {
        let observed = Observed::start(settings(&cluster));
        wait("all links", || observed.links.is_connected()).await;
        let tag = tag(1);
        let link = observed.link(slot(&tag), None).await;
        cluster.move_slot(slot(&tag).index(), 1, 0);
        link.subscribe(&[format!("{tag}1").into()]);
        observed.down(link.id(), slot(&tag)).await;
        let again = observed.link(slot(&tag), Some(link.id())).await;
        observed.subscribe(&again, &format!("{tag}1")).await;
    });
}

#[test]
fn a_replica_takes_over_from_a_dead_primary() {
    let mut cluster = RedisCluster::start(&plain(), true);
    local(async {
        let observed = Observed::start(settings(&cluster));
        wait("all links", || observed.links.is_connected()).await;
        let (tag, others) = (tag(1), tag(2));
        let link = observed.link(slot(&tag), None).await;
        let bystander = observed.link(slot(&others), None).await;
        observed.subscribe(&link, &format!("{tag}1")).await;
        call(&link, Call::new("SET").arg(&tag).arg("v")).await.expect("set");
        assert_eq!(call(&link, Call::new("WAIT").int(1).int(900)).await, Ok(Value::Int(1)));
        cluster.nodes[1].kill_9();
        observed.down(link.id(), slot(&tag)).await;
        let again = observed.link(slot(&tag), Some(link.id())).await;
        assert_eq!(place(&cluster, &again), 4);
        observed.subscribe(&again, &format!("{tag}1")).await;
        observed.hears(&again, &format!("{tag}1"), "hello").await;
        assert_eq!(call(&again, Call::new("GET").arg(&tag)).await, Ok(Value::Bytes("v".into())));
        assert_eq!(observed.links.link(slot(&others)).expect("a link").id(), bystander.id());
        // Gone from the books, too.
        wait("two others and the new one", || {
            observed.links.is_connected() && observed.metrics.redis_connected.get() == 3
        })
        .await;
    });
}

#[test]
fn a_cluster_is_found_by_any_of_its_nodes_and_only_with_the_right_mode() {
    let mut cluster = RedisCluster::start(&plain(), true);
    let alone = RedisServer::with(plain());
    local(async {
        let address = |server: &RedisServer| server.address().parse().expect("an address");
        let (first, last) = (address(&cluster.nodes[0]), address(&cluster.nodes[5]));
        cluster.nodes[0].kill_9();
        let observed = Observed::start(RedisSettings::new(Topology::Cluster(vec![first, last])));
        wait("all links", || observed.links.is_connected()).await;

        let (log, _guard) = record();
        let _alone = Observed::start(RedisSettings::new(Topology::Cluster(vec![address(&alone)])));
        wait("the refusal", || log.text().contains("set `mode = \"standalone\"`")).await;
        let _node = Observed::start(crate::observed::settings(&cluster.nodes[1].address()));
        wait("the refusal", || log.text().contains("set `mode = \"cluster\"`")).await;
    });
}
