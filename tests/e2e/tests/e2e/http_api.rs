//! The HTTP API for backends: against its own description, and as stock clients see what it does.

use std::process::{Command, Stdio};

use crate::harness::{Server, scenario, scenario_with};

#[test]
fn every_operation_is_as_it_is_described_and_every_description_comes_true() {
    let key = |name: &str, more: &str| {
        format!("[[realtime.auth.api_keys]]\nid = \"{name}\"\nsecret = \"key-{name}-0123456789\"\n{more}\n")
    };
    let all = "scopes = [\"*\"]";
    let keys = [
        "rooms_per_connection = 5".to_owned(),
        key("all", all),
        key("idle", "scopes = [\"history\"]\nnamespaces = [\"/none\"]"),
        key("slow", &format!("{all}\nrequests_per_second = 1\nrequest_burst = 1")),
        key("lobby", &format!("{all}\nrooms = [\"lobby\"]")),
    ];
    scenario_with(&keys.join("\n"), "openapi", "everyOperationIsAsDescribed");
}

#[test]
fn a_key_opens_what_it_names_and_nothing_else() {
    let key = |name: &str, more: &str| {
        format!("[[realtime.auth.api_keys]]\nid = \"{name}\"\nsecret = \"key-{name}-0123456789\"\n{more}\n")
    };
    let keys = [
        key("all", "scopes = [\"*\"]"),
        key("acme", "scopes = [\"*\"]\ntenant = \"acme\""),
        key("reader", "scopes = [\"history\", \"presence\"]"),
        key("cases", "scopes = [\"publish\", \"rooms\"]\nrooms = [\"case:*\"]"),
        key("plain", ""),
    ];
    scenario_with(&keys.join("\n"), "http_api", "scopes");
}

#[test]
fn payloads_and_events_of_backends_reach_rooms() {
    scenario("http_api", "payloadsAndEvents");
}

#[test]
fn one_request_reaches_many_rooms_users_or_everybody_of_a_tenant() {
    scenario("http_api", "broadcasts");
}

#[test]
fn a_backend_puts_users_into_rooms_and_takes_them_out() {
    scenario("http_api", "membersOnBehalf");
}

#[test]
fn a_backend_ends_connections_for_good_or_to_come_back() {
    scenario("http_api", "disconnects");
}

#[test]
fn listings_name_everybody_once_page_by_page() {
    scenario("http_api", "listings");
}

#[test]
fn history_is_read_page_by_page() {
    scenario("http_api", "historyPages");
}

#[test]
fn a_request_sent_again_is_done_once() {
    scenario("http_api", "sentAgain");
}

#[test]
fn a_batch_is_done_in_order_and_says_what_failed() {
    scenario("http_api", "batches");
}

#[test]
fn revoked_tokens_are_shut_out_with_their_connections() {
    scenario("http_api", "revocations");
}

#[test]
fn bad_and_slow_requests_disturb_nobody() {
    scenario("http_api", "badRequestsDisturbNobody");
}

#[test]
fn a_backend_in_python_publishes_to_stock_clients() {
    scenario("http_api", "pythonBackend");
}

/// Each block of shell in the document, with a server of its own; `ada` is connected meanwhile.
#[test]
fn the_examples_of_the_document_work_as_they_stand() {
    let text = include_str!("../../../../docs/http-api.md");
    let examples: Vec<&str> = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 10, "{} examples", examples.len());
    let server = Server::start();
    let mut ada = crate::raw::RawWebSocket::socket_io(server.address, &server.token("ada"));
    for example in examples {
        let output = Command::new("sh")
            .args(["-euc", &example.replace("curl ", "curl --fail-with-body -sS ")])
            .env("API", format!("{}/realtime", server.url()))
            .env("KEY", server.api_key())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{example}\n{said}\n{error}");
        let answer: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{example}\n{said}"));
        assert!(answer.get("error").is_none() && answer["failed"].as_u64().unwrap_or(0) == 0, "{example}\n{said}");
    }
    ada.send(b"");
}
