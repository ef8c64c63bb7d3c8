//! Applications in Rust inside the server, by raw clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_config::{Config, Realtime, RealtimeAuth};
use tidegate_server::app::{App, Args, Endpoint, Message, Namespace, NoAnswer, Refusal, Socket};
use tidegate_server::{Extras, Running, Server, StartError};
use tidegate_testkit::{PATIENCE, WebSocket, local, patiently};

struct Host {
    running: Option<Running>,
    address: SocketAddr,
}

impl Host {
    fn start(app: App) -> Self {
        Self::with(app, |realtime| realtime)
    }

    fn with(app: App, change: impl FnOnce(Realtime) -> Realtime) -> Self {
        let mut config = Config::embedded((Ipv4Addr::LOCALHOST, 0).into(), RealtimeAuth::none());
        config.workers = 2;
        config.realtime = config.realtime.map(change);
        let running = Server::start(config, Extras { app: Some(app), ..Extras::default() }).unwrap();
        Self { address: running.addresses()[0], running: Some(running) }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// A client in a namespace, with its auth payload.
    async fn client(&self, namespace: &str, auth: &str) -> Client {
        let mut client = self.stranger(namespace).await;
        client.say(&format!("40{}{auth}", client.prefix)).await;
        let reply = client.hear().await;
        let body = reply.strip_prefix(&format!("40{}", client.prefix));
        client.connect = serde_json::from_str(body.unwrap_or_else(|| panic!("{reply}"))).unwrap();
        client
    }

    async fn stranger(&self, namespace: &str) -> Client {
        let path = "/socket.io/?EIO=4&transport=websocket&who=a%20b";
        let mut socket = WebSocket::connect(self.address, path).await;
        assert!(socket.receive_text().await.starts_with('0'));
        let prefix = if namespace == "/" { String::new() } else { format!("{namespace},") };
        Client { socket, prefix, connect: Value::Null }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let running = self.running.take().unwrap();
        running.close();
        running.wait();
    }
}

struct Client {
    socket: WebSocket,
    prefix: String,
    connect: Value,
}

impl Client {
    async fn say(&mut self, packet: &str) {
        self.socket.text(packet).await;
    }

    /// Sends an event; `packet` is what follows the namespace: ack id and array.
    async fn emit(&mut self, packet: &str) {
        let packet = format!("42{}{packet}", self.prefix);
        self.say(&packet).await;
    }

    async fn hear(&mut self) -> String {
        patiently("a packet", self.socket.receive_text()).await
    }

    /// The next packet, which is an event or an ack: what follows the namespace.
    async fn packet(&mut self, kind: &str) -> String {
        let packet = self.hear().await;
        let rest = packet.strip_prefix(&format!("{kind}{}", self.prefix));
        rest.unwrap_or_else(|| panic!("{kind} is expected, not {packet}")).to_owned()
    }

    async fn event(&mut self) -> Value {
        serde_json::from_str(&self.packet("42").await).unwrap()
    }

    /// Asks for an answer, which comes next; nothing that was sent before has been left out.
    async fn is_served(&mut self) -> bool {
        self.emit(r#"99["ping"]"#).await;
        self.packet("43").await == "99[]"
    }
}

/// A namespace that lets everybody in, and answers `ping`.
fn open() -> Namespace {
    Namespace::new().without_auth().on("ping", |_, mut event| event.ack(Args::none()))
}

fn heard<T>() -> (SyncSender<T>, impl Fn() -> T) {
    let (sender, receiver): (_, Receiver<T>) = sync_channel(64);
    (sender, move || receiver.recv_timeout(PATIENCE).unwrap())
}

#[test]
fn handlers_answer_at_once_and_later() {
    let chat = open()
        .on("add", |_, mut event| {
            let sum = event.read::<(i64, i64)>().map(|(a, b)| a + b);
            event.ack(&sum.ok());
        })
        .on_async("later", |_, mut event| async move {
            tokio::task::yield_now().await;
            let args = event.args().clone();
            event.ack(args);
        })
        .on_any(|_, event| {
            if event.name() == "unknown" {
                event.ack("any");
            }
        });
    let host = Host::start(App::new().namespace("/chat", chat));
    local(async {
        let mut client = host.client("/chat", "").await;
        client.emit(r#"1["add",1,2]"#).await;
        assert_eq!(client.packet("43").await, "1[3]");
        client.emit(r#"2["add","one"]"#).await;
        assert_eq!(client.packet("43").await, "2[null]");
        client.emit(r#"3["later",{"a":[1,"ä"]},"b"]"#).await;
        assert_eq!(client.packet("43").await, r#"3[{"a":[1,"ä"]},"b"]"#);
        client.emit(r#"4["unknown"]"#).await;
        assert_eq!(client.packet("43").await, r#"4["any"]"#);
        client.emit(r#"["nobody listens to it"]"#).await;
        assert!(client.is_served().await);
    });
}

#[test]
fn the_application_decides_who_is_let_in() {
    let decide = |name: Option<String>| match name.as_deref() {
        Some("ada") => Ok(()),
        _ => Err(Refusal::new("Not you").with_data(json!({ "retry": false }))),
    };
    let name = |auth: &str| serde_json::from_str::<Value>(auth).unwrap()["name"].as_str().map(str::to_owned);
    let now = open().admit(move |applicant| decide(name(applicant.handshake.auth().get())));
    let later = open().admit_async(move |applicant| async move {
        tokio::task::yield_now().await;
        decide(name(applicant.handshake.auth().get()))
    });
    let host = Host::start(App::new().namespace("/now", now).namespace("/later", later));
    local(async {
        for namespace in ["/now", "/later"] {
            host.client(namespace, r#"{"name":"ada"}"#).await;
            let mut bob = host.stranger(namespace).await;
            bob.say(&format!(r#"40{namespace},{{"name":"bob"}}"#)).await;
            assert_eq!(bob.packet("44").await, r#"{"data":{"retry":false},"message":"Not you"}"#);
        }
        let mut lost = host.stranger("/").await;
        lost.say("40").await;
        assert_eq!(lost.packet("44").await, r#"{"message":"Invalid namespace"}"#);
    });
}

#[test]
fn without_further_ado_a_token_is_asked_for() {
    let host = Host::start(App::new().namespace("/", Namespace::new()));
    local(async {
        let mut stranger = host.stranger("/").await;
        stranger.say("40").await;
        assert_eq!(stranger.packet("44").await, r#"{"message":"Authentication token required"}"#);
    });
}

#[test]
fn a_handler_that_panics_ends_its_connection_only() {
    let fragile = open().on("now", |_, _| panic!("as asked")).on_async("later", |_, _| async {
        tokio::task::yield_now().await;
        panic!("as asked")
    });
    let greeting = Namespace::new().without_auth().on_connect(|_| panic!("as asked"));
    let door = Namespace::new().without_auth().admit(|_| panic!("as asked"));
    let app = App::new().namespace("/", fragile).namespace("/greeting", greeting).namespace("/door", door);
    let host = Host::start(app.websocket("/raw", Endpoint::new().on_message(|_, _| panic!("as asked"))));
    local(async {
        let mut others = [host.client("/", "").await, host.client("/", "").await, host.client("/", "").await];
        for event in ["now", "later"] {
            let mut client = host.client("/", "").await;
            client.emit(&format!(r#"["{event}"]"#)).await;
            assert_eq!(client.socket.close_code().await, Some(1011), "{event}");
        }
        for namespace in ["/greeting", "/door"] {
            let mut client = host.stranger(namespace).await;
            client.say(&format!("40{namespace}")).await;
            while let Some(frame) = client.socket.receive().await {
                assert!(frame.first != 0x88 || frame.payload.starts_with(&1011_u16.to_be_bytes()), "{frame:?}");
            }
        }
        let mut raw = WebSocket::connect(host.address, "/raw").await;
        raw.text("x").await;
        assert_eq!(raw.close_code().await, Some(1011));
        for other in &mut others {
            assert!(other.is_served().await);
        }
    });
}

#[test]
fn a_client_is_asked_and_its_answer_comes_back() {
    async fn ask(socket: Socket, patience: Duration) -> String {
        match socket.emit_with_ack("question", &42, patience).await {
            Ok(answer) => format!("{} {}", answer.json(), answer.attachments().len()),
            Err(error) => format!("{error:?}"),
        }
    }
    let (told, hear) = heard();
    let lost = told.clone();
    let chat = open()
        .on_async("ask", |socket, mut event| async move { event.ack(&ask(socket, PATIENCE).await) })
        .on_async("hurry", |socket, mut event| async move { event.ack(&ask(socket, Duration::ZERO).await) })
        .on_async("vanish", move |socket, _| {
            let lost = lost.clone();
            async move {
                let _ = lost.send(ask(socket, PATIENCE).await);
            }
        });
    let host = Host::start(App::new().namespace("/", chat));
    local(async {
        let mut client = host.client("/", "").await;
        client.emit(r#"1["ask"]"#).await;
        assert_eq!(client.packet("42").await, r#"0["question",42]"#);
        // Other events are handled while the answer is outstanding; one that nobody waits for harms nobody.
        assert!(client.is_served().await);
        client.say("4377[1]").await;
        client.say(r#"430["six",7]"#).await;
        assert_eq!(client.packet("43").await, r#"1["\"six\",7 0"]"#);

        client.emit(r#"2["ask"]"#).await;
        assert_eq!(client.packet("42").await, r#"1["question",42]"#);
        client.say(r#"461-1[{"_placeholder":true,"num":0}]"#).await;
        client.socket.send(2, b"\x01\x02").await;
        assert_eq!(client.packet("43").await, r#"2["{\"_placeholder\":true,\"num\":0} 1"]"#);

        client.emit(r#"3["hurry"]"#).await;
        client.packet("42").await;
        assert_eq!(client.packet("43").await, format!(r#"3["{:?}"]"#, NoAnswer::Timeout));

        client.emit(r#"["vanish"]"#).await;
        client.packet("42").await;
        client.say("41").await;
        assert_eq!(hear(), format!("{:?}", NoAnswer::NotConnected));
    });
}

#[test]
fn events_reach_rooms_without_those_who_are_excepted() {
    let chat = open()
        .on("join", |socket, mut event| {
            let joined = event.first::<String>().map(|room| socket.join(&room).is_ok());
            event.ack(&joined.unwrap_or(false));
        })
        .on("leave", |socket, event| socket.leave(&event.first::<String>().unwrap()))
        .on("rooms", |socket, mut event| event.ack(&socket.rooms()))
        .on("others", |socket, event| socket.to("a").emit("said", event.into_args()))
        .on("either", |socket, event| socket.io().to("a").to("b").emit("said", event.into_args()))
        .on("but", |socket, event| socket.io().to("a").except("b").emit("said", event.into_args()))
        .on("all", |socket, event| socket.io().emit("said", event.into_args()))
        .on("out", |socket, _| socket.io().to("b").disconnect());
    let host = Host::start(App::new().namespace("/", chat).namespace("/other", open()));
    local(async {
        let mut clients = Vec::new();
        for rooms in [&["a"][..], &["a", "b"], &["b"], &[], &["a"]] {
            let mut client = host.client("/", "").await;
            for room in rooms {
                client.emit(&format!(r#"1["join","{room}"]"#)).await;
                assert_eq!(client.packet("43").await, "1[true]");
            }
            client.emit(r#"2["rooms"]"#).await;
            let mut found: Vec<Vec<String>> = serde_json::from_str(&client.packet("43").await[1..]).unwrap();
            found[0].sort();
            assert_eq!(found[0], rooms);
            clients.push(client);
        }
        let mut elsewhere = host.client("/other", "").await;
        clients[4].emit(r#"["leave","a"]"#).await;
        assert!(clients[4].is_served().await);
        let cases: [(&str, &[usize]); 5] =
            [("others", &[1]), ("either", &[0, 1, 2]), ("but", &[0]), ("all", &[0, 1, 2, 3, 4]), ("out", &[1, 2])];
        for (event, hearers) in cases {
            clients[0].emit(&format!(r#"["{event}","{event}",{{"n":1}}]"#)).await;
            for (index, client) in clients.iter_mut().enumerate() {
                if hearers.contains(&index) {
                    match event {
                        "out" => assert_eq!(client.hear().await, "41"),
                        _ => assert_eq!(client.event().await, json!(["said", event, { "n": 1 }])),
                    }
                } else {
                    assert!(client.is_served().await, "{event} {index}");
                }
            }
        }
        assert!(elsewhere.is_served().await);
        clients[0].emit(r#"1["join",""]"#).await;
        assert_eq!(clients[0].packet("43").await, "1[false]");
    });
}

#[test]
fn binary_values_go_through_as_they_came() {
    let chat = open()
        .on("back", |socket, event| socket.emit("back", event.into_args()))
        .on("all", |socket, event| socket.io().emit("back", event.into_args()))
        .on("mixed", |socket, _| socket.emit("back", Args::from(&1).with_binary(&b"\x07\x08"[..])));
    let host = Host::start(App::new().namespace("/chat", chat));
    local(async {
        let mut client = host.client("/chat", "").await;
        let args = r#"{"b":{"_placeholder":true,"num":1},"a":{"_placeholder":true,"num":0}},2"#;
        for event in ["back", "all"] {
            client.say(&format!(r#"452-/chat,["{event}",{args}]"#)).await;
            client.socket.send(2, b"zero").await;
            client.socket.send(2, b"one").await;
            assert_eq!(client.hear().await, format!(r#"452-/chat,["back",{args}]"#));
            for bytes in [&b"zero"[..], b"one"] {
                let frame = client.socket.receive().await.unwrap();
                assert_eq!((frame.first, &*frame.payload), (0x82, bytes));
            }
        }
        client.emit(r#"["mixed"]"#).await;
        assert_eq!(client.hear().await, r#"451-/chat,["back",1,{"_placeholder":true,"num":0}]"#);
        assert_eq!(&*client.socket.receive().await.unwrap().payload, b"\x07\x08");
    });
}

#[test]
fn what_a_client_said_and_what_is_kept_with_it_stay_with_its_socket() {
    let (told, hear) = heard();
    let chat = open()
        .on_connect(|socket| {
            let handshake = socket.handshake();
            assert_eq!(handshake.query("who").as_deref(), Some("a b"));
            assert_eq!(handshake.header("host"), Some("example.org"));
            assert_eq!(handshake.address(), Ipv4Addr::LOCALHOST);
            socket.set_data(0_u32);
            socket.emit("hello", &[socket.id(), handshake.auth().get()]);
        })
        .on("count", |socket, mut event| {
            socket.with_data(|count: &mut u32| *count += 1);
            event.ack(&(socket.data::<u32>(), socket.data::<String>()));
        })
        .on("in", |socket, _| _ = socket.join("room"))
        .on("out", |socket, _| socket.disconnect())
        .on_disconnect(move |socket, reason| {
            let rooms: Vec<String> = socket.rooms().iter().map(|room| room.as_str().to_owned()).collect();
            let _ = told.send((socket.data::<u32>(), rooms, reason.as_str(), socket.is_connected()));
            // Nobody is there to hear it.
            socket.emit("too late", &0);
        });
    let host = Host::start(App::new().namespace("/chat", chat));
    local(async {
        let mut client = host.client("/chat", r#"{"a": 1}"#).await;
        let sid = client.connect["sid"].as_str().unwrap().to_owned();
        assert_eq!(client.connect, json!({ "sid": sid }));
        assert_eq!(client.event().await, json!(["hello", [sid, r#"{"a": 1}"#]]));
        client.emit(r#"1["count"]"#).await;
        client.emit(r#"2["count"]"#).await;
        assert_eq!(client.packet("43").await, "1[[1,null]]");
        assert_eq!(client.packet("43").await, "2[[2,null]]");
        client.emit(r#"["in"]"#).await;
        client.emit(r#"["out"]"#).await;
        assert_eq!(client.packet("41").await, "");
        assert_eq!(hear(), (Some(2), vec!["room".to_owned()], "kicked", false));

        let mut client = host.client("/chat", "").await;
        client.event().await;
        client.say("41/chat,").await;
        assert_eq!(hear(), (Some(0), Vec::new(), "client_closed", false));
        // The connection stays for other namespaces, and may come again.
        client.say("40/chat,").await;
        assert!(client.packet("40").await.starts_with(r#"{"sid":"#));
        client.event().await;
        client.socket.raw.finish().await;
        assert_eq!(hear(), (Some(0), Vec::new(), "transport_closed", false));
    });
}

#[test]
fn other_threads_reach_clients() {
    let (told, hear) = heard();
    let chat = open().on_connect(move |socket| {
        let _ = socket.join("room");
        let _ = told.send(socket.remote());
    });
    let host = Host::start(App::new().namespace("/chat", chat));
    local(async {
        let (mut ada, mut bob) = (host.client("/chat", "").await, host.client("/chat", "").await);
        let (of_ada, of_bob) = (hear(), hear());
        let io = host.running().io("/chat").unwrap();
        assert!(host.running().io("/none").is_none());
        assert_eq!(io.connections(), 2);
        std::thread::spawn(move || {
            io.to("room").emit("all", &1);
            of_ada.emit("you", &2);
            of_ada.io().to("room").except("nobody").emit("all", &3);
        });
        assert_eq!(ada.event().await, json!(["all", 1]));
        assert_eq!(ada.event().await, json!(["you", 2]));
        assert_eq!(ada.event().await, json!(["all", 3]));
        assert_eq!(bob.event().await, json!(["all", 1]));
        assert_eq!(bob.event().await, json!(["all", 3]));
        let (told, hear) = heard();
        of_bob.with(move |socket| _ = told.send(socket.principal().user.as_str().to_owned()));
        host.running().io("/chat").unwrap().disconnect_user(&hear());
        assert_eq!(bob.socket.close_code().await, Some(1008));
        assert!(ada.is_served().await);
    });
}

#[test]
fn what_is_published_is_kept_and_recovered() {
    let (told, hear) = heard();
    let chat = open().with_recovery().on_connect(move |socket| {
        let _ = socket.join("room");
        let _ = told.send(socket.recovered());
    });
    let host = Host::start(App::new().namespace("/", chat));
    local(async {
        let io = host.running().io("/").unwrap();
        let mut client = host.client("/", "").await;
        assert!(!hear());
        assert!(client.is_served().await);
        let position = io.publish_persistent("room", "kept", Args::from(&1).with(&"b")).await.unwrap().unwrap();
        let event = client.event().await;
        assert_eq!(event.as_array().map(|event| &event[..3]), Some(&[json!("kept"), json!(1), json!("b")][..]));
        let pid = client.connect["pid"].as_str().unwrap();
        let comeback = json!({ "pid": pid, "offset": event[3] }).to_string();
        client.socket.raw.finish().await;
        patiently("the client to be gone", async {
            while io.connections() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        io.publish("room", "missed", &2).await.unwrap();
        // A stranger is known by its token alone; without one nobody can prove to be the same.
        let mut again = host.stranger("/").await;
        again.say(&format!("40{comeback}")).await;
        assert!(again.packet("40").await.contains("pid"));
        assert!(!hear());

        let page = io.history("room", None, 10).unwrap();
        assert_eq!(page.iter().map(|past| past.args.json()).collect::<Vec<_>>(), [r#"1,"b""#]);
        assert_eq!((page[0].event.as_str(), page[0].position), ("kept", Some(position)));
        assert!(io.history("room", Some(position), 10).unwrap().is_empty());
        assert!(io.publish("", "x", &1).await.is_err());
        assert!(io.publish("room", "disconnect", &1).await.is_err());
    });
}

#[test]
fn events_over_the_budget_wait_and_none_is_lost() {
    let app = App::new().namespace("/", open());
    let host = Host::with(app, |realtime| Realtime { messages_per_second: 100, message_burst: 1, ..realtime });
    local(async {
        let mut client = host.client("/", "").await;
        for id in 0..20 {
            client.emit(&format!(r#"{id}["ping"]"#)).await;
        }
        for id in 0..20 {
            assert_eq!(client.packet("43").await, format!("{id}[]"));
        }
    });
}

#[test]
fn too_many_handlers_at_once_make_their_client_wait() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let closed = gate.clone();
    let chat = open().on("open", {
        let gate = gate.clone();
        move |_, _| gate.add_permits(1_000)
    });
    let chat = chat.on_async("wait", move |_, mut event| {
        let closed = closed.clone();
        async move {
            let _permit = closed.acquire().await;
            event.ack(Args::none());
        }
    });
    let host = Host::start(App::new().namespace("/", chat));
    local(async {
        let (mut client, mut other) = (host.client("/", "").await, host.client("/", "").await);
        for id in 0..100 {
            client.emit(&format!(r#"{id}["wait"]"#)).await;
        }
        other.emit(r#"["open"]"#).await;
        let mut answered = Vec::new();
        for _ in 0..100 {
            answered.push(client.packet("43").await);
        }
        // Side by side they end in any order.
        answered.sort();
        let mut wanted: Vec<String> = (0..100).map(|id| format!("{id}[]")).collect();
        wanted.sort();
        assert_eq!(answered, wanted);
    });
}

#[test]
fn an_endpoint_hears_of_opening_messages_and_the_end() {
    let (told, hear) = heard();
    let ended = told.clone();
    let endpoint = Endpoint::new()
        .on_open(|link| {
            link.set_data(String::new());
            link.send(Message::Text(&link.query("name").unwrap_or_default()));
        })
        .on_message(|link, message| match message {
            Message::Text("end") => link.close(4_001),
            Message::Text(text) => _ = link.with_data(|all: &mut String| all.push_str(text)),
            Message::Binary(bytes) => link.send(Message::Binary(bytes)),
        })
        .on_close(move |link, reason| {
            let _ = ended.send((link.with_data(|all: &mut String| all.clone()), reason.as_str(), link.is_open()));
        });
    drop(told);
    let app = App::new().websocket("/raw", endpoint.clone()).engine("/engine", endpoint);
    let host = Host::start(app);
    local(async {
        let mut raw = WebSocket::connect(host.address, "/raw?name=ada").await;
        assert_eq!(raw.receive_text().await, "ada");
        raw.text("one").await;
        raw.text("two").await;
        raw.send(2, b"\x00\xff").await;
        assert_eq!(&*raw.receive().await.unwrap().payload, b"\x00\xff");
        raw.text("end").await;
        assert_eq!(raw.close_code().await, Some(4_001));
        assert_eq!(hear(), (Some("onetwo".to_owned()), "kicked", false));

        let mut engine = WebSocket::connect(host.address, "/engine/?EIO=4&transport=websocket&name=bob").await;
        assert!(engine.receive_text().await.starts_with('0'));
        assert_eq!(engine.receive_text().await, "4bob");
        engine.text("4three").await;
        engine.text("1").await;
        assert_eq!(hear(), (Some("three".to_owned()), "client_closed", false));
    });
}

#[test]
fn a_plain_websocket_is_pinged_and_lives_on_by_its_pongs() {
    let app = App::new().websocket("/raw", Endpoint::new().on_message(|link, message| link.send(message)));
    let host = Host::with(app, |realtime| Realtime {
        ping_interval: Duration::from_millis(250),
        ping_timeout: Duration::from_millis(250),
        ..realtime
    });
    local(async {
        let mut raw = WebSocket::connect(host.address, "/raw").await;
        for _ in 0..3 {
            assert_eq!(raw.receive().await.unwrap().first, 0x89);
            raw.send(10, b"").await;
        }
        assert_eq!(raw.receive().await.unwrap().first, 0x89);
        assert_eq!(raw.close_code().await, Some(1008));
    });
}

#[test]
fn an_application_with_a_bad_name_does_not_start() {
    for app in [App::new().namespace("chat", open()), App::new().websocket("raw", Endpoint::new())] {
        let config = Config::embedded((Ipv4Addr::LOCALHOST, 0).into(), RealtimeAuth::none());
        let started = Server::start(config, Extras { app: Some(app), ..Extras::default() });
        let error = started.err().expect("it does not start");
        assert!(matches!(error, StartError::Config(_)), "{error}");
        assert!(error.to_string().contains("begins with \"/\""), "{error}");
    }
}
