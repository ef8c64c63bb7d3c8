//! Rooms over nodes.

use serde_json::json;
use tidegate_cluster::Lane;
use tidegate_cluster::model::Limits;
use tidegate_testkit::local;

use crate::harness::{Rig, until};

#[test]
fn messages_from_all_nodes_reach_all_members_in_one_order() {
    local(async {
        let rig = Rig::of(3).await;
        let mut clients = Vec::new();
        for n in 0..3 {
            let mut client = rig.client(n, &format!("u{n}")).await;
            client.join("r").await;
            clients.push(client);
        }
        for round in 0..5 {
            let mut asked = Vec::new();
            for client in &mut clients {
                asked.push(client.say("room:send", json!({ "room": "r", "payload": format!("{round}") })).await);
            }
            for (client, id) in clients.iter_mut().zip(asked) {
                assert_eq!(client.answer(id).await["success"], true);
            }
        }
        let mut orders = Vec::new();
        for client in &mut clients {
            let mut order = Vec::new();
            for _ in 0..15 {
                order.push(client.wait_for("room:message").await["id"].as_str().unwrap().to_owned());
            }
            orders.push(order);
        }
        assert_eq!(orders[0], orders[1]);
        assert_eq!(orders[0], orders[2]);
    });
}

#[test]
fn a_client_is_told_that_it_joined_once_its_node_hears_the_room() {
    local(async {
        let rig = Rig::of(2).await;
        let mut sender = rig.client(0, "a").await;
        sender.join("r").await;
        let mut late = rig.client(1, "b").await;
        rig.cluster.hold(Rig::id(1), Lane::Heard);
        let asked = late.say("room:join", json!({ "room": "r" })).await;
        sender.send("r", "1").await;
        // Others are answered by all workers of the node meanwhile.
        for user in ["c", "d", "e", "f"] {
            rig.client(1, user).await.ask("query:rooms", json!({})).await;
        }
        assert_eq!(late.now().await, None);
        rig.cluster.release(Rig::id(1), Lane::Heard);
        assert_eq!(late.answer(asked).await["success"], true);
        sender.send("r", "2").await;
        let first = late.message().await;
        assert!(first == "1" || first == "2", "{first}");
        if first == "1" {
            assert_eq!(late.message().await, "2");
        }
    });
}

#[test]
fn a_room_that_cannot_be_heard_is_not_joined_and_can_be_joined_again() {
    local(async {
        let rig = Rig::of(1).await;
        let mut client = rig.client(0, "a").await;
        rig.cluster.hold(Rig::id(0), Lane::Heard);
        let answer = client.ask("room:join", json!({ "room": "r" })).await;
        assert_eq!(answer["success"], false, "{answer}");
        assert_eq!(client.wait_for("system:error").await["code"], "ROOM_JOIN_FAILED");
        assert_eq!(client.ask("query:rooms", json!({})).await["rooms"], json!([]));
        rig.cluster.release(Rig::id(0), Lane::Heard);
        client.join("r").await;
    });
}

#[test]
fn volatile_messages_reach_the_members_on_all_nodes() {
    local(async {
        let rig = Rig::of(2).await;
        let (mut a, mut b) = (rig.client(0, "a").await, rig.client(1, "b").await);
        a.join("r").await;
        b.join("r").await;
        let answer = a.ask("room:send", json!({ "room": "r", "payload": "v", "volatile": true })).await;
        assert_eq!(answer["success"], true);
        assert_eq!(b.message().await, "v");
        assert_eq!(a.message().await, "v");
    });
}

#[test]
fn a_message_sent_again_on_another_node_is_published_once() {
    local(async {
        let rig = Rig::of(2).await;
        let (mut here, mut there) = (rig.client(0, "a").await, rig.client(1, "a").await);
        here.join("r").await;
        there.join("r").await;
        let message = json!({ "room": "r", "payload": "1", "clientMessageId": "k" });
        let first = here.ask("room:send", message.clone()).await;
        let again = there.ask("room:send", message).await;
        assert_eq!(again["duplicate"], true);
        assert_eq!(again["messageId"], first["messageId"]);
        here.send("r", "2").await;
        assert_eq!(there.messages(2).await, ["1", "2"]);
    });
}

#[test]
fn who_is_in_a_room_is_the_same_on_all_nodes_and_each_comes_and_goes_once() {
    local(async {
        let rig = Rig::of(3).await;
        let mut watcher = rig.client(0, "watcher").await;
        watcher.join("r").await;
        let mut first = rig.client(1, "b").await;
        first.join("r").await;
        let mut second = rig.client(2, "b").await;
        second.join("r").await;
        assert_eq!(watcher.wait_for("presence:join").await["user"]["userId"], "b");
        drop(first.cut());
        // The second connection holds the user in the room.
        second.sees("r", &["b", "watcher"]).await;
        second.ask("room:leave", json!({ "room": "r" })).await;
        assert_eq!(watcher.wait_for("presence:leave").await["userId"], "b");
        assert!(watcher.heard("presence:join").await.is_empty());
        assert!(watcher.heard("presence:leave").await.is_empty());
    });
}

#[test]
fn members_of_a_node_that_dies_leave_when_it_is_buried() {
    local(async {
        let rig = Rig::of(2).await;
        let mut watcher = rig.client(0, "watcher").await;
        watcher.join("r").await;
        let mut doomed = rig.client(1, "b").await;
        doomed.join("r").await;
        watcher.wait_for("presence:join").await;
        rig.kill(1);
        rig.cluster.bury(Rig::id(1));
        assert_eq!(watcher.wait_for("presence:leave").await["userId"], "b");
    });
}

#[test]
fn a_room_can_be_read_on_a_node_that_nobody_of_it_is_on() {
    local(async {
        let rig = Rig::of(2).await;
        let mut member = rig.client(0, "a").await;
        member.join("r").await;
        member.send("r", "1").await;
        member.send("r", "2").await;
        let mut reader = rig.client(1, "b").await;
        reader.sees("r", &["a"]).await;
        let page = reader.ask("room:history", json!({ "room": "r" })).await;
        let payloads: Vec<_> = page["messages"].as_array().unwrap().iter().map(|of| of["payload"].clone()).collect();
        assert_eq!(payloads, ["1", "2"]);
        let position = page["position"].as_str().unwrap();
        member.send("r", "3").await;
        let rest = reader.ask("room:history", json!({ "room": "r", "since": position })).await;
        assert_eq!(rest["messages"][0]["payload"], "3");
        assert_eq!(rest["truncated"], false);
    });
}

#[test]
fn a_page_says_that_there_were_older_messages_only_if_there_were_wherever_the_room_s_numbers_begin() {
    local(async {
        let mut rig = Rig::with(2, Limits { messages_per_room: 5, ..Limits::default() }).await;
        let mut member = rig.client(0, "a").await;
        member.join("before").await;
        for _ in 0..3 {
            member.send("before", "x").await;
        }
        let mut reader = rig.client(1, "b").await;
        let page = reader.ask("room:history", json!({ "room": "r" })).await;
        assert_eq!((&page["messages"], &page["truncated"]), (&json!([]), &json!(false)));
        member.join("r").await;
        for sent in [2, 3] {
            for _ in 0..sent {
                member.send("r", "x").await;
            }
            rig.cluster.settle();
            for client in [&mut member, &mut reader] {
                let page = client.ask("room:history", json!({ "room": "r" })).await;
                assert_eq!(page["truncated"], false, "{page}");
                let page = client.ask("room:history", json!({ "room": "r", "limit": 1 })).await;
                assert_eq!(page["truncated"], true, "{page}");
            }
        }
        // Nodes that begin to follow the room later know as much.
        for (n, truncated) in [(2, false), (3, true)] {
            rig.add().await;
            let mut late = rig.client(n, "c").await;
            assert_eq!(late.ask("room:history", json!({ "room": "r" })).await["truncated"], truncated);
            member.send("r", "x").await;
        }
    });
}

#[test]
fn a_room_is_joined_on_another_node_from_where_it_was_read() {
    local(async {
        let rig = Rig::of(2).await;
        let mut member = rig.client(0, "a").await;
        let joined = member.ask("room:join", json!({ "room": "r", "since": "1-0" })).await;
        assert_eq!(joined["recovered"], false);
        let from = joined["position"].as_str().unwrap().to_owned();
        member.send("r", "1").await;
        member.send("r", "2").await;
        let mut reader = rig.client(1, "b").await;
        let joined = reader.ask("room:join", json!({ "room": "r", "since": from })).await;
        assert_eq!(joined["recovered"], true, "{joined}");
        member.send("r", "3").await;
        assert_eq!(reader.messages(3).await, ["1", "2", "3"]);
    });
}

#[test]
fn an_event_stream_goes_on_on_another_node_from_its_last_id() {
    local(async {
        let rig = Rig::of(2).await;
        let mut member = rig.client(0, "a").await;
        member.join("r").await;
        for several in [false, true] {
            let target = if several { "/realtime/events?room=r" } else { "/realtime/rooms/r/events" };
            let mut stream = rig.get(0, "s", target, "").await;
            stream.read_until(b"\r\n\r\n").await;
            member.send("r", "1").await;
            let text = String::from_utf8(stream.read_until(br#""payload":"1""#).await.to_vec()).unwrap();
            let id = text.lines().rfind(|line| line.starts_with("id: ")).unwrap()[4..].to_owned();
            drop(stream);
            member.send("r", "2").await;
            let mut stream = rig.get(1, "s", target, &format!("Last-Event-ID: {id}\r\n")).await;
            let head = String::from_utf8(stream.read_until(b"\r\n\r\n").await.to_vec()).unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            member.send("r", "3").await;
            let text = String::from_utf8(stream.read_until(br#""payload":"3""#).await.to_vec()).unwrap();
            assert!(!text.contains(r#""payload":"1""#) && text.contains(r#""payload":"2""#), "{text}");
            assert!(!text.contains("event: gap"), "{text}");
        }
    });
}

#[test]
fn a_room_that_nobody_uses_is_heard_no_more_and_can_be_used_again() {
    local(async {
        let rig = Rig::of(2).await;
        let (mut a, mut b) = (rig.client(0, "a").await, rig.client(1, "b").await);
        a.join("r").await;
        b.join("r").await;
        b.ask("room:leave", json!({ "room": "r" })).await;
        rig.node(1).node.cleanup();
        until("the room to be forgotten", || rig.node(1).node.stats().rooms == 0).await;
        a.send("r", "1").await;
        b.join("r").await;
        a.send("r", "2").await;
        assert_eq!(b.message().await, "2");
    });
}
