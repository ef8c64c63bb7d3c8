//! Several nodes and a real Redis as one server, with stock clients. What the scenarios do is in `node/nodes.mjs`.

use std::process::Command;

use serde_json::{Value, json};
use tidegate_testkit::redis::RedisServer;

use crate::harness::{Process, binary, run};

const JWT_SECRET: &str = "a secret of the tests, long enough for HS256";
const API_KEY: &str = "a key of the tests";

/// Three nodes and their Redis.
struct Nodes {
    redis: RedisServer,
    nodes: Vec<Option<Process>>,
    folder: tempfile::TempDir,
    config: String,
}

/// A dead node is found soon.
const ALERT: &str = "1s";
/// A dead node is not found before the scenario ends.
const SLOW: &str = "60s";

impl Nodes {
    /// `more` stands in `[realtime]`.
    fn start(node_timeout: &str, more: &str) -> (Self, Vec<String>) {
        let (redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
        let config = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[log]\naccess = \"off\"\n\
             [realtime]\nbroker = \"redis\"\n{more}\n[realtime.auth]\njwt_secret = \"{JWT_SECRET}\"\n\
             [[realtime.auth.api_keys]]\nid = \"tests\"\nsecret = \"{API_KEY}\"\nscopes = [\"*\"]\n\
             [cluster]\nredis = \"redis://{}\"\nsecret = \"a secret of all nodes, of more than 32 bytes\"\n\
             heartbeat = \"200ms\"\nnode_timeout = \"{node_timeout}\"\n",
            redis.address()
        );
        let mut all = Self { redis, nodes: Vec::new(), folder, config };
        let urls = (0..3).map(|n| {
            all.nodes.push(None);
            all.start_node(n)
        });
        let urls = urls.collect();
        (all, urls)
    }

    fn start_node(&mut self, n: usize) -> String {
        let file = self.folder.path().join(format!("node-{n}.toml"));
        std::fs::write(&file, format!("{}name = \"node-{n}\"\n", self.config)).unwrap();
        let mut process = Process::start(Command::new(binary()).arg("run").arg("--config").arg(file));
        let url = format!("http://{}", process.said("listening on http://"));
        self.nodes[n] = Some(process);
        url
    }

    /// `action` is what is to be done, and to which node, if to one.
    fn act(&mut self, action: &str) -> Value {
        let (what, n) = action.split_once(' ').unwrap_or((action, "0"));
        let n: usize = n.parse().unwrap();
        match what {
            "kill" | "term" => {
                let mut process = self.nodes[n].take().unwrap();
                process.signal(&what.to_uppercase());
                return json!({ "code": process.wait().code() });
            }
            "pause" => self.nodes[n].as_ref().unwrap().signal("STOP"),
            "go" => self.nodes[n].as_ref().unwrap().signal("CONT"),
            "admin" => {
                let address = self.nodes[n].as_mut().unwrap().said("admin on http://");
                return json!({ "admin": format!("http://{address}") });
            }
            "start" => return json!({ "url": self.start_node(n) }),
            "redis-kill" => self.redis.kill_9(),
            "redis-start" => self.redis.restart(),
            "redis-pause" => self.redis.stop(),
            "redis-go" => self.redis.cont(),
            other => panic!("the scenario asks for {other}"),
        }
        json!({})
    }
}

fn scenario(name: &str) {
    scenario_with(ALERT, "", name);
}

/// The processes may still run: what they have said can be looked at.
fn scenario_with(node_timeout: &str, more: &str, name: &str) -> Nodes {
    let (mut nodes, urls) = Nodes::start(node_timeout, more);
    let settings = [
        ("TIDEGATE_URL", urls[0].clone()),
        ("TIDEGATE_URLS", urls.join(" ")),
        ("TIDEGATE_JWT_SECRET", JWT_SECRET.to_owned()),
        ("TIDEGATE_API_KEY", API_KEY.to_owned()),
    ];
    run("nodes", name, &settings, |action| nodes.act(action));
    for node in nodes.nodes.iter().flatten() {
        assert!(!node.output().contains("panicked at"), "{}", node.output());
    }
    nodes
}

#[test]
fn members_on_all_nodes_of_a_redis_get_everything_in_one_order_and_no_node_warns_of_anything() {
    let nodes = scenario_with(ALERT, "", "oneOrder");
    for node in nodes.nodes.iter().flatten() {
        let output = node.output();
        assert!(!output.contains(r#""level":"WARN""#) && !output.contains(r#""level":"ERROR""#), "{output}");
    }
}

#[test]
fn a_backend_asks_any_node_and_reaches_all_and_is_told_which_one_is_missing() {
    scenario_with(SLOW, "", "httpApi");
}

#[test]
fn a_user_has_so_many_connections_on_all_nodes_together() {
    scenario_with(ALERT, "connections_per_user = 2", "connectionsPerUser");
}

#[test]
fn a_stock_client_comes_back_on_another_node_and_misses_nothing() {
    scenario("recoversElsewhere");
}

#[test]
fn a_killed_node_s_clients_come_back_on_the_others_and_are_present_once() {
    scenario("killedNode");
}

#[test]
fn a_stopped_node_s_clients_come_back_on_the_others_and_miss_nothing() {
    scenario("stoppedNode");
}

#[test]
fn a_session_held_by_a_silent_connection_of_another_node_is_taken_over() {
    scenario("supersedes");
}

#[test]
fn history_streams_and_presence_are_those_of_all_nodes() {
    scenario("readElsewhere");
}

#[test]
fn while_redis_is_gone_volatile_messages_flow_and_what_is_to_be_kept_is_refused() {
    scenario("redisGone");
}

#[test]
fn a_redis_that_stands_still_loses_nothing_that_was_acknowledged() {
    scenario("redisStandsStill");
}

#[test]
fn a_case_is_updated_on_all_nodes() {
    scenario("dialects");
}

#[test]
fn a_conversation_is_one_on_all_nodes() {
    scenario("chat");
}
