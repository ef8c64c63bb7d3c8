//! What the broker keeps for all nodes: tickets, revocations, answers to requests that are sent again.

use std::time::Duration;

use serde_json::json;
use tidegate_auth::Revocation;
use tidegate_cluster::model::Loss;
use tidegate_cluster::{Broker, Kind};
use tidegate_testkit::{Message, RawClient, local, patiently};
use tidegate_types::{TenantId, UserId};
use tokio::time::sleep;

use crate::harness::{Client, Rig, token};

async fn ticket(rig: &Rig, n: usize, user: &str) -> Message {
    let mut raw = RawClient::connect(rig.node(n).address).await;
    let token = token(user);
    let request = format!(
        "POST /realtime/tickets HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
    );
    patiently("a ticket", raw.request(request)).await
}

async fn stream(rig: &Rig, n: usize, ticket: &str) -> (RawClient, u16) {
    let mut raw = RawClient::connect(rig.node(n).address).await;
    raw.send(format!("GET /realtime/rooms/quay/events?ticket={ticket} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    let head = patiently("an answer", raw.head()).await.unwrap();
    (raw, head.status())
}

#[test]
fn a_ticket_is_taken_on_any_node_and_once() {
    local(async {
        let rig = Rig::of(3).await;
        let given = ticket(&rig, 0, "ada").await;
        assert_eq!(given.status(), 201);
        let given = given.json()["ticket"].as_str().unwrap().to_owned();
        let (_open, status) = stream(&rig, 1, &given).await;
        assert_eq!(status, 200);
        for n in 0..3 {
            assert_eq!(stream(&rig, n, &given).await.1, 401, "{n}");
        }
        // By a Socket.IO client, too.
        let given = ticket(&rig, 2, "bob").await.json()["ticket"].as_str().unwrap().to_owned();
        let mut client = Client::open(rig.node(0).address).await;
        client.connect_with(json!({ "ticket": given })).await;
        client.join("quay").await;
        let connections = rig.asked(1, "GET", "/users/bob/connections", "").await;
        assert_eq!(connections["connections"][0]["namespaces"][0]["rooms"], json!(["quay"]));
    });
}

#[test]
fn without_the_broker_there_are_no_tickets_and_who_asks_may_ask_again() {
    local(async {
        let rig = Rig::of(2).await;
        let given = ticket(&rig, 0, "ada").await.json()["ticket"].as_str().unwrap().to_owned();
        rig.cluster.stop();
        let refused = ticket(&rig, 0, "ada").await;
        assert_eq!((refused.status(), refused.field("retry-after")), (503, Some("1")));
        assert_eq!(stream(&rig, 1, &given).await.1, 503);
        rig.cluster.restart(Loss::Nothing);
        rig.cluster.settle();
        assert_eq!(stream(&rig, 1, &given).await.1, 200);
    });
}

fn of_user(user: &str) -> Revocation {
    let (tenant, user) = (TenantId::default_tenant(), UserId::try_from(user).unwrap());
    Revocation::User { tenant, user, before: u64::MAX, until: None }
}

async fn is_let_in(rig: &Rig, n: usize, user: &str) -> bool {
    let mut raw = RawClient::connect(rig.node(n).address).await;
    let token = token(user);
    raw.send(format!("GET /realtime/rooms/quay/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"))
        .await;
    patiently("an answer", raw.head()).await.unwrap().status() == 200
}

#[test]
fn who_is_revoked_is_thrown_out_of_all_nodes_and_let_in_by_none() {
    local(async {
        let rig = Rig::of(3).await;
        let (mut a, mut b) = (rig.client(1, "mallory").await, rig.client(2, "mallory").await);
        let mut c = rig.client(2, "ada").await;
        let body = format!(r#"{{"user":"mallory","before":{}}}"#, u64::MAX / 2);
        rig.asked(0, "POST", "/revocations", &body).await;
        for client in [&mut a, &mut b] {
            client.wait_for("auth:revoked").await;
            assert!(client.is_closed().await);
        }
        for n in 0..3 {
            assert!(!is_let_in(&rig, n, "mallory").await && is_let_in(&rig, n, "ada").await, "{n}");
        }
        assert!(c.heard("auth:revoked").await.is_empty());
    });
}

#[test]
fn a_node_that_starts_later_knows_who_is_revoked() {
    local(async {
        let mut rig = Rig::of(1).await;
        rig.node(0).node.revoke(of_user("mallory")).await.unwrap();
        rig.add().await;
        patiently("what is kept is read", async { while is_let_in(&rig, 1, "mallory").await {} }).await;
        assert!(is_let_in(&rig, 1, "ada").await);
    });
}

#[test]
fn a_node_that_was_out_of_touch_hears_of_revocations_when_it_is_back() {
    local(async {
        let rig = Rig::of(2).await;
        let mut client = rig.client(1, "mallory").await;
        rig.cluster.cut(Rig::id(1));
        rig.node(0).node.revoke(of_user("mallory")).await.unwrap();
        assert!(client.heard("auth:revoked").await.is_empty());
        rig.cluster.mend(Rig::id(1));
        client.wait_for("auth:revoked").await;
        assert!(client.is_closed().await);
    });
}

#[test]
fn a_revocation_that_the_broker_lost_is_stored_again_by_whoever_knows_it() {
    local(async {
        let mut rig = Rig::of(2).await;
        rig.node(0).node.revoke(of_user("mallory")).await.unwrap();
        rig.cluster.stop();
        // Not lost with the broker's memory, and held here meanwhile.
        let refused = rig.api(1, "POST", "/revocations", r#"{"tokenId":"j1"}"#, "").await;
        assert_eq!(refused.status(), 503);
        assert!(refused.text().contains("holds on this node only"), "{}", refused.text());
        rig.cluster.restart(Loss::Everything);
        rig.cluster.settle();
        let broker = rig.history(0);
        patiently("both are stored", async {
            while broker.list(Kind::Revocation, 10).await.unwrap().unwrap().len() < 2 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        rig.add().await;
        patiently("what is kept is read", async { while is_let_in(&rig, 2, "mallory").await {} }).await;
    });
}

fn once(key: &str) -> String {
    format!("Idempotency-Key: {key}\r\n")
}

#[test]
fn a_request_sent_again_to_another_node_gets_the_first_answer() {
    local(async {
        let rig = Rig::of(3).await;
        let mut a = rig.client(2, "ada").await;
        a.join("quay").await;
        let body = r#"{"operations":[{"publish":{"room":"quay","payload":"x"}},{"broadcast":{"all":true,"event":"e","data":1}}]}"#;
        let first = rig.api(0, "POST", "/batch", body, &once("k1")).await;
        assert_eq!(first.status(), 200, "{}", first.text());
        for n in [1, 2, 0] {
            let again = rig.api(n, "POST", "/batch", body, &once("k1")).await;
            assert_eq!((again.status(), again.text()), (200, first.text()), "{n}");
            assert_eq!(again.field("idempotency-replayed"), Some("true"));
            let other = rig.api(n, "POST", "/batch", &body.replace('x', "y"), &once("k1")).await;
            assert_eq!(other.status(), 422, "{n}");
        }
        assert_eq!(a.message().await, "x");
        assert_eq!(a.heard("e").await.len(), 1);
        assert!(a.heard("room:message").await.is_empty());
    });
}

#[test]
fn what_was_refused_may_be_tried_again_on_another_node() {
    local(async {
        let rig = Rig::of(2).await;
        let refused = rig.api(0, "PUT", "/rooms/quay/members/ada", "", &once("k1")).await;
        assert_eq!(refused.status(), 404);
        let mut a = rig.client(0, "ada").await;
        let done = rig.api(1, "PUT", "/rooms/quay/members/ada", "", &once("k1")).await;
        assert_eq!((done.status(), done.json()["connections"].clone()), (200, json!(1)));
        a.wait_for("room:joined").await;
    });
}

#[test]
fn without_the_broker_a_request_with_a_name_is_refused_rather_than_done_twice() {
    local(async {
        let rig = Rig::of(2).await;
        let mut a = rig.client(0, "ada").await;
        let body = r#"{"all":true,"event":"e","data":1}"#;
        let first = rig.api(0, "POST", "/broadcast", body, &once("k1")).await;
        assert_eq!(first.status(), 200);
        rig.cluster.stop();
        let refused = rig.api(0, "POST", "/broadcast", body, &once("k2")).await;
        assert_eq!((refused.status(), refused.field("retry-after")), (503, Some("1")));
        // Where it has been before, its answer is known.
        let again = rig.api(0, "POST", "/broadcast", body, &once("k1")).await;
        assert_eq!((again.status(), again.text()), (200, first.text()));
        assert_eq!(rig.api(1, "POST", "/broadcast", body, &once("k1")).await.status(), 503);
        rig.cluster.restart(Loss::Nothing);
        rig.cluster.settle();
        let done = rig.api(0, "POST", "/broadcast", body, &once("k2")).await;
        assert_eq!((done.status(), done.field("idempotency-replayed")), (200, None));
        assert_eq!(a.heard("e").await, [json!(1), json!(1)]);
    });
}
