//! Webhooks: `tidegate run` with a backend on Node, and the receivers of docs/webhooks.md. What happens is in
//! `node/webhooks.mjs`.

use std::process::Command;

use serde_json::json;

use crate::harness::{self, Process, binary};

/// At least 32 bytes, as HS256 wants.
const JWT_SECRET: &str = "a-secret-of-the-webhook-tests-alone";
/// That of `node/webhooks.mjs`.
const SECRET: &str = "whsec_for_the_tests_only";

fn scenario(name: &str, more: &[(&str, String)]) {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = None;
    let settings: Vec<_> =
        [("TIDEGATE_JWT_SECRET", JWT_SECRET.to_owned())].into_iter().chain(more.iter().cloned()).collect();
    harness::run("webhooks", name, &settings, |action| match action.split_once(' ') {
        Some(("start", webhook)) => {
            let file = folder.path().join("tidegate.toml");
            std::fs::write(&file, config(webhook)).unwrap();
            let mut process = Process::start(Command::new(binary()).arg("run").arg("--config").arg(&file));
            let url = format!("http://{}", process.said("listening on http://"));
            let admin = format!("http://{}", process.said("admin on http://"));
            gateway = Some(process);
            json!({ "url": url, "admin": admin })
        }
        None => {
            let process = gateway.as_mut().expect("the gateway runs");
            match action {
                "term" => process.signal("TERM"),
                "wait" => return json!({ "code": process.wait().code() }),
                other => panic!("the scenario asks for {other}"),
            }
            json!({})
        }
        Some(other) => panic!("the scenario asks for {other:?}"),
    });
    let output = gateway.expect("the scenario starts the gateway").output();
    assert!(!output.contains("panicked at"), "{output}");
    assert!(!output.contains(SECRET), "{output}");
}

fn config(webhook: &str) -> String {
    format!(
        "workers = 2\n[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[log]\naccess = \"off\"\n\
         [store]\nkind = \"memory\"\n[realtime.auth]\njwt_secret = \"{JWT_SECRET}\"\n{webhook}\n"
    )
}

#[test]
fn a_backend_decides_who_comes_in_and_what_they_may() {
    scenario("connectAsks", &[]);
}

#[test]
fn a_backend_refuses_joins_by_socket_and_by_stream() {
    scenario("joinAsks", &[]);
}

#[test]
fn a_backend_refuses_and_rewrites_messages() {
    scenario("publishAsks", &[]);
}

#[test]
fn a_backend_answers_events_of_its_own() {
    scenario("eventsAreAnswered", &[]);
}

#[test]
fn a_slow_backend_holds_up_the_client_that_asks_and_nobody_else() {
    scenario("eventsKeepTheirOrder", &[]);
}

#[test]
fn a_backend_that_never_answers_refuses_and_leaves_nothing_behind() {
    scenario("silenceIsRefused", &[]);
}

#[test]
fn a_backend_that_fails_may_allow() {
    scenario("failureMayBeAllowed", &[]);
}

#[test]
fn a_call_that_failed_is_made_again_with_its_id() {
    scenario("callsAreMadeAgain", &[]);
}

#[test]
fn the_breaker_opens_for_a_sick_backend_and_closes_for_a_well_one() {
    scenario("breakerOpensAndCloses", &[]);
}

#[test]
fn what_happens_is_told_in_its_order() {
    scenario("eventsAreTold", &[]);
}

#[test]
fn what_is_not_taken_is_told_again_then_dropped_and_counted() {
    scenario("whatIsToldIsToldAgain", &[]);
}

#[test]
fn a_full_queue_loses_its_oldest_and_counts_them() {
    scenario("fullQueueLosesItsOldest", &[]);
}

#[test]
fn the_end_of_the_process_is_told() {
    scenario("endOfTheProcessIsTold", &[]);
}

#[test]
fn a_webhook_is_for_its_tenants_alone() {
    scenario("filtersHold", &[]);
}

#[test]
fn the_documented_receiver_on_node_knows_our_calls() {
    documented("js", "receiver.mjs", "node");
}

#[test]
fn the_documented_receiver_in_python_knows_our_calls() {
    documented("python", "receiver.py", "python3");
}

/// Runs the code block of docs/webhooks.md in that language.
fn documented(language: &str, file: &str, interpreter: &str) {
    let docs = include_str!("../../../../docs/webhooks.md");
    let (_, code) = docs.split_once(&format!("```{language}\n")).unwrap();
    let (code, _) = code.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    std::fs::write(&path, code).unwrap();
    let mut command = Command::new(interpreter);
    let receiver = Process::start(command.arg(&path).env("PORT", "0").env("SECRET", SECRET));
    let port = receiver.until_said("listening on ");
    scenario("documentedReceiver", &[("RECEIVER", format!("http://127.0.0.1:{port}"))]);
}
