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
    ("[client]", "Client"),
    ("[[listener]]", "Listener"),
    ("[listener.tls]", "ListenerTls"),
    ("[[listener.tls.certificates]]", "Certificate"),
    ("[admin]", "Admin"),
    ("[upstream.x]", "Upstream"),
    ("[upstream.x.sticky]", "Sticky"),
    ("[upstream.x.tls]", "UpstreamTls"),
    ("[upstream.x.health]", "Health"),
    ("[upstream.x.outlier]", "Outlier"),
    ("[upstream.x.breaker]", "Breaker"),
    ("[upstream.x.retry]", "Retry"),
    ("[[upstream.x.server]]", "Server"),
    ("[limit.x]", "Limit"),
    ("[admission]", "Admission"),
    ("[jwt]", "Jwt"),
    ("[defaults]", "Defaults"),
    ("[[route]]", "Route"),
    ("[route.respond]", "Respond"),
    ("[[route.limit]]", "RouteLimit"),
    ("[route.security]", "Security"),
    ("[route.cors]", "Cors"),
    ("[route.request_headers]", "RequestHeaders"),
    ("[route.response_headers]", "ResponseHeaders"),
    ("[route.websocket]", "WebSocket"),
    ("[route.sse]", "EventStream"),
    ("[realtime]", "Realtime"),
    ("[realtime.auth]", "Auth"),
    ("[[realtime.auth.api_keys]]", "ApiKey"),
    ("[[realtime.namespace]]", "RealtimeNamespace"),
    ("[[realtime.webhook]]", "Webhook"),
    ("[realtime.interop]", "Interop"),
    ("[realtime.interop.redis_adapter]", "RedisAdapter"),
    ("[realtime.interop.sharded_adapter]", "ShardedAdapter"),
    ("[realtime.interop.streams_adapter]", "StreamsAdapter"),
    ("[dialect.a]", "Dialect"),
    ("[dialect.a.codes]", "Codes"),
    ("[dialect.a.limits]", "DialectLimits"),
    ("[dialect.a.refusal]", "Refusal"),
    ("[dialect.a.connect]", "Moment"),
    ("[[dialect.a.connect.do]]", "Step"),
    ("[dialect.a.presence]", "DialectPresence"),
    ("[dialect.a.presence.join]", "Told"),
    ("[dialect.a.event.b]", "Event"),
    ("[dialect.a.event.b.payload.c]", "Field"),
    ("[cluster]", "Cluster"),
    ("[cluster.redis_tls]", "RedisTls"),
    ("[cluster.internal_tls]", "InternalTls"),
    ("[store]", "Store"),
    ("[log]", "Log"),
    ("[trace]", "Trace"),
    ("[reload]", "Reload"),
    ("[drain]", "Drain"),
];

/// The array of tables that a section lies in, if it does.
fn parent(header: &str) -> &'static str {
    match header {
        header if header.contains("listener.") => "[[listener]]\n",
        header if header.contains("route.") => "[[route]]\n",
        _ => "",
    }
}

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
            let found = problems(&format!("{}{header}\n{key} = 1\n", parent(header)));
            assert!(!found.contains("unknown key"), "{header} {key}: {found}");
        }
        let found = problems(&format!("{}{header}\nxyzzy = 1\n", parent(header)));
        assert!(found.contains(":1: unknown key \"xyzzy\""), "{header}: {found}");
    }
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_reader() {
    let schema = json_schema();
    // What has no default and must be there, or can be there only once.
    let needed = [
        ("[listener.tls]", "certificate = \"c\"\nkey = \"k\""),
        ("[upstream.x]", "servers = [\"a:1\"]"),
        ("[upstream.x.sticky]", "cookie = \"c\""),
        ("[limit.x]", "rate = \"1r/s\""),
        ("[jwt]", "secret = \"0123456789abcdef0123456789abcdef\""),
        // Off, it would contradict the section of its values.
        ("[[route]]", "upstream = \"x\"\nsecurity_headers = true"),
        ("[route.cors]", "origins = [\"*\"]"),
        ("[realtime.auth]", "jwt_secret = \"0123456789abcdef0123456789abcdef\""),
        ("[[realtime.namespace]]", "name = \"/x\"\ndialect = \"a\""),
        (
            "[[realtime.webhook]]",
            "name = \"w\"\nurl = \"http://x\"\nsecret = \"0123456789abcdef\"\nevents = [\"join\"]",
        ),
        ("[[dialect.a.connect.do]]", "emit = \"e\""),
        ("[dialect.a.presence.join]", "event = \"e\"\ndata = 1"),
        ("[dialect.a.event.b.payload.c]", "type = \"any\""),
        ("[realtime.interop]", "redis = \"redis://r\""),
        ("[realtime.interop.redis_adapter]", "namespaces = [\"/\"]"),
        ("[realtime.interop.sharded_adapter]", "namespaces = [\"/a\"]"),
        ("[realtime.interop.streams_adapter]", "namespaces = [\"/b\"]"),
        ("[cluster]", "redis = \"rediss://r\"\nsecret = \"0123456789abcdef0123456789abcdef\""),
        ("[cluster.internal_tls]", "ca = \"a\"\ncertificate = \"c\"\nkey = \"k\"\nserver_name = \"n\""),
        ("[store]", "path = \"d\""),
    ];
    let without = ["Server", "ApiKey", "Certificate", "Respond", "RouteLimit"];
    let (mut least, mut full) = (String::new(), String::new());
    for (header, name) in SECTIONS.iter().filter(|(_, name)| !without.contains(name)) {
        full.push_str(&format!("{header}\n"));
        let needs = needed.iter().find(|(needed, _)| needed == header).map(|(_, lines)| *lines);
        let is_needed =
            |key: &str| needs.is_some_and(|lines| lines.lines().any(|line| line.starts_with(&format!("{key} = "))));
        for (key, property) in section(&schema, name)["properties"].as_object().unwrap() {
            // Given together with fsync = "always", the interval would be a contradiction.
            if let Some(default) = property.get("default").filter(|_| key != "fsync_interval" && !is_needed(key)) {
                full.push_str(&format!("{key} = {default}\n"));
            }
        }
        // These are there or not; their keys are another matter.
        let switches = header.starts_with("[upstream.x.")
            || header.starts_with("[route.")
            || ["[trace]", "[jwt]", "[listener.tls]"].contains(header);
        if needs.is_some() || switches || header.starts_with("[[") {
            least.push_str(&format!("{header}\n"));
        }
        if let Some(lines) = needs {
            least.push_str(&format!("{lines}\n"));
            full.push_str(&format!("{lines}\n"));
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
                let found = problems(&format!("{}{header}\n{key} = {value}\n", parent(header)));
                assert!(!found.contains("must be one of"), "{key} = {value}: {found}");
            }
        }
    }
}
