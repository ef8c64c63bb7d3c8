//! The cases of the official protocol suites (`node/engine_cases.mjs`, `node/socket_cases.mjs`).

use crate::harness::run;

#[test]
fn the_cases_of_the_engine_io_suite_pass_on_the_reference_server() {
    run("conformance", "engineSuiteOnNode", &[], |action| panic!("the scenario asks for {action}"));
}

#[test]
fn the_cases_of_the_socket_io_suite_pass_on_the_reference_server() {
    run("conformance", "socketSuiteOnNode", &[], |action| panic!("the scenario asks for {action}"));
}
