//! What an application or a session's return does to clients of other nodes, and what is no signal at all.

use bytes::Bytes;
use serde_json::json;
use tidegate_cluster::{Audience, Broker};
use tidegate_realtime::app::Io;
use tidegate_testkit::local;
use tidegate_types::TenantId;

use crate::harness::{Rig, until};

fn io(rig: &Rig, n: usize) -> Io {
    rig.node(n).node.io("/", &TenantId::default_tenant()).unwrap().unwrap()
}

#[test]
fn what_an_application_emits_reaches_rooms_and_everybody_on_all_nodes_once() {
    local(async {
        let rig = Rig::of(3).await;
        let (mut a, mut b, mut c) =
            (rig.client(0, "ada").await, rig.client(1, "bob").await, rig.client(2, "eve").await);
        a.join("quay").await;
        b.join("quay").await;
        b.join("pier").await;
        c.join("pier").await;
        io(&rig, 0).to("quay").emit("one", &1);
        assert_eq!((a.wait_for("one").await, b.wait_for("one").await), (json!(1), json!(1)));
        io(&rig, 2).to("quay").to("pier").emit("two", &2);
        for client in [&mut a, &mut b, &mut c] {
            assert_eq!(client.wait_for("two").await, json!(2));
        }
        io(&rig, 1).everybody().except("pier").emit("three", &3);
        assert_eq!(a.wait_for("three").await, json!(3));
        io(&rig, 0).everybody().volatile().emit("four", &4);
        for client in [&mut a, &mut b, &mut c] {
            assert_eq!(client.wait_for("four").await, json!(4));
        }
        assert!(c.heard("one").await.is_empty() && b.heard("two").await.is_empty());
        assert!(b.heard("three").await.is_empty() && c.heard("three").await.is_empty());
    });
}

#[test]
fn an_application_parts_clients_of_all_nodes() {
    local(async {
        let rig = Rig::of(2).await;
        let (mut a, mut b, mut c) =
            (rig.client(0, "ada").await, rig.client(1, "ada").await, rig.client(1, "bob").await);
        c.join("quay").await;
        io(&rig, 0).disconnect_user("ada");
        assert!(a.is_closed().await && b.is_closed().await);
        assert!(c.heard("x").await.is_empty());
        io(&rig, 0).to("quay").disconnect();
        until("bob is parted from the namespace", || io(&rig, 1).connections() == 0).await;
    });
}

#[test]
fn bytes_that_are_no_signal_are_counted_and_do_nothing() {
    local(async {
        let rig = Rig::of(2).await;
        let mut a = rig.client(1, "ada").await;
        let of_another_version = Bytes::from_static(b"\x02\x01\0\0\0\0rest");
        for body in [Bytes::new(), Bytes::from_static(b"\xff\xff"), of_another_version] {
            rig.history(0).signal(Audience::Nodes, body);
        }
        rig.cluster.settle();
        assert_eq!(rig.node(1).metrics.signals_refused.get(), 3);
        a.join("quay").await;
    });
}
