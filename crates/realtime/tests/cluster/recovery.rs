//! Cut sessions that come back on another node.

use std::time::Duration;

use serde_json::json;
use tidegate_cluster::Lane;
use tidegate_cluster::model::Limits;
use tidegate_testkit::{local, patiently};
use tidegate_types::Phase;

use crate::harness::Rig;

#[test]
fn a_cut_session_comes_back_on_another_node_with_all_that_it_missed() {
    local(async {
        let rig = Rig::of(3).await;
        let mut sender = rig.client(0, "a").await;
        sender.join("r").await;
        sender.join("s").await;
        let mut client = rig.client(1, "b").await;
        client.join("r").await;
        client.join("s").await;
        sender.send("r", "1").await;
        assert_eq!(client.message().await, "1");
        let cut = client.cut();
        sender.send("s", "2").await;
        sender.send("r", "3").await;
        let mut back = rig.comes_back(2, "b", &cut).await;
        assert_eq!(back.cut.sid, cut.sid);
        sender.send("s", "4").await;
        assert_eq!(back.messages(3).await, ["2", "3", "4"]);
        assert!(back.heard("room:message").await.is_empty());
        let rooms = back.ask("query:rooms", json!({})).await;
        assert_eq!(rooms["rooms"].as_array().unwrap().len(), 2, "{rooms}");
    });
}

#[test]
fn a_session_comes_back_again_and_again_on_one_node_after_the_other() {
    local(async {
        let rig = Rig::of(3).await;
        let mut sender = rig.client(0, "a").await;
        sender.join("r").await;
        let mut client = rig.client(0, "b").await;
        client.join("r").await;
        let mut seen = Vec::new();
        for round in 0..9 {
            let (sid, cut) = (client.cut.sid.clone(), client.cut());
            sender.send("r", &round.to_string()).await;
            client = rig.comes_back(round % 3, "b", &cut).await;
            assert_eq!(client.cut.sid, sid, "round {round}");
            seen.push(client.message().await);
        }
        assert_eq!(seen, (0..9).map(|round| round.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn a_client_whose_old_node_has_not_noticed_gets_its_session_and_the_old_connection_ends() {
    local(async {
        let rig = Rig::of(2).await;
        let mut sender = rig.client(0, "a").await;
        sender.join("r").await;
        for n in [1, 0] {
            let mut old = rig.client(0, "b").await;
            old.join("r").await;
            let cut = old.cut.clone();
            sender.send("r", "1").await;
            let mut new = rig.comes_back(n, "b", &cut).await;
            assert_eq!(new.cut.sid, cut.sid);
            assert!(old.is_closed().await);
            assert_eq!(new.message().await, "1");
            // The old node has not stored the session as one that waits: it is the new connection's.
            new.join("s").await;
            let again = new.cut();
            let mut again = rig.comes_back(1 - n, "b", &again).await;
            let rooms = again.ask("query:rooms", json!({})).await;
            assert_eq!(rooms["rooms"].as_array().unwrap().len(), 2, "{rooms}");
        }
    });
}

#[test]
fn sessions_of_a_node_that_died_come_back_on_the_others() {
    local(async {
        let rig = Rig::of(2).await;
        let mut sender = rig.client(0, "a").await;
        sender.join("r").await;
        let mut client = rig.client(1, "b").await;
        client.join("r").await;
        rig.kill(1);
        let cut = client.cut();
        sender.send("r", "1").await;
        let mut back = rig.comes_back(0, "b", &cut).await;
        assert_eq!(back.cut.sid, cut.sid);
        assert_eq!(back.message().await, "1");
    });
}

#[test]
fn sessions_of_a_node_that_is_stopped_come_back_on_the_others_at_once() {
    local(async {
        let rig = Rig::of(2).await;
        let mut sender = rig.client(0, "a").await;
        sender.join("r").await;
        let mut client = rig.client(1, "b").await;
        client.join("r").await;
        assert_eq!(sender.wait_for("presence:join").await["user"]["userId"], "b");
        rig.node(1).phase.send_replace(Phase::Draining);
        assert!(client.is_closed().await);
        patiently("the drain", rig.node(1).node.drained()).await;
        rig.node(1).node.close().unwrap();
        assert_eq!(sender.wait_for("presence:leave").await["userId"], "b");
        let cut = client.cut();
        sender.send("r", "1").await;
        let mut back = rig.comes_back(0, "b", &cut).await;
        assert_eq!(back.cut.sid, cut.sid);
        assert_eq!(back.message().await, "1");
    });
}

#[test]
fn another_user_does_not_get_a_session_from_another_node_either() {
    local(async {
        let rig = Rig::of(2).await;
        let mut client = rig.client(0, "a").await;
        client.join("r").await;
        let cut = client.cut();
        let thief = rig.comes_back(1, "b", &cut).await;
        assert_ne!(thief.cut.sid, cut.sid);
        let back = rig.comes_back(1, "a", &cut).await;
        assert_eq!(back.cut.sid, cut.sid);
    });
}

#[test]
fn who_cannot_be_given_all_that_was_missed_starts_afresh() {
    local(async {
        let rig = Rig::with(2, Limits { messages_per_room: 5, ..Limits::default() }).await;
        let mut sender = rig.client(0, "a").await;
        sender.join("r").await;
        let mut client = rig.client(0, "b").await;
        client.join("r").await;
        let cut = client.cut();
        for _ in 0..6 {
            sender.send("r", "x").await;
        }
        let mut back = rig.comes_back(1, "b", &cut).await;
        assert_ne!(back.cut.sid, cut.sid);
        assert!(back.heard("room:message").await.is_empty());
    });
}

#[test]
fn a_recovery_whose_rooms_cannot_be_heard_starts_afresh_and_holds_nothing() {
    local(async {
        let rig = Rig::of(2).await;
        let mut client = rig.client(0, "b").await;
        client.join("r").await;
        let cut = client.cut();
        // So that the node knows the namespace.
        let _other = rig.client(1, "c").await;
        rig.cluster.hold(Rig::id(1), Lane::Heard);
        let fresh = rig.comes_back(1, "b", &cut).await;
        assert_ne!(fresh.cut.sid, cut.sid);
        rig.cluster.release(Rig::id(1), Lane::Heard);
    });
}

#[test]
fn a_client_that_comes_back_before_the_broker_does_waits_for_it_and_misses_nothing() {
    local(async {
        let rig = Rig::of(2).await;
        let mut sender = rig.client(0, "a").await;
        sender.join("r").await;
        let mut client = rig.client(1, "b").await;
        client.join("r").await;
        sender.send("r", "1").await;
        assert_eq!(client.message().await, "1");
        let cut = client.cut();
        rig.cluster.cut(Rig::id(1));
        sender.send("r", "2").await;
        let mut coming = std::pin::pin!(rig.comes_back(1, "b", &cut));
        let early = tokio::time::timeout(Duration::from_millis(300), &mut coming).await;
        assert!(early.is_err(), "answered without the broker");
        rig.cluster.mend(Rig::id(1));
        let mut back = coming.await;
        assert_eq!(back.cut.sid, cut.sid);
        assert_eq!(back.message().await, "2");
    });
}

#[test]
fn a_client_does_not_wait_for_ever_for_a_broker_that_stays_away() {
    local(async {
        let rig = Rig::of(2).await;
        let mut client = rig.client(1, "b").await;
        client.join("r").await;
        let cut = client.cut();
        rig.cluster.cut(Rig::id(1));
        let fresh = rig.comes_back(1, "b", &cut).await;
        assert_ne!(fresh.cut.sid, cut.sid);
    });
}

#[test]
fn a_join_that_is_answered_is_known_to_the_recovery() {
    local(async {
        let rig = Rig::of(2).await;
        let mut sender = rig.client(0, "a").await;
        sender.join("r").await;
        for round in 0..20 {
            let mut client = rig.client(round % 2, "b").await;
            client.join("r").await;
            let cut = client.cut();
            sender.send("r", "1").await;
            let mut back = rig.comes_back((round + 1) % 2, "b", &cut).await;
            assert_eq!(back.cut.sid, cut.sid, "round {round}");
            assert_eq!(back.message().await, "1", "round {round}");
        }
    });
}
