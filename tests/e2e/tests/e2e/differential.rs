//! Engine.IO beside Node's socket.io (`node/differential.mjs`).

use crate::harness::scenario_with;

#[test]
fn engine_io_answers_as_the_reference_server_does() {
    scenario_with("connect_timeout = \"2s\"\nupgrade_timeout = \"1s\"", "differential", "sideBySide");
}
