//! The schema and the reader agree.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::Value;
use tidegate_config::{Surroundings, json_schema, load};

fn problems(text: &str) -> String {
    let no_file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    let surroundings = Surroundings { variable: &|_| None, read_file: &no_file };
    load("t", text, surroundings).err().map(|problems| problems.to_string()).unwrap_or_default()
}

/// How the sections are written, and the definition of each.
const SECTIONS: &[(&str, &str)] = &[
    ("", ""),
    ("[[listener]]", "Listener"),
    ("[admin]", "Admin"),
    ("[upstream.x]", "Upstream"),
    ("[[upstream.x.server]]", "Server"),
    ("[[route]]", "Route"),
    ("[realtime]", "Realtime"),
    ("[realtime.auth]", "Auth"),
    ("[[realtime.auth.api_keys]]", "ApiKey"),
    ("[store]", "Store"),
    ("[log]", "Log"),
    ("[drain]", "Drain"),
];

fn section<'a>(schema: &'a Value, name: &str) -> &'a Value {
    if name.is_empty() { schema } else { &schema["$defs"][name] }
}

#[test]
fn the_schema_is_of_all_sections_and_refuses_other_keys() {
    let schema = json_schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let definitions: Vec<&str> = schema["$defs"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut known: Vec<&str> = SECTIONS.iter().map(|(_, name)| *name).filter(|name| !name.is_empty()).collect();
    known.sort_unstable();
    assert_eq!(definitions, known);
    for (_, name) in SECTIONS {
        let section = section(&schema, name);
        assert_eq!(section["additionalProperties"], false, "{name}");
        for (key, property) in section["properties"].as_object().unwrap() {
            assert!(property["description"].as_str().is_some_and(|text| text.len() > 3), "{name}.{key}");
        }
    }
}

#[test]
fn the_reader_accepts_every_key_of_the_schema_and_no_other() {
    let schema = json_schema();
    for (header, name) in SECTIONS {
        for key in section(&schema, name)["properties"].as_object().unwrap().keys() {
            let found = problems(&format!("{header}\n{key} = 1\n"));
            assert!(!found.contains("unknown key"), "{header} {key}: {found}");
        }
        let found = problems(&format!("{header}\nxyzzy = 1\n"));
        assert!(found.contains("t:2:1: unknown key \"xyzzy\""), "{header}: {found}");
    }
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_reader() {
    let schema = json_schema();
    // What has no default and must be there.
    let needed = [
        ("[upstream.x]", "servers = [\"a:1\"]"),
        ("[[route]]", "upstream = \"x\""),
        ("[realtime.auth]", "jwt_secret = \"0123456789abcdef0123456789abcdef\""),
        ("[store]", "path = \"d\""),
    ];
    let least: String = needed.iter().map(|(header, line)| format!("{header}\n{line}\n")).collect();
    let mut full = String::new();
    for (header, name) in SECTIONS.iter().filter(|(_, name)| !matches!(*name, "Server" | "ApiKey")) {
        full.push_str(&format!("{header}\n"));
        for (key, property) in section(&schema, name)["properties"].as_object().unwrap() {
            // Given together with fsync = "always", the interval would be a contradiction.
            if let Some(default) = property.get("default").filter(|_| key != "fsync_interval") {
                full.push_str(&format!("{key} = {default}\n"));
            }
        }
        for (_, line) in needed.iter().filter(|(needed, _)| needed == header) {
            full.push_str(&format!("{line}\n"));
        }
    }
    assert_eq!(problems(&least), "");
    let no_file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    let surroundings = Surroundings { variable: &|_| None, read_file: &no_file };
    let full = load("t", &full, surroundings).unwrap_or_else(|problems| panic!("{problems}\n{full}"));
    assert_eq!(full, load("t", &least, surroundings).unwrap());
}

#[test]
fn every_value_of_an_enum_is_accepted() {
    let schema = json_schema();
    for (header, name) in SECTIONS {
        for (key, property) in section(&schema, name)["properties"].as_object().unwrap() {
            for value in property["enum"].as_array().into_iter().flatten() {
                let found = problems(&format!("{header}\n{key} = {value}\n"));
                assert!(!found.contains("must be one of"), "{key} = {value}: {found}");
            }
        }
    }
}
