//! What is measured.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::peer::Peer;
use super::setup::Setup;

/// One measured case.
pub struct Case {
    /// Name for `--only`.
    pub name: &'static str,
    /// Label of the table.
    pub label: &'static str,
    /// The generator's arguments; `@ADDR@` becomes the peer's address, `@NODES@` the WebSocket URLs of all its nodes. If the first is `h2load`, that is the generator; if
    /// it is `storage`, the store's own example is, without a server; if it is `fire`, `tests/e2e/node/fire.mjs` is.
    pub args: &'static [&'static str],
    /// Who takes part.
    pub peers: &'static [Peer],
    /// The generator's figure that is compared.
    pub figure: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What to reach.
    pub goal: Goal,
    /// What is switched on.
    pub setup: Setup,
    /// The generator's figures that must be 0, and those that must be equal.
    pub zero: &'static [&'static str],
    /// Pairs that must be equal.
    pub equal: &'static [(&'static str, &'static str)],
}

/// What a figure is held against.
#[derive(Clone, Copy)]
pub enum Goal {
    /// At most this many times the peer's figure.
    AtMost(f64, Peer),
    /// At least this many times the peer's figure.
    AtLeast(f64, Peer),
    /// At most this many times Tidegate's own figure in another case.
    OfCase(f64, &'static str),
    /// At most this figure.
    Below(f64),
    /// At least this figure.
    Reach(f64),
    /// Only reported.
    None,
}

const PROXIES: &[Peer] = &[Peer::Nginx, Peer::Haproxy, Peer::Tidegate];
const WITH_NGINX: &[Peer] = &[Peer::Nginx, Peer::Tidegate];
const SOCKETIO: &[Peer] = &[Peer::Node, Peer::Tidegate];
const ONLY: &[Peer] = &[Peer::Tidegate];
const ECHO_ZERO: &[&str] = &["failures", "wrong"];
const FANOUT_ZERO: &[&str] = &["failures", "lost", "repeated", "refused"];
const CLUSTER_LOADED: &[&str] =
    &["fanout", "--url", "@NODES@", "--subscribers", "300", "--rate", "200", "--size", "128"];
const ALL_ALIVE: &[(&str, &str)] = &[("alive", "wanted")];

/// All cases, in the order of the table.
pub fn all() -> &'static [Case] {
    const CASES: &[Case] = &[
        Case {
            name: "http",
            label: "HTTP keep-alive, 64 connections, 256 B: CPU per request",
            args: &["http", "--url", "http://@ADDR@/", "--connections", "64"],
            peers: PROXIES,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(1.10, Peer::Nginx),
            setup: Setup::Plain,
            zero: &["failures", "not_2xx"],
            equal: &[],
        },
        Case {
            name: "http-limited",
            label: "the same with a rate zone, a connection zone, security headers",
            args: &["http", "--url", "http://@ADDR@/", "--connections", "64"],
            peers: WITH_NGINX,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(1.0, Peer::Nginx),
            setup: Setup::Limited,
            zero: &["failures", "not_2xx"],
            equal: &[],
        },
        Case {
            name: "http-refused",
            label: "requests refused by a rate zone: CPU per request",
            args: &["http", "--url", "http://@ADDR@/", "--connections", "64"],
            peers: WITH_NGINX,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::OfCase(1.0, "http"),
            setup: Setup::Refusing,
            zero: &["failures"],
            equal: &[("not_2xx", "completed")],
        },
        Case {
            name: "http-100k-keys",
            label: "a rate zone with 100,000 keys: private memory",
            args: &["http", "--url", "http://@ADDR@/", "--connections", "64", "--vary", "X-Key=100000"],
            peers: WITH_NGINX,
            figure: "server_private_kib",
            unit: "KiB",
            goal: Goal::Below(32_768.0),
            setup: Setup::ManyKeys,
            zero: &["failures", "not_2xx"],
            equal: &[],
        },
        Case {
            name: "http-1000-routes",
            label: "1,000 routes: CPU per request",
            args: &["http", "--url", "http://@ADDR@/route/999/", "--connections", "64"],
            peers: ONLY,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::OfCase(1.05, "http"),
            setup: Setup::ManyRoutes,
            zero: &["failures", "not_2xx"],
            equal: &[],
        },
        Case {
            name: "https",
            label: "HTTPS keep-alive (TLS 1.3), 64 connections: CPU per request",
            args: &["http", "--url", "https://@ADDR@/", "--connections", "64"],
            peers: WITH_NGINX,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(1.0, Peer::Nginx),
            setup: Setup::Tls,
            zero: &["failures", "not_2xx"],
            equal: &[],
        },
        Case {
            name: "tls-full",
            label: "one TLS 1.3 connection per request, full handshakes (ECDSA P-256): CPU per connection",
            args: &["http", "--url", "https://@ADDR@/", "--connections", "16", "--new-connections", "--no-resumption"],
            peers: WITH_NGINX,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(1.0, Peer::Nginx),
            setup: Setup::Tls,
            zero: &["failures", "not_2xx", "resumed"],
            equal: &[],
        },
        Case {
            name: "tls-resumed",
            label: "the same with sessions resumed, 4 connections: CPU per connection",
            args: &["http", "--url", "https://@ADDR@/", "--connections", "4", "--new-connections"],
            peers: WITH_NGINX,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(1.0, Peer::Nginx),
            setup: Setup::Tls,
            zero: &["failures", "not_2xx"],
            equal: &[],
        },
        Case {
            name: "http2",
            label: "HTTP/2 over TLS, 1 connection × 100 streams: CPU per request",
            args: &["h2load", "-c", "1", "-m", "100", "https://@ADDR@/"],
            peers: WITH_NGINX,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(1.0, Peer::Nginx),
            setup: Setup::Tls,
            zero: &["failures"],
            equal: &[],
        },
        Case {
            name: "new-connection",
            label: "HTTP, one connection per request: CPU per connection",
            args: &["http", "--url", "http://@ADDR@/", "--connections", "32", "--new-connections"],
            peers: PROXIES,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(1.0, Peer::Nginx),
            setup: Setup::Plain,
            zero: &["failures", "not_2xx"],
            equal: &[],
        },
        Case {
            name: "websocket",
            label: "WebSocket tunnel, 50 connections, 64 B: CPU per round trip",
            args: &["echo", "--websocket", "--url", "ws://@ADDR@/ws", "--connections", "50", "--size", "64"],
            peers: PROXIES,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(1.0, Peer::Nginx),
            setup: Setup::Plain,
            zero: ECHO_ZERO,
            equal: &[("alive", "connections")],
        },
        Case {
            name: "websocket-metered",
            label: "the same, with the inside view",
            args: &["echo", "--websocket", "--url", "ws://@ADDR@/ws", "--connections", "50", "--size", "64"],
            peers: ONLY,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::OfCase(1.05, "websocket"),
            setup: Setup::Metered,
            zero: ECHO_ZERO,
            equal: &[("alive", "connections")],
        },
        Case {
            name: "sse",
            label: "SSE, 100 streams × 50 events/s: CPU per event",
            args: &["sse", "--url", "http://@ADDR@/events", "--subscribers", "100"],
            peers: PROXIES,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(0.75, Peer::Nginx),
            setup: Setup::Plain,
            zero: &["failures", "gaps"],
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "idle-tunnel",
            label: "5,000 idle WebSocket tunnels: private memory of each",
            args: &["idle", "--url", "ws://@ADDR@/ws", "--count", "5000"],
            peers: PROXIES,
            figure: "kib_per_connection",
            unit: "KiB",
            goal: Goal::Below(3.5),
            setup: Setup::Plain,
            zero: &["failures"],
            equal: ALL_ALIVE,
        },
        Case {
            name: "idle-tls-tunnel",
            label: "2,000 idle WebSocket tunnels over TLS: private memory of each",
            args: &["idle", "--url", "wss://@ADDR@/ws", "--count", "2000", "--ramp", "500"],
            peers: WITH_NGINX,
            figure: "kib_per_connection",
            unit: "KiB",
            goal: Goal::AtMost(0.5, Peer::Nginx),
            setup: Setup::Tls,
            zero: &["failures"],
            equal: ALL_ALIVE,
        },
        Case {
            name: "idle-socketio",
            label: "5,000 idle Socket.IO sessions, rooms of 10, presence: private memory of each",
            args: &[
                "idle",
                "--socketio",
                "--url",
                "ws://@ADDR@",
                "--count",
                "5000",
                "--room-size",
                "10",
                "--ramp",
                "1000",
            ],
            peers: SOCKETIO,
            figure: "kib_per_connection",
            unit: "KiB",
            goal: Goal::Below(4.0),
            setup: Setup::Plain,
            zero: &["failures"],
            equal: ALL_ALIVE,
        },
        Case {
            name: "fanout",
            label: "Socket.IO fan-out, 1,000 × 50/s × 128 B: CPU per delivery",
            args: &["fanout", "--url", "ws://@ADDR@", "--subscribers", "1000", "--rate", "50", "--size", "128"],
            peers: SOCKETIO,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(0.50, Peer::Node),
            setup: Setup::Plain,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "fanout-100",
            label: "the same to 100 × 500/s",
            args: &["fanout", "--url", "ws://@ADDR@", "--subscribers", "100", "--rate", "500", "--size", "128"],
            peers: ONLY,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::OfCase(1.15, "fanout"),
            setup: Setup::Plain,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "fanout-10000",
            label: "the same to 10,000 × 5/s",
            args: &["fanout", "--url", "ws://@ADDR@", "--subscribers", "10000", "--rate", "5", "--size", "128"],
            peers: ONLY,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::OfCase(1.15, "fanout"),
            setup: Setup::Plain,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "fanout-persistent",
            label: "the same to 1,000, each message persistent (embedded store)",
            args: &[
                "fanout",
                "--url",
                "ws://@ADDR@",
                "--subscribers",
                "1000",
                "--rate",
                "50",
                "--size",
                "128",
                "--persistent",
            ],
            peers: ONLY,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::None,
            setup: Setup::Plain,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "persistent-publish",
            label: "Socket.IO, 64 publishers with 64 persistent messages of 128 B under way, fsync always: acks per second",
            args: &[
                "publish",
                "--url",
                "ws://@ADDR@",
                "--connections",
                "64",
                "--window",
                "64",
                "--size",
                "128",
                "--persistent",
            ],
            peers: ONLY,
            figure: "per_second",
            unit: "/s",
            goal: Goal::Reach(50_000.0),
            setup: Setup::SyncAlways,
            zero: &["failures", "wrong"],
            equal: &[("alive", "connections")],
        },
        Case {
            name: "storage",
            label: "the store alone, fsync always: messages stored per second",
            args: &["storage"],
            peers: ONLY,
            figure: "per_second",
            unit: "/s",
            goal: Goal::Reach(50_000.0),
            setup: Setup::Plain,
            zero: &[],
            equal: &[],
        },
        Case {
            name: "storage-commits",
            label: "its group commits per second",
            args: &["storage"],
            peers: ONLY,
            figure: "commits_per_second",
            unit: "/s",
            goal: Goal::None,
            setup: Setup::Plain,
            zero: &[],
            equal: &[],
        },
        Case {
            name: "storage-floor",
            label: "`write` + `fdatasync` of the same bytes in a bare loop, per second",
            args: &["storage"],
            peers: ONLY,
            figure: "floor_per_second",
            unit: "/s",
            goal: Goal::None,
            setup: Setup::Plain,
            zero: &[],
            equal: &[],
        },
        Case {
            name: "storage-read",
            label: "messages of 128 B read from the store for a recovery, per second",
            args: &["storage"],
            peers: ONLY,
            figure: "read_seq_per_second",
            unit: "/s",
            goal: Goal::Reach(500_000.0),
            setup: Setup::Plain,
            zero: &[],
            equal: &[],
        },
        Case {
            name: "replay",
            label: "Socket.IO, 200 clients come back to 5,000 missed messages of 128 B each: messages replayed per second",
            args: &["replay", "--url", "ws://@ADDR@", "--connections", "200", "--messages", "5000", "--size", "128"],
            peers: ONLY,
            figure: "per_second",
            unit: "/s",
            goal: Goal::Reach(500_000.0),
            setup: Setup::Plain,
            zero: &["failures", "wrong", "lost"],
            equal: &[],
        },
        Case {
            name: "replay-history",
            label: "400 clients read 1,000 stored messages of 128 B by `room:history`: messages per second",
            args: &[
                "replay",
                "--history",
                "--url",
                "ws://@ADDR@",
                "--connections",
                "400",
                "--messages",
                "1000",
                "--size",
                "128",
            ],
            peers: ONLY,
            figure: "per_second",
            unit: "/s",
            goal: Goal::Reach(500_000.0),
            setup: Setup::Plain,
            zero: &["failures", "wrong", "lost"],
            equal: &[],
        },
        Case {
            name: "recovery-under-fire",
            label: "30 stock clients, 400 messages/s, 1,000 cuts: messages lost, repeated or out of order, sessions not recovered",
            args: &["fire"],
            peers: SOCKETIO,
            figure: "faults_in_all",
            unit: "",
            goal: Goal::Below(0.0),
            setup: Setup::Recovering,
            zero: &[],
            equal: &[],
        },
        Case {
            name: "recovery-under-fire-redis",
            label: "the same, Node with its Redis streams adapter",
            args: &["fire"],
            peers: &[Peer::Node],
            figure: "faults_in_all",
            unit: "",
            goal: Goal::None,
            setup: Setup::RecoveringByRedis,
            zero: &[],
            equal: &[],
        },
        Case {
            name: "cluster-fanout",
            label: "3 nodes and one Redis, 3 × 100 subscribers, 200/s × 128 B: CPU of the nodes per delivery",
            args: CLUSTER_LOADED,
            peers: SOCKETIO,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::Below(7.0),
            setup: Setup::Cluster,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "cluster-redis",
            label: "the same: CPU of Redis per message (Tidegate keeps a history, Node none)",
            args: CLUSTER_LOADED,
            peers: SOCKETIO,
            figure: "broker_cpu_us",
            unit: "µs",
            goal: Goal::Below(97.0),
            setup: Setup::Cluster,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "cluster-remote",
            label: "the same: time to a subscriber of another node, median",
            args: CLUSTER_LOADED,
            peers: SOCKETIO,
            figure: "remote_latency_us/p50",
            unit: "µs",
            goal: Goal::Below(1_000.0),
            setup: Setup::Cluster,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "cluster-remote-unloaded",
            label: "the same at 5 messages/s",
            args: &["fanout", "--url", "@NODES@", "--subscribers", "300", "--rate", "5", "--size", "128"],
            peers: SOCKETIO,
            figure: "remote_latency_us/p50",
            unit: "µs",
            goal: Goal::AtMost(1.0, Peer::Node),
            setup: Setup::Cluster,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "cluster-full-speed",
            label: "3 nodes and one Redis, 3 × 100 subscribers at full speed, 128 B: deliveries per second",
            args: &["fanout", "--full-speed", "--url", "@NODES@", "--subscribers", "300", "--size", "128"],
            peers: SOCKETIO,
            figure: "per_second",
            unit: "/s",
            goal: Goal::AtLeast(3.0, Peer::Node),
            setup: Setup::Cluster,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "cluster-fanout-streams",
            label: "200/s as above, Node with its streams adapter: CPU of the nodes per delivery",
            args: CLUSTER_LOADED,
            peers: &[Peer::Node],
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::None,
            setup: Setup::ClusterStreams,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "cluster-redis-streams",
            label: "the same: CPU of Redis per message",
            args: CLUSTER_LOADED,
            peers: &[Peer::Node],
            figure: "broker_cpu_us",
            unit: "µs",
            goal: Goal::None,
            setup: Setup::ClusterStreams,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "full-speed",
            label: "Socket.IO fan-out to 1,000 at full speed, 128 B: deliveries per second",
            args: &["fanout", "--full-speed", "--url", "ws://@ADDR@", "--subscribers", "1000", "--size", "128"],
            peers: SOCKETIO,
            figure: "per_second",
            unit: "/s",
            goal: Goal::AtLeast(8.0, Peer::Node),
            setup: Setup::Plain,
            zero: FANOUT_ZERO,
            equal: &[("alive", "subscribers")],
        },
        Case {
            name: "echo",
            label: "Socket.IO echo and ack, 50 connections, 64 B: CPU per message",
            args: &["echo", "--url", "ws://@ADDR@", "--connections", "50", "--size", "64"],
            peers: SOCKETIO,
            figure: "server_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(0.27, Peer::Node),
            setup: Setup::Plain,
            zero: ECHO_ZERO,
            equal: &[("alive", "connections")],
        },
        Case {
            name: "storm",
            label: "10,000 Socket.IO connects as fast as they come: CPU per connect",
            args: &["idle", "--socketio", "--url", "ws://@ADDR@", "--count", "10000", "--room", "", "--ramp", "100000"],
            peers: SOCKETIO,
            figure: "open_cpu_us",
            unit: "µs",
            goal: Goal::AtMost(0.33, Peer::Node),
            setup: Setup::Plain,
            zero: &["failures"],
            equal: ALL_ALIVE,
        },
        Case {
            name: "hold",
            label: "Socket.IO sessions held by one `tidegate dev`, rooms of 100",
            args: &[
                "idle",
                "--socketio",
                "--url",
                "ws://@ADDR@",
                "--count",
                "10000",
                "--room-size",
                "100",
                "--ramp",
                "1000",
            ],
            peers: ONLY,
            figure: "alive",
            unit: "alive",
            goal: Goal::Reach(10_000.0),
            setup: Setup::Dev,
            zero: &["failures"],
            equal: ALL_ALIVE,
        },
    ];
    CASES
}

/// The names, for messages.
pub fn names() -> String {
    all().iter().map(|case| case.name).collect::<Vec<_>>().join(", ")
}

impl Case {
    /// The arguments for h2load, if that is the generator.
    pub fn h2load(&self) -> Option<&'static [&'static str]> {
        self.args.split_first().filter(|(first, _)| **first == "h2load").map(|(_, args)| args)
    }

    /// Whether the store is measured by itself.
    pub fn storage(&self) -> bool {
        self.args.first() == Some(&"storage")
    }

    /// Whether connections are cut, and what goes wrong is counted.
    pub fn fire(&self) -> bool {
        self.args.first() == Some(&"fire")
    }

    /// Whether its connections are Socket.IO sessions, which have to be let in.
    pub fn socketio(&self) -> bool {
        let has = |arg: &str| self.args.contains(&arg);
        let socketio = ["fanout", "echo", "publish", "replay", "--socketio"].into_iter().any(has);
        socketio && !has("--websocket")
    }

    /// Whether the peer did the whole work: a figure of work that was not done is worth nothing.
    pub fn verify(&self, values: &Value) -> anyhow::Result<()> {
        let number = |key: &str| figure(values, key).with_context(|| format!("no figure `{key}`"));
        for key in self.zero {
            let found = number(key)?;
            let reasons = values.get("failure_reasons").map(|reasons| format!(": {reasons}")).unwrap_or_default();
            ensure!(found == 0.0, "{key} = {found}{reasons}");
        }
        for (one, other) in self.equal {
            let (left, right) = (number(one)?, number(other)?);
            ensure!(left == right, "{one} = {left}, but {other} = {right}");
        }
        let measured = if self.fire() { "returns" } else { self.figure };
        ensure!(number(measured)? > 0.0, "{measured} is 0: nothing was measured");
        Ok(())
    }
}

/// A figure by its key; one inside an object by the keys with a slash between.
pub fn figure(values: &Value, key: &str) -> Option<f64> {
    values.pointer(&format!("/{key}")).and_then(Value::as_f64)
}
