//! Connections counted over all nodes.

use tidegate_cluster::Lane;
use tidegate_cluster::model::Limits as Kept;
use tidegate_realtime::{Behaviour, Limits, NamespaceSettings, Namespaces};
use tidegate_testkit::{local, patiently};
use tidegate_types::Namespace;

use crate::harness::{Client, Rig};

async fn limited(nodes: u64, limits: Limits) -> Rig {
    let settings = NamespaceSettings { limits, ..NamespaceSettings::new(Behaviour::Rooms) };
    Rig::serving(nodes, Kept::default(), Namespaces::none().with(Namespace::root(), settings)).await
}

fn per_user(most: u32) -> Limits {
    Limits { connections_per_user: most, ..Limits::default() }
}

/// Until the user is let in there.
async fn let_in(rig: &Rig, n: usize, user: &str) -> Client {
    patiently("the user is let in", async {
        loop {
            let (client, answer) = rig.knock(n, user).await;
            if answer.starts_with("40{") {
                return client;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
}

#[test]
fn the_connections_of_a_user_are_counted_over_all_nodes() {
    local(async {
        let rig = limited(3, per_user(2)).await;
        let first = let_in(&rig, 0, "ada").await;
        let _second = let_in(&rig, 1, "ada").await;
        for n in 0..3 {
            let (_, answer) = rig.knock(n, "ada").await;
            assert!(answer.starts_with("44") && answer.contains("USER_CONNECTION_LIMIT_EXCEEDED"), "{answer}");
        }
        let _other = let_in(&rig, 2, "bob").await;
        drop(first);
        let _third = let_in(&rig, 2, "ada").await;
        let (_, answer) = rig.knock(0, "ada").await;
        assert!(answer.starts_with("44"), "{answer}");
    });
}

#[test]
fn the_connections_of_a_tenant_are_counted_over_all_nodes() {
    local(async {
        let rig = limited(2, Limits { connections_per_tenant: 3, ..Limits::default() }).await;
        let mut inside = Vec::new();
        for (n, user) in [(0, "a"), (1, "b"), (1, "c")] {
            inside.push(let_in(&rig, n, user).await);
        }
        let (_, answer) = rig.knock(0, "d").await;
        assert!(answer.starts_with("44") && answer.contains("\"CONNECTION_LIMIT_EXCEEDED"), "{answer}");
    });
}

#[test]
fn a_dead_node_holds_nobodys_place() {
    local(async {
        let rig = limited(2, per_user(1)).await;
        let _held = let_in(&rig, 0, "ada").await;
        assert!(rig.knock(1, "ada").await.1.starts_with("44"));
        rig.kill(0);
        rig.cluster.bury(Rig::id(0));
        let _back = let_in(&rig, 1, "ada").await;
    });
}

#[test]
fn without_the_broker_a_node_counts_alone() {
    local(async {
        let rig = limited(2, per_user(1)).await;
        let _held = let_in(&rig, 0, "ada").await;
        rig.cluster.hold(Rig::id(1), Lane::Answers);
        let (_inside, answer) = rig.knock(1, "ada").await;
        assert!(answer.starts_with("40{"), "{answer}");
        assert!(rig.knock(1, "ada").await.1.starts_with("44"));
    });
}
