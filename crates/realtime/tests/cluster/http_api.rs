//! A backend asks one node and is answered for all; what a node that is gone does not tell is marked.

use std::time::Instant;

use serde_json::{Value, json};
use tidegate_testkit::{RawClient, local, patiently};
use tidegate_types::NodeId;
use tokio::net::TcpListener;

use crate::harness::{ACME_KEY, API_KEY, Rig, peer};

fn texts(answer: &Value, list: &str, name: &str) -> Vec<String> {
    let mut texts: Vec<String> =
        answer[list].as_array().unwrap().iter().map(|entry| entry[name].as_str().unwrap().to_owned()).collect();
    texts.sort();
    texts
}

fn is_whole(answer: &Value) -> bool {
    answer.get("partial").is_none() && answer.get("missing").is_none()
}

#[test]
fn connections_are_those_of_all_nodes() {
    local(async {
        let rig = Rig::of(3).await;
        let _clients = (
            rig.client(0, "ada").await,
            rig.client(1, "bob").await,
            rig.client(2, "ada").await,
            rig.client(2, "eve").await,
        );
        for n in 0..3 {
            let all = rig.asked(n, "GET", "/connections", "").await;
            assert_eq!(texts(&all, "connections", "user"), ["ada", "ada", "bob", "eve"]);
            assert!(all["cursor"].is_null() && is_whole(&all), "{all}");
            let of_one = rig.asked(n, "GET", "/users/ada/connections", "").await;
            assert_eq!(texts(&of_one, "connections", "user"), ["ada", "ada"]);
            assert_eq!((&of_one["more"], is_whole(&of_one)), (&json!(false), true));
            let limited = rig.asked(n, "GET", "/users/ada/connections?limit=1", "").await;
            assert_eq!((limited["connections"].as_array().unwrap().len(), &limited["more"]), (1, &json!(true)));
        }
    });
}

#[test]
fn pages_go_on_from_node_to_node_and_show_each_connection_once() {
    local(async {
        let rig = Rig::of(3).await;
        let mut clients = Vec::new();
        for number in 0..14 {
            clients.push(rig.client(number % 3, &format!("user{number:02}")).await);
        }
        for limit in [1, 2, 3, 5, 14] {
            let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
            loop {
                // A cursor of one node is good at any other.
                let page = rig.asked(pages % 3, "GET", &format!("/connections?limit={limit}{cursor}"), "").await;
                assert!(page["connections"].as_array().unwrap().len() <= limit);
                seen.extend(texts(&page, "connections", "user"));
                pages += 1;
                let Some(next) = page["cursor"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            seen.sort();
            let all: Vec<String> = (0..14).map(|number| format!("user{number:02}")).collect();
            assert_eq!(seen, all, "{limit}");
        }
        let wrong = rig.api(0, "GET", "/connections?cursor=3.17", "", "").await;
        assert_eq!(wrong.status(), 400);
    });
}

#[test]
fn a_room_on_several_nodes_is_one_with_all_its_connections() {
    local(async {
        let rig = Rig::of(3).await;
        let (mut a, mut b) = (rig.client(0, "ada").await, rig.client(1, "ada").await);
        let (mut c, mut d) = (rig.client(1, "bob").await, rig.client(2, "eve").await);
        a.join("quay").await;
        b.join("quay").await;
        c.join("quay").await;
        c.join("pier").await;
        d.join("dock").await;
        a.send("quay", "1").await;
        c.message().await;
        rig.cluster.settle();
        for n in 0..3 {
            let room = rig.asked(n, "GET", "/rooms/quay", "").await;
            assert_eq!((&room["users"], &room["connections"]), (&json!(2), &json!(3)), "{n}: {room}");
            assert!(room["position"].as_str().unwrap().ends_with("-1") && is_whole(&room), "{room}");
            let all = rig.asked(n, "GET", "/rooms", "").await;
            assert_eq!(texts(&all, "rooms", "room"), ["dock", "pier", "quay"], "{n}");
            let quay = all["rooms"].as_array().unwrap().iter().find(|room| room["room"] == "quay").unwrap();
            assert_eq!((&quay["users"], &quay["connections"]), (&json!(2), &json!(3)));
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = rig.asked(n, "GET", &format!("/rooms?limit=1{cursor}"), "").await;
                seen.extend(texts(&page, "rooms", "room"));
                let Some(next) = page["cursor"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            seen.sort();
            assert_eq!(seen, ["dock", "pier", "quay"]);
        }
        let empty = rig.asked(0, "GET", "/rooms/nowhere", "").await;
        assert_eq!((&empty["users"], &empty["connections"]), (&json!(0), &json!(0)));
    });
}

#[test]
fn presence_and_history_of_a_room_are_there_on_nodes_that_nobody_is_in_it_by_way_of() {
    local(async {
        let rig = Rig::of(3).await;
        let (mut a, mut b) = (rig.client(0, "ada").await, rig.client(1, "bob").await);
        a.join("quay").await;
        b.join("quay").await;
        a.send("quay", "hello").await;
        rig.cluster.settle();
        for n in 0..3 {
            let present = rig.asked(n, "GET", "/rooms/quay/presence", "").await;
            assert_eq!(texts(&present, "presence", "userId"), ["ada", "bob"], "{n}");
            assert_eq!((&present["count"], &present["truncated"]), (&json!(2), &json!(false)));
            let some = rig.asked(n, "GET", "/rooms/quay/presence?limit=1", "").await;
            assert_eq!((some["presence"].as_array().unwrap().len(), &some["count"]), (1, &json!(2)));
            let history = rig.asked(n, "GET", "/rooms/quay/history", "").await;
            assert_eq!(history["messages"][0]["args"][0]["payload"], "hello", "{n}: {history}");
        }
        // By a client that is in another room only.
        let mut c = rig.client(2, "eve").await;
        let asked = c.ask("query:presence", json!({ "room": "quay" })).await;
        assert_eq!(texts(&asked, "presence", "userId"), ["ada", "bob"]);
    });
}

#[test]
fn a_backend_puts_users_into_rooms_and_takes_them_out_wherever_they_are() {
    local(async {
        let rig = Rig::of(3).await;
        let (mut a, mut b) = (rig.client(0, "ada").await, rig.client(1, "ada").await);
        let joined = rig.asked(2, "PUT", "/rooms/quay/members/ada", "").await;
        assert_eq!(joined, json!({ "success": true, "connections": 2 }));
        assert_eq!(a.wait_for("room:joined").await["room"], "quay");
        assert_eq!(b.wait_for("room:joined").await["room"], "quay");
        let sent = rig.asked(2, "POST", "/rooms/quay/messages", r#"{"payload":"hi"}"#).await;
        assert!(sent["position"].is_string());
        assert_eq!((a.message().await, b.message().await), ("hi".to_owned(), "hi".to_owned()));
        let left = rig.asked(0, "DELETE", "/rooms/quay/members/ada", "").await;
        assert_eq!(left, json!({ "success": true, "connections": 2 }));
        assert_eq!(b.wait_for("room:left").await["room"], "quay");
        let nobody = rig.api(1, "PUT", "/rooms/quay/members/nobody", "", "").await;
        assert_eq!(nobody.status(), 404);
    });
}

#[test]
fn users_and_everybody_are_told_on_all_nodes() {
    local(async {
        let rig = Rig::of(3).await;
        let (mut a, mut b, mut c) =
            (rig.client(0, "ada").await, rig.client(1, "ada").await, rig.client(2, "bob").await);
        let told = rig.asked(2, "POST", "/broadcast", r#"{"users":["ada"],"event":"due","data":1}"#).await;
        assert_eq!(told, json!({ "success": true, "connections": 2 }));
        assert_eq!((a.wait_for("due").await, b.wait_for("due").await), (json!(1), json!(1)));
        let body = r#"{"all":true,"event":"e","payload":null,"except":{"user":"ada"}}"#;
        let told = rig.asked(0, "POST", "/broadcast", body).await;
        assert_eq!(told, json!({ "success": true, "connections": 1 }));
        assert_eq!(c.wait_for("broadcast").await, json!({ "event": "e", "payload": null }));
        assert!(a.heard("broadcast").await.is_empty() && b.heard("broadcast").await.is_empty());
        // To rooms it goes by the broker; volatile, it reaches who is there.
        b.join("quay").await;
        c.join("pier").await;
        let body = r#"{"rooms":["quay","pier"],"event":"v","data":2,"volatile":true}"#;
        rig.asked(0, "POST", "/broadcast", body).await;
        assert_eq!((b.wait_for("v").await, c.wait_for("v").await), (json!(2), json!(2)));
        let body = r#"{"event":"w","data":3,"volatile":true,"except":{"user":"ada"}}"#;
        a.join("pier").await;
        rig.asked(1, "POST", "/rooms/pier/messages", body).await;
        assert_eq!(c.wait_for("w").await, json!(3));
        assert!(a.heard("w").await.is_empty());
    });
}

#[test]
fn connections_are_ended_by_a_node_that_does_not_have_them() {
    local(async {
        let rig = Rig::of(3).await;
        let (mut a, mut b, mut c) =
            (rig.client(0, "ada").await, rig.client(1, "ada").await, rig.client(2, "bob").await);
        let ended = rig.asked(2, "DELETE", "/users/ada/connections?reason=over", "").await;
        assert_eq!(ended, json!({ "success": true, "disconnected": 2 }));
        for client in [&mut a, &mut b] {
            assert_eq!(client.wait_for("system:disconnect").await["reason"], "over");
            assert!(client.is_closed().await);
        }
        let mut d = rig.client(0, "eve").await;
        let listed = rig.asked(1, "GET", "/users/bob/connections", "").await;
        let id = listed["connections"][0]["id"].as_str().unwrap().to_owned();
        let ended = rig.asked(1, "DELETE", &format!("/connections/{id}"), "").await;
        assert_eq!(ended, json!({ "success": true, "disconnected": 1 }));
        assert!(c.is_closed().await);
        for n in 0..3 {
            assert_eq!(rig.api(n, "DELETE", &format!("/connections/{id}"), "", "").await.status(), 404, "{n}");
        }
        let ended = rig.asked(2, "DELETE", &format!("/connections/{}", d.cut.sid), "").await;
        assert_eq!(ended["disconnected"], 1);
        assert!(d.is_closed().await);
        // An id of a node that has never been.
        let nobody = rig.api(0, "DELETE", "/connections/00000000000000ff.0.0.1", "", "").await;
        assert_eq!(nobody.status(), 404);
    });
}

#[test]
fn a_batch_is_carried_out_in_order_on_all_nodes() {
    local(async {
        let rig = Rig::of(2).await;
        let mut a = rig.client(1, "ada").await;
        let body = r#"{"operations":[
            {"join":{"room":"quay","user":"ada"}},
            {"broadcast":{"users":["ada"],"event":"one","data":1}},
            {"join":{"room":"quay","user":"nobody"}},
            {"disconnectUser":{"user":"ada"}}
        ]}"#;
        let answer = rig.asked(0, "POST", "/batch", body).await;
        let statuses: Vec<_> = answer["results"].as_array().unwrap().iter().map(|of| of["status"].clone()).collect();
        assert_eq!(statuses, [200, 200, 404, 200]);
        assert_eq!(answer["failed"], 1);
        assert_eq!(a.wait_for("one").await, json!(1));
        assert!(a.is_closed().await);
    });
}

#[test]
fn what_a_dead_node_does_not_tell_is_marked_and_not_waited_for() {
    local(async {
        let rig = Rig::of(3).await;
        let (mut a, _b) = (rig.client(0, "ada").await, rig.client(1, "ada").await);
        a.join("quay").await;
        let listed = rig.asked(0, "GET", "/connections", "").await;
        let of_dead = listed["connections"]
            .as_array()
            .unwrap()
            .iter()
            .find(|of| of["id"].as_str().unwrap().starts_with(&Rig::id(1).to_string()));
        let of_dead = of_dead.unwrap()["id"].as_str().unwrap().to_owned();
        rig.kill(1);
        let begun = Instant::now();
        let reads = ["/connections", "/users/ada/connections", "/rooms", "/rooms/quay"];
        for path in reads {
            let answer = rig.asked(0, "GET", path, "").await;
            assert_eq!((&answer["partial"], &answer["missing"]), (&json!(true), &json!(["node-1"])), "{path}");
        }
        let writes = [
            ("PUT", "/rooms/pier/members/ada".to_owned(), "", json!({ "connections": 1 })),
            ("DELETE", "/rooms/pier/members/ada".to_owned(), "", json!({ "connections": 1 })),
            ("PUT", "/rooms/pier/members/nobody".to_owned(), "", json!({ "connections": 0 })),
            ("POST", "/broadcast".to_owned(), r#"{"all":true,"event":"e","data":1}"#, json!({ "connections": 1 })),
            ("DELETE", "/connections/nobody".to_owned(), "", json!({ "disconnected": 0 })),
            ("DELETE", format!("/connections/{of_dead}"), "", json!({ "disconnected": 0 })),
            ("DELETE", "/users/ada/connections".to_owned(), "", json!({ "disconnected": 1 })),
        ];
        for (method, path, body, expected) in writes {
            let answer = rig.asked(0, method, &path, body).await;
            assert_eq!((&answer["partial"], &answer["missing"]), (&json!(true), &json!(["node-1"])), "{path}");
            for (name, value) in expected.as_object().unwrap() {
                assert_eq!(answer[name], *value, "{method} {path}: {answer}");
            }
        }
        // What needs no peer is whole.
        for path in ["/rooms/quay/presence", "/rooms/quay/history"] {
            assert!(is_whole(&rig.asked(0, "GET", path, "").await), "{path}");
        }
        assert!(begun.elapsed().as_secs() < 60, "nothing waits for a node that refuses connections");
    });
}

#[test]
fn a_node_that_hangs_costs_one_deadline_and_not_one_for_each_operation() {
    local(async {
        let rig = Rig::of(2).await;
        let _a = rig.client(1, "ada").await;
        // It takes connections (its kernel does), and never answers.
        let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = deaf.local_addr().unwrap();
        rig.introduce(0, &[peer(NodeId(9), "deaf", address), peer(NodeId(10), "mute", address)]);
        let mut b = rig.client(0, "bob").await;
        b.join("quay").await;
        let rooms = rig.asked(0, "GET", "/rooms", "").await;
        assert_eq!(
            (&rooms["missing"], texts(&rooms, "rooms", "room")),
            (&json!(["deaf", "mute"]), vec!["quay".to_owned()])
        );
        let operations: Vec<Value> = (0..20).map(|_| json!({ "join": { "room": "r", "user": "ada" } })).collect();
        let body = json!({ "operations": operations }).to_string();
        let answer = rig.asked(0, "POST", "/batch", &body).await;
        for result in answer["results"].as_array().unwrap() {
            let body = &result["body"];
            assert_eq!((&body["connections"], &body["missing"]), (&json!(1), &json!(["deaf", "mute"])), "{result}");
        }
        let answer = rig.asked(0, "GET", "/users/ada/connections", "").await;
        assert_eq!(answer["missing"], json!(["deaf", "mute"]));
    });
}

#[test]
fn a_node_that_cannot_be_asked_is_told_by_the_broker() {
    local(async {
        let rig = Rig::of(2).await;
        let mut a = rig.client(1, "ada").await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        rig.node(0).node.peers().set(vec![peer(Rig::id(1), "node-1", closed)]);
        let answer = rig.asked(0, "PUT", "/rooms/quay/members/ada", "").await;
        assert_eq!((&answer["connections"], &answer["missing"]), (&json!(0), &json!(["node-1"])));
        assert_eq!(a.wait_for("room:joined").await["room"], "quay");
        rig.asked(0, "POST", "/broadcast", r#"{"users":["ada"],"event":"due","data":1}"#).await;
        assert_eq!(a.wait_for("due").await, json!(1));
        rig.asked(0, "DELETE", "/rooms/quay/members/ada", "").await;
        a.wait_for("room:left").await;
        rig.asked(0, "DELETE", "/users/ada/connections?reason=over", "").await;
        assert_eq!(a.wait_for("system:disconnect").await["reason"], "over");
        assert!(a.is_closed().await);
    });
}

#[test]
fn without_the_broker_presence_is_what_the_node_knows_and_says_so() {
    local(async {
        let rig = Rig::of(2).await;
        let mut a = rig.client(0, "ada").await;
        a.join("quay").await;
        rig.cluster.settle();
        rig.cluster.stop();
        rig.cluster.settle();
        for (n, users) in [(0, &["ada"][..]), (1, &[])] {
            let present = rig.asked(n, "GET", "/rooms/quay/presence", "").await;
            assert_eq!(texts(&present, "presence", "userId"), users, "{n}");
            assert_eq!(present["partial"], true, "{n}: {present}");
        }
        let room = rig.asked(1, "GET", "/rooms/quay", "").await;
        assert_eq!(
            (&room["connections"], &room["position"], &room["partial"]),
            (&json!(1), &Value::Null, &json!(true))
        );
        assert_eq!(rig.api(1, "GET", "/rooms/quay/history", "", "").await.status(), 503);
    });
}

#[test]
fn a_question_between_nodes_is_believed_where_nodes_come_in_and_nowhere_else() {
    local(async {
        let rig = Rig::of(2).await;
        let _clients = (rig.client(0, "ada").await, rig.client(1, "bob").await);
        // Where clients come in, the field is nobody's: without a key nothing is opened, and with one it is as ever.
        for (fields, status) in [("", 401), (&*format!("X-Api-Key: {API_KEY}\r\n"), 200)] {
            let mut raw = RawClient::connect(rig.node(0).address).await;
            let request =
                format!("GET /realtime/connections HTTP/1.1\r\nHost: a\r\nTidegate-For-Key: backend\r\n{fields}\r\n");
            let answer = patiently("an answer", raw.request(request)).await;
            assert_eq!(answer.status(), status);
            if status == 200 {
                assert_eq!(texts(&answer.json(), "connections", "user"), ["ada", "bob"]);
            }
        }
        let mut raw = RawClient::connect(rig.node(0).address).await;
        let request = format!(
            "POST /realtime/peer/rooms HTTP/1.1\r\nHost: a\r\nX-Api-Key: {API_KEY}\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        assert_eq!(patiently("an answer", raw.request(request)).await.status(), 404);
        // Where nodes come in, it asks for this node's part.
        let mut raw = RawClient::connect(rig.internal(0)).await;
        let request = "GET /realtime/connections HTTP/1.1\r\nHost: a\r\nTidegate-For-Key: backend\r\n\r\n";
        let answer = patiently("an answer", raw.request(request)).await.json();
        assert_eq!(texts(&answer, "connections", "user"), ["ada"]);
        let request = "GET /realtime/connections HTTP/1.1\r\nHost: a\r\nTidegate-For-Key: other\r\n\r\n";
        assert_eq!(patiently("an answer", raw.request(request)).await.status(), 401);
    });
}

#[test]
fn operators_see_what_every_node_has_and_which_does_not_answer() {
    local(async {
        let rig = Rig::of(3).await;
        let _clients = (rig.client(0, "ada").await, rig.client(1, "bob").await, rig.client(1, "eve").await);
        rig.kill(2);
        let stats = rig.node(0).node.stats_of_peers().await;
        let given: Vec<_> = stats.given.iter().map(|(name, stats)| (&**name, stats.connections, stats.users)).collect();
        assert_eq!(given, [("node-1", 2, 2)]);
        assert_eq!(stats.missing.iter().map(|name| &**name).collect::<Vec<_>>(), ["node-2"]);
    });
}

#[test]
fn a_key_of_one_tenant_sees_nothing_of_another_on_any_node() {
    local(async {
        let rig = Rig::of(2).await;
        let mut a = rig.client(1, "ada").await;
        a.join("quay").await;
        rig.cluster.settle();
        for (method, path, list) in [
            ("GET", "/connections", "connections"),
            ("GET", "/users/ada/connections", "connections"),
            ("GET", "/rooms", "rooms"),
        ] {
            let mut raw = RawClient::connect(rig.node(0).address).await;
            let request = format!("{method} /realtime{path} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {ACME_KEY}\r\n\r\n");
            let answer = patiently("an answer", raw.request(request)).await.json();
            assert_eq!(answer[list], json!([]), "{path}");
        }
        let mut raw = RawClient::connect(rig.node(0).address).await;
        let path = format!("/connections/{}", a.cut.sid);
        let request = format!("DELETE /realtime{path} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {ACME_KEY}\r\n\r\n");
        assert_eq!(patiently("an answer", raw.request(request)).await.status(), 404);
        assert!(a.heard("system:disconnect").await.is_empty());
    });
}
