//! The cases API, the chat API and a declared one, by stock clients against `tidegate run`. What they do is in
//! `node/dialects.mjs`.

use std::process::Command;

use crate::harness::{Process, binary, run};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const API_KEY: &str = "fedcba9876543210fedcba9876543210";

/// Runs a scenario against a server with this in its `[realtime]` section, and that behind it.
fn scenario(name: &str, realtime: &str, more: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidegate.toml");
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[log]\naccess = \"off\"\n\
         [realtime]\n{realtime}\n[realtime.auth]\njwt_secret = \"{SECRET}\"\n\
         [[realtime.auth.api_keys]]\nid = \"backend\"\nsecret = \"{API_KEY}\"\n{more}\n"
    );
    std::fs::write(&file, config).unwrap();
    let mut process = Process::start(Command::new(binary()).arg("run").arg("--config").arg(&file));
    let address = process.said("listening on http://");
    let settings = [
        ("TIDEGATE_URL", format!("http://{address}")),
        ("TIDEGATE_JWT_SECRET", SECRET.to_owned()),
        ("TIDEGATE_API_KEY", API_KEY.to_owned()),
    ];
    run("dialects", name, &settings, |action| panic!("{name} asks for {action}, which nobody does here"));
    assert!(!process.output().contains("panicked at"), "{}", process.output());
}

/// Enough for the scenarios that are not about limits.
const GENEROUS: &str = "max_payload = \"2MiB\"\nmessages_per_second = 0";

#[test]
fn the_service_of_an_application_for_the_cases_api_works_unchanged() {
    scenario("caseService", GENEROUS, "");
}

#[test]
fn what_a_backend_publishes_reaches_those_who_follow_the_case() {
    scenario("caseUpdates", GENEROUS, "");
}

#[test]
fn every_event_of_the_cases_api_has_its_documented_shape() {
    scenario("casesEvents", GENEROUS, "");
}

#[test]
fn each_namespace_of_the_cases_api_has_rooms_of_its_own() {
    scenario("casesNamespaces", GENEROUS, "");
}

#[test]
fn the_cases_api_refuses_with_its_codes() {
    scenario("casesRefusals", GENEROUS, "");
}

#[test]
fn a_user_of_the_cases_api_over_the_rate_is_told_when_to_come_back() {
    scenario("casesRate", "messages_per_second = 1\nmessage_burst = 10", "");
}

#[test]
fn connections_and_events_of_a_user_are_limited_as_the_dialect_says() {
    let tiny = "[[realtime.namespace]]\nname = \"/tiny\"\ndialect = \"tiny\"\n\
                [dialect.tiny.limits]\nconnections = 1\n[dialect.tiny.codes]\nconnection_limit = \"FULL\"";
    scenario("casesLimits", GENEROUS, tiny);
}

#[test]
fn a_client_without_a_valid_token_is_told_in_the_words_of_the_dialect() {
    scenario("casesConnects", GENEROUS, "");
}

#[test]
fn a_cut_client_of_a_dialect_recovers_its_rooms_and_what_it_missed() {
    scenario("casesRecovery", GENEROUS, "");
}

#[test]
fn binary_values_go_through_a_dialect() {
    scenario("binaryInDialects", GENEROUS, "");
}

#[test]
fn every_event_of_the_chat_api_has_its_documented_shape_and_a_retried_message_is_delivered_once() {
    scenario("chat", GENEROUS, "");
}

#[test]
fn the_chat_api_takes_a_token_from_the_query() {
    scenario("tokenInQuery", GENEROUS, "");
}

/// Answers wait for the store there: for a session's record after a join, for a message before its ack.
const ON_DISK: &str = "[store]\npath = \"data\"";

#[test]
fn the_cases_api_is_the_same_with_a_store_on_disk() {
    scenario("casesEvents", GENEROUS, ON_DISK);
}

#[test]
fn the_chat_api_is_the_same_with_a_store_on_disk() {
    scenario("chat", GENEROUS, ON_DISK);
}

#[test]
fn a_declared_dialect_is_the_same_with_a_store_on_disk() {
    scenario("declared", GENEROUS, &format!("{}\n{ON_DISK}", example()));
}

#[test]
fn strangers_may_chat_where_the_config_lets_them() {
    scenario("strangers", &format!("{GENEROUS}\nnamespace = [{{ name = \"/ws/chat\", auth = \"optional\" }}]"), "");
}

#[test]
fn a_declared_dialect_does_what_it_says() {
    scenario("declared", GENEROUS, example());
}

/// The worked example of the document.
fn example() -> &'static str {
    let document = include_str!("../../../../docs/dialects.md");
    let (_, example) = document.split_once("<!-- example -->\n```toml\n").unwrap();
    example.split_once("```").unwrap().0
}
