//! Kill drills, each once and short: three nodes and one Redis under load, a fault, and every message of every client held
//! against what was acknowledged (`node/drills.mjs`; `cargo xtask drill` runs them again and again, beside Node's).

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::binary;

/// What a drill counted.
struct Account(Value);

impl Account {
    fn count(&self, key: &str) -> u64 {
        self.0.get(key).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {key} in {}", self.0))
    }

    /// No client missed, repeated or reordered anything that was acknowledged, and all are back.
    fn nothing_is_wrong(&self) {
        for key in ["lost", "lost_told", "repeated", "reordered", "not_back", "unanswered", "nodes_that_ended"] {
            assert_eq!(self.count(key), 0, "{key} in {}", self.0);
        }
        assert!(self.count("acked") > 0, "{}", self.0);
    }
}

fn drill(fault: &str, rate: u32) -> Account {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("node");
    let output = Command::new("node")
        .arg("drills.mjs")
        .args(["--server", "tidegate", "--runs", "1", "--clients", "24", "--fault", fault])
        .args(["--rate", &rate.to_string(), "--binary"])
        .arg(binary())
        .current_dir(folder)
        .output()
        .expect("node runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    eprintln!("{said}");
    let mut runs: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    Account(runs.pop().unwrap())
}

#[test]
fn a_killed_node_costs_no_client_a_message_and_every_session_comes_back_elsewhere() {
    let account = drill("kill", 100);
    account.nothing_is_wrong();
    assert_eq!(account.count("not_recovered"), 0, "{}", account.0);
    assert!(account.count("recovered") >= 8, "{}", account.0);
}

#[test]
fn a_node_that_is_stopped_hands_its_clients_to_the_others() {
    let account = drill("term", 100);
    account.nothing_is_wrong();
    assert_eq!(account.count("not_recovered"), 0, "{}", account.0);
    assert!(account.count("recovered") >= 8, "{}", account.0);
}

#[test]
fn clients_cut_again_and_again_come_back_to_any_node_without_a_seam() {
    let account = drill("cuts", 100);
    account.nothing_is_wrong();
    assert_eq!(account.count("not_recovered"), 0, "{}", account.0);
    assert!(account.count("recovered") >= 50, "{}", account.0);
}

#[test]
fn connections_to_redis_that_are_killed_cost_nothing_acknowledged() {
    drill("redis-connections", 100).nothing_is_wrong();
}

#[test]
fn a_redis_that_stands_still_costs_nothing_acknowledged() {
    drill("redis-stop", 100).nothing_is_wrong();
}

#[test]
fn a_redis_that_forgets_everything_costs_what_it_forgot_and_everybody_is_told() {
    let account = drill("redis-kill", 100);
    for key in ["lost", "repeated", "reordered", "not_back", "unanswered", "nodes_that_ended"] {
        assert_eq!(account.count(key), 0, "{key} in {}", account.0);
    }
    assert!(account.count("gaps") >= 24, "every client is told: {}", account.0);
}

#[test]
fn a_redis_that_comes_back_with_its_file_has_lost_nothing_and_nobody_is_told_anything() {
    let account = drill("redis-kill-aof", 100);
    account.nothing_is_wrong();
    assert_eq!((account.count("gaps"), account.count("not_recovered")), (0, 0), "{}", account.0);
}

#[test]
fn a_node_whose_way_to_redis_hangs_catches_up() {
    drill("link", 100).nothing_is_wrong();
}

#[test]
fn a_node_cut_off_from_everything_and_declared_dead_comes_back_and_catches_up() {
    drill("netns", 100).nothing_is_wrong();
}
