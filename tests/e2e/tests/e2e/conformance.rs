//! The cases of the official protocol suites (`node/engine_cases.mjs`, `node/socket_cases.mjs`), against the example
//! `conformance` exactly as the suites have them, and against the reference servers, which shows that they are right. What
//! is exact about time runs by itself: see `.config/nextest.toml`.

use std::process::Command;

use crate::harness::{Process, example, run};

fn against_the_example(file: &str, scenario: &str) {
    let server = Process::start(Command::new(example("conformance")).args(["--port", "0"]));
    let port = server.until_said("listening on http://localhost:");
    let url = format!("http://localhost:{}", port.trim());
    run(file, scenario, &[("TIDEGATE_URL", url)], |action| panic!("the scenario asks for {action}"));
    assert!(!server.output().contains("panicked"), "{}", server.output());
}

fn against_node(scenario: &str) {
    run("conformance", scenario, &[], |action| panic!("the scenario asks for {action}"));
}

#[test]
fn the_engine_io_suite_passes_by_itself() {
    against_the_example("conformance", "engineSuite");
}

#[test]
fn the_socket_io_suite_passes_by_itself() {
    against_the_example("conformance", "socketSuite");
}

#[test]
fn the_cases_of_the_engine_io_suite_pass_on_the_reference_server() {
    against_node("engineSuiteOnNode");
}

#[test]
fn the_cases_of_the_socket_io_suite_pass_on_the_reference_server() {
    against_node("socketSuiteOnNode");
}

#[test]
fn a_websocket_echoes_messages_of_all_sizes() {
    against_the_example("echo", "messages");
}

#[test]
fn a_websocket_puts_fragments_together() {
    against_the_example("echo", "fragments");
}

#[test]
fn a_websocket_answers_pings_in_order() {
    against_the_example("echo", "pings");
}

#[test]
fn a_websocket_is_closed_with_the_code_it_was_closed_with() {
    against_the_example("echo", "closes");
}

#[test]
fn a_websocket_refuses_what_breaks_the_protocol() {
    against_the_example("echo", "refusals");
}
