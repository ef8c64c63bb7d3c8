//! The examples are valid, and show every key there is.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::Value;
use tidegate_config::{Action, Balance, Config, Surroundings, json_schema, load};

fn example(name: &str) -> String {
    std::fs::read_to_string(format!("{}/../../examples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn read(name: &str) -> Config {
    let secret =
        |variable: &str| ["TIDEGATE_JWT_SECRET", "TIDEGATE_CLUSTER_SECRET"].contains(&variable).then(|| "x".repeat(64));
    let no_file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    load(name, &example(name), Surroundings { variable: &secret, read_file: &no_file })
        .unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn the_examples_are_valid() {
    let minimal = read("minimal.toml");
    assert_eq!(minimal.routes[0].path.to_string(), "/");
    assert_eq!(minimal.realtime.unwrap().listeners.len(), 1);
    let full = read("tidegate.toml");
    assert_eq!(full.listeners.len(), 3);
    assert_eq!(full.upstreams.iter().map(|upstream| upstream.servers.len()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(full.routes.len(), 5);
    assert_eq!(full.realtime.unwrap().auth.api_keys[0].id(), "billing");
}

#[test]
fn every_example_is_valid() {
    let directory = format!("{}/../../examples", env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    assert_eq!(names, ["cluster.toml", "gateway.toml", "minimal.toml", "tidegate.toml"]);
    names.iter().for_each(|name| drop(read(name)));
}

#[test]
fn the_gateway_has_what_its_nginx_files_had() {
    let config = read("gateway.toml");
    let route = |name: &str| config.routes.iter().find(|route| *route.name == *name).unwrap();
    let zones = |name: &str| -> Vec<(String, u32, bool)> {
        let limits = route(name).limits.clone().unwrap();
        limits.iter().map(|limit| (limit.zone.to_string(), limit.burst, limit.nodelay)).collect()
    };
    assert_eq!(zones("api"), [("api".to_owned(), 20, false), ("per_client".to_owned(), 0, false)]);
    assert_eq!(zones("reports-stream"), [("sse".to_owned(), 2, true), ("per_client".to_owned(), 0, false)]);
    assert_eq!(route("app").limits, None, "those of the listener");
    let https = &config.listeners[1];
    assert_eq!((https.max_connections, https.limits.len()), (1_000, 1));
    assert_eq!(config.listeners[0].redirect_https, Some(443));
    assert_eq!(
        config.upstreams.iter().map(|upstream| &upstream.balance).collect::<Vec<_>>(),
        [&Balance::RoundRobin, &Balance::LeastConn, &Balance::IpHash]
    );
    assert_eq!(route("chat").security.as_ref().unwrap().xss.as_deref(), Some("1; mode=block"));
    assert_eq!(route("admin").request_headers.set.len(), 2, "as the defaults say");
    assert_eq!(route("status").action, Action::StubStatus);
}

/// Every key of the schema, with the section that it stands in.
fn keys(schema: &Value) -> Vec<String> {
    let mut keys: Vec<String> = schema["$defs"]
        .as_object()
        .unwrap()
        .values()
        .chain([schema])
        .flat_map(|section| section["properties"].as_object().unwrap().keys().cloned())
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

#[test]
fn the_annotated_example_and_the_file_for_the_round_trip_show_every_key() {
    shows_every_key(&example("tidegate.toml"));
    shows_every_key(include_str!("everything.toml"));
}

fn shows_every_key(text: &str) {
    for key in keys(&json_schema()) {
        let shown = text.lines().any(|line| {
            let line = line.trim_start_matches(['#', ' ']);
            line.starts_with(&format!("{key} = "))
                || line.starts_with('[') && line.trim_matches(['[', ']']).split('.').any(|part| part == key)
                || line.contains(&format!("{key} = "))
        });
        assert!(shown, "{key} is not in the example");
    }
}
