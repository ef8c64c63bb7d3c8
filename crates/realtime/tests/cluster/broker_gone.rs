//! What goes on, and what does not, while the broker is gone; and what is right again when it is back.

use serde_json::json;
use tidegate_cluster::History;
use tidegate_cluster::model::Loss;
use tidegate_hub::Pid;
use tidegate_testkit::local;

use crate::harness::{Rig, until};

#[test]
fn without_the_broker_what_needs_no_order_goes_on_and_the_rest_is_refused_at_once() {
    local(async {
        let rig = Rig::of(2).await;
        let (mut a, mut b) = (rig.client(0, "a").await, rig.client(0, "b").await);
        a.join("r").await;
        b.join("r").await;
        assert!(rig.node(0).node.health().store);
        rig.cluster.stop();
        rig.cluster.settle();
        assert!(!rig.node(0).node.health().store);
        for persistent in [false, true] {
            let message = json!({ "room": "r", "payload": "x", "persistent": persistent });
            let refused = a.ask("room:send", message).await;
            assert_eq!(refused["success"], false);
            assert_eq!(a.wait_for("system:error").await["code"], "MESSAGE_SEND_FAILED");
        }
        let answer = a.ask("room:send", json!({ "room": "r", "payload": "v", "volatile": true })).await;
        assert_eq!(answer["success"], true);
        assert_eq!(b.message().await, "v");
        // Who comes now is served; a room that is heard already can be joined.
        let mut late = rig.client(0, "c").await;
        late.join("r").await;
        rig.cluster.restart(Loss::Nothing);
        rig.cluster.settle();
        a.send("r", "1").await;
        assert_eq!(late.message().await, "1");
        assert_eq!(b.message().await, "1");
    });
}

#[test]
fn a_node_that_was_cut_off_delivers_what_it_missed_in_order() {
    local(async {
        let rig = Rig::of(2).await;
        let (mut a, mut b) = (rig.client(0, "a").await, rig.client(1, "b").await);
        a.join("r").await;
        b.join("r").await;
        rig.cluster.cut(Rig::id(1));
        a.send("r", "1").await;
        a.send("r", "2").await;
        rig.cluster.mend(Rig::id(1));
        a.send("r", "3").await;
        assert_eq!(b.messages(3).await, ["1", "2", "3"]);
        assert!(b.heard("room:gap").await.is_empty());
    });
}

#[test]
fn what_the_broker_lost_is_told_and_no_cursor_of_before_is_recovered() {
    local(async {
        let rig = Rig::of(2).await;
        let (mut a, mut b) = (rig.client(0, "a").await, rig.client(1, "b").await);
        a.join("r").await;
        b.join("r").await;
        a.send("r", "1").await;
        assert_eq!(b.message().await, "1");
        // It has joined at a number that is handed out once more.
        let mut late = rig.client(1, "d").await;
        late.join("r").await;
        let mut doomed = rig.client(1, "c").await;
        doomed.join("r").await;
        let cut = doomed.cut();
        rig.cluster.restart(Loss::Everything);
        rig.cluster.settle();
        assert_eq!(b.wait_for("room:gap").await["room"], "r");
        assert_eq!(a.wait_for("room:gap").await["room"], "r");
        let fresh = rig.comes_back(0, "c", &cut).await;
        assert_ne!(fresh.cut.sid, cut.sid);
        // Numbers have begun again, and nothing is passed over because of those of before.
        a.send("r", "2").await;
        assert_eq!(b.message().await, "2");
        assert_eq!(a.messages(2).await, ["1", "2"]);
        assert_eq!(late.message().await, "2");
    });
}

#[test]
fn sessions_of_connected_clients_are_stored_again_when_the_broker_has_lost_them() {
    local(async {
        let rig = Rig::of(2).await;
        let (mut a, mut b) = (rig.client(0, "a").await, rig.client(1, "b").await);
        a.join("r").await;
        b.join("r").await;
        rig.cluster.restart(Loss::Everything);
        rig.cluster.settle();
        a.send("r", "1").await;
        assert_eq!(b.message().await, "1");
        let pid = Pid::from(b.cut.pid.as_str());
        until("the session to be stored", || rig.history(1).session(&pid).unwrap().is_some()).await;
        let cut = b.cut();
        a.send("r", "2").await;
        let mut back = rig.comes_back(0, "b", &cut).await;
        assert_eq!(back.cut.sid, cut.sid);
        assert_eq!(back.message().await, "2");
    });
}
