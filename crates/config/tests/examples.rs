//! The examples are valid, and show every key there is.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::Value;
use tidegate_config::{Config, Surroundings, json_schema, load};

fn example(name: &str) -> String {
    std::fs::read_to_string(format!("{}/../../examples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn read(name: &str) -> Config {
    let secret = |variable: &str| (variable == "TIDEGATE_JWT_SECRET").then(|| "x".repeat(64));
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
    assert_eq!(full.listeners.len(), 2);
    assert_eq!(full.upstreams.iter().map(|upstream| upstream.servers.len()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(full.realtime.unwrap().auth.api_keys[0].id(), "billing");
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
fn the_annotated_example_shows_every_key() {
    let text = example("tidegate.toml");
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
