//! Clients of other makes and ages, each against a server of its own.

use crate::harness::{python_scenario, scenario};

#[test]
fn an_old_javascript_client_talks_over_polling() {
    scenario("foreign", "oldClientPolling");
}

#[test]
fn an_old_javascript_client_talks_over_websocket() {
    scenario("foreign", "oldClientWebsocket");
}

#[test]
fn an_old_javascript_client_upgrades() {
    scenario("foreign", "oldClientUpgrades");
}

#[test]
fn an_old_javascript_client_comes_back_after_a_cut() {
    scenario("foreign", "oldClientReconnects");
}

#[test]
fn a_python_client_talks_over_polling() {
    python_scenario("rooms.py", &["polling"]);
}

#[test]
fn a_python_client_talks_over_websocket() {
    python_scenario("rooms.py", &["websocket"]);
}

#[test]
fn a_python_client_upgrades() {
    python_scenario("rooms.py", &["polling,websocket"]);
}
