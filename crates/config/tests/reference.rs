//! docs/configuration.md has the tables of the schema, and names every variable.
//!
//! After a change: `UPDATE_DOCS=1 cargo test -p tidegate-config the_reference_has_the_tables_of_the_schema`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use tidegate_config::json_schema;

/// How the header of each section is written, from the way to it.
fn headers(schema: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::from([("TidegateConfig".to_owned(), String::new())]);
    collect(schema, schema, "", &mut found);
    found
}

fn collect(schema: &Value, section: &Value, way: &str, found: &mut BTreeMap<String, String>) {
    for (key, property) in section["properties"].as_object().unwrap() {
        let path = if way.is_empty() { key.clone() } else { format!("{way}.{key}") };
        let (target, header, below) = if let Some(target) = reference(property) {
            (target, format!("[{path}]"), path)
        } else if let Some(target) = reference(&property["items"]) {
            (target, format!("[[{path}]]"), path)
        } else if let Some(target) = reference(&property["additionalProperties"]) {
            (target, format!("[{path}.NAME]"), format!("{path}.NAME"))
        } else {
            continue;
        };
        // The sections of [defaults] are those of a route.
        let first = !found.contains_key(target) || found[target].starts_with("[defaults");
        if first {
            found.insert(target.to_owned(), header);
            collect(schema, &schema["$defs"][target], &below, found);
        }
    }
}

fn reference(property: &Value) -> Option<&str> {
    property["$ref"].as_str()?.strip_prefix("#/$defs/")
}

fn kind(property: &Value) -> String {
    if let Some(words) = property["enum"].as_array() {
        return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    if reference(property).is_some() {
        return "section".to_owned();
    }
    if let Some(title) = property["title"].as_str() {
        return title.to_owned();
    }
    if let Some(choices) = property["anyOf"].as_array() {
        return kind(&choices[0]);
    }
    match property["type"].as_str() {
        Some("array") if reference(&property["items"]).is_some() => "sections".to_owned(),
        Some("array") => format!("list: {}", kind(&property["items"])),
        Some("object") => "named sections".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("integer") => "number".to_owned(),
        Some("string") => "text".to_owned(),
        other => panic!("{other:?} in {property}"),
    }
}

fn table(section: &Value, header: &str) -> String {
    let heading = if header.is_empty() { "At the top of the file" } else { header };
    let heading = if header.is_empty() { heading.to_owned() } else { format!("`{heading}`") };
    let mut text = format!("{heading}: {}\n\n", section["description"].as_str().unwrap());
    text.push_str("| key | value | default | what it is |\n|---|---|---|---|\n");
    for key in section["x-order"].as_array().unwrap() {
        let key = key.as_str().unwrap();
        let property = &section["properties"][key];
        let default = property.get("default").map_or_else(String::new, |default| format!("`{default}`"));
        let description = property["description"].as_str().unwrap().replace('|', "\\|");
        let _ = writeln!(text, "| `{key}` | {} | {default} | {description} |", kind(property));
    }
    text
}

/// The document with each table between its marker and the next line that begins a paragraph of its own.
fn filled(document: &str, schema: &Value) -> String {
    let headers = headers(schema);
    let mut text = String::new();
    let mut lines = document.lines().peekable();
    while let Some(line) = lines.next() {
        text.push_str(line);
        text.push('\n');
        let Some(name) = line.strip_prefix("<!-- table: ").and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        let section = if name == "TidegateConfig" { schema } else { &schema["$defs"][name] };
        let header = headers.get(name).unwrap_or_else(|| panic!("there is no section {name}"));
        let _ = write!(text, "\n{}<!-- end -->\n", table(section, header));
        let rest: Vec<&str> = lines.clone().take_while(|line| !line.starts_with("<!-- table: ")).collect();
        if let Some(end) = rest.iter().position(|line| *line == "<!-- end -->") {
            lines.nth(end);
        }
    }
    text
}

#[test]
fn the_reference_has_the_tables_of_the_schema() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let schema = json_schema();
    let document = std::fs::read_to_string(path).unwrap();
    let expected = filled(&document, &schema);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &expected).unwrap();
    } else {
        assert!(document == expected, "docs/configuration.md is stale: run again with UPDATE_DOCS=1");
    }
    for name in schema["$defs"].as_object().unwrap().keys() {
        assert!(expected.contains(&format!("<!-- table: {name} -->")), "the section {name} has no table");
    }
}

#[test]
fn the_reference_names_every_variable() {
    let document = include_str!("../../../docs/configuration.md");
    for variable in tidegate_rules::VARIABLES {
        let written = format!("`{{{}}}`", variable.as_str());
        assert!(document.contains(&written), "{written} is not explained");
    }
}
