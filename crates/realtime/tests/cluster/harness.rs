use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tidegate_auth::{ApiKey, ApiKeys, Claims, KeySet, LiveKeys, Scopes, Secret};
use tidegate_cluster::model::Limits;
use tidegate_cluster::{Broker, History, MemoryBroker, MemoryCluster, OnHeard, OnWritten, system_clock};
use tidegate_metrics::Metrics;
use tidegate_outbound::Endpoint;
use tidegate_realtime::{Client as Caller, Namespaces, Node, PeerAddress, Settings, Shard, WebhookSettings};
use tidegate_testkit::{Message, RawClient, WebSocket, patiently};
use tidegate_transport::Transport;
use tidegate_types::{NodeId, NodeNumber, Phase, ShardId, TenantId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::spawn_local;

pub const API_KEY: &str = "backend-key-0123456789";
pub const ACME_KEY: &str = "acme-key-0123456789abc";
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Several nodes of one cluster in this process, each with two workers on the test's thread.
pub struct Rig {
    pub cluster: MemoryCluster,
    nodes: Vec<Running>,
    webhooks: Vec<WebhookSettings>,
    namespaces: Namespaces,
}

pub struct Running {
    pub node: Arc<Node>,
    pub metrics: Arc<Metrics>,
    broker: Arc<MemoryBroker>,
    pub address: SocketAddr,
    /// Where its peers ask it.
    internal: SocketAddr,
    /// Ends its listener and its connections, as the end of its process would.
    tasks: Rc<RefCell<Vec<tokio::task::AbortHandle>>>,
    pub phase: watch::Sender<Phase>,
}

impl Rig {
    pub async fn of(nodes: u64) -> Self {
        Self::with(nodes, Limits::default()).await
    }

    pub async fn with(nodes: u64, limits: Limits) -> Self {
        Self::start_all(nodes, limits, Vec::new(), Namespaces::default()).await
    }

    /// Nodes that tell a backend what happens.
    pub async fn telling(nodes: u64, webhook: WebhookSettings) -> Self {
        Self::start_all(nodes, Limits::default(), vec![webhook], Namespaces::default()).await
    }

    /// Nodes that serve these namespaces.
    pub async fn serving(nodes: u64, limits: Limits, namespaces: Namespaces) -> Self {
        Self::start_all(nodes, limits, Vec::new(), namespaces).await
    }

    async fn start_all(nodes: u64, limits: Limits, webhooks: Vec<WebhookSettings>, namespaces: Namespaces) -> Self {
        let cluster = MemoryCluster::start(limits, system_clock()).unwrap();
        let mut rig = Self { cluster, nodes: Vec::new(), webhooks, namespaces };
        for id in 0..nodes {
            let node = rig.start(NodeId(id)).await;
            rig.nodes.push(node);
        }
        rig.introduce_all();
        rig
    }

    /// One node more.
    pub async fn add(&mut self) {
        let node = self.start(Self::id(self.nodes.len())).await;
        self.nodes.push(node);
        self.introduce_all();
    }

    fn introduce_all(&self) {
        (0..self.nodes.len()).for_each(|n| self.introduce(n, &[]));
    }

    /// A node knows all the others, and these.
    pub fn introduce(&self, n: usize, beside: &[PeerAddress]) {
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != n);
        let others = others.map(|(other, running)| peer(Self::id(other), &format!("node-{other}"), running.internal));
        self.node(n).node.peers().set(others.chain(beside.iter().cloned()).collect());
    }

    async fn start(&self, id: NodeId) -> Running {
        let settings = Settings {
            shards: 2,
            node_secret: Arc::from([7; 32]),
            drain_spread_ms: 0,
            webhooks: self.webhooks.clone(),
            api_keys: ApiKeys::new([
                ApiKey::new("backend", &Secret::from(API_KEY), None).with_scopes(Scopes::ALL),
                ApiKey::new("acme", &Secret::from(ACME_KEY), Some(TenantId::try_from("acme").unwrap()))
                    .with_scopes(Scopes::ALL),
            ]),
            namespaces: self.namespaces.clone(),
            ..Settings::default()
        };
        let (sender, phase) = watch::channel(Phase::Serving);
        let cluster = self.cluster.clone();
        let mut of_node = None;
        let broker = |on_written: OnWritten, on_heard: OnHeard| {
            let broker = of_node.insert(cluster.node(id, on_heard, on_written));
            Ok((broker.clone() as Arc<dyn History>, broker.clone() as Arc<dyn Broker>))
        };
        let keys = LiveKeys::new(KeySet::hs256(SECRET));
        let metrics = Metrics::new();
        let node = Node::open_in_cluster(settings, broker, keys, metrics.clone(), phase).unwrap();
        spawn_local(node.clone().tell_backends(std::future::pending()));
        let shards: Rc<[Rc<Shard>]> = (0..2).map(|of| node.shard(ShardId(of))).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Rc::new(RefCell::new(Vec::new()));
        let of_listener = tasks.clone();
        let internal_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let internal = internal_listener.local_addr().unwrap();
        for (listener, is_peer) in [(listener, false), (internal_listener, true)] {
            let (shards, of_listener) = (shards.clone(), of_listener.clone());
            let accepting = spawn_local(async move {
                let mut turns = shards.iter().cycle();
                while let Ok((stream, _)) = listener.accept().await {
                    let task = spawn_local(serve(stream, turns.next().unwrap().clone(), is_peer));
                    of_listener.borrow_mut().push(task.abort_handle());
                }
            });
            tasks.borrow_mut().push(accepting.abort_handle());
        }
        Running { node, metrics, broker: of_node.unwrap(), address, internal, tasks, phase: sender }
    }

    /// Where the node's peers come in.
    pub fn internal(&self, n: usize) -> SocketAddr {
        self.nodes[n].internal
    }

    pub fn node(&self, n: usize) -> &Running {
        &self.nodes[n]
    }

    /// What the node can read of the broker.
    pub fn history(&self, n: usize) -> &MemoryBroker {
        &self.nodes[n].broker
    }

    pub fn id(n: usize) -> NodeId {
        NodeId(n as u64)
    }

    /// A new client, in the namespace.
    pub async fn client(&self, n: usize, user: &str) -> Client {
        self.client_with(n, user, json!({})).await
    }

    /// A client that comes back with what it has of its session.
    pub async fn comes_back(&self, n: usize, user: &str, cut: &Cut) -> Client {
        self.client_with(n, user, json!({ "pid": cut.pid, "offset": cut.offset })).await
    }

    async fn client_with(&self, n: usize, user: &str, auth: Value) -> Client {
        let mut client = Client::open(self.node(n).address).await;
        client.connect(user, auth).await;
        client
    }

    /// The process of a node ends at once; the others are not told.
    pub fn kill(&self, n: usize) {
        self.cluster.kill(Self::id(n));
        self.nodes[n].tasks.borrow().iter().for_each(tokio::task::AbortHandle::abort);
    }

    /// A backend's request of a node, with a JSON body or (`""`) none; more header fields end with CRLF each.
    pub async fn api(&self, n: usize, method: &str, path: &str, body: &str, fields: &str) -> Message {
        let request = format!(
            "{method} /realtime{path} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {API_KEY}\r\n{fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut raw = RawClient::connect(self.node(n).address).await;
        patiently("an answer", raw.request(request)).await
    }

    /// What a backend is answered that is not refused.
    pub async fn asked(&self, n: usize, method: &str, path: &str, body: &str) -> Value {
        let answer = self.api(n, method, path, body, "").await;
        assert_eq!(answer.status(), 200, "{method} {path}: {}", answer.text());
        answer.json()
    }

    /// The answer to a CONNECT that may be refused.
    pub async fn knock(&self, n: usize, user: &str) -> (Client, String) {
        let mut client = Client::open(self.node(n).address).await;
        let auth = json!({ "token": token(user) });
        client.socket.text(&format!("40{auth}")).await;
        let answer = patiently("the answer to CONNECT", client.socket.receive_text()).await;
        (client, answer)
    }

    /// A request of the HTTP API, with a token of the user.
    pub async fn get(&self, n: usize, user: &str, target: &str, headers: &str) -> RawClient {
        let mut raw = RawClient::connect(self.node(n).address).await;
        let token = token(user);
        raw.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{headers}\r\n")).await;
        raw
    }
}

/// A node as its peers know it.
pub fn peer(id: NodeId, name: &str, address: SocketAddr) -> PeerAddress {
    let number = NodeNumber(u16::try_from(id.0).unwrap());
    PeerAddress { id, number, name: name.into(), endpoint: Arc::new(Endpoint::at(address, None)) }
}

async fn serve(stream: TcpStream, shard: Rc<Shard>, is_peer: bool) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shard = shard.clone();
        async move {
            let client = Caller {
                address: [127, 0, 0, 1].into(),
                request_id: "r".into(),
                is_peer,
                take_back,
                on_end: Box::new(|_| {}),
            };
            Ok::<_, Infallible>(shard.serve(request, client).await)
        }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = served.with_upgrades().await;
}

fn take_back(upgraded: Upgraded) -> (Transport, Bytes) {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().unwrap();
    (Transport::from(parts.io.into_inner()), parts.read_buf)
}

pub fn token(user: &str) -> String {
    let claims = Claims { sub: Some(user.to_owned()), ..Claims::default() };
    KeySet::hs256(SECRET).sign(&claims)
}

/// What a client that has been cut knows.
#[derive(Clone, Debug)]
pub struct Cut {
    pub pid: String,
    pub offset: String,
    pub sid: String,
}

/// A Socket.IO client over WebSocket.
pub struct Client {
    socket: WebSocket,
    ack: u64,
    /// Events heard and not asked for yet.
    heard: VecDeque<(String, Value)>,
    pub cut: Cut,
}

impl Client {
    pub async fn open(address: SocketAddr) -> Self {
        let mut socket = WebSocket::connect(address, "/socket.io/?EIO=4&transport=websocket").await;
        assert!(patiently("the handshake", socket.receive_text()).await.starts_with('0'));
        let cut = Cut { pid: String::new(), offset: String::new(), sid: String::new() };
        Self { socket, ack: 0, heard: VecDeque::new(), cut }
    }

    async fn connect(&mut self, user: &str, mut auth: Value) {
        auth["token"] = token(user).into();
        self.connect_with(auth).await;
    }

    /// Connects with that and nothing else to show.
    pub async fn connect_with(&mut self, auth: Value) {
        self.socket.text(&format!("40{auth}")).await;
        let reply = patiently("the answer to CONNECT", self.socket.receive_text()).await;
        let body: Value = serde_json::from_str(reply.strip_prefix("40").expect(&reply)).unwrap();
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        (self.cut.pid, self.cut.sid) = (text("pid"), text("sid"));
        // What was missed may come before it.
        self.wait_for("connection:established").await;
    }

    /// The next packet that is no ping.
    async fn packet(&mut self) -> Option<String> {
        loop {
            let frame = self.socket.receive().await?;
            let text = String::from_utf8_lossy(&frame.payload).into_owned();
            match (frame.first & 0x0f, text.as_str()) {
                (8, _) => return None,
                (_, "2") => self.socket.text("3").await,
                _ => return Some(text),
            }
        }
    }

    /// The next packet, if it is here already.
    pub async fn now(&mut self) -> Option<String> {
        tokio::time::timeout(Duration::ZERO, self.packet()).await.ok().flatten()
    }

    fn note(&mut self, packet: &str) {
        let Some(event) = packet.strip_prefix("42") else { return };
        let event: Vec<Value> = serde_json::from_str(event).unwrap();
        let name = event[0].as_str().unwrap().to_owned();
        if let Some(offset) = event.get(2).and_then(Value::as_str) {
            self.cut.offset = offset.to_owned();
        }
        self.heard.push_back((name, event.get(1).cloned().unwrap_or_default()));
    }

    /// Sends an event and waits for its answer.
    pub async fn ask(&mut self, event: &str, data: Value) -> Value {
        let id = self.say(event, data).await;
        self.answer(id).await
    }

    /// Sends an event; its answer can be waited for later.
    pub async fn say(&mut self, event: &str, data: Value) -> u64 {
        self.ack += 1;
        self.socket.text(&format!("42{}{}", self.ack, json!([event, data]))).await;
        self.ack
    }

    pub async fn answer(&mut self, id: u64) -> Value {
        let prefix = format!("43{id}[");
        loop {
            let packet = patiently("an answer", self.packet()).await.expect("a connection");
            if let Some(rest) = packet.strip_prefix(&prefix) {
                return serde_json::from_str(rest.strip_suffix(']').unwrap()).unwrap();
            }
            self.note(&packet);
        }
    }

    pub async fn join(&mut self, room: &str) {
        let answer = self.ask("room:join", json!({ "room": room })).await;
        assert_eq!(answer["success"], true, "{answer}");
    }

    pub async fn send(&mut self, room: &str, text: &str) {
        let answer = self.ask("room:send", json!({ "room": room, "payload": text })).await;
        assert_eq!(answer["success"], true, "{answer}");
    }

    /// The next event of that name, heard already or to come; others are kept.
    pub async fn wait_for(&mut self, event: &str) -> Value {
        loop {
            if let Some(at) = self.heard.iter().position(|(name, _)| name == event) {
                return self.heard.remove(at).unwrap().1;
            }
            let packet = patiently(event, self.packet()).await.expect("a connection");
            self.note(&packet);
        }
    }

    /// The payload of the next message of a room.
    pub async fn message(&mut self) -> String {
        self.wait_for("room:message").await["payload"].as_str().unwrap().to_owned()
    }

    pub async fn messages(&mut self, count: usize) -> Vec<String> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.push(self.message().await);
        }
        messages
    }

    /// Everything of that name that has been heard by now. An answer of the server says that "now" has come.
    pub async fn heard(&mut self, event: &str) -> Vec<Value> {
        self.ask("query:rooms", json!({})).await;
        let of_name = self.heard.iter().filter(|(name, _)| name == event).map(|(_, data)| data.clone());
        let of_name = of_name.collect();
        self.heard.retain(|(name, _)| name != event);
        of_name
    }

    /// Waits until exactly these users are in a room, as this client's node sees it. (Nodes tell each other of them ten
    /// times a second.)
    pub async fn sees(&mut self, room: &str, users: &[&str]) {
        let deadline = std::time::Instant::now() + tidegate_testkit::PATIENCE;
        loop {
            let answer = self.ask("query:presence", json!({ "room": room })).await;
            let mut seen: Vec<_> =
                answer["presence"].as_array().unwrap().iter().map(|of| of["userId"].clone()).collect();
            seen.sort_by_key(ToString::to_string);
            if seen == users {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{seen:?} are in the room");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether the server ends the connection.
    pub async fn is_closed(&mut self) -> bool {
        while let Some(packet) = patiently("the end", self.packet()).await {
            self.note(&packet);
        }
        true
    }

    /// The connection breaks; what the client knows of its session.
    pub fn cut(self) -> Cut {
        self.cut
    }
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    patiently(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
