//! The exposition is what Prometheus accepts, and the documentation is the catalogue's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashSet};

use tidegate_metrics::{
    CATALOGUE, ConnectError, DropReason, EventLabel, Metrics, Outcome, ProcessStats, StateChange, StatusClass, markdown,
};
use tidegate_types::{CloseReason, TenantId};

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// A strict reader of OpenMetrics text 1.0 as far as the encoder writes it: each family's samples follow its TYPE,
/// every name has the suffix of its type, labels are well-formed and unescaped, the last line is `# EOF`.
fn read(text: &str) -> BTreeMap<String, (String, Vec<Sample>)> {
    let mut families: BTreeMap<String, (String, Vec<Sample>)> = BTreeMap::new();
    let mut current = String::new();
    let mut lines = text.split_terminator('\n').peekable();
    assert!(text.ends_with("# EOF\n"));
    let mut seen = HashSet::new();
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            assert!(lines.peek().is_none(), "text after # EOF");
            return families;
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.') && !help.ends_with(".."), "{line}");
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "TYPE follows HELP");
            assert!(families.insert(name.to_owned(), (kind.to_owned(), Vec::new())).is_none(), "{name} twice");
        } else {
            let sample = sample(line);
            assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "{line} twice");
            let (kind, samples) = families.get_mut(&current).unwrap();
            let suffix = sample.name.strip_prefix(&current).unwrap_or_else(|| panic!("{line} outside its family"));
            let allowed: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("unexpected type {other}"),
            };
            assert!(allowed.contains(&suffix), "{line}");
            samples.push(sample);
        }
    }
    panic!("no # EOF");
}

fn sample(line: &str) -> Sample {
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (key, tail) = rest.split_once("=\"").unwrap();
            assert!(is_name(key), "{line}");
            let mut value = String::new();
            let mut chars = tail.char_indices();
            let end = loop {
                match chars.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next().unwrap().1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        other => panic!("escape {other} in {line}"),
                    }),
                    (_, c) => value.push(c),
                }
            };
            assert!(labels.iter().all(|(known, _)| known != key), "{line}");
            labels.push((key.to_owned(), value));
            rest = &tail[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap();
    }
    let value = rest.strip_prefix(' ').unwrap().parse().unwrap();
    Sample { name: name.to_owned(), labels, value }
}

fn tenant(name: &str) -> TenantId {
    TenantId::try_from(name).unwrap()
}

/// Touches every family once.
fn used() -> std::sync::Arc<Metrics> {
    let metrics = Metrics::new();
    let acme = metrics.tenant(&tenant("acme"));
    acme.connections.inc();
    acme.connected.inc();
    for event in EventLabel::ALL {
        acme.sent(*event).inc_by(2);
        acme.received(*event).inc();
        acme.latency_ms(*event).observe(3.0);
    }
    acme.dropped(DropReason::OutboxFull).inc();
    acme.disconnected(CloseReason::SlowConsumer);
    metrics.error(&acme, "room", "NOT_IN_ROOM");
    let route = metrics.route_to("api", "backend");
    route.answered(204);
    for class in StatusClass::ALL {
        route.duration_seconds(*class).observe(0.2);
        route.ttfb_seconds(*class).observe(0.1);
    }
    let server = metrics.server("api", "127.0.0.1:3000");
    server.requests(Outcome::Response).inc();
    server.connect_errors(ConnectError::Refused).inc();
    metrics.state_changes("api").count(Some("127.0.0.1:3000"), StateChange::ProbeDown);
    metrics.upstream("api").retries.inc();
    metrics
}

#[test]
fn the_exposition_is_well_formed_and_holds_every_name_of_the_catalogue() {
    for metrics in [Metrics::new(), used()] {
        let families = read(&metrics.encode());
        assert_eq!(families.len(), CATALOGUE.len());
        for entry in CATALOGUE {
            let family = entry.name.strip_suffix("_total").unwrap_or(entry.name);
            let (kind, samples) = &families[family];
            assert_eq!(kind, entry.kind, "{}", entry.name);
            assert_eq!(entry.kind == "counter", entry.name.ends_with("_total"), "{}", entry.name);
            for sample in samples {
                let keys: Vec<&str> =
                    sample.labels.iter().map(|(key, _)| key.as_str()).filter(|key| *key != "le").collect();
                assert_eq!(keys, entry.labels, "{}", entry.name);
            }
        }
    }
}

#[test]
fn the_names_and_labels_of_the_rooms_api_are_exact() {
    let expected: &[(&str, &[&str])] = &[
        ("websocket_active_connections", &["tenant", "status"]),
        ("websocket_connections_total", &["tenant"]),
        ("websocket_active_rooms", &["tenant"]),
        ("websocket_room_subscriptions", &["tenant"]),
        ("websocket_messages_sent_total", &["tenant", "event"]),
        ("websocket_messages_received_total", &["tenant", "event"]),
        ("websocket_message_latency_ms", &["tenant", "event"]),
        ("websocket_errors_total", &["tenant", "type", "code"]),
        ("websocket_disconnections_total", &["tenant", "reason"]),
        ("websocket_messages_dropped_total", &["tenant", "reason"]),
        ("websocket_messages_persisted_total", &["tenant"]),
        ("websocket_auth_failures_total", &["reason"]),
        ("websocket_rate_limit_hits_total", &["tenant", "type"]),
        ("websocket_redis_latency_ms", &["operation"]),
        ("websocket_event_loop_lag_ms", &[]),
    ];
    for (name, labels) in expected {
        let entry = CATALOGUE.iter().find(|entry| entry.name == *name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(entry.labels, *labels, "{name}");
    }
    let text = used().encode();
    assert!(text.contains("websocket_messages_sent_total{tenant=\"acme\",event=\"room:message\"} 2\n"), "{text}");
    assert!(!text.contains("_total_total"));
    for bound in ["1.0", "5.0", "2500.0", "5000.0", "+Inf"] {
        let line = format!("websocket_message_latency_ms_bucket{{le=\"{bound}\",tenant=\"acme\",event=\"room:send\"}}");
        assert!(text.contains(&line), "{line}");
    }
}

#[test]
fn a_tenant_with_quotes_and_backslashes_stays_one_label() {
    let metrics = Metrics::new();
    let name = "a\"} 1\\ü,b=\"";
    metrics.tenant(&tenant(name)).connections.inc();
    let families = read(&metrics.encode());
    let (_, samples) = &families["websocket_connections"];
    assert_eq!(samples.len(), 1);
    assert_eq!(samples[0].labels, [("tenant".to_owned(), name.to_owned())]);
    assert!((samples[0].value - 1.0).abs() < f64::EPSILON);
}

#[test]
fn tenants_beyond_the_limit_share_one_label() {
    let metrics = Metrics::with_tenant_limit(3);
    for index in 0..50 {
        metrics.tenant(&tenant(&format!("t{index}"))).connections.inc();
        metrics.tenant(&tenant("t1")).connections.inc();
    }
    let families = read(&metrics.encode());
    let mut counts: Vec<(String, u64)> =
        families["websocket_connections"].1.iter().map(|s| (s.labels[0].1.clone(), s.value as u64)).collect();
    counts.sort();
    // t1 is known before t2 comes, and stays known.
    let expected = [("other", 47), ("t0", 1), ("t1", 51), ("t2", 1)];
    assert_eq!(counts, expected.map(|(name, count)| (name.to_owned(), count)));
}

#[test]
fn names_of_events_that_clients_make_up_become_other() {
    assert_eq!(EventLabel::of("room:message"), EventLabel::RoomMessage);
    assert_eq!(EventLabel::of("room:message\"} 1"), EventLabel::Other);
    assert_eq!(EventLabel::of(""), EventLabel::Other);
}

#[test]
fn latencies_are_told_apart_by_route_upstream_and_class_and_only_those_that_occur_have_series() {
    let metrics = Metrics::new();
    let route = metrics.route_to("api", "backend");
    metrics.route("redirect").ttfb_seconds(StatusClass::Redirection).observe(0.001);
    for seconds in [0.1, 0.3] {
        route.ttfb_seconds(StatusClass::Success).observe(seconds);
    }
    let families = read(&metrics.encode());
    let (_, samples) = &families["tidegate_http_ttfb_seconds"];
    let counts: Vec<_> = samples.iter().filter(|sample| sample.name.ends_with("_count")).collect();
    let told: HashSet<_> = counts
        .iter()
        .map(|sample| (sample.labels.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), sample.value as u64))
        .collect();
    let expected = [(vec!["api", "backend", "2xx"], 2), (vec!["redirect", "none", "3xx"], 1)];
    assert_eq!(told, HashSet::from(expected));
    assert!(families["tidegate_http_request_duration_seconds"].1.is_empty());
}

#[test]
fn process_figures_are_stored_as_given() {
    let metrics = Metrics::new();
    let stats = ProcessStats { cpu_seconds: 1.5, resident_bytes: 4096, open_fds: 7, ..ProcessStats::default() };
    metrics.set_process(stats);
    metrics.set_process(stats);
    let text = metrics.encode();
    assert!(text.contains("tidegate_process_cpu_seconds_total 1.5\n"), "{text}");
    assert!(text.contains("tidegate_process_resident_bytes 4096\n"));
    assert!(text.contains("tidegate_process_open_fds 7\n"));
    assert!(text.contains("tidegate_build_info{version=\""));
}

#[test]
fn docs_are_those_of_the_catalogue() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let expected = markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == expected, "docs/metrics.md is stale: run again with UPDATE_DOCS=1");
    for entry in CATALOGUE {
        for label in entry.labels {
            assert!(expected.contains(&format!("\n| `{label}` | ")), "label {label} is not explained");
        }
    }
}
